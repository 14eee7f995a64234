"""Laying a model's weights out once for the kernels that multiply by them, on a CPU.

A product of a few rows with a large matrix, which is what verifying a handful of draft tokens comes to, is otherwise
computed by first copying the matrix into the kernel's own layout, every time: twice to three times the traffic that
one row costs. oneDNN's kernels take weights that are laid out already (what TorchInductor does when it freezes a
model). They also sum each row in the same order however many rows there are, so that a session's products do not
depend on who else is in the step.

This is for float32, and for bfloat16 where the CPU has AVX-512, best AMX; elsewhere oneDNN has no kernel for it.

oneDNN writes machine code for every number of rows that it meets and keeps it: about a millisecond and 600 kB for each
matrix shape, so a verifier that meets every number up to a step's limit would grow for hours, by a gigabyte. Therefore
products are of certain numbers of rows only (`rounded`), with zeros below.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_log = logging.getLogger(__name__)

_ROWS: Final = 8
"""Rows that the layout is chosen for: a bundle or two. It serves all others; for a single one, sums would differ."""
_EXACT: Final = 8
"""Up to so many rows, each number has code of its own: what one device sends, where a further row costs most."""
_STEPS: Final = ((64, 4), (512, 16))
"""Up to so many rows, their number is rounded up to a multiple of so many."""
_COARSE: Final = 64
"""The multiple beyond."""
_TOLERANCE: Final = {torch.float32: 1e-4, torch.bfloat16: 1e-2}
"""Largest difference to the plain product, relative to its largest value, that rounding explains; by dtype."""


def rounded(rows: int) -> int:
    """Return how many rows a product of `rows` is computed for: no fewer, one of fifty numbers up to 512."""
    if rows <= _EXACT:
        return rows
    multiple = next((step for most, step in _STEPS if rows <= most), _COARSE)
    return -(-rows // multiple) * multiple


class PrepackedLinear(nn.Linear):
    """A linear layer whose weight has oneDNN's layout; shapes, dtype and result are those of `nn.Linear`.

    Only the product may use such a weight. `unpack` gives the plain layer back.
    """

    def __init__(self, linear: nn.Linear) -> None:
        """Take over the weights of `linear` [out, in], on the CPU, of a dtype that `has_kernels` knows there."""
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), _ROWS)
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.register_parameter("bias", linear.bias)

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 -- named as in nn.Linear
        """Return [..., out] for `input` [..., in]."""
        rows = input.numel() // self.in_features
        spare = rounded(rows) - rows
        if not spare:
            return self._product(input)
        padded = nn.functional.pad(input.reshape(rows, self.in_features), (0, 0, 0, spare))
        return self._product(padded)[:rows].view(*input.shape[:-1], self.out_features)

    def _product(self, rows: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(rows, self.weight, self.bias, "none", [], "")
        return product

    def unpacked(self) -> nn.Linear:
        """Return the plain layer."""
        plain = nn.Linear(self.in_features, self.out_features, bias=False, device="meta", dtype=self.weight.dtype)
        plain.weight = nn.Parameter(self.weight.to_dense(), requires_grad=False)
        plain.register_parameter("bias", self.bias)
        return plain


def has_kernels(dtype: torch.dtype) -> bool:
    """Whether oneDNN multiplies weights of this dtype on this CPU."""
    if dtype not in _TOLERANCE or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return dtype != torch.bfloat16 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@torch.inference_mode()
def prepack(model: PreTrainedModel) -> int:
    """Lay the weights of all plain linear layers of a model out for oneDNN, in place; return how many.

    Weights that are not on the CPU, or for whose dtype oneDNN has no kernel there, stay as they are, and all do where
    its product differs from the plain one. An output head that shares its weight with the embedding gets a copy of its
    own, which takes as much memory again.
    """
    packed = 0
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            # Exactly nn.Linear: what subclasses do with their weights is their own affair.
            if type(layer) is not nn.Linear or layer.weight.device.type != "cpu" or not has_kernels(layer.weight.dtype):
                continue
            candidate = PrepackedLinear(layer)
            if not _alike(layer, candidate):
                _log.warning("the CPU's prepacked product differs from the plain one, so it is not used")
                unpack(model)
                return 0
            setattr(parent, name, candidate)
            packed += 1
    return packed


def unpack(model: PreTrainedModel) -> None:
    """Undo `prepack`; a head that shared its weight keeps its copy."""
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, PrepackedLinear):
                setattr(parent, name, layer.unpacked())


def _alike(plain: nn.Linear, packed: PrepackedLinear) -> bool:
    """Whether both compute the same for a few rows."""
    dtype = plain.weight.dtype
    rows = torch.linspace(-1, 1, 3 * plain.in_features).sin().view(3, plain.in_features).to(dtype)
    expected, got = plain(rows).float(), packed(rows).float()
    return bool((got - expected).abs().max() <= _TOLERANCE[dtype] * expected.abs().max().clamp(min=1.0))
