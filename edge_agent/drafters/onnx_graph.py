"""An ONNX decoder file: finding it, opening it, and reading which layout it has."""

from __future__ import annotations

import mmap
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from edge_agent.drafters.drafter import DrafterError

if TYPE_CHECKING:
    from pathlib import Path

ORT_ERRORS: tuple[type[Exception], ...] = (
    ort_errors.EPFail,
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoModel,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
    RuntimeError,  # from runs with bound arrays
)
"""What onnxruntime raises; they share no base class of their own."""

_DTYPES: dict[str, np.dtype[np.generic]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(int64)": np.dtype(np.int64),
    "tensor(int32)": np.dtype(np.int32),
}
_PLACES = ("", "onnx")  # the genai builder writes into the folder itself, published exports into onnx/
_PLAIN_INPUTS = frozenset({"input_ids", "attention_mask", "position_ids", "num_logits_to_keep"})
_PAST = re.compile(r"past_key_values\.(\d+)\.(key|value)")
_FUSED_NODE = b"\x22\x13GroupQueryAttention"  # NodeProto.op_type: field 4, 19 bytes


@dataclass(frozen=True, slots=True)
class Graph:
    """An opened decoder in the Hugging Face ONNX layout.

    Attributes:
        path: the .onnx file.
        session: its inference session.
        inputs: the numpy type of each plain input that it has (`input_ids`, `attention_mask`, …).
        layers: pairs of key and value caches, `past_key_values.N.key/value` to `present.N.key/value`.
        cache_dtype: numpy type of the caches.
        heads: key/value heads per layer.
        head_size: numbers per head.
        context_length: the longest sequence in tokens.
        fused: whether every layer is one GroupQueryAttention node, which can extend its cache in place.
    """

    path: Path
    session: ort.InferenceSession
    inputs: dict[str, np.dtype[np.generic]]
    layers: int
    cache_dtype: np.dtype[np.generic]
    heads: int
    head_size: int
    context_length: int
    fused: bool

    @property
    def caches(self) -> list[tuple[str, str]]:
        """Names of each cache as input and as output."""
        return [
            (f"past_key_values.{layer}.{half}", f"present.{layer}.{half}")
            for layer in range(self.layers)
            for half in ("key", "value")
        ]


class _GenaiDecoder(msgspec.Struct):
    head_size: int | None = None
    num_key_value_heads: int | None = None


class _GenaiModel(msgspec.Struct):
    context_length: int | None = None
    decoder: _GenaiDecoder = msgspec.field(default_factory=_GenaiDecoder)


class _Config(msgspec.Struct):
    """What is used of config.json (transformers) and of genai_config.json (under `model`)."""

    max_position_embeddings: int | None = None
    n_positions: int | None = None
    hidden_size: int | None = None
    num_attention_heads: int | None = None
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    model: _GenaiModel = msgspec.field(default_factory=_GenaiModel)


def open_graph(folder: Path, *, threads: int) -> Graph:
    """Open the decoder in a model folder, or the .onnx file itself.

    Raises:
        DrafterError: there is none, several, it is damaged, or its layout is not the one of Hugging Face exports.
    """
    path = find_file(folder)
    session = _open_session(path, threads)
    shapes = {value.name: (value.type, value.shape) for value in session.get_inputs()}
    outputs = {value.name for value in session.get_outputs()}
    layers = len({match[1] for name in shapes if (match := _PAST.fullmatch(name))})
    _check_layout(path, set(shapes), outputs, layers)
    cache_type, cache_shape = shapes["past_key_values.0.key"]
    if len(cache_shape) != 4:
        raise DrafterError(
            f"The caches of {path} have {len(cache_shape)} dimensions; 4 are needed: batch, heads, tokens, head size."
        )
    config = _read_config(path)
    genai = config.model.decoder
    heads = _known(cache_shape[1], genai.num_key_value_heads, config.num_key_value_heads, config.num_attention_heads)
    derived = (config.hidden_size or 0) // (config.num_attention_heads or 1)
    head_size = _known(cache_shape[3], genai.head_size, config.head_dim, derived)
    context_length = _known(config.model.context_length, config.max_position_embeddings, config.n_positions)
    if not (heads and head_size and context_length):
        raise DrafterError(
            f"The size of the caches of {path} or its longest context is not known; "
            "put the model's config.json (or genai_config.json) beside it."
        )
    return Graph(
        path=path,
        session=session,
        inputs={name: _dtype(path, name, shapes[name][0]) for name in shapes if name in _PLAIN_INPUTS},
        layers=layers,
        cache_dtype=_dtype(path, "past_key_values.0.key", cache_type),
        heads=heads,
        head_size=head_size,
        context_length=context_length,
        fused=_count(path, _FUSED_NODE) == layers,
    )


