"""What a distillation came to: the result, and the card that is kept with the drafter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from models.distill.held_out import Acceptance
from models.distill.measure import DRAFT, Speed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Point(msgspec.Struct, frozen=True):
    """A point of the training curve.

    Attributes:
        tokens: answer tokens seen.
        minutes: spent on training.
        agreement: with held-out answers, at every position.
        mean_accepted_length: with drafts of `DRAFT` tokens.
    """

    tokens: int
    minutes: float
    agreement: float
    mean_accepted_length: float


class Drafted(msgspec.Struct, frozen=True):
    """An exported drafter, measured.

    Attributes:
        folder: its name.
        bits: of the weights in its layers.
        size: of the folder, in bytes.
        ms_per_token: median on one core of this machine.
        acceptance: on the evaluation texts, with drafts of `DRAFT` tokens.
        by_source: the same for each source of prompts.
        speeds: what is to be expected at round-trip times.
    """

    folder: str
    bits: int
    size: int
    ms_per_token: float
    acceptance: Acceptance
    by_source: dict[str, Acceptance]
    speeds: list[Speed]


class Report(msgspec.Struct, frozen=True):
    """What `distil` did.

    Attributes:
        drafters: the best one first.
        layers: of the target that the student has; its own, by number, where it has a width of its own.
        weights: numbers the student consists of; those of a head that is the embedding too are counted once.
        tokens: answer tokens seen in training, repetitions included.
        texts: trained on.
        minutes: spent on training.
        verify_ms: the target's time on this machine for a step of one session with a draft of `DRAFT` tokens.
        alone_ms: the same without a draft.
        curve: held-out results during the training.
        warnings: what should be known about the data.
        width: of a student by configuration; None where it was cut from the target.
    """

    drafters: list[Drafted]
    layers: tuple[int, ...]
    weights: int
    tokens: int
    texts: int
    minutes: float
    verify_ms: float
    alone_ms: float
    curve: list[Point]
    warnings: list[str]
    width: int | None = None


def describe(report: Report) -> str:
    """Return the report as lines for a person."""
    lines = [f"Warning: {warning}" for warning in report.warnings]
    for drafter in report.drafters:
        counts = drafter.acceptance
        lines.append(
            f"{drafter.folder}: {drafter.size / 1e6:.1f} MB, {drafter.ms_per_token:.1f} ms per draft token (one core), "
            f"acceptance rate {counts.acceptance_rate:.2f} and mean accepted length {counts.mean_accepted_length:.2f} "
            f"with drafts of exactly {DRAFT}, agreement {counts.agreement:.2f} on {counts.answers} held-out answers"
        )
        lines += [
            f"  {source or 'no source'}: mean accepted length {part.mean_accepted_length:.2f}, "
            f"agreement {part.agreement:.2f}"
            for source, part in sorted(drafter.by_source.items())
            if len(drafter.by_source) > 1
        ]
        lines += [
            f"  round trip {speed.round_trip_ms:g} ms: {_best(speed)}, {speed.tokens_per_s:.1f} tokens/s, "
            f"{speed.speed_up:.2f} times one token a round trip, {speed.of_alone:.2f} times the target alone"
            for speed in drafter.speeds
        ]
    return "\n".join([*lines, _caveat(report)])


def compare(reports: Sequence[Report]) -> str:
    """Return the best drafter of each report as a line of one Markdown table, smallest student first."""
    ordered = sorted(reports, key=lambda report: len(report.layers))
    round_trips = [f"{speed.round_trip_ms:g}" for speed in ordered[0].drafters[0].speeds]
    head = [
        "layers",
        "weights",
        "bits",
        "MB",
        "ms per draft token",
        "agreement",
        f"mean accepted length (drafts of {DRAFT})",
    ]
    rows = [[*head, *(f"tokens/s at {round_trip} ms" for round_trip in round_trips)]]
    for report in ordered:
        best = report.drafters[0]
        rows.append(
            [
                f"{len(report.layers)} ({f'width {report.width}' if report.width else _numbers(report.layers)})",
                f"{report.weights:,}",
                str(best.bits),
                f"{best.size / 1e6:.1f}",
                f"{best.ms_per_token:.1f}",
                f"{best.acceptance.agreement:.3f}",
                f"{best.acceptance.mean_accepted_length:.2f}",
                *(f"{speed.tokens_per_s:.1f} ({_best(speed)})" for speed in best.speeds),
            ]
        )
    rows.insert(1, ["---"] * len(rows[0]))
    lines = [f"Warning: {warning}" for warning in ordered[0].warnings]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows), "", _caveat(ordered[0])])


def _numbers(layers: Sequence[int]) -> str:
    return ", ".join(map(str, layers))


def _best(speed: Speed) -> str:
    return f"drafts of {speed.draft}" if speed.draft else "no draft pays"


def _caveat(report: Report) -> str:
    return (
        "Tokens/s are expected, not measured: every draft has the same length (the best one for that round-trip time), "
        "nothing else drafts beside the model, and the device has the server to itself, where a step of the target "
        f"takes {report.verify_ms:.0f} ms with a draft of {DRAFT} and {report.alone_ms:.0f} ms without one, as on this "
        "machine, and other lengths in proportion."
    )


def card(report: Report, facts: Mapping[str, str]) -> str:
    """Return a model card in Markdown.

    Args:
        report: of the distillation.
        facts: what else is to be known (command, target, data, seed, hardware, licence), in order.
    """
    best = report.drafters[0]
    lines = ["# A draft model", "", "It guesses the next tokens of one target model, and is of no use by itself.", ""]
    lines += ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts.items())]
    lines += [
        f"| Layers of the target | {_numbers(report.layers)} |"
        if report.width is None
        else f"| Layers | {len(report.layers)}, {report.width} wide, none of them the target's |",
        f"| Weights | {report.weights:,}, {best.bits} bits each in the layers, 8 bits in head and embedding |",
        f"| Training texts | {report.texts:,} answers |",
        f"| Training | {report.tokens:,} answer tokens with repetitions, {report.minutes:.0f} minutes |",
        f"| Size | {best.size / 1e6:.1f} MB with the tokenizer |",
        "",
        "## Results",
        "",
        describe(report),
        "",
        "## Training curve",
        "",
        f"| answer tokens | minutes | agreement | mean accepted length (drafts of {DRAFT}) |",
        "|---|---|---|---|",
        *(
            f"| {point.tokens:,} | {point.minutes:.0f} | {point.agreement:.3f} | {point.mean_accepted_length:.2f} |"
            for point in report.curve
        ),
        "",
    ]
    return "\n".join(lines)
