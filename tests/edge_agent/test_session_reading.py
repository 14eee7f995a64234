"""The first rounds, while the drafter still reads the prompt."""

from __future__ import annotations

from edge_agent.effects import StartTimer
from edge_agent.events import Drafted, DrafterLost, LinkDown, LinkUp, Placed, TimerFired
from edge_agent.outage import OutageMode, OutageRules
from edge_agent.roundtrip import RoundTrip
from edge_agent.session import State
from tests.edge_agent.machine import NONCE, PROMPT, Machine, bundle, opened, resync, sent, terms, verdict, wish


def test_first_round_waits_for_no_draft_and_no_run() -> None:
    """The verifier reads the prompt while the drafter does, and its first token comes as early as it can."""
    machine = Machine(reading=True, run=6)
    effects = machine.tell(Placed(terms()))
    assert sent(effects) == [bundle(1, ())]
    assert machine.state() is State.AWAITING
    assert effects.index(wish(0, PROMPT)) > 0, "the drafter begins to read at the same time"


def test_what_was_drafted_meanwhile_goes_out_with_the_next_round() -> None:
    machine = opened()
    assert sent(machine.draft(21, 22, 23)) == []
    effects = machine.tell(verdict(1, (21,)))
    assert [one.draft for one in sent(effects)] == [(22, 23)]


def test_drafter_that_was_wrong_drafts_on_before_the_next_round() -> None:
    machine = opened()
    machine.draft(21, 22)
    assert sent(machine.tell(verdict(1, (30,)))) == []
    assert machine.state() is State.DRAFTING
    assert [one.draft for one in sent(machine.draft(31, 32))] == [(31, 32)]


def test_drafter_that_still_reads_is_not_waited_for() -> None:
    machine = opened(run=6)
    (second,) = sent(machine.tell(verdict(1, (30,))))
    assert (second.round, second.base, second.draft, second.run) == (2, 1, (), 6)
    assert machine.state() is State.AWAITING


def test_token_for_an_older_log_shows_that_the_prompt_is_read() -> None:
    machine = opened(run=6)
    old = machine.wish
    machine.tell(verdict(1, (30,)))
    assert old is not None
    assert sent(machine.tell(Drafted(old.branch, None))) == []
    assert sent(machine.tell(verdict(2, (31, 32), after=(30,)))) == []
    assert machine.state() is State.DRAFTING


def test_drafter_that_is_lost_while_it_reads_leaves_runs() -> None:
    machine = opened(run=6)
    assert sent(machine.tell(DrafterLost())) == []
    (second,) = sent(machine.tell(verdict(1, (30,))))
    assert (second.draft, second.run) == ((), 6)


def test_resend_of_the_first_round_carries_what_was_drafted_since() -> None:
    machine = opened()
    machine.draft(21)
    assert [(one.round, one.draft) for one in sent(machine.tell(TimerFired()))] == [(2, (21,))]


def test_link_that_comes_back_before_the_first_verdict_sends_again() -> None:
    machine = opened()
    machine.tell(LinkDown())
    assert [(one.round, one.draft) for one in sent(machine.tell(LinkUp()))] == [(2, ())]


def test_session_that_is_taken_up_again_begins_the_same_way() -> None:
    machine = Machine(reading=True, run=6, epoch=4, committed=(21, 22))
    (first,) = sent(machine.tell(Placed(terms())))
    assert (first.epoch.counter, first.epoch.nonce, first.base, first.draft, first.run) == (5, NONCE, 2, (), 0)


def test_timer_leaves_time_to_read_the_prompt_whatever_is_known_of_rounds_and_learns_nothing_of_it() -> None:
    machine = Machine(reading=True)
    assert StartTimer(2.0) in machine.tell(Placed(terms()))
    machine.draft(21, 22, 23)
    machine.now = 1.5
    assert StartTimer(0.2) in machine.tell(verdict(1, (21,)))


def test_timer_leaves_time_to_read_all_again() -> None:
    """A verifier that has lost the session, or another one."""
    machine = opened()
    machine.draft(21, 22, 23)
    assert StartTimer(0.2) in machine.tell(verdict(1, (21,)))
    assert StartTimer(2.0) in machine.tell(resync(number=2))
    assert StartTimer(2.0) in machine.tell(Placed(terms("v1")))


def test_late_verdict_of_before_does_not_say_that_all_was_read_again() -> None:
    machine = opened()
    machine.draft(21, 22, 23, 24, 25)
    machine.tell(verdict(1, (21,)))
    machine.tell(resync(number=2))
    machine.tell(verdict(2, (22, 23, 24), after=(21,), accepted=2))
    assert StartTimer(2.0) in machine.draft(26)


def test_link_that_goes_before_the_first_verdict_counts_like_any_other() -> None:
    """That it is away has nothing to do with reading."""
    known = RoundTrip()
    for _ in range(40):
        known.observe(0.01)
    machine = Machine(reading=True, roundtrip=known, outage=OutageRules(OutageMode.RELEASE))
    machine.tell(Placed(terms()))
    (timer,) = [effect for effect in machine.tell(LinkDown()) if isinstance(effect, StartTimer)]
    assert timer.delay < 1.0
