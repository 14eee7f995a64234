"""Does the whole system write what the target alone would write? Every token is checked, over MQTT.

Run as `sled bench lossless --prompts FILE.jsonl`. A broker, a verifier and some devices run as processes of their own;
the devices answer the prompts, all at once. Then everything is stopped, the target is loaded alone, in float32 and
through nothing but the library's own code, and reads each answer from its beginning: at every position the emitted
token must be the one it chooses, or a near-tie (see `benchmarks.positions`). The check goes on after a tie. Greedy
answers in float32 are also compared whole with plain `generate`, whose answers can be kept in a file for further runs.

Prompt number i (from 0) is sampled with seed S + i, so that no two share their noise.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.positions import TOLERANCE, Outcome, judge
from schemas.messages import Ask, DoneEvent, ErrorEvent, Sampling, Statistics, TokenEvent
from sled.client import Client, NoAnswerError
from sled.errors import FAILED, NOT_IDENTICAL
from sled.fleet import Device, Fleet, FleetOptions
from sled.report import ratio

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.progress import Progress

    from sled.reference import Reference

TIES_PER_TOKEN: Final = {"float32": 1 / 20_000, "bfloat16": 1.0}
"""More near-ties than this, rounded up, are not arithmetic any more."""


class LosslessError(Exception):
    """The check cannot be made; the message says why."""


class Line(msgspec.Struct, frozen=True):
    """One line of the prompts file; other fields are left alone."""

    prompt: str


class Written(msgspec.Struct, frozen=True):
    """What the system wrote for one prompt."""

    prompt: str
    sampling: Sampling
    tokens: tuple[int, ...]
    text: str
    finish: str
    statistics: Statistics


class Checked(msgspec.Struct, frozen=True):
    """What the check of one answer found.

    Attributes:
        near_ties: positions at which the target was undecided.
        diverged: positions at which it would have chosen another token, or an end that is none.
        identical: whether the whole text is what the target alone writes.
    """

    near_ties: int
    diverged: int
    identical: bool


class Result(msgspec.Struct, frozen=True):
    """What is printed.

    Attributes:
        identical: answers that are whole what the target alone writes in float32: plain `generate` for greedy answers
            in float32; for all others, every position is the target's choice, without a near-tie.
        texts: digest over the tokens of all answers in the order of the prompts; equal for equal texts.
        mean_accepted_length: tokens committed per round, bonus included, tokens of runs left out.
        generated: tokens of runs.
    """

    prompts: int
    tokens: int
    identical: int
    diverged: int
    near_ties: int
    near_tie_rate: float
    tolerance: float
    mean_accepted_length: float
    mean_draft_length: float
    acceptance_rate: float
    generated: int
    resends: int
    seconds: float
    texts: str
    target: str
    dtype: str
    drafter: str
    policy: str
    batching: str
    devices: int
    max_tokens: int
    temperature: float
    top_k: int
    top_p: float
    seed: int


def read_prompts(path: Path, limit: int | None) -> list[str]:
    """Return the prompts of a JSON Lines file.

    Raises:
        LosslessError: the file cannot be read, has no prompts, or a line has none.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise LosslessError(f"{path} cannot be read ({error.strerror}): give --prompts a JSON Lines file") from error
    prompts: list[str] = []
    for number, line in enumerate(lines, 1):
        if limit is not None and len(prompts) >= limit:
            break
        if not line.strip():
            continue
        try:
            prompts.append(msgspec.json.decode(line, type=Line).prompt)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise LosslessError(
                f'line {number} of {path} is no JSON object with a "prompt" ({error}): mend or remove it'
            ) from error
    if not prompts:
        raise LosslessError(f'{path} holds no prompts: each line is a JSON object with a "prompt"')
    return prompts


# The target alone -------------------------------------------------------------------------------------------------

Plain: TypeAlias = "Callable[[str], tuple[int, ...]]"


