"""What a session tells its policy: what became of every draft, and how long a round took."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edge_agent.cost_aware import CostAware
from edge_agent.drafters.drafter import Proposal
from edge_agent.events import ContextLost, LinkDown, LinkUp, Placed, TimerFired
from edge_agent.policy import Outcome
from edge_agent.session import State
from tests.edge_agent.machine import END, Machine, awaiting, drafting, refusal, resync, sent, terms, verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge_agent.calibration import Calibration
    from edge_agent.events import Event


class Pupil:
    """Drafts as many tokens as it was told, drafts ahead while it may, and keeps what it is taught."""

    calibration: Calibration | None = None

    def __init__(self, length: int = 2, ahead: int = 100, worth: int = 100) -> None:
        self.max_draft = length
        self._worth = worth
        self.lessons: list[Outcome] = []
        self._ahead = ahead

    def enough(self, draft: Sequence[Proposal]) -> bool:
        return len(draft) >= self.max_draft

    def worth(self, draft: Sequence[Proposal]) -> int:
        return min(len(draft), self._worth)

    def ahead(self, draft: Sequence[Proposal]) -> bool:
        return len(draft) < self._ahead

    def learn(self, outcome: Outcome) -> None:
        self.lessons.append(outcome)


@pytest.fixture
def pupil() -> Pupil:
    return Pupil()


def lesson(
    proposals: tuple[Proposal, ...],
    accepted: int,
    committed: int,
    seconds: float | None = None,
    *,
    sent: int | None = None,
) -> Outcome:
    """What a round teaches whose draft was judged whole, unless `sent` says that it had more tokens."""
    return Outcome(proposals, accepted, committed, seconds, len(proposals) if sent is None else sent)


def drafts(*tokens: int) -> tuple[Proposal, ...]:
    """What the machine's drafter proposes."""
    return tuple(Proposal(token, 0.9) for token in tokens)


# What was accepted ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tokens", "accepted"), [((30,), 0), ((21, 30), 1), ((21, 22, 30), 2), ((21, 22, 23, 24), 2)])
def test_verdict_teaches_what_of_its_draft_was_accepted(pupil: Pupil, tokens: tuple[int, ...], accepted: int) -> None:
    machine = awaiting(23, 24, policy=pupil)
    machine.tell(verdict(1, tokens, accepted=accepted))
    assert pupil.lessons == [lesson(drafts(21, 22), accepted, len(tokens), None)]


def test_verdict_is_believed_by_its_tokens_not_by_its_count(pupil: Pupil) -> None:
    awaiting(policy=pupil).tell(verdict(1, (21, 30), accepted=1000))
    assert pupil.lessons == [lesson(drafts(21, 22), 1, 2)]


def test_last_verdict_teaches_too(pupil: Pupil) -> None:
    awaiting(policy=pupil).tell(verdict(1, (21, END), accepted=1, finish="stop"))
    assert pupil.lessons == [lesson(drafts(21, 22), 1, 2)]


def test_draft_cut_by_the_token_limit_was_not_rejected_where_it_was_cut(pupil: Pupil) -> None:
    """A verifier may allow fewer tokens than the agent, or split what it has to say."""
    awaiting(policy=pupil).tell(verdict(1, (21,), accepted=1, finish="length"))
    assert pupil.lessons == [lesson(drafts(21), 1, 1, sent=2)]


def test_draft_cut_by_an_end_token_was_not_rejected_behind_it(pupil: Pupil) -> None:
    """The target may know more end tokens than it has told."""
    awaiting(policy=pupil).tell(verdict(1, (21,), accepted=1, finish="stop"))
    assert pupil.lessons == [lesson(drafts(21), 1, 1, sent=2)]


def test_verdict_without_a_draft_teaches_that_there_was_none(pupil: Pupil) -> None:
    machine = drafting(policy=pupil, run=4)
    machine.draft(None)
    machine.tell(verdict(1, (21, 22, 23)))
    assert pupil.lessons == [lesson((), 0, 3)]


def test_verdict_that_adds_nothing_teaches_nothing(pupil: Pupil) -> None:
    machine = awaiting(policy=pupil)
    machine.tell(verdict(1, (21, 30), accepted=1))
    machine.tell(verdict(1, (21, 30), accepted=1))
    machine.tell(verdict(1, (21, 30), accepted=1, epoch=0))
    assert len(pupil.lessons) == 1


# Which round was answered ---------------------------------------------------------------------------------------------


def test_answer_to_the_first_sending_is_about_the_draft_of_the_first_sending(pupil: Pupil) -> None:
    machine = awaiting(23, policy=pupil)
    machine.tell(TimerFired())  # round 2 carries the extra
    machine.tell(verdict(1, (21, 22, 30), accepted=2))
    assert pupil.lessons == [lesson(drafts(21, 22), 2, 3)]


