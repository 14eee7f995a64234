"""How long a session waits for answers before it makes do without the verifier, and how it does.

The thresholds are the SLED paper's: so many rounds in a row without an answer, within so many seconds. While the link
or the verifier is known to be away no round is sent; then the time that those rounds would have taken counts, so that a
link that is back at once changes nothing.

Before a session makes do it looks for another verifier: after `SILENCE` rounds without an answer, or at the threshold
if that is lower. One that takes over gets as many rounds, unless it was silent itself since the last answer.
"""

from __future__ import annotations

from collections import deque
from enum import StrEnum
from typing import Final

from msgspec import Struct

SILENCE: Final = 2
"""Rounds in a row without an answer after which another verifier is looked for."""


class OutageMode(StrEnum):
    """What a session does when the verifier does not answer.

    `STALL` waits. `RELEASE` makes drafted tokens final, as in the paper. `REVISE` shows drafted tokens and takes back
    what the verifier, once it answers again, does not confirm.
    """

    STALL = "stall"
    RELEASE = "release"
    REVISE = "revise"


class OutageRules(Struct, frozen=True):
    """When an outage begins, and what is done in it.

    Attributes:
        mode: what a session does.
        failures: so many rounds in a row without an answer …
        window: … within so many seconds, or as long as they waited if that is longer, are an outage.

    Raises:
        ValueError: a threshold is out of its range.
    """

    mode: OutageMode = OutageMode.STALL
    failures: int = 3
    window: float = 60.0

    def __post_init__(self) -> None:
        if self.failures < 1:
            raise ValueError(f"An outage takes at least 1 round without an answer, but {self.failures} was given.")
        if not 0 < self.window < float("inf"):
            raise ValueError(f"The window of an outage is a number of seconds above 0, but {self.window} was given.")


STALL = OutageRules()
"""Wait, whatever happens."""


class Outage:
    """Counts rounds without an answer, and says whether the session has fallen back on its drafts.

    Attributes:
        rules: thresholds and mode.
        counting: whether a timer runs that counts the absence of the link or the verifier.
        fallen_back: whether drafts are released or shown, because it was too many.
        hesitating: whether it was too many, but another verifier may yet take over.
    """

    def __init__(self, rules: OutageRules) -> None:
        self.rules = rules
        self.counting = False
        self.fallen_back = False
        self.hesitating = False
        self._failures: deque[tuple[float, float]] = deque(maxlen=rules.failures)
        self._count = 0
        self._silence = min(SILENCE, rules.failures)
        self._silent: set[str] = set()
        self._absences = 0

    @property
    def stalls(self) -> bool:
        """Whether the session waits, however long the outage."""
        return self.rules.mode is OutageMode.STALL

    @property
    def releasing(self) -> bool:
        """Whether drafts are final now."""
        return self.fallen_back and self.rules.mode is OutageMode.RELEASE

    @property
    def showing(self) -> bool:
        """Whether drafts are shown now, to be verified later."""
        return self.fallen_back and self.rules.mode is OutageMode.REVISE

    @property
    def doubtful(self) -> bool:
        """Whether another verifier is to be looked for."""
        return self._count >= self._silence

    @property
    def lasting(self) -> bool:
        """Whether the session makes do without the verifier, or is about to."""
        return self.fallen_back or self.hesitating

    def failed(self, now: float, waited: float = 0.0) -> bool:
        """Note a round without an answer; say whether that makes an outage.

        Args:
            now: in seconds.
            waited: for how long the answer was waited for, in seconds. The window is stretched to the sum of these, or
                many rounds with doubled patience would never fit into it.
        """
        self._failures.append((now, waited))
        self._count += 1
        window = max(self.rules.window, sum(seconds for _, seconds in self._failures))
        return len(self._failures) == self.rules.failures and now - self._failures[0][0] <= window

    def unanswered(self, verifier: str, now: float, waited: float) -> bool:
        """Note a round that a verifier has not answered, and fall back if it was too many; see `failed`.

        Where that is the first sign that the verifier does not answer, hesitate instead: the next call of `fall_back`
        is the caller's, if no other verifier has taken over by then.
        """
        doubted = self.doubtful
        enough = self.failed(now, waited)
        if self.doubtful:
            self._silent.add(verifier)
        if enough and self.doubtful and not doubted and not self.stalls:
            self.hesitating = True
        elif enough:
            self.fall_back()
        return enough

    def fall_back(self) -> None:
        """Make do from now on, if that is what the session is told to do."""
        self.hesitating = False
        self.fallen_back = not self.stalls

    def absent(self, now: float) -> None:
        """Note that the time of a round has passed without link or verifier."""
        self._absences += 1
        self.counting = not self.failed(now)
        if not self.counting:
            self.fall_back()

    def patience(self, timeout: float) -> float:
        """Return after how many seconds absence counts as a round without an answer.

        Like the timer of rounds it doubles from one to the next; and it never takes longer than the window.

        Args:
            timeout: of a round sent now, in seconds.
        """
        return min(timeout * 2.0**self._absences, self.rules.window / self.rules.failures)

    def over(self) -> None:
        """There is an answer, or link and verifier are back: count from the beginning."""
        self._silent.clear()
        self._silence = min(SILENCE, self.rules.failures)
        self._failures.clear()
        self._start_over()

    def moved(self, verifier: str) -> None:
        """Another verifier takes over: count from the beginning, unless it was silent since the last answer itself.

        Where all are silent, a session does not go from one to the next for ever without making do. And it stays with
        each for twice as many rounds as before: to read a long text may take long, and a move begins that anew.
        """
        if verifier in self._silent:
            self._silence *= 2
        else:
            self._failures.clear()
        self._start_over()

    def _start_over(self) -> None:
        self._count = 0
        self._absences = 0
        self.counting = False
        self.fallen_back = False
        self.hesitating = False
