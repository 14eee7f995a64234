"""A bar for steps that take hours: time left, and a remark that may change on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

    from rich.console import Console
    from rich.progress import TaskID


class LongProgress:
    """Shows each step as a bar with the time left; used as `with LongProgress() as progress:`.

    What follows a colon in a step is a remark (`Training: 2.10 held-out tokens a round`); a new one does not begin a
    new bar.
    """

    def __init__(self, console: Console | None = None) -> None:
        from rich import progress as bars  # noqa: PLC0415 - slow to import, and only for a terminal

        columns = (
            bars.SpinnerColumn(),
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.TaskProgressColumn(),
            bars.TimeElapsedColumn(),
            bars.TimeRemainingColumn(),
        )
        # The speed of an hour says more about the hours to come than that of the last seconds.
        self._bars = bars.Progress(*columns, console=console, speed_estimate_period=3600)
        self._task: TaskID | None = None
        self._name = ""

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._close()
        self._bars.stop()

    def __call__(self, step: str, done: int, total: int | None) -> None:
        """Advance the step's bar, or finish the previous step and begin another."""
        name = step.partition(":")[0]
        if self._task is None or name != self._name:
            self._close()
            self._name = name
            self._task = self._bars.add_task(step, total=total, completed=done)
        self._bars.update(self._task, description=step, completed=done, total=total)

    def _close(self) -> None:
        if self._task is not None:
            total = self._bars.tasks[-1].total or 1
            self._bars.update(self._task, completed=total, total=total)
