"""What a session does in an outage that lasts, in the modes that do not just wait.

As in `test_session.py`: a prompt of three tokens, drafts of two tokens, (21, 22) sent in round 1. While no round
was observed, one times out after 2 s, the next ones after 4 and 8 s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edge_agent.drafters.drafter import Proposal
from edge_agent.effects import (
    ClearContext,
    Doubt,
    Draft,
    Effect,
    Emit,
    Finished,
    Persist,
    Preview,
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
    LinkDown,
    LinkUp,
    Placed,
    StopFound,
    TimerFired,
    Unplaced,
)
from edge_agent.outage import OutageMode, OutageRules
from edge_agent.roundtrip import RoundTrip
from edge_agent.session import State
from schemas.limits import MAX_DRAFT_TOKENS, MAX_RELEASED_RANGES
from schemas.messages import Epoch, ReleasedRange, StopRules
from tests.edge_agent.machine import (
    END,
    NONCE,
    PROMPT,
    Machine,
    awaiting,
    bundle,
    context,
    cut_off,
    drafting,
    refusal,
    resync,
    sent,
    terms,
    verdict,
    wish,
)
from tests.edge_agent.test_session_learning import Pupil

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_agent.events import Event

RELEASE = OutageRules(OutageMode.RELEASE)
REVISE = OutageRules(OutageMode.REVISE)
MODES = pytest.mark.parametrize("rules", [RELEASE, REVISE], ids=["release", "revise"])


def of(effects: list[Effect], *kinds: type[Effect]) -> list[Effect]:
    return [effect for effect in effects if isinstance(effect, kinds)]


def fallen(rules: OutageRules, *extras: int, **options: object) -> Machine:
    """A machine whose link has been away so long that it has fallen back, with (21, 22) and the extras drafted."""
    machine = cut_off(*extras, outage=rules, **options)  # type: ignore[arg-type]
    for _ in range(3):
        machine.tell(TimerFired())
    assert machine.session.fallen_back
    return machine


def unanswered(rules: OutageRules, *extras: int) -> Machine:
    """A machine that has fallen back since three rounds in a row went unanswered, with link and verifier there."""
    machine = awaiting(*extras, outage=rules)
    for _ in range(3):
        machine.tell(TimerFired())
    assert machine.session.fallen_back
    return machine


# When an outage has lasted long enough --------------------------------------------------------------------------------


@MODES
@pytest.mark.parametrize("event", [LinkDown(), Unplaced()], ids=["link", "verifier"])
def test_absence_is_counted_for_as_long_as_unanswered_rounds_would_take(rules: OutageRules, event: Event) -> None:
    machine = awaiting(outage=rules)
    assert of(machine.tell(event), StartTimer, StopTimer) == [StartTimer(2.0)]
    assert of(machine.tell(TimerFired()), StartTimer) == [StartTimer(4.0)]
    assert of(machine.tell(TimerFired()), StartTimer) == [StartTimer(8.0)]
    before = machine.session.fallen_back
    assert of(machine.tell(TimerFired()), StartTimer) == []
    assert (before, machine.session.fallen_back) == (False, True)
    assert machine.session.tally.fallbacks == machine.session.tally.outages == 1


@MODES
@pytest.mark.parametrize("start", [drafting, awaiting])
def test_blip_releases_and_shows_nothing(rules: OutageRules, start: Callable[..., Machine]) -> None:
    machine = start(outage=rules)
    machine.tell(LinkDown())
    machine.tell(TimerFired())
    machine.tell(TimerFired())
    effects = machine.tell(LinkUp())
    assert of(effects, Emit, Preview, Persist) == []
    assert machine.session.tally.fallbacks == 0
    assert machine.session.epoch == Epoch(1, NONCE)
    assert of(machine.tell(LinkDown()), StartTimer) == [StartTimer(2.0)], "counted from the beginning"


@MODES
def test_more_bad_news_does_not_start_the_count_again(rules: OutageRules) -> None:
    """A shell says Unplaced at every announcement that does not fit."""
    machine = cut_off(outage=rules)
    for event in (Unplaced(), Unplaced(), LinkDown(), LinkUp()):
        assert of(machine.tell(event), StartTimer, StopTimer) == []
    for _ in range(3):
        machine.tell(TimerFired())
    assert machine.session.fallen_back


@MODES
def test_unanswered_rounds_and_absence_are_counted_together(rules: OutageRules) -> None:
    machine = awaiting(outage=rules)
    machine.tell(TimerFired())
    machine.tell(TimerFired())
    assert of(machine.tell(LinkDown()), StartTimer) == [StartTimer(8.0)], "as long as the round would have had"
    machine.tell(TimerFired())
    assert machine.session.fallen_back


@MODES
def test_thresholds_are_as_told(rules: OutageRules) -> None:
    once = OutageRules(rules.mode, failures=1, window=0.5)
    machine = awaiting(outage=once)
    assert of(machine.tell(LinkDown()), StartTimer) == [StartTimer(0.5)], "never longer than the window"
    machine.tell(TimerFired())
    assert machine.session.fallen_back


@MODES
def test_drafts_go_on_without_end_but_the_texts(rules: OutageRules) -> None:
    machine = fallen(rules, 23, 24, 25, max_tokens=12)
    assert machine.wish is not None, "five tokens are a longest draft"
    machine.draft(*range(26, 31))
    assert machine.wish is not None


@MODES
def test_queued_waits_since_it_knows_no_vocabulary(rules: OutageRules) -> None:
    machine = Machine(outage=rules, link_up=False, committed=(21,), epoch=3)
    assert machine.tell(LinkDown()) == machine.tell(Unplaced()) == []
    with pytest.raises(ValueError, match="queued cannot receive TimerFired"):
        machine.tell(TimerFired())


@MODES
def test_refusals_for_now_are_answers_and_no_outage(rules: OutageRules) -> None:
    machine = awaiting(outage=rules)
    for number in range(1, 8):
        machine.tell(refusal(number=number, retry_after=5_000_000))
        machine.tell(TimerFired())
    assert machine.state() is State.AWAITING
    assert machine.session.tally.fallbacks == 0


@MODES
def test_refusal_without_link_leaves_the_count_alone(rules: OutageRules) -> None:
    machine = cut_off(outage=rules)
    machine.tell(TimerFired())
    assert of(machine.tell(refusal(number=1, retry_after=5_000_000)), StartTimer, StopTimer) == []
    machine.tell(TimerFired())
    machine.tell(TimerFired())
    assert machine.session.fallen_back


@MODES
@pytest.mark.parametrize("failures", [1, 2, 3, 8])
def test_another_verifier_takes_over_before_anything_is_released_or_shown(rules: OutageRules, failures: int) -> None:
    """A shell places a session that doubts its verifier anew before it tells it anything else."""
    machine = awaiting(23, outage=OutageRules(rules.mode, failures))
    effects: list[Effect] = []
    rounds = 0
    while Doubt("v0") not in effects:
        effects += machine.tell(TimerFired())
        rounds += 1
    assert rounds == min(2, failures)
    effects += machine.tell(Placed(terms("v1")))
    machine.draft(24)
    for _ in range(failures - 1):
        effects += machine.tell(TimerFired())
    assert of(effects, Emit, Preview) == [], "counted anew"
    assert machine.session.tally.fallbacks == 0
    assert machine.session.verifier == "v1"


@MODES
@pytest.mark.parametrize("failures", [1, 2])
def test_falls_back_at_a_low_threshold_when_the_doubt_has_moved_nobody(rules: OutageRules, failures: int) -> None:
    machine = awaiting(outage=OutageRules(rules.mode, failures))
    for _ in range(failures - 1):
        machine.tell(TimerFired())
    assert machine.tell(TimerFired()) == [Doubt("v0"), StartTimer(0.0)]
    assert machine.state() is State.OUTAGE
    effects = machine.tell(TimerFired())
    assert len(of(effects, Emit, Preview)) == 1
    assert StartTimer(2.0 * 2**failures) in effects, "no longer than if it had not asked"
    assert machine.session.fallen_back


@pytest.mark.parametrize("sign", [verdict(1, (30,), nonce=b"boot-two"), resync()], ids=["verdict", "resync"])
def test_a_word_of_the_verifier_ends_the_hesitation(sign: Event) -> None:
    machine = awaiting(outage=OutageRules(OutageMode.RELEASE, 1))
    machine.tell(TimerFired())
    machine.tell(sign)
    assert machine.tell(TimerFired()) == [Doubt("v0"), StartTimer(0.0)], "counted from the beginning"
    assert machine.committed == ()


@MODES
def test_verifiers_that_are_all_silent_do_not_keep_a_session_from_falling_back(rules: OutageRules) -> None:
    machine = awaiting(outage=rules)
    for verifier in ("v1", "v0"):
        for _ in range(2):
            machine.tell(TimerFired())
        machine.tell(Placed(terms(verifier)))
        assert not machine.session.fallen_back
    machine.tell(TimerFired())
    assert machine.session.fallen_back


@MODES
def test_fallen_back_the_verifier_is_tried_on(rules: OutageRules) -> None:
    machine = unanswered(rules)
    for _ in range(3):
        effects = machine.tell(TimerFired())
        assert len(sent(effects)) == 1
        assert effects[-1] == Doubt("v0")
        assert machine.state() is State.OUTAGE


@MODES
def test_fallen_back_without_drafter_just_waits(rules: OutageRules) -> None:
    machine = awaiting(outage=rules)
    machine.tell(DrafterLost())
    machine.tell(verdict(1, (21, 30)))
    machine.tell(LinkDown())
    for _ in range(3):
        assert of(machine.tell(TimerFired()), Emit, Preview) == []
    assert sent(machine.tell(LinkUp())) == [bundle(3, (), after=(21, 30))]


@MODES
def test_another_verifier_ends_it(rules: OutageRules) -> None:
    machine = unanswered(rules)
    machine.tell(Placed(terms("v1")))
    assert not machine.session.fallen_back
    assert machine.session.verifier == "v1"


@MODES
@pytest.mark.parametrize(
    "sign",
    [verdict(1, (30,), nonce=b"boot-two"), resync(epoch=9), refusal(epoch=9, retry_after=5)],
    ids=["verdict", "resync", "refusal"],
)
def test_whatever_the_verifier_says_ends_it(rules: OutageRules, sign: Event) -> None:
    """Even if it is too late to mean anything."""
    machine = unanswered(rules)
    effects = machine.tell(sign)
    assert not machine.session.fallen_back
    assert of(effects, PublishDraft) or machine.state() is State.DRAFTING
    assert machine.state() in (State.AWAITING, State.DRAFTING)


@MODES
def test_what_is_said_of_another_session_does_not(rules: OutageRules) -> None:
    machine = unanswered(rules)
    assert machine.tell(verdict(1, (30,), session=b"session2")) == []
    assert machine.session.fallen_back


@MODES
def test_what_comes_late_without_link_does_not(rules: OutageRules) -> None:
    machine = fallen(rules)
    assert machine.tell(verdict(1, (30,), epoch=9)) == []
    assert machine.session.fallen_back


@MODES
def test_resync_that_can_be_followed_ends_it(rules: OutageRules) -> None:
    machine = unanswered(rules)
    machine.wish = None
    epoch = machine.session.epoch.counter
    effects = machine.tell(resync(epoch=epoch, number=4))
    assert not machine.session.fallen_back
    assert [type(effect) for effect in effects][:2] == [PublishContext, PublishDraft]


# Release ----------------------------------------------------------------------------------------------------------


def test_release_makes_what_is_drafted_final_in_an_epoch_of_its_own() -> None:
    machine = cut_off(23, outage=RELEASE)
    machine.tell(TimerFired())
    machine.tell(TimerFired())
    assert machine.tell(TimerFired()) == [Persist(2, 0, (21, 22, 23), released=True), Emit(0, (21, 22, 23))]
    assert machine.committed == (21, 22, 23)
    assert machine.session.released == (ReleasedRange(0, 3),)


def test_release_goes_on_token_by_token_in_the_same_epoch() -> None:
    machine = fallen(RELEASE)
    assert machine.draft(23) == [
        Persist(2, 2, (23,), released=True),
        Emit(2, (23,)),
        wish(0, (*PROMPT, 21, 22, 23)),
    ]
    assert machine.session.released == (ReleasedRange(0, 3),)
    assert machine.session.tally.released == 3


def test_release_is_told_to_the_verifier_in_the_context_when_it_is_back() -> None:
    machine = fallen(RELEASE)
    machine.draft(23)
    effects = machine.tell(LinkUp())
    assert of(effects, Persist, PublishContext) == [
        PublishContext(context(2, committed=(21, 22, 23), released=(ReleasedRange(0, 3),)))
    ]
    assert machine.state() is State.DRAFTING
    assert sent(machine.draft(24, 25)) == [bundle(2, (24, 25), after=(21, 22, 23), epoch=2)]
    machine.tell(verdict(2, (24, 30), after=(21, 22, 23), epoch=2))
    assert machine.committed == (21, 22, 23, 24, 30)
    assert machine.session.released == (ReleasedRange(0, 3),)


def test_release_with_the_link_back_before_the_verifier_publishes_once_both_are() -> None:
    machine = fallen(RELEASE)
    machine.tell(Unplaced())
    assert of(machine.tell(LinkUp()), PublishContext) == [], "what lies at the broker is of an epoch that is past"
    assert machine.session.fallen_back
    assert of(machine.tell(Placed(terms())), PublishContext) == [
        PublishContext(context(2, committed=(21, 22), released=(ReleasedRange(0, 2),)))
    ]


def test_release_voids_what_was_said_of_the_log_before() -> None:
    machine = fallen(RELEASE)
    machine.tell(LinkUp())
    machine.tell(verdict(1, (21, 30)))
    assert machine.committed == (21, 22)


def test_release_twice_in_a_row_is_one_range_and_apart_are_two() -> None:
    machine = fallen(RELEASE)
    machine.tell(LinkUp())
    machine.draft(23, 24)
    machine.tell(LinkDown())
    for _ in range(3):
        machine.tell(TimerFired())
    assert list(machine.session.released) == [ReleasedRange(0, 4)]
    assert machine.session.epoch.counter == 3, "the epoch before was told to the verifier"
    machine.tell(LinkUp())
    machine.draft(25, 26)
    machine.tell(verdict(3, (30,), after=(21, 22, 23, 24), epoch=3))
    machine.draft(31)
    machine.tell(LinkDown())
    for _ in range(3):
        machine.tell(TimerFired())
    assert list(machine.session.released) == [ReleasedRange(0, 4), ReleasedRange(5, 6)]


def test_release_of_unanswered_rounds_tells_the_verifier_at_once_then_goes_on_in_another_epoch() -> None:
    machine = awaiting(outage=RELEASE)
    machine.tell(TimerFired())
    machine.tell(TimerFired())
    effects = machine.tell(TimerFired())
    released = (ReleasedRange(0, 2),)
    assert of(effects, Persist, Emit, PublishContext, PublishDraft, Doubt) == [
        Persist(2, 0, (21, 22), released=True),
        Emit(0, (21, 22)),
        PublishContext(context(2, committed=(21, 22), released=released)),
        PublishDraft("v0", bundle(4, (), after=(21, 22), epoch=2, timeout=16.0)),
        Doubt("v0"),
    ]
    assert of(machine.draft(23), Persist) == [Persist(3, 2, (23,), released=True)]
    assert of(machine.draft(24), Persist) == [Persist(3, 3, (24,), released=True)]


def test_release_ends_with_an_answer_which_is_too_late_to_count() -> None:
    machine = unanswered(RELEASE)
    machine.draft(23)
    effects = machine.tell(verdict(4, (30,), after=(21, 22), epoch=2))
    assert machine.committed == (21, 22, 23)
    assert of(effects, PublishContext) == [
        PublishContext(context(3, committed=(21, 22, 23), released=(ReleasedRange(0, 3),)))
    ]
    assert of(machine.draft(24), Emit) == [], "it is a draft again"


def test_release_answer_before_the_next_token_counts() -> None:
    machine = unanswered(RELEASE)
    machine.tell(verdict(4, (30,), after=(21, 22), epoch=2))
    assert machine.committed == (21, 22, 30)
    assert not machine.session.fallen_back


@pytest.mark.parametrize(
    ("stop", "token"), [(StopRules(), END), (StopRules((23,)), 23)], ids=["the target's", "the session's"]
)
def test_release_of_an_end_token_ends_the_text_durably(stop: StopRules, token: int) -> None:
    machine = fallen(RELEASE, stop=stop)
    assert machine.draft(token) == [
        Persist(2, 2, (token,), "stop", released=True),
        Emit(2, (token,)),
        StopTimer(),
        ClearContext(),
        Finished("stop"),
    ]
    assert machine.state() is State.FINISHED


def test_release_of_an_end_token_that_shall_be_ignored_does_not() -> None:
    machine = fallen(RELEASE, stop=StopRules(ignore_end=True))
    machine.draft(END, 24)
    assert machine.committed == (21, 22, END, 24)


def test_release_fills_the_text_to_its_last_place() -> None:
    """Nothing has to be left for a token of the target's own."""
    machine = fallen(RELEASE, max_tokens=4)
    effects = machine.draft(23, 24)
    assert effects[-5:] == [
        Persist(2, 3, (24,), "length", released=True),
        Emit(3, (24,)),
        StopTimer(),
        ClearContext(),
        Finished("length"),
    ]
    assert machine.committed == (21, 22, 23, 24)
    assert machine.session.released == (ReleasedRange(0, 4),)


