"""Weights in few bits: blocks of a row share a scale, as onnxruntime's MatMulNBits reads them.

w ≈ (q - 2^(bits-1)) · scale, with q from 0 to 2^bits - 1. The scale makes the block's number of the largest magnitude
the lowest q, so that this number, whatever its sign, is held almost exactly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TINY = 1e-12


class Grid(msgspec.Struct, frozen=True):
    """How finely a matrix is stored.

    Attributes:
        bits: of a weight, 4 or 8.
        block: neighbouring inputs of an output that share a scale: 16, 32, 64 or 128.
    """

    bits: int
    block: int

    def bytes_of(self, rows: int, columns: int) -> int:
        """Return the size of a matrix of `rows` outputs and `columns` inputs, scales included."""
        blocks = -(-columns // self.block)
        return rows * blocks * (self.block * self.bits // 8 + 4)


INT8 = Grid(bits=8, block=64)
INT4 = Grid(bits=4, block=64)
"""Blocks of 32 would take an eighth more room; the training learns to live with those of 64."""


def quantise(weight: torch.Tensor, grid: Grid) -> tuple[torch.Tensor, torch.Tensor]:
    """Return uint8 levels [rows, blocks, block] and float32 scales [rows, blocks] of a matrix [rows, columns].

    Columns that fill up the last block are zeros.
    """
    half = 1 << (grid.bits - 1)
    columns = weight.shape[1]
    padded = torch.nn.functional.pad(weight.float(), (0, -columns % grid.block))
    blocks = padded.view(len(weight), -1, grid.block)
    largest = blocks.gather(2, blocks.abs().argmax(dim=2, keepdim=True))
    scales = largest / -half
    scales = torch.where(scales.abs() < _TINY, torch.ones_like(scales), scales)
    levels = torch.clamp(torch.round(blocks / scales) + half, 0, 2 * half - 1)
    return levels.to(torch.uint8), scales[..., 0]


def restore(levels: torch.Tensor, scales: torch.Tensor, columns: int, grid: Grid) -> torch.Tensor:
    """Return the matrix [rows, columns] that levels and scales stand for."""
    values = (levels.float() - (1 << (grid.bits - 1))) * scales[..., None]
    return values.flatten(1)[:, :columns]


def pack(levels: torch.Tensor, grid: Grid) -> NDArray[Any]:
    """Return the bytes [rows, blocks, block · bits / 8] of MatMulNBits; of two 4-bit levels the first is low."""
    if grid.bits == 8:
        return levels.numpy()
    return (levels[..., 0::2] | (levels[..., 1::2] << 4)).numpy()


class Rounded(torch.nn.Module):
    """Lets a weight be used as it will be stored, while training goes on as if it were not (straight-through).

    Registered with `torch.nn.utils.parametrize`.
    """

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self._grid = grid

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the rounded weight, whose gradient is that of the weight."""
        with torch.no_grad():
            stored = restore(*quantise(weight, self._grid), weight.shape[1], self._grid)
        return weight + (stored - weight).detach()