def test_answer_to_the_resend_is_about_its_extras_too(pupil: Pupil) -> None:
    machine = awaiting(23, policy=pupil)
    machine.tell(TimerFired())
    machine.tell(verdict(2, (21, 22, 30), accepted=2))
    assert pupil.lessons == [lesson(drafts(21, 22, 23), 2, 3)]


def test_late_answer_to_an_earlier_round_teaches_no_draft(pupil: Pupil) -> None:
    machine = awaiting(policy=pupil)
    machine.tell(TimerFired())
    machine.tell(verdict(2, (21, 30)))
    machine.tell(verdict(1, (21, 30, 31)))
    assert pupil.lessons == [lesson(drafts(21, 22), 1, 2), lesson((), 0, 1)]


def test_answer_that_overlaps_the_log_teaches_only_what_it_adds(pupil: Pupil) -> None:
    """Rounds 1 and 2 have the same base. Each token is judged once, and 24, which round 3 sent too, in round 2."""
    machine = awaiting(23, 24, policy=pupil)
    machine.tell(TimerFired())
    machine.tell(verdict(1, (21, 22, 23), accepted=2))
    machine.draft(25)
    machine.tell(verdict(2, (21, 22, 23, 24, 26), accepted=4))
    machine.tell(verdict(3, (24, 26, 27), after=(21, 22, 23), accepted=1))
    assert pupil.lessons == [
        lesson(drafts(21, 22), 2, 3),
        lesson(drafts(24), 1, 2, sent=4),
        lesson((), 0, 1, sent=2),
    ]


def test_answer_that_overlaps_a_log_which_contradicts_its_draft_teaches_nothing_of_it(pupil: Pupil) -> None:
    """What the draft continues was never the log, so that nothing of the rest was judged, whatever it looks like."""
    machine = awaiting(23, 24, policy=pupil)
    machine.tell(TimerFired())
    machine.tell(verdict(1, (21, 30), accepted=1))
    machine.tell(verdict(2, (21, 30, 23, 24), accepted=1))
    assert pupil.lessons == [lesson(drafts(21, 22), 1, 2), lesson((), 0, 2, sent=4)]


def test_answer_from_another_base_than_was_asked_for_is_read_at_the_place_of_the_draft(pupil: Pupil) -> None:
    """The draft begins with the very token that the log ends with."""
    machine = awaiting(policy=pupil)
    machine.tell(verdict(1, (21, 22, 23), accepted=2))
    machine.draft(23, 25)
    machine.tell(verdict(2, (23, 25, 26), after=(21, 22), accepted=0))
    assert pupil.lessons[1:] == [lesson(drafts(23, 25), 0, 2, 0.0)]


# How long it took -----------------------------------------------------------------------------------------------------


def second_round(pupil: Pupil, *extras: int) -> Machine:
    """A machine whose first verdict was taken in at 10 s, and whose second round was sent at 11 s."""
    machine = awaiting(policy=pupil)
    machine.now = 10.0
    machine.tell(verdict(1, (21, 30), accepted=1))
    machine.draft(31)
    machine.now = 11.0
    machine.draft(32, *extras)
    assert machine.state() is State.AWAITING
    pupil.lessons.clear()
    return machine


def answered(machine: Machine, number: int = 2) -> None:
    machine.now = 12.5
    machine.tell(verdict(number, (31, 40), after=(21, 30), accepted=1))


def test_round_lasts_from_verdict_to_verdict(pupil: Pupil) -> None:
    answered(second_round(pupil))
    assert pupil.lessons == [lesson(drafts(31, 32), 1, 2, 2.5)]


def test_round_tells_what_the_target_took_of_it(pupil: Pupil) -> None:
    machine = second_round(pupil)
    machine.now = 12.5
    machine.tell(verdict(2, (31, 40), after=(21, 30), accepted=1, step_time=80_000))
    assert [(each.seconds, each.sent, each.step) for each in pupil.lessons] == [(2.5, 2, 0.08)]


def test_step_of_a_round_that_opens_an_epoch_says_nothing(pupil: Pupil) -> None:
    awaiting(policy=pupil).tell(verdict(1, (21, 30), accepted=1, step_time=80_000))
    assert [each.step for each in pupil.lessons] == [None]


def test_round_that_opens_an_epoch_is_not_timed_since_the_prompt_is_read_in_it(pupil: Pupil) -> None:
    machine = awaiting(policy=pupil)
    machine.now = 10.0
    machine.tell(verdict(1, (21, 30), accepted=1))
    assert [lesson.seconds for lesson in pupil.lessons] == [None]


