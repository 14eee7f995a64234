"""How much a packed verify step costs beside a padded forward that reads no cache.

Both run in turns in one process, so that a noisy machine hits both; medians and their ratio are printed. The padded
forward [sessions, tokens] is what the same arithmetic costs with nothing to remember; the rest is the price of
attending to 64 to 900 tokens of context per session, of packing and of choosing.

    sled bench verify-step --dtype bfloat16
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from statistics import median
from typing import TYPE_CHECKING

import torch
from transformers import AttentionInterface
from transformers.utils.logging import disable_progress_bar

from models.pull import pull_target
from verifier.engine.attention import NAME, packed_attention
from verifier.engine.checkpoint import load_model
from verifier.engine.choose import choose_greedy
from verifier.engine.packed import PackedEngine
from verifier.engine.segment import Segment

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from transformers import PreTrainedModel

_SHORTEST, _LONGEST = 64, 900
"""Contexts are spread evenly from the one to the other."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit code."""
    options = _parser().parse_args(argv)
    disable_progress_bar()
    model = load_model(pull_target(options.target), dtype=options.dtype, device=options.device, threads=options.threads)
    engine = PackedEngine(model, kv_budget_bytes=options.kv_budget_mib << 20)
    segments = _segments(engine.vocab_size, options.sessions, options.tokens)
    padded = torch.randint(3, engine.vocab_size, (options.sessions, options.tokens), device=model.device)
    for segment in segments:
        engine.step([segment])

    packed_times, padded_times = [], []
    for repetition in range(options.repetitions + 1):
        model.set_attn_implementation("sdpa")
        forward = _timed(lambda: _forward(model, padded))
        model.set_attn_implementation(NAME)
        step = _timed(lambda: engine.step(segments))
        if repetition:  # the first warms up
            padded_times.append(forward)
            packed_times.append(step)
    parts = _breakdown(engine, model, segments, max(3, options.repetitions // 3))
    results: dict[str, object] = {
        "dtype": options.dtype,
        "device": str(model.device),
        "threads": torch.get_num_threads(),
        "sessions": options.sessions,
        "tokens": options.tokens,
        "packed_ms": 1e3 * median(packed_times),
        "padded_ms": 1e3 * median(padded_times),
        "ratio": median(packed_times) / median(padded_times),
        "breakdown_ms": parts,
    }
    print(json.dumps(results) if options.json else _table(results, parts))  # noqa: T201
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks.verify_step", description=__doc__.partition("\n")[0])
    parser.add_argument("--target", help="folder or name of the target (default: SmolLM2-135M-Instruct)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--sessions", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=5, help="tokens fed and chosen per session")
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--kv-budget-mib", type=int, default=4096)
    parser.add_argument("--json", action="store_true")
    return parser


def _segments(vocab_size: int, sessions: int, tokens: int) -> list[Segment]:
    """Return sessions of all lengths in a random order, as they would arrive."""
    chance = random.Random(7)
    span = _LONGEST - _SHORTEST
    contexts = [_SHORTEST + span * index // max(1, sessions - 1) for index in range(sessions)]
    chance.shuffle(contexts)
    return [
        Segment(index.to_bytes(8, "big"), [chance.randrange(3, vocab_size) for _ in range(context + tokens)], tokens)
        for index, context in enumerate(contexts)
    ]


@torch.inference_mode()
def _forward(model: PreTrainedModel, tokens: torch.Tensor) -> None:
    """One forward over [B, T] with logits at every position and no cache."""
    model(input_ids=tokens, use_cache=False)


def _timed(work: Callable[[], object]) -> float:
    """Seconds that `work` takes, what it left running on a GPU included."""
    began = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _breakdown(
    engine: PackedEngine, model: PreTrainedModel, segments: Sequence[Segment], repetitions: int
) -> dict[str, float]:
    """Return medians in milliseconds of the parts of a step, from steps of their own (timing them costs a little)."""
    spent: dict[str, float] = {}
    began = 0.0

    def attend(*args: object, **arguments: object) -> object:
        at = time.perf_counter()
        out = packed_attention(*args, **arguments)  # type: ignore[arg-type]
        spent["attention"] = spent.get("attention", 0.0) + time.perf_counter() - at
        return out

    def head_begins(*_: object) -> None:
        nonlocal began
        began = time.perf_counter()

    def head_ends(*_: object) -> None:
        spent["lm_head"] = time.perf_counter() - began

    head = model.get_output_embeddings()
    hooks = [head.register_forward_pre_hook(head_begins), head.register_forward_hook(head_ends)]
    AttentionInterface.register(NAME, attend)
    rounds: list[dict[str, float]] = []
    for _ in range(repetitions):
        spent.clear()
        logits: list[torch.Tensor] = []
        total = _timed(lambda: logits.extend(engine.step_with_logits(segments)[1]))  # noqa: B023 - called at once
        rows = torch.cat(logits)
        spent["choose"] = _timed(lambda: choose_greedy(rows))  # noqa: B023 - called at once
        spent["rest"] = total - sum(spent.values())
        rounds.append(dict(spent))
    AttentionInterface.register(NAME, packed_attention)
    for hook in hooks:
        hook.remove()
    return {name: 1e3 * median(each[name] for each in rounds) for name in rounds[0]}


def _table(results: dict[str, object], parts: dict[str, float]) -> str:
    title = (
        f"{results['dtype']} on {results['device']}, {results['threads']} threads, "
        f"{results['sessions']} sessions of {results['tokens']} tokens, contexts {_SHORTEST} to {_LONGEST}"
    )
    return "\n".join(
        [
            title,
            f"packed verify step  {results['packed_ms']:8.1f} ms",
            f"padded forward      {results['padded_ms']:8.1f} ms (no cache)",
            f"ratio               {results['ratio']:8.2f}",
            "of the step: " + ", ".join(f"{name} {value:.1f} ms" for name, value in parts.items()),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
