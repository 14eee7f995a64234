"""Telling a waiting person how far a long step is."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from rich.console import Console
    from rich.progress import TaskID

WARNING = "Warning: "
"""What begins a sentence that a person should read at once."""

_LINE_SECONDS = 60.0
"""Between lines about the same step, where there is no terminal to draw a bar on."""


class Progress(Protocol):
    """Called as a long step advances; must return at once."""

    def __call__(self, step: str, done: int, total: int | None) -> None:
        """Show progress.

        Args:
            step: what is being done, as a person would say it; a new text means a new step. What follows a colon is a
                remark (`Training: 2.10 held-out tokens a round`): a new one belongs to the same step. A text that
                begins with `WARNING` is no step but a sentence, and the step before it goes on.
            done: how much of it is done, in the unit of `total`.
            total: how much there is (bytes, percent, files); None while that is not known.
        """
        ...


def silent(step: str, done: int, total: int | None) -> None:
    """Show nothing."""


class RichProgress:
    """Shows each step as a bar with the time left; used as `with RichProgress() as progress:`.

    Where the console is no terminal (a log file), lines are written: as a step begins, once a minute with the time
    left, and as it ends.

    Args:
        console: where to show it; standard output if None.
        clock: seconds that only grow.
    """

    def __init__(self, console: Console | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        from rich import get_console  # noqa: PLC0415 - slow to import, and only for people
        from rich import progress as bars  # noqa: PLC0415 - likewise

        self._console = console or get_console()
        columns = (
            bars.SpinnerColumn(),
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.TaskProgressColumn(),
            bars.TimeElapsedColumn(),
            bars.TimeRemainingColumn(),
        )
        # The speed of an hour says more about the hours to come than that of the last seconds.
        self._bars = bars.Progress(
            *columns, console=self._console, speed_estimate_period=3600, disable=not self._console.is_terminal
        )
        self._clock = clock
        self._name = ""
        self._task: TaskID | None = None
        self._total: int | None = None
        self._lines = _Lines(self._console, clock)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._close_step()
        self._lines.close()
        self._bars.stop()

    def __call__(self, step: str, done: int, total: int | None) -> None:
        """Advance the step's bar, or finish the previous step and begin another."""
        if step.startswith(WARNING):
            self._console.print(step, markup=False, highlight=False, soft_wrap=True)
            return
        if not self._console.is_terminal:
            self._lines(step, done, total)
            return
        name = step.partition(":")[0]
        if self._task is None or name != self._name:
            self._close_step()
            self._name = name
            self._task = self._bars.add_task(step, total=total, completed=done)
        self._total = total
        self._bars.update(self._task, description=step, completed=done, total=total)

    def _close_step(self) -> None:
        if self._task is not None:
            total = self._total or 1
            self._bars.update(self._task, completed=total, total=total)


class _Lines:
    """The same as lines of text: the beginning of a step, once a minute how far it is, and how it ended."""

    def __init__(self, console: Console, clock: Callable[[], float]) -> None:
        self._console = console
        self._clock = clock
        self._name = ""
        self._began = self._shown = 0.0
        self._first = 0
        self._unseen: str | None = None

    def __call__(self, step: str, done: int, total: int | None) -> None:
        name, now = step.partition(":")[0], self._clock()
        new = name != self._name
        if new:
            self.close()
            self._name, self._began, self._first = name, now, done
        self._unseen = step + self._far(done, total, now)
        if new or now - self._shown >= _LINE_SECONDS:
            self._shown = now
            self.close()

    def close(self) -> None:
        """Show what was not shown yet."""
        if self._unseen is not None:
            self._console.print(self._unseen, markup=False, highlight=False, soft_wrap=True)
            self._unseen = None

    def _far(self, done: int, total: int | None, now: float) -> str:
        if not total or not done:
            return ""
        far = f", {100 * done / total:.0f} %"
        if done >= total or done <= self._first or now <= self._began:
            return far
        minutes = (total - done) * (now - self._began) / (done - self._first) / 60
        return f"{far}, about {minutes:.0f} min left"
