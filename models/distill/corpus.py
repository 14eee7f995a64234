"""The training texts of a run, kept in one file as they come in, so that a run that was killed has them again."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from models.distill.texts import Text
from models.error import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path


CHOICE = 2
"""Number of the rule by which `split` chooses; a training that was begun with another one cannot go on."""

_SHARE = 0.05
"""Of the prompts, held out."""

_HELD_OUT = 200
"""Prompts that a student is judged by while it trains, at most."""


class _Line(msgspec.Struct):
    prompt: list[int]
    answer: list[int]
    source: str = ""


class Corpus:
    """Texts in a JSONL file of token ids; a last line cut off by a crash is dropped.

    Raises:
        ModelError: the file is damaged elsewhere.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.texts: list[Text] = []
        whole = 0
        content = path.read_bytes() if path.is_file() else b""
        for number, line in enumerate(content.splitlines(keepends=True), start=1):
            if not line.endswith(b"\n"):
                break
            try:
                self.texts.append(_text(msgspec.json.decode(line, type=_Line)))
            except msgspec.DecodeError as error:
                raise ModelError(
                    f"Line {number} of {path} is damaged ({error}); delete the file to write it anew."
                ) from error
            whole += len(line)
        if whole < len(content):
            with path.open("r+b") as file:
                file.truncate(whole)

    @property
    def tokens(self) -> int:
        """Answer tokens held."""
        return sum(len(text.answer) for text in self.texts)

    def add(self, texts: Iterable[Text]) -> None:
        """Append texts to the file."""
        with self._path.open("ab") as file:
            for text in texts:
                ids = text.ids.tolist()
                file.write(msgspec.json.encode(_Line(ids[: text.prompt], ids[text.prompt :], text.source)) + b"\n")
                self.texts.append(text)


def split(texts: Sequence[Text], *, seed: int) -> tuple[list[Text], list[Text]]:
    """Return the texts to train on and those held out, at least one of each.

    Whether a prompt is held out depends on itself and the seed alone, so texts that come or go later do not put one
    that was trained on among those held out. Only where all would be on one side is one of them moved. Of very many,
    not all that are held out are returned; they are not trained on either.

    Raises:
        ModelError: there are fewer than two different prompts.
    """
    by_prompt: dict[bytes, list[Text]] = {}
    for text in texts:
        by_prompt.setdefault(text.ids[: text.prompt].tobytes(), []).append(text)
    if len(by_prompt) < 2:
        raise ModelError("One answer must be held out and another trained on, but there is only one prompt; give more.")
    places = {prompt: _place(prompt, seed) for prompt in by_prompt}
    order = sorted(by_prompt, key=places.__getitem__)
    count = sum(place < _SHARE for place in places.values())
    count = min(max(1, count), len(order) - 1)
    held_out, training = order[:count][:_HELD_OUT], set(order[count:])
    return (
        [text for prompt, group in by_prompt.items() if prompt in training for text in group],
        [text for prompt in held_out for text in by_prompt[prompt]],
    )


def _place(prompt: bytes, seed: int) -> float:
    """Return a number from 0 to 1, even over all prompts, that a prompt has for good."""
    digest = hashlib.blake2b(prompt, digest_size=8, key=str(seed).encode()[:64]).digest()
    return int.from_bytes(digest, "little") / 2**64


def _text(line: _Line) -> Text:
    return Text(np.asarray([*line.prompt, *line.answer], np.int32), len(line.prompt), line.source)
