"""Milliseconds per drafted token of an ONNX drafter: by context, threads, and kind of cache.

`python -m benchmarks.draft_token FOLDER [--contexts 64 200 512] [--threads 1 2] [--tokens 40] [--json]`

The cache extended in place (`shared`) and the one copied for each token (`copied`) take turns token by token, so that
both meet the same noise of the machine; their ratio says more than either time.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from rich.console import Console
from rich.table import Table

from edge_agent.drafters.drafter import DrafterError
from edge_agent.drafters.onnx import OnnxDrafter

if TYPE_CHECKING:
    from collections.abc import Sequence


class Measurement(msgspec.Struct, frozen=True):
    """One row of the result.

    Attributes:
        threads: cores one token may use.
        context: tokens before the first drafted one.
        prefill_ms: time to read the context and draft the first token, once.
        shared_ms: median time of a token with the cache extended in place; None where the graph does not allow it.
        copied_ms: median time of a token with the cache copied.
    """

    threads: int
    context: int
    prefill_ms: float
    shared_ms: float | None
    copied_ms: float

    @property
    def ratio(self) -> float | None:
        """How many times faster the shared cache is."""
        return self.copied_ms / self.shared_ms if self.shared_ms else None


def measure(folder: Path, *, threads: int, contexts: Sequence[int], tokens: int) -> list[Measurement]:
    """Time `tokens` drafted tokens after each context of random tokens.

    Raises:
        DrafterError: the drafter cannot be loaded, or a context is longer than it reads.
    """
    copied = OnnxDrafter(folder, threads=threads, share=False)
    shared = OnnxDrafter(folder, threads=threads)
    drafters = [copied, shared] if shared.shared_cache else [copied]
    results = []
    for context in contexts:
        sequence = random.Random(context).choices(range(copied.vocab_size), k=context)
        first = time.perf_counter()
        token = drafters[-1].propose(sequence).token
        prefill = time.perf_counter() - first
        copied.propose(sequence)
        times: list[list[float]] = [[] for _ in drafters]
        for _ in range(tokens):
            sequence.append(token)
            for drafter, spent in zip(drafters, times, strict=True):
                start = time.perf_counter()
                token = drafter.propose(sequence).token
                spent.append(time.perf_counter() - start)
        medians = [statistics.median(spent) * 1e3 for spent in times]
        in_place = medians[1] if len(medians) > 1 else None
        results.append(Measurement(threads, context, prefill * 1e3, in_place, medians[0]))
    return results


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print a table, or JSON with `--json`; returns the exit code."""
    parser = argparse.ArgumentParser(prog="draft_token", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="the drafter's folder")
    parser.add_argument("--contexts", type=int, nargs="+", default=[64, 200, 512, 900])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--tokens", type=int, default=40, help="drafted tokens per measurement")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    chosen = parser.parse_args(argv)
    try:
        results = [
            result
            for threads in chosen.threads
            for result in measure(chosen.folder, threads=threads, contexts=chosen.contexts, tokens=chosen.tokens)
        ]
    except DrafterError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if chosen.json:
        sys.stdout.write(msgspec.json.encode(results).decode() + "\n")
    else:
        Console().print(_table(chosen.folder.name, results))
    return 0


def _table(name: str, results: Sequence[Measurement]) -> Table:
    table = Table(title=f"Drafting with {name}, ms per token (median)")
    for heading in ("threads", "context", "prefill", "shared", "copied", "copied / shared"):
        table.add_column(heading, justify="right")
    for result in results:
        table.add_row(
            str(result.threads),
            str(result.context),
            f"{result.prefill_ms:.0f}",
            f"{result.shared_ms:.1f}" if result.shared_ms is not None else "-",
            f"{result.copied_ms:.1f}",
            f"{result.ratio:.2f}" if result.ratio is not None else "-",
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
