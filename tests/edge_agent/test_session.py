"""The agent's half of a session, read as its specification: what every event does in every state.

`machine.py` sets the scene: a prompt of three tokens, an answer of at most 20, drafts of two tokens (five with extras).
"""

from __future__ import annotations

from collections import defaultdict
from random import Random
from typing import TYPE_CHECKING, get_args

import pytest
from msgspec.structs import replace

from edge_agent.drafters.drafter import Proposal
from edge_agent.effects import (
    ClearContext,
    Doubt,
    Effect,
    Emit,
    Failed,
    Finished,
    Persist,
    PublishContext,
    PublishDraft,
    StartTimer,
    StopTimer,
)
from edge_agent.events import (
    Cancelled,
    ContextLost,
    Drafted,
    DrafterLost,
    Event,
    LinkDown,
    LinkUp,
    Placed,
    StopFound,
    TimerFired,
    Unplaced,
)
from edge_agent.outage import STALL
from edge_agent.policy import Confidence, FixedLength
from edge_agent.roundtrip import RoundTrip
from edge_agent.session import LEAST_PUT_OFF, TRANSITIONS, Session, State
from schemas.limits import MAX_DRAFT_TOKENS
from schemas.messages import Epoch, Refusal, Resync, StopRules, Verdict
from tests.edge_agent.machine import (
    END,
    FIRST_TIMEOUT,
    MAX_TOKENS,
    NONCE,
    OTHER_NONCE,
    PROMPT,
    VOCABULARY,
    Machine,
    awaiting,
    bundle,
    context,
    cut_off,
    drafting,
    finished,
    refusal,
    resync,
    sent,
    terms,
    verdict,
    wish,
)
from tests.edge_agent.shell import SAMPLES, Shell

if TYPE_CHECKING:
    from collections.abc import Callable

    from schemas.messages import FinishReason

ACTIVE = {"drafting": drafting, "awaiting": awaiting, "outage": cut_off}
"""How to come to each state between placement and the end."""
EVERY = {"queued": Machine, **ACTIVE}


# Placed: a verifier was found ----------------------------------------------------------------------------------------


def test_placed_queued_makes_the_epoch_durable_then_publishes_the_context_then_drafts() -> None:
    machine = Machine()
    assert machine.tell(Placed(terms())) == [
        Persist(1, 0),
        PublishContext(context()),
        StopTimer(),
        wish(0, PROMPT),
    ]
    assert machine.state() is State.DRAFTING
    assert machine.session.verifier == "v0"
    assert machine.session.epoch == Epoch(1, NONCE)


def test_placed_queued_without_link_prepares_everything_and_stalls() -> None:
    """The context goes to the shell all the same: it is published once the link is up."""
    machine = Machine(link_up=False)
    assert machine.tell(Placed(terms())) == [Persist(1, 0), PublishContext(context()), StopTimer(), wish(0, PROMPT)]
    assert machine.state() is State.OUTAGE


def test_placed_queued_after_a_restart_continues_the_log_in_a_higher_epoch() -> None:
    machine = Machine(epoch=4, committed=(21, 22))
    assert machine.tell(Placed(terms())) == [
        Persist(5, 2),
        PublishContext(context(5, committed=(21, 22))),
        StopTimer(),
        wish(0, (*PROMPT, 21, 22)),
    ]
    assert sent(machine.draft(23, 24)) == [bundle(1, (23, 24), after=(21, 22), epoch=5)]


def test_placed_queued_after_a_restart_with_all_tokens_ends_durably_before_it_clears() -> None:
    machine = Machine(epoch=4, committed=(21, 22, 23), max_tokens=3)
    effects = machine.tell(Placed(terms()))
    assert effects[-4:] == [Persist(4, 3, finish="length"), StopTimer(), ClearContext(), Finished("length")]
    assert machine.state() is State.FINISHED


def test_placed_queued_with_room_for_one_token_asks_the_target_with_an_empty_draft() -> None:
    machine = Machine(max_tokens=1)
    assert machine.tell(Placed(terms())) == [
        Persist(1, 0),
        PublishContext(context(max_tokens=1)),
        PublishDraft("v0", bundle(1, ())),
        StartTimer(FIRST_TIMEOUT),
    ]
    assert machine.state() is State.AWAITING


def test_placed_queued_where_the_context_is_short_asks_for_fewer_tokens() -> None:
    machine = Machine()
    assert PublishContext(context(max_tokens=5)) in machine.tell(Placed(terms(context_length=8)))


def test_placed_queued_with_a_length_that_an_earlier_run_settled_waits_for_a_verifier_that_can_hold_it() -> None:
    machine = Machine(epoch=3, committed=(21, 22), room=5)
    for context_length in (2, 5, 7):
        assert machine.tell(Placed(terms(context_length=context_length))) == []
        assert machine.state() is State.QUEUED
    published = PublishContext(context(4, committed=(21, 22), max_tokens=5))
    assert published in machine.tell(Placed(terms(context_length=200))), "no more than was settled"


def test_placed_queued_with_all_the_tokens_that_were_settled_ends() -> None:
    machine = Machine(epoch=3, committed=(21, 22), room=2)
    assert machine.tell(Placed(terms(context_length=200)))[-1] == Finished("length")


def test_placed_queued_with_an_empty_prompt_fails() -> None:
    machine = Machine(prompt=())
    assert machine.tell(Placed(terms())) == [
        StopTimer(),
        Persist(0, 0, finish="failed"),
        Failed("empty_prompt", "the prompt has no tokens: ask something"),
    ]
    assert machine.state() is State.FINISHED


@pytest.mark.parametrize("context_length", [0, 2, 3])
def test_placed_queued_with_a_prompt_that_leaves_no_room_fails_naming_both_lengths(context_length: int) -> None:
    machine = Machine()
    *_, failed = machine.tell(Placed(terms(context_length=context_length)))
    assert isinstance(failed, Failed)
    assert failed.code == "prompt_too_long"
    assert "the prompt has 3 tokens" in failed.sentence
    assert f"takes {context_length} " in failed.sentence
    assert machine.state() is State.FINISHED


def test_placed_queued_with_a_prompt_of_another_vocabulary_fails_naming_the_token() -> None:
    machine = Machine(prompt=(11, VOCABULARY, 12))
    *_, failed = machine.tell(Placed(terms()))
    assert isinstance(failed, Failed)
    assert failed.code == "token_out_of_vocabulary"
    assert f"token {VOCABULARY}," in failed.sentence


def test_placed_queued_that_fails_clears_what_an_earlier_run_retained() -> None:
    effects = Machine(epoch=4, prompt=()).tell(Placed(terms()))
    assert effects[:3] == [StopTimer(), Persist(4, 0, finish="failed"), ClearContext()]


@pytest.mark.parametrize("start", ACTIVE.values(), ids=ACTIVE.keys())
def test_placed_again_on_the_same_run_of_the_same_verifier_changes_nothing(start: Callable[[], Machine]) -> None:
    """Verifiers announce themselves every few seconds."""
    machine = start()
    before = machine.state()
    assert machine.tell(Placed(terms())) == []
    assert machine.state() is before


def test_placed_again_with_a_longer_round_time_is_heeded_by_the_next_timer() -> None:
    machine = awaiting()
    machine.tell(Placed(terms(round_time=7.0)))
    assert StartTimer(14.0) in machine.tell(TimerFired())


def test_placed_on_another_verifier_makes_a_higher_epoch_durable_before_its_context_and_bundle() -> None:
    machine = awaiting()
    machine.tell(verdict(1, (21, 22, 23)))
    machine.draft(24, 25)
    assert machine.tell(Placed(terms("v1"))) == [
        Persist(2, 3),
        PublishContext(context(2, committed=(21, 22, 23), owner="v1")),
        PublishDraft("v1", bundle(3, (24, 25), after=(21, 22, 23), epoch=2)),
        StartTimer(FIRST_TIMEOUT),
    ]
    assert machine.state() is State.AWAITING
    assert machine.session.verifier == "v1"


