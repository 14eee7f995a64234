"""A student on disk between training and export: what it was cut from, its tokens, its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING
from zipfile import BadZipFile

import msgspec
import numpy as np

from models.cache import replacing
from models.distill.corpus import CHOICE
from models.distill.vocabulary import Vocabulary
from models.error import ModelError

if TYPE_CHECKING:
    from pathlib import Path

    from models.distill.options import Options

VOCABULARY = "vocabulary.npz"
"""Its file in the folder of a training; chosen once the texts are complete."""

_SHAPE = "shape.json"
_TARGET = "target"


class Shape(msgspec.Struct, frozen=True):
    """What a training may not change when it goes on.

    Attributes:
        target: checksum of the target's weights.
        layers: which of its layers the student has, or as many numbers where it has a width of its own.
        tokens: how many tokens it can write.
        seed: of all that is random.
        choice: number of the rule that chose which texts are held out (see `split`); earlier releases wrote none.
        width: of a student by configuration; None where it was cut from the target.
    """

    target: str
    layers: tuple[int, ...]
    tokens: int
    seed: int
    choice: int = 1
    width: int | None = None


def shape_of(target: str, layers: tuple[int, ...], options: Options) -> Shape:
    """Return the shape of a student.

    Args:
        target: checksum of the target's weights.
        layers: of the target that it has, or its own by number.
        options: of its distillation.
    """
    return Shape(target, layers, options.vocabulary, options.seed, CHOICE, options.width)


def fix_shape(folder: Path, shape: Shape) -> None:
    """Write the shape down, or compare it with what an earlier run wrote.

    Raises:
        ModelError: they differ.
    """
    check_shape(folder, shape)
    if not (folder / _SHAPE).is_file():
        with replacing(folder / _SHAPE) as partial:
            partial.write_bytes(msgspec.json.encode(shape))


def check_shape(folder: Path, shape: Shape) -> None:
    """Compare the shape with what an earlier run wrote down, if there was one.

    Raises:
        ModelError: they differ.
    """
    path = folder / _SHAPE
    if not path.is_file():
        return
    try:
        known = msgspec.json.decode(path.read_bytes(), type=Shape)
    except msgspec.DecodeError as error:
        raise ModelError(f"{path} is damaged ({error}); remove {folder} to start anew.") from error
    if known.choice != shape.choice:
        raise ModelError(
            f"The training in {folder} was begun by another release, which held out other texts: some that the student "
            "was taught with would now judge it. Go on with that release; or, to start anew, remove everything in the "
            "folder but texts.jsonl, if it is there: those texts need not be written again."
        )
    for name in Shape.__struct_fields__:
        if getattr(known, name) != getattr(shape, name):
            raise ModelError(
                f"The training in {folder} was begun with {name} {getattr(known, name)}, not {getattr(shape, name)}; "
                "give the same again to go on with it, or remove the folder to start anew."
            )


def fix_target(folder: Path, target: str) -> None:
    """Write down whose texts a folder is for, or compare that with what an earlier run wrote.

    Args:
        folder: of the texts; made if there is none.
        target: checksum of the target's weights.

    Raises:
        ModelError: they differ.
    """
    path = folder / _TARGET
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            partial.write_text(target)
    elif (known := path.read_text()) != target:
        raise ModelError(
            f"The texts in {folder} are those of another target (weights {known}, not {target}); give that target "
            "again to go on with it, or choose another folder."
        )


def save_vocabulary(path: Path, vocabulary: Vocabulary) -> None:
    """Write a vocabulary, whole or not at all."""
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez(file, kept=vocabulary.kept, inward=vocabulary.inward)


def load_vocabulary(path: Path, *, vocab_size: int) -> Vocabulary:
    """Read a vocabulary and check that it fits a target.

    Raises:
        ModelError: the file is damaged, or made for another target.
    """
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            kept, inward = arrays["kept"].astype(np.int64), arrays["inward"].astype(np.int64)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise ModelError(f"{path} is damaged ({error}); remove its folder to start anew.") from error
    fits = len(inward) == vocab_size and kept.min(initial=0) >= 0 and kept.max(initial=0) < vocab_size
    if not fits or inward.min(initial=0) < 0 or inward.max(initial=0) >= len(kept):
        raise ModelError(
            f"The student's vocabulary in {path} does not fit the target: it is made for {len(inward)} tokens, the "
            f"target has {vocab_size}. Distil a student from this target, or give the target it was made from."
        )
    return Vocabulary(kept, inward)
