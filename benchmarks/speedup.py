"""How many times faster one device answers than the target alone, with everything on this machine.

    sled bench speedup --prompts FILE.jsonl --limit 50 --max-tokens 128

A broker, a verifier and one device run as processes of their own. "Alone" is the target without any of them, in this
process: by plain `generate`, and by our own engine without drafts, one token at a time. All three answer every prompt,
one after the other, in an order that changes from prompt to prompt, so that a machine that becomes slower becomes so
for all; who is not asked sleeps. The ratio is to the faster of the two ways to run the target alone.

A rate is tokens per second of whole answers, from the asking (in this process, so a device's includes MQTT both ways)
to the last token, reading the prompt included. Decode rates leave out the first tokens and the time to them. The
target has the same threads wherever it runs; the device's drafter has its own.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final, Protocol

import msgspec
from rich.box import SIMPLE
from rich.table import Table

from benchmarks.kit import flags
from benchmarks.kit.answer import Answer
from benchmarks.kit.asking import write_one
from benchmarks.kit.command import conduct
from benchmarks.kit.comparison import Comparison, Turn, by_source, compare
from benchmarks.kit.drafting import Drafting
from benchmarks.kit.progress import Bars
from benchmarks.kit.prompts import Prompt, prompts_of, warm_up
from benchmarks.kit.record import Recorded, read_record
from benchmarks.kit.turns import rotated
from schemas.messages import Ask, Statistics
from sled.client import Client
from sled.errors import NOT_IDENTICAL
from sled.fleet import Device, Fleet, FleetOptions
from sled.rounds import ratio

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import Console

_DEVICE: Final = "device"
_PARTS: Final = (
    "prompts", "ratio", "median", "decode\nratio", "accepted\nlength", "draft\nlength", "accept-\nance", "same",
)  # fmt: skip


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured, and on what."""

    target: str
    dtype: str
    drafter: str
    policy: str
    broker: str
    max_tokens: int
    warm_up: int
    cores: int
    threads: int
    verifier_threads: int
    draft_threads: int


class Result(Comparison, frozen=True, kw_only=True):
    """What is printed: a comparison over all prompts, and its parts.

    Attributes:
        ms_per_draft_token: median over the tokens that were sent, by the device's record.
        drafting: by the device's metrics.
        sources: the same for the prompts of each source, where they name one.
        settings: what was measured.
    """

    ms_per_draft_token: float
    drafting: Drafting
    sources: dict[str, Comparison]
    settings: Settings


def draft_token_ms(drafts: Sequence[Recorded]) -> float:
    """Return the median time of a draft token in milliseconds; 0 without any."""
    return 1e3 * median([token.seconds for draft in drafts for token in draft.proposals] or [0.0])


def wrong(result: Result) -> int:
    """Return how many answers are not what they must be: in float32, exactly what `generate` writes."""
    return result.prompts - result.identical if result.settings.dtype == "float32" else 0


# Taking turns -----------------------------------------------------------------------------------------------------


class Writer(Protocol):
    """Somebody who answers prompts."""

    def write(self, prompt: str) -> Answer:
        """Answer one prompt."""
        ...


class OnDevice:
    """The whole system, asked as an app would ask."""

    def __init__(self, fleet: Fleet, client: Client, max_tokens: int) -> None:
        self._fleet = fleet
        self._client = client
        self._max_tokens = max_tokens
        self.statistics: Statistics | None = None

    def write(self, prompt: str) -> Answer:
        """Answer one prompt, and keep what the device counted."""
        written = write_one(self._fleet, self._client, _DEVICE, Ask(prompt=prompt, max_tokens=self._max_tokens))
        self.statistics = written.statistics
        return Answer(written.tokens, written.text, written.timing)


def take_turns(
    device: OnDevice, generate: Writer, engine: Writer, prompts: Sequence[Prompt], advance: Callable[[], None]
) -> list[Turn]:
    """Have all three answer each prompt; who begins changes."""
    writers: list[tuple[str, Writer]] = [("device", device), ("generate", generate), ("engine", engine)]
    turns = []
    for number, prompt in enumerate(prompts):
        answers = {name: writer.write(prompt.prompt) for name, writer in rotated(writers, number)}
        assert device.statistics is not None
        turns.append(Turn(prompt, statistics=device.statistics, **answers))
        advance()
    return turns


