"""How long to wait for a verdict: smoothed round-trip time and its variance, with exponential back-off."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

GAIN = 1 / 8
VARIANCE_GAIN = 1 / 4
DEVIATIONS = 4


class RoundTrip:
    """The retransmission timer of RFC 6298, for rounds instead of segments.

    Durations are in seconds. Karn's rule is the caller's: rounds that were sent again are not observed.
    """

    def __init__(
        self,
        *,
        first: float = 2.0,
        least: float = 0.2,
        most: float = 30.0,
        tell: Callable[[float], None] | None = None,
    ) -> None:
        """Start without a sample.

        Args:
            first: the timeout before any round was observed, and the least for one that is unlike those observed.
            least: the shortest timeout.
            most: the longest timeout, back-off included.
            tell: is told every sample too.
        """
        self._tell = tell
        self._least = least
        self._most = most
        self.first = first
        self._smoothed: float | None = None
        self._variance = 0.0
        self._backoff = 1.0

    @property
    def smoothed(self) -> float | None:
        """The smoothed round-trip time, or None before the first sample."""
        return self._smoothed

    def observe(self, sample: float) -> None:
        """Take in the round-trip time of a round that was sent once, and end any back-off."""
        if self._tell is not None:
            self._tell(sample)
        if self._smoothed is None:
            self._smoothed = sample
            self._variance = sample / 2
        else:
            self._variance += VARIANCE_GAIN * (abs(sample - self._smoothed) - self._variance)
            self._smoothed += GAIN * (sample - self._smoothed)
        self._backoff = 1.0

    def back_off(self) -> None:
        """Double the timeout, after a round that got no answer in time."""
        self._backoff = min(self._backoff * 2, 64.0)

    def timeout(self, floor: float = 0.0) -> float:
        """Return how long to wait now; never below `floor`, the verifier's announced round time, whatever `most` is."""
        base = self.first if self._smoothed is None else self._smoothed + DEVIATIONS * self._variance
        return max(min(max(base, floor, self._least) * self._backoff, self._most), floor)
