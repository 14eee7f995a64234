"""How long a step will take: learnt from the steps before it, without I/O.

`Speed` is a straight line; `StepTime` fits it by least squares with forgetting (Ljung, System Identification, section
11.2), so that it follows a machine that becomes slower or faster.
"""

from __future__ import annotations

from itertools import combinations
from typing import Final

import numpy as np
import numpy.typing as npt

from verifier.speed import Speed

FORGETTING: Final = 0.98
"""Weight of a sample against that of the next one: about the last fifty steps count."""
SURPRISE: Final = 2.0
"""A step counts as at most so many times what was expected: one hiccup moves the estimate little, and a machine that
stays slow is believed after some steps."""
_FED, _CONTEXT = 64.0, 4096.0
"""Typical sizes of a step, in tokens; features are divided by them, so that all three are about 1."""
_CAUTION: Final = 0.5
"""Weight, in samples, with which the proportions of the first guess are held on to: it decides only where the steps
seen were too alike to tell one part of their cost from another."""
_SCALE: Final = np.array([1.0, _FED, _CONTEXT])

Vector = npt.NDArray[np.float64]


GUESS: Final = Speed(0.05, 0.002, 1e-5)
"""Before any sample: a small target on a few slow cores, so that first chunks are rather too small than too large."""


class StepTime:
    """Learns the speed of an engine from its steps."""

    def __init__(self, guess: Speed = GUESS, *, forgetting: float = FORGETTING) -> None:
        """Start from a guess.

        Args:
            guess: counts like one typical step, and its proportions a little longer.
            forgetting: from 0 to 1; 1 forgets nothing.
        """
        self._forgetting = forgetting
        self._guess = np.array([guess.base, guess.fed, guess.context]) * _SCALE
        self._squares = np.zeros((3, 3))
        self._products = np.zeros(3)
        self._seen = self._guessed = float(self._guess.sum())
        self._speed = guess

    @property
    def speed(self) -> Speed:
        """The estimate as it is now."""
        return self._speed

    def predict(self, fed: float, context: float) -> float:
        """Return the seconds that a step is expected to take (see `Speed.seconds`)."""
        return self._speed.seconds(fed, context)

    def observe(self, fed: int, context: int, seconds: float) -> None:
        """Take in a step.

        Args:
            fed: tokens it fed.
            context: lengths of the sequences it worked on, in tokens, together.
            seconds: how long it took.
        """
        feature = np.array([1.0, fed, context]) / _SCALE
        seconds = min(seconds, SURPRISE * self.predict(fed, context))
        self._squares = self._forgetting * self._squares + np.outer(feature, feature)
        self._products = self._forgetting * self._products + feature * seconds
        # The guess may be wrong by orders of magnitude; held on to are only its proportions.
        self._seen = self._forgetting * self._seen + seconds
        self._guessed = self._forgetting * self._guessed + float(self._guess @ feature)
        anchor = self._guess * (self._seen / self._guessed)
        fitted = _fit(self._squares + _CAUTION * np.eye(3), self._products + _CAUTION * anchor) / _SCALE
        base, per_fed, per_context = (float(value) for value in fitted)
        self._speed = Speed(base, per_fed, per_context, self._speed.samples + 1)


def _fit(squares: Vector, products: Vector) -> Vector:
    """Return x ≥ 0 that minimises x·squares·x / 2 - products·x, exactly: with three unknowns all cases are tried."""
    best, least = np.zeros(3), 0.0
    for count in (3, 2, 1):
        for chosen in combinations(range(3), count):
            part = np.ix_(chosen, chosen)
            x = np.zeros(3)
            x[list(chosen)] = np.linalg.solve(squares[part], products[list(chosen)])
            if x.min() < 0:
                continue
            cost = float(x @ squares @ x / 2 - products @ x)
            if cost < least:
                best, least = x, cost
        if count == 3 and least < 0:
            break  # the minimum of all x is itself not negative
    return best
