"""The verifier's half of every session, read as its specification.

`bench.py` sets the scene: the target writes 21, 22, 23, … after a prompt of three tokens, an answer of at most 20.
"""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from schemas.limits import MAX_CONTEXT_TOKENS, MAX_VERDICT_TOKENS
from schemas.messages import Epoch, Refusal, SessionContext, StopRules, Verdict
from tests.verifier.bench import (
    CONTEXT_LENGTH,
    DEVICE,
    END,
    KEY,
    NONCE,
    OTHER_NONCE,
    PROMPT,
    SESSION,
    TEXT,
    TOKENIZER,
    VOCABULARY,
    Bench,
    bundle,
    context,
    resync,
    serving,
    verdict,
)
from verifier.admission import Target
from verifier.backpressure import Busy, draining
from verifier.ledger import (
    IDLE,
    MEMORY_OF_TURNED_AWAY,
    MOST_FAILURES,
    PATIENCE,
    RESYNC_BACKOFF,
    RESYNC_BACKOFF_MOST,
    RETRY_AFTER,
    RETRY_AFTER_MOST,
    Key,
    Ledger,
    Work,
)

EPOCH = Epoch(1, NONCE)

# Contexts -------------------------------------------------------------------------------------------------------------


def test_context_of_an_own_session_offers_to_fill_its_cache_up_to_the_last_token() -> None:
    """The last token is fed by the first bundle, since logits are not cached."""
    bench = Bench()
    assert bench.context(context(committed=TEXT[:2])) == []
    assert len(bench.ledger) == 1
    assert list(bench.ledger.ready()) == [Work(KEY, EPOCH, 0, (*PROMPT, *TEXT[:1]), 0, math.inf, math.inf, math.inf)]


def test_context_fills_the_cache_only_once() -> None:
    bench = serving()
    assert list(bench.ledger.ready()) == []


def test_context_of_one_token_has_no_cache_to_fill() -> None:
    bench = Bench()
    bench.context(context(prompt=(11,)))
    assert list(bench.ledger.ready()) == []


def test_context_of_another_owner_is_only_noted() -> None:
    bench = Bench()
    assert bench.context(context(owner="v1")) == []
    assert len(bench.ledger) == 0
    assert list(bench.ledger.ready()) == []
    # The note is good for one thing: it knows a stale epoch.
    bench.context(context(5, owner="v1"))
    assert bench.bundle(bundle(1)) == [resync("stale_epoch", known=Epoch(5, NONCE))]


def test_context_of_which_it_is_to_be_the_next_owner_is_read_ahead() -> None:
    """So that the first round here has little left to read; what was read is not released in between."""
    bench = Bench(capacity=1)
    leaving = context(owner="v1", successor="v0", committed=TEXT[:2])
    assert bench.context(leaving) == []
    assert bench.start().sequence == (*PROMPT, *TEXT[:1])
    assert bench.context(leaving) == [], "said again"
    assert bench.ledger.live == 0, "it is another's"
    assert bench.context(context(revision=1, owner="v1", successor="v0", committed=TEXT[:2])) == []
    assert bench.context(context(2, committed=TEXT[:3])) == [], "its place was kept for it"
    assert bench.released == []
    bench.bundle(bundle(1, after=TEXT[:3], epoch=2))
    assert bench.start().sequence == (*PROMPT, *TEXT[:3])


def test_context_that_was_read_ahead_in_vain_is_released() -> None:
    for elsewhere in (context(revision=1, owner="v1"), context(2, owner="v1"), context(2, owner="v2", successor="v1")):
        bench = Bench()
        bench.context(context(owner="v1", successor="v0"))
        assert bench.context(elsewhere) == []
        assert bench.released == [KEY]
        assert list(bench.ledger.ready()) == []


def test_context_is_not_read_ahead_where_it_could_not_be_served_now() -> None:
    """Nobody has asked this verifier for anything yet, so nobody is refused."""
    full = Bench(capacity=1)
    full.context(context(session=b"session2"))
    full.step()
    unfit = Bench()
    for bench, leaving in (
        (full, context(owner="v1", successor="v0")),
        (unfit, context(owner="v1", successor="v0", tokenizer="another")),
    ):
        assert bench.context(leaving) == []
        assert list(bench.ledger.ready()) == []
    busy = Bench()
    assert busy.ledger.context(DEVICE, context(owner="v1", successor="v0"), 0.0, draining("v0")) == []
    assert list(busy.ledger.ready()) == []


def test_context_that_moves_to_another_owner_releases_the_session() -> None:
    bench = serving()
    bench.context(context(2, owner="v1"))
    assert len(bench.ledger) == 0
    assert bench.released == [KEY]


def test_context_that_comes_back_from_another_owner_is_served() -> None:
    bench = serving()
    bench.context(context(2, owner="v1"))
    bench.context(context(3))
    assert len(bench.ledger) == 1