def test_release_may_end_the_text_when_it_begins() -> None:
    machine = awaiting(END, outage=RELEASE)
    machine.tell(TimerFired())
    machine.tell(TimerFired())
    effects = machine.tell(TimerFired())
    assert effects[:2] == [Persist(2, 0, (21, 22, END), "stop", released=True), Emit(0, (21, 22, END))]
    assert effects[-1] == Finished("stop")
    assert sent(effects) == []


def test_release_after_a_restart_is_remembered_and_told() -> None:
    known = (ReleasedRange(0, 2),)
    machine = Machine(epoch=4, committed=(21, 22), released=known, outage=RELEASE)
    assert of(machine.tell(Placed(terms())), PublishContext) == [
        PublishContext(context(5, committed=(21, 22), released=known))
    ]
    machine.draft(23)
    machine.tell(LinkDown())
    for _ in range(3):
        machine.tell(TimerFired())
    assert machine.session.released == (ReleasedRange(0, 3),)


def test_release_stops_where_a_context_could_not_say_it() -> None:
    full = tuple(ReleasedRange(2 * i, 2 * i + 1) for i in range(MAX_RELEASED_RANGES))
    committed = (21,) * (2 * MAX_RELEASED_RANGES)
    machine = Machine(epoch=4, committed=committed, released=full, outage=RELEASE, max_tokens=len(committed) + 20)
    machine.tell(Placed(terms(context_length=100_000)))
    machine.draft(23)
    machine.tell(LinkDown())
    for _ in range(3):
        assert of(machine.tell(TimerFired()), Emit) == []


