"""One request being answered: its session, what the session wants carried out, and the events its app sees."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol, assert_never

from msgspec import Struct

from edge_agent.answer import Answer
from edge_agent.effects import (
    ClearContext,
    Doubt,
    Draft,
    Effect,
    Emit,
    Failed,
    Finished,
    Persist,
    Preview,
    PublishContext,
    PublishDraft,
    StartTimer,
    StopTimer,
)
from edge_agent.events import Event, Placed, StopFound, TimerFired
from edge_agent.outage import STALL, OutageMode, OutageRules
from edge_agent.placement import Length
from edge_agent.request import Request
from edge_agent.session import Session, State
from edge_agent.spool import SpoolError
from schemas import codec
from schemas.messages import AnswerEvent, FinishReason, ReviseEvent, Statistics

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Literal

    from edge_agent.events import Terms
    from edge_agent.policy import Policy
    from edge_agent.roundtrip import RoundTrip
    from edge_agent.spool import Spool, Spooled
    from edge_agent.tally import Tally
    from schemas.topics import Topics

_log = logging.getLogger(__name__)

REFRESHES: Final = 3
"""How often a context is published again within its time to live: one that is lost on the way does no harm."""


class _Kept(Struct, frozen=True):
    """The context as it was published last, for the broker to have it again.

    Attributes:
        life: its time to live, in seconds.
        due: when to publish it again.
    """

    payload: bytes
    life: float
    due: float


class Surroundings(Protocol):
    """What a conversation needs of its agent."""

    device: str
    topics: Topics
    spool: Spool
    policy: Policy
    roundtrip: RoundTrip
    nonce: bytes
    link_up: bool
    run_tokens: int
    outage: OutageRules

    @property
    def drafter_context(self) -> int:
        """The longest sequence, in tokens, that the drafter takes."""
        ...

    def now(self) -> float:
        """Return the time in seconds, of a clock that never goes back."""
        ...

    def publish(self, topic: str, payload: bytes, *, retain: bool = False, expiry: float | None = None) -> None:
        """Send a message, which the broker may forget after `expiry` seconds; what cannot be sent is logged."""
        ...

    def say(self, request: str, payload: bytes, *, last: bool = False) -> None:
        """Send an answer event to whoever asked, the last one until the broker has it."""
        ...

    def draft(self, session: bytes, wish: Draft) -> None:
        """Have a token drafted."""
        ...

    def doubt(self, verifier: str, seconds: float | None) -> None:
        """Look for another verifier: this one does not answer, or asks to be left alone for so long."""
        ...

    def moved(self, request: str, left: str, verifier: str) -> None:
        """Note that a request has left one verifier for another."""
        ...

    def crossed(self, request: str, verifier: str) -> None:
        """Note that a text goes on at a verifier that computes otherwise than the one before."""
        ...

    def credit(self, verifier: str) -> None:
        """Hold nothing against a verifier that has answered a round."""
        ...

    def decode(self, tokens: list[int]) -> str:
        """Turn token ids into text."""
        ...


class Conversation:
    """Drives one session: events in, effects carried out, answer events published.

    Attributes:
        over: whether the last answer event was said.
        unkept: that event, where the spool did not take it; it must before a restart, or the request begins again.
    """

    def __init__(self, request: Spooled, around: Surroundings) -> None:
        """Take a request up, from the beginning or from where an earlier run of the agent left it.

        Raises:
            SpoolError: the spool does not let it begin; nothing was said or published.
        """
        self.request = request
        self.timer: float | None = None
        self._kept: _Kept | None = None
        self.bytes_down = 0
        self._bytes_up = 0
        self._around = around
        self._asked_at = around.now()
        self._first_at: float | None = None
        before = around.spool.progress(request.session)
        around.spool.mark_run(request.session)
        self._answer = Answer(request.id, around.decode, request.stop_strings, run=before.runs)
        self._session = Session(
            Request(
                request.session, request.prompt, request.max_tokens, request.tokenizer, request.sampling, request.stop
            ),
            around.policy,
            nonce=around.nonce,
            epoch=before.epoch,
            committed=before.committed,
            released=before.released,
            room=before.room,
            link_up=around.link_up,
            drafter_context=around.drafter_context,
            roundtrip=around.roundtrip,
            run=around.run_tokens,
            outage=_rules(around.outage, request),
            reading=True,
        )
        self.over = False
        self.unkept: bytes | None = None
        self.outcome = ""
        self.target = before.target
        self._room = before.room
        self.numerics = before.numerics
        if request.revise and before.runs:
            self._say(self._answer.start_over(before.committed))
        elif before.committed:
            self._show(0, before.committed)
        if before.finish is not None:
            self._end_as_before(before.finish)

    @property
    def tally(self) -> Tally:
        """What the session has counted."""
        return self._session.tally

    @property
    def queued(self) -> bool:
        """Whether no verifier has been found yet."""
        return self._session.state is State.QUEUED

    @property
    def verifier(self) -> str:
        """The verifier that serves the request, or an empty string before there was one."""
        return self._session.verifier

    @property
    def length(self) -> Length:
        """How many tokens a verifier must be able to hold."""
        room = self._room
        return Length(len(self.request.prompt), self.request.max_tokens if room is None else room, room is not None)

    def receive(self, event: Event) -> None:
        """Tell the session what happened and carry out what it wants."""
        if self.over:
            return
        if isinstance(event, Placed) and self._room is None:
            self._settle(event.terms)
        before, had_fallen, rounds = self._session.state, self._session.fallen_back, self.tally.rounds
        terms, verifier = self._session.terms, self._session.verifier
        for effect in _soonest(self._session.receive(event, self._around.now())):
            self._carry_out(effect)
        if self._session.terms is not terms:
            self._compare()
        if verifier not in ("", self._session.verifier):
            self._around.moved(self.request.id, verifier, self._session.verifier)
        if self.tally.rounds > rounds:
            # Only what continues the log is of the verifier in use; it may be another's, late.
            self._around.credit(verifier)
        self._log_change(event, before, had_fallen=had_fallen)
        if self._answer.stopped and not self.over:
            self.receive(StopFound())

    def _settle(self, terms: Terms) -> None:
        """The first verifier settles whose text it is and how long it may become, for all others and later runs."""
        room = self._session.request.room(terms)
        if room > 0:
            self.target, self._room = self.target or terms.target, room
            self.numerics = terms.numerics
            self._keep_terms()

    def _keep_terms(self) -> None:
        self._around.spool.settle(self.request.session, self.target, self._room, self.numerics)

    def _compare(self) -> None:
        """Report it where the text goes on with other numerics: at a near-tie they may choose another token."""
        before, terms = self.numerics, self._session.terms
        if terms is None or terms.numerics in ("", before):
            return
        self.numerics = terms.numerics
        self._keep_terms()
        if before and len(self._session.log):
            self._around.crossed(self.request.id, terms.verifier)

    def _log_change(self, event: Event, before: State, *, had_fallen: bool) -> None:
        """Say what an event has come to, if it has changed where the session stands."""
        session, request = self._session, self.request.id
        if session.state is not before:
            _log.debug("request %s: %s -> %s on %s", request, before.value, session.state.value, type(event).__name__)
        if session.state is State.OUTAGE and before is not State.OUTAGE:
            _log.info("request %s: outage after %d tokens: %s", request, len(session.log), session.missing)
        if session.fallen_back and not had_fallen:
            what = "released" if self._around.outage.mode is OutageMode.RELEASE else "shown as provisional"
            _log.warning("request %s: drafts are %s from here on: %s", request, what, session.missing)
        if before is State.OUTAGE and session.state in (State.DRAFTING, State.AWAITING):
            tally = session.tally
            _log.info(
                "request %s: the outage is over on %s; %d tokens released and %d taken back so far",
                request,
                type(event).__name__,
                tally.released,
                tally.revised,
            )

    def check_timer(self) -> None:
        """Tell the session if its timer has run out."""
        if self.timer is not None and self.timer <= self._around.now():
            self.timer = None
            self.receive(TimerFired())

    def refresh(self) -> None:
        """Publish the context again, as it was, well within its time to live: the broker may have lost it.

        An MQTT 5 broker forgets it by itself when that is over, and elsewhere a sweeper may clear it.
        """
        kept = self._kept
        if kept is not None and kept.due <= self._around.now() and self._around.link_up:
            self._keep_context(kept.payload, kept.life)

    def fail(self, code: str, sentence: str) -> None:
        """End the request for a reason outside the session."""
        if self.over:
            return
        around = self._around
        with suppress(SpoolError):  # once the last event is kept, that says it too
            around.spool.save(self.request.session, self._session.epoch.counter, len(self._session.log), (), "failed")
        self._clear_context()
        self._failed(code, sentence)

    def _carry_out(self, effect: Effect) -> None:  # noqa: C901, PLR0912 -- one case per effect
        around, session = self._around, self.request.session
        match effect:
            case Persist(epoch, start, tokens, finish, released):
                around.spool.save(session, epoch, start, tokens, finish, released=released)
            case PublishContext(context):
                self._keep_context(codec.encode(context), context.ttl / 1e6)
            case ClearContext():
                self._clear_context()
            case PublishDraft(verifier, bundle):
                topic, life = around.topics.draft(around.device, verifier), max(1.0, bundle.time_left / 1e6)
                self._publish_counted(topic, codec.encode(bundle), expiry=life)
            case Draft():
                around.draft(session, effect)
            case StartTimer(delay):
                self.timer = around.now() + delay
            case StopTimer():
                self.timer = None
            case Doubt(verifier, seconds):
                around.doubt(verifier, seconds)
            case Emit(index, tokens):
                self._first_at = around.now() if self._first_at is None else self._first_at
                self._show(index, tokens)
            case Preview(index, tokens):
                self._preview(index, tokens)
            case Finished(reason):
                self._finish(reason)
            case Failed(code, sentence):
                self._failed(code, sentence)
            case _:
                assert_never(effect)

    @property
    def _context_topic(self) -> str:
        return self._around.topics.session(self._around.device, self.request.session)

    def _keep_context(self, payload: bytes, life: float) -> None:
        self._kept = _Kept(payload, life, self._around.now() + life / REFRESHES)
        self._publish_counted(self._context_topic, payload, retain=True, expiry=life)

    def _clear_context(self) -> None:
        self._kept = None
        self._around.publish(self._context_topic, b"", retain=True)

    def _publish_counted(
        self, topic: str, payload: bytes, *, retain: bool = False, expiry: float | None = None
    ) -> None:
        self._bytes_up += len(payload)
        self._around.publish(topic, payload, retain=retain, expiry=expiry)

    # What the app sees --------------------------------------------------------------------------------------------

    def _show(self, index: int, tokens: tuple[int, ...]) -> None:
        if self._answer.stopped:
            return
        for event in self._answer.commit(index, tokens):
            if isinstance(event, ReviseEvent):
                _log.info("request %s: the provisional text is revised from token %d on", self.request.id, event.index)
            self._say(event)

    def _preview(self, index: int, tokens: tuple[int, ...]) -> None:
        event = self._answer.preview(index, tokens)
        if event is not None:
            self._say(event)

    def _finish(self, reason: FinishReason | Literal["cancelled"]) -> None:
        reason = "stop" if self._answer.stopped and reason == "length" else reason
        session = self._session
        last, done = self._answer.done(len(session.log), reason, self._statistics(), session.verifier, session.released)
        if last is not None:
            self._say(last)
        self.outcome = reason
        self._say(done, final=True)
        _log.info(
            "request %s: done (%s), %d tokens, %d of them released",
            self.request.id,
            reason,
            len(session.log),
            sum(span.end - span.start for span in session.released),
        )

    def _failed(self, code: str, sentence: str) -> None:
        _log.warning("request %s failed (%s): %s", self.request.id, code, sentence)
        self.outcome = code
        back = self._answer.take_back(len(self._session.log))
        if back is not None:
            self._say(back)
        self._say(self._answer.error(code, sentence[:1000]), final=True)

    def _end_as_before(self, finish: str) -> None:
        """The last run of the agent ended the session but did not come to say so."""
        self._clear_context()
        if finish in ("stop", "length", "cancelled"):
            self._finish(finish)  # type: ignore[arg-type]
        else:
            self._failed("interrupted", "the request failed just before the agent was restarted: ask again")

    def _say(self, event: AnswerEvent, *, final: bool = False) -> None:
        payload = codec.encode_json(event)
        if final:
            self.over = True
            self.timer = None
            try:
                self._around.spool.finalize(self.request.session, payload)
            except SpoolError as error:
                _log.error("the end of request %s is not kept yet: %s", self.request.id, error)
                self.unkept = payload
        self._around.say(self.request.id, payload, last=final)

    def _statistics(self) -> Statistics:
        now, tally = self._around.now(), self._session.tally
        return Statistics(
            prompt_tokens=len(self.request.prompt),
            tokens=len(self._session.log),
            rounds=tally.rounds,
            drafted=tally.drafted,
            accepted=tally.accepted,
            resends=tally.resends,
            ttft=round(1e6 * ((now if self._first_at is None else self._first_at) - self._asked_at)),
            duration=round(1e6 * (now - self._asked_at)),
            bytes_up=self._bytes_up,
            bytes_down=self.bytes_down,
            generated=tally.generated,
        )


def _rules(rules: OutageRules, request: Spooled) -> OutageRules:
    """Return what holds for a request: only an app that can take text back is shown provisional tokens."""
    return STALL if rules.mode is OutageMode.REVISE and not request.revise else rules


def _soonest(effects: Sequence[Effect]) -> list[Effect]:
    """Put first what another thread or machine goes on with: a draft, or a bundle. What is shown can wait for it.

    Nothing is sent or shown before it is on disk; a draft is neither.
    """
    if any(isinstance(effect, PublishDraft) for effect in effects):
        return sorted(effects, key=lambda effect: isinstance(effect, Emit | Preview))
    return sorted(effects, key=lambda effect: not isinstance(effect, Draft))
