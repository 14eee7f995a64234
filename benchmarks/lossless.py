"""Does the whole system write what the target alone would write? Every token is checked, over MQTT.

Run as `sled bench lossless --prompts FILE.jsonl`. A broker, a verifier and some devices run as processes of their own;
the devices answer the prompts, all at once. Then everything is stopped, the target is loaded alone, in float32 and
through nothing but the library's own code, and reads each answer from its beginning: at every position the emitted
token must be the one it chooses, or a near-tie (see `benchmarks.kit.positions`). The check goes on after a tie. Greedy
answers in float32 are also compared whole with plain `generate`, whose answers can be kept in a file for further runs.

Prompt number i (from 0) is sampled with seed S + i, so that no two share their noise.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec
from rich.table import Table

from benchmarks.kit import flags
from benchmarks.kit.asking import Written, write
from benchmarks.kit.command import conduct
from benchmarks.kit.positions import TOLERANCE, Outcome, judge
from benchmarks.kit.progress import Bars
from benchmarks.kit.prompts import read_prompts
from sled.errors import NOT_IDENTICAL
from sled.fleet import Device, Fleet, FleetOptions
from sled.rounds import Rounds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import Console

    from sled.reference import Reference

TIES_PER_TOKEN: Final = {"float32": 1 / 20_000, "bfloat16": 1.0}
"""More near-ties than this, rounded up, are not arithmetic any more."""


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
    rounds = Rounds.of([answer.statistics for answer in written])
    tokens = sum(len(answer.tokens) for answer in written)
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
        mean_accepted_length=rounds.mean_accepted_length,
        mean_draft_length=rounds.mean_draft_length,
        acceptance_rate=rounds.acceptance_rate,
        generated=rounds.generated,
        resends=rounds.resends,
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
    flags.add_prompts(parser, required=True)
    flags.add_system(parser)
    parser.add_argument("--policy", default="cost-aware", help="when to stop drafting (default cost-aware)")
    parser.add_argument("--batching", default="continuous", help="the verifier's batch policy (default continuous)")
    parser.add_argument("--dtype", choices=sorted(TOLERANCE), default="float32", help="what the verifier computes in")
    flags.add_sampling(parser)
    parser.add_argument("--devices", type=flags.positive, default=4, help="how many answer at once (default 4)")
    parser.add_argument("--alone", type=Path, help="file that keeps what plain `generate` writes, for further runs")
    flags.add_json(parser)
    return parser.parse_args(arguments)


def run(options: argparse.Namespace, console: Console) -> Result:
    """Write and check.

    Raises:
        BenchError: the prompts cannot be read, or a request failed.
        FleetError: a role did not start.
        ProcessEndedError: a role ended.
    """
    prompts = read_prompts(options.prompts, options.limit)
    target = flags.find_target(options.target)
    options.drafter = flags.find_drafters(options.drafter, target)
    names = [f"device-{number}" for number in range(1, options.devices + 1)]
    devices = tuple(Device(name, options.drafter, options.policy) for name in names)
    fleet_options = FleetOptions(target, devices, options.dtype, options.broker, options.batching, options.logs)
    with Bars(console) as bars:
        with Fleet(fleet_options) as fleet:
            written = write(fleet, names, flags.asks(options, prompts), bars.step("answering", len(prompts)))
        seconds = sum(answer.statistics.duration for answer in written) / 1e6 / len(names)
        checked = _check_all(written, target, options, bars)
    return summarise(options, target.name, written, checked, seconds)


def _check_all(written: Sequence[Written], target: Path, options: argparse.Namespace, bars: Bars) -> list[Checked]:
    from sled.reference import Reference  # noqa: PLC0415 -- brings torch
    from verifier.numerics import numerics_fingerprint  # noqa: PLC0415

    advance = bars.step("checking", len(written))
    alone = Reference(target, "float32")
    plain = Kept(alone, options.max_tokens, numerics_fingerprint(target, "float32", "cpu"), options.alone)
    checked: list[Checked] = []
    for answer in written:
        checked.append(check(answer, alone, plain, options.max_tokens, options.dtype))
        advance()
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


def _show(result: Result, console: Console) -> None:
    console.print(_table(result))


def _conclude(result: Result, console: Console) -> int:
    if too_many_ties(result):
        console.print(f"{result.near_ties} near-ties in {result.tokens} tokens are more than arithmetic explains")
    return NOT_IDENTICAL if result.diverged or too_many_ties(result) else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the check; 0 if nothing diverged, 3 if something did or near-ties are too many, 1 if it cannot be made."""
    return conduct(_parse(sys.argv[1:] if arguments is None else arguments), run, _show, _conclude)


if __name__ == "__main__":
    sys.exit(main())
