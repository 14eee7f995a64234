"""The student's ONNX graph: few-bit weights, and the target's token ids on both ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from models.distill.quantise import INT8, Grid, pack, quantise
from models.error import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import onnx

    from models.distill.vocabulary import Vocabulary

_ACCURACY = 4
"""MatMulNBits may round its input to 8 bits too, which is what makes it fast on a CPU."""


def compress(model: onnx.ModelProto, vocabulary: Vocabulary, grid_of: Callable[[str], Grid]) -> None:
    """Store the weights of the builder's float32 graph in few bits and let it read and write the target's ids.

    Inputs are looked up in the stand-ins of the vocabulary; logits of tokens that the student cannot write are -inf.
    The embedding is stored in 8 bits, once where head and embedding are the same.

    Args:
        model: decoder in the Hugging Face layout with the student's own ids; changed in place.
        vocabulary: the student's tokens.
        grid_of: the grid of a matrix by the name of its node.

    Raises:
        ModelError: the graph is not as expected.
    """
    Compression(model, vocabulary, grid_of).run()


class Compression:
    """One graph being changed."""

    def __init__(self, model: onnx.ModelProto, vocabulary: Vocabulary, grid_of: Callable[[str], Grid]) -> None:
        self._graph = model.graph
        self._vocabulary = vocabulary
        self._grid_of = grid_of
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self._stored: dict[str, tuple[str, str]] = {}  # names of levels and scales by the name of the matrix

    def run(self) -> None:
        """Change the graph."""
        gather, transpose = self._find_embedding()
        nodes: list[onnx.NodeProto] = []
        for node in self._graph.node:
            if node is transpose:
                continue
            if node is gather:
                nodes += self._embedding(node, transpose)
            elif node.op_type == "MatMul" and node.input[1] in self._tensors:
                nodes.append(self._matrix(node))
            else:
                nodes.append(node)
        nodes += self._full_width(nodes)
        del self._graph.node[:]
        # The head's levels are named by its node, which comes after the embedding; only names count in ONNX.
        self._graph.node.extend(nodes)
        used = {name for node in nodes for name in node.input}
        kept = [tensor for tensor in self._tensors.values() if tensor.name in used]
        del self._graph.initializer[:]
        self._graph.initializer.extend(kept)

    def _find_embedding(self) -> tuple[onnx.NodeProto, onnx.NodeProto | None]:
        """Return the Gather of the embedding, and the Transpose of a tied head before it if there is one."""
        makers = {name: node for node in self._graph.node for name in node.output}
        for node in self._graph.node:
            if node.op_type == "Gather" and node.input[1] == "input_ids":
                maker = makers.get(node.input[0])
                if node.input[0] in self._tensors or (maker is not None and maker.op_type == "Transpose"):
                    return node, maker
        raise ModelError(
            "The exported graph has no embedding of its input ids, so the student's tokens cannot be put in."
        )

    def _matrix(self, node: onnx.NodeProto) -> onnx.NodeProto:
        from onnx import helper  # noqa: PLC0415

        name = node.input[1]
        grid = self._grid_of(node.name)
        columns, rows = self._array(name).shape
        levels, scales = self._store(name, self._array(name).T, grid)
        return helper.make_node(
            "MatMulNBits",
            [node.input[0], levels, scales],
            list(node.output),
            name=node.name,
            domain="com.microsoft",
            K=columns,
            N=rows,
            bits=grid.bits,
            block_size=grid.block,
            accuracy_level=_ACCURACY,
        )

    def _embedding(self, gather: onnx.NodeProto, transpose: onnx.NodeProto | None) -> list[onnx.NodeProto]:
        """Return nodes that look an id up: its stand-in's row of levels, times the scales of the row."""
        from onnx import TensorProto, helper  # noqa: PLC0415

        name = gather.input[0] if transpose is None else transpose.input[0]
        table = self._array(name) if transpose is None else self._array(name).T
        levels, scales = self._store(name, table, INT8)
        small = len(table) <= np.iinfo(np.uint16).max
        stand_ins = self._add("sled.inward", self._vocabulary.inward.astype(np.uint16 if small else np.int32))
        half = self._add("sled.half", np.asarray(1 << (INT8.bits - 1), np.float32))
        last = self._add("sled.last_axis", np.asarray([-1], np.int64))
        shape = self._add("sled.width", np.asarray([0, 0, -1], np.int64))
        width = table.shape[1]
        nodes = [
            helper.make_node("Gather", [stand_ins, gather.input[1]], ["sled.stand_in"]),
            helper.make_node("Cast", ["sled.stand_in"], ["sled.row"], to=TensorProto.INT32),
            helper.make_node("Gather", [levels, "sled.row"], ["sled.levels"]),
            helper.make_node("Cast", ["sled.levels"], ["sled.levels_float"], to=TensorProto.FLOAT),
            helper.make_node("Sub", ["sled.levels_float", half], ["sled.steps"]),
            helper.make_node("Gather", [scales, "sled.row"], ["sled.scales"]),
            helper.make_node("Unsqueeze", ["sled.scales", last], ["sled.scale"]),
            helper.make_node("Mul", ["sled.steps", "sled.scale"], ["sled.blocks"]),
        ]
        if width % INT8.block:
            start = self._add("sled.start", np.asarray([0], np.int64))
            end = self._add("sled.end", np.asarray([width], np.int64))
            nodes.append(helper.make_node("Reshape", ["sled.blocks", shape], ["sled.padded"]))
            nodes.append(helper.make_node("Slice", ["sled.padded", start, end, last], list(gather.output)))
        else:
            nodes.append(helper.make_node("Reshape", ["sled.blocks", shape], list(gather.output)))
        return nodes

    def _full_width(self, nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
        """Return nodes that put the logits where the target has them."""
        from onnx import TensorProto, helper  # noqa: PLC0415

        kept, total = self._vocabulary.kept, len(self._vocabulary.inward)
        if len(kept) == total:
            return []
        for node in nodes:
            node.output[:] = ["sled.logits" if name == "logits" else name for name in node.output]
        size = self._add("sled.size", np.asarray([1, 1, total], np.int64))
        columns = self._add("sled.outward", kept.astype(np.int64)[None, None])
        (logits,) = [value for value in self._graph.output if value.name == "logits"]
        logits.type.tensor_type.shape.dim[-1].dim_value = total
        nothing = helper.make_tensor("value", TensorProto.FLOAT, [1], [-np.inf])
        return [
            helper.make_node("ConstantOfShape", [size], ["sled.nowhere"], value=nothing),
            helper.make_node("ScatterElements", ["sled.nowhere", columns, "sled.logits"], ["logits"], axis=2),
        ]

    def _store(self, name: str, matrix: Any, grid: Grid) -> tuple[str, str]:
        """Store a matrix [rows, columns] once; return the names of its levels and scales."""
        key = f"{name}.{grid.bits}.{grid.block}"
        if key not in self._stored:
            levels, scales = quantise(torch.from_numpy(np.array(matrix, order="C")), grid)
            self._stored[key] = (
                self._add(f"{key}.levels", pack(levels, grid)),
                self._add(f"{key}.scales", scales.numpy()),
            )
        return self._stored[key]

    def _array(self, name: str) -> Any:
        from onnx import numpy_helper  # noqa: PLC0415

        return numpy_helper.to_array(self._tensors[name])

    def _add(self, name: str, array: Any) -> str:
        from onnx import numpy_helper  # noqa: PLC0415

        self._tensors[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name
