"""What the target thinks of each answer token: its most likely tokens, kept on disk once computed."""

from __future__ import annotations

import contextlib
import hashlib
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch

from models.distill.batches import collate
from models.distill.forward import answer_states, scaled

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from transformers import PreTrainedModel

    from models.distill.texts import Text
    from models.distill.vocabulary import Vocabulary

WIDTH = 48
"""Tokens stored for each position: they hold about 99 % of the target's probability."""


class Teacher:
    """The target's distribution over the student's tokens, at the answer positions of the training texts.

    A text is computed when it is first asked for and then read from `folder`: rows (uint16 or int32) and
    log-probabilities (float16), most likely first, normalised over the student's tokens, [positions, WIDTH].

    Args:
        target: the model, ready for inference.
        vocabulary: the student's tokens.
        texts: all training texts; they are named by their index.
        folder: where to keep what is computed; what an earlier run left there is used.
        prefix: leading ids that all texts share.
    """

    def __init__(
        self, target: PreTrainedModel, vocabulary: Vocabulary, texts: Sequence[Text], folder: Path, *, prefix: int
    ) -> None:
        self._target = target
        self._kept = torch.from_numpy(vocabulary.kept).to(target.device)
        self._texts = texts
        self._prefix = prefix
        self._starts = np.concatenate([[0], np.cumsum([len(text.answer) for text in texts])])
        self._width = min(WIDTH, len(vocabulary.kept))
        shape = (int(self._starts[-1]), self._width)
        folder.mkdir(parents=True, exist_ok=True)
        _forget_others(folder, fingerprint(vocabulary, texts))
        small = len(vocabulary.kept) <= np.iinfo(np.uint16).max
        self._rows, self._chances, self._done = _arrays(
            (folder / "rows.npy", shape, np.uint16 if small else np.int32),
            (folder / "chances.npy", shape, np.float16),
            (folder / "done.npy", (len(texts),), np.uint8),
        )

    @property
    def computed(self) -> int:
        """How many texts are on disk."""
        return int(self._done.sum())

    def lacks(self, batch: Sequence[int]) -> bool:
        """Say whether any text of the batch still has to be computed."""
        return not all(self._done[list(batch)])

    def look_up(self, batch: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return rows int64 and log-probabilities float32, [positions of all the texts, WIDTH]."""
        missing = [index for index in batch if not self._done[index]]
        if missing:
            self._compute(missing)
        spans = [slice(self._starts[index], self._starts[index + 1]) for index in batch]
        rows = np.concatenate([self._rows[span] for span in spans]).astype(np.int64)
        chances = np.concatenate([self._chances[span] for span in spans]).astype(np.float32)
        return torch.from_numpy(rows), torch.from_numpy(chances)

    @torch.inference_mode()
    def _compute(self, batch: Sequence[int]) -> None:
        texts = [self._texts[index] for index in batch]
        states = answer_states(self._target, collate(texts, self._prefix).to(self._target.device))
        head = self._target.get_output_embeddings()
        weight = head.weight[self._kept]
        bias = None if head.bias is None else head.bias[self._kept]
        at = 0
        for index, text in zip(batch, texts, strict=True):
            count = len(text.answer)
            bare = torch.nn.functional.linear(states[at : at + count], weight, bias)
            logits = scaled(bare.float(), self._target)
            best = torch.topk(torch.log_softmax(logits, dim=-1), self._width, dim=-1)
            span = slice(self._starts[index], self._starts[index + 1])
            self._rows[span] = best.indices.cpu().numpy()
            self._chances[span] = best.values.cpu().numpy()
            self._done[index] = 1
            at += count


def fingerprint(vocabulary: Vocabulary, texts: Sequence[Text]) -> str:
    """Return a checksum of what the distributions belong to, in hexadecimal."""
    digest = hashlib.sha256(vocabulary.kept.tobytes())
    for text in texts:
        digest.update(text.prompt.to_bytes(4, "little"))
        digest.update(text.ids.tobytes())
    return digest.hexdigest()


def _forget_others(folder: Path, made_of: str) -> None:
    """Remove distributions of other texts or tokens."""
    note = folder / "made-of"
    if note.is_file() and note.read_text() == made_of:
        return
    for path in folder.glob("*.npy"):
        path.unlink()
    note.write_text(made_of)


_Array: TypeAlias = "np.memmap[tuple[int, ...], np.dtype[np.generic]]"


def _arrays(*wanted: tuple[Path, tuple[int, ...], type[np.generic]]) -> list[_Array]:
    """Return the arrays of these files, shapes and kinds as an earlier run left them, or all of them empty."""
    known = [_known(*each) for each in wanted]
    if all(array is not None for array in known):
        return [array for array in known if array is not None]
    return [np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape) for path, shape, dtype in wanted]


def _known(path: Path, shape: tuple[int, ...], dtype: type[np.generic]) -> _Array | None:
    """Return the array of a file, or None where there is none, or one that was cut short."""
    with contextlib.suppress(ValueError, OSError):
        np.lib.format.open_memmap(path, mode="r")  # to write in, one that was cut short would be filled up with zeros
        array: _Array = np.lib.format.open_memmap(path, mode="r+")
        if array.shape == shape and array.dtype == dtype:
            return array
    return None
