"""Shows an answer that may be revised: on a terminal as it stands, elsewhere only what is final."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from rich.live import Live
from rich.text import Text

from schemas.messages import DoneEvent, ReviseEvent, TokenEvent

if TYPE_CHECKING:
    from types import TracebackType

    from rich.console import Console

    from schemas.messages import AnswerEvent


class Screen:
    """Draws provisional text dimly, and again when it is taken back. Into a pipe goes only what stays.

    Args:
        console: to write to.
        redraw: whether text may be taken back; without it, it is written as it comes.
    """

    def __init__(self, console: Console, *, redraw: bool) -> None:
        self._console = console
        self._redraw = redraw and console.is_terminal
        self._live = Live(console=console, auto_refresh=False, vertical_overflow="visible")
        self._text = ""
        self._final = 0

    def __enter__(self) -> Self:
        if self._redraw:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def show(self, event: AnswerEvent) -> None:
        """Take in an event as `sled.client` yields it."""
        before = self._final
        if isinstance(event, TokenEvent):
            self._text += event.text
            if not event.provisional:
                self._final = max(before, event.offset + len(event.text))
        elif isinstance(event, ReviseEvent):
            self._text = self._text[: event.offset] + event.text
            self._final = len(self._text)
        elif isinstance(event, DoneEvent):
            self._final = len(self._text)
        if self._redraw:
            self._live.update(Text(self._text[: self._final]).append(self._text[self._final :], "dim"), refresh=True)
            return
        self._console.file.write(self._text[before : self._final])
        if isinstance(event, DoneEvent):
            self._console.file.write("\n")
        self._console.file.flush()
