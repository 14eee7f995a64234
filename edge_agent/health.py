"""Which verifiers a device doubts, and for how long.

Three things cast doubt on a verifier that is announced as online: its heartbeat, which progress of its engine
advances, stands still; rounds go unanswered; or it has refused work for now. A doubted verifier is used only if there
is no other. Doubt ends by itself, after a delay that grows while it keeps coming back, so that a verifier that
recovers is used again and one that does not is tried ever more rarely.
"""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct

STANDSTILL: Final = 16.0
"""Seconds without a new heartbeat number; a verifier announces one every five."""
FIRST_DELAY: Final = 5.0
LONGEST_DELAY: Final = 300.0
"""Seconds for which a verifier that does not answer is avoided: the first time, and at most."""


Complaint = Literal["silent", "busy", "standstill"]
"""Why a verifier is doubted: rounds went unanswered, it refused work for now, or its heartbeat stands still."""


class _Signs(Struct):
    """What was seen of one verifier.

    Attributes:
        beat: its run and its heartbeat number.
        since: when that was new, in seconds.
        avoided_until: in seconds.
        delay: how long it will be avoided the next time, in seconds.
        cause: why it is avoided, if it is.
    """

    beat: tuple[str, int]
    since: float
    avoided_until: float = float("-inf")
    delay: float = FIRST_DELAY
    cause: Complaint = "silent"


class Health:
    """The signs of life of the verifiers a device knows. Times are seconds of any monotonic clock."""

    def __init__(self) -> None:
        self._signs: dict[str, _Signs] = {}

    def heard(self, verifier: str, boot: str, heartbeat: int, now: float) -> None:
        """Take in an announcement. Another run of the verifier is another verifier: nothing is held against it."""
        signs = self._signs.get(verifier)
        if signs is None or signs.beat[0] != boot:
            self._signs[verifier] = _Signs((boot, heartbeat), now)
        elif signs.beat[1] != heartbeat:
            signs.beat, signs.since = (boot, heartbeat), now

    def listen_anew(self, now: float) -> None:
        """Nothing could be heard until now, so no heartbeat has stood still."""
        for signs in self._signs.values():
            signs.since = now

    def forget(self, verifier: str) -> None:
        """Its announcement was cleared."""
        self._signs.pop(verifier, None)

    def answered(self, verifier: str) -> None:
        """It serves: what was held against it is forgotten."""
        if (signs := self._signs.get(verifier)) is not None:
            signs.avoided_until, signs.delay = float("-inf"), FIRST_DELAY

    def failed(self, verifier: str, now: float) -> None:
        """Rounds went unanswered: avoid it, each time for twice as long."""
        if (signs := self._signs.get(verifier)) is not None and now >= signs.avoided_until:
            signs.avoided_until, signs.cause = now + signs.delay, "silent"
            signs.delay = min(2 * signs.delay, LONGEST_DELAY)

    def busy(self, verifier: str, seconds: float, now: float) -> None:
        """It asks to be left alone for so long."""
        until = now + min(seconds, LONGEST_DELAY)
        if (signs := self._signs.get(verifier)) is not None and until > signs.avoided_until:
            signs.avoided_until, signs.cause = until, "busy"

    def complaint(self, verifier: str, now: float) -> Complaint | None:
        """Say what is held against a verifier, if anything is."""
        signs = self._signs.get(verifier)
        if signs is None:
            return None
        if now < signs.avoided_until:
            return signs.cause
        return "standstill" if now - signs.since > STANDSTILL else None

    def doubtful(self, verifier: str, now: float) -> bool:
        """Whether to use another verifier if there is one."""
        return self.complaint(verifier, now) is not None
