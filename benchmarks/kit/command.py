"""How a measurement runs as a command: a person sees progress and errors, and the result as text or as JSON."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeVar

import msgspec
from rich.console import Console

from benchmarks.kit.error import BenchError
from sled.errors import FAILED

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

T = TypeVar("T")


def conduct(
    options: argparse.Namespace,
    run: Callable[[argparse.Namespace, Console], T],
    show: Callable[[T, Console], object],
    conclude: Callable[[T, Console], int],
    *,
    data: Callable[[T], object] = lambda result: result,
) -> int:
    """Measure and print; return the exit code.

    Args:
        options: as they were given; `json` says how to print.
        run: measures, and shows on standard error how far it is.
        show: prints the result for a person.
        conclude: says on standard error what else should be known, and returns the exit code.
        data: what of the result is printed as JSON.
    """
    console = Console(stderr=True)
    try:
        result = run(options, console)
    except BenchError as error:
        print(f"sled: {error}", file=sys.stderr)  # noqa: T201
        return FAILED
    if options.json:
        print(msgspec.json.encode(data(result)).decode())  # noqa: T201
    else:
        show(result, Console())
    return conclude(result, console)
