"""Which stored weights this machine multiplies faster: 8-bit or 4-bit ones."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from models.distill.quantise import INT4, INT8, pack, quantise

if TYPE_CHECKING:
    from models.distill.quantise import Grid

_TRIES = 40


def faster_bits(rows: int, columns: int) -> int:
    """Return 4 if a 4-bit matrix times one token takes less time on one core than an 8-bit one, else 8.

    The two take turns, so that both meet the same noise of the machine.
    """
    sessions = {grid.bits: _session(rows, columns, grid) for grid in (INT8, INT4)}
    token = {"x": np.ones((1, columns), np.float32)}
    best = dict.fromkeys(sessions, float("inf"))
    for _ in range(_TRIES):
        for bits, session in sessions.items():
            started = time.perf_counter()
            session.run(None, token)
            best[bits] = min(best[bits], time.perf_counter() - started)
    return min(best, key=best.__getitem__)


def product(weight: torch.Tensor, grid: Grid, *, accuracy: int) -> bytes:
    """Return an ONNX file that multiplies `x` [1, columns] by a stored matrix [rows, columns].

    Args:
        weight: the matrix.
        grid: that it is stored on.
        accuracy: MatMulNBits' accuracy level: 1 leaves `x` in float32, 4 rounds it to 8 bits.
    """
    from onnx import TensorProto, helper, numpy_helper  # noqa: PLC0415 - an extra

    rows, columns = weight.shape
    levels, scales = quantise(weight, grid)
    tensors = [
        numpy_helper.from_array(pack(levels, grid), "levels"),
        numpy_helper.from_array(scales.numpy(), "scales"),
    ]
    node = helper.make_node(
        "MatMulNBits",
        ["x", "levels", "scales"],
        ["y"],
        domain="com.microsoft",
        K=columns,
        N=rows,
        bits=grid.bits,
        block_size=grid.block,
        accuracy_level=accuracy,
    )
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size])
        for name, size in (("x", columns), ("y", rows))
    ]
    graph = helper.make_graph([node], "product", ends[:1], ends[1:], tensors)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    content: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    return content


def _session(rows: int, columns: int, grid: Grid) -> Any:
    import onnxruntime as ort  # noqa: PLC0415 - an extra

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    content = product(torch.randn(rows, columns), grid, accuracy=4)
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
