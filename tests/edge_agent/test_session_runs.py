"""Rounds without a draft, runs, and the verifier's hints."""

from __future__ import annotations

from edge_agent.effects import Draft, StartTimer
from edge_agent.events import DrafterLost, TimerFired
from edge_agent.policy import FixedLength
from edge_agent.roundtrip import RoundTrip
from edge_agent.session import State
from schemas.messages import Sampling
from tests.edge_agent.machine import FIRST_TIMEOUT, PROMPT, awaiting, bundle, drafting, sent, verdict, wish


def test_nothing_to_propose_sends_what_is_there() -> None:
    machine = drafting(policy=FixedLength(4))
    effects = machine.draft(21, None)
    assert sent(effects) == [bundle(1, (21,))]
    assert machine.state() is State.AWAITING
    assert machine.wish is None, "nothing more can be drafted behind these tokens"


def test_nothing_to_propose_at_all_is_an_empty_draft_with_a_run() -> None:
    machine = drafting(run=6)
    assert sent(machine.draft(None)) == [bundle(1, (), run=6)]


def test_draft_asks_for_no_run() -> None:
    assert sent(drafting(run=6).draft(21, 22)) == [bundle(1, (21, 22))]


def test_run_stays_below_the_token_limit() -> None:
    machine = drafting(run=6, max_tokens=3)
    assert sent(machine.draft(None)) == [bundle(1, (), run=2)]


def test_drafting_goes_on_behind_new_tokens() -> None:
    machine = drafting(run=2)
    machine.draft(None)
    assert wish(1, (*PROMPT, 21, 22, 23)) in machine.tell(verdict(1, (21, 22, 23)))
    assert machine.state() is State.DRAFTING


def test_drafter_with_nothing_to_say_is_not_asked_again_while_waiting() -> None:
    machine = awaiting()
    assert machine.draft(None) == []
    assert not [effect for effect in machine.tell(TimerFired()) if isinstance(effect, Draft)]


def test_lost_drafter_leaves_runs() -> None:
    machine = drafting(run=6)
    assert sent(machine.tell(DrafterLost())) == [bundle(1, (), run=6)]
    timeout = RoundTrip().timeout()
    effects = machine.tell(verdict(1, (21, 22, 23, 24, 25, 26, 27), run_hint=3))
    after = (21, 22, 23, 24, 25, 26, 27)
    (following,) = sent(effects)
    assert (following.base, following.draft, following.run) == (len(after), (), 3)
    assert timeout == FIRST_TIMEOUT


def test_hint_never_asks_for_more_than_the_agent_wants() -> None:
    machine = drafting(run=4)
    machine.tell(DrafterLost())
    (following,) = sent(machine.tell(verdict(1, (21,), run_hint=100)))
    assert following.run == 4


def test_run_hint_does_not_turn_plain_sled_into_runs() -> None:
    machine = drafting()
    machine.tell(DrafterLost())
    (following,) = sent(machine.tell(verdict(1, (21,), run_hint=100)))
    assert following.run == 0


def test_timer_leaves_time_for_every_step_of_a_run() -> None:
    machine = drafting(run=50, max_tokens=200)
    machine.tell(DrafterLost())
    effects = machine.tell(verdict(1, (21,), step_time=100_000))
    (timer,) = [effect for effect in effects if isinstance(effect, StartTimer)]
    assert timer.delay >= 5.0


def test_tokens_of_runs_are_counted_apart() -> None:
    machine = drafting(run=2)
    machine.draft(None)
    machine.tell(verdict(1, (21, 22, 23)))
    machine.draft(24, 25)
    machine.tell(verdict(2, (24, 25, 26), after=(21, 22, 23), accepted=2))
    tally = machine.session.tally
    assert (tally.rounds, tally.drafted, tally.accepted, tally.generated) == (2, 2, 2, 2)


def test_draft_hint_ends_a_draft_early_until_the_next_verdict() -> None:
    machine = awaiting(policy=FixedLength(2))
    machine.tell(verdict(1, (21, 30), accepted=1, draft_hint=1))
    assert sent(machine.draft(31)) == [bundle(2, (31,), after=(21, 30), timeout=0.2)]
    machine.tell(verdict(2, (31, 40), after=(21, 30), accepted=1))
    assert sent(machine.draft(41)) == []
    assert len(sent(machine.draft(42))) == 1


def test_drafter_is_told_how_the_target_chooses_and_where() -> None:
    sampling = Sampling(0.8, 0, 0.95, 7)
    machine = drafting(sampling=sampling)
    machine.draft(21)
    assert machine.wish == Draft(0, (*PROMPT, 21), sampling, 1)
