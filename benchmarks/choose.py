"""How much choosing the tokens of a verify step costs, beside the step itself.

One packed step runs over sessions that read English prose, so that its logits are as peaked as real ones; then the
tokens of all its positions are chosen again from those logits, greedily and under several samplings. Both run in turns
in one process, so that a noisy machine hits both; medians are printed, and each sampling's share of the step.

    sled bench choose --dtype float32
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pydoc_data.topics import topics
from statistics import median
from typing import TYPE_CHECKING, TypeVar

import torch
from transformers import AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from models.pull import pull_target
from schemas.messages import GREEDY, Sampling
from verifier.engine.checkpoint import load_model
from verifier.engine.choose import Row, choose
from verifier.engine.packed import PackedEngine
from verifier.engine.segment import Segment

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Result = TypeVar("Result")

_SHORTEST, _LONGEST = 64, 900
"""Contexts are spread evenly from the one to the other."""

_SAMPLINGS = {
    "greedy": GREEDY,
    "top-k 50, T 0.8": Sampling(0.8, top_k=50),
    "top-k 50, top-p 0.95, T 0.8": Sampling(0.8, top_k=50, top_p=0.95),
    "top-p 0.95, T 0.8": Sampling(0.8, top_p=0.95),
    "top-p 0.95, T 1.0": Sampling(1.0, top_p=0.95),
    "top-p 0.95, T 1.5": Sampling(1.5, top_p=0.95),
    "T 0.8": Sampling(0.8),
    "T 1.0": Sampling(1.0),
    "T 1.5": Sampling(1.5),
}


def main(arguments: list[str]) -> int:
    """Measure and print; returns the exit code."""
    options = _parser().parse_args(arguments)
    disable_progress_bar()
    folder = pull_target(options.target)
    model = load_model(folder, dtype=options.dtype, device=options.device, threads=options.threads)
    engine = PackedEngine(model, kv_budget_bytes=options.kv_budget_mib << 20)
    segments = _segments(_prose(folder), engine.context_length, options.sessions, options.tokens)
    for segment in segments:
        engine.step([segment])

    steps: list[float] = []
    times: dict[str, list[float]] = {name: [] for name in _SAMPLINGS}
    for repetition in range(options.repetitions + 1):
        step, logits = _timed(lambda: torch.cat(engine.step_with_logits(segments)[1]))
        spent = {name: _timed(lambda: choose(logits, _rows(segments, how)))[0] for name, how in _SAMPLINGS.items()}  # noqa: B023 - called at once
        if repetition:  # the first warms up
            steps.append(step)
            for name, seconds in spent.items():
                times[name].append(seconds)
    results = {
        "dtype": options.dtype,
        "device": str(model.device),
        "threads": torch.get_num_threads(),
        "sessions": options.sessions,
        "tokens": options.tokens,
        "vocabulary": engine.vocab_size,
        "step_ms": 1e3 * median(steps),
        "choose_ms": {name: 1e3 * median(each) for name, each in times.items()},
        "share": {name: median(each) / median(steps) for name, each in times.items()},
    }
    print(json.dumps(results) if options.json else _table(results, times))  # noqa: T201
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks.choose", description=__doc__.partition("\n")[0])
    parser.add_argument("--target", help="folder or name of the target (default: SmolLM2-135M-Instruct)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--sessions", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=5, help="tokens chosen per session")
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--kv-budget-mib", type=int, default=4096)
    parser.add_argument("--json", action="store_true")
    return parser


def _prose(folder: Path) -> list[int]:
    """Return token ids of the Python manual, the English that is at hand everywhere."""
    text = "\n".join(topics[name] for name in sorted(topics))[:200_000]
    return list(AutoTokenizer.from_pretrained(folder)(text, verbose=False)["input_ids"])


def _segments(prose: list[int], context_length: int, sessions: int, tokens: int) -> list[Segment]:
    """Return sessions of all lengths that read different pages."""
    longest = min(_LONGEST, context_length - tokens)
    shortest = min(_SHORTEST, longest)
    lengths = [shortest + (longest - shortest) * i // max(1, sessions - 1) + tokens for i in range(sessions)]
    page = (len(prose) - max(lengths)) // sessions
    return [
        Segment(i.to_bytes(8, "big"), prose[i * page : i * page + length], tokens) for i, length in enumerate(lengths)
    ]


def _rows(segments: list[Segment], how: Sampling) -> list[Row]:
    """Return the positions of a step as if all its sessions sampled in one way, each with a seed of its own."""
    return [
        Row(segment.session, Sampling(how.temperature, how.top_k, how.top_p, number), len(segment.tokens) + index)
        for number, segment in enumerate(segments)
        for index in range(segment.choose)
    ]


def _timed(work: Callable[[], Result]) -> tuple[float, Result]:
    """Return the seconds that `work` takes, what it left running on a GPU included, and its result."""
    began = time.perf_counter()
    result = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began, result


def _table(results: dict[str, object], times: dict[str, list[float]]) -> str:
    step, shares, spent = results["step_ms"], results["share"], results["choose_ms"]
    assert isinstance(shares, dict)
    assert isinstance(spent, dict)
    title = (
        f"{results['dtype']} on {results['device']}, {results['threads']} threads, {results['sessions']} sessions of "
        f"{results['tokens']} tokens, {results['vocabulary']} ids"
    )
    lines = [f"{name:<28}{spent[name]:8.1f} ms {100 * shares[name]:7.1f} %" for name in times]
    return "\n".join([title, f"{'packed verify step':<28}{step:8.1f} ms", *lines])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
