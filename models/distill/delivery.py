"""A taught student delivered: exported, tried on texts that it was not taught with, and described."""

from __future__ import annotations

import os
import platform
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from edge_agent.drafters.onnx import OnnxDrafter
from models.distill.export_student import build_graph, write_drafter
from models.distill.held_out import agreements_by_source, pool
from models.distill.material import EVALUATED
from models.distill.measure import DRAFT, draft_along, expected_speeds, folder_bytes
from models.distill.report import Drafted, Report, card
from models.hub import name_of
from models.seal import sha256_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from models.distill.lesson import Lesson
    from models.distill.workshop import Workshop

_DRAFTED_TEXTS = 40
"""Held-out texts that an exported drafter drafts for, where no evaluation prompts say how many."""

_DRAFTING = 0.05
"""Share of the minutes for that, for each export."""

_DELIVERED = "-bit export of a student of "
"""What the seal of a drafter says, between its bits and its target."""


def folders_of(out: Path, bits: int) -> dict[int, Path]:
    """Return the folders that a student is delivered in by the bits of their weights, the best one first.

    Args:
        out: that was asked for.
        bits: of the weights that this machine multiplies faster; where they are 4, an 8-bit export is put beside.
    """
    return {bits: out} | ({} if bits == 8 else {8: out.with_name(f"{out.name}-int8")})


def is_delivered(source: str) -> bool:
    """Whether a folder whose seal names this source was delivered here, so that it may be made anew."""
    return _DELIVERED in source


def deliver(workshop: Workshop, lesson: Lesson, out: Path) -> Report:
    """Export a student, judge what came of it, and write both down in its folder.

    Args:
        workshop: that it was made in.
        lesson: that it was taught in, to the end.
        out: folder of the drafter. Where 4-bit weights are faster here, the 8-bit export is put beside it.

    Raises:
        ModelError: the drafter does not work, or the disk is full.
    """
    state, material = lesson.trainer.state, workshop.material
    with _graph(workshop, lesson) as graph:
        drafters = [_export(workshop, graph, out, bits) for bits in folders_of(out, workshop.bits)]
    report = Report(
        drafters=drafters,
        layers=lesson.layers,
        weights=sum(value.numel() for value in lesson.trainer.student.parameters()),
        tokens=state.tokens,
        texts=len(material.training),
        minutes=state.seconds / 60,
        verify_ms=material.verify_ms,
        alone_ms=material.alone_ms,
        curve=lesson.curve,
        warnings=material.warnings,
        width=workshop.options.width,
    )
    (out / "README.md").write_text(card(report, _facts(workshop)), encoding="utf-8")
    (out / "report.json").write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    if (licence := workshop.target / "LICENSE").is_file():
        shutil.copyfile(licence, out / "LICENSE")
    return report


@contextmanager
def _graph(workshop: Workshop, lesson: Lesson) -> Iterator[Path]:
    """Give the folder of the student's graph in float32."""
    work = lesson.folder / "graph"
    shutil.rmtree(work, ignore_errors=True)  # of a run that was killed
    work.mkdir()
    try:
        yield build_graph(
            lesson.trainer.student,
            workshop.target,
            work,
            context=workshop.options.context,
            progress=workshop.progress,
        )
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _export(workshop: Workshop, graph: Path, out: Path, bits: int) -> Drafted:
    """Write a drafter, the one of the faster bits to `out`, and draft with it."""
    options, material, progress = workshop.options, workshop.material, workshop.progress
    folder = folders_of(out, workshop.bits)[bits]
    source = f"{bits}{_DELIVERED}{name_of(workshop.target)}"
    write_drafter(graph, workshop.vocabulary, workshop.target, folder, bits=bits, source=source, progress=progress)
    seconds = None if options.minutes is None or options.evaluation else 60 * _DRAFTING * options.minutes
    trial = draft_along(
        OnnxDrafter(folder),
        material.evaluation if options.evaluation else material.evaluation[:_DRAFTED_TEXTS],
        longest=EVALUATED,
        seconds=seconds,
        progress=progress,
    )
    sources = agreements_by_source(trial.sources, trial.agreements)
    return Drafted(
        folder=folder.name,
        bits=bits,
        size=folder_bytes(folder),
        ms_per_token=trial.ms_per_token,
        acceptance=pool(trial.agreements, DRAFT),
        by_source={source: pool(part, DRAFT) for source, part in sources.items()},
        speeds=expected_speeds(
            trial.agreements,
            draft_ms=trial.ms_per_token,
            verify_ms=material.verify_ms,
            alone_ms=material.alone_ms,
            round_trips_ms=options.round_trips_ms,
        ),
    )


def _named(file: Path) -> str:
    return f"{file.name} (sha256 {sha256_of(file)[:16]})"


def _facts(workshop: Workshop) -> dict[str, str]:
    options = workshop.options
    prompts = _named(options.prompts) if options.prompts else "thought up by the target"
    answers = _named(options.answers) if options.answers else "written by the target, greedy"
    has_licence = (workshop.target / "LICENSE").is_file()
    return {
        "Command": f"`{options.command}`",
        "Target": f"{name_of(workshop.target)} (weights {workshop.digest})",
        "Data": f"prompts {prompts}, answers {answers}",
        "Seed": str(options.seed),
        "Hardware": f"{platform.machine()}, {os.cpu_count()} cores, device {workshop.model.device}, {options.dtype}",
        "Licence": "that of the target" + (" (see LICENSE)" if has_licence else ""),
    }
