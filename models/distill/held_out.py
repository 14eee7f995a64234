"""What a drafter is worth: how many of its tokens a target would accept, on answers it was not trained on.

The target's answer is given, so the drafter is run over it once: a greedy draft goes on for as long as each of its
tokens is the answer's, hence whether it agrees at every position of the answer decides every possible round.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Agreement: TypeAlias = NDArray[np.bool_]
"""At which positions of an answer the drafter's token is the answer's, bool [T]."""


class Acceptance(msgspec.Struct, frozen=True):
    """Counts over the rounds of some answers; add them to pool answers.

    Attributes:
        answers: how many answers.
        tokens: of them, all positions.
        agreed: positions at which the drafter's token is the target's.
        rounds: draft bundles sent.
        drafted: tokens in them.
        accepted: of these, accepted.
        committed: tokens the rounds yielded, the target's own included.
    """

    answers: int = 0
    tokens: int = 0
    agreed: int = 0
    rounds: int = 0
    drafted: int = 0
    accepted: int = 0
    committed: int = 0

    def __add__(self, other: Acceptance) -> Acceptance:
        return Acceptance(
            *(a + b for a, b in zip(msgspec.structs.astuple(self), msgspec.structs.astuple(other), strict=True))
        )

    @property
    def agreement(self) -> float:
        """Share of all positions at which drafter and target agree."""
        return self.agreed / self.tokens if self.tokens else 0.0

    @property
    def acceptance_rate(self) -> float:
        """Accepted of the drafted tokens."""
        return self.accepted / self.drafted if self.drafted else 0.0

    @property
    def mean_accepted_length(self) -> float:
        """Tokens committed per round, the target's own included."""
        return self.committed / self.rounds if self.rounds else 0.0


def play_rounds(agreement: Agreement, draft: int) -> Acceptance:
    """Play the rounds of one answer with drafts of a fixed length.

    Args:
        agreement: of the answer.
        draft: tokens drafted per round; the last round drafts and commits what is left.
    """
    length = len(agreement)
    at = rounds = drafted = accepted = 0
    while at < length:
        tried = agreement[at : at + draft]
        misses = np.flatnonzero(~tried)
        hits = int(misses[0]) if misses.size else len(tried)
        rounds, drafted, accepted = rounds + 1, drafted + len(tried), accepted + hits
        at += hits + 1
    return Acceptance(1, length, int(agreement.sum()), rounds, drafted, accepted, length)


def pool(agreements: Iterable[Agreement], draft: int) -> Acceptance:
    """Play the rounds of several answers and add them up."""
    return sum((play_rounds(agreement, draft) for agreement in agreements), Acceptance())


def agreements_by_source(sources: Sequence[str], agreements: Sequence[Agreement]) -> dict[str, list[Agreement]]:
    """Sort answers by where their prompts are from."""
    sorted_out: dict[str, list[Agreement]] = {}
    for source, agreement in zip(sources, agreements, strict=True):
        sorted_out.setdefault(source, []).append(agreement)
    return sorted_out