def test_context_of_a_higher_revision_replaces_the_log_whole() -> None:
    """The agent's word on what is committed wins."""
    bench = serving()
    bench.bundle(bundle(1, TEXT[:2]))
    bench.step()
    bench.context(context(revision=1, committed=(21,)))
    assert bench.bundle(bundle(2, after=TEXT[:3], revision=1)) == [
        resync("base_ahead", number=2, revision=1, known=EPOCH)
    ]
    bench.bundle(bundle(3, after=(21,), revision=1))
    assert bench.step() == [verdict(3, (22,), after=(21,))]


def test_context_of_a_higher_epoch_replaces_the_log_whole_whatever_its_revision() -> None:
    bench = Bench()
    bench.context(context(1, revision=7, committed=TEXT[:3]))
    bench.context(context(2, committed=(99,)))
    bench.bundle(bundle(1, after=(99,), epoch=2))
    assert bench.step() == [verdict(1, (22,), after=(99,), epoch=2)]


@pytest.mark.parametrize(
    "old",
    [
        context(3, revision=2, committed=(99,)),
        context(3, revision=1, committed=(99,)),
        context(2, revision=9, committed=(99,)),
        context(2, revision=9, owner="v1"),
        context(3, revision=9, committed=(99,), nonce=OTHER_NONCE),
    ],
    ids=["same revision", "older revision", "older epoch", "older epoch, other owner", "same epoch of another boot"],
)
def test_context_that_is_not_newer_is_ignored(old: SessionContext) -> None:
    bench = Bench()
    bench.context(context(3, revision=2, committed=(21,)))
    assert bench.context(old) == []
    bench.bundle(bundle(1, after=(21,), epoch=3, revision=2))
    assert bench.step() == [verdict(1, (22,), after=(21,), epoch=3)]


def test_context_of_the_same_session_id_of_another_device_is_another_session() -> None:
    bench = serving()
    bench.context(context(9, committed=(99,)), device="jetson")
    assert len(bench.ledger) == 2
    bench.bundle(bundle(1))
    (work, _) = bench.ledger.ready()
    assert work.key == KEY


UNSERVABLE = [
    pytest.param(
        context(tokenizer="0ddba11"),
        "tokenizer_mismatch",
        f"the device's tokenizer (0ddba11) is not the target's ({TOKENIZER}): "
        "set the device up with the tokenizer of this target",
        id="tokenizer",
    ),
    pytest.param(context(prompt=()), "empty_prompt", "the prompt has no tokens: ask something", id="empty prompt"),
    pytest.param(
        context(max_tokens=CONTEXT_LENGTH - len(PROMPT) + 1),
        "prompt_too_long",
        f"a prompt of 3 tokens and an answer of 62 do not fit the target's context of {CONTEXT_LENGTH} tokens: "
        "shorten the prompt or ask for fewer tokens",
        id="too long",
    ),
    pytest.param(
        context(prompt=(11, VOCABULARY, 13)),
        "token_out_of_vocabulary",
        f"token {VOCABULARY} is not in the target's vocabulary of {VOCABULARY}: "
        "the drafter or its tokenizer is not the target's",
        id="vocabulary",
    ),
]


@pytest.mark.parametrize(("message", "code", "sentence"), UNSERVABLE)
def test_context_that_cannot_be_served_is_refused_in_words_and_for_good(
    message: SessionContext, code: str, sentence: str
) -> None:
    bench = Bench()
    (refusal,) = bench.context(message)
    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.sentence) == (code, sentence)
    assert (refusal.session, refusal.epoch, refusal.round, refusal.retry_after) == (SESSION, EPOCH, None, 0)
    assert list(bench.ledger.ready()) == []
    (again,) = bench.bundle(bundle(4))
    assert isinstance(again, Refusal)
    assert (again.code, again.sentence, again.round) == (code, sentence, 4)


def test_context_with_a_committed_token_out_of_vocabulary_is_refused() -> None:
    (refusal,) = Bench().context(context(committed=(21, VOCABULARY)))
    assert isinstance(refusal, Refusal)
    assert refusal.code == "token_out_of_vocabulary"


def test_context_that_just_fits_is_served() -> None:
    assert Bench().context(context(max_tokens=CONTEXT_LENGTH - len(PROMPT))) == []


def test_context_beyond_capacity_is_refused_for_now() -> None:
    bench = Bench(capacity=1)
    bench.context(context())
    (refusal,) = bench.context(context(session=b"session2"))
    assert isinstance(refusal, Refusal)
    assert refusal.code == "overloaded"
    assert refusal.sentence == "verifier 'v0' already serves its 1 sessions: try again later"
    assert refusal.retry_after == RETRY_AFTER
    assert len(bench.ledger) == 1


def test_context_beyond_capacity_is_served_once_another_session_has_ended() -> None:
    bench = Bench(capacity=1)
    bench.context(context())
    bench.context(context(session=b"session2"))
    bench.clear()
    assert bench.context(context(session=b"session2", revision=1)) == []


def test_context_newer_of_a_session_that_is_served_needs_no_room() -> None:
    bench = Bench(capacity=1)
    bench.context(context())
    assert bench.context(context(2)) == []


def test_context_beyond_capacity_takes_the_place_of_the_session_silent_longest() -> None:
    bench = Bench(capacity=2)
    bench.context(context())
    bench.now = 1.0
    bench.context(context(session=b"session2"))
    bench.now = 30.0
    bench.bundle(bundle(1))
    bench.now = 1.0 + IDLE
    assert bench.context(context(session=b"session3")) == []
    assert bench.released == [Key(DEVICE, b"session2")]
    assert len(bench.ledger) == 2


