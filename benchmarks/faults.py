"""Is anything lost when everything breaks? Devices, verifiers and a broker, killed, frozen and cut off under load.

    sled bench faults --seed 3 --out /tmp/faults

Everything runs as processes on this machine: Mosquitto, verifiers, and devices that reach it each through a link of its
own (`benchmarks.kit.link`). An app asks them, and a plan says what goes wrong meanwhile; a seed draws when, and whom it
strikes. All that happens is written down as it comes. When the app has got its answers everything is stopped, and a
checker counts what came of it, from the raw log alone (`benchmarks.kit.faults.checker`); the target alone, in float32,
says what each text must be. `--check DIR` does this again for a log that was kept.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
from rich.table import Table

from benchmarks.kit import flags
from benchmarks.kit.asking import Written, sampling_of
from benchmarks.kit.command import conduct
from benchmarks.kit.error import BenchError
from benchmarks.kit.faults.app import App
from benchmarks.kit.faults.carry_out import CarryOut
from benchmarks.kit.faults.checker import Request, Result
from benchmarks.kit.faults.checker import check as count
from benchmarks.kit.faults.logs import JsonLines, Run, read_logs, write_run
from benchmarks.kit.faults.machine import Machine
from benchmarks.kit.faults.plan import DEFAULT, EXPLAINED, find_plan, read_plan
from benchmarks.kit.faults.schedule import draw_asks, draw_faults
from benchmarks.kit.progress import Bars
from benchmarks.kit.prompts import prompts_of
from benchmarks.lossless import Kept, check
from schemas.choice import noisy
from schemas.messages import GREEDY
from sled.errors import FAILED, NOT_IDENTICAL

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from rich.console import Console

    from benchmarks.kit.faults.use import Use
    from benchmarks.kit.prompts import Prompt
    from schemas.messages import Sampling
    from sled.reference import Reference

_TURN: Final = 0.1
"""Seconds after which the processes are looked after, though nothing comes."""
_SAMPLE: Final = 5.0
"""Seconds between two looks at what they take of the machine."""


# The run ----------------------------------------------------------------------------------------------------------


def break_things(run: Run, prompts: Sequence[Prompt], folder: Path, console: Console) -> None:
    """Run a plan and write down what happens; returns when all is answered, or nothing comes any more.

    Raises:
        BenchError: something did not start.
        ProcessEndedError: a process ended by itself.
    """
    plan = run.plan
    with Machine(run, folder) as machine, JsonLines(folder / "app.jsonl") as log:
        with console.status("starting the devices and the verifiers …"):
            machine.wait()
        with Bars(console) as bars:
            advance = bars.step("answered", plan.requests)
            with App(machine.address, draw_asks(plan, prompts), log, advance) as app:
                carry_out = CarryOut(draw_faults(plan), machine, lambda said: console.print(said, highlight=False))
                _watch(app, carry_out, machine, plan.patience)


def _watch(app: App, carry_out: CarryOut, machine: Machine, patience: float) -> None:
    """Let faults come and answers go until both have ended, or nothing has come for so long."""
    quiet_since = sampled = app.began
    while not (app.finished and carry_out.finished):
        now = time.monotonic()
        carry_out.turn(now - app.began)
        machine.check()
        if now - sampled >= _SAMPLE:
            machine.sample()
            sampled = now
        quiet_since = max(quiet_since, app.heard_at) if carry_out.finished else now
        if now - quiet_since > patience:
            return
        due = carry_out.next_due()
        app.turn(_TURN if due is None else max(0.0, min(_TURN, due + app.began - time.monotonic())))


# The target alone -------------------------------------------------------------------------------------------------


class Alone:
    """Says whether an answer is what the target alone writes, as `sled bench lossless` does; a `checker.Target`.

    Tokens that did not come, since an event was lost on the way, are taken to be the target's own choice; text and
    number of the whole answer then show whether they were. The same answer to the same question is read once.
    """

    def __init__(self, reference: Reference, max_tokens: int, advance: Callable[[], object] = lambda: None) -> None:
        self._reference = reference
        self._advance = advance
        self._max_tokens = max_tokens
        self._plain = Kept(reference, max_tokens, "", None)
        self._read: dict[Hashable, bool] = {}

    def identical(self, request: Request) -> bool:
        """Whether a completed answer is whole the target's."""
        self._advance()
        ask, done = request.ask, request.answer.done
        assert done is not None
        assert ask.prompt is not None
        sampling = sampling_of(ask)
        tokens = self.fill(ask.prompt, request.answer.tokens, done.statistics.tokens, sampling)
        answer = (ask.prompt, sampling if sampling.temperature else GREEDY, tokens, done.text, done.finish_reason)
        if answer not in self._read:
            written = Written(*answer, done.statistics)
            self._read[answer] = check(written, self._reference, self._plain, self._max_tokens, "float32").identical
        return self._read[answer]

    def unlike(self, request: Request) -> int:
        """Return how many released tokens the target would not have chosen where they stand."""
        self._advance()
        ask, done = request.ask, request.answer.done
        assert done is not None
        assert ask.prompt is not None
        sampling = sampling_of(ask)
        tokens = self.fill(ask.prompt, request.answer.tokens, done.statistics.tokens, sampling)
        logits = self._reference.logits(self._ids(ask.prompt), tokens)
        return sum(
            int(noisy(logits[position], sampling, position).argmax()) != tokens[position]
            for span in done.released
            for position in range(span.start, span.end)
        )

    def _ids(self, prompt: str) -> list[int]:
        return self._reference.tokenizer.encode_chat([{"role": "user", "content": prompt}])

    def fill(self, prompt: str, known: Mapping[int, int], length: int, sampling: Sampling) -> tuple[int, ...]:
        """Return an answer of so many tokens, with the target's choice wherever none is known."""
        ids = self._ids(prompt)
        tokens: list[int] = []
        for position in range(length):
            if position in known:
                tokens.append(known[position])
            else:
                logits = self._reference.logits(ids, [*tokens, 0])[-1]
                tokens.append(int(noisy(logits, sampling, position).argmax()))
        return tuple(tokens)