def test_release_never_says_more_than_the_text_may_have() -> None:
    """Not even where another verifier has less room than was drafted for: the text has what it began with."""
    machine = Machine(outage=RELEASE)
    machine.tell(Placed(terms(context_length=len(PROMPT) + 4)))
    machine.draft(21, 22, 23)
    machine.tell(LinkDown())
    machine.tell(Placed(terms("v1", context_length=len(PROMPT) + 2)))
    machine.tell(TimerFired())
    machine.tell(TimerFired())
    machine.tell(TimerFired())
    machine.draft(24)
    assert machine.committed == (21, 22, 23, 24)
    assert machine.state() is State.FINISHED


def test_release_never_says_more_than_an_earlier_run_settled() -> None:
    machine = Machine(outage=RELEASE, room=4)
    machine.tell(Placed(terms()))
    machine.draft(21, 22, 23)
    machine.tell(LinkDown())
    for _ in range(3):
        machine.tell(TimerFired())
    machine.draft(24)
    assert machine.committed == (21, 22, 23, 24)
    assert machine.state() is State.FINISHED


def test_release_context_cleared_meanwhile_opens_a_fresh_epoch_that_tells_all() -> None:
    machine = fallen(RELEASE)
    effects = machine.tell(ContextLost())
    assert effects[:2] == [
        Persist(3, 2),
        PublishContext(context(3, committed=(21, 22), released=(ReleasedRange(0, 2),))),
    ]
    assert of(machine.draft(23), Persist) == [Persist(4, 2, (23,), released=True)]