class Kept:
    """Plain `generate`, whose answers are kept in a file if one is given.

    Args:
        reference: the target.
        max_tokens: limit of an answer.
        fingerprint: of the target's weights and of the library; answers of another are not taken.
        path: JSON Lines file, or None.
    """

    def __init__(self, reference: Reference, max_tokens: int, fingerprint: str, path: Path | None) -> None:
        self._reference = reference
        self._max_tokens = max_tokens
        self._key = [fingerprint, max_tokens]
        self._path = path
        self._known: dict[str, tuple[int, ...]] = {}
        for line in path.read_text().splitlines() if path is not None and path.exists() else ():
            key, prompt, tokens = json.loads(line)
            if key == self._key:
                self._known[prompt] = tuple(tokens)

    def __call__(self, prompt: str) -> tuple[int, ...]:
        """Return the target's greedy answer to a prompt."""
        if prompt not in self._known:
            tokens, _ = self._reference.write([{"role": "user", "content": prompt}], self._max_tokens)
            self._known[prompt] = tokens
            if self._path is not None:
                with self._path.open("a") as file:
                    file.write(json.dumps([self._key, prompt, tokens]) + "\n")
        return self._known[prompt]


# Writing ----------------------------------------------------------------------------------------------------------


def write(fleet: Fleet, devices: Sequence[str], asks: Sequence[Ask], progress: Progress) -> list[Written]:
    """Have the devices answer, each the next ask that is left, and return the answers in order.

    Raises:
        LosslessError: a request failed.
    """
    left = deque(enumerate(asks))
    written: dict[int, Written] = {}
    task = progress.add_task("answering", total=len(asks))

    def work(device: str, client: Client) -> None:
        while True:
            try:
                number, ask = left.popleft()
            except IndexError:
                return
            written[number] = _ask(client, device, ask, fleet)
            progress.advance(task)

    with ExitStack() as stack, ThreadPoolExecutor(len(devices), thread_name_prefix="app") as pool:
        clients = [stack.enter_context(Client(fleet.address)) for _ in devices]
        for client in clients:
            fleet.wait(client)
        for done in [pool.submit(work, device, client) for device, client in zip(devices, clients, strict=True)]:
            done.result()
    return [written[number] for number in range(len(asks))]


def _ask(client: Client, device: str, ask: Ask, fleet: Fleet) -> Written:
    tokens: list[int] = []
    try:
        for event in client.ask(device, ask, timeout=300):
            match event:
                case TokenEvent():
                    tokens += event.tokens
                case DoneEvent():
                    sampling = Sampling(ask.temperature, ask.top_k, ask.top_p, ask.seed or 0)
                    return Written(
                        ask.prompt or "", sampling, tuple(tokens), event.text, event.finish_reason, event.statistics
                    )
                case ErrorEvent():
                    raise LosslessError(f"a request failed on {device} ({event.code}): {event.message}")
                case _:
                    pass
    except NoAnswerError:
        fleet.check()
        raise
    raise LosslessError("an answer ended without a last event")


# Checking ---------------------------------------------------------------------------------------------------------


def check(answer: Written, alone: Reference, plain: Plain, max_tokens: int, dtype: str) -> Checked:
    """Check every position of one answer.

    Args:
        answer: what the system wrote.
        alone: the target in float32.
        plain: returns the target's own greedy answer to a prompt, in float32.
        max_tokens: limit of the answer.
        dtype: what the verifier computed in.
    """
    tokens = answer.tokens
    diverged = int(not _ends_rightly(answer, alone, max_tokens))
    near_ties = 0
    if tokens:
        prompt = alone.tokenizer.encode_chat([{"role": "user", "content": answer.prompt}])
        logits = alone.logits(prompt, tokens)
        tolerance = TOLERANCE[dtype]
        outcomes = [judge(logits[i], token, answer.sampling, i, tolerance) for i, token in enumerate(tokens)]
        near_ties = outcomes.count(Outcome.NEAR_TIE)
        diverged += outcomes.count(Outcome.DIVERGED)
    identical = near_ties == diverged == 0 and alone.tokenizer.decode(list(tokens)) == answer.text
    if answer.sampling.temperature == 0 and dtype == "float32":
        identical = plain(answer.prompt) == tokens and alone.tokenizer.decode(list(tokens)) == answer.text
    return Checked(near_ties, diverged, identical)


