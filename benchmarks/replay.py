"""What a drafter and a policy bring on many texts, at several round-trip times, on a virtual clock.

    sled bench replay --prompts FILE.jsonl --max-tokens 128 --policies cost-aware fixed:4 --round-trips 5 50 200

The target first writes all answers by itself, many at once, greedily: its text is the same whoever drafts, so every
verdict is known. Then the device's own session, policy and drafter write each answer again. Drafting takes the time
that it takes, measured here; a round takes the round-trip time and the target's step as it was measured here, alone on
this machine. So device and server have machines of their own, as in use, and nothing else disturbs. What a network, a
busy server and its hints add is what `sled bench policies`, `speedup` and `faults` are for.
"""

from __future__ import annotations

import argparse
import sys
import time
from statistics import median
from typing import TYPE_CHECKING, Final

import msgspec
from rich.box import SIMPLE
from rich.table import Table

from benchmarks.kit import flags
from benchmarks.kit.command import conduct
from benchmarks.kit.policies_at import add_policies_at
from benchmarks.kit.progress import Bars
from benchmarks.kit.prompts import Prompt, prompts_of, warm_up
from benchmarks.kit.virtual import Costs, Text, Virtual, VirtualDevice
from sled.rounds import Rounds, ratio

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from rich.console import Console

    from edge_agent.drafters.drafter import Drafter
    from edge_agent.tokenizer import ChatTokenizer
    from verifier.engine.engine import Engine

