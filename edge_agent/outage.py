"""How long a session waits for answers before it makes do without the verifier, and how it does.

The thresholds are the SLED paper's: so many rounds in a row without an answer, within so many seconds. While the link
or the verifier is known to be away no round is sent; then the time that those rounds would have taken counts, so that a
link that is back at once changes nothing.
"""

from __future__ import annotations

from collections import deque
from enum import StrEnum

from msgspec import Struct


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
        window: … within so many seconds are an outage.

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
    """

    def __init__(self, rules: OutageRules) -> None:
        self.rules = rules
        self.counting = False
        self.fallen_back = False
        self._failures: deque[float] = deque(maxlen=rules.failures)
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

    def failed(self, now: float) -> bool:
        """Note, at a time in seconds, a round without an answer; say whether that makes an outage."""
        self._failures.append(now)
        enough = len(self._failures) == self.rules.failures and now - self._failures[0] <= self.rules.window
        self.fallen_back |= enough and not self.stalls
        return enough

    def absent(self, now: float) -> None:
        """Note that the time of a round has passed without link or verifier."""
        self._absences += 1
        self.counting = not self.failed(now)

    def patience(self, timeout: float) -> float:
        """Return after how many seconds absence counts as a round without an answer.

        Like the timer of rounds it doubles from one to the next; and it never takes longer than the window.

        Args:
            timeout: of a round sent now, in seconds.
        """
        return min(timeout * 2.0**self._absences, self.rules.window / self.rules.failures)

    def over(self) -> None:
        """There is an answer, or link and verifier are back: count from the beginning."""
        self._failures.clear()
        self._absences = 0
        self.counting = False
        self.fallen_back = False