def test_placed_on_another_verifier_starts_with_revision_0_and_a_round_that_does_not_count() -> None:
    """The new verifier reads the whole log in it, so its time says nothing of others."""
    machine = awaiting()
    machine.tell(resync())
    assert sent(machine.tell(Placed(terms("v1")))) == [bundle(3, (21, 22), epoch=2)]
    assert machine.session.tally.resends == 1  # the answer to the Resync
    machine.now = 1.0
    machine.tell(verdict(3, (21, 30), epoch=2))
    machine.draft(31)
    assert StartTimer(0.2) in machine.draft(32)


def test_placed_on_another_verifier_with_nothing_drafted_goes_on_drafting() -> None:
    machine = drafting()
    assert machine.tell(Placed(terms("v1"))) == [Persist(2, 0), PublishContext(context(2, owner="v1")), StopTimer()]
    assert machine.state() is State.DRAFTING


def test_placed_on_another_verifier_without_link_stalls_in_the_new_epoch() -> None:
    machine = cut_off()
    assert machine.tell(Placed(terms("v1"))) == [Persist(2, 0), PublishContext(context(2, owner="v1")), StopTimer()]
    assert machine.state() is State.OUTAGE


def test_placed_on_another_verifier_ignores_what_the_old_one_still_says() -> None:
    machine = awaiting()
    machine.tell(Placed(terms("v1")))
    assert machine.tell(verdict(1, (21, 22, 23))) == []
    assert machine.committed == ()


def test_placed_on_a_verifier_that_was_restarted_sends_again_in_the_same_epoch() -> None:
    """It has read the retained context by itself."""
    machine = awaiting(23)
    assert machine.tell(Placed(terms(boot="2"))) == [
        PublishDraft("v0", bundle(2, (21, 22, 23))),
        StartTimer(FIRST_TIMEOUT),
    ]
    assert machine.state() is State.AWAITING


def test_placed_on_a_verifier_that_was_restarted_goes_on_with_a_draft_begun() -> None:
    machine = drafting()
    machine.draft(21)
    assert machine.tell(Placed(terms(boot="2"))) == [StopTimer()]
    assert machine.state() is State.DRAFTING
    assert sent(machine.draft(22)) == [bundle(1, (21, 22))]


def test_placed_after_the_verifier_was_gone_sends_again() -> None:
    machine = awaiting()
    machine.tell(Unplaced())
    assert sent(machine.tell(Placed(terms()))) == [bundle(2, (21, 22))]
    assert machine.state() is State.AWAITING


# Placed at leisure: the verifier in use drains, and still answers -----------------------------------------------------

LEAVING = Placed(terms("v1"), at_leisure=True)


def leaving(since: float = FIRST_TIMEOUT) -> Machine:
    """To be served by v1 from the next verdict on, which has read ahead for so many seconds."""
    machine = awaiting()
    assert machine.tell(LEAVING) == [PublishContext(context(successor="v1"))]
    machine.now += since
    return machine


def read_in(seconds: float) -> Machine:
    """Awaiting its second verdict; the first, for which the prompt was read, took so many seconds."""
    machine = awaiting()
    machine.now = seconds
    machine.tell(verdict(1, (21, 30), accepted=1))
    machine.draft(31, 32)
    return machine


def test_placed_at_leisure_moves_with_a_verdict_once_the_next_verifier_can_have_read() -> None:
    machine = leaving()
    assert machine.session.verifier == "v0"
    machine.draft(23, 24)
    assert machine.tell(verdict(1, (21, 22, 23), accepted=2)) == [
        Persist(1, 0, (21, 22, 23)),
        Emit(0, (21, 22, 23)),
        Persist(2, 3),
        PublishContext(context(2, committed=(21, 22, 23), owner="v1")),
        StopTimer(),
    ]
    assert machine.session.verifier == "v1"
    assert sent(machine.draft(25)) == [bundle(2, (24, 25), after=(21, 22, 23), epoch=2)]
    assert machine.session.tally.resends == 0


def test_placed_at_leisure_is_served_on_until_then() -> None:
    machine = leaving(since=FIRST_TIMEOUT / 2)
    machine.tell(verdict(1, (21, 30), accepted=1))
    machine.draft(31, 32)
    assert machine.session.verifier == "v0"
    assert machine.tell(LEAVING) == [], "announced again"
    machine.now += FIRST_TIMEOUT / 2
    machine.tell(verdict(2, (31, 32, 33), after=(21, 30), accepted=2))
    assert machine.session.verifier == "v1"


def test_placed_at_leisure_allows_the_time_that_the_first_round_took_for_every_token_it_read() -> None:
    """Here 0.5 s for the three of the prompt, so that five take less than a second."""
    machine = read_in(0.5)
    machine.tell(LEAVING)
    machine.now += 5 * 0.5 / 3 - 0.01
    machine.tell(verdict(2, (31, 40), after=(21, 30), accepted=1))
    assert machine.session.verifier == "v0"
    machine.draft(41, 42)
    machine.now += 0.02
    machine.tell(verdict(3, (41, 50), after=(21, 30, 31, 40), accepted=1))
    assert machine.session.verifier == "v1"


def test_placed_at_leisure_while_drafting_asks_the_verifier_that_drains_once_more() -> None:
    machine = drafting()
    assert machine.tell(LEAVING) == [PublishContext(context(successor="v1"))]
    assert sent(machine.draft(21, 22)) == [bundle(1, (21, 22))]


def test_placed_at_leisure_moves_once_a_round_goes_unanswered() -> None:
    assert leaving(since=0.0).tell(TimerFired())[:2] == [Persist(2, 0), PublishContext(context(2, owner="v1"))]


def test_placed_at_leisure_moves_when_a_round_is_put_off() -> None:
    machine = leaving(since=0.0)
    assert machine.tell(refusal(number=1, retry_after=1_000_000))[0] == Persist(2, 0)
    assert machine.session.verifier == "v1"


def test_placed_at_leisure_moves_at_once_where_nothing_is_served() -> None:
    put_off = awaiting()
    put_off.tell(refusal(number=1, retry_after=1_000_000))
    for machine in (cut_off(), put_off):
        assert machine.tell(LEAVING)[0] == Persist(2, 0)


def test_placed_at_leisure_moves_at_once_when_the_verifier_that_drains_has_ended() -> None:
    assert leaving(since=0.0).tell(Placed(terms("v1")))[0] == Persist(2, 0)


def test_placed_at_leisure_stays_where_the_next_verifier_is_gone_again() -> None:
    machine = leaving()
    assert machine.tell(Placed(terms())) == []
    machine.tell(verdict(1, (21, 22, 23)))
    assert machine.session.verifier == "v0"


def test_placed_at_leisure_forgets_a_next_verifier_that_is_gone_with_all_others() -> None:
    machine = leaving()
    machine.tell(Unplaced())
    machine.tell(verdict(1, (21, 22, 23)))
    assert machine.session.verifier == "v0"


def test_placed_at_leisure_allows_a_second_reading_as_long_as_the_first_whole_one() -> None:
    """What the first round at a verifier that had read ahead took says nothing of reading."""
    machine = read_in(0.3)
    for number, (old, new) in enumerate((("v0", "v1"), ("v1", "v2"))):
        after = machine.committed
        machine.tell(Placed(terms(new), at_leisure=True))
        machine.now += 0.1
        machine.tell(verdict(2 + 2 * number, (31, 40), after=after, accepted=1, epoch=1 + number))
        assert machine.session.verifier == old
        machine.draft(31, 32)
        machine.now += 2.0
        after = machine.committed
        machine.tell(verdict(3 + 2 * number, (31, 40), after=after, accepted=1, epoch=1 + number))
        assert machine.session.verifier == new
        machine.draft(31, 32)


