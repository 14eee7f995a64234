"""Rows of logits with the maximum of each block of columns, which tells where anything of interest may lie."""

from __future__ import annotations

from functools import cached_property

import torch
from torch.nn.functional import pad

_BLOCK = 64
"""Columns reduced together. A plain maximum vectorises; a maximum with its index does not (4 to 15 times slower)."""


class Blocks:
    """Logits [N, V] and the maxima of their blocks of columns.

    Attributes:
        logits: [N, V], any float dtype and device.
        parts: [N, ceil(V / 64), 64] the same, in blocks, the last one filled up with -inf.
        highs: [N, ceil(V / 64)] the largest logit of each block; NaN if it holds one.
    """

    def __init__(self, logits: torch.Tensor, highs: torch.Tensor | None = None) -> None:
        lacking = -logits.shape[1] % _BLOCK
        padded = pad(logits, (0, lacking), value=-torch.inf) if lacking else logits
        self.logits = logits
        self.parts = padded.reshape(len(logits), -1, _BLOCK)
        self.highs = self.parts.amax(-1) if highs is None else highs

    @cached_property
    def highest(self) -> torch.Tensor:
        """The largest logit [N] of each row; NaN if it holds one."""
        return self.highs.amax(1)

    def rows(self, index: torch.Tensor) -> Blocks:
        """Return some of the rows, given their numbers in rising order."""
        if len(index) == len(self.logits):
            return self
        return Blocks(self.logits[index], self.highs[index])

    def first_highest(self) -> torch.Tensor:
        """Return the lowest id [N] of the largest logit of each row.

        `argmax` returns the first of equal maxima, here of blocks and then within the block, which together is the
        lowest id; only two short rows are searched for an index.
        """
        block = self.highs.argmax(1)
        inside = self.parts[torch.arange(len(block), device=block.device), block]
        return block * _BLOCK + inside.argmax(1)

    def at_least(self, cuts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Find the logits that are finite and not below their row's cut.

        Args:
            cuts: [N] of the dtype of the logits.

        Returns:
            row numbers, token ids and logits [n], ordered by row and then by id.
        """
        cuts = cuts.clamp(min=torch.finfo(cuts.dtype).min)
        row, block = (self.highs >= cuts[:, None]).nonzero(as_tuple=True)
        inside = self.parts.flatten(0, 1).index_select(0, row * self.parts.shape[1] + block)
        hit, column = (inside >= cuts[row, None]).nonzero(as_tuple=True)
        return row[hit], block[hit] * _BLOCK + column, inside[hit, column]
