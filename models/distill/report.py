"""What a distillation came to: the result, and the card that is kept with the drafter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from models.distill.held_out import Acceptance
from models.distill.measure import DRAFT, Speed

if TYPE_CHECKING:
    from collections.abc import Mapping


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
        folder: where it is.
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
        layers: of the target that the student has.
        tokens: answer tokens seen in training, repetitions included.
        texts: trained on.
        minutes: spent on training.
        verify_ms: the target's time for a step of one session on this machine.
        curve: held-out results during the training.
        warnings: what should be known about the data.
    """

    drafters: list[Drafted]
    layers: tuple[int, ...]
    tokens: int
    texts: int
    minutes: float
    verify_ms: float
    curve: list[Point]
    warnings: list[str]


def describe(report: Report) -> str:
    """Return the report as lines for a person."""
    lines = [f"Warning: {warning}" for warning in report.warnings]
    for drafter in report.drafters:
        counts = drafter.acceptance
        lines.append(
            f"{drafter.folder}: {drafter.size / 1e6:.1f} MB, {drafter.ms_per_token:.1f} ms per draft token (one core), "
            f"acceptance rate {counts.acceptance_rate:.2f} and mean accepted length {counts.mean_accepted_length:.2f} "
            f"with drafts of {DRAFT}, agreement {counts.agreement:.2f} on {counts.answers} held-out answers"
        )
        lines += [
            f"  {source or 'no source'}: mean accepted length {part.mean_accepted_length:.2f}, "
            f"agreement {part.agreement:.2f}"
            for source, part in sorted(drafter.by_source.items())
            if len(drafter.by_source) > 1
        ]
        lines += [
            f"  round trip {speed.round_trip_ms:g} ms: draft {speed.draft}, {speed.tokens_per_s:.1f} tokens/s, "
            f"{speed.speed_up:.2f} times as fast as without a draft"
            for speed in drafter.speeds
        ]
    return "\n".join(lines)


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
        f"| Layers of the target | {', '.join(map(str, report.layers))} |",
        f"| Training texts | {report.texts:,} answers |",
        f"| Training | {report.tokens:,} answer tokens with repetitions, {report.minutes:.0f} minutes |",
        f"| Weights | {best.bits} bits in the layers, 8 bits in head and embedding |",
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
