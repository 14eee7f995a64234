"""A drafter that runs an ONNX decoder with onnxruntime on the CPU."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from edge_agent.drafters.drafter import DrafterError, Proposal
from edge_agent.drafters.onnx_cache import CopiedCache, SharedCache
from edge_agent.drafters.onnx_graph import open_graph

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edge_agent.drafters.onnx_cache import Cache, Logits
    from edge_agent.drafters.onnx_graph import Graph

_CHUNK = 256
"""Tokens of a prompt computed in one run: bounds the memory of its logits and its attention."""


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

    def propose(self, tokens: Sequence[int]) -> Proposal:
        """Return the greedy next token (lowest id on ties) after `tokens`, and its softmax probability.

        Whatever `tokens` has in common with the previous call is not computed again.

        Raises:
            DrafterError: `tokens` is empty, too long or not of this vocabulary, or the model computed NaN.
        """
        sequence = list(tokens)
        self._check(sequence)
        # At least the last token is run again, since only that yields logits.
        known = min(_common_prefix(self._computed, sequence), len(sequence) - 1)
        self._cache.truncate(known)
        del self._computed[known:]
        for start in range(known, len(sequence), _CHUNK):
            chunk = sequence[start : start + _CHUNK]
            logits = self._cache.run(chunk)
            self._computed += chunk
        return self._choose(logits)

    def _check(self, tokens: list[int]) -> None:
        if not tokens:
            raise DrafterError("There is nothing to continue: the sequence is empty. Give at least one token.")
        if len(tokens) > self.context_length:
            raise DrafterError(
                f"The sequence has {len(tokens)} tokens, but the drafter {self._name} reads at most "
                f"{self.context_length}; shorten the prompt, or use a drafter with a longer context."
            )
        if min(tokens) < 0:  # ONNX would take it as counted from the end of the vocabulary
            raise DrafterError(f"The sequence holds the token id {min(tokens)}; token ids are not negative.")

    def _choose(self, logits: Logits) -> Proposal:
        usable = logits[: self._vocab_size]
        token = int(usable.argmax())  # the first of the largest; the first NaN if there is one
        best = float(usable[token])
        if not math.isfinite(best):
            raise DrafterError(
                f"The drafter {self._graph.path} computed {best} instead of a number; its weights are damaged. "
                "Copy its folder again, or export the model once more."
            )
        # softmax at its maximum: exp(best - best) over the sum of exp(logit - best)
        return Proposal(token, 1.0 / float(np.exp(usable - best).sum()))


def _common_prefix(left: list[int], right: list[int]) -> int:
    length = min(len(left), len(right))
    if left[:length] == right[:length]:  # nearly always, and much faster than a loop
        return length
    return next(index for index in range(length) if left[index] != right[index])


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
