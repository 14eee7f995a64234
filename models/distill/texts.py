"""Training texts: prompts, the target's answers to them, and which of them may be trained on."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.error import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

Ids: TypeAlias = NDArray[np.int32]
"""Token ids of one conversation, shape [length]."""


class Prompt(msgspec.Struct, frozen=True):
    """A line of a prompt file.

    Attributes:
        id: names it in the file of answers.
        prompt: the user's turn.
        source: where it is from; results are told apart by it.
    """

    id: int | str
    prompt: str
    source: str = ""

    def __post_init__(self) -> None:
        """Refuse a prompt that a chat template cannot be filled with."""
        if not self.prompt.strip():
            raise ValueError("the prompt is blank")


class Answer(msgspec.Struct, frozen=True):
    """A line of a file of answers.

    Attributes:
        id: of its prompt.
        answer: the target's text, without its end token.
        finished: whether the target ended the text itself.
    """

    id: int | str
    answer: str
    finished: bool = True


_Entry = TypeVar("_Entry", Prompt, Answer)


class Text(msgspec.Struct, frozen=True):
    """A conversation as token ids.

    Attributes:
        ids: int32 [length], prompt and answer.
        prompt: how many of them are the prompt; the model learns to predict the others.
        source: where the prompt is from.
    """

    ids: Ids
    prompt: int
    source: str = ""

    @property
    def answer(self) -> Ids:
        """The ids after the prompt."""
        return self.ids[self.prompt :]


def read_prompts(path: Path) -> list[Prompt]:
    """Read a JSONL file of prompts, or a plain one with a prompt on each line.

    Raises:
        ModelError: the file is missing, empty or damaged, or two lines have the same id.
    """
    if path.suffix != ".jsonl":
        lines = [line.decode(errors="replace").strip() for line in _lines(path)]
        return [Prompt(index, line) for index, line in enumerate(filter(None, lines))]
    prompts = _decode(path, Prompt)
    if len({prompt.id for prompt in prompts}) != len(prompts):
        raise ModelError(f"In {path} two prompts have the same id; give each line an id of its own.")
    return prompts


def read_answers(path: Path) -> list[Answer]:
    """Read a JSONL file of answers.

    Raises:
        ModelError: the file is missing, empty or damaged.
    """
    return _decode(path, Answer)


def overlap(training: Iterable[Prompt], evaluation: Iterable[Prompt]) -> set[int | str]:
    """Return the ids of the training prompts whose text is also an evaluation prompt, but for blanks and case."""
    known = {fingerprint(prompt.prompt) for prompt in evaluation}
    return {prompt.id for prompt in training if fingerprint(prompt.prompt) in known}


def shared_prefix(texts: Sequence[Text]) -> int:
    """Return how many leading ids all texts share, at most the shortest prompt less one.

    A chat template begins every conversation with the same words, which then need computing once per batch.
    """
    if not texts:
        return 0
    length = min(text.prompt for text in texts) - 1
    first = texts[0].ids
    for text in texts:
        differing = np.flatnonzero(text.ids[:length] != first[:length])
        if differing.size:
            length = int(differing[0])
    return max(0, length)


def fingerprint(prompt: str) -> bytes:
    """Return a checksum of a prompt that does not mind blanks and case."""
    return hashlib.sha256(" ".join(prompt.casefold().split()).encode()).digest()[:16]


def _lines(path: Path) -> list[bytes]:
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror or error}); check the path.") from error
    if not any(line.decode(errors="replace").strip() for line in lines):
        raise ModelError(f"{path} is empty; it should hold one entry a line.")
    return lines


def _decode(path: Path, kind: type[_Entry]) -> list[_Entry]:
    decoder = msgspec.json.Decoder(kind)
    entries: list[_Entry] = []
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            entries.append(decoder.decode(line))
        except msgspec.DecodeError as error:
            fields = ", ".join(kind.__struct_fields__)
            raise ModelError(
                f"Line {number} of {path} cannot be used ({error}); each line is an object with the fields {fields}."
            ) from error
    return entries
