"""Answers as they stream: one after the other, or those of several devices side by side."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Protocol, Self

from rich.columns import Columns
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from rich.console import Console


class Stage(Protocol):
    """Where answers appear. Devices may call from threads of their own."""

    def begin(self, device: str, prompt: str) -> None:
        """A device was asked."""
        ...

    def add(self, device: str, text: str) -> None:
        """More of its answer."""
        ...

    def end(self, device: str) -> None:
        """Its answer is complete."""
        ...


class Scroll:
    """One device's answers below each other, as a terminal has always shown text.

    Args:
        console: where to.
    """

    def __init__(self, console: Console) -> None:
        self._console = console

    def begin(self, device: str, prompt: str) -> None:  # noqa: ARG002 -- there is only one
        """Show the prompt."""
        self._console.print()
        self._console.print(f"> {prompt}", style="bold", markup=False, highlight=False)

    def add(self, device: str, text: str) -> None:  # noqa: ARG002
        """Show more of the answer."""
        self._console.out(text, end="", highlight=False)

    def end(self, device: str) -> None:  # noqa: ARG002
        """End the line."""
        self._console.print()


class SideBySide:
    """Several devices' answers beside each other, each in a panel of its own, redrawn as they grow.

    Args:
        console: where to; one that is no terminal sees the last state only.
        titles: what to call each device, by name.
    """

    def __init__(self, console: Console, titles: Sequence[tuple[str, str]]) -> None:
        self._titles = dict(titles)
        self._texts = {name: Text() for name in self._titles}
        self._lock = threading.Lock()
        self._console = console
        self._live = Live(console=console, get_renderable=self._draw, refresh_per_second=8)

    def begin(self, device: str, prompt: str) -> None:
        """Show the prompt."""
        with self._lock:
            text = self._texts[device]
            text.append("\n\n" if text else "")
            text.append(f"> {prompt}\n", style="bold")

    def add(self, device: str, text: str) -> None:
        """Show more of the answer."""
        with self._lock:
            self._texts[device].append(text)

    def end(self, device: str) -> None:
        """Nothing to do: the panel stays."""

    def _draw(self) -> Columns:
        width = max(24, self._console.width // len(self._titles) - 1)
        with self._lock:
            panels = [
                Panel(self._texts[name].copy(), title=title, title_align="left", width=width)
                for name, title in self._titles.items()
            ]
        return Columns(panels)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()
