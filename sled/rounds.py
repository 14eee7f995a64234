"""What a number of answers took in rounds and drafts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from schemas.messages import Statistics


class Rounds(msgspec.Struct, frozen=True):
    """Sums over answers.

    Attributes:
        tokens: committed.
        rounds: verdicts that committed something.
        drafted: draft tokens that these judged.
        accepted: of those, accepted.
        generated: tokens of runs, which the verifier wrote by itself.
        resends: bundles sent again.
    """

    tokens: int
    rounds: int
    drafted: int
    accepted: int
    generated: int
    resends: int

    @classmethod
    def of(cls, answers: Sequence[Statistics | Rounds]) -> Rounds:
        """Add up."""
        return cls(*(sum(getattr(answer, name) for answer in answers) for name in cls.__struct_fields__))

    @property
    def mean_accepted_length(self) -> float:
        """Tokens committed per round, the target's own included, those of runs left out."""
        return ratio(self.tokens - self.generated, self.rounds)

    @property
    def mean_draft_length(self) -> float:
        """Draft tokens per round."""
        return ratio(self.drafted, self.rounds)

    @property
    def acceptance_rate(self) -> float:
        """Accepted / drafted."""
        return ratio(self.accepted, self.drafted)


def ratio(part: float, whole: float) -> float:
    """Return part / whole to four decimals, 0 where there is nothing."""
    return round(part / whole, 4) if whole else 0.0
