"""Which of the target's tokens a student knows: the frequent ones, and a stand-in for each of the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Iterable

    from models.distill.texts import Text

_PROMPT_WEIGHT = 0.2
"""What a token counts in a prompt: the student reads it there, and answers take up words of their prompts."""
_SLICE = 4096


class Vocabulary(msgspec.Struct, frozen=True):
    """A student's tokens.

    Attributes:
        kept: int64 [K], ascending: the target's ids that the student can write; its row i is the target's kept[i].
        inward: int64 [V]: the student's row that a target's id is read as.
    """

    kept: NDArray[np.int64]
    inward: NDArray[np.int64]

    @property
    def outward(self) -> NDArray[np.int64]:
        """int64 [V]: the row of a target's id, -1 for one that the student cannot write."""
        rows = np.full(len(self.inward), -1, np.int64)
        rows[self.kept] = np.arange(len(self.kept))
        return rows


def choose_tokens(texts: Iterable[Text], *, vocab_size: int, size: int, always: Iterable[int]) -> NDArray[np.int64]:
    """Return the ids to keep, ascending: `always`, then the most frequent ones; lower ids first among equals.

    In a BPE vocabulary lower ids were merged earlier, so they are the more frequent ones in general too.
    """
    counts = np.zeros(vocab_size, np.float64)
    for text in texts:
        np.add.at(counts, text.answer, 1.0)
        np.add.at(counts, text.ids[: text.prompt], _PROMPT_WEIGHT)
    counts[list(always)] = np.inf
    return np.sort(np.argsort(-counts, kind="stable")[: min(size, vocab_size)])


def find_stand_ins(embeddings: NDArray[np.float32], kept: NDArray[np.int64]) -> Vocabulary:
    """Let each id that is not kept be read as the kept one whose embedding points the most alike.

    Args:
        embeddings: [V, d], the target's input embeddings.
        kept: ids to keep, ascending.
    """
    centred = embeddings - embeddings.mean(axis=0)
    centred /= np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    inward = np.empty(len(embeddings), np.int64)
    known = centred[kept].T
    for start in range(0, len(embeddings), _SLICE):
        inward[start : start + _SLICE] = (centred[start : start + _SLICE] @ known).argmax(axis=1)
    inward[kept] = np.arange(len(kept))
    return Vocabulary(kept, inward)