# Revise -----------------------------------------------------------------------------------------------------------


def test_revise_shows_what_is_drafted_and_keeps_it_a_draft() -> None:
    machine = cut_off(23, outage=REVISE)
    machine.tell(TimerFired())
    machine.tell(TimerFired())
    assert of(machine.tell(TimerFired()), Persist, Emit, Preview) == [Preview(0, (21, 22, 23))]
    assert machine.committed == ()
    assert machine.session.epoch == Epoch(1, NONCE)


def test_revise_shows_each_further_token_once() -> None:
    machine = fallen(REVISE)
    assert machine.draft(23) == [Preview(2, (23,)), wish(0, (*PROMPT, 21, 22, 23))]
    assert machine.draft(24) == [Preview(3, (24,)), wish(0, (*PROMPT, 21, 22, 23, 24))]


def test_revise_leaves_the_last_place_to_the_target() -> None:
    machine = fallen(REVISE, max_tokens=4)
    assert of(machine.draft(23), Draft) == []


def test_revise_draws_no_token_after_an_end() -> None:
    machine = fallen(REVISE)
    assert machine.draft(END) == [Preview(2, (END,))]
    assert machine.state() is State.OUTAGE


def test_revise_confirmed_tokens_are_committed_like_any_others() -> None:
    machine = fallen(REVISE)
    machine.draft(23, 24)
    assert sent(machine.tell(LinkUp())) == [bundle(2, (21, 22, 23, 24))]
    effects = machine.tell(verdict(2, (21, 22, 23, 24, 25), accepted=4))
    assert effects[:2] == [Persist(1, 0, (21, 22, 23, 24, 25)), Emit(0, (21, 22, 23, 24, 25))]
    assert machine.session.tally.revised == 0
    assert of(machine.draft(26), Preview) == []