def find_file(folder: Path) -> Path:
    """Return the .onnx file in a model folder: `model.onnx`, `onnx/model.onnx`, or the only one there is.

    Raises:
        DrafterError: there is none, or several of which none is called model.onnx.
    """
    if folder.is_file():
        return folder
    if not folder.is_dir():
        raise DrafterError(f"There is no drafter in {folder}: the folder does not exist. Check the path.")
    for place in _PLACES:
        if (path := folder / place / "model.onnx").is_file():
            return path
    found = sorted(path for place in _PLACES for path in (folder / place).glob("*.onnx"))
    if not found:
        raise DrafterError(
            f"{folder} has no model.onnx, nor onnx/model.onnx; export the model to ONNX first, "
            "or name the folder of an exported one."
        )
    if len(found) > 1:
        names = ", ".join(str(path.relative_to(folder)) for path in found)
        raise DrafterError(f"{folder} has several ONNX files ({names}); name one of them instead of the folder.")
    return found[0]


def _open_session(path: Path, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Idle threads that spin would take the few cores of a device from everything else on it.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # its errors reach us as exceptions; they need not be printed as well
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except ORT_ERRORS as error:
        raise DrafterError(
            f"The ONNX file {path} cannot be loaded: {reason(error)} "
            "Copy the whole folder again, with any .onnx.data file beside it, or export the model once more."
        ) from error


def _check_layout(path: Path, inputs: set[str], outputs: set[str], layers: int) -> None:
    pairs = [(layer, half) for layer in range(layers) for half in ("key", "value")]
    past = {f"past_key_values.{layer}.{half}" for layer, half in pairs} or {"past_key_values.0.key"}
    present = {f"present.{layer}.{half}" for layer, half in pairs}
    problems = []
    if missing := sorted(({"input_ids"} | past) - inputs) + sorted(({"logits"} | present) - outputs):
        problems.append(f"lacks {', '.join(missing[:4])}")
    if unknown := sorted(inputs - past - _PLAIN_INPUTS):
        problems.append(f"asks for {', '.join(unknown[:4])}, which is not known here")
    if problems:
        raise DrafterError(
            f"The ONNX file {path} is not a decoder with a key/value cache in the Hugging Face layout: it "
            f"{' and it '.join(problems)}. Export it for text generation with its cache (text-generation-with-past)."
        )


def _read_config(path: Path) -> _Config:
    for folder in (path.parent, path.parent.parent):
        for name in ("genai_config.json", "config.json"):
            file = folder / name
            if not file.is_file():
                continue
            try:
                return msgspec.json.decode(file.read_bytes(), type=_Config)
            except msgspec.DecodeError as error:
                raise DrafterError(f"{file} cannot be read ({error}); copy the model's folder again.") from error
    return _Config()


def _dtype(path: Path, name: str, declared: str) -> np.dtype[np.generic]:
    try:
        return _DTYPES[declared]
    except KeyError:
        raise DrafterError(
            f"The input {name} of {path} is a {declared}, which is not supported here; "
            "export the model in float32 or float16."
        ) from None


def _known(*candidates: object) -> int:
    """Return the first candidate that is a number above 0 (a free dimension has a name or None), or 0."""
    return next((value for value in candidates if isinstance(value, int) and value > 0), 0)


def _count(path: Path, pattern: bytes) -> int:
    """Count a pattern in a file without reading it into memory; a device has no `onnx` package to parse it with."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        count, at = 0, content.find(pattern)
        while at >= 0:
            count, at = count + 1, content.find(pattern, at + len(pattern))
    return count


def reason(error: Exception) -> str:
    """Return the first line of an onnxruntime error without its prefix, as a sentence."""
    text = str(error).strip().partition("\n")[0]
    text = re.sub(r"^(\[ONNXRuntimeError\] : \d+ : \w+ : |Error in execution: )", "", text)
    return text.rstrip(". ")[:300] + "."
