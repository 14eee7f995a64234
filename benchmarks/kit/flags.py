"""Options that several measurements share, and what they stand for."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from schemas.messages import Ask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.kit.prompts import Prompt


def add_prompts(parser: argparse.ArgumentParser, *, required: bool = False, max_tokens: int = 64) -> None:
    """Add what is asked: `--prompts`, `--limit` and `--max-tokens`."""
    what = 'JSON Lines file; each line has a "prompt", and perhaps a "source" by which results are given too'
    parser.add_argument(
        "--prompts", type=Path, required=required, help=what if required else f"{what} (default: a few built-in ones)"
    )
    parser.add_argument("--limit", type=positive, help="take only the first so many prompts")
    parser.add_argument(
        "--max-tokens", type=positive, default=max_tokens, help=f"length of an answer at most (default {max_tokens})"
    )


def add_system(parser: argparse.ArgumentParser) -> None:
    """Add what answers: `--target`, `--drafter`, `--broker` and `--logs`."""
    parser.add_argument("--target", help="target model: a folder, a hub id, or nothing for SmolLM2-135M-Instruct")
    parser.add_argument(
        "--drafter",
        action="append",
        help="as for `sled agent`; given again, the next takes over when one fails (default: lookup+ the drafter that "
        "comes with sled, where that fits, else the target's int8 export)",
    )
    parser.add_argument("--broker", choices=("auto", "mosquitto", "embedded"), default="auto", help="which broker")
    parser.add_argument("--logs", type=Path, help="folder in which to keep the logs of the processes")


def add_policy(parser: argparse.ArgumentParser, default: str) -> None:
    """Add `--policy`."""
    parser.add_argument("--policy", type=policy, default=default, help=f"when to stop drafting (default {default})")


def add_dtype(parser: argparse.ArgumentParser, what: str = "what the verifier computes in") -> None:
    """Add `--dtype`, with its help."""
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help=what)


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add `--json`."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def add_threads(parser: argparse.ArgumentParser) -> None:
    """Add `--threads` of the target and `--draft-threads` of a device."""
    parser.add_argument(
        "--threads", type=positive, default=cores(), help=f"CPU threads of the target (default {cores()}, one per core)"
    )
    parser.add_argument(
        "--draft-threads", type=positive, default=1, help="CPU threads with which a device drafts (default 1)"
    )


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """Add how the target chooses: `--temperature`, `--top-k`, `--top-p` and `--seed`."""
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    parser.add_argument("--top-k", type=int, default=0, help="0 keeps all (default)")
    parser.add_argument("--top-p", type=float, default=1.0, help="1 keeps all (default)")
    parser.add_argument("--seed", type=int, default=0, help="of the first prompt; the next has the next (default 0)")


def asks(options: argparse.Namespace, prompts: Sequence[Prompt]) -> list[Ask]:
    """Return one ask for each prompt; number i (from 0) is sampled with the seed S + i, so that none share noise."""
    return [
        Ask(
            id=f"prompt-{number}",
            prompt=prompt.prompt,
            max_tokens=options.max_tokens,
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            seed=options.seed + number,
        )
        for number, prompt in enumerate(prompts)
    ]


def positive(text: str) -> int:
    """Read a whole number from 1 on."""
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def natural(text: str) -> int:
    """Read a whole number from 0 on."""
    value = int(text)
    if value < 0:
        raise ValueError(text)
    return value


def policy(text: str) -> str:
    """See that `text` names a draft policy: a typing mistake should not show only after a model was loaded."""
    from edge_agent.policy import parse_policy  # noqa: PLC0415 -- only where one is named

    try:
        parse_policy(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def find_target(name: str | None) -> Path:
    """Return the folder of the target, which is fetched if need be."""
    from models.pull import pull_target  # noqa: PLC0415 -- brings torch

    return pull_target(name)


def find_drafters(chosen: list[str] | None, target: Path) -> tuple[str, ...]:
    """Return what a device drafts with: what was chosen, or else what `sled agent` takes for this target."""
    from models.default import default_choice  # noqa: PLC0415 -- brings torch
    from models.export import export_drafter  # noqa: PLC0415 -- likewise

    if chosen:
        return tuple(chosen)
    return (default_choice(target) or str(export_drafter(target)),)
