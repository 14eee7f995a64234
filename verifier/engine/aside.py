"""Computing aside, on a thread that ends, so that the thread that steps has the cores to itself.

OpenMP keeps a team of threads for every thread that has computed. Once all teams together are more threads than there
are cores, each of them goes to sleep between any two loops, and a model has hundreds of loops: a step of SmolLM2-135M
on two cores then takes half as long again (128 instead of 78 ms). A team ends with its thread.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

R = TypeVar("R")


def aside(work: Callable[[], R]) -> R:
    """Return what `work` returns, or raise what it raises, once the thread that it ran on has ended."""
    with ThreadPoolExecutor(1, "aside") as thread:
        return thread.submit(work).result()
