"""One session of the agent: the protocol, as a state machine without I/O.

A session is a log of output tokens that only grows. The agent drafts tokens beyond the log (`pending`), sends some of
them in a bundle, and keeps drafting while it waits. A verdict tells it more of the log; whatever of `pending` agrees
with it stays a draft, the rest is forgotten. Every message may be lost, late, repeated or reordered: a verdict is taken
in only where it continues the log the agent holds, so none of that can change the text.

    QUEUED ──placed──▶ DRAFTING ──bundle sent──▶ AWAITING ──verdict──▶ DRAFTING … ──last verdict──▶ FINISHED
                            ╲                      │  ▲
                             ╲── link or verifier ─▼  │── link and verifier back, or a verdict
                                  gone          OUTAGE

`TRANSITIONS` is the whole table: which event means what in which state, and where it may lead. An event that is not in
it is a mistake of the shell and raises. All state lives in this file.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from msgspec import Struct

from edge_agent.drafters.drafter import Proposal
from edge_agent.effects import (
    ClearContext,
    Doubt,
    Draft,
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
    Terms,
    TimerFired,
    Unplaced,
)
from edge_agent.pending import Pending
from edge_agent.policy import Outcome
from edge_agent.roundtrip import RoundTrip
from schemas.digest import Log, next_digest
from schemas.limits import MAX_DRAFT_TOKENS
from schemas.messages import (
    VERSION,
    DraftBundle,
    Epoch,
    Refusal,
    Resync,
    Sampling,
    SessionContext,
    StopRules,
    Verdict,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from edge_agent.policy import Policy

OUTAGE_FAILURES: Final = 3
"""So many rounds without an answer …"""
OUTAGE_WINDOW: Final = 60.0
"""… within so many seconds are an outage, even if link and verifier seem well."""
MAX_COUNTER: Final = 2**52
"""No honest agent gets here; a verifier that claims to know such an epoch is not followed out of the wire's range."""


class State(Enum):
    """Where a session stands."""

    QUEUED = "queued"
    DRAFTING = "drafting"
    AWAITING = "awaiting"
    OUTAGE = "outage"
    FINISHED = "finished"


class Request(Struct, frozen=True):
    """What a session is asked for.

    Attributes:
        session: eight random bytes.
        prompt: token ids, chat template applied.
        max_tokens: the output ends at this many tokens.
        tokenizer: digest of the tokenizer that made `prompt`.
    """

    session: bytes
    prompt: tuple[int, ...]
    max_tokens: int
    tokenizer: str
    sampling: Sampling = Sampling()
    stop: StopRules = StopRules()


class Tally(Struct):
    """Counts of one session, or of many added up.

    Attributes:
        rounds: verdicts that committed something.
        drafted: draft tokens that those judged.
        accepted: of those, accepted.
        committed: output tokens added to the log.
        generated: of those, tokens of runs, which the verifier wrote by itself.
        resends: bundles sent again.
        resyncs: contexts published again because a verifier asked.
        outages: times the session fell into an outage.
        ignored: messages that were late, stale or repeated.
    """

    rounds: int = 0
    drafted: int = 0
    accepted: int = 0
    committed: int = 0
    generated: int = 0
    resends: int = 0
    resyncs: int = 0
    outages: int = 0
    ignored: int = 0

    def __add__(self, other: Tally) -> Tally:
        """Return both added up, count by count."""
        return Tally(*(getattr(self, name) + getattr(other, name) for name in self.__struct_fields__))


class _Flight(Struct, frozen=True):
    """The bundle that waits for its verdict."""

    round: int
    sent_at: float
    resent: bool


class _Sent(Struct, frozen=True):
    """What a round asked for: a draft to be judged at a base, and a run of so many tokens behind the verdict."""

    base: int
    proposals: tuple[Proposal, ...]
    run: int


