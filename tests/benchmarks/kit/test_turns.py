"""Every item has every place."""

from __future__ import annotations

from benchmarks.kit.turns import rotated


def test_the_next_one_begins() -> None:
    assert [rotated("abc", turn) for turn in range(4)] == [list("abc"), list("bca"), list("cab"), list("abc")]
    assert rotated([1], 5) == [1]