def test_context_of_a_session_that_lost_its_place_is_asked_for_and_served_again() -> None:
    bench = Bench(capacity=1)
    bench.context(context())
    bench.now = IDLE
    bench.context(context(session=b"session2"))
    bench.clear(b"session2")
    bench.bundle(bundle(1))
    assert bench.tick(IDLE + PATIENCE) == [resync("unknown_session")]
    assert bench.context(context(revision=1)) == []


# Bundles that come before their context -------------------------------------------------------------------------------


def test_bundle_before_its_context_waits_for_it() -> None:
    """MQTT keeps no order across topics."""
    bench = Bench()
    assert bench.bundle(bundle(1, TEXT[:2])) == []
    assert bench.ledger.next_tick() == PATIENCE
    assert bench.tick(PATIENCE - 0.01) == []
    assert bench.context(context()) == []
    assert bench.ledger.next_tick() is None
    assert bench.step() == [verdict(1, TEXT[:3], accepted=2, queue_time=490_000)]


def test_bundle_before_its_revision_waits_for_it() -> None:
    bench = serving()
    assert bench.bundle(bundle(1, revision=1)) == []
    assert list(bench.ledger.ready()) == []
    assert bench.context(context(revision=1)) == []
    assert bench.step() == [verdict(1, TEXT[:1])]


def test_bundle_without_context_is_answered_by_a_resync_after_its_patience() -> None:
    bench = Bench()
    bench.bundle(bundle(1))
    assert bench.tick(PATIENCE) == [resync("unknown_session")]
    assert bench.ledger.next_tick() is None
    assert bench.tick(10.0) == []


def test_bundle_without_its_revision_is_answered_by_a_resync_after_its_patience() -> None:
    bench = serving()
    bench.bundle(bundle(1, revision=3))
    assert bench.tick(PATIENCE) == [resync("unknown_revision", revision=3, known=EPOCH)]


def test_bundle_of_a_newer_epoch_waits_for_its_context() -> None:
    bench = serving()
    assert bench.bundle(bundle(1, epoch=2)) == []
    assert bench.context(context(2)) == []
    assert bench.step() == [verdict(1, TEXT[:1], epoch=2)]


def test_bundle_newer_takes_the_place_of_the_one_parked_but_not_its_patience() -> None:
    bench = Bench()
    bench.bundle(bundle(1))
    bench.now = 0.3
    bench.bundle(bundle(2, TEXT[:2]))
    bench.bundle(bundle(1))
    assert bench.tick(PATIENCE) == [resync("unknown_session", number=2)]


def test_bundle_parked_is_forgotten_when_memory_is_full() -> None:
    bench = Bench(memory=2)
    for number in (1, 2, 3):
        bench.bundle(bundle(1, session=number.to_bytes(8, "big")))
    assert [message.session for message in bench.tick(PATIENCE)] == [number.to_bytes(8, "big") for number in (2, 3)]


def test_resync_is_repeated_only_after_a_growing_delay() -> None:
    """At most one is outstanding, however often the agent sends again."""
    bench = serving()
    ahead = bundle(1, after=(*TEXT[:2],))
    asked = []
    for tenth in range(200):
        bench.now = tenth / 10
        asked += [bench.now] * len(bench.bundle(ahead))
    gaps = [later - earlier for earlier, later in pairwise(asked)]
    assert gaps == pytest.approx([RESYNC_BACKOFF, 1.0, 2.0, 4.0, RESYNC_BACKOFF_MOST], abs=0.11)


def test_resync_for_a_new_revision_goes_out_at_once() -> None:
    bench = serving()
    bench.bundle(bundle(1, after=TEXT[:2]))
    bench.context(context(revision=1))
    assert bench.bundle(bundle(2, after=TEXT[:2], revision=1)) == [
        resync("base_ahead", number=2, revision=1, known=EPOCH)
    ]


# Bundles that do not fit the log --------------------------------------------------------------------------------------


def test_bundle_ahead_of_the_log_is_answered_by_a_resync() -> None:
    bench = serving()
    assert bench.bundle(bundle(1, after=TEXT[:1])) == [resync("base_ahead", known=EPOCH)]


def test_bundle_of_another_log_is_answered_by_a_resync() -> None:
    bench = serving()
    bench.bundle(bundle(1, TEXT[:2]))
    bench.step()
    assert bench.bundle(bundle(2, after=(21, 99))) == [resync("digest_differs", number=2, known=EPOCH)]


def test_bundle_of_an_older_epoch_is_told_the_one_known() -> None:
    bench = Bench()
    bench.context(context(5))
    assert bench.bundle(bundle(1, epoch=4)) == [resync("stale_epoch", epoch=4, known=Epoch(5, NONCE))]


def test_bundle_of_the_same_epoch_of_another_boot_is_a_conflict() -> None:
    """Two agents believe to be the same device."""
    bench = Bench()
    bench.context(context(5, nonce=OTHER_NONCE))
    assert bench.bundle(bundle(1, epoch=5)) == [resync("epoch_conflict", epoch=5, known=Epoch(5, OTHER_NONCE))]