def run(options: argparse.Namespace, console: Console) -> Result:
    """Start everything, measure, and add up.

    Raises:
        BenchError: the prompts cannot be read, or a request failed.
        FleetError: a role did not start.
        ProcessEndedError: a role ended.
    """
    from benchmarks.kit.alone import load_alone  # noqa: PLC0415 -- brings torch

    prompts = prompts_of(options.prompts, options.limit)
    target = flags.find_target(options.target)
    drafters = flags.find_drafters(options.drafter, target)
    with console.status("loading the target …"):
        generate, engine = load_alone(target, options.dtype, options.threads, options.max_tokens)
    with tempfile.TemporaryDirectory(prefix="sled-") as scratch:
        record = Path(scratch) / "verdicts.jsonl"
        device = Device(_DEVICE, drafters, options.policy, record, threads=options.draft_threads)
        fleet_options = FleetOptions(
            target,
            (device,),
            options.dtype,
            options.broker,
            logs=options.logs,
            threads=options.verifier_threads or options.threads,
            device="cpu",
        )
        with Fleet(fleet_options) as fleet, Client(fleet.address) as client:
            with console.status("starting the device and the verifier …"):
                fleet.wait(client)
            on_device = OnDevice(fleet, client, options.max_tokens)
            with Bars(console) as bars:
                beginning = warm_up(options.warm_up)
                take_turns(on_device, generate, engine, beginning, bars.step("warming up", len(beginning)))
                metrics, rounds = fleet.device_metrics(_DEVICE), len(read_record(record))
                turns = take_turns(on_device, generate, engine, prompts, bars.step("answering", len(prompts)))
                drafting = Drafting.between(metrics, fleet.device_metrics(_DEVICE))
        drafts = read_record(record)[rounds:]
    return Result(
        **msgspec.structs.asdict(compare(turns)),
        ms_per_draft_token=draft_token_ms(drafts),
        drafting=drafting,
        sources=by_source(turns),
        settings=_settings(options, target, drafters, fleet),
    )


def _settings(options: argparse.Namespace, target: Path, drafters: Sequence[str], fleet: Fleet) -> Settings:
    return Settings(
        target=target.name,
        dtype=options.dtype,
        drafter=" ".join(drafters),
        policy=options.policy,
        broker=fleet.engine,
        max_tokens=options.max_tokens,
        warm_up=options.warm_up,
        cores=flags.cores(),
        threads=options.threads,
        verifier_threads=options.verifier_threads or options.threads,
        draft_threads=options.draft_threads,
    )


# The command ------------------------------------------------------------------------------------------------------


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="sled bench speedup",
        description="How many times faster one device answers than the target alone, with everything on this machine. "
        "The device, plain `generate` and our engine without drafts take turns prompt by prompt; the ratio is to the "
        "faster of the latter two. Ends with 3 if a float32 answer is not what `generate` writes.",
    )
    flags.add_prompts(parser)
    flags.add_system(parser)
    flags.add_policy(parser, "cost-aware")
    flags.add_dtype(parser, "what the target computes in, everywhere")
    flags.add_threads(parser)
    parser.add_argument(
        "--verifier-threads",
        type=flags.positive,
        help="of the target in the verifier, if not as many: it shares the machine with the drafter",
    )
    parser.add_argument(
        "--warm-up", type=flags.natural, default=3, help="prompts that each answers first, uncounted (default 3)"
    )
    flags.add_json(parser)
    return parser.parse_args(arguments)


def _show(result: Result, console: Console) -> None:
    settings, drafting = result.settings, result.drafting
    console.print(
        f"{settings.target} in {settings.dtype}; {settings.drafter}, {settings.policy}; {settings.broker}\n"
        f"threads of {settings.cores} cores: target alone {settings.threads}, verifier {settings.verifier_threads}, "
        f"drafter {settings.draft_threads}",
        highlight=False,
    )
    speeds = Table(
        "", box=SIMPLE, pad_edge=False, title=f"{result.prompts} prompts, at most {settings.max_tokens} tokens each"
    )
    for heading in ("tokens\nper s", "ratio", "decode\nper s", "TTFT\nms", "tokens", "seconds"):
        speeds.add_column(heading, justify="right")
    alone = max(result.generate.tokens_per_second, result.engine.tokens_per_second)
    for name, speed in (
        ("device", result.device),
        ("alone, generate", result.generate),
        ("alone, our engine", result.engine),
    ):
        speeds.add_row(
            name,
            f"{speed.tokens_per_second:.2f}",
            f"{ratio(speed.tokens_per_second, alone):.2f}",
            f"{speed.decode_tokens_per_second:.2f}",
            f"{speed.ttft_ms:.0f}",
            f"{speed.tokens}",
            f"{speed.seconds:.1f}",
        )
    console.print(speeds)
    parts = Table("source", box=SIMPLE, pad_edge=False, title="the device's rounds")
    for heading in _PARTS:
        parts.add_column(heading, justify="right")
    for name, each in [*result.sources.items(), ("all", result)]:
        parts.add_row(
            name,
            f"{each.prompts}",
            f"{each.ratio:.2f}",
            f"{each.median_ratio:.2f}",
            f"{each.decode_ratio:.2f}",
            f"{each.mean_accepted_length:.2f}",
            f"{each.mean_draft_length:.2f}",
            f"{each.acceptance_rate:.0%}",
            f"{each.identical}",
        )
    console.print(parts)
    console.print(
        f"{result.ms_per_draft_token:.1f} ms per draft token ({drafting.computed} drafted, {result.drafted} judged), "
        f"{drafting.mean_ms_per_round:.1f} ms from bundle to verdict, {result.rounds} rounds, {result.resends} resends",
        highlight=False,
    )


def _conclude(result: Result, console: Console) -> int:
    if not wrong(result):
        return 0
    console.print(
        f"{wrong(result)} of {result.prompts} answers are not what the target alone writes: "
        "`sled bench lossless` finds where",
        highlight=False,
    )
    return NOT_IDENTICAL


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 0, or 3 if a float32 answer is not the target's, or 1 if it cannot be measured."""
    return conduct(_parse(sys.argv[1:] if arguments is None else arguments), run, _show, _conclude)


if __name__ == "__main__":
    sys.exit(main())