def test_revise_first_wrong_token_takes_back_all_behind_it() -> None:
    machine = fallen(REVISE)
    machine.draft(23, 24, 25)
    machine.tell(LinkUp())
    effects = machine.tell(verdict(2, (21, 22, 30), accepted=2))
    assert effects[:2] == [Persist(1, 0, (21, 22, 30)), Emit(0, (21, 22, 30))]
    assert machine.session.tally.revised == 3
    assert machine.session.tally.released == 0


def test_revise_many_tokens_are_verified_in_chunks() -> None:
    many = tuple(1 + i % 50 for i in range(600))
    machine = Machine(outage=REVISE, max_tokens=800)
    machine.tell(Placed(terms(context_length=2000)))
    machine.tell(LinkDown())
    for _ in range(3):
        machine.tell(TimerFired())
    machine.draft(*many)
    (first,) = sent(machine.tell(LinkUp()))
    assert first.draft == many[:MAX_DRAFT_TOKENS]
    (second,) = sent(machine.tell(verdict(1, many[: MAX_DRAFT_TOKENS + 1], accepted=MAX_DRAFT_TOKENS)))
    assert (second.base, second.draft) == (MAX_DRAFT_TOKENS + 1, many[MAX_DRAFT_TOKENS + 1 :][:MAX_DRAFT_TOKENS])
    machine.tell(verdict(2, (99,), after=many[: MAX_DRAFT_TOKENS + 1]))
    assert machine.session.tally.revised == len(many) - MAX_DRAFT_TOKENS - 1


