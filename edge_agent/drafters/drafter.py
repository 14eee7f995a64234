"""What every drafter offers the agent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence


class Proposal(msgspec.Struct, frozen=True):
    """One drafted token and how sure the drafter was of it.

    Attributes:
        token: token id.
        confidence: the drafter's probability of `token`, 0 to 1.
    """

    token: int
    confidence: float


class Drafter(Protocol):
    """Guesses the token that follows a sequence.

    A drafter is told the whole sequence each time and finds out itself which prefix it has already computed, so
    rolling back after a rejected draft needs no call of its own and can never go wrong. Called from one thread.
    """

    @property
    def name(self) -> str:
        """A short name for state messages and tables."""
        ...

    @property
    def vocab_size(self) -> int:
        """How many token ids the drafter knows; proposals lie in [0, vocab_size)."""
        ...

    @property
    def context_length(self) -> int:
        """The longest sequence, in tokens, that `propose` takes."""
        ...

    def propose(self, tokens: Sequence[int]) -> Proposal:
        """Return the drafter's greedy next token after `tokens` (not empty).

        Raises:
            DrafterError: the drafter cannot go on (broken file, NaN, sequence too long); the message says why.
        """
        ...


class DrafterError(Exception):
    """A drafter cannot be loaded or cannot go on."""
