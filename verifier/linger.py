"""A moment's wait before a step that only reads prompts. Pure.

A device publishes a session's context and its first bundle one behind the other. A step that begins between the two
reads the prompt and chooses nothing, and the bundle then needs a step of its own: on a small machine a tenth of a
second more until the first token.
"""

from __future__ import annotations

from typing import Final

SECONDS: Final = 0.02
"""What lies between a context and its bundle on their way through a broker is a few milliseconds at most."""


class Linger:
    """Says how long to wait with a step. Times are seconds of any monotonic clock."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._since: float | None = None

    def until(self, now: float, *, reading: bool) -> float | None:
        """Return when to look again, or None to begin at once; asked whenever a step could begin.

        Args:
            now: the time.
            reading: whether the step would only read prompts that it has not begun to read.
        """
        if not reading:
            self._since = None
            return None
        if self._since is None:
            self._since = now
        end = self._since + self._seconds
        if now < end:
            return end
        self._since = None
        return None