def test_revise_a_long_chunk_is_no_usual_round() -> None:
    """It teaches neither the timer nor the policy what a round takes."""
    pupil, roundtrip = Pupil(2), RoundTrip()
    machine = fallen(REVISE, 23, 24, 25, policy=pupil, roundtrip=roundtrip)
    machine.draft(26, 27, 28, 29, 30, 31)
    machine.tell(Unplaced())
    machine.tell(LinkUp())
    (first,) = sent(machine.tell(Placed(terms("v1"))))
    machine.now = 7.0
    (second,) = sent(machine.tell(verdict(2, (21, 22, 23), epoch=2)))
    assert len(first.draft) > len(second.draft) > machine.session.longest_draft
    machine.now = 9.0
    machine.tell(verdict(3, (24, 25), after=(21, 22, 23), epoch=2))
    assert [lesson.seconds for lesson in pupil.lessons] == [None, None]
    assert roundtrip.smoothed is None


def test_revise_a_short_draft_that_was_shown_is_gone_on_with() -> None:
    machine = drafting(outage=REVISE)
    machine.draft(21)
    machine.tell(LinkDown())
    for _ in range(3):
        machine.tell(TimerFired())
    machine.tell(LinkUp())
    assert machine.state() is State.DRAFTING
    assert machine.draft(22)[0] == PublishDraft("v0", bundle(1, (21, 22)))