def _ends_rightly(answer: Written, alone: Reference, max_tokens: int) -> bool:
    """Whether the text ends where, and why, the target's would: nothing follows an end token, nothing is missing."""
    *before, last = answer.tokens or (None,)
    if any(token in alone.end_tokens for token in before):
        return False
    if last in alone.end_tokens:
        return answer.finish == "stop"
    return answer.finish == "length" and len(answer.tokens) == max_tokens


def summarise(
    options: argparse.Namespace, target: str, written: Sequence[Written], checked: Sequence[Checked], seconds: float
) -> Result:
    """Return the sums."""
    every = [answer.statistics for answer in written]
    tokens = sum(len(answer.tokens) for answer in written)
    rounds = sum(s.rounds for s in every)
    drafted = sum(s.drafted for s in every)
    generated = sum(s.generated for s in every)
    near_ties = sum(answer.near_ties for answer in checked)
    texts = hashlib.blake2b(json.dumps([answer.tokens for answer in written]).encode(), digest_size=8).hexdigest()
    return Result(
        prompts=len(written),
        tokens=tokens,
        identical=sum(answer.identical for answer in checked),
        diverged=sum(answer.diverged for answer in checked),
        near_ties=near_ties,
        near_tie_rate=near_ties / tokens if tokens else 0.0,
        tolerance=TOLERANCE[options.dtype],
        mean_accepted_length=ratio(tokens - generated, rounds),
        mean_draft_length=ratio(drafted, rounds),
        acceptance_rate=ratio(sum(s.accepted for s in every), drafted),
        generated=generated,
        resends=sum(s.resends for s in every),
        seconds=round(seconds, 2),
        texts=texts,
        target=target,
        dtype=options.dtype,
        drafter=" ".join(options.drafter),
        policy=options.policy,
        batching=options.batching,
        devices=options.devices,
        max_tokens=options.max_tokens,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        seed=options.seed,
    )