def test_bundle_with_a_token_out_of_vocabulary_is_refused_for_good() -> None:
    bench = serving()
    (refusal,) = bench.bundle(bundle(1, (21, VOCABULARY)))
    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.round, refusal.retry_after) == ("token_out_of_vocabulary", 1, 0)
    assert "token 100 is not in the target's vocabulary of 100" in refusal.sentence


# One in the engine, one waiting ---------------------------------------------------------------------------------------


def test_bundle_needs_the_model_for_its_draft_and_one_token_more() -> None:
    bench = serving()
    bench.now = 7.0
    assert bench.bundle(bundle(1, TEXT[:2], time_left=2_000_000)) == []
    assert list(bench.ledger.ready()) == [Work(KEY, EPOCH, 0, PROMPT + TEXT[:2], 3, 9.0, 7.0, 7.0, 1)]


def test_bundle_without_patience_named_has_no_deadline() -> None:
    bench = serving()
    bench.bundle(bundle(1))
    (work,) = bench.ledger.ready()
    assert work.deadline == math.inf


def test_bundle_is_answered_with_accepted_tokens_and_correction_and_its_times() -> None:
    bench = serving()
    bench.bundle(bundle(1, (21, 22, 99, 24)))
    bench.now = 0.5
    assert bench.complete(bench.start(), step_time=0.2) == [
        verdict(1, (21, 22, 23), accepted=2, queue_time=300_000, step_time=200_000)
    ]


def test_bundle_goes_before_the_cache_is_filled() -> None:
    bench = Bench()
    bench.context(context())
    bench.bundle(bundle(1, TEXT[:2]))
    assert bench.step() == [verdict(1, TEXT[:3], accepted=2)]
    assert list(bench.ledger.ready()) == []


def test_bundle_takes_over_from_the_cache_filling_it_goes_on_with() -> None:
    """A long prompt filled in chunks beside others must not keep its bundle from its place in the queue."""
    bench = Bench()
    bench.context(context())
    filling = bench.start()
    bench.bundle(bundle(1, TEXT[:2]))
    assert [work.round for work in bench.ledger.ready()] == [1]
    assert bench.complete(filling) == []
    assert bench.step() == [verdict(1, TEXT[:3], accepted=2)]


def test_bundle_newer_replaces_the_waiting_one() -> None:
    bench = serving()
    bench.bundle(bundle(1, TEXT[:2]))
    bench.bundle(bundle(2, TEXT[:3]))
    assert bench.step() == [verdict(2, TEXT[:4], accepted=3)]
    assert list(bench.ledger.ready()) == []


def test_bundle_older_or_repeated_never_replaces_the_waiting_one() -> None:
    bench = serving()
    bench.bundle(bundle(2, TEXT[:3]))
    assert bench.bundle(bundle(2, TEXT[:3])) == []
    assert bench.bundle(bundle(1, TEXT[:2])) == []
    assert bench.step() == [verdict(2, TEXT[:4], accepted=3)]


def test_bundle_repeated_while_it_is_in_the_engine_is_dropped() -> None:
    bench = serving()
    bench.bundle(bundle(1, TEXT[:2]))
    work = bench.start()
    assert bench.bundle(bundle(1, TEXT[:2])) == []
    assert bench.complete(work) == [verdict(1, TEXT[:3], accepted=2)]
    assert list(bench.ledger.ready()) == []


def test_bundle_newer_waits_while_another_is_in_the_engine() -> None:
    bench = serving()
    bench.bundle(bundle(1, TEXT[:2]))
    work = bench.start()
    bench.bundle(bundle(2, TEXT[:5]))
    assert list(bench.ledger.ready()) == []
    assert bench.complete(work) == [verdict(1, TEXT[:3], accepted=2)]
    (rest,) = bench.ledger.ready()
    assert (rest.sequence, rest.choose) == (PROMPT + TEXT[:5], 3)
    assert bench.step() == [verdict(2, TEXT[:6], accepted=5)]


def test_bundle_waiting_is_answered_from_the_log_when_that_has_become_enough() -> None:
    bench = serving()
    bench.bundle(bundle(1, TEXT[:2]))
    work = bench.start()
    bench.bundle(bundle(2, TEXT[:1]))
    assert bench.complete(work) == [verdict(1, TEXT[:3], accepted=2), verdict(2, TEXT[:3], accepted=1)]
    assert list(bench.ledger.ready()) == []


# Answers from the log -------------------------------------------------------------------------------------------------


def test_bundle_repeated_after_its_verdict_gets_the_verdict_again_without_the_engine() -> None:
    """The verdict was lost."""
    bench = serving()
    bench.bundle(bundle(1, (21, 99)))
    (first,) = bench.step()
    assert bench.bundle(bundle(1, (21, 99))) == [first]
    assert bench.bundle(bundle(2, (21, 99))) == [verdict(2, (21, 22), accepted=1)]
    assert list(bench.ledger.ready()) == []


