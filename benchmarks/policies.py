"""Draft policies beside each other, at several round-trip times, with a real drafter and real verdicts.

    sled bench policies --prompts FILE.jsonl --limit 20 --round-trips 5 50 200

A broker, a verifier and one device for each policy run as processes on this machine; the devices reach the broker
through a link that delays every byte by half the round-trip time (`benchmarks.kit.link`). One device is asked at a
time, and the policies answer each prompt one after the other, in an order that changes from prompt to prompt;
whose turn it is not sleeps. At each round-trip time every policy first answers some prompts that are not counted:
timers settle then, and the cost-aware policy measures and calibrates.

The round-trip time comes on top of what broker and machine need. Drafter and target share the cores of this machine,
so that tokens drafted while a verdict is awaited are not free here, as they would be on a device of its own.
"""

from __future__ import annotations

import argparse
import sys
from statistics import median
from typing import TYPE_CHECKING, Final

import msgspec
from rich.box import SIMPLE
from rich.table import Table

from benchmarks.kit import flags
from benchmarks.kit.asking import Written, write_one
from benchmarks.kit.command import conduct
from benchmarks.kit.drafting import Drafting
from benchmarks.kit.link import Link
from benchmarks.kit.policies_at import add_policies_at
from benchmarks.kit.progress import Bars
from benchmarks.kit.prompts import Prompt, prompts_of, warm_up
from benchmarks.kit.timing import Timing
from benchmarks.kit.turns import rotated
from schemas.messages import Ask
from sled.client import Client
from sled.errors import NOT_IDENTICAL
from sled.fleet import Device, Fleet, FleetOptions
from sled.rounds import Rounds, ratio

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rich.console import Console

POLICIES: Final = (
    "cost-aware",
    "fixed:2",
    "fixed:4",
    "fixed:8",
    "confidence:0.5",
    "confidence:0.7",
    "entropy:2.0",
    "margin:0.2",
)
ROUND_TRIPS_MS: Final = (5.0, 50.0, 200.0)

