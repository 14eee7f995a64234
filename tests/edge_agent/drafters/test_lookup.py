"""Prompt lookup: what is found, and what is learnt of its chances."""

from __future__ import annotations

import math

import pytest

from edge_agent.drafters.lookup import PromptLookup
from tests.edge_agent.drafters.kinds import plain_lookup


def proposed(lookup: PromptLookup, tokens: list[int]) -> int | None:
    """The token alone."""
    proposal = lookup.propose(tokens)
    return proposal.token if proposal else None


def test_propose_the_longest_match_wins_over_a_more_recent_one() -> None:
    assert proposed(PromptLookup(), [1, 2, 3, 4, 5, 3, 4, 9, 1, 2, 3, 4]) == 5


def test_propose_the_most_recent_of_equal_matches_wins() -> None:
    assert proposed(PromptLookup(), [1, 2, 3, 1, 2, 4, 1, 2]) == 4


def test_propose_matches_may_overlap_their_own_end() -> None:
    assert proposed(PromptLookup(), [7, 7, 7]) == 7


@pytest.mark.parametrize(
    ("longest", "shortest", "token"),
    [(4, 2, None), (4, 1, 2), (1, 1, 2)],
)
def test_propose_matches_of_the_lengths_asked_for(longest: int, shortest: int, token: int | None) -> None:
    assert proposed(PromptLookup(longest=longest, shortest=shortest), [1, 2, 3, 1]) == token


def test_propose_after_a_long_and_a_short_rollback_forgets_what_is_gone() -> None:
    lookup = PromptLookup()
    whole = [1, 2, 3, 4, 1, 2, 9, 9, 5, 6, 1, 2]
    assert proposed(lookup, whole) == 9
    assert proposed(lookup, [*whole[:6], 5, 6, 1, 2]) == 5
    assert proposed(lookup, [1, 2, 8, 1, 2]) == 8
    assert proposed(lookup, [9, 9, 5]) is None


def test_propose_never_an_id_outside_the_vocabulary() -> None:
    assert proposed(PromptLookup(vocab_limit=50), [1, 2, 50, 1, 2]) is None
    assert proposed(PromptLookup(vocab_limit=51), [1, 2, 50, 1, 2]) == 50


def test_confidence_rises_with_the_length_of_the_match() -> None:
    chances = [
        PromptLookup(longest=5, shortest=1).propose([1, *range(10, 10 + n), 99, 2, *range(10, 10 + n)])
        for n in range(1, 6)
    ]
    confidences = [proposal.confidence for proposal in chances if proposal]
    assert len(confidences) == 5
    assert confidences == sorted(confidences)
    assert confidences[0] < confidences[2] < confidences[4]


def test_entropy_and_margin_are_those_of_a_geometric_distribution() -> None:
    proposal = PromptLookup().propose([1, 2, 3, 1, 2])
    assert proposal is not None
    p = proposal.confidence
    chances = [p * (1 - p) ** n for n in range(2000)]
    assert proposal.entropy == pytest.approx(-math.fsum(chance * math.log(chance) for chance in chances if chance))
    assert proposal.margin == pytest.approx(chances[0] - chances[1])


ASKED = [10, 20, 30, 10, 20]
"""After this, a match of two says 30."""


def draft_and_judge(lookup: PromptLookup, times: int, *, right: bool) -> float:
    """Let verdicts confirm the match (and replace a token behind it) or replace it; return the confidence then."""
    truth = 30 if right else 66
    for _ in range(times):
        lookup.propose(ASKED)
        lookup.propose([*ASKED, 30, 77])
        lookup.propose([*ASKED, truth, 88])
    lookup.propose([99])
    proposal = lookup.propose(ASKED)
    assert proposal is not None
    return proposal.confidence


def test_confidence_follows_what_verdicts_show() -> None:
    assert draft_and_judge(PromptLookup(), 0, right=True) == pytest.approx(0.45)
    assert draft_and_judge(PromptLookup(), 60, right=True) > 0.9
    assert draft_and_judge(PromptLookup(), 60, right=False) < 0.1


def test_confidence_old_observations_fade() -> None:
    lookup = PromptLookup()
    assert draft_and_judge(lookup, 1000, right=False) < 0.1
    assert draft_and_judge(lookup, 200, right=True) > 0.8


def test_confidence_does_not_take_its_own_draft_for_the_truth() -> None:
    """Drafting on and on without any verdict teaches nothing."""
    lookup = PromptLookup()
    sequence = [1, 2, 3, 1, 2, 3, 1, 2]
    confidences = set()
    for _ in range(50):
        proposal = lookup.propose(sequence)
        assert proposal is not None
        confidences.add(proposal.confidence)
        sequence.append(proposal.token)
    assert len(confidences) == 1


@pytest.mark.parametrize(("longest", "shortest"), [(1, 2), (4, 0)])
def test_lookup_of_impossible_lengths_is_refused(longest: int, shortest: int) -> None:
    with pytest.raises(ValueError, match=f"{shortest} to {longest} was given"):
        PromptLookup(longest=longest, shortest=shortest)


def test_the_index_holds_nothing_of_a_sequence_that_is_gone() -> None:
    """Many requests, one after the other, cost the memory of the last."""
    lookup = PromptLookup()
    for request in range(50):
        lookup.propose([request * 1000 + n for n in range(100)])
    assert len(lookup._ends) <= 3 * 100


def test_plain_lookup_of_the_tests_finds_the_same() -> None:
    assert plain_lookup([1, 2, 3, 4, 5, 3, 4, 9, 1, 2, 3, 4]) == 5
    assert plain_lookup([1, 2, 3]) is None
