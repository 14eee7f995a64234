"""The key/value cache of an ONNX decoder: running tokens through the graph, and taking them back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import onnxruntime as ort

from edge_agent.drafters.drafter import DrafterError
from edge_agent.drafters.onnx_graph import ORT_ERRORS, reason

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge_agent.drafters.onnx_graph import Graph

    Logits = NDArray[np.float32]

_FIRST_CAPACITY = 512
"""Tokens an in-place cache starts with; it doubles as needed (46 kB a token for SmolLM2-135M in float32)."""


class Cache(Protocol):
    """Keys and values of a sequence; knows its length, not its tokens."""

    @property
    def length(self) -> int:
        """Tokens held."""
        ...

    def run(self, tokens: list[int]) -> Logits:
        """Append tokens (not empty) and return the logits after the last one, float32 `[vocabulary]`.

        Raises:
            DrafterError: the graph failed; the cache is as it was before.
        """
        ...

    def truncate(self, length: int) -> None:
        """Forget everything from position `length` on."""
        ...


class CopiedCache:
    """The cache of any decoder: each run makes the whole cache anew, one token longer, as exports do it.

    The arrays stay onnxruntime's own and go from output to input without a copy; only a rollback copies.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._binding = graph.session.io_binding()
        self._length = 0
        empty = np.zeros((1, graph.heads, 0, graph.head_size), graph.cache_dtype)
        self._values = [ort.OrtValue.ortvalue_from_numpy(empty) for _ in graph.caches]

    @property
    def length(self) -> int:
        """Tokens held."""
        return self._length

    def truncate(self, length: int) -> None:
        """Forget everything from position `length` on."""
        if length < self._length:
            cut = [np.ascontiguousarray(value.numpy()[:, :, :length]) for value in self._values]
            self._values = [ort.OrtValue.ortvalue_from_numpy(array) for array in cut]
            self._length = length

    def run(self, tokens: list[int]) -> Logits:
        """Append tokens (not empty) and return the logits after the last one, float32 `[vocabulary]`."""
        self._binding.clear_binding_inputs()
        self._binding.clear_binding_outputs()
        for (past, present), value in zip(self._graph.caches, self._values, strict=True):
            self._binding.bind_ortvalue_input(past, value)
            self._binding.bind_output(present, "cpu")
        logits = _run(self._graph, self._binding, tokens, self._length)
        self._values = list(self._binding.get_outputs()[: len(self._values)])
        self._length += len(tokens)
        return logits


class SharedCache:
    """The cache of a fused decoder: GroupQueryAttention writes new keys and values into the array it reads from.

    Past and present are the same array with room to spare, and the attention mask alone says how much of it counts.
    So nothing is copied per token, and a rollback is an integer.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._binding = graph.session.io_binding()
        self._length = 0
        self._arrays: list[NDArray[np.generic]] = []
        self._capacity = 0
        self._grow(min(_FIRST_CAPACITY, graph.context_length))

    @property
    def length(self) -> int:
        """Tokens held."""
        return self._length

    def truncate(self, length: int) -> None:
        """Forget everything from position `length` on."""
        self._length = min(length, self._length)

    def run(self, tokens: list[int]) -> Logits:
        """Append tokens (not empty) and return the logits after the last one, float32 `[vocabulary]`."""
        needed = self._length + len(tokens)
        if needed > self._capacity:
            self._grow(max(needed, min(2 * self._capacity, self._graph.context_length)))
        logits = _run(self._graph, self._binding, tokens, self._length)
        self._length = needed
        return logits

    def _grow(self, capacity: int) -> None:
        graph = self._graph
        shape = (1, graph.heads, capacity, graph.head_size)
        arrays: list[NDArray[np.generic]] = []
        for index, (past, present) in enumerate(graph.caches):
            array = np.zeros(shape, graph.cache_dtype)
            if self._arrays:
                array[:, :, : self._length] = self._arrays[index][:, :, : self._length]
            # On the CPU an OrtValue is a view of the array, which must therefore be kept.
            value = ort.OrtValue.ortvalue_from_numpy(array)
            self._binding.bind_ortvalue_input(past, value)
            self._binding.bind_ortvalue_output(present, value)
            arrays.append(array)
        self._arrays = arrays
        self._capacity = capacity


def _run(graph: Graph, binding: ort.IOBinding, tokens: list[int], past: int) -> Logits:
    """Bind the plain inputs and the logits, run, and return the last position's logits."""
    count = len(tokens)
    plain = {
        "input_ids": [tokens],
        "attention_mask": np.ones((1, past + count)),
        "position_ids": [range(past, past + count)],
        "num_logits_to_keep": 1,
    }
    for name, dtype in graph.inputs.items():
        binding.bind_cpu_input(name, np.asarray(plain[name], dtype))
    # Bound last and anew each time: its size follows the number of tokens.
    binding.bind_output("logits", "cpu")
    try:
        graph.session.run_with_iobinding(binding)
    except ORT_ERRORS as error:
        raise DrafterError(
            f"The drafter {graph.path} failed on {count} tokens after {past}: {reason(error)} "
            "Check that it belongs to this tokenizer, or export it once more."
        ) from error
    logits: NDArray[np.generic] = binding.get_outputs()[-1].numpy()
    last: Logits = logits[0, -1].astype(np.float32)
    return last
