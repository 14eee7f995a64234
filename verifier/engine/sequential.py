"""The engine that runs one session at a time, for targets that cannot be packed."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import DynamicCache

from verifier.engine.checkpoint import limits, load_model, rope_types
from verifier.engine.choose import choose, rows_of
from verifier.engine.errors import EngineError
from verifier.engine.segment import Job, as_tokens, check_segments, kept

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from transformers import PreTrainedModel

    from verifier.engine.checkpoint import DType
    from verifier.engine.segment import Segment, Tokens

_NOTHING: Tokens = np.empty(0, dtype=np.int32)


@dataclass(slots=True)
class _Held:
    """The cache of one session and the tokens it holds."""

    cache: DynamicCache
    tokens: Tokens


class SequentialEngine:
    """Runs each session of a step in a forward of its own, with transformers' cache (see `Engine`).

    The cache is made without the model's configuration, so that sliding layers keep every key (their masks hide what
    they do not see): layers that had dropped some could not be rolled back.

    Attributes:
        vocab_size: token ids lie in [0, vocab_size).
        context_length: the longest sequence, in tokens.
        end_tokens: all ids that end a text.
        budget_bytes: KV memory that may be used.
        evictions: how many sessions lost theirs to others since the start.
        block_tokens: 1; transformers' cache grows by tokens.
        dtype: what it computes in.
        device: where.
    """

    def __init__(self, model: PreTrainedModel, *, kv_budget_bytes: int) -> None:
        """Take over a prepared model.

        Raises:
            EngineError: its cache cannot be rolled back, or its weights are damaged.
        """
        known = limits(model)
        self.vocab_size = known.vocab_size
        self.context_length = known.context_length
        self.end_tokens = known.end_tokens
        self.budget_bytes = kv_budget_bytes
        self.evictions = 0
        self.block_tokens = 1
        self.dtype = str(model.dtype).removeprefix("torch.")
        self.device = str(model.device)
        self._model = model
        self._regime_end = _regime_end(model)
        # In order of use, the least recently used first.
        self._held: OrderedDict[bytes, _Held] = OrderedDict()
        self._row_bytes = self._probe()
        # A session longer than the budget could be begun and never ended.
        self.context_length = min(known.context_length, self.budget_tokens)

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        dtype: DType = "auto",
        device: str = "auto",
        kv_budget_bytes: int,
        threads: int | None = None,
    ) -> SequentialEngine:
        """Load a target from a Hugging Face folder; the arguments and errors are those of `load_engine`."""
        model = load_model(folder, dtype=dtype, device=device, threads=threads)
        return cls(model, kv_budget_bytes=kv_budget_bytes)

    @property
    def used_bytes(self) -> int:
        """KV memory in use."""
        return sum(len(held.tokens) for held in self._held.values()) * self._row_bytes

    @property
    def budget_tokens(self) -> int:
        """How many tokens' keys and values fit, all sessions together."""
        return self.budget_bytes // self._row_bytes

    @property
    def sessions(self) -> int:
        """How many sessions hold keys and values."""
        return len(self._held)

    def missing(self, session: bytes, tokens: Sequence[int], choose: int) -> int:
        """Return how many tokens a step with this segment would feed."""
        return len(tokens) - self._keep(self._tokens(session), as_tokens(session, tokens), choose)

    def release(self, session: bytes) -> None:
        """Forget a session; one not held is fine."""
        self._held.pop(session, None)

    def step(self, segments: Sequence[Segment]) -> list[list[int]]:
        """Compute the segments and return the chosen token ids of each (see `Engine.step`)."""
        chosen, _ = self.step_with_logits(segments)
        return chosen

    def step_with_logits(self, segments: Sequence[Segment]) -> tuple[list[list[int]], list[torch.Tensor]]:
        """As `step`, and return the logits [choose, V] of each segment too, on the model's device."""
        jobs = check_segments(segments, self._tokens, self.vocab_size, self.context_length)
        self._make_room(jobs)
        chosen: list[list[int]] = []
        logits: list[torch.Tensor] = []
        try:
            for job in jobs:
                rows = self._feed(job) if len(job.tokens) else torch.empty(0, self.vocab_size)
                chosen.append(choose(rows, rows_of([job]) if len(rows) else [])[: job.choose])
                logits.append(rows[: job.choose])
        except BaseException as error:
            for job in jobs:
                self.release(job.session)
            if isinstance(error, EngineError) or not isinstance(error, Exception):
                raise
            raise EngineError(
                f"The forward over {len(jobs)} sessions failed ({type(error).__name__}: {error}); their keys and "
                "values are dropped and come back by prefill."
            ) from error
        return chosen, logits

    def _tokens(self, session: bytes) -> Tokens:
        held = self._held.get(session)
        return _NOTHING if held is None else held.tokens

    def _keep(self, held: Tokens, tokens: Tokens, choose: int) -> int:
        """As `kept`, but nothing of another RoPE regime.

        With `longrope`, transformers computes a forward whose longest position lies beyond the original context with
        other frequencies, for all its positions. Keys of one regime are of no use in the other.
        """
        end = self._regime_end
        if end is not None and (len(held) > end) != (len(tokens) > end):
            return 0
        return kept(held, tokens, choose)

    def _make_room(self, jobs: list[Job]) -> None:
        """Evict sessions not in the step until it fits.

        Raises:
            EngineError: the step does not fit by itself; nothing has changed then.
        """
        needed = sum(len(job.tokens) for job in jobs) * self._row_bytes
        if needed > self.budget_bytes:
            raise EngineError(
                f"A step over {len(jobs)} sessions needs {needed} bytes of KV memory, but the budget is "
                f"{self.budget_bytes} bytes; put fewer sessions in a step or raise the budget."
            )
        busy = {job.session for job in jobs}
        others = [session for session in self._held if session not in busy]
        taken = sum(len(self._held[session].tokens) for session in others) * self._row_bytes
        for session in others:
            if taken + needed <= self.budget_bytes:
                break
            taken -= len(self._held.pop(session).tokens) * self._row_bytes
            self.evictions += 1

    def _feed(self, job: Job) -> torch.Tensor:
        """Bring a session to `job.tokens`; return logits [max(1, choose), V], or none if nothing was to feed."""
        wanted = len(job.tokens) - max(1, job.choose)
        end = self._regime_end
        if end is None or len(job.tokens) <= end:
            return self._extend(job, len(job.tokens), wanted)
        # Positions up to the regime's end are chosen by a forward that stays within it, as the target alone would.
        before = self._extend(job, end, wanted) if wanted < end else None
        after = self._extend(job, len(job.tokens), max(wanted, end))
        return after if before is None else torch.cat([before, after])

    @torch.inference_mode()
    def _extend(self, job: Job, length: int, wanted: int) -> torch.Tensor:
        """Hold the first `length` tokens of a job; return the logits of positions `wanted` to `length`."""
        tokens = job.tokens[:length]
        held = self._held.pop(job.session, None) or _Held(DynamicCache(), _NOTHING)
        keep = self._keep(held.tokens, tokens, length - wanted if job.choose else 0)
        if keep < len(held.tokens):
            if keep:
                held.cache.crop(keep - len(held.tokens))
            # A cache that could not be cropped is of no use.
            if keep == 0 or held.cache.get_seq_length() != keep:
                keep, held = 0, _Held(DynamicCache(), _NOTHING)
        rows = torch.empty(0, self.vocab_size)
        if keep < length:
            fed = torch.from_numpy(tokens[keep:]).long()[None].to(self._model.device)
            out = self._model(input_ids=fed, past_key_values=held.cache, use_cache=True)
            rows = out.logits[0, max(wanted - keep, 0) :]
        self._held[job.session] = _Held(held.cache, tokens)
        return rows

    def _probe(self) -> int:
        """Check that rolling back gives what a fresh forward does; return the bytes held per token.

        Raises:
            EngineError: it does not, or the cache stays empty.
        """
        tokens = ((np.arange(1, 13) * 7919) % self.vocab_size).astype(np.int32)
        detour = np.concatenate([tokens[:8], tokens[::-1][:3]]).astype(np.int32)
        try:
            with torch.inference_mode():
                ids = torch.from_numpy(tokens).long()[None].to(self._model.device)
                expected = self._model(input_ids=ids, use_cache=False).logits[0, 8:].float()
            self._extend(_job(detour), len(detour), 0)
            got = self._extend(_job(tokens, 4), len(tokens), 8).float()
            cache = self._held.pop(b"").cache
            total: int = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
        except Exception as error:
            raise EngineError(
                f"The target ({self._model.config.model_type}) cannot be run with a key-value cache "
                f"({type(error).__name__}: {error}); choose another target."
            ) from error
        if not bool(expected.isfinite().all()):
            raise EngineError("The target computes NaN or infinite logits; its weights are damaged. Get them again.")
        difference = float((got - expected).square().mean().sqrt() / expected.std().clamp(min=1e-6))
        if difference > (1e-3 if self._model.dtype == torch.float32 else 0.3):
            raise EngineError(
                f"The target ({self._model.config.model_type}) computes other logits from its cache than from the "
                f"whole sequence (by {difference:.2g} of their spread), so drafts cannot be verified with it; choose "
                "another target."
            )
        return total // len(tokens)


def _job(tokens: Tokens, choose: int = 0) -> Job:
    return Job(b"", tokens, choose, 0)


def _regime_end(model: PreTrainedModel) -> int | None:
    """Return the last sequence length computed with `longrope`'s short frequencies; None without longrope.

    `dynamic` needs nothing of the kind: it changes frequencies beyond max_position_embeddings, where the context
    ends.
    """
    if "longrope" not in rope_types(model):
        return None
    parameters = model.config.get_text_config().rope_parameters
    nested = [value for value in parameters.values() if isinstance(value, dict)]
    for source in (parameters, *nested):
        if source.get("original_max_position_embeddings"):
            return int(source["original_max_position_embeddings"])
    return None
