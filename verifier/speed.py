"""What a step costs: a part of its own, a part per token fed, and a part per token of context."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

SURE: Final = 16
"""Steps seen after which a speed is no longer mostly a guess."""
WORTH: Final = 7
"""The tokens of a step may take so many times its fixed cost, whatever its goal: a saturated engine then loses an
eighth of its time to fixed costs at most."""


class Speed(Struct, frozen=True):
    """What a step costs, in seconds. Its fixed cost is what it takes before any token is fed: base and context.

    Attributes:
        base: whatever it does (the weights are read once).
        fed: per token fed.
        context: per token of the sequences it works on (their keys and values are read).
        samples: steps this was learnt from.
    """

    base: float
    fed: float
    context: float
    samples: int = 0

    @property
    def sure(self) -> bool:
        """Whether enough steps were seen to act on it against somebody."""
        return self.samples >= SURE

    def seconds(self, fed: float, context: float) -> float:
        """Return the time of a step that feeds so many tokens of sequences so long in total."""
        return self.base + self.fed * fed + self.context * context

    def tokens_within(self, goal: float, context: float, most: int) -> int:
        """Return how many tokens, from 0 to `most`, a step may feed to reach its goal.

        A goal near the fixed cost is not kept to: steps that small would do little but pay it (see `WORTH`).

        Args:
            goal: seconds.
            context: lengths of the sequences it works on, in tokens, together.
            most: the answer where tokens cost nothing.
        """
        fixed = self.seconds(0, context)
        left = max(goal - fixed, WORTH * fixed)
        return most if self.fed * most <= left else int(left / self.fed)
