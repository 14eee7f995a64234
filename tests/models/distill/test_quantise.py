"""Few-bit weights mean to onnxruntime what they mean here."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
import torch

from models.distill.kernels import faster_bits, product
from models.distill.quantise import INT4, INT8, Grid, Rounded, quantise, restore

GRIDS = [INT8, INT4, Grid(bits=4, block=32), Grid(bits=8, block=32)]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("columns", [64, 96, 40])
def test_onnxruntime_multiplies_by_the_restored_matrix(grid: Grid, columns: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(24, columns)
    session = ort.InferenceSession(product(weight, grid, accuracy=1), providers=["CPUExecutionProvider"])
    token = torch.randn(1, columns)
    expected = token @ restore(*quantise(weight, grid), columns, grid).T
    np.testing.assert_allclose(session.run(None, {"x": token.numpy()})[0], expected.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("grid", GRIDS)
def test_error_is_at_most_a_step(grid: Grid) -> None:
    torch.manual_seed(0)
    weight = torch.randn(32, 128)
    levels, scales = quantise(weight, grid)
    error = (restore(levels, scales, 128, grid) - weight).abs().view(32, -1, grid.block)
    # Half a step; a whole one for numbers as large as the largest and of the other sign, which has one level less.
    assert (error <= scales.abs()[..., None] * 1.0001).all()
    assert (error > scales.abs()[..., None] * 0.5001).float().mean() < 0.05


def test_zeros_stay_zeros() -> None:
    assert not restore(*quantise(torch.zeros(2, 64), INT4), 64, INT4).any()


def test_rounding_is_a_fixed_point() -> None:
    once = Rounded(INT4)(torch.randn(8, 64, generator=torch.Generator().manual_seed(1)))
    torch.testing.assert_close(Rounded(INT4)(once), once)


def test_gradient_passes_through_rounding() -> None:
    weight = torch.randn(4, 64, requires_grad=True)
    Rounded(INT4)(weight).sum().backward()
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.ones(4, 64))


def test_size_counts_scales() -> None:
    levels, scales = quantise(torch.randn(10, 100), INT4)
    assert INT4.bytes_of(10, 100) == levels.numel() // 2 + scales.numel() * 4


def test_faster_bits_are_four_or_eight() -> None:
    assert faster_bits(64, 64) in {4, 8}
