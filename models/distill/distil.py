"""Making draft models for a target, from first prompt to measured drafter; a run that was killed goes on."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from models.cache import locked
from models.distill.corpus import CHOICE
from models.distill.delivery import deliver
from models.distill.export_student import build_graph
from models.distill.lesson import Lesson
from models.distill.student import count_layers, cut_student, pick_layers
from models.distill.student_folder import Shape, check_shape
from models.distill.workshop import Workshop
from models.error import ModelError
from models.folder import check_folder
from models.progress import silent
from models.seal import sha256_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from models.distill.options import Options
    from models.distill.report import Report
    from models.progress import Progress

    Layers = tuple[int, ...]


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
    out = out.absolute()  # the ONNX builder works in a folder of its own
    work = out.with_name(f"{out.name}.training")
    layers = pick_layers(count_layers(target), options.layers)
    with _opened(target, work, {(out, work): layers}, options, progress) as workshop:
        return _make(workshop, layers, out, work)


def frontier(
    target: Path, out: Path, options: Options, *, students: Sequence[int | Layers], progress: Progress = silent
) -> list[Report]:
    """Make students of several sizes with the same texts and the same recipe, to choose among them.

    Args:
        target: folder of a Hugging Face causal language model.
        out: folder that gets a drafter `<n>-layers` of each size.
        options: see there; its layers do not count, and its minutes are for each student.
        students: the number of layers of each, or the layers themselves.
        progress: told how far each step is.

    Raises:
        ModelError: as `distil`, or two students would have as many layers.
    """
    check_folder(target)
    out = out.absolute()  # the ONNX builder works in a folder of its own
    work = out.with_name(f"{out.name}.training")
    total = count_layers(target)
    sizes = [pick_layers(total, wanted) for wanted in students]
    names = [f"{len(layers)}-layers" for layers in sizes]
    if len(set(names)) < len(names):
        raise ModelError("Two of the students have as many layers; give each size once, as in 2,4,9,15.")
    folders = {(out / name, work / name): layers for name, layers in zip(names, sizes, strict=True)}
    with _opened(target, work, folders, options, progress) as workshop:
        out.mkdir(parents=True, exist_ok=True)
        return [_make(workshop, layers, place, folder) for (place, folder), layers in folders.items()]


@contextmanager
def _opened(
    target: Path, work: Path, students: Mapping[tuple[Path, Path], Layers], options: Options, progress: Progress
) -> Iterator[Workshop]:
    """Make a workshop ready; whatever can be wrong is found before the hours of work.

    Args:
        target: as `distil`.
        work: the workshop's folder, which one process at a time may use.
        students: the layers of each by its folders, of the drafter and of the training.
        options: as `distil`.
        progress: as `distil`.
    """
    with locked(work, progress):
        digest = sha256_of(target / check_folder(target)[0])[:16]
        for (out, folder), layers in students.items():
            _check_out(out)
            check_shape(folder, Shape(digest, layers, options.vocabulary, options.seed, CHOICE))
        workshop = Workshop(target, digest, work, options, progress)
        _check_exportable(workshop)
        yield workshop


def _make(workshop: Workshop, layers: Layers, out: Path, folder: Path) -> Report:
    """Teach a student and deliver it."""
    lesson = Lesson(workshop, layers, folder)
    lesson.teach()
    return deliver(workshop, lesson, out)


def _check_exportable(workshop: Workshop) -> None:
    """Export a student of one layer, once: what cannot be exported is better known before the training than after."""
    note, work = workshop.work / "exportable", workshop.work / "trial"
    if note.is_file():
        return
    shutil.rmtree(work, ignore_errors=True)  # of a run that was killed
    work.mkdir()
    try:
        student = cut_student(workshop.model, [0], workshop.vocabulary)
        build_graph(student, workshop.target, work, context=workshop.options.context, progress=workshop.progress)
    except ModelError as error:
        raise ModelError(f"No drafter can be made of {workshop.target}: {error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    note.touch()


def _check_out(out: Path) -> None:
    if out.exists() and not (out / "sled.json").is_file() and any(out.iterdir()):
        raise ModelError(f"{out} exists and is no drafter made here; choose another folder, or remove it.")
