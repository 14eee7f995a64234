"""Pearson's test, for samplers and their noise."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

_FEW = 8.0
"""Cells expected to hold fewer are put together; the test is an approximation for large numbers."""


def chi_square(observed: npt.NDArray[Any], probabilities: npt.NDArray[np.float64]) -> float:
    """Return the chance that counts so far from what is expected come from the distribution.

    Args:
        observed: counts per cell.
        probabilities: of the cells; they sum to 1.
    """
    total = int(observed.sum())
    if observed[probabilities == 0].any():
        return 0.0  # what cannot happen did
    expected = total * probabilities
    order = np.argsort(expected, kind="stable")
    rare = int(np.searchsorted(expected[order].cumsum(), _FEW)) + 1
    while rare < len(order) and expected[order[rare]] < _FEW:
        rare += 1
    counts = np.concatenate([[observed[order[:rare]].sum()], observed[order[rare:]]])
    means = np.concatenate([[expected[order[:rare]].sum()], expected[order[rare:]]])
    assert len(means) > 1, "all in one cell: nothing is tested"
    return _survival(float(((counts - means) ** 2 / means).sum()), len(means) - 1)


def _survival(statistic: float, freedom: int) -> float:
    """Return the upper tail of the chi-square distribution, after Wilson and Hilferty (1931).

    The cube root of a chi-square variable over its degrees of freedom is nearly normal, to a few per cent of the tail.
    """
    spread = 2 / (9 * freedom)
    normal = ((statistic / freedom) ** (1 / 3) - (1 - spread)) / math.sqrt(spread)
    return 0.5 * math.erfc(normal / math.sqrt(2))