def too_many_ties(result: Result) -> bool:
    """Whether near-ties are more than arithmetic explains."""
    allowed = -(-result.tokens * TIES_PER_TOKEN[result.dtype] // 1)
    return result.near_ties > allowed


# The command ------------------------------------------------------------------------------------------------------


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="sled bench lossless", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--prompts", type=Path, required=True, help='JSON Lines file; each line has a "prompt"')
    parser.add_argument("--max-tokens", type=_positive, default=64, help="length of an answer at most (default 64)")
    parser.add_argument("--limit", type=_positive, help="take only the first so many prompts")
    parser.add_argument("--target", help="target model: a folder, a hub id, or nothing for SmolLM2-135M-Instruct")
    parser.add_argument(
        "--drafter",
        action="append",
        help="as for `sled agent`; given again, the next takes over when one fails (default: the target's int8 export)",
    )
    parser.add_argument("--policy", default="fixed:4", help="when to stop drafting (default fixed:4)")
    parser.add_argument("--batching", default="continuous", help="the verifier's batch policy (default continuous)")
    parser.add_argument("--dtype", choices=sorted(TOLERANCE), default="float32", help="what the verifier computes in")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    parser.add_argument("--top-k", type=int, default=0, help="0 keeps all (default)")
    parser.add_argument("--top-p", type=float, default=1.0, help="1 keeps all (default)")
    parser.add_argument("--seed", type=int, default=0, help="of the first prompt; the next has the next (default 0)")
    parser.add_argument("--devices", type=_positive, default=4, help="how many answer at once (default 4)")
    parser.add_argument("--broker", choices=("auto", "mosquitto", "embedded"), default="auto", help="which broker")
    parser.add_argument("--alone", type=Path, help="file that keeps what plain `generate` writes, for further runs")
    parser.add_argument("--logs", type=Path, help="folder in which to keep the logs of the processes")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def _asks(options: argparse.Namespace, prompts: Sequence[str]) -> list[Ask]:
    return [
        Ask(
            id=f"prompt-{number}",
            prompt=prompt,
            max_tokens=options.max_tokens,
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            seed=options.seed + number,
        )
        for number, prompt in enumerate(prompts)
    ]


def run(options: argparse.Namespace, console: Console) -> Result:
    """Write and check.

    Raises:
        LosslessError: the prompts cannot be read, or a request failed.
        FleetError: a role did not start.
        ProcessEndedError: a role ended.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    from models.pull import pull_target  # noqa: PLC0415 -- brings torch

    prompts = read_prompts(options.prompts, options.limit)
    target = pull_target(options.target)
    if not options.drafter:
        from models.export import export_drafter  # noqa: PLC0415

        options.drafter = [str(export_drafter(target))]
    names = [f"device-{number}" for number in range(1, options.devices + 1)]
    devices = tuple(Device(name, tuple(options.drafter), options.policy) for name in names)
    fleet_options = FleetOptions(target, devices, options.dtype, options.broker, options.batching, options.logs)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        with Fleet(fleet_options) as fleet:
            written = write(fleet, names, _asks(options, prompts), progress)
        seconds = sum(answer.statistics.duration for answer in written) / 1e6 / len(names)
        checked = _check_all(written, target, options, progress)
    return summarise(options, target.name, written, checked, seconds)


def _check_all(
    written: Sequence[Written], target: Path, options: argparse.Namespace, progress: Progress
) -> list[Checked]:
    from sled.reference import Reference  # noqa: PLC0415 -- brings torch
    from verifier.numerics import numerics_fingerprint  # noqa: PLC0415

    task = progress.add_task("checking", total=len(written))
    alone = Reference(target, "float32")
    plain = Kept(alone, options.max_tokens, numerics_fingerprint(target, "float32", "cpu"), options.alone)
    checked: list[Checked] = []
    for answer in written:
        checked.append(check(answer, alone, plain, options.max_tokens, options.dtype))
        progress.advance(task)
    return checked


def _table(result: Result) -> Table:
    rows = [
        ("prompts", f"{result.prompts}"),
        ("tokens", f"{result.tokens}"),
        ("identical to the target alone", f"{result.identical} of {result.prompts}"),
        ("diverged", f"{result.diverged}"),
        ("near-ties", f"{result.near_ties} ({result.near_tie_rate:.2e} per token, within {result.tolerance:g})"),
        ("mean accepted length", f"{result.mean_accepted_length:.2f}"),
        ("mean draft length", f"{result.mean_draft_length:.2f}"),
        ("acceptance rate", f"{result.acceptance_rate:.0%}"),
        ("tokens of runs", f"{result.generated}"),
        ("texts", result.texts),
    ]
    table = Table(show_header=False)
    for name, value in rows:
        table.add_row(name, value)
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the check; 0 if nothing diverged, 3 if something did or near-ties are too many, 1 if it cannot be made."""
    options = _parse(sys.argv[1:] if arguments is None else arguments)
    console = Console(stderr=True)
    try:
        result = run(options, console)
    except LosslessError as error:
        print(f"sled: {error}", file=sys.stderr)  # noqa: T201
        return FAILED
    if options.json:
        print(msgspec.json.encode(result).decode())  # noqa: T201
    else:
        Console().print(_table(result))
    if too_many_ties(result):
        console.print(f"{result.near_ties} near-ties in {result.tokens} tokens are more than arithmetic explains")
    return NOT_IDENTICAL if result.diverged or too_many_ties(result) else 0


if __name__ == "__main__":
    sys.exit(main())
