"""What is drafted beyond the log: the next draft, and the extras drafted while a verdict is awaited."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_agent.drafters.drafter import Proposal


class Pending:
    """Drafted tokens that continue the log, and whether another one is being drafted.

    Attributes:
        proposals: what was drafted, in order.
        branch: names this line of drafting; it rises whenever the line is given up, so that a token drafted for the
            old one is known as such when it comes.
        busy: whether a token of this branch is being drafted.
        exhausted: whether the drafter had nothing to propose behind these tokens.
        shown: how many of them, from the first, were shown as provisional.
    """

    def __init__(self) -> None:
        self.proposals: list[Proposal] = []
        self.branch = 0
        self.busy = False
        self.exhausted = False
        self.shown = 0

    def __len__(self) -> int:
        return len(self.proposals)

    @property
    def tokens(self) -> tuple[int, ...]:
        """The drafted token ids, in order."""
        return tuple(proposal.token for proposal in self.proposals)

    def add(self, proposal: Proposal | None) -> None:
        """Take in what was being drafted; None if the drafter had nothing to propose."""
        self.busy = False
        if proposal is None:
            self.exhausted = True
        else:
            self.proposals.append(proposal)

    def follow(self, new: tuple[int, ...]) -> int:
        """The log has grown by `new`.

        A draft that was accepted whole, and whose first extra is the bonus token, leaves its other extras to be the
        next draft. Anything else gives the line up: its tokens continue a log that is not.

        Returns:
            How many tokens that were shown are thereby wrong.
        """
        tokens = self.tokens
        agreed = 0
        while agreed < min(len(tokens), len(new)) and tokens[agreed] == new[agreed]:
            agreed += 1
        if agreed == len(new):
            del self.proposals[:agreed]
            self.shown = max(0, self.shown - agreed)
            return 0
        wrong = max(0, self.shown - agreed)
        self.proposals.clear()
        self.branch += 1
        self.busy = False
        self.exhausted = False
        self.shown = 0
        return wrong
