"""The engine that packs all sessions of a step into one ragged forward."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import torch

from verifier.engine.attention import PLAN_ARGUMENT, NotPackableError, PackedAttention
from verifier.engine.checkpoint import limits, load_model
from verifier.engine.choose import choose, rows_of
from verifier.engine.errors import EngineError
from verifier.engine.kv import KVStore
from verifier.engine.plan import Span, StepPlan
from verifier.engine.probe import probe_packed
from verifier.engine.segment import as_tokens, check_segments, kept

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from transformers import PreTrainedModel

    from verifier.engine.checkpoint import DType
    from verifier.engine.segment import Job, Segment


class PackedEngine:
    """Runs the sessions of a step as one sequence [1, ΣT] with their own positions (see `Engine`).

    The attention of each layer writes to and reads from `KVStore`; the output head runs only where a token is to be
    chosen, and on each session's last position, which shows whether its keys and values are still numbers.

    Attributes:
        vocab_size: token ids lie in [0, vocab_size).
        context_length: the longest sequence, in tokens.
        end_tokens: all ids that end a text.
        block_tokens: sessions take KV memory in pieces of so many tokens.
        dtype: what it computes in.
        device: where.
    """

    def __init__(self, model: PreTrainedModel, *, kv_budget_bytes: int, block_tokens: int = 128) -> None:
        """Take over a prepared model and switch its attention.

        Raises:
            NotPackableError: it must run one session at a time.
            EngineError: its weights are damaged, or the budget holds no block of tokens.
        """
        known = limits(model)
        self.vocab_size = known.vocab_size
        self.end_tokens = known.end_tokens
        self.block_tokens = block_tokens
        self.dtype = str(model.dtype).removeprefix("torch.")
        self.device = str(model.device)
        self._model = model
        self._store = KVStore(
            probe_packed(model), budget_bytes=kv_budget_bytes, device=model.device, block_tokens=block_tokens
        )
        # A session longer than the store could be begun and never ended.
        self.context_length = min(known.context_length, self._store.rows)
        self._head_takes_positions = "logits_to_keep" in inspect.signature(model.forward).parameters

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        dtype: DType = "auto",
        device: str = "auto",
        kv_budget_bytes: int,
        threads: int | None = None,
    ) -> PackedEngine:
        """Load a target from a Hugging Face folder; the arguments are those of `load_engine`.

        Raises:
            EngineError: it cannot be loaded, is refused, or cannot be run packed.
        """
        model = load_model(folder, dtype=dtype, device=device, threads=threads)
        try:
            return cls(model, kv_budget_bytes=kv_budget_bytes)
        except NotPackableError as error:
            raise EngineError(f"The target in {folder} cannot be run packed, because {error}.") from error

    @property
    def used_bytes(self) -> int:
        """KV memory in use."""
        return self._store.used_bytes

    @property
    def budget_bytes(self) -> int:
        """KV memory that may be used."""
        return self._store.budget_bytes

    @property
    def budget_tokens(self) -> int:
        """How many tokens' keys and values fit, all sessions together."""
        return self._store.rows

    @property
    def sessions(self) -> int:
        """How many sessions hold keys and values."""
        return self._store.sessions

    @property
    def evictions(self) -> int:
        """How many sessions lost theirs to others since the start."""
        return self._store.evictions

    def missing(self, session: bytes, tokens: Sequence[int], choose: int) -> int:
        """Return how many tokens a step with this segment would feed."""
        return len(tokens) - kept(self._store.tokens(session), as_tokens(session, tokens), choose)

    def release(self, session: bytes) -> None:
        """Forget a session; one not held is fine."""
        self._store.drop(session)

    def step(self, segments: Sequence[Segment]) -> list[list[int]]:
        """Compute the segments and return the chosen token ids of each (see `Engine.step`)."""
        chosen, _ = self.step_with_logits(segments)
        return chosen

    def step_with_logits(self, segments: Sequence[Segment]) -> tuple[list[list[int]], list[torch.Tensor]]:
        """As `step`, and return the logits [choose, V] of each segment too, on the model's device."""
        jobs = check_segments(segments, self._store.tokens, self.vocab_size, self.context_length)
        lengths = {job.session: len(job.tokens) for job in jobs if len(job.tokens)}
        self._store.reserve(lengths, {job.session: job.keep for job in jobs})
        feeding = [job for job in jobs if job.fed]
        chosen: list[list[int]] = [[] for _ in jobs]
        logits: list[torch.Tensor] = [torch.empty(0, self.vocab_size) for _ in jobs]
        if not feeding:
            return chosen, logits
        try:
            rows = self._forward(feeding)
            tokens = choose(rows, rows_of(feeding))
        except BaseException as error:
            for job in jobs:
                self._store.drop(job.session, wipe=True)
            if isinstance(error, EngineError) or not isinstance(error, Exception):
                raise
            raise EngineError(
                f"The forward over {len(feeding)} sessions failed ({type(error).__name__}: {error}); their keys and "
                "values are dropped and come back by prefill."
            ) from error
        at = 0
        for index, job in enumerate(jobs):
            if job.fed:
                self._store.commit(job.session, job.tokens)
                chosen[index] = tokens[at : at + job.choose]
                logits[index] = rows[at : at + job.choose]
                at += max(1, job.choose)
        return chosen, logits

    @torch.inference_mode()
    def _forward(self, jobs: list[Job]) -> torch.Tensor:
        """Feed what the jobs lack; return logits [Σ max(1, choose), V] in the order of the jobs."""
        device = self._model.device
        spans = [Span(self._store.start(job.session), job.keep, job.fed) for job in jobs]
        plan = StepPlan(self._store, spans, self._model.dtype, device)
        fed = torch.cat([torch.from_numpy(jobs[i].tokens[jobs[i].keep :]) for i in plan.order])
        ends = [0] * len(jobs)
        at = 0
        for i in plan.order:
            at += jobs[i].fed
            ends[i] = at
        wanted = torch.cat(
            [torch.arange(end - max(1, job.choose), end) for job, end in zip(jobs, ends, strict=True)]
        ).to(device)
        arguments: dict[str, object] = {PLAN_ARGUMENT: PackedAttention(plan)}
        if self._head_takes_positions:
            arguments["logits_to_keep"] = wanted
        out = self._model(
            input_ids=fed.long()[None].to(device),
            position_ids=plan.positions[None],
            use_cache=False,
            **arguments,
        )
        logits: torch.Tensor = out.logits[0]
        return logits if self._head_takes_positions else logits[wanted]
