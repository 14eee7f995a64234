"""Whose request is taken next: nobody keeps the operator's side busy for all others. Safe between threads."""

from __future__ import annotations

import threading


class Turns:
    """Lets an identity have one request at a time, and a rest after each.

    Args:
        most: identities whose requests may be under way; as many of those that rest are remembered. Who is forgotten
            for that rests for less.
        rest: seconds from an answer until the next request of the same identity is taken.
    """

    def __init__(self, most: int, rest: float) -> None:
        self._most = most
        self._rest = rest
        self._lock = threading.Lock()
        self._busy: set[str] = set()
        self._resting: dict[str, float] = {}  # until when, the first to end first

    def take(self, identity: str, now: float) -> bool:
        """Begin with a request; False if this identity has one under way or rests, or too many others have one.

        Args:
            identity: that asks.
            now: seconds of a clock that never goes back.
        """
        with self._lock:
            if identity in self._busy or self._resting.get(identity, now) > now or len(self._busy) >= self._most:
                return False
            self._busy.add(identity)
            return True

    def end(self, identity: str, now: float) -> None:
        """Say that a request that was taken has been dealt with."""
        with self._lock:
            self._busy.discard(identity)
            self._resting.pop(identity, None)
            self._resting[identity] = now + self._rest
            while self._resting:
                oldest = next(iter(self._resting))
                if self._resting[oldest] > now and len(self._resting) <= self._most:
                    break
                del self._resting[oldest]
