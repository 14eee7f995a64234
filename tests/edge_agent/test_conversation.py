"""One request from its ask to its last event, with a real spool. Tokens are single bytes; 0 is the end token."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from msgspec import Struct

from edge_agent.conversation import Conversation
from edge_agent.delivery import Delivery
from edge_agent.drafters.drafter import Proposal
from edge_agent.effects import Draft
from edge_agent.events import Cancelled, Drafted, LinkDown, LinkUp, Placed, Terms, Unplaced
from edge_agent.outage import STALL, OutageMode, OutageRules
from edge_agent.placement import Length
from edge_agent.policy import FixedLength, Policy
from edge_agent.roundtrip import RoundTrip
from edge_agent.spool import Progress, Spool, Spooled
from schemas import codec
from schemas.messages import (
    AnswerEvent,
    DoneEvent,
    DraftBundle,
    ErrorEvent,
    FinishReason,
    ReleasedRange,
    ReviseEvent,
    SessionContext,
    TokenEvent,
    Verdict,
)
from schemas.topics import Family, Topics
from tests.edge_agent.machine import NONCE, PROMPT, SESSION, TOKENIZER, refusal, verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from broker.receipt import Receipt

V0 = Placed(Terms("v0", "1", 256, 2000, frozenset({0})))


class Published(Struct):
    """A message, and what the spool held when it went out."""

    family: Family
    payload: bytes
    retain: bool
    spooled: Progress
    expiry: float | None = None


class Device:
    """What a conversation needs: a spool, a clock, and an ear for what is published."""

    def __init__(self, path: Path | None = None) -> None:
        self.device = "pi"
        self.topics = Topics()
        self.spool = Spool(path)
        self.policy: Policy = FixedLength(2)
        self.roundtrip = RoundTrip()
        self.nonce = NONCE
        self.link_up = True
        self.drafter_context = 1000
        self.run_tokens = 0
        self.outage: OutageRules = STALL
        self.clock = 100.0
        self.published: list[Published] = []
        self.wishes: list[tuple[bytes, Draft]] = []
        self.order: list[str] = []
        self.doubts: list[tuple[str, float | None]] = []
        self.moves: list[tuple[str, str, str]] = []
        self.crossings: list[tuple[str, str]] = []
        self.credits: list[str] = []
        self.say = Delivery(self.device, self.topics, self.spool, self.publish, self.now).say

    def now(self) -> float:
        return self.clock

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        expiry: float | None = None,
        correlation: bytes | None = None,
        receipt: Receipt | None = None,
    ) -> None:
        family = self.topics.parse(topic).family
        assert retain == (family is Family.SESSION)
        self.order.append(family.name)
        self.published.append(Published(family, payload, retain, self.spool.progress(SESSION), expiry))

    def draft(self, session: bytes, wish: Draft) -> None:
        self.wishes.append((session, wish))
        self.order.append("a wish")

    def doubt(self, verifier: str, seconds: float | None) -> None:
        self.doubts.append((verifier, seconds))

    def moved(self, request: str, left: str, verifier: str) -> None:
        self.moves.append((request, left, verifier))

    def crossed(self, request: str, verifier: str) -> None:
        self.crossings.append((request, verifier))

    def credit(self, verifier: str) -> None:
        self.credits.append(verifier)

    def decode(self, tokens: list[int]) -> str:
        return bytes(token for token in tokens if token).decode(errors="replace")

    def ask(self, *, max_tokens: int = 1000, stop: tuple[str, ...] = (), revise: bool = False) -> Conversation:
        request = Spooled("ask-1", SESSION, PROMPT, max_tokens, TOKENIZER, stop_strings=stop, revise=revise)
        self.spool.add(request)
        return Conversation(request, self)

    def families(self) -> list[str]:
        """What was published, in order; a context that was cleared is marked."""
        return [m.family.name if m.payload else f"clear {m.family.name}" for m in self.published]

    def events(self) -> list[AnswerEvent]:
        return [codec.decode_event(m.payload) for m in self.published if m.family is Family.ANSWER]

    def done(self) -> DoneEvent:
        last = self.events()[-1]
        assert isinstance(last, DoneEvent)
        return last

    def error(self) -> ErrorEvent:
        last = self.events()[-1]
        assert isinstance(last, ErrorEvent)
        return last


@pytest.fixture
def device() -> Iterator[Device]:
    one = Device()
    yield one
    one.spool.close()


def say(text: str, *, after: str = "", number: int = 1, finish: FinishReason | None = None, epoch: int = 1) -> Verdict:
    return verdict(number, tuple(text.encode()), after=tuple(after.encode()), finish=finish, epoch=epoch)


# Effects carried out --------------------------------------------------------------------------------------------------


def test_placed_makes_the_epoch_durable_then_publishes_the_context_retained(device: Device) -> None:
    conversation = device.ask()
    queued = [conversation.queued]
    conversation.receive(V0)
    queued.append(conversation.queued)
    assert queued == [True, False]
    message = device.published[0]
    assert message.spooled.epoch == 1
    context = codec.decode(message.payload, SessionContext)
    assert (context.session, context.prompt, context.epoch.counter) == (SESSION, PROMPT, 1)
    assert device.wishes == [(SESSION, Draft(0, PROMPT))]


def test_placed_publishes_the_first_bundle_without_waiting_for_a_draft_and_starts_the_timer(device: Device) -> None:
    conversation = device.ask()
    assert conversation.timer is None
    conversation.receive(V0)
    assert device.families() == ["SESSION", "DRAFT"]
    assert codec.decode(device.published[-1].payload, DraftBundle).draft == ()
    assert conversation.timer == 102.0


def test_drafted_enough_publishes_the_bundle_and_starts_the_timer(device: Device) -> None:
    device.roundtrip.observe(0.0)
    conversation = device.ask()
    conversation.receive(V0)
    conversation.receive(Drafted(0, None))
    conversation.receive(say("H"))
    assert conversation.timer is None
    for token in b"ey":
        _, wish = device.wishes[-1]
        conversation.receive(Drafted(wish.branch, Proposal(token, 0.9)))
    assert device.families() == ["SESSION", "DRAFT", "ANSWER", "DRAFT"]
    assert codec.decode(device.published[-1].payload, DraftBundle).draft == tuple(b"ey")
    assert conversation.timer == 100.2


def test_timer_that_has_not_run_out_is_left_alone(device: Device) -> None:
    conversation = started(device)
    device.clock = 101.9
    conversation.check_timer()
    assert conversation.timer == 102.0
    assert device.families() == ["SESSION", "DRAFT"]


def test_timer_that_has_run_out_sends_again_once(device: Device) -> None:
    conversation = started(device)
    device.clock = 102.0
    conversation.check_timer()
    conversation.check_timer()
    assert device.families() == ["SESSION", "DRAFT", "DRAFT"]
    assert conversation.timer == 106.0


def test_timer_is_stopped_without_verifier(device: Device) -> None:
    conversation = started(device)
    conversation.receive(Unplaced())
    device.clock = 1000.0
    conversation.check_timer()
    assert device.families() == ["SESSION", "DRAFT"]


def started(device: Device, *, stop: tuple[str, ...] = (), max_tokens: int = 1000) -> Conversation:
    """A conversation that awaits the verdict of round 1."""
    conversation = device.ask(stop=stop, max_tokens=max_tokens)
    conversation.receive(V0)
    conversation.receive(Drafted(0, Proposal(1, 0.9)))
    conversation.receive(Drafted(0, Proposal(2, 0.9)))
    return conversation


# What the app sees ----------------------------------------------------------------------------------------------------


def test_tokens_are_durable_before_they_are_shown(device: Device) -> None:
    started(device).receive(say("Hä"))
    shown = device.published[-1]
    assert shown.spooled.committed == tuple("Hä".encode())
    assert device.events() == [TokenEvent("ask-1", 0, 0, 0, "Hä", tuple("Hä".encode()))]


def test_the_drafter_goes_on_before_tokens_are_shown(device: Device) -> None:
    """It works beside that, on a thread of its own."""
    conversation = started(device)
    conversation.receive(say("Hä"))
    assert device.order[-2:] == ["a wish", "ANSWER"]


def test_a_bundle_is_sent_before_tokens_are_shown_but_not_before_they_are_durable(device: Device) -> None:
    """Where the next draft is there already."""
    conversation = started(device)
    for token in (3, 4):
        conversation.receive(Drafted(device.wishes[-1][1].branch, Proposal(token, 0.9)))
    sent = len(device.order)
    conversation.receive(say("\x01"))
    assert device.order[sent : sent + 2] == ["DRAFT", "ANSWER"]
    assert all(message.spooled.committed == (1,) for message in device.published[-2:])


def test_events_are_numbered_with_offsets_in_code_points(device: Device) -> None:
    conversation = started(device)
    conversation.receive(say("Hä"))
    conversation.receive(say("😀", after="Hä", number=2))
    conversation.receive(say("!", after="Hä😀", number=3))
    assert [
        (event.sequence, event.index, event.offset) for event in device.events() if isinstance(event, TokenEvent)
    ] == [
        (0, 0, 0),
        (1, 3, 2),
        (2, 7, 3),
    ]


def test_last_verdict_is_durable_then_shown_then_the_context_is_cleared_then_done(device: Device) -> None:
    conversation = started(device)
    conversation.receive(say("Hi", finish="length"))
    assert device.families()[2:] == ["ANSWER", "clear SESSION", "ANSWER"]
    cleared, done = device.published[-2:]
    assert cleared.spooled.finish == "length"
    assert done.spooled.final == done.payload
    assert conversation.over
    assert device.done().text == "Hi"
    assert device.done().finish_reason == "length"
    assert device.spool.unanswered() == []


def test_done_tells_what_it_took(device: Device) -> None:
    conversation = started(device)
    up = sum(len(message.payload) for message in device.published)
    device.clock = 100.5
    conversation.bytes_down += 77
    conversation.receive(say("\1\2c"))
    device.clock = 101.25
    conversation.receive(say("d", after="\1\2c", number=9, finish="stop"))
    done = device.done()
    taken = done.statistics
    assert (taken.prompt_tokens, taken.tokens, taken.rounds, taken.resends) == (3, 4, 2, 0)
    assert (taken.ttft, taken.duration) == (500_000, 1_250_000)
    assert (taken.bytes_up, taken.bytes_down) == (up, 77)
    assert (done.verifier, done.lossless, done.released) == ("v0", True, ())


def test_anything_after_the_end_is_ignored(device: Device) -> None:
    conversation = started(device)
    conversation.receive(say("Hi", finish="length"))
    before = device.families()
    conversation.receive(say("more", after="Hi", number=2))
    conversation.receive(Cancelled())
    conversation.fail("code", "sentence")
    device.clock = 1000.0
    conversation.check_timer()
    assert device.families() == before


def test_stop_string_across_verdicts_ends_the_text_durably_before_the_context_is_cleared(device: Device) -> None:
    conversation = started(device, stop=("END",))
    conversation.receive(say("the E"))
    conversation.receive(say("ND of it", after="the E", number=2))
    assert [event.text for event in device.events()[:-1] if isinstance(event, TokenEvent)] == ["the ", ""]
    assert device.done().text == "the "
    assert device.done().finish_reason == "stop"
    cleared = device.published[-2]
    assert cleared.payload == b""
    assert cleared.spooled.finish == "stop"


def test_stop_string_in_the_last_verdict_is_the_reason(device: Device) -> None:
    conversation = started(device, stop=("END",))
    conversation.receive(say("the END.", finish="length"))
    assert device.done().finish_reason == "stop"
    assert device.done().text == "the "


def test_text_held_back_is_shown_at_the_end(device: Device) -> None:
    conversation = started(device, stop=("END",))
    conversation.receive(say("the EN", finish="length"))
    assert [event.text for event in device.events() if isinstance(event, TokenEvent)] == ["the ", "EN"]
    assert device.done().text == "the EN"


def test_end_token_is_no_text(device: Device) -> None:
    started(device).receive(say("Hi\0", finish="stop"))
    assert device.done().text == "Hi"
    assert device.done().statistics.tokens == 3


def test_cancelled_while_queued_is_done_without_text(device: Device) -> None:
    device.ask().receive(Cancelled())
    assert device.families() == ["ANSWER"]
    assert device.done().finish_reason == "cancelled"
    assert device.done().text == ""
    assert device.spool.progress(SESSION).finish == "cancelled"


def test_cancelled_under_way_keeps_the_text_so_far(device: Device) -> None:
    conversation = started(device)
    conversation.receive(say("Hi"))
    conversation.receive(Cancelled())
    assert device.families()[-2:] == ["clear SESSION", "ANSWER"]
    assert (device.done().finish_reason, device.done().text) == ("cancelled", "Hi")


def test_refusal_ends_in_an_error_with_its_words(device: Device) -> None:
    conversation = started(device)
    conversation.receive(refusal("unsupported_sampling"))
    assert device.families()[-2:] == ["clear SESSION", "ANSWER"]
    assert device.error() == ErrorEvent("ask-1", 0, "unsupported_sampling", "a sentence for people")
    assert conversation.over
    assert device.spool.progress(SESSION).finish == "failed"
    assert device.spool.unanswered() == []


def test_fail_is_durable_then_clears_then_says_so(device: Device) -> None:
    conversation = started(device)
    conversation.receive(say("Hi"))
    conversation.fail("internal_error", "x" * 3000)
    cleared, last = device.published[-2:]
    assert (cleared.payload, cleared.spooled.finish) == (b"", "failed")
    assert last.spooled.final == last.payload
    assert device.error() == ErrorEvent("ask-1", 1, "internal_error", "x" * 1000)
    assert conversation.over


# After a crash --------------------------------------------------------------------------------------------------------


@pytest.fixture
def restart(tmp_path: Path) -> Iterator[Callable[[], Device]]:
    """Start a device on the same spool file; the one before does nothing any more."""
    devices: list[Device] = []

    def start() -> Device:
        if devices:
            devices[-1].spool.close()
        devices.append(Device(tmp_path / "spool.db"))
        return devices[-1]

    yield start
    devices[-1].spool.close()


def test_restart_shows_the_whole_text_again_under_higher_numbers_and_goes_on(restart: Callable[[], Device]) -> None:
    before = restart()
    conversation = started(before)
    conversation.receive(say("Hä"))
    conversation.receive(say("😀", after="Hä", number=2))
    after = restart()
    conversation = after.ask()
    conversation.receive(V0)
    conversation.receive(say("!", after="Hä😀", finish="length", epoch=2))
    first, second, done = after.events()
    assert isinstance(first, TokenEvent)
    assert isinstance(second, TokenEvent)
    assert (first.index, first.offset, first.text) == (0, 0, "Hä😀")
    assert (second.index, second.offset, second.text) == (7, 3, "!")
    numbers = [event.sequence for event in (first, second, done)]
    assert numbers == [1_000_000, 1_000_001, 1_000_002]
    assert after.done().text == "Hä😀!"


def test_restart_raises_the_epoch_above_all_used_before(restart: Callable[[], Device]) -> None:
    started(restart())
    after = restart()
    after.ask().receive(V0)
    assert codec.decode(after.published[0].payload, SessionContext).epoch.counter == 2


@pytest.mark.parametrize("finish", ["stop", "length", "cancelled"])
def test_restart_says_an_end_that_was_spooled_but_never_said(restart: Callable[[], Device], finish: str) -> None:
    """The crash came after the last Persist. No verifier is needed any more."""
    before = restart()
    started(before).receive(say("Hi"))
    before.spool.save(SESSION, 1, 2, tuple(b" you"), finish)
    after = restart()
    conversation = after.ask()
    assert conversation.over
    assert after.families() == ["ANSWER", "clear SESSION", "ANSWER"]
    assert (after.done().finish_reason, after.done().text) == (finish, "Hi you")
    assert after.spool.undelivered() == [(conversation.request, after.published[-1].payload)]


def test_restart_after_a_failure_that_was_never_said_tells_to_ask_again(restart: Callable[[], Device]) -> None:
    before = restart()
    started(before)
    before.spool.save(SESSION, 1, 0, (), "failed")
    after = restart()
    assert after.ask().over
    assert after.families() == ["clear SESSION", "ANSWER"]
    assert after.error().code == "interrupted"
    assert "ask again" in after.error().message


def test_restart_with_all_tokens_and_a_stop_string_among_them_says_stop(restart: Callable[[], Device]) -> None:
    before = restart()
    started(before, stop=("END",))
    before.spool.save(SESSION, 1, 0, tuple(b"the END."), "length")
    after = restart()
    after.ask(stop=("END",))
    assert (after.done().finish_reason, after.done().text) == ("stop", "the ")


@pytest.mark.parametrize("event", [LinkUp(), Unplaced(), V0], ids=["link up", "unplaced", "placed"])
def test_restart_with_a_stop_string_spooled_but_not_acted_on_ends_at_the_first_event(
    restart: Callable[[], Device], event: LinkUp | Unplaced | Placed
) -> None:
    """The crash came between the tokens and the end they should have brought. The link may be up before a verifier."""
    before = restart()
    started(before, stop=("END",))
    before.spool.save(SESSION, 1, 0, tuple(b"the END."), None)
    after = restart()
    conversation = after.ask(stop=("END",))
    assert after.families() == ["ANSWER"]
    conversation.receive(event)
    assert conversation.over
    assert after.families()[-2:] == ["clear SESSION", "ANSWER"]
    assert (after.done().finish_reason, after.done().text) == ("stop", "the ")


def test_restart_goes_on_with_the_length_that_the_first_verifier_settled(restart: Callable[[], Device]) -> None:
    """Whoever verifies the rest: one that holds less has to wait its turn, one that holds more makes nothing longer."""
    before = restart()
    conversation = before.ask()
    assert conversation.length == Length(len(PROMPT), 1000)
    conversation.receive(Placed(Terms("v0", "1", 256, 50, frozenset({0}), target="tiny")))
    settled = Length(len(PROMPT), 50 - len(PROMPT), settled=True)
    assert (conversation.length, conversation.target) == (settled, "tiny")
    after = restart()
    conversation = after.ask()
    assert (conversation.length, conversation.target) == (settled, "tiny")
    conversation.receive(Placed(Terms("v1", "1", 256, 49, frozenset({0}))))
    assert (after.families(), conversation.queued) == ([], True)
    conversation.receive(V0)
    assert codec.decode(after.published[0].payload, SessionContext).max_tokens == settled.output


def test_prompt_that_the_verifier_cannot_hold_fails_at_once(device: Device) -> None:
    device.ask().receive(Placed(Terms("v0", "1", 256, len(PROMPT), frozenset({0}))))
    assert device.error().code == "prompt_too_long"


def test_restart_queued_can_be_cancelled_and_clears_what_was_retained(restart: Callable[[], Device]) -> None:
    started(restart()).receive(say("Hi"))
    after = restart()
    after.ask().receive(Cancelled())
    assert after.families() == ["ANSWER", "clear SESSION", "ANSWER"]
    assert (after.done().finish_reason, after.done().text) == ("cancelled", "Hi")


def test_move_to_another_verifier_is_noted_once(device: Device) -> None:
    conversation = started(device)
    conversation.receive(V0)
    conversation.receive(Unplaced())
    conversation.receive(V0)
    assert device.moves == []
    conversation.receive(Unplaced())
    for _ in range(2):
        conversation.receive(Placed(Terms("v1", "1", 256, 2000, frozenset({0}))))
    assert device.moves == [("ask-1", "v0", "v1")]


def computing(verifier: str, numerics: str) -> Placed:
    return Placed(Terms(verifier, "1", 256, 2000, frozenset({0}), numerics=numerics))


def test_text_that_goes_on_with_other_numerics_is_reported_once(restart: Callable[[], Device]) -> None:
    """And over a restart of the agent."""
    device = restart()
    conversation = device.ask()
    conversation.receive(computing("v0", "f32"))
    conversation.receive(say("Hi"))
    for verifier, numerics in (("v1", "f32"), ("v2", "bf16"), ("v2", "bf16"), ("v3", "bf16")):
        conversation.receive(computing(verifier, numerics))
    assert device.crossings == [("ask-1", "v2")]
    after = restart()
    conversation = after.ask()
    assert conversation.numerics == "bf16"
    conversation.receive(computing("v2", "bf16"))
    assert after.crossings == []
    conversation.receive(computing("v0", "f32"))
    assert after.crossings == [("ask-1", "v0")]


def test_move_after_the_round_under_way_is_noted_when_it_happens(device: Device) -> None:
    """And the last verdict is to the credit of the verifier that gave it."""
    conversation = device.ask()
    conversation.receive(computing("v0", "f32"))
    conversation.receive(Placed(computing("v1", "bf16").terms, at_leisure=True))
    assert (device.moves, device.crossings) == ([], [])
    device.clock += 60.0
    conversation.receive(say("Hi"))
    assert (device.moves, device.crossings) == ([("ask-1", "v0", "v1")], [("ask-1", "v1")])
    assert device.credits == ["v0"]


def test_text_of_which_there_is_nothing_yet_crosses_nothing(device: Device) -> None:
    conversation = device.ask()
    conversation.receive(computing("v0", "f32"))
    conversation.receive(computing("v1", "bf16"))
    assert device.crossings == []
    conversation.receive(say("Hi", epoch=2))
    assert conversation.numerics == "bf16"


def test_only_a_verdict_that_was_taken_in_is_to_the_credit_of_its_verifier(device: Device) -> None:
    conversation = started(device)
    conversation.receive(say("Hi"))
    assert device.credits == ["v0"]
    conversation.receive(say("Hi"))
    conversation.receive(Placed(Terms("v1", "1", 256, 2000, frozenset({0}))))
    conversation.receive(say(" you", after="Hi", number=2))
    assert device.credits == ["v0"], "said again, and late by a verifier that was left"
    conversation.receive(say(" you", after="Hi", number=2, epoch=2))
    assert device.credits == ["v0", "v1"]


def test_the_last_verdict_is_to_the_credit_of_its_verifier(device: Device) -> None:
    started(device).receive(say("Hi", finish="stop"))
    assert device.credits == ["v0"]


def test_refusal_for_now_has_another_verifier_looked_for(device: Device) -> None:
    conversation = started(device)
    conversation.receive(refusal(number=1, retry_after=5_000_000))
    ((verifier, seconds),) = device.doubts
    assert verifier == "v0"
    assert seconds is not None
    assert seconds >= 5.0


# Outages that last ----------------------------------------------------------------------------------------------------

RELEASE = OutageRules(OutageMode.RELEASE)
REVISE = OutageRules(OutageMode.REVISE)


def wait(device: Device, conversation: Conversation, seconds: float = 30.0) -> None:
    """Let so much time pass without link, and every timer run out."""
    device.clock += seconds
    for _ in range(3):
        conversation.check_timer()
        device.clock += seconds


def out_of_reach(device: Device, *, revise: bool = False, stop: tuple[str, ...] = ()) -> Conversation:
    """A conversation that has said "Hi", drafted " y", and whose link has been away for long."""
    conversation = device.ask(revise=revise, stop=stop)
    conversation.receive(V0)
    conversation.receive(Drafted(0, Proposal(1, 0.9)))
    conversation.receive(Drafted(0, Proposal(2, 0.9)))
    conversation.receive(say("Hi"))
    branch = device.wishes[-1][1].branch
    conversation.receive(Drafted(branch, Proposal(32, 0.9)))
    conversation.receive(Drafted(branch, Proposal(121, 0.9)))
    conversation.receive(LinkDown())
    wait(device, conversation)
    return conversation


def test_stall_says_nothing_however_long_the_outage(device: Device) -> None:
    conversation = out_of_reach(device)
    assert [type(event) for event in device.events()] == [TokenEvent]
    assert conversation.timer is None


def test_release_is_durable_with_its_range_before_it_is_shown(device: Device) -> None:
    device.outage = RELEASE
    out_of_reach(device)
    shown = device.published[-1]
    assert codec.decode_event(shown.payload) == TokenEvent("ask-1", 1, 2, 2, " y", tuple(b" y"))
    assert shown.spooled.committed == tuple(b"Hi y")
    assert shown.spooled.released == (ReleasedRange(2, 4),)
    assert shown.spooled.epoch == 2


def test_release_is_told_in_the_end(device: Device) -> None:
    device.outage = RELEASE
    conversation = out_of_reach(device)
    conversation.receive(LinkUp())
    conversation.receive(say("ou", after="Hi y", epoch=2, finish="length"))
    done = device.done()
    assert (done.text, done.lossless, done.released) == ("Hi you", False, (ReleasedRange(2, 4),))
    assert done.statistics.tokens == 6


def test_release_stop_string_among_released_tokens_ends_the_text(device: Device) -> None:
    device.outage = RELEASE
    conversation = out_of_reach(device, stop=(" y",))
    assert conversation.over
    assert (device.done().finish_reason, device.done().text) == ("stop", "Hi")


def test_release_is_remembered_by_the_next_run(restart: Callable[[], Device]) -> None:
    before = restart()
    before.outage = RELEASE
    out_of_reach(before)
    after = restart()
    conversation = after.ask()
    conversation.receive(V0)
    context = codec.decode(after.published[-2].payload, SessionContext)
    assert (context.committed, context.released) == (tuple(b"Hi y"), (ReleasedRange(2, 4),))
    conversation.receive(Cancelled())
    assert (after.done().lossless, after.done().released) == (False, (ReleasedRange(2, 4),))


def test_release_of_the_whole_text_that_was_never_said_is_told_after_a_restart(restart: Callable[[], Device]) -> None:
    before = restart()
    started(before).receive(say("Hi"))
    before.spool.save(SESSION, 2, 2, tuple(b" y"), "length", released=True)
    after = restart()
    assert after.ask().over
    assert (after.done().text, after.done().released) == ("Hi y", (ReleasedRange(2, 4),))


def test_revise_shows_provisional_text_that_is_not_durable(device: Device) -> None:
    device.outage = REVISE
    out_of_reach(device, revise=True)
    shown = device.published[-1]
    assert codec.decode_event(shown.payload) == TokenEvent("ask-1", 1, 2, 2, " y", tuple(b" y"), provisional=True)
    assert shown.spooled.committed == tuple(b"Hi")


def test_revise_shows_nothing_provisional_to_who_did_not_opt_in(device: Device) -> None:
    device.outage = REVISE
    conversation = out_of_reach(device)
    conversation.receive(LinkUp())
    conversation.receive(say(" m", after="Hi", number=2))
    assert [(type(event), event.text) for event in device.events() if isinstance(event, TokenEvent | ReviseEvent)] == [
        (TokenEvent, "Hi"),
        (TokenEvent, " m"),
    ]


def test_release_does_not_ask_who_opted_in(device: Device) -> None:
    device.outage = RELEASE
    out_of_reach(device, revise=True)
    (_, released) = device.events()
    assert isinstance(released, TokenEvent)
    assert not released.provisional


def test_revise_puts_the_text_right_when_the_verifier_is_back(device: Device) -> None:
    device.outage = REVISE
    conversation = out_of_reach(device, revise=True)
    conversation.receive(LinkUp())
    conversation.receive(say(" me", after="Hi", number=2, finish="length"))
    events = device.events()[2:]
    assert events[:2] == [
        TokenEvent("ask-1", 2, 2, 2, " ", (32,)),
        ReviseEvent("ask-1", 3, 3, 3, "me", tuple(b"me")),
    ]
    done = device.done()
    assert (done.text, done.lossless) == ("Hi me", True)


def test_revise_provisional_stop_string_ends_nothing(device: Device) -> None:
    device.outage = REVISE
    conversation = out_of_reach(device, revise=True, stop=(" y",))
    assert not conversation.over
    conversation.receive(LinkUp())
    conversation.receive(say(" yo", after="Hi", number=2))
    assert (device.done().finish_reason, device.done().text) == ("stop", "Hi")


def test_revise_failure_takes_provisional_text_back_before_it_is_told(device: Device) -> None:
    device.outage = REVISE
    conversation = out_of_reach(device, revise=True)
    conversation.fail("internal_error", "a sentence")
    assert device.events()[-2:] == [
        ReviseEvent("ask-1", 2, 2, 2, "", ()),
        ErrorEvent("ask-1", 3, "internal_error", "a sentence"),
    ]


@pytest.mark.parametrize("mode", list(OutageMode))
def test_revise_restart_puts_who_opted_in_right_first(restart: Callable[[], Device], mode: OutageMode) -> None:
    """Whatever the agent is now set up for: the run before may have shown anything."""
    before = restart()
    before.outage = REVISE
    out_of_reach(before, revise=True)
    after = restart()
    after.outage = OutageRules(mode)
    after.ask(revise=True)
    assert after.events() == [ReviseEvent("ask-1", 1_000_000, 0, 0, "Hi", tuple(b"Hi"))]


def test_revise_restart_with_nothing_committed_empties_the_text(restart: Callable[[], Device]) -> None:
    restart().ask(revise=True)
    after = restart()
    after.ask(revise=True)
    assert after.events() == [ReviseEvent("ask-1", 1_000_000, 0, 0, "", ())]


def test_revise_first_run_has_nothing_to_put_right(device: Device) -> None:
    device.ask(revise=True)
    assert device.events() == []


@pytest.mark.parametrize(
    ("rules", "word"), [(RELEASE, "drafts are released"), (REVISE, "drafts are shown as provisional")]
)
def test_every_transition_is_logged_with_its_reason(
    device: Device, caplog: pytest.LogCaptureFixture, rules: OutageRules, word: str
) -> None:
    caplog.set_level("INFO", "edge_agent.conversation")
    device.outage = rules
    conversation = out_of_reach(device, revise=True)
    conversation.receive(LinkUp())
    said = [record.getMessage() for record in caplog.records]
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING", "INFO"]
    assert said[0] == "request ask-1: outage after 2 tokens: the link is down"
    assert word in said[1]
    assert "the link is down" in said[1]
    assert "the outage is over on LinkUp" in said[2]


# What brokers forget --------------------------------------------------------------------------------------------------

THIRD = 1200.0
"""Seconds: of a time to live of one hour."""


def refreshed(device: Device, conversation: Conversation, seconds: float) -> list[Published]:
    """What is published when so much time has passed."""
    before = len(device.published)
    device.clock += seconds
    conversation.refresh()
    return device.published[before:]


def test_context_is_published_again_as_it_was_every_third_of_its_time_to_live(device: Device) -> None:
    conversation = started(device)
    conversation.receive(say("Hi"))
    context = device.published[0].payload
    assert refreshed(device, conversation, THIRD - 1) == []
    for _ in range(3):
        (message,) = refreshed(device, conversation, 1)
        assert (message.family, message.payload, message.retain) == (Family.SESSION, context, True)
        assert refreshed(device, conversation, THIRD - 1) == []


def test_context_that_replaces_another_is_the_one_published_again(device: Device) -> None:
    conversation = started(device)
    device.clock += THIRD - 1
    conversation.receive(Unplaced())
    conversation.receive(Placed(Terms("v1", "1", 256, 2000, frozenset({0}))))
    assert refreshed(device, conversation, 1) == [], "its own time to live has just begun"
    (message,) = refreshed(device, conversation, THIRD - 1)
    assert codec.decode(message.payload, SessionContext).owner == "v1"


def test_context_counts_as_sent_each_time_it_is_published_again(device: Device) -> None:
    conversation = started(device)
    refreshed(device, conversation, THIRD)
    up = sum(len(message.payload) for message in device.published)
    conversation.receive(say("Hi", finish="length"))
    assert device.done().statistics.bytes_up == up


def test_context_is_not_published_again_while_the_link_is_down(device: Device) -> None:
    """It would only wait, and the link's return brings it anyway."""
    conversation = started(device)
    device.link_up = False
    assert refreshed(device, conversation, THIRD) == []
    device.link_up = True
    assert len(refreshed(device, conversation, 0)) == 1


