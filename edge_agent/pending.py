"""What is drafted beyond the log: the next draft, and the extras drafted while a verdict is awaited."""

from __future__ import annotations


class Pending:
    """Drafted tokens that continue the log, and whether another one is being drafted.

    Attributes:
        tokens: drafted token ids, in order.
        confidences: the drafter's probability of each.
        branch: names this line of drafting; it rises whenever the line is given up, so that a token drafted for the
            old one is known as such when it comes.
        busy: whether a token of this branch is being drafted.
    """

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.confidences: list[float] = []
        self.branch = 0
        self.busy = False

    def __len__(self) -> int:
        return len(self.tokens)

    def add(self, token: int, confidence: float) -> None:
        """Take in the token that was being drafted."""
        self.busy = False
        self.tokens.append(token)
        self.confidences.append(confidence)

    def follow(self, new: tuple[int, ...]) -> None:
        """The log has grown by `new`.

        A draft that was accepted whole, and whose first extra is the bonus token, leaves its other extras to be the
        next draft. Anything else gives the line up: its tokens continue a log that is not.
        """
        agreed = tuple(self.tokens[: len(new)]) == new
        gone = len(new) if agreed else len(self.tokens)
        del self.tokens[:gone]
        del self.confidences[:gone]
        if not agreed:
            self.branch += 1
            self.busy = False
