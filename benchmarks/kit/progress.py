"""Telling a waiting person how far a measurement is, without disturbing it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from rich.console import Console


class Bars:
    """Progress bars that are drawn only when they advance: a thread that draws would take time from what is timed."""

    def __init__(self, console: Console) -> None:
        from rich import progress as bars  # noqa: PLC0415 -- slow to import, and only for people

        columns = (
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TimeRemainingColumn(),
        )
        self._bars = bars.Progress(*columns, console=console, auto_refresh=False)

    def step(self, name: str, total: int) -> Callable[[], None]:
        """Add a bar and return what advances it by one; callable from any thread."""
        task = self._bars.add_task(name, total=total)
        self._bars.refresh()

        def advance() -> None:
            self._bars.advance(task)
            self._bars.refresh()

        return advance

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()