def test_bundle_that_contradicts_the_log_is_answered_with_the_log() -> None:
    bench = serving()
    bench.bundle(bundle(1, TEXT[:4]))
    bench.step()
    assert bench.bundle(bundle(2, (22, 99, 24), after=TEXT[:1])) == [verdict(2, TEXT[1:5], after=TEXT[:1], accepted=1)]


def test_bundle_that_goes_on_where_the_log_ends_needs_the_engine_only_for_the_rest() -> None:
    bench = serving()
    bench.bundle(bundle(1, TEXT[:2]))
    bench.step()
    bench.bundle(bundle(2, TEXT[:5]))
    (work,) = bench.ledger.ready()
    assert (work.sequence, work.choose) == (PROMPT + TEXT[:5], 3)
    assert bench.step() == [verdict(2, TEXT[:6], accepted=5)]


def test_bundle_of_exactly_the_log_needs_one_token_of_the_engine() -> None:
    bench = serving()
    bench.bundle(bundle(1, TEXT[:2]))
    bench.step()
    bench.bundle(bundle(2, TEXT[:3]))
    (work,) = bench.ledger.ready()
    assert work.choose == 1
    assert bench.step() == [verdict(2, TEXT[:4], accepted=3)]


def test_bundle_of_an_earlier_round_is_answered_from_the_log_as_well() -> None:
    """Rounds may come in any order; every answer is true."""
    bench = serving()
    bench.bundle(bundle(2, TEXT[:2]))
    bench.step()
    assert bench.bundle(bundle(1, TEXT[:1])) == [verdict(1, TEXT[:3], accepted=1)]


def test_bundle_of_an_earlier_revision_of_the_epoch_is_served() -> None:
    bench = Bench()
    bench.context(context(revision=3))
    bench.bundle(bundle(1, revision=2))
    assert bench.step() == [verdict(1, TEXT[:1])]


def test_verdict_longer_than_a_message_may_be_is_cut_and_goes_on_in_the_next() -> None:
    text = tuple(1 + i % 99 for i in range(MAX_VERDICT_TOKENS + 10))
    ledger = Ledger("v0", Target(TOKENIZER, VOCABULARY, MAX_CONTEXT_TOKENS, frozenset({END})))
    bench = Bench()
    bench.ledger = ledger
    bench.context(context(committed=text, max_tokens=len(text)))
    cut = text[:MAX_VERDICT_TOKENS]
    assert bench.bundle(bundle(1)) == [verdict(1, cut)]
    assert bench.bundle(bundle(2, after=cut)) == [verdict(2, text[MAX_VERDICT_TOKENS:], after=cut, finish="length")]


# Ends -----------------------------------------------------------------------------------------------------------------


def ending_at(position: int, token: int = END) -> tuple[int, ...]:
    """The usual text, with an end token at a position and more after it."""
    return (*TEXT[:position], token, *TEXT[position + 1 :])


def test_end_token_inside_a_draft_ends_the_text_there() -> None:
    text = ending_at(2)
    bench = serving(text=text)
    bench.bundle(bundle(1, text[:6]))
    assert bench.step() == [verdict(1, text[:3], accepted=3, finish="stop")]


def test_end_token_as_correction_or_bonus_ends_the_text() -> None:
    text = ending_at(2)
    bench = serving(text=text)
    bench.bundle(bundle(1, TEXT[:2]))
    assert bench.step() == [verdict(1, text[:3], accepted=2, finish="stop")]


def test_end_token_drafted_but_not_chosen_ends_nothing() -> None:
    bench = serving()
    bench.bundle(bundle(1, (21, END)))
    assert bench.step() == [verdict(1, TEXT[:2], accepted=1)]


def test_stop_token_of_the_session_ends_the_text_like_an_end_token() -> None:
    bench = serving(stop=StopRules((23,)))
    bench.bundle(bundle(1, TEXT[:6]))
    assert bench.step() == [verdict(1, TEXT[:3], accepted=3, finish="stop")]


def test_end_token_to_be_ignored_is_a_token_but_stop_tokens_still_end() -> None:
    text = ending_at(1)
    bench = serving(text=text, stop=StopRules((25,), ignore_end=True))
    bench.bundle(bundle(1, text[:6]))
    assert bench.step() == [verdict(1, text[:5], accepted=5, finish="stop")]


def test_token_limit_cuts_the_verdict() -> None:
    bench = serving(max_tokens=3)
    bench.bundle(bundle(1, TEXT[:6]))
    (work,) = bench.ledger.ready()
    assert work.sequence == PROMPT + TEXT[:2]
    assert bench.step() == [verdict(1, TEXT[:3], accepted=3, finish="length")]


def test_token_limit_reached_with_an_end_token_is_a_stop() -> None:
    text = ending_at(2)
    bench = serving(text=text, max_tokens=3)
    bench.bundle(bundle(1, TEXT[:2]))
    assert bench.step() == [verdict(1, text[:3], accepted=2, finish="stop")]