def test_placed_at_leisure_has_a_third_verifier_read_where_the_second_drains_too() -> None:
    machine = leaving()
    (published,) = machine.tell(Placed(terms("v2"), at_leisure=True))
    assert published == PublishContext(context(successor="v2"))
    machine.tell(verdict(1, (21, 22, 23)))
    assert machine.session.verifier == "v0", "it has had no time"


def test_placed_at_leisure_ends_with_the_verifier_that_drains_if_that_round_ends_the_text() -> None:
    machine = leaving()
    assert machine.tell(verdict(1, (21, END), finish="stop"))[-1] == Finished("stop")
    assert machine.session.verifier == "v0"


def test_placed_at_leisure_survives_a_link_that_goes_and_comes_back() -> None:
    machine = leaving()
    machine.tell(LinkDown())
    assert sent(machine.tell(LinkUp())) == [bundle(2, (21, 22))]
    machine.tell(verdict(1, (21, 22, 23)))
    assert machine.session.verifier == "v1"


def test_placed_at_leisure_names_the_next_verifier_in_a_new_revision_too() -> None:
    machine = leaving()
    assert machine.tell(resync())[0] == PublishContext(context(revision=1, successor="v1"))


# Unplaced: the verifier is gone and no other is known -----------------------------------------------------------------


def test_unplaced_queued_goes_on_waiting() -> None:
    machine = Machine()
    assert machine.tell(Unplaced()) == []
    assert machine.state() is State.QUEUED


@pytest.mark.parametrize("start", ACTIVE.values(), ids=ACTIVE.keys())
def test_unplaced_stops_the_timer_and_stalls(start: Callable[[], Machine]) -> None:
    machine = start()
    assert machine.tell(Unplaced()) == [StopTimer()]
    assert machine.state() is State.OUTAGE


def test_unplaced_and_link_down_takes_both_back_before_anything_is_sent() -> None:
    machine = cut_off()
    machine.tell(Unplaced())
    assert machine.tell(LinkUp()) == [PublishContext(context()), StopTimer()]
    assert machine.state() is State.OUTAGE
    assert sent(machine.tell(Placed(terms()))) == [bundle(2, (21, 22))]


# Link -----------------------------------------------------------------------------------------------------------------


def test_link_down_and_up_queued_is_only_noted() -> None:
    machine = Machine()
    assert machine.tell(LinkDown()) == []
    assert machine.state() is State.QUEUED
    assert machine.tell(LinkUp()) == []
    machine.tell(Placed(terms()))
    assert machine.state() is State.DRAFTING


@pytest.mark.parametrize("start", ACTIVE.values(), ids=ACTIVE.keys())
def test_link_down_stops_the_timer_and_stalls(start: Callable[[], Machine]) -> None:
    machine = start()
    assert machine.tell(LinkDown()) == [StopTimer()]
    assert machine.state() is State.OUTAGE


def test_link_down_goes_on_drafting_up_to_the_longest_draft() -> None:
    machine = cut_off()
    assert machine.draft(23, 24) == [wish(0, (*PROMPT, 21, 22, 23)), wish(0, (*PROMPT, 21, 22, 23, 24))]
    assert machine.draft(25) == []
    assert machine.state() is State.OUTAGE


def test_link_up_publishes_the_context_unchanged_and_sends_again_with_the_extras() -> None:
    """The broker may have lost what it retained. A context need not keep up with the log: digests do."""
    machine = awaiting()
    machine.tell(verdict(1, (21, 22, 23)))
    machine.draft(24, 25)
    machine.tell(LinkDown())
    machine.draft(26)
    assert machine.tell(LinkUp()) == [
        PublishContext(context()),
        PublishDraft("v0", bundle(3, (24, 25, 26), after=(21, 22, 23), timeout=0.2)),
        StartTimer(0.2),
    ]
    assert machine.state() is State.AWAITING
    assert machine.session.tally.resends == 1


def test_link_up_drafting_publishes_the_context_and_goes_on() -> None:
    """A link can come back before anybody noticed that it was gone."""
    machine = drafting()
    assert machine.tell(LinkUp()) == [PublishContext(context()), StopTimer()]
    assert machine.state() is State.DRAFTING


def test_link_up_awaiting_sends_again() -> None:
    machine = awaiting()
    assert sent(machine.tell(LinkUp())) == [bundle(2, (21, 22))]


def test_link_up_after_it_broke_while_drafting_sends_what_there_is_if_it_is_enough() -> None:
    machine = drafting()
    machine.draft(21)
    machine.tell(LinkDown())
    machine.draft(22, 23)
    assert sent(machine.tell(LinkUp())) == [bundle(1, (21, 22, 23))]
    assert machine.session.tally.resends == 0


def test_link_up_after_it_broke_while_drafting_goes_on_with_a_draft_begun() -> None:
    machine = drafting()
    machine.draft(21)
    machine.tell(LinkDown())
    machine.tell(LinkUp())
    assert machine.state() is State.DRAFTING
    assert sent(machine.draft(22)) == [bundle(1, (21, 22))]


def test_link_up_after_it_broke_with_nothing_drafted_drafts() -> None:
    machine = drafting()
    machine.tell(LinkDown())
    machine.tell(LinkUp())
    assert machine.state() is State.DRAFTING


# Drafted --------------------------------------------------------------------------------------------------------------


def test_drafted_short_of_the_policy_drafts_on() -> None:
    machine = drafting()
    assert machine.draft(21) == [wish(0, (*PROMPT, 21))]
    assert machine.state() is State.DRAFTING


def test_drafted_enough_sends_the_bundle_and_drafts_on_while_waiting() -> None:
    machine = drafting()
    machine.draft(21)
    assert machine.draft(22) == [
        PublishDraft("v0", bundle(1, (21, 22))),
        StartTimer(FIRST_TIMEOUT),
        wish(0, (*PROMPT, 21, 22)),
    ]
    assert machine.state() is State.AWAITING


def test_drafted_unsure_ends_the_draft_where_the_policy_says_so() -> None:
    machine = drafting(policy=Confidence(0.5))
    assert sent(machine.tell(Drafted(0, Proposal(21, 0.4)))) == [bundle(1, (21,))]


def test_drafted_while_waiting_is_kept_until_the_longest_draft_is_there() -> None:
    machine = awaiting()
    assert machine.session.longest_draft == 5
    assert machine.draft(23, 24) == [wish(0, (*PROMPT, 21, 22, 23)), wish(0, (*PROMPT, 21, 22, 23, 24))]
    assert machine.draft(25) == []


@pytest.mark.parametrize("start", ACTIVE.values(), ids=ACTIVE.keys())
def test_drafted_on_a_branch_given_up_is_dropped(start: Callable[[], Machine]) -> None:
    machine = start()
    before = machine.state()
    assert machine.tell(Drafted(7, Proposal(21, 0.9))) == []
    assert machine.state() is before


@pytest.mark.parametrize(
    ("stop", "token"),
    [(StopRules(), END), (StopRules((33,)), 33), (StopRules((33,), ignore_end=True), 33)],
)
def test_drafted_end_of_the_text_is_sent_and_nothing_drafted_after_it(stop: StopRules, token: int) -> None:
    machine = drafting(stop=stop)
    (effect, timer) = machine.draft(token)
    assert sent([effect]) == [bundle(1, (token,))]
    assert timer == StartTimer(FIRST_TIMEOUT)


def test_drafted_end_token_that_shall_be_ignored_is_a_token_like_any_other() -> None:
    assert drafting(stop=StopRules(ignore_end=True)).draft(END) == [wish(0, (*PROMPT, END))]


