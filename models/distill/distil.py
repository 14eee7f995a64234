"""Making a draft model for a target, from first prompt to measured drafter; a run that was killed goes on."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edge_agent.drafters.onnx import OnnxDrafter
from models.distill.export_student import build_graph, write_drafter
from models.distill.held_out import agreements_by_source, pool
from models.distill.lesson import Lesson
from models.distill.material import EVALUATED
from models.distill.measure import DRAFT, agree, expected_speeds, folder_bytes, ms_per_token
from models.distill.report import Drafted, Report, card
from models.distill.workshop import Workshop
from models.error import ModelError
from models.folder import check_folder
from models.progress import silent

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from models.distill.options import Options
    from models.progress import Progress

_DRAFTED_TEXTS = 40
"""Held-out texts that an exported drafter drafts for, where no evaluation prompts say how many."""


def distil(target: Path, out: Path, options: Options, *, progress: Progress = silent) -> Report:
    """Make a drafter for a target and return what it is worth.

    Texts, checkpoints and the target's distributions are kept in `<out>.training`, from which a run that was killed
    goes on when it is called again with the same target, layers, vocabulary and seed; it may be removed afterwards.

    Args:
        target: folder of a Hugging Face causal language model.
        out: folder of the drafter to make. Where 4-bit weights are faster here, the 8-bit export is put beside it.
        options: see there.
        progress: told how far each step is, with the held-out acceptance while training.

    Raises:
        ModelError: the target, the data or an earlier run cannot be used; the message says what to do.
    """
    check_folder(target)
    _check_out(out)
    work = out.with_name(f"{out.name}.training")
    workshop = Workshop(target, work, options, progress)
    return _make(workshop, workshop.layers(options.layers), out, work)


def frontier(
    target: Path, out: Path, options: Options, *, students: Iterable[int | tuple[int, ...]], progress: Progress = silent
) -> list[Report]:
    """Make students of several sizes with the same texts and the same recipe, to choose among them.

    Args:
        target: folder of a Hugging Face causal language model.
        out: folder that gets a drafter `<n>-layers` of each size.
        options: see there; its layers do not count.
        students: the number of layers of each, or the layers themselves.
        progress: told how far each step is.

    Raises:
        ModelError: as `distil`.
    """
    check_folder(target)
    work = out.with_name(f"{out.name}.training")
    workshop = Workshop(target, work, options, progress)
    reports = []
    for wanted in students:
        layers = workshop.layers(wanted)
        name = f"{len(layers)}-layers"
        _check_out(out / name)
        out.mkdir(parents=True, exist_ok=True)
        reports.append(_make(workshop, layers, out / name, work / name))
    return reports


def _make(workshop: Workshop, layers: tuple[int, ...], out: Path, folder: Path) -> Report:
    """Teach a student, export it and judge what came of it."""
    lesson = Lesson(workshop, layers, folder)
    if lesson.fresh:
        with _graph(workshop, lesson):
            pass  # what cannot be exported is better known before hours of training than after
    lesson.teach()
    state, material = lesson.trainer.state, workshop.material
    with _graph(workshop, lesson) as graph:
        drafters = [_export(workshop, graph, out, bits) for bits in sorted({workshop.bits, 8})]
    report = Report(
        drafters=drafters,
        layers=layers,
        tokens=state.tokens,
        texts=len(material.training),
        minutes=state.seconds / 60,
        verify_ms=material.verify_ms,
        curve=lesson.curve,
        warnings=material.warnings,
    )
    (out / "README.md").write_text(card(report, _facts(workshop)), encoding="utf-8")
    (out / "report.json").write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    if (licence := workshop.target / "LICENSE").is_file():
        shutil.copyfile(licence, out / "LICENSE")
    return report


@contextmanager
def _graph(workshop: Workshop, lesson: Lesson) -> Iterator[Path]:
    """Give the folder of the student's graph in float32."""
    with tempfile.TemporaryDirectory(dir=lesson.folder) as work:
        yield build_graph(
            lesson.trainer.student,
            workshop.target,
            Path(work),
            context=workshop.options.context,
            progress=workshop.progress,
        )


def _export(workshop: Workshop, graph: Path, out: Path, bits: int) -> Drafted:
    """Write a drafter, the one of the faster bits to `out`, and draft with it."""
    options, material, progress = workshop.options, workshop.material, workshop.progress
    folder = out if bits == workshop.bits else out.with_name(f"{out.name}-int{bits}")
    source = f"{bits}-bit export of a student of {workshop.target.name}"
    write_drafter(graph, workshop.vocabulary, workshop.target, folder, bits=bits, source=source, progress=progress)
    drafter = OnnxDrafter(folder)
    judged = material.evaluation if options.evaluation else material.evaluation[:_DRAFTED_TEXTS]
    agreements = agree(drafter, judged, longest=EVALUATED, progress=progress)
    ms = ms_per_token(drafter, max(judged, key=lambda text: text.prompt))
    sources = agreements_by_source([text.source for text in judged], agreements)
    return Drafted(
        folder=str(folder),
        bits=bits,
        size=folder_bytes(folder),
        ms_per_token=ms,
        acceptance=pool(agreements, DRAFT),
        by_source={source: pool(part, DRAFT) for source, part in sources.items()},
        speeds=expected_speeds(
            agreements, draft_ms=ms, verify_ms=material.verify_ms, round_trips_ms=options.round_trips_ms
        ),
    )


def _facts(workshop: Workshop) -> dict[str, str]:
    options = workshop.options
    prompts = options.prompts.name if options.prompts else "thought up by the target"
    answers = options.answers.name if options.answers else "written by the target, greedy"
    has_licence = (workshop.target / "LICENSE").is_file()
    return {
        "Command": f"`{options.command}`",
        "Target": f"{workshop.target.name} (weights {workshop.digest})",
        "Data": f"prompts {prompts}, answers {answers}",
        "Seed": str(options.seed),
        "Hardware": f"{platform.machine()}, {os.cpu_count()} cores, device {workshop.model.device}, {options.dtype}",
        "Licence": "that of the target" + (" (see LICENSE)" if has_licence else ""),
    }


def _check_out(out: Path) -> None:
    if out.exists() and not (out / "sled.json").is_file() and any(out.iterdir()):
        raise ModelError(f"{out} exists and is no drafter made here; choose another folder, or remove it.")
