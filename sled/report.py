"""What a demo has measured, as a table for people and as one JSON object for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from schemas.messages import Statistics

if TYPE_CHECKING:
    from rich.table import Table


class Answered(Struct, frozen=True):
    """One prompt and what came of it.

    Attributes:
        tokens: output token ids.
        identical: whether the target alone writes the same; None if it was not asked.
    """

    prompt: str
    text: str
    finish_reason: str
    tokens: tuple[int, ...]
    statistics: Statistics
    identical: bool | None = None


class Report(Struct, frozen=True):
    """A demo's result; sums and means over all prompts.

    Attributes:
        mean_accepted_length: tokens committed per round, bonus included.
        acceptance_rate: accepted / drafted.
        ttft_seconds: from the ask to the first token, mean.
        tpot_seconds: per further token, mean.
        bytes_up_per_token, bytes_down_per_token: payload bytes between device and verifier.
    """

    identical: bool | None
    prompts: int
    tokens: int
    rounds: int
    drafted: int
    accepted: int
    mean_accepted_length: float
    acceptance_rate: float
    ttft_seconds: float
    tpot_seconds: float
    bytes_up_per_token: float
    bytes_down_per_token: float
    broker: str
    target: str
    drafter: str
    dtype: str
    policy: str
    answers: tuple[Answered, ...]

    def to_json(self) -> str:
        """Return the report as one line of JSON."""
        return msgspec.json.encode(self).decode()


def summarise(answers: list[Answered], *, broker: str, target: str, drafter: str, dtype: str, policy: str) -> Report:
    """Return the report on at least one answer."""
    every = [answer.statistics for answer in answers]
    tokens = sum(s.tokens for s in every)
    rounds = sum(s.rounds for s in every)
    drafted = sum(s.drafted for s in every)
    accepted = sum(s.accepted for s in every)
    further = sum(max(0, s.tokens - 1) for s in every)
    checked = [answer.identical for answer in answers if answer.identical is not None]
    return Report(
        identical=all(checked) if len(checked) == len(answers) else None,
        prompts=len(answers),
        tokens=tokens,
        rounds=rounds,
        drafted=drafted,
        accepted=accepted,
        mean_accepted_length=_ratio(tokens, rounds),
        acceptance_rate=_ratio(accepted, drafted),
        ttft_seconds=_ratio(sum(s.ttft for s in every) / 1e6, len(every)),
        tpot_seconds=_ratio(sum(s.duration - s.ttft for s in every) / 1e6, further),
        bytes_up_per_token=_ratio(sum(s.bytes_up for s in every), tokens),
        bytes_down_per_token=_ratio(sum(s.bytes_down for s in every), tokens),
        broker=broker,
        target=target,
        drafter=drafter,
        dtype=dtype,
        policy=policy,
        answers=tuple(answers),
    )


def _ratio(part: float, whole: float) -> float:
    return round(part / whole, 4) if whole else 0.0


def table(report: Report) -> Table:
    """Return the report as a table for a terminal."""
    from rich.table import Table  # noqa: PLC0415 -- only for a terminal

    identical = {True: "yes", False: "NO", None: "not checked (--check)"}[report.identical]
    rows = [
        ("tokens", f"{report.tokens}"),
        ("rounds", f"{report.rounds}"),
        ("mean accepted length", f"{report.mean_accepted_length:.2f} tokens per round"),
        ("acceptance rate", f"{report.acceptance_rate:.0%} ({report.accepted} of {report.drafted} drafted)"),
        ("time to first token (TTFT)", f"{report.ttft_seconds * 1e3:.0f} ms"),
        ("time per further token (TPOT)", f"{report.tpot_seconds * 1e3:.1f} ms"),
        ("bytes up per token", f"{report.bytes_up_per_token:.1f}"),
        ("bytes down per token", f"{report.bytes_down_per_token:.1f}"),
        ("target", f"{report.target}, {report.dtype}"),
        ("drafter", f"{report.drafter}, {report.policy}"),
        ("broker", report.broker),
        ("identical to the target alone", identical),
    ]
    shown = Table(title=f"{report.prompts} prompts" if report.prompts > 1 else None, show_header=False)
    shown.add_column(no_wrap=True)
    shown.add_column()
    for name, value in rows:
        shown.add_row(name, value)
    return shown