@pytest.mark.parametrize("most", range(1, 12))
def test_drafted_never_reaches_the_last_place_which_is_the_targets(most: int) -> None:
    """With a target that agrees to everything, and a drafter that always is ahead."""
    text = tuple(range(50, 50 + most))
    machine = Machine(max_tokens=most, policy=FixedLength(4))
    machine.tell(Placed(terms()))
    while machine.state() is not State.FINISHED:
        effects: list[Effect] = []
        while machine.wish is not None:
            position = len(machine.wish.sequence) - len(PROMPT)
            assert position < most - 1
            effects += machine.draft(text[position])
        base = len(machine.committed)
        for offered in sent(effects):
            assert offered.base + len(offered.draft) <= most - 1
        new = text[base : base + 5]
        end: FinishReason | None = "length" if base + len(new) == most else None
        machine.tell(verdict(99, new, after=text[:base], accepted=len(new) - 1, finish=end))
    assert machine.committed == text


def test_drafted_to_the_limit_sends_less_than_the_policy_wants() -> None:
    machine = drafting(max_tokens=3, policy=FixedLength(8))
    assert sent(machine.draft(21, 22)) == [bundle(1, (21, 22))]
    assert machine.wish is None


def test_drafted_last_place_is_asked_for_with_an_empty_draft() -> None:
    machine = awaiting(max_tokens=4)
    assert sent(machine.tell(verdict(1, (21, 22, 30), accepted=2))) == [bundle(2, (), after=(21, 22, 30), timeout=0.2)]


def test_drafted_up_to_the_drafters_context_is_sent_then_rounds_go_on_without_drafts() -> None:
    machine = drafting(drafter_context=len(PROMPT) + 1)
    assert sent(machine.draft(21)) == [bundle(1, (21,))]
    assert machine.wish is None
    assert sent(machine.tell(verdict(1, (21, 22), accepted=1))) == [bundle(2, (), after=(21, 22), timeout=0.2)]


def test_drafted_longer_than_a_bundle_may_be_is_cut_and_the_rest_kept() -> None:
    machine = Machine(max_tokens=1000, policy=FixedLength(MAX_DRAFT_TOKENS + 4))
    machine.tell(Placed(terms(context_length=2000)))
    (first,) = sent(machine.draft(*[9] * (MAX_DRAFT_TOKENS + 4)))
    assert first.draft == (9,) * MAX_DRAFT_TOKENS
    assert sent(machine.tell(verdict(1, (9,) * (MAX_DRAFT_TOKENS + 1), accepted=MAX_DRAFT_TOKENS))) == []
    assert machine.wish == wish(0, (*PROMPT, *[9] * (MAX_DRAFT_TOKENS + 4))), "three tokens were kept"
    (second,) = sent(machine.draft(*[9] * (MAX_DRAFT_TOKENS + 1)))
    assert second.draft == (9,) * MAX_DRAFT_TOKENS


@pytest.mark.parametrize("token", [VOCABULARY, -1])
def test_drafted_token_the_target_does_not_know_is_the_end_of_the_drafter(token: int) -> None:
    machine = drafting()
    machine.draft(21)
    assert machine.draft(token) == [PublishDraft("v0", bundle(1, (21,))), StartTimer(FIRST_TIMEOUT)]
    assert machine.state() is State.AWAITING
    assert machine.wish is None


# DrafterLost ----------------------------------------------------------------------------------------------------------


def test_drafter_lost_drafting_sends_what_there_is() -> None:
    machine = drafting()
    machine.draft(21)
    assert machine.tell(DrafterLost()) == [PublishDraft("v0", bundle(1, (21,))), StartTimer(FIRST_TIMEOUT)]
    assert machine.state() is State.AWAITING


def test_drafter_lost_awaiting_goes_on_with_empty_drafts() -> None:
    machine = awaiting()
    assert machine.tell(DrafterLost()) == []
    assert machine.state() is State.AWAITING
    assert sent(machine.tell(verdict(1, (21, 30), accepted=1))) == [bundle(2, (), after=(21, 30), timeout=0.2)]
    assert sent(machine.tell(verdict(2, (31,), after=(21, 30)))) == [bundle(3, (), after=(21, 30, 31), timeout=0.2)]


def test_drafter_lost_outage_waits_on() -> None:
    machine = cut_off()
    assert machine.tell(DrafterLost()) == []
    assert machine.state() is State.OUTAGE
    assert sent(machine.tell(LinkUp())) == [bundle(2, (21, 22))]


# Verdict: taken in where it continues the log -------------------------------------------------------------------------


def test_verdict_with_correction_is_durable_then_shown_then_drafting_starts_afresh() -> None:
    machine = awaiting(23, 24)
    assert machine.tell(verdict(1, (21, 30), accepted=1)) == [
        Persist(1, 0, (21, 30)),
        Emit(0, (21, 30)),
        StopTimer(),
        wish(1, (*PROMPT, 21, 30)),
    ]
    assert machine.state() is State.DRAFTING


def test_verdict_with_correction_makes_the_draft_under_way_stale() -> None:
    machine = awaiting(23, 24)
    machine.tell(verdict(1, (21, 30), accepted=1))
    assert machine.tell(Drafted(0, Proposal(25, 0.9))) == []
    assert machine.draft(31) == [wish(1, (*PROMPT, 21, 30, 31))]


def test_verdict_whose_bonus_is_the_first_extra_sends_the_other_extras_at_once_if_they_are_enough() -> None:
    """Nothing is rolled back: the draft under way continues them."""
    machine = awaiting(23, 24, 25)
    machine.now = 1.0
    assert machine.tell(verdict(1, (21, 22, 23), accepted=2)) == [
        Persist(1, 0, (21, 22, 23)),
        Emit(0, (21, 22, 23)),
        PublishDraft("v0", bundle(2, (24, 25), after=(21, 22, 23), timeout=0.2)),
        StartTimer(0.2),
        wish(0, (*PROMPT, 21, 22, 23, 24, 25)),
    ]
    assert machine.state() is State.AWAITING
    assert machine.draft(26) == [wish(0, (*PROMPT, 21, 22, 23, 24, 25, 26))]


def test_verdict_that_leaves_too_few_extras_drafts_on_behind_them() -> None:
    machine = awaiting(23, 24)
    assert machine.tell(verdict(1, (21, 22, 23), accepted=2))[2:] == [StopTimer()], "the draft under way goes on"
    assert machine.state() is State.DRAFTING
    assert sent(machine.draft(25)) == [bundle(2, (24, 25), after=(21, 22, 23), timeout=0.2)]


def test_verdict_that_leaves_extras_sends_them_all_if_one_is_past_the_threshold() -> None:
    machine = drafting(policy=Confidence(0.5))
    machine.draft(21)
    assert sent(machine.draft_unsure(22)) == [bundle(1, (21, 22))]
    machine.draft(23)
    machine.draft_unsure(24)
    machine.draft(25)
    assert sent(machine.tell(verdict(1, (21, 22, 23), accepted=2))) == [
        bundle(2, (24, 25), after=(21, 22, 23), timeout=0.2)
    ]


def test_verdict_that_leaves_as_many_extras_as_the_verifier_takes_now_sends_them() -> None:
    machine = awaiting(23, 24, policy=FixedLength(2))
    assert sent(machine.tell(verdict(1, (21, 22, 23), accepted=2, draft_hint=1))) == [
        bundle(2, (24,), after=(21, 22, 23), timeout=0.2)
    ]


def test_extras_beyond_what_the_verifier_takes_now_are_sent_all_the_same() -> None:
    machine = awaiting(23, 24, 25, policy=FixedLength(2))
    assert sent(machine.tell(verdict(1, (21, 22, 23), accepted=2, draft_hint=1))) == [
        bundle(2, (24, 25), after=(21, 22, 23), timeout=0.2)
    ]