_AT_ONCE: Final = 32
_TRIES: Final = 9
_KV_BYTES: Final = 1 << 30
_HEADINGS: Final = (
    "prompts", "accepted\nlength", "draft\nlength", "accept-\nance", "ms per\ndraft", "tokens\nper s", "of\nalone",
)  # fmt: skip


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured, and on what."""

    target: str
    dtype: str
    drafter: str
    max_tokens: int
    warm_up: int
    threads: int
    draft_threads: int


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One policy at one round-trip time, over the prompts of one source, or of all (`source` is empty).

    Attributes:
        mean_accepted_length: tokens committed per round, the target's own included, those of runs left out.
        mean_draft_length: draft tokens per round.
        acceptance_rate: accepted of the drafted.
        ms_per_draft_token: the largest of the medians of what drafts together.
        tokens_per_second: of whole answers, reading the prompt included, on the virtual clock.
        of_alone: that rate by that of the target writing by itself on the server, without a network.
    """

    round_trip_ms: float
    policy: str
    source: str
    prompts: int
    tokens: int
    rounds: int
    mean_accepted_length: float
    mean_draft_length: float
    acceptance_rate: float
    ms_per_draft_token: float
    tokens_per_second: float
    of_alone: float


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What is printed; costs are in seconds."""

    costs: Costs
    rows: list[Row]
    settings: Settings


# What the target does ---------------------------------------------------------------------------------------------


def answers(
    engine: Engine, tokenizer: ChatTokenizer, prompts: Sequence[Prompt], max_tokens: int, advance: Callable[[], None]
) -> list[Text]:
    """Have the target answer all prompts, greedily, many at once; in the order of the prompts."""
    from models.distill.answers import Start, write  # noqa: PLC0415 -- brings torch

    starts = [
        Start(tuple(tokenizer.encode_chat([{"role": "user", "content": each.prompt}])), max_tokens) for each in prompts
    ]
    written: dict[int, tuple[int, ...]] = {}
    for start, tokens in write(engine, starts, batch=_AT_ONCE):
        written[id(start)] = tuple(tokens)
        advance()
    return [
        Text(start.tokens, answer, answer[-1] in engine.end_tokens, prompt.source)
        for start, prompt in zip(starts, prompts, strict=True)
        if (answer := written.get(id(start)))  # none where the prompt fills the target's context
    ]


def measure_costs(engine: Engine, text: Text) -> Costs:
    """Time the target's steps behind one text, medians of some, taking turns."""
    from verifier.engine.segment import Segment  # noqa: PLC0415 -- brings torch

    few, many, session = 1, 9, b"costs---"
    sequence = [*text.prompt, *text.answer]
    sequence = (sequence * (1 + 256 // len(sequence)))[: min(256, engine.context_length - many)]
    times: dict[int, list[float]] = {few: [], many: [], len(sequence): []}
    for _ in range(_TRIES):
        for fed, each in times.items():
            if fed == len(sequence):
                engine.release(session)
                end, choose = fed, 1
            else:
                engine.step([Segment(session, sequence, 1)])
                end, choose = len(sequence) + fed, fed
            began = time.perf_counter()
            engine.step([Segment(session, (sequence * 2)[:end], choose)])
            each.append(time.perf_counter() - began)
    engine.release(session)
    one, nine, all_of_them = (median(each) for each in times.values())
    return Costs(one, max(0.0, (nine - one) / (many - few)), all_of_them / len(sequence))


# What a device does -----------------------------------------------------------------------------------------------


def row(seen: Sequence[Virtual], round_trip_ms: float, policy: str, source: str) -> Row:
    """Add up some answers."""
    rounds, seconds = Rounds.of(seen), sum(each.seconds for each in seen)
    times: dict[str, list[float]] = {}
    for drafter, took in (each for one in seen for each in one.draft_times):
        times.setdefault(drafter, []).append(took)
    return Row(
        round_trip_ms=round_trip_ms,
        policy=policy,
        source=source,
        prompts=len(seen),
        tokens=rounds.tokens,
        rounds=rounds.rounds,
        mean_accepted_length=rounds.mean_accepted_length,
        mean_draft_length=rounds.mean_draft_length,
        acceptance_rate=rounds.acceptance_rate,
        ms_per_draft_token=round(1e3 * max(map(median, times.values()), default=0.0), 3),
        tokens_per_second=ratio(rounds.tokens, seconds),
        of_alone=ratio(sum(each.alone for each in seen), seconds),
    )


def rows(
    device: VirtualDevice,
    texts: Sequence[Text],
    beginning: Sequence[Text],
    policy: str,
    advance: Callable[[], None],
) -> list[Row]:
    """Have a device answer some texts uncounted and then all others; return a row for all and one for each source."""
    for text in beginning:
        device.write(text)
        advance()
    seen = []
    for text in texts:
        seen.append(device.write(text))
        advance()
    round_trip_ms = 1e3 * device.round_trip
    found = [row(seen, round_trip_ms, policy, "")]
    for source in dict.fromkeys(text.source for text in texts if text.source):
        of_it = [each for each, text in zip(seen, texts, strict=True) if text.source == source]
        found.append(row(of_it, round_trip_ms, policy, source))
    return found


def open_device_drafter(drafters: Sequence[str], tokenizer: ChatTokenizer, target: Path, threads: int) -> Drafter:
    """Open the drafters as `sled agent` does.

    Raises:
        DrafterError: none of them works.
    """
    from edge_agent.drafters.spec import open_drafter, parse_drafter  # noqa: PLC0415 -- brings onnxruntime

    return open_drafter(
        [parse_drafter(text) for text in drafters],
        threads=threads,
        vocab_limit=tokenizer.vocab_size,
        tokenizer=tokenizer.canonical_json,
        target=target,
    )


def run(options: argparse.Namespace, console: Console) -> Result:
    """Have the target write, then the devices.

    Raises:
        BenchError: the prompts cannot be read.
        DrafterError: no drafter works.
        EngineError: the target cannot be loaded.
    """
    from edge_agent.policy import parse_policy  # noqa: PLC0415
    from edge_agent.tokenizer import ChatTokenizer  # noqa: PLC0415
    from verifier.engine.load import load_engine  # noqa: PLC0415 -- brings torch

    prompts = prompts_of(options.prompts, options.limit)
    target = flags.find_target(options.target)
    drafters = flags.find_drafters(options.drafter, target)
    tokenizer = ChatTokenizer.load(target)
    with console.status("loading the target …"):
        engine = load_engine(
            target, dtype=options.dtype, device="cpu", kv_budget_bytes=_KV_BYTES, threads=options.threads
        )
    with Bars(console) as bars:
        beginning = warm_up(options.warm_up)
        total = len(beginning) + len(prompts)
        advance = bars.step("the target writes", total)
        first = answers(engine, tokenizer, beginning, options.max_tokens, advance)
        texts = answers(engine, tokenizer, prompts, options.max_tokens, advance)
        costs = measure_costs(engine, max([*first, *texts], key=lambda text: len(text.answer)))
        found = []
        for milliseconds in options.round_trips:
            for policy in options.policies:
                device = VirtualDevice(  # a drafter learns from texts, as a policy does: each begins anew
                    open_device_drafter(drafters, tokenizer, target, options.draft_threads),
                    parse_policy(policy),
                    costs,
                    round_trip=milliseconds / 1e3,
                    vocab_size=engine.vocab_size,
                    end_tokens=engine.end_tokens,
                )
                step = bars.step(f"{milliseconds:g} ms, {policy}", len(first) + len(texts))
                found += rows(device, texts, first, policy, step)
    settings = Settings(
        target=target.name,
        dtype=options.dtype,
        drafter=" ".join(drafters),
        max_tokens=options.max_tokens,
        warm_up=options.warm_up,
        threads=options.threads,
        draft_threads=options.draft_threads,
    )
    return Result(costs=costs, rows=found, settings=settings)


# The command ------------------------------------------------------------------------------------------------------


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="sled bench replay",
        description="What a drafter and draft policies bring on many texts: the target writes them first, then the "
        "device's session, policy and drafter write them again on a virtual clock, on which drafting takes the time it "
        "takes here and a round the round-trip time and the target's measured step.",
    )
    add_policies_at(parser, ("cost-aware",), (5.0,))
    flags.add_prompts(parser, max_tokens=128)
    parser.add_argument("--target", help="target model: a folder, a hub id, or nothing for SmolLM2-135M-Instruct")
    parser.add_argument("--drafter", action="append", help="as for `sled agent`")
    flags.add_dtype(parser, "what the target computes in")
    flags.add_threads(parser)
    parser.add_argument(
        "--warm-up", type=flags.natural, default=6, help="prompts that are answered first, uncounted (default 6)"
    )
    flags.add_json(parser)
    return parser.parse_args(arguments)


def _show(result: Result, console: Console) -> None:
    settings, costs = result.settings, result.costs
    console.print(
        f"{settings.target} in {settings.dtype}, {settings.threads} threads: {1e3 * costs.step:.1f} ms a step, "
        f"{1e3 * costs.position:.1f} ms for each further token, {1e3 * costs.reading:.1f} ms for one of a prompt\n"
        f"{settings.drafter}, {settings.draft_threads} threads; at most {settings.max_tokens} tokens each, after "
        f"{settings.warm_up} prompts to warm up",
        highlight=False,
    )
    for round_trip in dict.fromkeys(each.round_trip_ms for each in result.rows):
        table = Table("policy", "source", box=SIMPLE, pad_edge=False, title=f"round-trip time {round_trip:g} ms")
        for heading in _HEADINGS:
            table.add_column(heading, justify="right")
        for each in result.rows:
            if each.round_trip_ms == round_trip:
                table.add_row(
                    each.policy,
                    each.source or "all",
                    f"{each.prompts}",
                    f"{each.mean_accepted_length:.2f}",
                    f"{each.mean_draft_length:.2f}",
                    f"{each.acceptance_rate:.0%}",
                    f"{each.ms_per_draft_token:.1f}",
                    f"{each.tokens_per_second:.1f}",
                    f"{each.of_alone:.2f}",
                )
        console.print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 0, or 1 if it cannot be measured."""
    return conduct(_parse(sys.argv[1:] if arguments is None else arguments), run, _show, lambda *_: 0)


if __name__ == "__main__":
    sys.exit(main())
