"""The target alone, timed: what a device must be faster than."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from transformers.utils import logging

from benchmarks.kit.answer import Answer
from benchmarks.kit.timing import Stopwatch
from sled.reference import Reference
from verifier.engine.load import load_engine
from verifier.engine.segment import Segment

if TYPE_CHECKING:
    from pathlib import Path

    from edge_agent.tokenizer import ChatTokenizer
    from verifier.engine.checkpoint import DType
    from verifier.engine.engine import Engine

_SESSION: Final = b"alone---"
_KV_BYTES: Final = 1 << 30


class PlainGenerate:
    """The library's own `generate`, greedy."""

    def __init__(self, reference: Reference, max_tokens: int) -> None:
        self._reference = reference
        self._max_tokens = max_tokens

    def write(self, prompt: str) -> Answer:
        """Answer one prompt."""
        watch = Stopwatch()
        tokens, text = self._reference.write(
            [{"role": "user", "content": prompt}], self._max_tokens, lambda: watch.saw(1)
        )
        return Answer(tokens, text, watch.stop())


class OwnEngine:
    """Our engine without drafts: one session, the prompt in one step, then one token at a time, greedy."""

    def __init__(self, engine: Engine, tokenizer: ChatTokenizer, max_tokens: int) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens

    def write(self, prompt: str) -> Answer:
        """Answer one prompt."""
        watch = Stopwatch()
        sequence = list(self._tokenizer.encode_chat([{"role": "user", "content": prompt}]))
        begin = len(sequence)
        while len(sequence) - begin < self._max_tokens:
            ((token,),) = self._engine.step([Segment(_SESSION, sequence, 1)])
            watch.saw(1)
            sequence.append(token)
            if token in self._engine.end_tokens:
                break
        self._engine.release(_SESSION)
        tokens = sequence[begin:]
        text = self._tokenizer.decode(tokens)
        return Answer(tuple(tokens), text, watch.stop())


def load_alone(folder: Path, dtype: DType, threads: int, max_tokens: int) -> tuple[PlainGenerate, OwnEngine]:
    """Load the target twice, on the CPU: each way of running it has its own attention.

    Raises:
        EngineError: the target cannot be loaded.
    """
    logging.disable_progress_bar()
    engine = load_engine(folder, dtype=dtype, device="cpu", kv_budget_bytes=_KV_BYTES, threads=threads)
    reference = Reference(folder, dtype)
    return PlainGenerate(reference, max_tokens), OwnEngine(engine, reference.tokenizer, max_tokens)