def test_verdict_that_leaves_extras_sends_them_if_nothing_more_can_be_drafted() -> None:
    machine = awaiting(23, 24)
    machine.draft(None)
    assert sent(machine.tell(verdict(1, (21, 22, 23), accepted=2))) == [
        bundle(2, (24,), after=(21, 22, 23), timeout=0.2)
    ]


def test_verdict_whose_bonus_is_the_only_extra_drafts_on_in_the_same_branch() -> None:
    machine = awaiting(23)
    assert machine.tell(verdict(1, (21, 22, 23), accepted=2))[2:] == [StopTimer()]
    assert machine.state() is State.DRAFTING
    assert machine.draft(24) == [wish(0, (*PROMPT, 21, 22, 23, 24))]


def test_verdict_whose_bonus_differs_from_the_first_extra_rolls_back() -> None:
    machine = awaiting(23, 24)
    assert machine.tell(verdict(1, (21, 22, 30), accepted=2))[2:] == [StopTimer(), wish(1, (*PROMPT, 21, 22, 30))]


def test_verdict_before_any_extra_rolls_back_since_the_bonus_was_not_drafted() -> None:
    machine = awaiting()
    assert machine.tell(verdict(1, (21, 22, 23), accepted=2))[2:] == [StopTimer(), wish(1, (*PROMPT, 21, 22, 23))]


def test_verdict_with_a_run_keeps_the_extras_that_agree() -> None:
    machine = awaiting(23, 24, 25)
    machine.tell(verdict(1, (21, 22, 23, 24), accepted=2))
    assert sent(machine.draft(26)) == [bundle(2, (25, 26), after=(21, 22, 23, 24), timeout=0.2)]


def test_verdict_with_finish_is_durable_before_the_context_is_cleared() -> None:
    machine = awaiting()
    assert machine.tell(verdict(1, (21, END), accepted=1, finish="stop")) == [
        Persist(1, 0, (21, END), "stop"),
        Emit(0, (21, END)),
        StopTimer(),
        ClearContext(),
        Finished("stop"),
    ]
    assert machine.state() is State.FINISHED


def test_verdict_that_only_says_that_the_text_has_ended_is_durable_before_the_context_is_cleared() -> None:
    """A verifier repeats the last token to an agent that has it, but does not know that it was the last."""
    machine = Machine(epoch=1, committed=(21, END))
    machine.tell(Placed(terms()))
    machine.draft(22, 23)
    assert machine.tell(verdict(1, (END,), after=(21,), epoch=2, finish="stop")) == [
        Persist(2, 2, finish="stop"),
        StopTimer(),
        ClearContext(),
        Finished("stop"),
    ]


def test_verdict_drafting_can_be_a_late_one_that_says_more() -> None:
    """Round 1 was sent again in round 2 and answered; the answer to round 1 came later and is longer."""
    machine = awaiting()
    machine.tell(TimerFired())
    machine.tell(verdict(2, (21, 30)))
    assert machine.state() is State.DRAFTING
    assert machine.tell(verdict(1, (21, 30, 31))) == [
        Persist(1, 2, (31,)),
        Emit(2, (31,)),
        StopTimer(),
        wish(2, (*PROMPT, 21, 30, 31)),
    ]


def test_verdict_overlapping_the_log_adds_only_what_is_new() -> None:
    machine = awaiting()
    machine.tell(verdict(1, (21, 22, 23)))
    machine.draft(24, 25)
    effects = machine.tell(verdict(1, (21, 22, 23, 24)))
    assert effects[:2] == [Persist(1, 3, (24,)), Emit(3, (24,))]
    assert sent(machine.draft(26)) == [bundle(3, (25, 26), after=(21, 22, 23, 24), timeout=0.2)]


def test_verdict_outage_without_link_is_taken_in_and_waits_on() -> None:
    """It was on its way when the link broke."""
    machine = cut_off()
    assert machine.tell(verdict(1, (21, 30))) == [
        Persist(1, 0, (21, 30)),
        Emit(0, (21, 30)),
        StopTimer(),
        wish(1, (*PROMPT, 21, 30)),
    ]
    assert machine.state() is State.OUTAGE
    assert machine.tell(LinkUp()) == [PublishContext(context()), StopTimer()]
    assert machine.state() is State.DRAFTING


def test_verdict_outage_can_be_the_last_one() -> None:
    machine = cut_off()
    assert machine.tell(verdict(1, (END,), finish="stop"))[-1] == Finished("stop")


def test_verdict_queued_is_ignored() -> None:
    """It is of an earlier run of the agent."""
    machine = Machine(epoch=1)
    assert machine.tell(verdict(1, (21,))) == []
    assert machine.state() is State.QUEUED


COMMITTED = (21, 22, 23)

UNACCEPTABLE = {
    "duplicate": verdict(1, COMMITTED),
    "shorter than what is held": verdict(1, (21, 22)),
    "older epoch": verdict(2, (24,), after=COMMITTED, epoch=0),
    "newer epoch": verdict(2, (24,), after=COMMITTED, epoch=2),
    "epoch of another boot": verdict(2, (24,), after=COMMITTED, nonce=OTHER_NONCE),
    "another session": verdict(2, (24,), after=COMMITTED, session=b"session2"),
    "ahead of the log": verdict(2, (26,), after=(*COMMITTED, 24, 25)),
    "contradicts the log": verdict(1, (21, 99, 23, 24)),
    "contradicts the log before its base": verdict(2, (24,), after=(21, 99, 23)),
    "digest of something else": replace(verdict(2, (24,), after=COMMITTED), digest=b"--------"),
    "no tokens": verdict(2, (), after=COMMITTED),
    "longer than the limit": verdict(2, (24,) * (MAX_TOKENS - 2), after=COMMITTED),
    "ends before what is held": verdict(1, (21, 22), finish="stop"),
}


@pytest.mark.parametrize("unacceptable", UNACCEPTABLE.values(), ids=UNACCEPTABLE.keys())
def test_verdict_that_does_not_continue_the_log_is_ignored(unacceptable: Verdict) -> None:
    machine = awaiting()
    machine.tell(verdict(1, COMMITTED))
    machine.draft(24, 25)
    assert machine.tell(unacceptable) == []
    assert machine.committed == COMMITTED
    assert machine.state() is State.AWAITING
    assert machine.session.tally.ignored == 1
    assert machine.tell(verdict(2, (24, 25, 26), after=COMMITTED))[0] == Persist(1, 3, (24, 25, 26))


def test_verdict_up_to_the_limit_is_taken_in() -> None:
    machine = awaiting()
    machine.tell(verdict(1, (9,) * MAX_TOKENS, finish="length"))
    assert len(machine.committed) == MAX_TOKENS
    assert machine.state() is State.FINISHED


def test_verdict_is_counted_by_what_the_draft_of_its_round_was() -> None:
    machine = awaiting(23)
    machine.tell(TimerFired())  # round 2 carries three tokens
    machine.tell(verdict(1, (21, 22, 30), accepted=2))
    machine.draft(31, 32)
    machine.tell(verdict(3, (31, 33), after=(21, 22, 30), accepted=1))
    tally = machine.session.tally
    assert (tally.rounds, tally.drafted, tally.accepted, tally.resends) == (2, 4, 3, 1)


def test_verdict_that_claims_to_accept_more_than_was_drafted_is_not_believed() -> None:
    machine = awaiting()
    machine.tell(verdict(1, (21, 22, 23), accepted=1000))
    assert machine.session.tally.accepted == 2


# TimerFired: no answer in time ----------------------------------------------------------------------------------------


def test_timer_fired_sends_again_at_the_same_base_with_the_extras_and_waits_twice_as_long() -> None:
    machine = awaiting(23, 24)
    machine.now = 2.0
    assert machine.tell(TimerFired()) == [
        PublishDraft("v0", bundle(2, (21, 22, 23, 24), timeout=4.0)),
        StartTimer(4.0),
    ]
    assert machine.state() is State.AWAITING
    assert machine.session.tally.resends == 1