class Session:
    """The agent's half of one session. Feed it events, carry out the effects it returns, in order.

    Times are seconds of any monotonic clock; the machine only subtracts them.
    """

    def __init__(
        self,
        request: Request,
        policy: Policy,
        *,
        nonce: bytes,
        epoch: int = 0,
        committed: tuple[int, ...] = (),
        link_up: bool = True,
        drafter_context: int = 1 << 30,
        roundtrip: RoundTrip | None = None,
        run: int = 0,
    ) -> None:
        """Start in QUEUED.

        Args:
            request: what is asked for.
            policy: when to stop drafting; learns from every verdict that adds to the log.
            nonce: eight random bytes of this run of the agent.
            epoch: the highest epoch counter this session ever used; 0 for a new session.
            committed: output tokens made durable by an earlier run.
            link_up: whether the broker is reachable now.
            drafter_context: the longest sequence the drafter takes, in tokens.
            roundtrip: shared between the sessions of a device, so that the timers start with what was learnt.
            run: how many further tokens the verifier shall write by itself in a round without a draft, at most;
                0 is plain SLED.
        """
        self.request = request
        self.state = State.QUEUED
        self.tally = Tally()
        self.log = Log(request.prompt, committed)
        self._policy = policy
        self._nonce = nonce
        self._epoch = Epoch(epoch, nonce)
        self._revision = 0
        self._round = 0
        self._context: SessionContext | None = None
        self._terms: Terms | None = None
        self._placed = False
        self._link_up = link_up
        self._drafter_context = drafter_context
        self._drafter_lost = False
        self._roundtrip = roundtrip or RoundTrip()
        self._failures: deque[float] = deque(maxlen=OUTAGE_FAILURES)
        self._max_tokens = request.max_tokens
        self._pending = Pending()
        self._flight: _Flight | None = None
        self._sent: dict[int, _Sent] = {}
        self._since: float | None = None
        self._most_run = run
        self._run_hint = run
        self._draft_hint = 0
        self._step_time = 0.0

    @property
    def epoch(self) -> Epoch:
        """The current epoch."""
        return self._epoch

    @property
    def verifier(self) -> str:
        """The verifier that serves the session, or an empty string before it was placed."""
        return self._terms.verifier if self._terms else ""

    @property
    def longest_draft(self) -> int:
        """No bundle has more draft tokens: room for the extras that a resend carries."""
        return min(2 * self._policy.max_draft + 1, MAX_DRAFT_TOKENS)

    def receive(self, event: Event, now: float) -> list[Effect]:
        """Take in an event and return what is to be done, in order.

        Raises:
            ValueError: the event cannot happen in this state.
        """
        before = self.state
        row = TRANSITIONS[before].get(type(event))
        if row is None:
            raise ValueError(f"a session that is {before.value} cannot receive {type(event).__name__}")
        handle, after = row
        effects: list[Effect] = handle(self, event, now)
        if self.state not in after:
            raise AssertionError(f"{type(event).__name__} led from {before.value} to {self.state.value}")
        self.tally.outages += self.state is State.OUTAGE and before is not State.OUTAGE
        return effects

    # Placement and link -------------------------------------------------------------------------------------------

    def _begin(self, event: Placed, now: float) -> list[Effect]:
        """Open the first epoch of this run."""
        return self._move(event.terms, now)

    def _place(self, event: Placed, now: float) -> list[Effect]:
        """Go on with the picked verifier: the same one, or another in a fresh epoch."""
        old, new = self._terms, event.terms
        if old is None or old.verifier != new.verifier:
            return self._move(new, now)
        was_placed, self._placed, self._terms = self._placed, True, new
        return [] if was_placed and old.boot == new.boot else self._resume(now)

    def _move(self, terms: Terms, now: float) -> list[Effect]:
        """Turn to a verifier in a fresh epoch, unless it cannot serve the request at all."""
        request, room = self.request, terms.context_length - len(self.request.prompt)
        if not request.prompt:
            return self._fail("empty_prompt", "the prompt has no tokens: ask something")
        if room < 1:
            return self._fail(
                "prompt_too_long",
                f"the prompt has {len(request.prompt)} tokens, but verifier {terms.verifier!r} takes "
                f"{terms.context_length} for prompt and answer together: shorten it",
            )
        unknown = [token for token in request.prompt if not 0 <= token < terms.vocab_size]
        if unknown:
            return self._fail(
                "token_out_of_vocabulary",
                f"the prompt holds token {unknown[0]}, but the target of verifier {terms.verifier!r} knows only ids "
                f"below {terms.vocab_size}: the device's tokenizer is not the target's",
            )
        self._max_tokens = min(request.max_tokens, room)
        if len(self.log) >= self._max_tokens:
            return self._finish("length")
        self._placed = True
        return self._new_epoch(terms) + self._resume(now)

    def _unplace(self, _event: Unplaced, _now: float) -> list[Effect]:
        self._placed = False
        return self._stall()

    def _link_lost(self, _event: LinkDown, _now: float) -> list[Effect]:
        self._link_up = False
        return self._stall()

    def _link_lost_queued(self, _event: LinkDown, _now: float) -> list[Effect]:
        self._link_up = False
        return []

    def _link_back_queued(self, _event: LinkUp, _now: float) -> list[Effect]:
        self._link_up = True
        return []

    def _link_back(self, _event: LinkUp, now: float) -> list[Effect]:
        """The broker may have lost what it retained, so the context goes out again, as it was."""
        self._link_up = True
        effects: list[Effect] = [PublishContext(self._context)] if self._context else []
        return effects + self._resume(now)

    def _stall(self) -> list[Effect]:
        self.state = State.OUTAGE
        self._since = None
        return [StopTimer(), *self._draft_on()]

    def _resume(self, now: float) -> list[Effect]:
        """Send again what was sent, or what is pending once it is enough; stall while link or verifier is missing."""
        if not (self._link_up and self._placed):
            return self._stall()
        self._failures.clear()
        if self._flight or self._enough() or not self._can_draft():
            self.state = State.AWAITING
            return self._send(now, resend=self._flight is not None)
        self.state = State.DRAFTING
        return [StopTimer(), *self._draft_on()]

    # Epochs, contexts and bundles ---------------------------------------------------------------------------------

    def _new_epoch(self, terms: Terms, *, above: int = 0) -> list[Effect]:
        """Raise the fence: durable first, then the context, before the first bundle of the epoch."""
        self._terms = terms
        self._epoch = Epoch(max(self._epoch.counter, above) + 1, self._nonce)
        self._revision = 0
        self._flight = None
        self._since = None
        self._sent.clear()
        return [Persist(self._epoch.counter, len(self.log)), self._publish_context()]

    def _publish_context(self) -> PublishContext:
        request = self.request
        self._context = SessionContext(
            VERSION,
            "context",
            request.session,
            self._epoch,
            self._revision,
            self.verifier,
            request.tokenizer,
            request.prompt,
            self.log.tokens(),
            self._max_tokens,
            request.sampling,
            request.stop,
        )
        return PublishContext(self._context)

    def _send(self, now: float, *, resend: bool) -> list[Effect]:
        """Send what is pending at the present base; a resend is a new round and carries the extras drafted since."""
        assert self._terms is not None
        base = len(self.log)
        # The verdict adds one token of the target's own, so a draft as long as the limit would waste its last place.
        proposals = tuple(self._pending.proposals[: min(self.longest_draft, self._max_tokens - base - 1)])
        draft = tuple(proposal.token for proposal in proposals)
        run = 0 if draft else min(self._most_run, self._run_hint, self._max_tokens - base - 1)
        self._round += 1
        self._sent[self._round] = _Sent(base, proposals, run)
        self._flight = _Flight(self._round, now, resent=resend)
        self.tally.resends += resend
        timeout = self._roundtrip.timeout(self._terms.round_time + run * self._step_time)
        bundle = DraftBundle(
            VERSION,
            "draft",
            self.request.session,
            self._epoch,
            self._revision,
            self._round,
            base,
            self.log.digest(),
            draft,
            run,
            time_left=round(timeout * 1e6),
        )
        return [PublishDraft(self._terms.verifier, bundle), StartTimer(timeout), *self._draft_on()]

    def _timeout(self, _event: TimerFired, now: float) -> list[Effect]:
        """No answer in time: send again, with the extras; after too many in a row, call it an outage."""
        if not (self._link_up and self._placed):
            return []
        self._failures.append(now)
        self._roundtrip.back_off()
        doubt: list[Effect] = []
        if len(self._failures) == OUTAGE_FAILURES and now - self._failures[0] <= OUTAGE_WINDOW:
            self.state = State.OUTAGE
            doubt = [Doubt(self.verifier)]
        return self._send(now, resend=True) + doubt

    # Drafting -----------------------------------------------------------------------------------------------------

    def _can_draft(self) -> bool:
        """Whether one more token could ever be of use: room for it and the target's own, and no end before it."""
        end = self._terms.end_tokens if self._terms and not self.request.stop.ignore_end else frozenset()
        last = self._pending.tokens[-1:]
        ended = any(token in end or token in self.request.stop.tokens for token in last)
        length = len(self.log) + len(self._pending)
        return (
            not (self._drafter_lost or self._pending.exhausted)
            and not ended
            and length + 1 < self._max_tokens
            and len(self.request.prompt) + length < self._drafter_context
        )

    def _draft_on(self) -> list[Effect]:
        """Ask for one more token, unless one is being drafted or there are enough to go on with."""
        if self._pending.busy or not self._can_draft() or not self._wants_more():
            return []
        self._pending.busy = True
        sequence = self.log.sequence() + self._pending.tokens
        position = len(self.log) + len(self._pending)
        return [Draft(self._pending.branch, sequence, self.request.sampling, position)]

    def _wants_more(self) -> bool:
        """Whether one more token is wanted: for the next bundle, or ahead while a verdict or the link is awaited."""
        if self.state is State.DRAFTING:
            return len(self._pending) < self._policy.max_draft
        most = max(self.longest_draft, self._policy.max_draft)
        return len(self._pending) < most and self._policy.ahead(self._pending.proposals)

    def _take_draft(self, event: Drafted, now: float) -> list[Effect]:
        if event.branch != self._pending.branch:
            return []
        proposal = event.proposal
        if proposal is not None and self._terms is not None and not 0 <= proposal.token < self._terms.vocab_size:
            return self._lose_drafter(DrafterLost(), now)
        self._pending.add(proposal)
        if self.state is State.DRAFTING and (self._enough() or not self._can_draft()):
            self.state = State.AWAITING
            return self._send(now, resend=False)
        return self._draft_on()

    def _enough(self) -> bool:
        """Whether the draft is as long as the policy wants it, or as the verifier can take now."""
        return self._policy.enough(self._pending.proposals) or 0 < self._draft_hint <= len(self._pending)

    def _lose_drafter(self, _event: DrafterLost, now: float) -> list[Effect]:
        """Go on without drafts: every round then brings the one token the target adds."""
        self._pending.busy = False
        self._drafter_lost = True
        if self.state is not State.DRAFTING:
            return []
        self.state = State.AWAITING
        return self._send(now, resend=False)

    # Answers of the verifier --------------------------------------------------------------------------------------

    def _verdict(self, verdict: Verdict, now: float) -> list[Effect]:
        """Append what continues the log; ignore what is of another epoch, contradicts the log or says nothing new."""
        if not self._continues(verdict):
            return self._ignore(verdict, now)
        held = len(self.log)
        new = verdict.tokens[held - verdict.base :]
        if not (new or verdict.finish):
            return self._ignore(verdict, now)
        flight, self._flight = self._flight, None
        since, self._since = self._since, now
        usual = flight is not None and flight.round == verdict.round and not flight.resent
        if flight and usual:
            self._roundtrip.observe(now - flight.sent_at)
        if new:
            sent = self._count(verdict)
            self._learn(sent, new, now - since if usual and since is not None else None)
            self._draft_hint, self._run_hint = verdict.draft_hint, verdict.run_hint or self._most_run
            self._step_time = verdict.step_time / 1e6 or self._step_time
            self.log.extend(new)
            self._pending.follow(new)
        if verdict.finish or len(self.log) >= self._max_tokens:
            return self._finish(verdict.finish or "length", new)
        return [Persist(self._epoch.counter, held, new), Emit(held, new), *self._resume(now)]

    def _continues(self, verdict: Verdict) -> bool:
        """Whether a verdict speaks of this epoch's log: base, overlap, limit and digest all fit what is held."""
        held = len(self.log)
        end = verdict.base + len(verdict.tokens)
        return (
            verdict.session == self.request.session
            and verdict.epoch == self._epoch
            and bool(verdict.tokens)
            and verdict.base <= held
            and end <= self._max_tokens
            and not (verdict.finish and end < held)
            and self.log.tokens(verdict.base, end) == verdict.tokens[: held - verdict.base]
            and self.log.digest_with(verdict.base, verdict.tokens) == verdict.digest
        )

    def _count(self, verdict: Verdict) -> _Sent:
        """Count a verdict that adds to the log, and return what its round had asked for."""
        sent = self._sent.pop(verdict.round, _Sent(verdict.base, (), 0))
        drafted = len(sent.proposals)
        self.tally.rounds += 1
        self.tally.committed += len(verdict.tokens) - (len(self.log) - verdict.base)
        self.tally.drafted += drafted
        self.tally.accepted += min(verdict.accepted, drafted)
        self.tally.generated += min(sent.run, max(0, len(verdict.tokens) - verdict.accepted - 1))
        for earlier in [number for number in self._sent if number < verdict.round]:
            del self._sent[earlier]
        return sent

    def _learn(self, sent: _Sent, new: tuple[int, ...], seconds: float | None) -> None:
        """Tell the policy what became of a round's draft; `new` is about to be added to the log.

        What counts is where the draft continues the log as it was until now. An earlier part was settled by the verdict
        that brought those tokens; if they contradict it, nothing behind them was judged.
        """
        behind = len(self.log) - sent.base
        settled = tuple(proposal.token for proposal in sent.proposals[:behind])
        agreed = settled == self.log.tokens(sent.base, sent.base + len(settled))
        proposals = sent.proposals[behind:] if agreed else ()
        accepted = 0
        for proposal, token in zip(proposals, new, strict=False):
            if proposal.token != token:
                break
            accepted += 1
        if accepted == len(new):  # the text or its room ended here: nobody has judged the next one
            proposals = proposals[:accepted]
        self._policy.learn(Outcome(proposals, accepted, len(new), seconds))

    def _resync(self, resync: Resync, now: float) -> list[Effect]:
        """Say again, in a fresh revision or epoch, what the log is; then send the bundle again."""
        if resync.session != self.request.session or self._terms is None:
            return self._ignore(resync, now)
        known = resync.known
        behind = known is not None and (known != self._epoch or resync.reason == "ended")
        if known is not None and behind and self._epoch.counter <= known.counter < MAX_COUNTER:
            self.tally.resyncs += 1
            return self._new_epoch(self._terms, above=known.counter) + self._resume(now)
        if resync.epoch != self._epoch or resync.revision != self._revision:
            return self._ignore(resync, now)
        self.tally.resyncs += 1
        self._revision += 1
        self._since = None
        effects: list[Effect] = [self._publish_context()]
        if self._flight and self._link_up and self._placed:
            effects += self._send(now, resend=True)
        return effects

    def _context_lost(self, _event: ContextLost, now: float) -> list[Effect]:
        """Only a fresh epoch opens a session again that verifiers believe to be over."""
        assert self._terms is not None
        return self._new_epoch(self._terms) + self._resume(now)

    def _refused(self, refusal: Refusal, now: float) -> list[Effect]:
        """Wait as long as the verifier asks for, or give up where waiting cannot help.

        It asks everybody it refuses for the same, so that each waits up to half as long again, or they would all be
        back at once; how much is drawn from the session's id and round.
        """
        if refusal.session not in (None, self.request.session) or refusal.epoch not in (None, self._epoch):
            return self._ignore(refusal, now)
        if refusal.retry_after == 0:
            return self._fail(refusal.code, refusal.sentence)
        if self._flight is None or refusal.round not in (None, self._flight.round):
            return self._ignore(refusal, now)
        spread = 1 + int.from_bytes(next_digest(self.request.session, self._round)) / 2**65
        delay = max(refusal.retry_after / 1e6, self._roundtrip.timeout()) * spread
        return [StartTimer(delay), Doubt(self.verifier, delay)]

    # Ends ---------------------------------------------------------------------------------------------------------

    def _stop(self, _event: StopFound, _now: float) -> list[Effect]:
        return self._finish("stop")

    def _cancel(self, _event: Cancelled, _now: float) -> list[Effect]:
        return self._finish("cancelled")

    def _finish(self, reason: Literal["stop", "length", "cancelled"], new: tuple[int, ...] = ()) -> list[Effect]:
        """End well: the last tokens and the end are durable as one before anybody is told, or the context goes."""
        self.state = State.FINISHED
        start = len(self.log) - len(new)
        emitted: list[Effect] = [Emit(start, new)] if new else []
        return [
            Persist(self._epoch.counter, start, new, reason),
            *emitted,
            StopTimer(),
            *self._clear_context(),
            Finished(reason),
        ]

    def _fail(self, code: str, sentence: str) -> list[Effect]:
        self.state = State.FINISHED
        return [
            StopTimer(),
            Persist(self._epoch.counter, len(self.log), finish="failed"),
            *self._clear_context(),
            Failed(code, sentence),
        ]

    def _clear_context(self) -> list[Effect]:
        """Clear what this run, or an earlier one, has published."""
        return [ClearContext()] if self._epoch.counter else []

    def _ignore(self, _event: Event, _now: float) -> list[Effect]:
        self.tally.ignored += 1
        return []


