"""Rounds played on a row of agreements are those that drafting and verifying would have."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.distill.held_out import Acceptance, agreements_by_source, play_rounds, pool

ROWS = st.lists(st.booleans(), max_size=40).map(lambda row: np.asarray(row, np.bool_))


def verify_token_by_token(agreement: list[bool], draft: int) -> Acceptance:
    """The slow, obvious form: draft a token, look at it, stop at the first that differs."""
    at = rounds = drafted = accepted = 0
    while at < len(agreement):
        rounds += 1
        proposed = min(draft, len(agreement) - at)
        drafted += proposed
        taken = 0
        while taken < proposed and agreement[at + taken]:
            taken += 1
        accepted += taken
        at += taken + 1  # the correction or bonus token
    return Acceptance(1, len(agreement), sum(agreement), rounds, drafted, accepted, len(agreement))


@given(ROWS, st.integers(0, 8))
def test_rounds_are_those_of_verifying_token_by_token(row: np.ndarray, draft: int) -> None:
    assert play_rounds(row, draft) == verify_token_by_token(row.tolist(), draft)


@pytest.mark.parametrize(
    ("row", "draft", "length"),
    [([1, 1, 1, 1, 1], 4, 5.0), ([1, 1, 1, 1, 1, 1], 4, 3.0), ([0, 0, 0], 4, 1.0), ([1, 0, 1, 0], 4, 2.0)],
)
def test_mean_accepted_length(row: list[int], draft: int, length: float) -> None:
    assert play_rounds(np.asarray(row, np.bool_), draft).mean_accepted_length == length


def test_pooled_answers_weigh_by_their_rounds() -> None:
    both = pool([np.ones(5, np.bool_), np.zeros(5, np.bool_)], 4)
    assert (both.answers, both.rounds, both.committed, both.agreement) == (2, 6, 10, 0.5)
    assert both.acceptance_rate == pytest.approx(4 / (4 + 4 + 4 + 3 + 2 + 1))


def test_nothing_is_worth_nothing() -> None:
    assert pool([], 4).mean_accepted_length == pool([], 4).acceptance_rate == pool([], 4).agreement == 0.0


def test_sources_are_told_apart() -> None:
    rows = [np.ones(1, np.bool_), np.zeros(2, np.bool_), np.ones(3, np.bool_)]
    assert [len(part) for part in agreements_by_source(["a", "b", "a"], rows).values()] == [2, 1]