def test_timer_fired_carries_extras_up_to_the_longest_draft() -> None:
    machine = awaiting(23, 24, 25)
    assert [len(resent.draft) for resent in sent(machine.tell(TimerFired()))] == [machine.session.longest_draft]
    assert machine.wish is None


def test_timer_fired_round_sent_again_teaches_nothing_about_the_round_trip() -> None:
    """Karn's rule: nobody knows which of the two was answered. The back-off stays until a round is answered at once."""
    roundtrip = RoundTrip()
    machine = awaiting(roundtrip=roundtrip)
    machine.now = 2.0
    machine.tell(TimerFired())
    machine.now = 2.5
    machine.tell(verdict(2, (21, 30)))
    assert (roundtrip.smoothed, roundtrip.timeout()) == (None, 4.0)
    machine.draft(31, 32)
    machine.now = 3.5
    machine.tell(verdict(3, (31, 33), after=(21, 30)))
    assert (roundtrip.smoothed, roundtrip.timeout()) == (1.0, 3.0)


def test_timer_fired_answer_to_the_first_sending_teaches_nothing_either() -> None:
    roundtrip = RoundTrip()
    machine = awaiting(roundtrip=roundtrip)
    machine.tell(TimerFired())
    machine.now = 2.5
    machine.tell(verdict(1, (21, 30)))
    assert roundtrip.smoothed is None


def test_timer_fired_answered_at_once_is_observed() -> None:
    roundtrip = RoundTrip()
    machine = awaiting(roundtrip=roundtrip)
    machine.now = 3.0
    machine.tell(verdict(1, (21, 30)))
    assert roundtrip.smoothed is None, "the verifier has read the prompt in this one"
    machine.draft(31, 32)
    machine.now = 3.5
    machine.tell(verdict(2, (31, 32, 33), after=(21, 30), accepted=2))
    assert roundtrip.smoothed == 0.5


def test_timer_fired_twice_is_doubt_and_three_times_in_the_window_an_outage_that_keeps_trying() -> None:
    machine = awaiting()
    states, doubts = [], []
    for expected in (4.0, 8.0, 16.0, 30.0):
        effects = machine.tell(TimerFired())
        assert StartTimer(expected) in effects
        states.append(machine.state())
        doubts.append(Doubt("v0") in effects)
    assert states == [State.AWAITING, State.AWAITING, State.OUTAGE, State.OUTAGE]
    assert doubts == [False, True, True, True]


def test_timer_fired_three_times_far_apart_is_no_outage() -> None:
    machine = awaiting()
    for _ in range(2 * STALL.failures):
        machine.now += STALL.window
        machine.tell(TimerFired())
        assert machine.state() is State.AWAITING


def test_timer_fired_outage_ends_with_a_verdict_and_is_forgotten() -> None:
    machine = awaiting()
    for _ in range(STALL.failures):
        machine.tell(TimerFired())
    assert machine.state() is State.OUTAGE
    machine.tell(verdict(2, (21, 22, 23)))
    assert machine.state() is State.DRAFTING
    machine.draft(24, 25)
    for _ in range(STALL.failures - 1):
        machine.tell(TimerFired())
    assert machine.state() is State.AWAITING


def test_timer_fired_without_link_does_nothing() -> None:
    machine = cut_off()
    assert machine.tell(TimerFired()) == []
    assert machine.state() is State.OUTAGE


# Resync: the verifier cannot place a bundle ---------------------------------------------------------------------------


def test_resync_awaiting_raises_the_revision_publishes_the_context_and_sends_again() -> None:
    machine = awaiting(23)
    assert machine.tell(resync()) == [
        PublishContext(context(revision=1)),
        PublishDraft("v0", bundle(2, (21, 22, 23), revision=1)),
        StartTimer(FIRST_TIMEOUT),
    ]
    assert machine.state() is State.AWAITING


def test_resync_brings_the_context_up_to_the_log() -> None:
    machine = awaiting()
    machine.tell(verdict(1, COMMITTED))
    assert machine.tell(resync("base_ahead")) == [PublishContext(context(revision=1, committed=COMMITTED))]


def test_resync_repeated_raises_the_revision_only_once() -> None:
    machine = awaiting()
    machine.tell(resync())
    assert machine.tell(resync()) == []
    assert machine.tell(resync("base_ahead")) == []
    assert machine.session.tally.resyncs == 1
    assert PublishContext(context(revision=2)) in machine.tell(resync(revision=1))


def test_resync_drafting_names_the_new_revision_in_the_next_bundle() -> None:
    machine = drafting()
    assert machine.tell(resync()) == [PublishContext(context(revision=1))]
    assert machine.state() is State.DRAFTING
    assert sent(machine.draft(21, 22)) == [bundle(1, (21, 22), revision=1)]


def test_resync_outage_publishes_the_context_but_no_bundle() -> None:
    machine = cut_off()
    assert machine.tell(resync()) == [PublishContext(context(revision=1))]
    assert machine.state() is State.OUTAGE


def test_resync_outage_of_unanswered_rounds_sends_again() -> None:
    machine = awaiting()
    for _ in range(STALL.failures):
        machine.tell(TimerFired())
    assert sent(machine.tell(resync(number=4))) == [bundle(5, (21, 22), revision=1, timeout=16.0)]


def test_resync_stale_epoch_raises_the_epoch_above_the_one_known_and_makes_it_durable_first() -> None:
    machine = awaiting()
    assert machine.tell(resync("stale_epoch", known=Epoch(5, OTHER_NONCE))) == [
        Persist(6, 0),
        PublishContext(context(6)),
        PublishDraft("v0", bundle(2, (21, 22), epoch=6)),
        StartTimer(FIRST_TIMEOUT),
    ]


def test_resync_stale_epoch_repeated_is_ignored() -> None:
    machine = awaiting()
    machine.tell(resync("stale_epoch", known=Epoch(5, OTHER_NONCE)))
    assert machine.tell(resync("stale_epoch", known=Epoch(5, OTHER_NONCE))) == []


def test_resync_epoch_conflict_raises_the_epoch_by_one() -> None:
    """A cloned card or a rolled-back disk used the same counter under another nonce."""
    machine = awaiting()
    assert machine.tell(resync("epoch_conflict", known=Epoch(1, OTHER_NONCE)))[:2] == [
        Persist(2, 0),
        PublishContext(context(2)),
    ]


def test_resync_epoch_conflict_drafting_goes_on_drafting() -> None:
    machine = drafting()
    machine.tell(resync("epoch_conflict", known=Epoch(1, OTHER_NONCE)))
    assert machine.state() is State.DRAFTING


def test_resync_stale_epoch_without_verifier_raises_the_epoch_and_stalls() -> None:
    """It was on its way when the verifier went: nothing is sent to a verifier that is gone."""
    machine = awaiting()
    machine.tell(Unplaced())
    assert machine.tell(resync("stale_epoch", known=Epoch(5, OTHER_NONCE))) == [
        Persist(6, 0),
        PublishContext(context(6)),
        StopTimer(),
    ]
    assert machine.state() is State.OUTAGE


def test_resync_that_knows_the_present_epoch_raises_the_revision() -> None:
    machine = awaiting()
    assert PublishContext(context(revision=1)) in machine.tell(resync("digest_differs", known=Epoch(1, NONCE)))


@pytest.mark.parametrize(
    "foreign",
    [resync(session=b"session2"), resync(epoch=0), resync(revision=3), resync(epoch=0, known=Epoch(0, OTHER_NONCE))],
    ids=["another session", "older epoch", "revision never published", "older epoch known"],
)
def test_resync_for_something_else_is_ignored(foreign: Resync) -> None:
    machine = awaiting()
    assert machine.tell(foreign) == []
    assert machine.session.tally.ignored == 1


