"""How long an agent waits for a verdict."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.roundtrip import RoundTrip

SECONDS = st.floats(0, 1000)


def test_timeout_before_any_sample_is_the_first() -> None:
    assert RoundTrip(first=2.0).timeout() == 2.0


def test_timeout_after_one_sample_is_three_times_it() -> None:
    """RFC 6298, 2.2: SRTT = R, RTTVAR = R/2, RTO = SRTT + 4 · RTTVAR."""
    roundtrip = RoundTrip()
    roundtrip.observe(1.0)
    assert roundtrip.smoothed == 1.0
    assert roundtrip.timeout() == 3.0


def test_timeout_after_more_samples_follows_mean_and_variance() -> None:
    """RFC 6298, 2.3: RTTVAR = 3/4 · 0.5 + 1/4 · |1 - 2| = 0.625, with the mean before it moves to 1.125."""
    roundtrip = RoundTrip()
    roundtrip.observe(1.0)
    roundtrip.observe(2.0)
    assert roundtrip.smoothed == 1.125
    assert roundtrip.timeout() == 1.125 + 4 * 0.625


def test_timeout_of_a_steady_link_comes_down_to_the_round_trip() -> None:
    roundtrip = RoundTrip()
    for _ in range(60):
        roundtrip.observe(1.0)
    assert roundtrip.timeout() == pytest.approx(1.0, abs=1e-3)


def test_timeout_of_a_fast_link_is_the_least() -> None:
    roundtrip = RoundTrip(least=0.2)
    roundtrip.observe(0.001)
    assert roundtrip.timeout() == 0.2


def test_timeout_is_never_below_the_announced_round_time() -> None:
    roundtrip = RoundTrip()
    roundtrip.observe(0.1)
    assert roundtrip.timeout(5.0) == 5.0


def test_back_off_doubles_up_to_the_most() -> None:
    roundtrip = RoundTrip(first=2.0, most=30.0)
    waits = []
    for _ in range(6):
        waits.append(roundtrip.timeout())
        roundtrip.back_off()
    assert waits == [2.0, 4.0, 8.0, 16.0, 30.0, 30.0]


def test_back_off_doubles_the_announced_round_time_too() -> None:
    roundtrip = RoundTrip()
    roundtrip.back_off()
    assert roundtrip.timeout(5.0) == 10.0


def test_back_off_stops_growing_so_that_it_never_overflows() -> None:
    roundtrip = RoundTrip(most=1e9)
    for _ in range(2000):
        roundtrip.back_off()
    assert roundtrip.timeout() == 128.0


def test_observe_ends_the_back_off() -> None:
    roundtrip = RoundTrip()
    roundtrip.back_off()
    roundtrip.observe(1.0)
    assert roundtrip.timeout() == 3.0


@settings(deadline=None)
@given(samples=st.lists(st.one_of(SECONDS, st.none())), floor=st.floats(0, 30))
def test_timeout_stays_between_least_and_most_whatever_is_observed(samples: list[float | None], floor: float) -> None:
    roundtrip = RoundTrip(least=0.2, most=30.0)
    for sample in samples:
        if sample is None:
            roundtrip.back_off()
        else:
            roundtrip.observe(sample)
        assert max(0.2, floor) <= roundtrip.timeout(floor) <= 30.0
