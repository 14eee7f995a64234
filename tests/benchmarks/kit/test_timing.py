"""Rates of one answer and of many."""

from __future__ import annotations

import pytest

from benchmarks.kit.timing import Stopwatch, Timing


def test_rates_of_many_answers_are_those_of_all_their_tokens_and_time() -> None:
    timing = Timing(10, 2.0, 1, 0.5, 1) + Timing(30, 3.0, 5, 1.5, 1)
    assert timing == Timing(40, 5.0, 6, 2.0, 2)
    assert timing.rate == 8.0
    assert timing.decode_rate == pytest.approx(34 / 3)
    assert timing.ttft == 1.0


def test_nothing_has_no_rate() -> None:
    assert (Timing().rate, Timing().decode_rate, Timing().ttft) == (0.0, 0.0, 0.0)
    assert Timing(1, 0.5, 1, 0.5, 1).decode_rate == 0.0


def test_a_stopwatch_tells_the_first_tokens_from_the_others() -> None:
    watch = Stopwatch()
    for tokens in (0, 3, 2, 0, 1):
        watch.saw(tokens)
    timing = watch.stop()
    assert (timing.tokens, timing.first_tokens, timing.answers) == (6, 3, 1)
    assert 0 < timing.first_seconds <= timing.seconds