def test_resync_queued_is_ignored() -> None:
    """The epoch is raised anyway before anything is sent."""
    machine = Machine(epoch=3)
    assert machine.tell(resync(epoch=3, known=Epoch(9, OTHER_NONCE))) == []
    assert machine.state() is State.QUEUED


# Refusal --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ACTIVE.values(), ids=ACTIVE.keys())
@pytest.mark.parametrize("epoch", [1, None])
def test_refusal_for_good_fails_the_request_durably_then_clears(
    start: Callable[[], Machine], epoch: int | None
) -> None:
    machine = start()
    assert machine.tell(refusal("tokenizer_mismatch", epoch=epoch)) == [
        StopTimer(),
        Persist(1, 0, finish="failed"),
        ClearContext(),
        Failed("tokenizer_mismatch", "a sentence for people"),
    ]
    assert machine.state() is State.FINISHED


def test_refusal_for_now_waits_as_long_as_asked_for_then_sends_again() -> None:
    machine = awaiting()
    timer, doubt = machine.tell(refusal(number=1, retry_after=5_000_000))
    assert isinstance(timer, StartTimer)
    assert 5.0 <= timer.delay <= 7.5
    assert doubt == Doubt("v0", timer.delay)
    assert machine.state() is State.AWAITING
    machine.now = timer.delay
    assert sent(machine.tell(TimerFired())) == [bundle(2, (21, 22))], "with no more patience than before"


def test_refusal_for_now_waits_no_longer_than_asked_for_and_half_as_long_again() -> None:
    """Whatever patience the rounds before have come to."""
    machine = awaiting()
    machine.tell(TimerFired())
    machine.tell(TimerFired())
    timer, _ = machine.tell(refusal(number=3, retry_after=500_000))
    assert isinstance(timer, StartTimer)
    assert 0.5 <= timer.delay <= 0.75


def test_refusal_for_now_waits_a_little_whatever_the_verifier_asks_for() -> None:
    timer, _ = awaiting().tell(refusal(retry_after=1))
    assert isinstance(timer, StartTimer)
    assert timer.delay >= LEAST_PUT_OFF


def test_refusal_for_now_is_an_answer() -> None:
    machine = awaiting()
    for number in (1, 4, 7):
        machine.tell(TimerFired())
        machine.tell(TimerFired())
        machine.tell(refusal(number=number + 2, retry_after=5_000_000))
        effects = machine.tell(TimerFired())
        assert len(sent(effects)) == 1
        assert Doubt("v0") not in effects
        assert machine.state() is State.AWAITING
    assert machine.session.tally.outages == 0


def put_off(machine: Machine, number: int | None) -> bool:
    """Whether a refusal of a round for now has another verifier looked for."""
    effects = machine.tell(refusal(number=number, retry_after=5_000_000))
    assert any(isinstance(effect, StartTimer) for effect in effects)
    return any(isinstance(effect, Doubt) for effect in effects)


def served() -> Machine:
    """A machine that awaits the verdict of round 2, and whose first one v0 has answered."""
    machine = awaiting()
    machine.tell(verdict(1, (21, 30)))
    machine.draft(31, 32)
    return machine


def test_refusal_for_now_of_a_session_that_is_not_served_yet_has_another_verifier_looked_for() -> None:
    assert put_off(awaiting(), 1)


def test_refusal_for_now_of_a_context_has_another_verifier_looked_for() -> None:
    assert put_off(served(), None)


def test_refusal_for_now_of_a_session_that_is_served_moves_it_only_the_third_time_in_a_row() -> None:
    """Another verifier would have to read the whole log first."""
    machine = served()
    doubts = []
    for number in (2, 3, 4, 5):
        doubts.append(put_off(machine, number))
        machine.tell(TimerFired())
    assert doubts == [False, False, True, True]
    machine.tell(verdict(6, (31, 33), after=(21, 30)))
    machine.draft(41, 42)
    assert not put_off(machine, 7), "a verdict came between"


@pytest.mark.parametrize("event", [resync(number=2), Placed(terms("v1"))], ids=["forgotten", "moved"])
def test_refusal_for_now_by_a_verifier_that_has_yet_to_read_the_log_has_another_looked_for(event: Event) -> None:
    machine = served()
    machine.tell(event)
    effects = machine.tell(refusal(epoch=machine.session.epoch.counter, number=3, retry_after=5_000_000))
    assert [type(effect) for effect in effects] == [StartTimer, Doubt]


def test_refusal_for_now_ends_an_outage() -> None:
    machine = awaiting()
    for _ in range(STALL.failures):
        machine.tell(TimerFired())
    assert machine.state() is State.OUTAGE
    machine.tell(refusal(number=4, retry_after=5_000_000))
    assert machine.state() is State.AWAITING


def test_refusal_for_now_does_not_bring_everybody_back_at_once() -> None:
    delays: list[float] = []
    machine = awaiting()
    for number in range(1, 21):
        timer, _ = machine.tell(refusal(number=number, retry_after=60_000_000))
        assert isinstance(timer, StartTimer)
        delays.append(timer.delay)
        machine.tell(TimerFired())
    assert len(set(delays)) == 20
    assert max(delays) - min(delays) > 15


def waits(machine: Machine, number: int) -> float:
    """Be refused for now, a minute by the verifier's word; return how many of these are waited for."""
    timer = machine.tell(refusal(epoch=machine.session.epoch.counter, number=number, retry_after=60_000_000))[0]
    assert isinstance(timer, StartTimer)
    return timer.delay / 60


def test_refusals_for_now_of_a_session_that_nobody_serves_yet_are_waited_for_ever_longer() -> None:
    """Wherever it turns: else those who wait would keep full verifiers busy."""
    machine = awaiting()
    for number, least in enumerate((1, 2, 4, 8, 8), start=1):
        assert least <= waits(machine, number) <= 1.5 * least
        if number == 2:
            machine.tell(Placed(terms("v1")))
        else:
            machine.tell(TimerFired())


def test_a_context_and_its_bundle_that_are_refused_for_now_count_once() -> None:
    machine = awaiting()
    machine.tell(refusal(retry_after=60_000_000))
    assert waits(machine, 1) <= 1.5


def test_a_session_that_is_served_waits_no_longer_for_having_been_refused() -> None:
    machine = awaiting()
    for number in (1, 2, 3):
        waits(machine, number)
        machine.tell(TimerFired())
    machine.tell(verdict(4, (21, 30)))
    machine.draft(31, 32)
    for number in (5, 6):
        assert waits(machine, number) <= 1.5
        machine.tell(TimerFired())


def test_refusal_for_now_drafting_changes_nothing() -> None:
    """The context was refused before there was a bundle; the bundle will find out."""
    machine = drafting()
    assert machine.tell(refusal(retry_after=5_000_000)) == []
    assert machine.state() is State.DRAFTING


@pytest.mark.parametrize("other", [refusal(epoch=0), refusal(number=9, retry_after=1)], ids=["epoch", "round"])
def test_refusal_of_something_else_is_ignored(other: Refusal) -> None:
    machine = awaiting()
    assert machine.tell(other) == []
    assert machine.state() is State.AWAITING


def test_refusal_outage_for_now_waits() -> None:
    machine = cut_off()
    machine.tell(refusal(number=1, retry_after=1))
    assert machine.state() is State.OUTAGE


def test_refusal_queued_is_ignored() -> None:
    machine = Machine(epoch=1)
    assert machine.tell(refusal()) == []
    assert machine.state() is State.QUEUED


