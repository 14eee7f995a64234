"""Weights laid out once: the same products, whatever else is in the step."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from verifier.engine.load import engine_for
from verifier.engine.prepack import PrepackedLinear, has_kernels, prepack, rounded, unpack
from verifier.engine.segment import Segment

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedModel

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(),  # type: ignore[no-untyped-call]
    reason="this torch has no oneDNN",
)


ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
"""What a product may differ by, by dtype."""

dtypes = pytest.mark.parametrize(
    "dtype",
    [
        pytest.param(dtype, marks=pytest.mark.skipif(not has_kernels(dtype), reason=f"oneDNN has no {dtype} here"))
        for dtype in ROUNDING
    ],
)


def _layer(bias: bool = True, dtype: torch.dtype = torch.float32) -> nn.Linear:
    torch.manual_seed(7)
    return nn.Linear(160, 96, bias=bias, dtype=dtype).requires_grad_(requires_grad=False)


@dtypes
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 160), (5, 160), (1, 7, 160), (2, 3, 160), (0, 160), (3, 7, 160), (1, 65, 160)])
def test_the_product_is_that_of_the_plain_layer(bias: bool, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """To rounding, for any number of rows and leading dimensions."""
    plain = _layer(bias, dtype)
    rows = torch.randn(shape, dtype=dtype)
    product = PrepackedLinear(plain)(rows)
    torch.testing.assert_close(product, plain(rows), rtol=ROUNDING[dtype], atol=ROUNDING[dtype])


@dtypes
def test_a_row_does_not_depend_on_the_others(dtype: torch.dtype) -> None:
    """Bit for bit, which the plain product does not promise."""
    packed, rows = PrepackedLinear(_layer(dtype=dtype)), torch.randn(90, 160, dtype=dtype)
    whole = packed(rows)
    for count in (1, 2, 5, 17, 64, 65):
        assert torch.equal(packed(rows[:count].clone()), whole[:count])


def test_products_are_of_few_numbers_of_rows() -> None:
    """For each, oneDNN keeps code of its own; and few rows are computed in vain."""
    assert [rounded(rows) for rows in (0, 1, 7, 8, 9, 12, 13, 64, 65, 512, 513)] == [
        0, 1, 7, 8, 12, 12, 16, 64, 80, 512, 576,
    ]  # fmt: skip
    assert all(rows <= rounded(rows) <= max(rows + 3, 1.24 * rows) for rows in range(3000))
    assert len({rounded(rows) for rows in range(1, 513)}) == 50


def test_a_product_is_computed_for_the_rounded_number_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = PrepackedLinear(_layer())
    product, seen = packed._product, []

    def watched(rows: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(rows.shape))
        return product(rows)

    monkeypatch.setattr(packed, "_product", watched)
    assert packed(torch.randn(1, 21, 160)).shape == (1, 21, 96)
    assert packed(torch.randn(24, 160)).shape == (24, 96)
    assert seen == [(24, 160), (24, 160)]


def test_rows_that_are_not_contiguous_are_read_as_they_are() -> None:
    """Models hand on views."""
    plain = _layer()
    view = torch.randn(6, 320)[:, ::2]
    torch.testing.assert_close(PrepackedLinear(plain)(view), plain(view), rtol=1e-5, atol=1e-5)


@dtypes
def test_every_plain_linear_layer_of_a_model_is_laid_out(
    dtype: torch.dtype, tiny: Callable[..., PreTrainedModel]
) -> None:
    """And comes back with the same bits."""
    model = tiny("llama").to(dtype)
    before = copy.deepcopy(model.state_dict())
    linear = sum(type(layer) is nn.Linear for layer in model.modules())
    assert prepack(model) == linear > 0
    assert not any(type(layer) is nn.Linear for layer in model.modules())
    unpack(model)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("change", ["float16", "bfloat16", "subclass"])
def test_what_has_no_kernel_is_left_alone(
    change: str, tiny: Callable[..., PreTrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other dtypes, bfloat16 on a CPU that does not multiply it, and layers with a forward of their own."""
    model = tiny("llama")
    if change == "float16":
        assert prepack(model.to(torch.float16)) == 0
    elif change == "bfloat16":
        monkeypatch.setattr("verifier.engine.prepack.has_kernels", lambda dtype: dtype != torch.bfloat16)
        assert prepack(model.to(torch.bfloat16)) == 0
    else:

        class Doubled(nn.Linear):
            """Means something else by its weight."""

            def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 -- named as in nn.Linear
                """Return twice the product."""
                return 2 * super().forward(input)

        model.lm_head.__class__ = Doubled
        prepack(model)
        assert type(model.lm_head) is Doubled


def test_a_model_that_reads_a_weight_itself_runs_without(
    tiny: Callable[..., PreTrainedModel], caplog: pytest.LogCaptureFixture
) -> None:
    """With a warning, and the same tokens."""
    model = tiny("llama")
    segment = Segment(b"x", [5, 6, 7, 8], 2)
    expected = engine_for(copy.deepcopy(model), kv_budget_bytes=1 << 20).step([segment])
    block = model.model.layers[0].mlp
    plain = type(block).forward

    def forward(self: Any, rows: torch.Tensor) -> Any:
        """Compute as before, and touch a weight."""
        return plain(self, rows) + 0.0 * (self.gate_proj.weight + 0.0).sum()

    block.__class__ = type("Reads", (type(block),), {"forward": forward})
    engine = engine_for(model, kv_budget_bytes=1 << 20)
    assert "runs without prepacked weights" in caplog.text
    assert engine.step([segment]) == expected
    assert type(block.gate_proj) is nn.Linear
