"""Bins, intervals and areas under the curve."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.kit.separation import Bin, Sample, auc, bins, interval

SAMPLES = st.lists(st.tuples(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.booleans()), max_size=30)


def test_a_measure_at_an_edge_is_in_the_upper_bin_and_the_highest_in_the_last() -> None:
    found = bins([(0.0, True), (0.24, False), (0.25, True), (0.5, True), (0.99, False), (1.0, True)], 1.0, 4)
    assert [(each.low, each.high) for each in found] == [(0.0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0)]
    assert [(each.count, each.accepted, each.rate) for each in found] == [
        (2, 1, 0.5),
        (1, 1, 1.0),
        (1, 1, 1.0),
        (2, 1, 0.5),
    ]


def test_a_measure_beyond_the_ends_is_counted_at_the_end() -> None:
    found = bins([(-0.1, True), (7.0, False)], 2.0, 2)
    assert [(each.count, each.accepted) for each in found] == [(1, 1), (1, 0)]


def test_an_empty_bin_has_no_rate() -> None:
    assert bins([], 1.0, 1) == [Bin(0.0, 1.0, 0, 0, None, 0.0, 1.0)]


@pytest.mark.parametrize(
    ("accepted", "count", "least", "most"),
    [(5, 10, 0.2366, 0.7634), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662)],
)
def test_interval_is_wilsons(accepted: int, count: int, least: float, most: float) -> None:
    """The last one is a worked example in Newcombe 1998, Statistics in Medicine 17, table I."""
    assert interval(accepted, count) == pytest.approx((least, most), abs=1e-4)


def test_area_under_the_curve_of_clear_cases() -> None:
    assert auc([(0.1, False), (0.2, False), (0.3, True), (0.9, True)]) == 1.0
    assert auc([(0.1, True), (0.9, False)]) == 0.0
    assert auc([(0.5, True), (0.5, False), (0.5, False)]) == 0.5
    assert auc([(0.1, False), (0.4, True), (0.5, False), (0.9, True)]) == 0.75
    assert auc([(0.1, True)]) is None
    assert auc([(0.1, False)]) is None


@given(SAMPLES)
def test_area_is_the_share_of_pairs_that_are_told_apart(samples: list[Sample]) -> None:
    random.shuffle(samples)
    pairs = [
        1.0 if good > bad else 0.5 if good == bad else 0.0
        for good, taken in samples
        if taken
        for bad, other in samples
        if not other
    ]
    assert auc(samples) == (pytest.approx(sum(pairs) / len(pairs)) if pairs else None)