def judge(folder: Path, target: Path | None, console: Console) -> Result:
    """Return what a run came to, from its log.

    Args:
        folder: of the log.
        target: folder of the target model; by default where it was in the run.
        console: for a person who waits.

    Raises:
        BenchError: the log cannot be read, or the target is gone.
    """
    from sled.reference import Reference  # noqa: PLC0415 -- brings torch

    logs = read_logs(folder)
    target = target or Path(logs.run.target)
    if not target.is_dir():
        raise BenchError(f"the target of this log was in {target}, which is no folder any more: name it with --target")
    with Bars(console) as bars:
        advance = bars.step("checking", logs.run.plan.requests)
        return count(logs, Alone(Reference(target, "float32"), logs.run.plan.tokens, advance))


# The command ------------------------------------------------------------------------------------------------------


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="sled bench faults",
        description="Run devices, verifiers and Mosquitto on this machine, kill, freeze and cut them off under load as "
        "a plan says, and count\nwhat was lost, came twice, or is not what the target alone writes.",
        epilog=f"{EXPLAINED}\n\nEnds with 0 if every request is completed and identical and nothing came twice; with 3 "
        "if a text is not the\ntarget's, and with 1 if something is missing or came twice, or the run cannot be made.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--plan",
        type=find_plan,
        default=DEFAULT,
        help="plan file, or the name of one that comes with sled: default, failover, overload, release, revise, soak",
    )
    parser.add_argument("--seed", type=flags.natural, help="of times, victims and sampling (default: the plan's)")
    parser.add_argument("--out", type=Path, help="folder for the raw log (default: a new one for temporary files)")
    parser.add_argument("--check", type=Path, metavar="DIR", help="run nothing: only check the raw log in DIR")
    parser.add_argument("--prompts", type=Path, help="JSON Lines file (default: a few built-in ones), asked in turn")
    parser.add_argument("--limit", type=flags.positive, help="take only the first so many prompts")
    parser.add_argument("--target", help="target model: a folder, a hub id, or nothing for SmolLM2-135M-Instruct")
    parser.add_argument(
        "--drafter", action="append", help="of the devices, as for `sled agent` (default lookup, which needs no model)"
    )
    flags.add_json(parser)
    return parser.parse_args(arguments)


