"""The training texts of a run, kept in one file as they come in, so that a run that was killed has them again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from models.distill.texts import Text
from models.error import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path


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


def split(texts: Sequence[Text], *, seed: int, share: float = 0.05, most: int = 200) -> tuple[list[Text], list[Text]]:
    """Return the texts to train on and those held out, at least one of each, chosen by the seed.

    Texts of the same prompt stay on one side.

    Raises:
        ModelError: there are fewer than two different prompts.
    """
    by_prompt: dict[bytes, list[Text]] = {}
    for text in texts:
        by_prompt.setdefault(text.ids[: text.prompt].tobytes(), []).append(text)
    if len(by_prompt) < 2:
        raise ModelError("One answer must be held out and another trained on, but there is only one prompt; give more.")
    groups = list(by_prompt.values())
    order = np.random.default_rng(seed).permutation(len(groups))
    count = max(1, min(most, round(share * len(groups))))
    held = [text for index in order[:count] for text in groups[index]]
    return [text for index in order[count:] for text in groups[index]], held


def _text(line: _Line) -> Text:
    return Text(np.asarray([*line.prompt, *line.answer], np.int32), len(line.prompt), line.source)
