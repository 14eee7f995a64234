"""When rounds without an answer are an outage."""

from __future__ import annotations

import pytest

from edge_agent.outage import STALL, Outage, OutageMode, OutageRules

RELEASE = OutageRules(OutageMode.RELEASE)


def test_default_waits_whatever_happens() -> None:
    outage = Outage(STALL)
    assert [outage.failed(0.0) for _ in range(4)] == [False, False, True, True]
    assert not outage.fallen_back


@pytest.mark.parametrize("mode", [OutageMode.RELEASE, OutageMode.REVISE])
@pytest.mark.parametrize("failures", [1, 3])
def test_so_many_failures_in_a_row_make_a_session_fall_back(mode: OutageMode, failures: int) -> None:
    outage = Outage(OutageRules(mode, failures))
    for _ in range(failures - 1):
        assert not outage.unanswered("v0", 1.0, 2.0)
        assert not outage.lasting
    assert outage.unanswered("v0", 1.0, 2.0)
    assert outage.lasting
    outage.fall_back()
    assert outage.fallen_back
    assert (outage.releasing, outage.showing) == (mode is OutageMode.RELEASE, mode is OutageMode.REVISE)


def test_failures_outside_the_window_do_not_count_together() -> None:
    outage = Outage(RELEASE)
    assert [outage.failed(now) for now in (0.0, 30.1, 60.2)] == [False, False, False]
    assert outage.failed(90.0)


@pytest.mark.parametrize("failures", [5, 6, 40])
def test_window_never_makes_a_threshold_unreachable(failures: int) -> None:
    """Timeouts double up to 30 s; whatever the threshold, it is met when so many have run out."""
    outage, now, timeout = Outage(OutageRules(OutageMode.RELEASE, failures)), 0.0, 2.0
    met = []
    for _ in range(failures):
        now += timeout + 0.01
        met.append(outage.unanswered("v0", now, timeout))
        timeout = min(2 * timeout, 30.0)
    assert met == [False] * (failures - 1) + [True]
    assert outage.fallen_back


def test_another_verifier_is_looked_for_before_the_session_falls_back() -> None:
    outage = Outage(RELEASE)
    seen = []
    for _ in range(3):
        outage.unanswered("v0", 1.0, 2.0)
        seen.append((outage.doubtful, outage.fallen_back))
    assert seen == [(False, False), (True, False), (True, True)]


@pytest.mark.parametrize("failures", [1, 2])
def test_threshold_that_is_met_at_the_first_doubt_hesitates(failures: int) -> None:
    outage = Outage(OutageRules(OutageMode.RELEASE, failures))
    for _ in range(failures):
        assert not outage.doubtful
        outage.unanswered("v0", 1.0, 2.0)
    assert (outage.doubtful, outage.hesitating, outage.fallen_back) == (True, True, False)
    outage.moved("v1")
    assert (outage.doubtful, outage.lasting) == (False, False)


def test_a_verifier_that_takes_over_is_given_as_many_rounds_unless_it_was_silent_itself() -> None:
    outage = Outage(RELEASE)
    for verifier in ("v0", "v1"):
        outage.moved(verifier)
        outage.unanswered(verifier, 1.0, 2.0)
        assert not outage.doubtful
        outage.unanswered(verifier, 1.0, 2.0)
        assert not outage.lasting
    outage.moved("v0")
    outage.unanswered("v0", 1.0, 2.0)
    assert outage.fallen_back
    outage.over()
    outage.unanswered("v1", 1.0, 2.0)
    outage.moved("v0")
    assert [outage.unanswered("v0", 1.0, 2.0) for _ in range(3)] == [False, False, True]


def test_session_stays_ever_longer_with_verifiers_that_are_all_silent() -> None:
    """Each may be reading a long text, which a move begins anew."""
    outage = Outage(STALL)
    stays = []
    for verifier in ("v0", "v1", "v0", "v1"):
        outage.moved(verifier)
        rounds = 0
        while not outage.doubtful:
            outage.unanswered(verifier, 1.0, 30.0)
            rounds += 1
        stays.append(rounds)
    assert stays == [2, 2, 4, 8]
    outage.over()
    outage.unanswered("v1", 1.0, 2.0)
    assert not outage.doubtful
    outage.unanswered("v1", 1.0, 2.0)
    assert outage.doubtful


def test_over_counts_from_the_beginning() -> None:
    outage = Outage(RELEASE)
    for _ in range(3):
        outage.absent(0.0)
    outage.over()
    assert not outage.fallen_back
    assert outage.patience(2.0) == 2.0
    assert [outage.failed(1.0) for _ in range(3)] == [False, False, True]


def test_absence_takes_as_long_as_unanswered_rounds_would() -> None:
    """Two, four and eight seconds."""
    outage, now = Outage(RELEASE), 0.0
    outage.counting = True
    while outage.counting:
        now += outage.patience(2.0)
        outage.absent(now)
    assert now == 14.0
    assert outage.fallen_back


@pytest.mark.parametrize("timeout", [30.0, 60.0, 1000.0])
def test_absence_never_takes_longer_than_the_window(timeout: float) -> None:
    """Whatever the round time that a verifier announced."""
    outage, now = Outage(RELEASE), 0.0
    outage.counting = True
    while outage.counting:
        now += outage.patience(timeout)
        outage.absent(now)
    assert now == RELEASE.window


def test_absence_goes_on_counting_where_unanswered_rounds_left_off() -> None:
    outage = Outage(RELEASE)
    outage.failed(0.0)
    outage.failed(1.0)
    outage.absent(3.0)
    assert outage.fallen_back
    assert not outage.counting


@pytest.mark.parametrize(
    ("failures", "window"), [(0, 60.0), (-1, 60.0), (3, 0.0), (3, float("inf")), (3, float("nan"))]
)
def test_thresholds_out_of_range_are_refused(failures: int, window: float) -> None:
    with pytest.raises(ValueError, match=r"was given|were given"):
        OutageRules(OutageMode.RELEASE, failures, window)
