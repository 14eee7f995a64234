"""What every drafter offers the agent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

from schemas.messages import GREEDY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from schemas.messages import Sampling


class Proposal(msgspec.Struct, frozen=True):
    """One drafted token and how sure the drafter was of it.

    All measures are of the drafter's distribution before temperature, top-k and top-p.

    Attributes:
        token: token id.
        confidence: the drafter's probability of `token`, 0 to 1.
        entropy: of the distribution, in nats; 0 is certainty.
        margin: difference of its two largest probabilities, 0 to 1.
        source: what proposed it: a short label that stays the same across restarts, the drafter's `name` or, of a
            drafter made of several, that of the part that answered. Confidences are calibrated per `learner`.
        seconds: what drafting it took; 0 where nobody measured. Set by the drafting thread.
        sampled: whether it was chosen with the sampling noise; a token so chosen is right more or less often than a
            greedy one of the same confidence. Set by the drafting thread.
        weights: a few digits that tell apart models under one `source`; empty where there is no model.
    """

    token: int
    confidence: float
    entropy: float = 0.0
    margin: float = 1.0
    source: str = ""
    seconds: float = 0.0
    sampled: bool = False
    weights: str = ""

    @property
    def learner(self) -> str:
        """What verdicts teach about: the source, and which weights it had."""
        return f"{self.source}@{self.weights}" if self.weights else self.source


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

    def propose(self, tokens: Sequence[int], sampling: Sampling = GREEDY, position: int = 0) -> Proposal | None:
        """Return the drafter's next token after `tokens` (not empty).

        Args:
            tokens: prompt and output so far, confirmed or drafted.
            sampling: how the target chooses. A drafter that computes logits chooses by the same rule with the same
                noise (`schemas.choice`), and so often chooses the same token.
            position: output position of the proposed token, from 0; part of the noise.

        Returns:
            The proposal, or None if there is nothing to propose after this very sequence; that is no fault.

        Raises:
            SequenceError: this sequence cannot be continued (empty, too long, no token ids); others can.
            DrafterError: the drafter cannot go on (broken file, NaN); the message says why.
        """
        ...


class DrafterError(Exception):
    """A drafter cannot be loaded or cannot go on."""


class SequenceError(DrafterError):
    """A sequence that this drafter cannot continue; the drafter itself is well."""
