"""Sums over answers."""

from __future__ import annotations

from schemas.messages import Statistics
from sled.rounds import Rounds


def test_means_are_per_round_over_all_answers() -> None:
    rounds = Rounds.of(
        [
            Statistics(9, 20, 4, 12, 8, 1, 0, 0, 0, 0, generated=8),
            Statistics(9, 12, 6, 8, 6, 0, 0, 0, 0, 0),
        ]
    )
    assert rounds == Rounds(tokens=32, rounds=10, drafted=20, accepted=14, generated=8, resends=1)
    assert rounds.mean_accepted_length == 2.4
    assert rounds.mean_draft_length == 2.0
    assert rounds.acceptance_rate == 0.7


def test_nothing_was_accepted_of_nothing() -> None:
    nothing = Rounds.of([])
    assert (nothing.mean_accepted_length, nothing.mean_draft_length, nothing.acceptance_rate) == (0, 0, 0)