def run(options: argparse.Namespace, console: Console) -> tuple[Result, Path]:
    """Run and check, or only check; returns the result and the folder of the raw log.

    Raises:
        BenchError: plan or prompts cannot be read, the log cannot be written, or something did not start.
        ProcessEndedError: a process ended by itself.
    """
    if options.check is not None:
        target = flags.find_target(options.target) if options.target else None
        return judge(options.check, target, console), options.check
    plan = read_plan(options.plan)
    if options.seed is not None:
        plan = msgspec.structs.replace(plan, seed=options.seed)
    prompts = prompts_of(options.prompts, options.limit)
    target = flags.find_target(options.target)
    drafters = tuple(options.drafter or ("lookup",))
    folder = options.out or Path(tempfile.mkdtemp(prefix="sled-faults-"))
    settings = Run(plan=plan, target=str(target), drafters=drafters, prompts=str(options.prompts or ""))
    write_run(folder, settings)
    console.print(f"the raw log is in {folder}", highlight=False)
    break_things(settings, prompts, folder, console)
    return judge(folder, None, console), folder


def _table(result: Result) -> Table:
    table = Table(show_header=False)
    for name, value in (
        ("requests", f"{result.requests}, {result.tokens} tokens in {result.seconds:.0f} s"),
        ("completed", f"{result.completed}"),
        ("identical to the target alone", f"{result.identical}"),
        ("lost", f"{result.lost}"),
        ("duplicated", f"{result.duplicated}"),
        ("revised tokens", f"{result.revised_tokens}"),
        ("released tokens", f"{result.released_tokens}, of which {result.unlike_tokens} unlike the target's own"),
        ("kills", _counts(result.kills)),
        ("freezes", _counts(result.freezes)),
        ("cuts and holds of links", f"{result.cuts} and {result.holds}"),
        ("published by devices", _counts(result.published)),
        ("messages dropped", _counts(result.dropped)),
        ("messages passed on twice", _counts(result.duplicates)),
        ("asked again, moved", f"{result.asked_again}, {result.moved}"),
        ("bundles sent again", f"{result.resends}"),
        *(
            (f"recovery, {kind}", f"median {each.median:.2f} s, p95 {each.p95:.2f} s ({each.affected} requests)")
            for kind, each in result.recovery.items()
        ),
        *((f"memory and files, {role}", _used(each)) for role, each in result.use.items() if each.lives),
    ):
        table.add_row(name, value)
    return table


def _used(use: Use) -> str:
    return (
        f"{use.mib_first:.0f} to {use.mib_last:.0f} MiB ({use.mib_per_hour:+.1f} per hour, at most "
        f"{use.mib_per_hour_most:+.1f}), {use.files_first:.0f} to {use.files_last:.0f} files; lives of "
        f"{use.seconds / 60:.0f} min: {use.lives}"
    )


def _counts(counted: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in counted.items()) or "none"


def _conclude(outcome: tuple[Result, Path], console: Console) -> int:
    result, _ = outcome
    for complaint in result.complaints:
        console.print(complaint, highlight=False)
    if result.good:
        return 0
    return NOT_IDENTICAL if result.strange else FAILED


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and check; 0 if all is well, 3 if a text is not the target's, 1 if something is missing, twice or undone."""
    return conduct(
        _parse(sys.argv[1:] if arguments is None else arguments),
        run,
        lambda outcome, console: console.print(_table(outcome[0])),
        _conclude,
        data=lambda outcome: msgspec.to_builtins(outcome[0]) | {"logs": str(outcome[1])},
    )


if __name__ == "__main__":
    sys.exit(main())