def test_revise_falls_back_again_and_shows_only_what_is_new() -> None:
    machine = fallen(REVISE)
    machine.draft(23)
    machine.tell(LinkUp())
    machine.draft(24)
    machine.tell(LinkDown())
    effects: list[Effect] = []
    for _ in range(3):
        effects += machine.tell(TimerFired())
    assert of(effects, Preview) == [Preview(3, (24,))]
    assert machine.session.tally.fallbacks == 2


def test_revise_a_verdict_without_link_confirms_and_showing_goes_on() -> None:
    machine = fallen(REVISE)
    machine.draft(23)
    effects = machine.tell(verdict(1, (21, 22)))
    assert of(effects, Emit, Preview) == [Emit(0, (21, 22))]
    assert machine.session.fallen_back
    assert of(machine.draft(24), Preview) == [Preview(3, (24,))]


@pytest.mark.parametrize("event", [Cancelled(), StopFound()])
def test_revise_the_end_takes_back_what_was_not_verified(event: Event) -> None:
    machine = fallen(REVISE)
    machine.tell(event)
    assert machine.session.tally.revised == 2


def test_revise_last_verdict_takes_back_what_is_behind_it() -> None:
    machine = fallen(REVISE)
    machine.draft(23)
    machine.tell(LinkUp())
    machine.tell(verdict(2, (21, END), accepted=1, finish="stop"))
    assert machine.state() is State.FINISHED
    assert machine.session.tally.revised == 2


def test_revise_late_token_of_a_line_given_up_is_not_shown() -> None:
    machine = fallen(REVISE)
    assert machine.wish is not None
    branch = machine.wish.branch
    machine.tell(verdict(1, (30,)))
    assert machine.tell(Drafted(branch, Proposal(23, 0.9))) == []


# Words for the log ------------------------------------------------------------------------------------------------


def test_missing_says_what_keeps_a_session_from_going_on() -> None:
    assert unanswered(RELEASE).session.missing == "the verifier does not answer"
    assert cut_off(outage=RELEASE).session.missing == "the link is down"
    machine = drafting(outage=RELEASE)
    machine.tell(Unplaced())
    assert machine.session.missing == "there is no verifier for it"