def test_bundle_after_the_end_is_answered_from_the_log() -> None:
    bench = serving(max_tokens=3)
    bench.bundle(bundle(1, TEXT[:2]))
    bench.step()
    assert bench.bundle(bundle(2, TEXT[:6])) == [verdict(2, TEXT[:3], accepted=3, finish="length")]
    assert bench.bundle(bundle(3, TEXT[2:6], after=TEXT[:2])) == [
        verdict(3, TEXT[2:3], after=TEXT[:2], accepted=1, finish="length")
    ]
    assert list(bench.ledger.ready()) == []


def test_bundle_of_an_agent_that_missed_the_end_gets_the_last_token_again() -> None:
    """It holds all tokens, but not the word that they are all."""
    bench = serving(max_tokens=3)
    bench.bundle(bundle(1, TEXT[:2]))
    bench.step()
    assert bench.bundle(bundle(2, after=TEXT[:3])) == [verdict(2, TEXT[2:3], after=TEXT[:2], finish="length")]


def test_context_whose_committed_tokens_have_ended_is_never_given_to_the_engine() -> None:
    bench = Bench()
    bench.context(context(committed=(21, 22, END)))
    assert list(bench.ledger.ready()) == []
    assert bench.bundle(bundle(1, (23,), after=(21, 22, END))) == [verdict(1, (END,), after=(21, 22), finish="stop")]


# Cleared: the agent has ended the session -----------------------------------------------------------------------------


def test_cleared_releases_the_session_and_leaves_a_tombstone() -> None:
    """A bundle that still comes is told so, once: an agent that believes otherwise must know."""
    bench = serving()
    assert bench.clear() == []
    assert bench.released == [KEY]
    assert len(bench.ledger) == 0
    assert bench.bundle(bundle(9)) == [resync("ended", number=9, known=Epoch(1, NONCE))]
    assert bench.bundle(bundle(10)) == []
    assert bench.context(context(revision=5)) == []
    assert bench.ledger.next_tick() is None
    assert len(bench.ledger) == 0


def test_cleared_session_in_a_higher_epoch_is_served_again() -> None:
    bench = serving()
    bench.clear()
    bench.context(context(2))
    bench.bundle(bundle(1, epoch=2))
    assert bench.step() == [verdict(1, TEXT[:1], epoch=2)]


def test_cleared_session_in_an_older_epoch_is_told_the_one_known() -> None:
    bench = Bench()
    bench.context(context(2))
    bench.clear()
    assert bench.bundle(bundle(1)) == [resync("stale_epoch", known=Epoch(2, NONCE))]


def test_cleared_while_the_engine_works_drops_what_it_chose() -> None:
    bench = serving()
    bench.bundle(bundle(1, TEXT[:2]))
    work = bench.start()
    bench.clear()
    assert bench.complete(work) == []
    assert bench.heard(bench.ledger.fail(work, "too late")) == []


def test_cleared_drops_a_parked_bundle() -> None:
    bench = Bench()
    bench.bundle(bundle(1))
    assert bench.clear() == []
    assert bench.ledger.next_tick() is None


def test_cleared_session_of_another_owner_leaves_a_tombstone_as_well() -> None:
    bench = Bench()
    bench.context(context(owner="v1"))
    assert bench.clear() == []
    assert bench.released == []
    assert bench.bundle(bundle(1)) == [resync("ended", known=Epoch(1, NONCE))]
    assert bench.ledger.next_tick() is None


def test_cleared_unknown_session_leaves_nothing() -> None:
    bench = Bench()
    assert bench.clear() == []
    bench.context(context())
    assert len(bench.ledger) == 1


def test_cleared_tombstones_are_bounded_and_the_oldest_go_first() -> None:
    bench = Bench(memory=2)
    for number in (1, 2, 3):
        session = number.to_bytes(8, "big")
        bench.context(context(session=session))
        bench.clear(session)
    for number in (1, 2, 3):
        bench.context(context(session=number.to_bytes(8, "big")))
    assert [work.key.session for work in bench.ledger.ready()] == [(1).to_bytes(8, "big")]


# The engine and everything that can happen meanwhile ------------------------------------------------------------------


@pytest.mark.parametrize("newer", [context(revision=1), context(2)], ids=["revision", "epoch"])
def test_context_replaced_while_the_engine_works_drops_what_it_chose(newer: SessionContext) -> None:
    bench = serving()
    bench.bundle(bundle(1, TEXT[:2]))
    work = bench.start()
    bench.context(newer)
    assert bench.complete(work) == []
    bench.bundle(bundle(2, TEXT[:1], epoch=newer.epoch.counter, revision=newer.revision))
    assert bench.step() == [verdict(2, TEXT[:2], accepted=1, epoch=newer.epoch.counter)]


def test_context_replaced_while_the_engine_works_does_not_take_its_result_for_newer_work() -> None:
    """A long prompt may still be fed in chunks for the old context when the work for the new one begins."""
    bench = serving()
    bench.bundle(bundle(1, TEXT[:2]))
    old = bench.start()
    bench.context(context(2))
    bench.bundle(bundle(2, TEXT[:4], epoch=2))
    new = bench.start()
    assert bench.complete(old) == []
    assert bench.heard(bench.ledger.fail(old, "too late")) == []
    assert bench.complete(new) == [verdict(2, TEXT[:5], accepted=4, epoch=2)]


