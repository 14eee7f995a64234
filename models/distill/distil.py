"""Making draft models for a target, from first prompt to measured drafter; a run that was killed goes on."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from models.cache import locked, writing
from models.distill.delivery import deliver, folders_of, is_delivered
from models.distill.export_student import build_graph
from models.distill.lesson import Lesson
from models.distill.small_student import check_width, number_layers
from models.distill.student import count_layers, pick_layers
from models.distill.student_folder import check_shape, fix_target, shape_of
from models.distill.workshop import Workshop
from models.error import ModelError
from models.folder import check_folder
from models.progress import silent
from models.seal import digest_of, read_seal, sha256_of

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
    goes on when it is called again with the same target, layers, width, vocabulary and seed; it may be removed
    afterwards.

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
    layers = _pick_layers(count_layers(target), options.layers, options)
    with _opened(target, work, {(out, work): layers}, options, progress) as workshop:
        return _make(workshop, layers, out, work)


def frontier(
    target: Path, out: Path, options: Options, *, students: Sequence[int | Layers], progress: Progress = silent
) -> list[Report]:
    """Make students of several sizes with the same texts and the same recipe, to choose among them.

    Args:
        target: folder of a Hugging Face causal language model.
        out: folder that gets a drafter `<n>-layers` of each size.
        options: see there; its layers do not count, its width is that of all, and its minutes are for each student.
        students: the number of layers of each, or the layers themselves.
        progress: told how far each step is.

    Raises:
        ModelError: as `distil`, or two students would have as many layers.
    """
    check_folder(target)
    out = out.absolute()  # the ONNX builder works in a folder of its own
    work = out.with_name(f"{out.name}.training")
    total = count_layers(target)
    sizes = [_pick_layers(total, wanted, options) for wanted in students]
    names = [f"{len(layers)}-layers" for layers in sizes]
    if len(set(names)) < len(names):
        raise ModelError("Two of the students have as many layers; give each size once, as in 2,4,9,15.")
    if out.exists() and not out.is_dir():
        raise ModelError(f"{out} is no folder, so no drafters can be put in it; choose another --out.")
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
    with writing(work), locked(work, progress):
        digest = _digest(target)
        for (out, folder), layers in students.items():
            for place in folders_of(out, 4).values():  # which weights are faster here is not known yet
                _check_out(place)
            check_shape(folder, shape_of(digest, layers, options))
        fix_target(work, digest)
        workshop = Workshop(target, digest, work, options, progress)
        _check_exportable(workshop)
        yield workshop


def _pick_layers(total: int, wanted: int | Layers | None, options: Options) -> Layers:
    """Return the layers of a student, and refuse a shape that it cannot have."""
    if options.width is None:
        return pick_layers(total, wanted)
    check_width(options.width)
    return number_layers(total, wanted)


def _digest(target: Path) -> str:
    """Return a checksum of the target's weights; that of a single file is what trainings of earlier releases know."""
    weights = check_folder(target)
    return digest_of(target, weights) if len(weights) > 1 else sha256_of(target / weights[0])[:16]


def _make(workshop: Workshop, layers: Layers, out: Path, folder: Path) -> Report:
    """Teach a student and deliver it."""
    lesson = Lesson(workshop, layers, folder)
    lesson.teach()
    return deliver(workshop, lesson, out)


def _check_exportable(workshop: Workshop) -> None:
    """Export a student of one layer, once: what cannot be exported is better known before the training than after."""
    width = workshop.options.width
    note = workshop.work / ("exportable" if width is None else f"exportable-{width}")
    work = workshop.work / "trial"
    if note.is_file():
        return
    shutil.rmtree(work, ignore_errors=True)  # of a run that was killed
    work.mkdir()
    try:
        build_graph(
            workshop.student((0,)), workshop.target, work, context=workshop.options.context, progress=workshop.progress
        )
    except ModelError as error:
        if width is not None:
            raise
        raise ModelError(
            f"No drafter can be cut from {workshop.target}: {error}\n"
            "Try --width 256: a student of its own shape can be made for any target."
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    note.touch()


def _check_out(out: Path) -> None:
    """Refuse to replace anything but what an earlier distillation made."""
    if not _is_replaceable(out):
        raise ModelError(f"{out} exists and is no drafter made here; choose another folder, or move it away.")


def _is_replaceable(out: Path) -> bool:
    if out.is_symlink():
        return False  # a folder cannot be renamed over it
    if not out.is_dir():
        return not out.exists()
    if not any(out.iterdir()):
        return True
    seal = read_seal(out)
    return seal is not None and is_delivered(seal.source)