_HEADINGS: Final = (
    "tokens\nper s",
    "ratio",
    "accepted\nlength",
    "draft\nlength",
    "accept-\nance",
    "ms per\nround",
    "re-\nsends",
)


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One policy at one round-trip time.

    Attributes:
        ratio: its tokens per second over those of the first policy at this round-trip time.
        median_ratio: likewise, the median over the prompts.
        tokens_per_second: of whole answers, as the app sees it.
        decode_tokens_per_second: after the first tokens.
        mean_accepted_length: tokens committed per round, bonus included, tokens of runs left out.
        drafting: by the device's metrics; resent rounds are not among its rounds.
        texts: the answers' tokens are those of the first policy at the first round-trip time, so many times.
    """

    round_trip_ms: float
    policy: str
    tokens_per_second: float
    ratio: float
    median_ratio: float
    decode_tokens_per_second: float
    ttft_ms: float
    mean_accepted_length: float
    mean_draft_length: float
    acceptance_rate: float
    tokens: int
    rounds: int
    resends: int
    drafting: Drafting
    texts: int


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured, and on what."""

    target: str
    dtype: str
    drafter: str
    broker: str
    max_tokens: int
    warm_up: int
    cores: int
    threads: int
    draft_threads: int


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What is printed: rows by round-trip time, then in the order of the policies."""

    prompts: int
    rows: list[Row]
    settings: Settings


class Round(msgspec.Struct, frozen=True):
    """What was seen at one round-trip time, by policy: answers in the order of the prompts, and metrics."""

    round_trip_ms: float
    written: dict[str, list[Written]]
    drafting: dict[str, Drafting]


# What was seen, added up ------------------------------------------------------------------------------------------


def summarise(seen: Sequence[Round]) -> list[Row]:
    """Return one row for each policy at each round-trip time."""
    first = next(iter(seen[0].written.values()))
    texts = [answer.tokens for answer in first]
    return [
        _row(each, policy, answers, next(iter(each.written.values())), texts)
        for each in seen
        for policy, answers in each.written.items()
    ]


def _row(
    seen: Round, policy: str, answers: Sequence[Written], first: Sequence[Written], texts: Sequence[tuple[int, ...]]
) -> Row:
    timing = sum((answer.timing for answer in answers), Timing())
    base = sum((answer.timing for answer in first), Timing())
    rounds = Rounds.of([answer.statistics for answer in answers])
    return Row(
        round_trip_ms=seen.round_trip_ms,
        policy=policy,
        tokens_per_second=timing.rate,
        ratio=ratio(timing.rate, base.rate),
        median_ratio=median(
            ratio(own.timing.rate, other.timing.rate) for own, other in zip(answers, first, strict=True)
        ),
        decode_tokens_per_second=timing.decode_rate,
        ttft_ms=1e3 * timing.ttft,
        mean_accepted_length=rounds.mean_accepted_length,
        mean_draft_length=rounds.mean_draft_length,
        acceptance_rate=rounds.acceptance_rate,
        tokens=rounds.tokens,
        rounds=rounds.rounds,
        resends=rounds.resends,
        drafting=seen.drafting[policy],
        texts=sum(answer.tokens == text for answer, text in zip(answers, texts, strict=True)),
    )


def wrong(result: Result) -> int:
    """Return how many answers differ from others to the same prompt where they must not: in float32."""
    return sum(result.prompts - row.texts for row in result.rows) if result.settings.dtype == "float32" else 0


# Taking turns -----------------------------------------------------------------------------------------------------


class Bench:
    """Devices by policy, the fleet they are part of, and the link they share."""

    def __init__(self, fleet: Fleet, client: Client, link: Link, devices: Mapping[str, str], max_tokens: int) -> None:
        self._fleet = fleet
        self._client = client
        self._link = link
        self._devices = devices
        self._max_tokens = max_tokens

    def measure(
        self, round_trip_ms: float, beginning: Sequence[Prompt], prompts: Sequence[Prompt], bars: Bars
    ) -> Round:
        """Have every policy answer every prompt at a round-trip time, after those to begin with."""
        self._link.delay = round_trip_ms / 2e3
        self._take_turns(beginning, bars.step(f"{round_trip_ms:g} ms, warming up", len(beginning)))
        before = self._metrics()
        written = self._take_turns(prompts, bars.step(f"{round_trip_ms:g} ms", len(prompts)))
        after = self._metrics()
        drafting = {policy: Drafting.between(before[policy], after[policy]) for policy in self._devices}
        return Round(round_trip_ms, written, drafting)

    def _take_turns(self, prompts: Sequence[Prompt], advance: Callable[[], None]) -> dict[str, list[Written]]:
        written: dict[str, list[Written]] = {policy: [] for policy in self._devices}
        for number, prompt in enumerate(prompts):
            ask = Ask(prompt=prompt.prompt, max_tokens=self._max_tokens)
            for policy, device in rotated(list(self._devices.items()), number):
                written[policy].append(write_one(self._fleet, self._client, device, ask))
            advance()
        return written

    def _metrics(self) -> dict[str, dict[str, float]]:
        return {policy: self._fleet.device_metrics(device) for policy, device in self._devices.items()}


def run(options: argparse.Namespace, console: Console) -> Result:
    """Start everything, measure, and add up.

    Raises:
        BenchError: the prompts cannot be read, or a request failed.
        FleetError: a role did not start.
        ProcessEndedError: a role ended.
    """
    prompts = prompts_of(options.prompts, options.limit)
    target = flags.find_target(options.target)
    drafters = flags.find_drafters(options.drafter, target)
    names = {policy: f"device-{number}" for number, policy in enumerate(options.policies, 1)}
    with Link() as link:
        devices = tuple(
            Device(name, drafters, policy, broker=str(link.address), threads=options.draft_threads)
            for policy, name in names.items()
        )
        fleet = Fleet(
            FleetOptions(
                target,
                devices,
                options.dtype,
                options.broker,
                logs=options.logs,
                threads=options.threads,
                device="cpu",
            )
        )
        link.upstream = fleet.address
        with fleet, Client(fleet.address) as client:
            with console.status("starting the devices and the verifier …"):
                fleet.wait(client)
            bench = Bench(fleet, client, link, names, options.max_tokens)
            with Bars(console) as bars:
                beginning = warm_up(options.warm_up)
                seen = [bench.measure(each, beginning, prompts, bars) for each in options.round_trips]
        engine = fleet.engine
    settings = Settings(
        target=target.name,
        dtype=options.dtype,
        drafter=" ".join(drafters),
        broker=engine,
        max_tokens=options.max_tokens,
        warm_up=options.warm_up,
        cores=flags.cores(),
        threads=options.threads,
        draft_threads=options.draft_threads,
    )
    return Result(prompts=len(prompts), rows=summarise(seen), settings=settings)


# The command ------------------------------------------------------------------------------------------------------


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="sled bench policies",
        description="Draft policies beside each other at several round-trip times: one device for each, one of them "
        "asked at a time, in turns prompt by prompt, through a link that delays what they send and receive. Ratios are "
        "to the first policy. Ends with 3 if a float32 answer depends on the policy.",
    )
    add_policies_at(parser, POLICIES, ROUND_TRIPS_MS)
    flags.add_prompts(parser)
    flags.add_system(parser)
    flags.add_dtype(parser)
    flags.add_threads(parser)
    parser.add_argument(
        "--warm-up",
        type=flags.natural,
        default=4,
        help="prompts that every policy answers first at each round-trip time, uncounted (default 4)",
    )
    flags.add_json(parser)
    options = parser.parse_args(arguments)
    if len(set(options.policies)) < len(options.policies):
        parser.error("a policy is named twice in --policies: name each once")
    return options


def _show(result: Result, console: Console) -> None:
    settings = result.settings
    console.print(
        f"{settings.target} in {settings.dtype}; {settings.drafter}; {settings.broker}; {result.prompts} prompts, at "
        f"most {settings.max_tokens} tokens each, after {settings.warm_up} to warm up\n"
        f"threads of {settings.cores} cores: verifier {settings.threads}, drafter {settings.draft_threads}",
        highlight=False,
    )
    for round_trip in dict.fromkeys(row.round_trip_ms for row in result.rows):
        table = Table(box=SIMPLE, pad_edge=False, title=f"round-trip time {round_trip:g} ms")
        table.add_column("policy", no_wrap=True)
        for heading in _HEADINGS:
            table.add_column(heading, justify="right")
        for row in result.rows:
            if row.round_trip_ms == round_trip:
                table.add_row(
                    row.policy,
                    f"{row.tokens_per_second:.2f}",
                    f"{row.ratio:.2f}",
                    f"{row.mean_accepted_length:.2f}",
                    f"{row.mean_draft_length:.2f}",
                    f"{row.acceptance_rate:.0%}",
                    f"{row.drafting.mean_ms_per_round:.0f}",
                    f"{row.resends}",
                )
        console.print(table)


def _conclude(result: Result, console: Console) -> int:
    if not wrong(result):
        return 0
    console.print(
        f"{wrong(result)} answers differ from the first policy's to the same prompt: `sled bench lossless` finds "
        "out which is not the target's",
        highlight=False,
    )
    return NOT_IDENTICAL


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 0, or 3 if a float32 answer depends on the policy, or 1 if it cannot be measured."""
    return conduct(_parse(sys.argv[1:] if arguments is None else arguments), run, _show, _conclude)


if __name__ == "__main__":
    sys.exit(main())