def test_engine_failure_is_told_with_leave_to_try_again() -> None:
    bench = serving()
    bench.bundle(bundle(1, TEXT[:2]))
    (refusal,) = bench.heard(bench.ledger.fail(bench.start(), "the target failed: no memory"))
    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.sentence) == ("engine_failed", "the target failed: no memory")
    assert (refusal.session, refusal.epoch, refusal.round) == (SESSION, EPOCH, 1)
    assert refusal.retry_after == RETRY_AFTER
    bench.bundle(bundle(2, TEXT[:2]))
    assert bench.step() == [verdict(2, TEXT[:3], accepted=2)]


def test_engine_failure_leaves_the_waiting_bundle_waiting() -> None:
    bench = serving()
    bench.bundle(bundle(1, TEXT[:2]))
    work = bench.start()
    bench.bundle(bundle(2, TEXT[:2]))
    bench.heard(bench.ledger.fail(work, "no memory"))
    assert bench.step() == [verdict(2, TEXT[:3], accepted=2)]


def failures(bench: Bench, times: int, *, others: bool, first: int = 1) -> list[int]:
    """Have a session fail again and again, and another do well in between or not; return when it may try again."""
    delays = []
    for number in range(first, first + times):
        bench.bundle(bundle(number, TEXT[:2]))
        (work,) = (work for work in bench.ledger.ready() if work.key == KEY)
        bench.ledger.start(work)
        (refusal,) = bench.heard(bench.ledger.fail(work, "no memory"))
        assert isinstance(refusal, Refusal)
        assert refusal.code == "engine_failed"
        delays.append(refusal.retry_after)
        if others:
            bench.context(context(number, session=b"session2"))
            assert bench.step() == []
    return delays


def test_engine_failure_of_all_sessions_is_waited_out_however_long_it_takes() -> None:
    bench = serving()
    delays = failures(bench, 100, others=False)
    assert delays[:7] == [RETRY_AFTER * seconds for seconds in (1, 2, 4, 8, 16, 30, 30)]
    assert delays[-1] == RETRY_AFTER_MOST
    bench.bundle(bundle(200, TEXT[:2]))
    assert bench.step() == [verdict(200, TEXT[:3], accepted=2)]
    bench.bundle(bundle(201, TEXT[3:4], after=TEXT[:3]))
    (refusal,) = bench.heard(bench.ledger.fail(bench.start(), "no memory"))
    assert isinstance(refusal, Refusal)
    assert refusal.retry_after == RETRY_AFTER, "it counts from the start again"


def test_engine_failure_of_a_session_while_another_goes_on_ends_it_in_time() -> None:
    delays = failures(serving(), MOST_FAILURES, others=True)
    assert all(delays[:-1])
    assert sum(delays[:-1]) >= 10_000_000, "what passes within seconds ends nothing"
    assert delays[-1] == 0


def test_engine_failure_of_all_sessions_counts_once_towards_the_end_of_one() -> None:
    bench = serving()
    assert all(failures(bench, 50, others=False))
    delays = failures(bench, MOST_FAILURES, others=True, first=51)
    assert delays == [RETRY_AFTER_MOST] * (MOST_FAILURES - 1) + [0]


def test_engine_failure_while_filling_a_cache_is_nobodys_business() -> None:
    """The first bundle fills it, and is told if that fails."""
    bench = Bench()
    bench.context(context())
    assert bench.heard(bench.ledger.fail(bench.start(), "no memory")) == []
    bench.bundle(bundle(1))
    assert bench.step() == [verdict(1, TEXT[:1])]


def test_engine_work_is_offered_for_all_sessions_at_once() -> None:
    bench = Bench()
    for number in range(5):
        bench.context(context(session=number.to_bytes(8, "big")))
    assert len(list(bench.ledger.ready())) == 5


@pytest.mark.parametrize("draft", [(), TEXT[:1], TEXT[:4], (21, 99), (99,)])
def test_rounds_repeated_to_the_end_give_the_targets_text(draft: tuple[int, ...]) -> None:
    """Whatever is drafted, as offsets from the text."""
    bench = serving()
    held: tuple[int, ...] = ()
    for number in range(1, 100):
        shifted = tuple(token + len(held) if token != 99 else 99 for token in draft)
        answers = bench.bundle(bundle(number, shifted, after=held)) or bench.step()
        (answer,) = answers
        assert isinstance(answer, Verdict)
        held += answer.tokens
        if answer.finish:
            break
    assert held == TEXT


def test_key_of_two_devices_never_names_the_same_storage() -> None:
    keys = {Key("pi", SESSION), Key("pi-2", SESSION), Key("pi", b"session2")}
    assert len({key.to_bytes() for key in keys}) == 3


# Found by review ------------------------------------------------------------------------------------------------------


def test_resync_goes_out_once_for_a_revision_whatever_the_reason() -> None:
    bench = serving()
    assert len(bench.bundle(bundle(1, after=TEXT[:2]))) == 1
    bench.bundle(bundle(2))
    bench.step()
    assert bench.bundle(bundle(3, after=(99,))) == []


