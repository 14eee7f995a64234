"""How acceptance depends on a measure of the drafter's, and how well the measure tells accepted from rejected."""

from __future__ import annotations

import math
from itertools import groupby
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

_Z: Final = 1.959963984540054
"""Of the standard normal distribution, 95 % lie within so many deviations."""

Sample = tuple[float, bool]
"""A measure of a draft token, and whether the token was accepted."""


class Bin(msgspec.Struct, frozen=True):
    """The draft tokens whose measure lies in [low, high), in the last bin in [low, high].

    Attributes:
        count: of them.
        accepted: of those, accepted.
        rate: accepted / count; None where there is none.
        least: the lower end of the rate's 95 % interval (Wilson's).
        most: the upper end.
    """

    low: float
    high: float
    count: int
    accepted: int
    rate: float | None
    least: float
    most: float


def bins(samples: Sequence[Sample], high: float, count: int) -> list[Bin]:
    """Return `count` bins of equal width from 0 to `high`; a measure beyond either end is in the bin at that end."""
    counts, accepted = [0] * count, [0] * count
    for value, taken in samples:
        at = min(count - 1, max(0, math.floor(value / high * count)))
        counts[at] += 1
        accepted[at] += taken
    return [
        Bin(
            high * at / count,
            high * (at + 1) / count,
            counts[at],
            accepted[at],
            accepted[at] / counts[at] if counts[at] else None,
            *interval(accepted[at], counts[at]),
        )
        for at in range(count)
    ]


def interval(accepted: int, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a rate (Wilson's score interval: right for few samples and at 0 and 1 too)."""
    if count == 0:
        return 0.0, 1.0
    rate = accepted / count
    centre = rate + _Z**2 / (2 * count)
    spread = _Z * math.sqrt(rate * (1 - rate) / count + _Z**2 / (4 * count**2))
    scale = 1 + _Z**2 / count
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def auc(samples: Sequence[Sample]) -> float | None:
    """Return the chance that an accepted token has the higher measure than a rejected one, equal ones counting half.

    This is the area under the ROC curve, by the ranks of Mann and Whitney's test. None without accepted or without
    rejected tokens.
    """
    accepted = sum(taken for _, taken in samples)
    rejected = len(samples) - accepted
    if not (accepted and rejected):
        return None
    below = wins = 0.0  # rejected tokens with a lower measure; pairs won
    for _, tied in groupby(sorted(samples), key=lambda sample: sample[0]):
        outcomes = [taken for _, taken in tied]
        won = sum(outcomes)
        lost = len(outcomes) - won
        wins += won * (below + lost / 2)
        below += lost
    return wins / (accepted * rejected)
