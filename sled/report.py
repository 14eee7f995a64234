"""What a demo has measured, as tables for people and as one JSON object for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from schemas.messages import Statistics
from sled.rounds import Rounds, ratio

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table


class Answered(Struct, frozen=True):
    """One prompt, put to one device, and what came of it.

    Attributes:
        tokens: output token ids.
        identical: whether the target alone writes the same; None if it was not asked.
    """

    device: str
    prompt: str
    text: str
    finish_reason: str
    tokens: tuple[int, ...]
    statistics: Statistics
    identical: bool | None = None


class Summary(Struct, frozen=True):
    """Sums and means over the answers of one device, or of all.

    Attributes:
        drafter: what was drafted with, and when drafting stopped.
        mean_accepted_length: tokens committed per round, bonus included, tokens of runs left out.
        mean_draft_length: draft tokens per round.
        acceptance_rate: accepted / drafted.
        ttft_seconds: from the ask to the first token, mean.
        tpot_seconds: per further token, mean.
        bytes_up_per_token, bytes_down_per_token: payload bytes between device and verifier.
    """

    drafter: str
    answers: int
    tokens: int
    rounds: int
    drafted: int
    accepted: int
    mean_accepted_length: float
    mean_draft_length: float
    acceptance_rate: float
    ttft_seconds: float
    tpot_seconds: float
    bytes_up_per_token: float
    bytes_down_per_token: float


class Report(Struct, frozen=True):
    """A demo's result.

    Attributes:
        identical: whether the target alone writes every text; None if that was not checked.
        total: over all devices.
        devices: by name.
        seconds: from the first ask to the last answer.
        tokens_per_second: WSTGR, the whole system's token generation rate: committed tokens of all devices per second.
        mean_batch_size: sessions per step of the target; None if the verifier could not be asked.
    """

    identical: bool | None
    total: Summary
    devices: dict[str, Summary]
    seconds: float
    tokens_per_second: float
    mean_batch_size: float | None
    broker: str
    target: str
    dtype: str
    answers: tuple[Answered, ...]

    def to_json(self) -> str:
        """Return the report as one line of JSON."""
        return msgspec.json.encode(self).decode()


def summarise(answers: Sequence[Answered], drafter: str) -> Summary:
    """Return sums and means over some answers."""
    every = [answer.statistics for answer in answers]
    rounds = Rounds.of(every)
    tokens = rounds.tokens
    further = sum(max(0, s.tokens - 1) for s in every)
    return Summary(
        drafter=drafter,
        answers=len(answers),
        tokens=tokens,
        rounds=rounds.rounds,
        drafted=rounds.drafted,
        accepted=rounds.accepted,
        mean_accepted_length=rounds.mean_accepted_length,
        mean_draft_length=rounds.mean_draft_length,
        acceptance_rate=rounds.acceptance_rate,
        ttft_seconds=ratio(sum(s.ttft for s in every) / 1e6, len(every)),
        tpot_seconds=ratio(sum(s.duration - s.ttft for s in every) / 1e6, further),
        bytes_up_per_token=ratio(sum(s.bytes_up for s in every), tokens),
        bytes_down_per_token=ratio(sum(s.bytes_down for s in every), tokens),
    )


def all_identical(answers: Sequence[Answered]) -> bool | None:
    """Return whether every answer is the target's own text, or None if one was not checked."""
    checked = [answer.identical for answer in answers if answer.identical is not None]
    return all(checked) if answers and len(checked) == len(answers) else None


def table(report: Report) -> Table:
    """Return the report on one device as a table for a terminal."""
    total = report.total
    rows = [
        ("tokens", f"{total.tokens}"),
        ("rounds", f"{total.rounds}"),
        ("mean accepted length", f"{total.mean_accepted_length:.2f} tokens per round"),
        ("acceptance rate", f"{total.acceptance_rate:.0%} ({total.accepted} of {total.drafted} drafted)"),
        ("time to first token (TTFT)", f"{total.ttft_seconds * 1e3:.0f} ms"),
        ("time per further token (TPOT)", f"{total.tpot_seconds * 1e3:.1f} ms"),
        ("bytes up per token", f"{total.bytes_up_per_token:.1f}"),
        ("bytes down per token", f"{total.bytes_down_per_token:.1f}"),
        ("target", f"{report.target}, {report.dtype}"),
        ("drafter", total.drafter),
        ("broker", report.broker),
        ("identical to the target alone", _identical(report)),
    ]
    return _pairs(rows, f"{total.answers} prompts" if total.answers > 1 else None)


def device_table(report: Report) -> Table:
    """Return one row per device and one for all of them."""
    from rich.table import Table  # noqa: PLC0415 -- only for a terminal

    shown = Table(show_footer=False)
    shown.add_column("device", no_wrap=True)
    shown.add_column("drafter", min_width=18, overflow="fold")
    for name in ("tokens", "accepted\nlength", "draft\nlength", "accepted\nrate", "TTFT\nms", "TPOT\nms"):
        shown.add_column(name, justify="right", no_wrap=True)
    for name, summary in report.devices.items():
        shown.add_row(name, summary.drafter, *_figures(summary))
    shown.add_section()
    shown.add_row("all", "", *_figures(report.total))
    return shown


def system_table(report: Report) -> Table:
    """Return what concerns the whole system."""
    batch = "unknown" if report.mean_batch_size is None else f"{report.mean_batch_size:.2f} sessions per step"
    rows = [
        ("whole-system token generation rate (WSTGR)", f"{report.tokens_per_second:.1f} tokens per second"),
        ("mean batch size", batch),
        ("target", f"{report.target}, {report.dtype}"),
        ("broker", report.broker),
        ("identical to the target alone", _identical(report)),
    ]
    return _pairs(rows, None)


def _figures(summary: Summary) -> list[str]:
    return [
        f"{summary.tokens}",
        f"{summary.mean_accepted_length:.2f}",
        f"{summary.mean_draft_length:.2f}",
        f"{summary.acceptance_rate:.0%}" if summary.drafted else "-",
        f"{summary.ttft_seconds * 1e3:.0f}",
        f"{summary.tpot_seconds * 1e3:.1f}",
    ]


def _identical(report: Report) -> str:
    return {True: "yes", False: "NO", None: "not checked (--check)"}[report.identical]


def _pairs(rows: Sequence[tuple[str, str]], title: str | None) -> Table:
    from rich.table import Table  # noqa: PLC0415 -- only for a terminal

    shown = Table(title=title, show_header=False)
    shown.add_column(no_wrap=True)
    shown.add_column()
    for name, value in rows:
        shown.add_row(name, value)
    return shown
