"""A one-layer decoder with learned positions: as ONNX graphs of both kinds, and computed plainly with numpy."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

HEADS, SIZE, WIDTH, VOCAB, PADDED, LONGEST = 2, 8, 16, 29, 32, 2048

Kind = Literal["published", "trimmed", "fused"]
"""`trimmed` is a published export with the input `num_logits_to_keep`, as larger ones have it."""


@dataclass(frozen=True)
class TinyDecoder:
    """Weights, and the greedy token they lead to."""

    weights: dict[str, NDArray[np.float32]]

    @classmethod
    def random(cls, seed: int = 0) -> TinyDecoder:
        """Make weights large enough that the next token depends on the whole sequence."""
        rng = np.random.default_rng(seed)
        shapes = {"emb": (PADDED, WIDTH), "pos": (LONGEST, WIDTH), "wq": (WIDTH, WIDTH), "wk": (WIDTH, WIDTH)}
        shapes |= {"wv": (WIDTH, WIDTH), "wo": (WIDTH, WIDTH), "head": (WIDTH, PADDED)}
        weights = {name: rng.normal(0, 0.6, shape).astype(np.float32) for name, shape in shapes.items()}
        return cls(weights | {"bias": np.zeros(PADDED, np.float32)})

    def logits(self, tokens: list[int]) -> NDArray[np.float32]:
        """Logits after the last token, `[PADDED]`, computed from scratch."""
        w = self.weights
        x = w["emb"][tokens] + w["pos"][: len(tokens)]
        heads = [(x @ w[name]).reshape(len(tokens), HEADS, SIZE).transpose(1, 0, 2) for name in ("wq", "wk", "wv")]
        query, key, value = heads[0][:, -1:], heads[1], heads[2]
        scores = query @ key.transpose(0, 2, 1) / np.sqrt(SIZE)
        attention = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (attention / attention.sum(-1, keepdims=True)) @ value
        last = x[-1] + mixed.transpose(1, 0, 2).reshape(WIDTH) @ w["wo"]
        result: NDArray[np.float32] = last @ w["head"] + w["bias"]
        return result

    def greedy(self, tokens: list[int], limit: int = PADDED) -> tuple[int, float]:
        """The most likely next token below `limit`, and its probability among those."""
        logits = self.logits(tokens)[:limit].astype(np.float64)
        chances = np.exp(logits - logits.max())
        return int(logits.argmax()), float(chances.max() / chances.sum())

    def save(self, folder: Path, kind: Kind, *, half: bool = False, place: str = "model.onnx") -> Path:
        """Write the graph with its weights beside it, and a config.json; return the folder."""
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        model = self._graph(kind, TensorProto.FLOAT16 if half else TensorProto.FLOAT)
        onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=256)
        config = {"max_position_embeddings": LONGEST, "hidden_size": WIDTH, "num_attention_heads": HEADS}
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    def _graph(self, kind: Kind, cache: int) -> onnx.ModelProto:
        node = helper.make_node
        constants = {"split": np.array([0, 0, HEADS, SIZE]), "merge": np.array([0, 0, WIDTH]), "one": np.array([1])}
        constants |= {"zero": np.array([0]), "end": np.array([2**62]), "last": np.array([2])}
        scalars = {"axis": np.array(1), "scale": np.float32(1 / np.sqrt(SIZE)), "never": np.float32(-1e9)}
        initial = [numpy_helper.from_array(np.asarray(v), n) for n, v in (self.weights | constants | scalars).items()]
        nodes = [
            node("CumSum", ["attention_mask", "axis"], ["counted"]),
            node("Sub", ["counted", "one"], ["key_at"]),  # position of each key [1, T]
            node("Gather", ["emb", "input_ids"], ["embedded"]),
        ]
        inputs = [("input_ids", "S"), ("attention_mask", "T")]
        if kind != "fused":
            inputs.append(("position_ids", "S"))
            positions = "position_ids"
        else:
            nodes += [
                node("Shape", ["input_ids"], ["count"], start=1, end=2),
                node("Neg", ["count"], ["newest"]),
                node("Slice", ["key_at", "newest", "end", "one"], ["own_at"]),
            ]
            positions = "own_at"
        nodes += [node("Gather", ["pos", positions], ["placed"]), node("Add", ["embedded", "placed"], ["x"])]
        nodes += [node("MatMul", ["x", f"w{part}"], [part]) for part in "qkv"]
        nodes += _fused_attention() if kind == "fused" else _published_attention(cache)
        nodes += [node("MatMul", ["mixed", "wo"], ["changed"]), node("Add", ["x", "changed"], ["y"])]
        if kind == "trimmed":
            nodes += [
                node("Reshape", ["num_logits_to_keep", "one"], ["kept"]),
                node("Neg", ["kept"], ["kept_from"]),
                node("Slice", ["y", "kept_from", "end", "one"], ["last_y"]),
            ]
        nodes += [
            node("MatMul", ["last_y" if kind == "trimmed" else "y", "head"], ["raw"]),
            node("Add", ["raw", "bias"], ["logits"]),
        ]
        info = helper.make_tensor_value_info
        graph = helper.make_graph(
            nodes,
            kind,
            [info(name, TensorProto.INT64, [1, length]) for name, length in inputs]
            + [info("num_logits_to_keep", TensorProto.INT64, [])] * (kind == "trimmed")
            + [info(f"past_key_values.0.{half}", cache, [1, HEADS, "P", "D"]) for half in ("key", "value")],
            [info("logits", TensorProto.FLOAT, [1, "L", PADDED])]
            + [info(f"present.0.{half}", cache, [1, HEADS, "T", "D"]) for half in ("key", "value")],
            initial,
        )
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def _published_attention(cache: int) -> list[onnx.NodeProto]:
    """Attention as exporters write it: past and present joined, the mask made from positions."""
    node = helper.make_node
    nodes = []
    for part in "qkv":
        nodes.append(node("Reshape", [part, "split"], [f"{part}_split"]))
        nodes.append(node("Transpose", [f"{part}_split"], [f"{part}_heads"], perm=[0, 2, 1, 3]))
    for part, half in (("k", "key"), ("v", "value")):
        nodes.append(node("Cast", [f"{part}_heads"], [f"{half}_new"], to=cache))
        nodes.append(node("Concat", [f"past_key_values.0.{half}", f"{half}_new"], [f"present.0.{half}"], axis=2))
        nodes.append(node("Cast", [f"present.0.{half}"], [f"{half}_all"], to=TensorProto.FLOAT))
    return [
        *nodes,
        node("Transpose", ["key_all"], ["key_turned"], perm=[0, 1, 3, 2]),
        node("MatMul", ["q_heads", "key_turned"], ["products"]),
        node("Mul", ["products", "scale"], ["scores"]),
        node("Unsqueeze", ["position_ids", "last"], ["query_at"]),  # [1, S, 1]
        node("Unsqueeze", ["key_at", "one"], ["key_row"]),  # [1, 1, T]
        node("LessOrEqual", ["key_row", "query_at"], ["visible"]),
        node("Where", ["visible", "scores", "never"], ["masked"]),
        node("Softmax", ["masked"], ["weights"], axis=-1),
        node("MatMul", ["weights", "value_all"], ["mixed_heads"]),
        node("Transpose", ["mixed_heads"], ["mixed_split"], perm=[0, 2, 1, 3]),
        node("Reshape", ["mixed_split", "merge"], ["mixed"]),
    ]


def _fused_attention() -> list[onnx.NodeProto]:
    """Attention as one GroupQueryAttention node, as onnxruntime's builder writes it."""
    node = helper.make_node
    past = ["past_key_values.0.key", "past_key_values.0.value"]
    return [
        node("ReduceSum", ["attention_mask", "one"], ["summed"], keepdims=0),
        node("Sub", ["summed", "one"], ["before"]),
        node("Cast", ["before"], ["seqlens"], to=TensorProto.INT32),
        node("Shape", ["attention_mask"], ["total_1d"], start=1, end=2),
        node("Squeeze", ["total_1d"], ["total_64"]),
        node("Cast", ["total_64"], ["total"], to=TensorProto.INT32),
        node(
            "GroupQueryAttention",
            ["q", "k", "v", *past, "seqlens", "total"],
            ["mixed", "present.0.key", "present.0.value"],
            domain="com.microsoft",
            num_heads=HEADS,
            kv_num_heads=HEADS,
        ),
    ]
