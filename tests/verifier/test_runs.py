"""Runs: the verifier goes on alone after a verdict, and says all of it together."""

from __future__ import annotations

import pytest

from schemas.messages import Refusal, Sampling, StopRules, Verdict
from tests.verifier.bench import END, MAX_TOKENS, PROMPT, SESSION, TEXT, bundle, context, serving, verdict
from verifier.ledger import Hint, Tally


@pytest.mark.parametrize("draft", [(), TEXT[:3], (TEXT[0], 99)], ids=["empty", "right", "wrong"])
def test_run_follows_the_verdict_and_comes_with_it(draft: tuple[int, ...]) -> None:
    bench = serving()
    bench.bundle(bundle(1, draft, run=4))
    answers = [bench.step() for _ in range(5)]
    accepted = 3 if draft == TEXT[:3] else len(draft[:1])
    assert answers[:4] == [[]] * 4
    assert answers[4] == [verdict(1, TEXT[: accepted + 1 + 4], accepted=accepted)]
    assert list(bench.ledger.ready()) == []


def test_each_token_of_a_run_is_a_step_of_its_own_at_its_output_position() -> None:
    bench = serving()
    bench.bundle(bundle(1, TEXT[:2], run=2))
    first = bench.start()
    assert (first.sequence, first.choose, first.position) == ((*PROMPT, *TEXT[:2]), 3, 0)
    bench.complete(first)
    second = bench.start()
    assert (second.sequence, second.choose, second.position, second.round) == ((*PROMPT, *TEXT[:3]), 1, 3, 1)
    assert list(bench.ledger.ready()) == []


def test_run_ends_with_the_text() -> None:
    text = (*TEXT[:3], END)
    bench = serving(text=text)
    bench.bundle(bundle(1, run=100))
    answers = [bench.step() for _ in range(4)]
    assert answers[3] == [verdict(1, text, finish="stop")]


def test_run_ends_at_the_token_limit() -> None:
    bench = serving(max_tokens=5, stop=StopRules(ignore_end=True))
    bench.bundle(bundle(1, run=100))
    answers = [bench.step() for _ in range(5)]
    assert answers[4] == [verdict(1, TEXT[:5], finish="length")]


def test_newer_bundle_cuts_a_run_short() -> None:
    bench = serving()
    bench.bundle(bundle(1, run=10))
    bench.step()
    running = bench.start()
    bench.bundle(bundle(2, TEXT[:4]))
    (first,) = bench.complete(running)
    assert first == verdict(1, TEXT[:2])
    assert bench.step() == [verdict(2, TEXT[:5], accepted=4)]


def test_bundle_that_the_run_has_already_answered_is_answered_from_the_log() -> None:
    bench = serving()
    bench.bundle(bundle(1, run=10))
    bench.step()
    running = bench.start()
    assert bench.bundle(bundle(2, (99,))) == [verdict(2, TEXT[:1])]
    assert bench.complete(running) == [], "the run goes on"
    assert bench.bundle(bundle(3, after=TEXT[:1])) == [verdict(3, TEXT[1:2], after=TEXT[:1])]


def test_replaced_entry_forgets_its_run() -> None:
    bench = serving()
    bench.bundle(bundle(1, run=10))
    bench.step()
    running = bench.start()
    bench.context(context(revision=1, committed=TEXT[:1]))
    assert bench.complete(running) == []
    bench.step()
    bench.bundle(bundle(2, after=TEXT[:1], revision=1))
    assert bench.step() == [verdict(2, TEXT[1:2], after=TEXT[:1])]


def test_failed_step_of_a_run_is_refused_and_keeps_what_was_written() -> None:
    bench = serving()
    bench.bundle(bundle(1, run=10))
    bench.step()
    (refusal,) = bench.heard(bench.ledger.fail(bench.start(), "broken"))
    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.round) == ("engine_failed", 1)
    assert refusal.retry_after
    # What the run wrote before it failed is in the log, so that a resend continues it.
    bench.bundle(bundle(2, TEXT[:1]))
    assert bench.step() == [verdict(2, TEXT[:2], accepted=1)]


def test_resend_without_a_draft_is_answered_from_the_log_first() -> None:
    bench = serving()
    bench.bundle(bundle(1, TEXT[:2]))
    bench.step()
    (said,) = bench.bundle(bundle(2, run=5))
    assert isinstance(said, Verdict)
    assert said.tokens == TEXT[:3]


def test_tally_counts_runs_apart() -> None:
    bench = serving()
    bench.bundle(bundle(1, (TEXT[0], 99), run=3))
    for _ in range(4):
        bench.step()
    bench.bundle(bundle(2, TEXT[5:7], after=TEXT[:5]))
    bench.step()
    assert bench.ledger.tally == Tally(rounds=2, drafted=4, accepted=3, corrected=1, committed=8, generated=3)


def test_hint_goes_with_the_verdict() -> None:
    bench = serving()
    bench.bundle(bundle(1))
    (said,) = bench.heard(bench.ledger.complete(bench.start(), TEXT[:1], 0.0, 0.0, Hint(7, 3)))
    assert said == verdict(1, TEXT[:1], draft_hint=7, run_hint=3)


def test_work_says_how_to_choose_and_where() -> None:
    bench = serving()
    bench.context(context(revision=1, temperature=0.7, committed=TEXT[:4]))
    bench.step()
    bench.bundle(bundle(1, TEXT[4:6], after=TEXT[:4], revision=1))
    work = bench.start()
    assert work.key.session == SESSION
    assert (work.sampling, work.position, work.choose) == (Sampling(0.7), 4, 3)
    assert len(TEXT) == MAX_TOKENS


def test_token_of_a_run_waits_since_the_one_before_it() -> None:
    bench = serving()
    bench.now = 1.0
    bench.bundle(bundle(1, run=5))
    bench.now = 3.0
    bench.step()
    (work,) = bench.ledger.ready()
    assert (work.received, work.since) == (1.0, 3.0)