_Row = tuple["Callable[[Session, Any, float], list[Effect]]", frozenset[State]]


def _to(*states: State) -> frozenset[State]:
    return frozenset(states)


_Q, _D, _A, _O, _F = State
_ACTIVE: dict[type[Event], _Row] = {
    Placed: (Session._place, _to(_D, _A, _O, _F)),
    Unplaced: (Session._unplace, _to(_O)),
    LinkUp: (Session._link_back, _to(_D, _A, _O)),
    LinkDown: (Session._link_lost, _to(_O)),
    Drafted: (Session._take_draft, _to(_D, _A, _O)),
    DrafterLost: (Session._lose_drafter, _to(_A, _O)),
    Verdict: (Session._verdict, _to(_D, _A, _O, _F)),
    Resync: (Session._resync, _to(_D, _A, _O)),
    Refusal: (Session._refused, _to(_D, _A, _O, _F)),
    StopFound: (Session._stop, _to(_F)),
    Cancelled: (Session._cancel, _to(_F)),
    ContextLost: (Session._context_lost, _to(_D, _A, _O)),
}

TRANSITIONS: Final[Mapping[State, Mapping[type[Event], _Row]]] = {
    _Q: {
        Placed: (Session._begin, _to(_D, _A, _O, _F)),
        Unplaced: (Session._ignore, _to(_Q)),
        LinkUp: (Session._link_back_queued, _to(_Q)),
        LinkDown: (Session._link_lost_queued, _to(_Q)),
        Verdict: (Session._ignore, _to(_Q)),
        Resync: (Session._ignore, _to(_Q)),
        Refusal: (Session._ignore, _to(_Q)),
        StopFound: (Session._stop, _to(_F)),
        Cancelled: (Session._cancel, _to(_F)),
        ContextLost: (Session._ignore, _to(_Q)),
    },
    # No bundle is on its way, so no timer runs.
    _D: _ACTIVE,
    _A: _ACTIVE | {TimerFired: (Session._timeout, _to(_A, _O))},
    _O: _ACTIVE | {TimerFired: (Session._timeout, _to(_O))},
    _F: dict.fromkeys(get_args(Event), (Session._ignore, _to(_F))),
}
"""(state, event) → what it does and the states it may lead to."""
