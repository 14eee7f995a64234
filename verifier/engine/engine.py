"""What every engine offers the verifier."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from verifier.engine.segment import Segment


class Engine(Protocol):
    """Runs the target model over the sessions of a step and chooses tokens. Called from one thread.

    The engine is told whole sequences and keeps for each session the ids whose keys and values it holds; it keeps the
    longest common prefix and computes the rest. So rolling back needs no call of its own and cannot go wrong.
    """

    @property
    def vocab_size(self) -> int:
        """Token ids lie in [0, vocab_size)."""
        ...

    @property
    def context_length(self) -> int:
        """The longest sequence, in tokens, that `step` takes."""
        ...

    @property
    def end_tokens(self) -> frozenset[int]:
        """All token ids that end a text."""
        ...

    @property
    def used_bytes(self) -> int:
        """KV memory in use."""
        ...

    @property
    def budget_bytes(self) -> int:
        """KV memory that may be used."""
        ...

    @property
    def budget_tokens(self) -> int:
        """How many tokens' keys and values fit, all sessions together."""
        ...

    @property
    def block_tokens(self) -> int:
        """Sessions take that memory in pieces of so many tokens."""
        ...

    @property
    def dtype(self) -> str:
        """What it computes in: `float32` or `bfloat16`."""
        ...

    @property
    def device(self) -> str:
        """Where: a torch device, such as `cpu` or `cuda:0`."""
        ...

    @property
    def sessions(self) -> int:
        """How many sessions hold keys and values."""
        ...

    @property
    def evictions(self) -> int:
        """How many sessions lost theirs to others since the start."""
        ...

    def missing(self, session: bytes, tokens: Sequence[int], choose: int) -> int:
        """Return how many tokens a step with this segment would feed; the last `choose` are always fed."""
        ...

    def step(self, segments: Sequence[Segment]) -> list[list[int]]:
        """Compute the segments and return the chosen token ids of each, `choose` many, in the order given.

        Raises:
            ValueError: a session appears twice, or `choose` lies outside [0, number of tokens]; nothing changed.
            EngineError: a token out of vocabulary, a sequence beyond the context, or a step beyond the KV budget;
                nothing changed. Or the forward failed or its logits are NaN: the sessions of the step are dropped
                and come back by prefill, others are untouched.
        """
        ...

    def release(self, session: bytes) -> None:
        """Forget a session; one not held is fine."""
        ...