def test_bundle_parked_again_does_not_go_behind_younger_ones() -> None:
    bench = Bench()
    bench.bundle(bundle(1, revision=2))
    bench.now = 0.4
    bench.bundle(bundle(1, session=b"session2"))
    bench.now = 0.45
    bench.context(context(revision=1))
    assert bench.ledger.next_tick() == pytest.approx(0.9)
    bench.now = 0.91
    assert len(bench.ledger.tick(bench.now)) == 1
    bench.now = 0.96
    assert len(bench.ledger.tick(bench.now)) == 1


def test_session_that_cannot_be_served_takes_no_place() -> None:
    bench = Bench(capacity=1)
    bench.context(context(tokenizer="0ddba11"))
    assert bench.context(context(session=b"session2")) == []
    assert len(bench.ledger) == 1


def test_session_turned_away_is_refused_without_a_resync_and_served_when_there_is_room() -> None:
    bench = Bench(capacity=1)
    bench.context(context(session=b"session2"))
    bench.context(context())
    (refusal,) = bench.bundle(bundle(1))
    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.round) == ("overloaded", 1)
    bench.clear(b"session2")
    assert bench.bundle(bundle(2)) == []
    assert [work.round for work in bench.ledger.ready()] == [2]


@pytest.mark.parametrize("again", ["bundle", "context"])
def test_session_turned_away_takes_the_place_of_one_that_has_been_silent_for_long(again: str) -> None:
    bench = Bench(capacity=1)
    bench.context(context(session=b"session2"))
    bench.context(context())
    bench.now = IDLE - 0.5
    (refusal,) = bench.bundle(bundle(1))
    assert isinstance(refusal, Refusal)
    assert bench.context(context()) == []
    assert bench.released == []
    bench.now = IDLE
    assert (bench.bundle(bundle(2)) if again == "bundle" else bench.context(context())) == []
    assert bench.released == [Key(DEVICE, b"session2")]
    assert [work.key for work in bench.ledger.ready()] == [KEY]
    bench.bundle(bundle(3))
    assert bench.step() == [verdict(3, TEXT[:1])]


def test_session_that_was_turned_away_for_good_takes_nobodys_place() -> None:
    bench = Bench(capacity=1)
    bench.context(context(session=b"session2"))
    bench.context(context(tokenizer="0ddba11"))
    bench.now = IDLE
    (refusal,) = bench.bundle(bundle(1))
    assert isinstance(refusal, Refusal)
    assert refusal.code == "tokenizer_mismatch"
    assert bench.context(context(tokenizer="0ddba11")) == []
    assert bench.released == []


def test_many_more_sessions_than_places_are_refused_without_asking_for_their_contexts_again() -> None:
    bench = Bench(capacity=1)
    bench.context(context(session=b"session*"))
    ids = [number.to_bytes(8) for number in range(3 * MEMORY_OF_TURNED_AWAY)]
    for session in ids:
        bench.context(context(session=session))
    for number in (1, 2):
        for session in ids:
            (refusal,) = bench.bundle(bundle(number, session=session))
            assert isinstance(refusal, Refusal)
    assert bench.tick(PATIENCE) == []


def test_a_session_whose_context_was_let_go_is_asked_for_it_once_there_is_room() -> None:
    bench = Bench(capacity=1)
    bench.context(context(session=b"session*"))
    bench.context(context())
    for number in range(MEMORY_OF_TURNED_AWAY):
        bench.context(context(session=number.to_bytes(8)))
    (refusal,) = bench.bundle(bundle(1))
    assert isinstance(refusal, Refusal)
    bench.clear(b"session*")
    assert bench.bundle(bundle(2)) == [resync("unknown_session", number=2, known=Epoch(1, NONCE))]
    assert bench.context(context(revision=1)) == []
    bench.bundle(bundle(3, revision=1))
    assert [(work.key, work.round) for work in bench.ledger.ready()] == [(KEY, 3)]


def test_a_session_that_waits_for_the_engine_is_not_silent() -> None:
    bench = Bench(capacity=1)
    bench.context(context())
    bench.bundle(bundle(1))
    bench.now = 2 * IDLE
    (waiting,) = bench.context(context(session=b"session2"))
    work = bench.start()
    (running,) = bench.context(context(session=b"session3"))
    assert isinstance(waiting, Refusal)
    assert isinstance(running, Refusal)
    assert bench.complete(work) == [verdict(1, TEXT[:1], queue_time=round(2 * IDLE * 1e6))]
    assert bench.released == []


def test_a_busy_verifier_forgets_nobody_for_whom_it_refuses() -> None:
    bench = Bench(capacity=1)
    bench.context(context())
    bench.now = 2 * IDLE
    busy = Busy("verifier 'v0' is busy", 5)
    bench.heard(bench.ledger.context(DEVICE, context(session=b"session2"), bench.now, busy))
    assert bench.released == []


def test_restarted_verifier_with_more_retained_contexts_than_places_serves_whoever_speaks() -> None:
    bench = Bench(capacity=2)
    for number in range(4):
        bench.context(context(session=b"session%d" % number))
    bench.now = IDLE
    for number in (2, 3):
        assert bench.bundle(bundle(1, session=b"session%d" % number)) == []
    assert bench.released == [Key(DEVICE, b"session0"), Key(DEVICE, b"session1")]
