"""Telling a waiting person how far a long step is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from types import TracebackType

    from rich.console import Console
    from rich.progress import TaskID


class Progress(Protocol):
    """Called as a long step advances; must return at once."""

    def __call__(self, step: str, done: int, total: int | None) -> None:
        """Show progress.

        Args:
            step: what is being done, as a person would say it; a new text means a new step.
            done: how much of it is done, in the unit of `total`.
            total: how much there is (bytes, percent, files); None while that is not known.
        """
        ...


def silent(step: str, done: int, total: int | None) -> None:
    """Show nothing."""


class RichProgress:
    """Shows each step as a bar on a terminal; used as `with RichProgress() as progress:`."""

    def __init__(self, console: Console | None = None) -> None:
        from rich import progress as bars  # noqa: PLC0415 - slow to import, and only for a terminal

        columns = (
            bars.SpinnerColumn(),
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.TaskProgressColumn(),
            bars.TimeElapsedColumn(),
        )
        self._bars = bars.Progress(*columns, console=console)
        self._step = ""
        self._task: TaskID | None = None
        self._total: int | None = None

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._close_step()
        self._bars.stop()

    def __call__(self, step: str, done: int, total: int | None) -> None:
        """Advance the step's bar, or finish the previous step and begin another."""
        if self._task is None or step != self._step:
            self._close_step()
            self._step = step
            self._task = self._bars.add_task(step, total=total)
        self._total = total
        self._bars.update(self._task, completed=done, total=total)

    def _close_step(self) -> None:
        if self._task is not None:
            total = self._total or 1
            self._bars.update(self._task, completed=total, total=total)
