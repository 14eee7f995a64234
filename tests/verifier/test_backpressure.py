"""When a verifier says that it is too far behind."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verifier.backpressure import (
    LATE,
    LEAST_PATIENCE,
    RETRY_LEAST,
    RETRY_MOST,
    SESSION_PATIENCE,
    Backlog,
    backlog,
    late_bundle,
    late_session,
    predicted_wait,
)
from verifier.scheduler import Candidate
from verifier.speed import SURE, Speed

SPEED = Speed(0.1, 0.01, 0.0, SURE)
OWN = Candidate(10, 10, math.inf)


def bundle(deadline: float, since: float = 0.0) -> Candidate:
    return Candidate(10, 10, deadline, since=since)


def test_backlog_counts_the_bundles_that_are_due_first() -> None:
    waiting = [
        Candidate(5, 5, 1.0, context=50),
        Candidate(90, 3, 2.0, context=90),
        Candidate(70, 0, math.inf, since=math.inf, context=70),
    ]
    assert backlog(waiting) == Backlog(2, 95, 140)
    assert backlog(waiting, before=1.0, running=0.2) == Backlog(1, 5, 50, 0.2)
    assert backlog(waiting, before=0.5, running=-0.2) == Backlog()


def test_predicted_wait_counts_every_step() -> None:
    assert predicted_wait(Backlog(), SPEED, 100) == 0
    assert predicted_wait(Backlog(running=0.3), SPEED, 100) == 0.3
    assert predicted_wait(Backlog(4, 100, 0, 0.3), SPEED, 100) == pytest.approx(0.3 + 0.1 + 1.0)
    assert predicted_wait(Backlog(4, 101, 0, 0.3), SPEED, 100) == pytest.approx(0.3 + 0.2 + 1.01)


def test_a_bundle_that_comes_in_time_is_taken() -> None:
    ahead = Backlog(60, 590, 0)  # 6 steps: 6.5 s; the bundle itself takes 0.2 s
    assert late_bundle("v0", ahead, bundle(6.71 / LATE), SPEED, 100, 0.0) is None


def test_a_bundle_that_would_come_too_late_is_refused_in_plain_words() -> None:
    busy = late_bundle("v0", Backlog(60, 590, 0), bundle(6.3 / LATE), SPEED, 100, 0.0)
    assert busy is not None
    assert busy.sentence == (
        "verifier 'v0' is 6.5 s behind and would answer in 6.7 s, but this bundle can wait for 6.3 s: try again later, "
        "or use another verifier"
    )
    assert busy.retry_after == pytest.approx(0.4e6, abs=1)


def test_an_impatient_bundle_may_wait_all_the_same() -> None:
    ahead = Backlog(10, 90, 0)  # 1.0 s, and 0.2 s for the bundle itself
    for now, taken in ((10.0, True), (10.0 + LATE * LEAST_PATIENCE - 1.3, True), (14.9, False)):
        assert (late_bundle("v0", ahead, bundle(10.2, since=10.0), SPEED, 100, now) is None) is taken


def test_a_bundle_without_a_deadline_of_its_own_is_never_late() -> None:
    assert late_bundle("v0", Backlog(1000, 100_000, 0), OWN, SPEED, 100, 0.0) is None


def test_nobody_is_refused_where_nothing_is_ahead() -> None:
    huge = Candidate(100_000, 5, 0.5)
    assert late_bundle("v0", Backlog(), huge, SPEED, 100, 0.0) is None


def test_nobody_is_refused_on_a_guess() -> None:
    guess = Speed(9.0, 9.0, 9.0, SURE - 1)
    assert late_bundle("v0", Backlog(9, 90, 90), bundle(0.1), guess, 100, 0.0) is None
    assert late_session("v0", Backlog(9, 90, 90), guess, 100) is None


def test_new_sessions_are_refused_while_those_served_wait_for_long() -> None:
    assert late_session("v0", Backlog(40, 400, 0), SPEED, 100) is None  # 4.4 s
    busy = late_session("v0", Backlog(60, 600, 0), SPEED, 100)
    assert busy is not None
    assert busy.sentence == (
        "verifier 'v0' is 6.6 s behind with the sessions it serves and takes no new ones: try again later, "
        "or use another verifier"
    )
    assert busy.retry_after == pytest.approx((6.6 - SESSION_PATIENCE) * 1e6, abs=1)


@given(fed=st.integers(1, 10**7), more=st.integers(0, 10**6), deadline=st.floats(0, 100))
def test_retries_are_bounded_and_come_no_earlier_when_more_is_ahead(fed: int, more: int, deadline: float) -> None:
    less, much = (late_bundle("v0", Backlog(9, n, 0), bundle(deadline), SPEED, 512, 0.0) for n in (fed, fed + more))
    if less is not None:
        assert much is not None, "whoever is late behind less is late behind more"
        assert RETRY_LEAST * 1e6 <= less.retry_after <= much.retry_after <= RETRY_MOST * 1e6