DISTURBANCES: dict[str, tuple[tuple[Event, ...], int]] = {
    "resent": ((TimerFired(),), 3),
    "resent, the first sending answered": ((TimerFired(),), 2),
    "refused for now": ((refusal(number=2, retry_after=1), TimerFired()), 3),
    "outage": ((LinkDown(), LinkUp()), 3),
    "outage, answered while it lasts": ((LinkDown(),), 2),
    "resync": ((resync(number=2),), 3),
    "verifier started again": ((Placed(terms(boot="2")),), 3),
}


@pytest.mark.parametrize(("events", "number"), DISTURBANCES.values(), ids=DISTURBANCES)
def test_round_that_was_disturbed_is_not_timed_but_the_one_after_it_is(
    pupil: Pupil, events: tuple[Event, ...], number: int
) -> None:
    machine = second_round(pupil)
    for event in events:
        machine.tell(event)
    answered(machine, number)
    assert pupil.lessons == [lesson(drafts(31, 32), 1, 2, None)]
    if machine.state() is State.OUTAGE:
        return
    machine.draft(41, 42)
    machine.now = 13.0
    machine.tell(verdict(4, (41, 50), after=(21, 30, 31, 40), accepted=1))
    assert pupil.lessons[1:] == [lesson(drafts(41, 42), 1, 2, 0.5)]


@pytest.mark.parametrize(
    "event", [resync(number=2), ContextLost(), Placed(terms("v1"))], ids=lambda e: type(e).__name__
)
def test_round_whose_draft_was_disturbed_before_it_was_sent_is_not_timed(pupil: Pupil, event: Event) -> None:
    machine = awaiting(policy=pupil)
    machine.now = 10.0
    machine.tell(verdict(1, (21, 30), accepted=1))
    machine.draft(31)
    machine.tell(event)
    epoch = machine.session.epoch.counter
    machine.draft(32)
    machine.now = 12.0
    machine.tell(verdict(2, (31, 40), after=(21, 30), accepted=1, epoch=epoch))
    assert pupil.lessons[1:] == [lesson(drafts(31, 32), 1, 2, None)]


def test_round_after_an_outage_while_drafting_is_not_timed(pupil: Pupil) -> None:
    machine = awaiting(policy=pupil)
    machine.tell(verdict(1, (21, 30), accepted=1))
    machine.draft(31)
    machine.tell(LinkDown())
    machine.now = 100.0
    machine.tell(LinkUp())
    machine.draft(32)
    machine.tell(verdict(2, (31, 40), after=(21, 30), accepted=1))
    assert pupil.lessons[1:] == [lesson(drafts(31, 32), 1, 2, None)]


# What is worth sending ------------------------------------------------------------------------------------------------


def test_what_is_not_worth_it_stays_behind_and_may_be_the_next_draft() -> None:
    pupil = Pupil(3, worth=1)
    machine = drafting(policy=pupil)
    machine.draft(21, 22)
    assert [each.draft for each in sent(machine.draft(23))] == [(21,)]
    machine.tell(verdict(1, (21, 22), accepted=1))
    assert [each.draft for each in sent(machine.draft(24, 25))] == [(23,)]
    assert pupil.lessons == [lesson(drafts(21), 1, 2)]


def test_resend_carries_all() -> None:
    machine = drafting(policy=Pupil(3, worth=1))
    machine.draft(21, 22, 23)
    assert [each.draft for each in sent(machine.tell(TimerFired()))] == [(21, 22, 23)]


# Drafting ahead -------------------------------------------------------------------------------------------------------


def test_extras_are_drafted_while_the_policy_wants_them() -> None:
    machine = awaiting(23, policy=Pupil(2, ahead=4))
    assert machine.draft(24) == []
    assert machine.wish is None


def test_outage_drafts_ahead_while_the_policy_wants_it() -> None:
    machine = awaiting(policy=Pupil(2, ahead=4))
    machine.tell(LinkDown())
    machine.draft(23, 24)
    assert machine.wish is None


def test_no_extras_are_drafted_where_the_policy_wants_none_and_the_next_draft_is_drafted_all_the_same() -> None:
    machine = drafting(policy=Pupil(2, ahead=0))
    machine.draft(21, 22)
    assert machine.wish is None
    machine.tell(verdict(1, (21, 22, 23), accepted=2))
    machine.draft(24, 25)
    assert machine.state() is State.AWAITING


def test_cost_aware_policy_learns_from_a_session() -> None:
    policy = CostAware()
    machine = drafting(policy=policy)
    before = policy.calibration.mean("", sampled=False)
    machine.draft(21, 22, 23, 24)
    machine.tell(verdict(1, (21, 22, 23, 24, 25), accepted=4))
    assert policy.calibration.mean("", sampled=False) > before