@pytest.mark.parametrize("end", ["done", "cancelled", "failed"])
def test_context_of_a_session_that_has_ended_is_never_published_again(device: Device, end: str) -> None:
    conversation = started(device)
    match end:
        case "done":
            conversation.receive(say("Hi", finish="length"))
        case "cancelled":
            conversation.receive(Cancelled())
        case _:
            conversation.fail("internal_error", "a sentence")
    assert refreshed(device, conversation, THIRD) == []


def test_context_is_not_published_before_there_is_one(device: Device) -> None:
    conversation = device.ask()
    assert refreshed(device, conversation, THIRD) == []


def test_context_expires_with_its_time_to_live_and_a_draft_with_the_patience_for_it(device: Device) -> None:
    """And the empty message that clears a context, never."""
    conversation = started(device)
    conversation.receive(Cancelled())
    assert [(m.family, m.expiry) for m in device.published[:3]] == [
        (Family.SESSION, 3600.0),
        (Family.DRAFT, 2.0),
        (Family.SESSION, None),
    ]


def test_draft_lives_for_a_second_at_least(device: Device) -> None:
    """Brokers count in whole seconds."""
    for _ in range(20):
        device.roundtrip.observe(0.01)
    conversation = started(device)
    conversation.receive(say("H"))
    for token in b"ey":
        conversation.receive(Drafted(device.wishes[-1][1].branch, Proposal(token, 0.9)))
    assert codec.decode(device.published[-1].payload, DraftBundle).time_left < 1_000_000
    assert device.published[-1].expiry == 1.0
