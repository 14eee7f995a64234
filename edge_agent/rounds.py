"""What the rounds of a session asked for, until a verdict settles them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct

from edge_agent.drafters.drafter import Proposal
from edge_agent.policy import Outcome

if TYPE_CHECKING:
    from schemas.digest import Log

_KEPT: Final = 64
"""Rounds that are remembered, the latest; a verdict on an earlier one tells nothing of its draft."""


class Asked(Struct, frozen=True):
    """What a round asked for: a draft to be judged at a base, and a run of so many tokens behind the verdict."""

    base: int
    proposals: tuple[Proposal, ...] = ()
    run: int = 0

    def outcome(self, log: Log, new: tuple[int, ...], seconds: float | None, step: float | None = None) -> Outcome:
        """Return what became of the round's draft when a verdict adds `new` to `log`.

        What counts is where the draft continues the log as it was until now. An earlier part was settled by the verdict
        that brought those tokens; if they contradict it, nothing behind them was judged.

        Args:
            log: before the tokens are added.
            new: the tokens.
            seconds: that the round took; None where that says nothing about a usual one.
            step: seconds of them that the target took; None likewise.
        """
        behind = len(log) - self.base
        settled = tuple(proposal.token for proposal in self.proposals[:behind])
        agreed = settled == log.tokens(self.base, self.base + len(settled))
        proposals = self.proposals[behind:] if agreed else ()
        accepted = 0
        for proposal, token in zip(proposals, new, strict=False):
            if proposal.token != token:
                break
            accepted += 1
        if accepted == len(new):  # the text or its room ended here: nobody has judged the next one
            proposals = proposals[:accepted]
        return Outcome(proposals, accepted, len(new), seconds, len(self.proposals), step)


class Rounds:
    """The rounds of one epoch that may still be answered.

    Attributes:
        number: of the latest round; it rises over all epochs of a session.
    """

    def __init__(self) -> None:
        self.number = 0
        self._asked: dict[int, Asked] = {}

    def begin(self, asked: Asked) -> int:
        """Open a round and return its number."""
        self.number += 1
        self._asked[self.number] = asked
        self._asked.pop(self.number - _KEPT, None)
        return self.number

    def settle(self, number: int, base: int) -> Asked:
        """Return what a round asked for, and forget it and all before it; nothing at `base` if it is not known."""
        asked = self._asked.pop(number, Asked(base))
        self._asked = {later: other for later, other in self._asked.items() if later > number}
        return asked

    def forget(self) -> None:
        """No round of before will be answered: it was of another epoch."""
        self._asked.clear()
