"""A drafter that shows from outside whether it gets on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.messages import GREEDY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge_agent.drafters.drafter import Drafter, Proposal
    from schemas.messages import Sampling


class Watched:
    """Drafts as another drafter does, and counts.

    Args:
        drafter: that drafts.
    """

    def __init__(self, drafter: Drafter) -> None:
        self._drafter = drafter
        self._calls = 0
        self._returns = 0

    @property
    def name(self) -> str:
        """As the drafter's."""
        return self._drafter.name

    @property
    def vocab_size(self) -> int:
        """As the drafter's."""
        return self._drafter.vocab_size

    @property
    def context_length(self) -> int:
        """As the drafter's."""
        return self._drafter.context_length

    @property
    def progress(self) -> int | None:
        """How many calls have ended while another is under way; None while none is. May be read from any thread."""
        returns = self._returns  # before the calls, so that a call that ends in between is one under way
        return returns if self._calls > returns else None

    def propose(self, tokens: Sequence[int], sampling: Sampling = GREEDY, position: int = 0) -> Proposal | None:
        """As the drafter's."""
        self._calls += 1
        try:
            return self._drafter.propose(tokens, sampling, position)
        finally:
            self._returns += 1
