"""A drafter that runs an ONNX decoder with onnxruntime on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edge_agent.drafters.drafter import DrafterError
from edge_agent.drafters.logits import propose_from
from edge_agent.drafters.onnx_cache import CopiedCache, SharedCache
from edge_agent.drafters.onnx_graph import open_graph
from edge_agent.drafters.sequence import check_sequence, common_prefix
from edge_agent.drafters.weights import digits_of
from schemas.messages import GREEDY

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edge_agent.drafters.drafter import Proposal
    from edge_agent.drafters.onnx_cache import Cache, Logits
    from edge_agent.drafters.onnx_graph import Graph
    from schemas.messages import Sampling

_CHUNK = 256
"""Tokens of a prompt computed in one run: bounds the memory of its logits and its attention."""

_FILES = ("", ".data", "_data")
"""Endings of the names of a model's files, behind that of the graph; large models keep their weights beside it."""


class OnnxDrafter:
    """Drafts with a decoder in the Hugging Face ONNX layout.

    Inputs `input_ids`, `attention_mask` and perhaps `position_ids` and `num_logits_to_keep`, caches
    `past_key_values.N.key/value` in and `present.N.key/value` out, `logits` out. Graphs of the onnxruntime-genai
    builder and published exports (`model.onnx` or `onnx/model.onnx` in the folder) work as they are.

    Args:
        folder: the model's folder, or its .onnx file.
        threads: cores that one token may use.
        vocab_limit: token ids at and above it are never proposed (a model's output is often padded beyond its
            tokenizer's ids).
        share: False keeps a fused graph from extending its cache in place, to compare the two.

    Raises:
        DrafterError: the file is missing, damaged or of another layout; the message says which and what to do.
    """

    def __init__(self, folder: Path, *, threads: int = 1, vocab_limit: int | None = None, share: bool = True) -> None:
        self._graph = open_graph(folder, threads=threads)
        path = self._graph.path
        files = (path.with_name(path.name + ending) for ending in _FILES)
        self._weights = digits_of(file for file in files if file.is_file())
        self._name = folder.stem if folder.is_file() else folder.name
        width, shared = _try_out(self._graph, share=share)
        self._vocab_size = min(width, vocab_limit or width)
        self._cache: Cache = SharedCache(self._graph) if shared else CopiedCache(self._graph)
        self._shared = shared
        self._computed: list[int] = []  # the tokens whose keys and values the cache holds

    @property
    def name(self) -> str:
        """The name of the model's folder."""
        return self._name

    @property
    def vocab_size(self) -> int:
        """Proposals lie in [0, vocab_size)."""
        return self._vocab_size

    @property
    def context_length(self) -> int:
        """The longest sequence, in tokens, that `propose` takes."""
        return self._graph.context_length

    @property
    def shared_cache(self) -> bool:
        """Whether the cache is extended in place."""
        return self._shared

    def propose(self, tokens: Sequence[int], sampling: Sampling = GREEDY, position: int = 0) -> Proposal:
        """Return the next token after `tokens`, chosen from the model's logits as the target chooses from its own.

        Whatever `tokens` has in common with the previous call is not computed again.

        Raises:
            SequenceError: `tokens` is empty, too long or holds a negative id.
            DrafterError: `tokens` is not of this vocabulary, or the model computed NaN.
        """
        sequence = list(tokens)
        check_sequence(sequence, self._name, self.context_length)
        # At least the last token is run again, since only that yields logits.
        known = min(common_prefix(self._computed, sequence), len(sequence) - 1)
        self._cache.truncate(known)
        del self._computed[known:]
        for start in range(known, len(sequence), _CHUNK):
            chunk = sequence[start : start + _CHUNK]
            logits = self._cache.run(chunk)
            self._computed += chunk
        return propose_from(
            logits[: self._vocab_size],
            sampling,
            position,
            self._graph.path,
            source=self._name,
            weights=self._weights,
        )


def _try_out(graph: Graph, *, share: bool) -> tuple[int, bool]:
    """Run a few tokens; return the width of the logits and whether the cache may be extended in place.

    A graph whose nodes look fused still has to prove that it computes the same in place, rollback included.
    """
    reference = _probe(CopiedCache(graph))
    shared = share and graph.fused
    if shared:
        try:
            in_place = _probe(SharedCache(graph))
        except DrafterError:
            shared = False
        else:
            shared = bool(np.array_equal(reference, in_place, equal_nan=True))
    return len(reference), shared


def _probe(cache: Cache) -> Logits:
    steps = [[1, 2], [0, 1], [2]]  # a prompt, a suffix of two, and a token after a rollback into the prompt
    cache.run(steps[0])
    cache.run(steps[1])
    cache.truncate(1)
    return cache.run(steps[2])
