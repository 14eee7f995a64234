"""Acceptance of draft tokens against confidence, entropy and margin, from real verdicts: figure 3 of the SLED paper.

    sled bench acceptance --prompts FILE.jsonl --limit 100 --out acceptance
    sled bench acceptance --from acceptance/verdicts-device-1.jsonl --out again

A broker, a verifier and some devices run as processes on this machine; the devices record what became of every draft
(`sled agent --record`). Of each draft the tokens up to and including the first rejected one count: those beyond it
were never judged. The policy decides how far drafts go and so which tokens are seen at all; a fixed length lets the
unsure ones through too, which a threshold would hold back.

Beside the rate in each bin there is, for each measure, the area under the ROC curve: the chance that of an accepted and
a rejected token the accepted one has the higher confidence (the lower entropy, the higher margin). 0.5 says nothing, 1
separates them fully.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
from rich.table import Table

from benchmarks.kit import flags
from benchmarks.kit.asking import write
from benchmarks.kit.command import conduct
from benchmarks.kit.error import BenchError
from benchmarks.kit.progress import Bars
from benchmarks.kit.prompts import prompts_of
from benchmarks.kit.record import Drafted, Recorded, read_record
from benchmarks.kit.separation import Bin, Sample, auc, bins
from sled.fleet import Device, Fleet, FleetOptions
from sled.rounds import ratio

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

MEASURES: Final = ("confidence", "entropy", "margin")
_NATS: Final = 0.5
"""The entropy axis ends at a multiple of this."""


class Judged(msgspec.Struct, frozen=True):
    """A draft token that the target has accepted or rejected."""

    draft: Drafted
    accepted: bool


class Measure(msgspec.Struct, frozen=True):
    """How acceptance depends on one measure.

    Attributes:
        auc: the chance that an accepted token looks surer than a rejected one; None without one of either.
        unusable: tokens whose measure was not a number.
        bins: of equal width.
    """

    auc: float | None
    unusable: int
    bins: list[Bin]


class Source(msgspec.Struct, frozen=True):
    """The tokens that one drafter, or one part of it, has proposed."""

    judged: int
    accepted: int
    acceptance_rate: float
    auc: dict[str, float | None]


class Result(msgspec.Struct, frozen=True):
    """What is written and printed.

    Attributes:
        rounds: verdicts that were recorded.
        judged: draft tokens that the target has accepted or rejected.
        measures: by name.
        sources: by the name of what proposed the tokens.
        settings: how they came about, as far as this run knows.
    """

    rounds: int
    judged: int
    accepted: int
    acceptance_rate: float
    measures: dict[str, Measure]
    sources: dict[str, Source]
    settings: dict[str, str | int | float]


# Records, added up ------------------------------------------------------------------------------------------------


def judged(record: Recorded) -> list[Judged]:
    """Return the tokens of a draft that were judged: the accepted ones, and the first rejected one if there is one."""
    return [
        Judged(draft, number < record.accepted) for number, draft in enumerate(record.proposals[: record.accepted + 1])
    ]


def summarise(records: Sequence[Recorded], count: int, settings: dict[str, str | int | float]) -> Result:
    """Add up all records, with `count` bins for each measure.

    Raises:
        BenchError: no draft token was judged.
    """
    every = [one for record in records for one in judged(record)]
    if not every:
        raise BenchError("no draft token was judged: ask more prompts, or use a drafter that has something to propose")
    sources = dict.fromkeys(one.draft.source for one in every)
    return Result(
        rounds=len(records),
        judged=len(every),
        accepted=sum(one.accepted for one in every),
        acceptance_rate=ratio(sum(one.accepted for one in every), len(every)),
        measures={name: _measure(every, name, count) for name in MEASURES},
        sources={source: _source([one for one in every if one.draft.source == source]) for source in sources},
        settings=settings,
    )


def _samples(every: Sequence[Judged], name: str) -> list[Sample]:
    values = ((getattr(one.draft, name), one.accepted) for one in every)
    return [(value, accepted) for value, accepted in values if value is not None]


def _auc(samples: Sequence[Sample], name: str) -> float | None:
    """As `auc`, of how sure the drafter was: the less entropy, the surer."""
    return auc([(-value, accepted) for value, accepted in samples] if name == "entropy" else samples)


def _measure(every: Sequence[Judged], name: str, count: int) -> Measure:
    samples = _samples(every, name)
    high = 1.0
    if name == "entropy":
        high = max(_NATS, _NATS * math.ceil(max((value for value, _ in samples), default=0.0) / _NATS))
    return Measure(_auc(samples, name), len(every) - len(samples), bins(samples, high, count))


def _source(every: Sequence[Judged]) -> Source:
    accepted = sum(one.accepted for one in every)
    return Source(
        len(every),
        accepted,
        ratio(accepted, len(every)),
        {name: _auc(_samples(every, name), name) for name in MEASURES},
    )


# A run, and what it leaves behind ---------------------------------------------------------------------------------


def record(options: argparse.Namespace, console: Console) -> tuple[list[Path], dict[str, str | int | float]]:
    """Have devices answer and record; return their files and how they came about.

    Raises:
        BenchError: the prompts cannot be read, there are records of an earlier run, or a request failed.
        FleetError: a role did not start.
        ProcessEndedError: a role ended.
    """
    prompts = prompts_of(options.prompts, options.limit)
    target = flags.find_target(options.target)
    drafters = flags.find_drafters(options.drafter, target)
    names = [f"device-{number}" for number in range(1, options.devices + 1)]
    files = [options.out / f"verdicts-{name}.jsonl" for name in names]
    devices = tuple(
        Device(name, drafters, options.policy, record=file) for name, file in zip(names, files, strict=True)
    )
    fleet_options = FleetOptions(target, devices, options.dtype, options.broker, logs=options.logs)
    with Bars(console) as bars, Fleet(fleet_options) as fleet:
        write(fleet, names, flags.asks(options, prompts), bars.step("answering", len(prompts)))
    return files, {
        "target": target.name,
        "dtype": options.dtype,
        "drafter": " ".join(drafters),
        "policy": options.policy,
        "prompts": len(prompts),
        "max_tokens": options.max_tokens,
        "temperature": options.temperature,
        "top_k": options.top_k,
        "top_p": options.top_p,
        "seed": options.seed,
    }


def save(result: Result, folder: Path, plot: str) -> list[Path]:
    """Write `acceptance.csv`, `acceptance.json` and, unless `plot` is none, the plot; return the files."""
    table, data = folder / "acceptance.csv", folder / "acceptance.json"
    with table.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["measure", *Bin.__struct_fields__])
        for name, measure in result.measures.items():
            rows.writerows([name, *msgspec.structs.astuple(each)] for each in measure.bins)
    data.write_bytes(msgspec.json.format(msgspec.json.encode(result)) + b"\n")
    if plot == "none":
        return [table, data]
    from benchmarks.kit.plot import draw  # noqa: PLC0415 -- brings matplotlib

    picture = folder / f"acceptance.{plot}"
    draw(result, picture)
    return [table, data, picture]


def _prepare(options: argparse.Namespace) -> None:
    """See before anything takes long that the results can be written."""
    if options.plot != "none" and importlib.util.find_spec("matplotlib") is None:
        raise BenchError(
            "the plot needs matplotlib, which is not installed: pip install 'sled-mqtt[bench]', or do without it "
            "with --plot none"
        )
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BenchError(f"the folder {options.out} cannot be made ({error.strerror}): give another --out") from error
    left = sorted(options.out.glob("verdicts-*.jsonl"))
    if left and not options.records:
        raise BenchError(f"{left[0]} is of an earlier run: give another --out, or read it again with --from {left[0]}")


# The command ------------------------------------------------------------------------------------------------------


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="sled bench acceptance",
        description="How the acceptance of draft tokens depends on the drafter's confidence, entropy and margin, from "
        "real verdicts, as data and as a plot (figure 3 of the SLED paper). Devices answer prompts and record what "
        "became of their drafts; tokens behind a rejected one were never judged and do not count.",
    )
    parser.add_argument(
        "--from",
        dest="records",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="read what `sled agent --record` wrote instead of running anything",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("acceptance"), help="folder for what is written (default acceptance)"
    )
    parser.add_argument("--plot", choices=("svg", "png", "none"), default="svg", help="kind of plot (default svg)")
    parser.add_argument("--bins", type=flags.positive, default=20, help="for each measure (default 20)")
    flags.add_prompts(parser)
    flags.add_system(parser)
    flags.add_policy(parser, "fixed:8")
    flags.add_dtype(parser)
    flags.add_sampling(parser)
    parser.add_argument("--devices", type=flags.positive, default=4, help="how many answer at once (default 4)")
    flags.add_json(parser)
    return parser.parse_args(arguments)


def _show(result: Result, console: Console) -> None:
    table = Table("proposed by", title=f"{result.judged} judged draft tokens of {result.rounds} rounds")
    for heading in ("judged", "accepted", "AUC of\nconfidence", "of\nentropy", "of\nmargin"):
        table.add_column(heading, justify="right")
    whole = Source(
        result.judged,
        result.accepted,
        result.acceptance_rate,
        {name: measure.auc for name, measure in result.measures.items()},
    )
    for name, source in [*result.sources.items(), ("all", whole)]:
        aucs = ["-" if source.auc[measure] is None else f"{source.auc[measure]:.3f}" for measure in MEASURES]
        table.add_row(name or "unnamed", f"{source.judged}", f"{source.acceptance_rate:.1%}", *aucs)
    console.print(table)


def run(options: argparse.Namespace, console: Console) -> tuple[Result, list[Path]]:
    """Run or read, and write; returns the result and the files it is in.

    Raises:
        BenchError: it cannot be written, or as `record`, `read_record` and `summarise`.
    """
    _prepare(options)
    files, settings = (options.records, {}) if options.records else record(options, console)
    result = summarise([each for file in files for each in read_record(file)], options.bins, settings)
    return result, save(result, options.out, options.plot)


def _conclude(outcome: tuple[Result, list[Path]], console: Console) -> int:
    console.print("\n".join(str(file) for file in outcome[1]), highlight=False)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run or read, write, and print; 1 if that cannot be done."""
    options = _parse(sys.argv[1:] if arguments is None else arguments)
    return conduct(
        options, run, lambda outcome, console: _show(outcome[0], console), _conclude, data=lambda one: one[0]
    )


if __name__ == "__main__":
    sys.exit(main())
