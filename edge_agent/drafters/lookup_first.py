"""Prompt lookup in front of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edge_agent.drafters.sequence import check_sequence
from schemas.messages import GREEDY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge_agent.drafters.drafter import Drafter, Proposal
    from edge_agent.drafters.lookup import PromptLookup
    from schemas.messages import Sampling

LEAST_CONFIDENCE: Final = 0.6
"""A lookup surer than this spares the model its token."""


class LookupFirst:
    """Proposes what a sure lookup finds, and asks the model for all else.

    The model computes what it was spared in one run when it is asked next, which is faster than token by token.

    Args:
        lookup: asked first.
        model: asked where the lookup finds nothing or is less sure than `least_confidence`.
        least_confidence: from 0 (any match will do) to 1 (always the model).
    """

    def __init__(self, lookup: PromptLookup, model: Drafter, *, least_confidence: float = LEAST_CONFIDENCE) -> None:
        self._lookup = lookup
        self._model = model
        self._least = least_confidence

    @property
    def name(self) -> str:
        """`lookup+` and the model's name."""
        return f"{self._lookup.name}+{self._model.name}"

    @property
    def vocab_size(self) -> int:
        """Proposals lie in [0, vocab_size)."""
        return self._model.vocab_size

    @property
    def context_length(self) -> int:
        """The model's."""
        return self._model.context_length

    def propose(self, tokens: Sequence[int], sampling: Sampling = GREEDY, position: int = 0) -> Proposal | None:
        """Return the lookup's proposal if it is sure enough, or else the model's.

        Raises:
            SequenceError: the model cannot continue `tokens`.
            DrafterError: the model cannot go on.
        """
        check_sequence(tokens, self.name, self.context_length)
        found = self._lookup.propose(tokens, sampling, position)
        if found is not None and found.confidence >= self._least and found.token < self.vocab_size:
            return found
        return self._model.propose(tokens, sampling, position)
