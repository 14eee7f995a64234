"""Texts put together for one step: of similar length, so that little is padded."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from models.distill.texts import Text

_POOL = 24
"""Batches drawn at random together and then sorted by length."""


class Batch(NamedTuple):
    """Padded token ids, all with the same leading ones.

    Attributes:
        prefix: int64 [P], the ids that all begin with.
        ids: int64 [B, L], what follows, padded on the right with id 0.
        where: bool [B, L], the positions that predict an answer token; the last prefix position never is one.
        wanted: int64 [where.sum()], the answer tokens, text by text.
    """

    prefix: torch.Tensor
    ids: torch.Tensor
    where: torch.Tensor
    wanted: torch.Tensor

    def to(self, device: torch.device) -> Batch:
        """Return it on another device."""
        return Batch(*(tensor.to(device) for tensor in self))


def collate(texts: Sequence[Text], prefix: int) -> Batch:
    """Pad texts that share their first `prefix` ids (see `shared_prefix`); the last id of each is only predicted."""
    longest = max(len(text.ids) for text in texts) - prefix - 1
    ids = torch.zeros(len(texts), longest, dtype=torch.int64)
    where = torch.zeros(len(texts), longest, dtype=torch.bool)
    for row, text in enumerate(texts):
        length = len(text.ids) - prefix - 1
        ids[row, :length] = torch.from_numpy(text.ids[prefix:-1].astype(np.int64))
        where[row, text.prompt - prefix - 1 : length] = True
    wanted = torch.from_numpy(np.concatenate([text.answer for text in texts]).astype(np.int64))
    return Batch(torch.from_numpy(texts[0].ids[:prefix].astype(np.int64)), ids, where, wanted)


def plan_epoch(lengths: Sequence[int], *, tokens: int, seed: int, epoch: int) -> Iterator[list[int]]:
    """Yield the batches of an epoch as lists of text indices; the same ones for the same seed and epoch.

    Args:
        lengths: tokens of each text.
        tokens: in a batch at most, padding included; a longer text makes a batch of its own.
        seed: of the order.
        epoch: from 0; each has another order.
    """
    generator = np.random.default_rng([seed, epoch])
    order = generator.permutation(len(lengths))
    pool = max(1, round(_POOL * tokens / max(1, int(np.mean(lengths)))))
    for start in range(0, len(order), pool):
        batches: list[list[int]] = [[]]
        for index in sorted(order[start : start + pool].tolist(), key=lambda index: lengths[index]):
            if batches[-1] and (len(batches[-1]) + 1) * lengths[index] > tokens:
                batches.append([])
            batches[-1].append(index)
        for at in generator.permutation(len(batches)):
            yield batches[at]