# StopFound and Cancelled ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ACTIVE.values(), ids=ACTIVE.keys())
def test_stop_found_is_durable_before_the_context_is_cleared(start: Callable[[], Machine]) -> None:
    machine = start()
    assert machine.tell(StopFound()) == [
        Persist(1, 0, finish="stop"),
        StopTimer(),
        ClearContext(),
        Finished("stop"),
    ]
    assert machine.state() is State.FINISHED


def test_stop_found_queued_ends_a_text_whose_stop_string_was_spooled_but_never_acted_on() -> None:
    """A crash between the tokens and the end: the next run finds the stop string before any verifier."""
    machine = Machine(epoch=3, committed=(21, 22))
    assert machine.tell(StopFound()) == [
        Persist(3, 2, finish="stop"),
        StopTimer(),
        ClearContext(),
        Finished("stop"),
    ]


@pytest.mark.parametrize("start", ACTIVE.values(), ids=ACTIVE.keys())
def test_cancelled_is_durable_before_the_context_is_cleared(start: Callable[[], Machine]) -> None:
    machine = start()
    assert machine.tell(Cancelled()) == [
        Persist(1, 0, finish="cancelled"),
        StopTimer(),
        ClearContext(),
        Finished("cancelled"),
    ]
    assert machine.state() is State.FINISHED


def test_cancelled_queued_has_nothing_to_clear() -> None:
    machine = Machine()
    assert machine.tell(Cancelled()) == [Persist(0, 0, finish="cancelled"), StopTimer(), Finished("cancelled")]
    assert machine.state() is State.FINISHED


def test_cancelled_queued_clears_what_an_earlier_run_retained() -> None:
    assert Machine(epoch=3, committed=(21,)).tell(Cancelled()) == [
        Persist(3, 1, finish="cancelled"),
        StopTimer(),
        ClearContext(),
        Finished("cancelled"),
    ]


# Finished, and what cannot happen -------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", SAMPLES.values(), ids=lambda event: type(event).__name__)
def test_anything_finished_is_ignored(event: Event) -> None:
    machine = finished()
    assert machine.tell(event) == []
    assert machine.state() is State.FINISHED


@pytest.mark.parametrize(
    ("state", "event"),
    [("queued", Drafted), ("queued", DrafterLost), ("queued", TimerFired), ("drafting", TimerFired)],
)
def test_event_that_is_not_in_the_table_is_a_mistake_of_the_shell(state: str, event: type[Event]) -> None:
    machine = EVERY[state]()
    with pytest.raises(ValueError, match=rf"a session that is {state} cannot receive {event.__name__}"):
        machine.tell(SAMPLES[event])
    assert machine.state().value == state


def test_table_names_every_pair_but_those() -> None:
    missing = {
        (state.value, event.__name__) for state in State for event in get_args(Event) if event not in TRANSITIONS[state]
    }
    assert missing == {
        ("queued", "Drafted"),
        ("queued", "DrafterLost"),
        ("queued", "TimerFired"),
        ("drafting", "TimerFired"),
    }


# The table against everything a shell can produce ---------------------------------------------------------------------


def test_table_holds_for_everything_a_shell_can_produce_and_promises_nothing_else() -> None:
    """Random walks: no event is missing from the table, and every state it names as an outcome does come out."""
    seen: dict[tuple[State, type[Event]], set[State]] = defaultdict(set)
    for seed in range(4000):
        shell = Shell(Random(seed))
        for _ in range(40):
            before, event, after = shell.step()
            seen[before, event].add(after)
    assert set(seen) == {(state, event) for state, rows in TRANSITIONS.items() for event in rows}
    for event in get_args(Event):
        # The states between placement and end share their rows; what one of them cannot lead to another can.
        active = (State.DRAFTING, State.AWAITING, State.OUTAGE)
        promised: set[State] = set().union(
            *(TRANSITIONS[state][event][1] for state in active if event in TRANSITIONS[state])
        )
        assert set().union(*(seen.get((state, event), set()) for state in active)) == promised, event
        for state in (State.QUEUED, State.FINISHED):
            if event in TRANSITIONS[state]:
                assert seen[state, event] == TRANSITIONS[state][event][1], (state, event)


def test_table_outcomes_are_checked_by_the_machine_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {**TRANSITIONS, State.QUEUED: {Cancelled: (Session._cancel, frozenset({State.OUTAGE}))}}
    monkeypatch.setattr("edge_agent.session.TRANSITIONS", wrong)
    with pytest.raises(AssertionError, match="Cancelled led from queued to finished"):
        Machine().tell(Cancelled())


# Found by review ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [drafting, awaiting, cut_off])
@pytest.mark.parametrize(("verifier", "context_length"), [("v0", 22), ("v1", 22), ("v1", 4), ("v1", 2), ("v1", 0)])
def test_placed_on_a_verifier_that_cannot_hold_the_text_waits(
    start: Callable[[], Machine], verifier: str, context_length: int
) -> None:
    """Where a text ends must not depend on who verifies it."""
    machine = start()
    machine.tell(LinkUp())
    effects = machine.tell(Placed(terms(verifier, context_length=context_length)))
    assert not {type(effect) for effect in effects} & {PublishContext, PublishDraft, Finished, Failed}
    assert (machine.state(), machine.session.verifier) == (State.OUTAGE, "v0")
    assert PublishContext(context(2, owner="v2")) in machine.tell(Placed(terms("v2", context_length=23)))


def test_placed_on_a_verifier_with_a_longer_context_makes_no_text_longer() -> None:
    machine = Machine()
    machine.tell(Placed(terms(context_length=8)))
    assert PublishContext(context(2, owner="v1", max_tokens=5)) in machine.tell(Placed(terms("v1")))


def test_refusal_as_too_long_of_a_text_under_way_waits_for_another_announcement() -> None:
    """The verifier was started again with less memory, and read the context before it announced itself."""
    machine = awaiting()
    machine.tell(verdict(1, (21, 30)))
    machine.draft(31, 32)
    effects = machine.tell(refusal("prompt_too_long"))
    assert Failed not in {type(effect) for effect in effects}
    assert machine.state() is State.OUTAGE
    machine.tell(Placed(terms("v1")))
    assert machine.state() is State.AWAITING


def test_refusal_of_another_session_is_ignored() -> None:
    machine = awaiting()
    other = replace(refusal(epoch=None), session=b"session2")
    assert machine.tell(other) == []
    assert machine.state() is State.AWAITING


def test_verdict_that_fills_the_log_ends_it_even_if_it_does_not_say_so() -> None:
    machine = awaiting(23, max_tokens=4)
    machine.tell(verdict(1, (21, 22, 23, 24)))
    assert machine.state() is State.FINISHED


def test_verdict_repeated_under_the_current_round_is_no_answer() -> None:
    machine = awaiting()
    machine.tell(verdict(1, (21, 22, 23)))
    machine.draft(24, 25)
    assert machine.tell(verdict(2, (21, 22, 23))) == []
    assert machine.state() is State.AWAITING


def test_resync_that_claims_an_epoch_beyond_all_reason_is_ignored() -> None:
    machine = awaiting()
    absurd = replace(resync("stale_epoch"), known=Epoch(2**53 - 1, b"x" * 8))
    assert Persist not in {type(effect) for effect in machine.tell(absurd)}


@pytest.mark.parametrize("event", [ContextLost(), resync("ended", known=Epoch(1, NONCE))], ids=["seen", "told"])
def test_context_cleared_by_somebody_else_opens_a_fresh_epoch(event: Event) -> None:
    """Verifiers hold the session for ended; only a higher epoch is news to them."""
    machine = awaiting()
    effects = machine.tell(event)
    assert effects[:2] == [Persist(2, 0), PublishContext(context(2))]
    assert sent(effects) == [bundle(2, (21, 22), epoch=2)]
    assert machine.tell(resync("ended", known=Epoch(1, NONCE))) == [], "said of an epoch that is past"
