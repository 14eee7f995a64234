"""A verifier that is behind: refusals in words, and nothing is lost by them."""

from __future__ import annotations

from schemas.messages import Refusal
from tests.verifier.bench import KEY, TEXT, Bench, bundle, context, serving, verdict
from verifier.backpressure import Busy

BUSY = Busy("verifier 'v0' is 9.0 s behind", 3_000_000)


def test_new_session_is_refused_while_busy_and_served_when_that_has_passed() -> None:
    bench = Bench()
    (refusal,) = bench.heard(bench.ledger.context("pi", context(), 0.0, BUSY))
    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.sentence, refusal.retry_after) == ("overloaded", BUSY.sentence, BUSY.retry_after)
    (again,) = bench.heard(bench.ledger.bundle("pi", bundle(1, TEXT[:2]), 1.0, BUSY))
    assert isinstance(again, Refusal)
    assert (again.code, again.round) == ("overloaded", 1)
    assert bench.bundle(bundle(2, TEXT[:2])) == []
    assert bench.step() == [verdict(2, TEXT[:3], accepted=2)]


def test_session_that_is_served_goes_on_while_busy() -> None:
    bench = serving()
    assert bench.heard(bench.ledger.context("pi", context(revision=1), 0.0, BUSY)) == []
    bench.step()
    assert bench.heard(bench.ledger.bundle("pi", bundle(1, TEXT[:1], revision=1), 0.0, BUSY)) == []
    assert bench.step() == [verdict(1, TEXT[:2], accepted=1)]


def test_shed_bundle_is_refused_and_may_come_again() -> None:
    bench = serving()
    bench.bundle(bundle(1, TEXT[:2]))
    (refusal,) = bench.heard(bench.ledger.shed(KEY, BUSY))
    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.round, refusal.retry_after) == ("overloaded", 1, BUSY.retry_after)
    assert list(bench.ledger.ready()) == []
    assert bench.ledger.queued == 0
    bench.bundle(bundle(2, TEXT[:3]))
    assert bench.step() == [verdict(2, TEXT[:4], accepted=3)]


def test_nothing_waits_so_nothing_is_shed() -> None:
    bench = serving()
    assert bench.ledger.shed(KEY, BUSY) == []
    bench.bundle(bundle(1))
    work = bench.start()
    assert bench.ledger.shed(KEY, BUSY) == [], "what the engine has is not taken back"
    assert bench.complete(work) == [verdict(1, TEXT[:1])]


def test_busy_verifier_makes_no_room_for_a_session_that_it_refused() -> None:
    bench = Bench(capacity=1)
    bench.context(context(session=b"session2"))
    bench.context(context())
    (refusal,) = bench.heard(bench.ledger.bundle("pi", bundle(1), 1_000.0, BUSY))
    assert isinstance(refusal, Refusal)
    assert bench.heard(bench.ledger.context("pi", context(), 1_000.0, BUSY)) == []
    assert bench.released == []
