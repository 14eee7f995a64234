"""Is a token the one the target would choose? One position at a time, from the target's own float32 logits.

A token passes if it is the target's choice, or if it is a near-tie: the target would have chosen it had its logits
come out differently by no more than a tolerance. Nearly equal logits change places with the order of a sum, which
differs between a batch and a session alone; that is arithmetic, and it is counted. Anything else is a divergence.

Sampling has a second kind of near-tie. At the edge of top-k and top-p a token may fall in or out, so a token outside
counts as inside if it is within the tolerance of the edge, and it need only beat the tokens that are surely inside.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from schemas.choice import noisy

if TYPE_CHECKING:
    import numpy.typing as npt

    from schemas.messages import Sampling

TOLERANCE: Final = {"float32": 1e-4, "bfloat16": 0.75}
"""How far two logits may be apart and still change places, by what the target computes in.

In float32, sums of the same numbers in another order differ by about 1e-5. bfloat16 keeps eight bits, so that logits
between 32 and 64, as the default target has them, are multiples of 0.25, after thirty layers rounded likewise: over 613
positions, the errors of two of the five largest logits differed by up to 0.59.
"""


class Outcome(Enum):
    """What became of a position."""

    EXACT = "exact"
    NEAR_TIE = "near_tie"
    DIVERGED = "diverged"


def judge(logits: npt.NDArray[np.float32], token: int, sampling: Sampling, position: int, tolerance: float) -> Outcome:
    """Say whether `token` is what the target chooses.

    Args:
        logits: [V] the target's own, in float32, after the tokens before.
        token: what was emitted.
        sampling: how it was to be chosen.
        position: output position, from 0.
        tolerance: in logits.
    """
    scores = noisy(logits, sampling, position)
    if int(scores.argmax()) == token:
        return Outcome.EXACT
    if sampling.temperature == 0:
        gap = float(scores.max() - scores[token])
        return Outcome.NEAR_TIE if gap <= tolerance else Outcome.DIVERGED
    free = noisy(logits, msgspec.structs.replace(sampling, top_k=0, top_p=1.0), position)
    inside = np.isfinite(scores)
    if not (inside[token] or _on_the_edge(logits, token, sampling, position, tolerance)):
        return Outcome.DIVERGED
    surely = _surely_inside(logits, sampling, position, tolerance)
    # Both logits may be off, in opposite directions; scores are in units of logits / temperature.
    gap = float(free[surely].max() - free[token]) * sampling.temperature
    return Outcome.NEAR_TIE if gap <= tolerance else Outcome.DIVERGED


def _on_the_edge(
    logits: npt.NDArray[np.float32], token: int, sampling: Sampling, position: int, tolerance: float
) -> bool:
    """Whether a token left out would be let in by a change within the tolerance."""
    wider = msgspec.structs.replace(sampling, top_p=min(1.0, sampling.top_p + _mass(sampling, tolerance)))
    scores = noisy(logits, wider, position)
    lowest = float(logits[np.isfinite(scores)].min())
    return float(logits[token]) >= lowest - tolerance


def _surely_inside(
    logits: npt.NDArray[np.float32], sampling: Sampling, position: int, tolerance: float
) -> npt.NDArray[np.bool_]:
    """Return which tokens no change within the tolerance leaves out; the most likely is always one of them."""
    narrower = msgspec.structs.replace(sampling, top_p=max(1e-9, sampling.top_p - _mass(sampling, tolerance)))
    inside = np.isfinite(noisy(logits, narrower, position))
    surely = inside if inside.all() else inside & (logits > float(logits[~inside].max()) + tolerance)
    surely[int(logits.argmax())] = True
    return surely


def _mass(sampling: Sampling, tolerance: float) -> float:
    """How much the probability of a set of tokens may change when logits change by `tolerance`.

    For a set of probability p it is at most p · (1 - p) · (e^2t - 1) to first order, with t in units of the scores.
    """
    if sampling.top_p == 1:
        return 0.0
    return sampling.top_p * (1 - sampling.top_p) * float(np.expm1(2 * tolerance / sampling.temperature))
