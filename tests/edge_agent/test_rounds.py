"""What is remembered of rounds until they are answered; `test_session_learning` has what a policy is taught of them."""

from __future__ import annotations

from edge_agent.drafters.drafter import Proposal
from edge_agent.rounds import Asked, Rounds

ONE, TWO, THREE = (Asked(base, (Proposal(21, 0.9),)) for base in (1, 2, 3))


def test_rounds_are_numbered_from_one_and_over_epochs() -> None:
    rounds = Rounds()
    assert [rounds.begin(ONE), rounds.begin(TWO)] == [1, 2]
    rounds.forget()
    assert rounds.begin(THREE) == 3


def test_settled_round_and_all_before_it_are_forgotten() -> None:
    """A late verdict on one of them is told apart from the answer to it, and nothing piles up."""
    rounds = Rounds()
    for asked in (ONE, TWO, THREE):
        rounds.begin(asked)
    assert rounds.settle(2, 2) == TWO
    assert rounds.settle(2, 2) == Asked(2)
    assert rounds.settle(1, 1) == Asked(1)
    assert rounds.settle(3, 3) == THREE


def test_rounds_that_nobody_answers_do_not_pile_up() -> None:
    rounds = Rounds()
    first, *_ = (rounds.begin(ONE) for _ in range(64))
    assert rounds.settle(first, 1) == ONE
    first, *_ = (rounds.begin(ONE) for _ in range(65))
    assert rounds.settle(first, 7) == Asked(7)


def test_forgotten_rounds_are_not_known() -> None:
    rounds = Rounds()
    rounds.begin(ONE)
    rounds.forget()
    assert rounds.settle(1, 7) == Asked(7)
