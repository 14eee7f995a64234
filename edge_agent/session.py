"""One session of the agent: the protocol, as a state machine without I/O.

A session is a log of output tokens that only grows. The agent drafts tokens beyond the log (`pending`), sends some of
them in a bundle, and keeps drafting while it waits. A verdict tells it more of the log; whatever of `pending` agrees
with it stays a draft, the rest is forgotten. Every message may be lost, late, repeated or reordered: a verdict is taken
in only where it continues the log the agent holds, so none of that can change the text.

    QUEUED ──placed──▶ DRAFTING ──bundle sent──▶ AWAITING ──verdict──▶ DRAFTING … ──last verdict──▶ FINISHED
                            ╲                      │  ▲
                             ╲── link or verifier ─▼  │── link and verifier back, or an answer
                                  gone          OUTAGE

While the drafter still reads the prompt, nothing waits for it: bundles go out without a draft, from QUEUED to AWAITING.

An outage that lasts makes a session fall back on its drafts, if it is told to (`edge_agent.outage`): it makes them
final, in a fresh epoch, or shows them until they can be verified.

`TRANSITIONS` is the whole table: which event means what in which state, and where it may lead. An event that is not in
it is a mistake of the shell and raises. All state lives in this file.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from msgspec import Struct

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
from edge_agent.outage import STALL, Outage, OutageRules
from edge_agent.pending import Pending
from edge_agent.rounds import Asked, Rounds
from edge_agent.roundtrip import RoundTrip
from edge_agent.tally import Tally
from schemas.digest import Log, next_digest
from schemas.limits import MAX_DRAFT_TOKENS, MAX_RELEASED_RANGES
from schemas.messages import (
    VERSION,
    DraftBundle,
    Epoch,
    Refusal,
    ReleasedRange,
    Resync,
    SessionContext,
    Verdict,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from edge_agent.policy import Policy
    from edge_agent.request import Request

LEAST_PUT_OFF: Final = 0.1
"""Seconds that a session waits at least when it is refused for now, however little the verifier asks for."""
MOST_PATIENCE: Final = 8
"""Where the session is not served yet, it waits twice as long after each refusal, but never longer than so many times
what the verifier asks for: where all are full, nobody may be kept busy by those who wait."""
MOST_PUT_OFFS: Final = 3
"""Times in a row that a verifier puts off a session it serves before another one is looked for."""
MAX_COUNTER: Final = 2**52
"""No honest agent gets here; a verifier that claims to know such an epoch is not followed out of the wire's range."""


class State(Enum):
    """Where a session stands."""

    QUEUED = "queued"
    DRAFTING = "drafting"
    AWAITING = "awaiting"
    OUTAGE = "outage"
    FINISHED = "finished"


class _Flight(Struct, frozen=True):
    """The bundle that waits for its verdict.

    A usual one was sent once, is as long as others, and found the log before it read.
    """

    round: int
    sent_at: float
    timeout: float
    usual: bool


class _Departure(Struct, frozen=True):
    """The session is to turn to another verifier with the first verdict from `due` on, and sooner if none comes.

    Until then that one reads the log ahead, so that nobody waits for it.
    """

    to: Terms
    due: float


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
        released: tuple[ReleasedRange, ...] = (),
        room: int | None = None,
        link_up: bool = True,
        drafter_context: int = 1 << 30,
        roundtrip: RoundTrip | None = None,
        run: int = 0,
        outage: OutageRules = STALL,
        reading: bool = False,
    ) -> None:
        """Start in QUEUED.

        Args:
            request: what is asked for.
            policy: when to stop drafting; learns from every verdict that adds to the log.
            nonce: eight random bytes of this run of the agent.
            epoch: the highest epoch counter this session ever used; 0 for a new session.
            committed: output tokens made durable by an earlier run.
            released: ranges of them that the target did not confirm.
            room: output tokens that the text may have, as an earlier run settled; None if the first verifier settles
                it.
            link_up: whether the broker is reachable now.
            drafter_context: the longest sequence the drafter takes, in tokens.
            roundtrip: shared between the sessions of a device, so that the timers start with what was learnt.
            run: how many further tokens the verifier shall write by itself in a round without a draft, at most;
                0 is plain SLED.
            outage: what to do when the verifier does not answer.
            reading: whether the drafter has yet to read the prompt. Rounds then go out without a draft until it has
                drafted something: the verifier reads the prompt at the same time, and its first token comes as early
                as it can.
        """
        self.request = request
        self.state = State.QUEUED
        self.tally = Tally()
        self.log = Log(request.prompt, committed)
        self.released = released
        self._policy = policy
        self._nonce = nonce
        self._epoch = Epoch(epoch, nonce)
        self._revision = 0
        self._context: SessionContext | None = None
        self._open = False
        self._terms: Terms | None = None
        self._departure: _Departure | None = None
        self._placed = False
        self._link_up = link_up
        self._drafter_context = drafter_context
        self._drafter_lost = False
        self._reading = reading
        self._opening, self._read_from = True, 0
        self._reading_pace: float | None = None
        self._roundtrip = roundtrip or RoundTrip()
        self._outage = Outage(outage)
        self._settled = room is not None
        self._max_tokens = request.max_tokens if room is None else room
        self._pending = Pending()
        self._flight: _Flight | None = None
        self._rounds = Rounds()
        self._put_off, self._put_offs = False, 0
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
    def terms(self) -> Terms | None:
        """What the verifier that serves the session has announced, or None before it was placed."""
        return self._terms

    @property
    def verifier(self) -> str:
        """The verifier that serves the session, or an empty string before it was placed."""
        return self._terms.verifier if self._terms else ""

    @property
    def fallen_back(self) -> bool:
        """Whether an outage has lasted so long that drafts are released or shown."""
        return self._outage.fallen_back

    @property
    def missing(self) -> str:
        """What keeps the session from going on, in words."""
        if not self._link_up:
            return "the link is down"
        return "the verifier does not answer" if self._placed else "there is no verifier for it"

    @property
    def longest_draft(self) -> int:
        """No bundle has more draft tokens, but for one of drafts that were shown: room for the extras of a resend."""
        return min(2 * self._policy.max_draft + 1, MAX_DRAFT_TOKENS)

    def receive(self, event: Event, now: float) -> list[Effect]:
        """Take in an event and return what is to be done, in order.

        Raises:
            ValueError: the event cannot happen in this state.
        """
        before, had_fallen = self.state, self._outage.fallen_back
        row = TRANSITIONS[before].get(type(event))
        if row is None:
            raise ValueError(f"a session that is {before.value} cannot receive {type(event).__name__}")
        handle, after = row
        effects: list[Effect] = handle(self, event, now)
        if self.state not in after:
            raise AssertionError(f"{type(event).__name__} led from {before.value} to {self.state.value}")
        self.tally.outages += self.state is State.OUTAGE and before is not State.OUTAGE
        self.tally.fallbacks += self._outage.fallen_back and not had_fallen
        return effects

    # Placement and link -------------------------------------------------------------------------------------------

    def _begin(self, event: Placed, now: float) -> list[Effect]:
        """Open the first epoch of this run; the first verifier of all settles how long the text may become."""
        if not self._settled:
            reason = self.request.unservable(event.terms)
            if reason is not None:
                return self._fail(reason.code, reason.sentence)
            self._settled, self._max_tokens = True, self.request.room(event.terms)
        if len(self.log) >= self._max_tokens:
            return self._finish("length")
        return self._move(event.terms, now) if self._can_serve(event.terms) else []

    def _can_serve(self, terms: Terms) -> bool:
        """Whether a verifier can hold all that the text may become: it must not end elsewhere for a smaller one."""
        return self.request.room(terms) >= self._max_tokens and self.request.unservable(terms) is None

    def _place(self, event: Placed, now: float) -> list[Effect]:
        """Go on with the picked verifier: the same one, or another in a fresh epoch; wait if it cannot serve."""
        old, new = self._terms, event.terms
        departure, self._departure = self._departure, None
        if not self._can_serve(new):
            return self._unplace(Unplaced(), now)
        if old is None or old.verifier != new.verifier:
            served = self.state in (State.DRAFTING, State.AWAITING) and not self._put_off
            return self._prepare(new, departure, now) if event.at_leisure and served else self._move(new, now)
        was_placed, self._placed, self._terms = self._placed, True, new
        return [] if was_placed and old.boot == new.boot else self._resume(now)

    def _prepare(self, terms: Terms, departure: _Departure | None, now: float) -> list[Effect]:
        """Be served on by a verifier that drains, while the next one reads: for as long as that is likely to take."""
        if departure is not None and departure.to.verifier == terms.verifier:
            self._departure = _Departure(terms, departure.due)
            return []
        most, pace = self._roundtrip.first, self._reading_pace
        takes = most if pace is None else min(most, pace * len(self.log.sequence()))
        self._departure = _Departure(terms, now + takes)
        return [self._publish_context()]

    def _move(self, terms: Terms, now: float) -> list[Effect]:
        """Turn to a verifier in a fresh epoch."""
        self._departure, self._placed = None, True
        return self._new_epoch(terms) + self._resume(now, moved=True)

    def _unplace(self, _event: Unplaced, _now: float) -> list[Effect]:
        self._departure, self._placed = None, False
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
        effects: list[Effect] = [PublishContext(self._context)] if self._context and self._open else []
        return effects + self._resume(now)

    @property
    def _within_reach(self) -> bool:
        return self._link_up and self._placed

    def _stall(self) -> list[Effect]:
        """Wait for link and verifier; where waiting has an end, count."""
        self.state = State.OUTAGE
        self._since = None
        outage = self._outage
        if outage.stalls or outage.fallen_back:
            return [StopTimer(), *self._draft_on()]
        if outage.counting:
            return self._draft_on()
        outage.counting = True
        return [StartTimer(self._patience()), *self._draft_on()]

    def _resume(self, now: float, *, moved: bool = False) -> list[Effect]:
        """Send again what was sent, or what is pending once it is enough; stall while link or verifier is missing."""
        if not self._within_reach:
            return self._stall()
        if moved:
            self._outage.moved(self.verifier)
        else:
            self._outage.over()
        effects = self._reopen()
        if self._flight or self._reading or self._enough() or not self._can_draft():
            self.state = State.AWAITING
            return effects + self._send(now, resend=self._flight is not None)
        self.state = State.DRAFTING
        return [*effects, StopTimer(), *self._draft_on()]

    # Epochs, contexts and bundles ---------------------------------------------------------------------------------

    def _new_epoch(self, terms: Terms, *, above: int = 0) -> list[Effect]:
        """Raise the fence: durable first, then the context, before the first bundle of the epoch."""
        self._terms = terms
        self._fence(above)
        return [Persist(self._epoch.counter, len(self.log)), self._publish_context()]

    def _fence(self, above: int = 0) -> None:
        """Leave the epoch behind; the new one is open once its context is published."""
        self._epoch = Epoch(max(self._epoch.counter, above) + 1, self._nonce)
        self._revision = 0
        self._open = False
        self._read_anew()
        self._flight = None
        self._since = None
        self._rounds.forget()

    def _read_anew(self) -> None:
        """From the next round on until one is answered, the verifier has the whole log to read."""
        self._opening, self._read_from = True, self._rounds.number + 1

    def _reopen(self) -> list[Effect]:
        """Publish the context of an epoch that was begun while nobody listened."""
        return [] if self._open else [self._publish_context()]

    def _publish_context(self) -> PublishContext:
        successor = self._departure.to.verifier if self._departure is not None else None
        self._context = self.request.context(
            self._epoch, self._revision, self.verifier, self.log.tokens(), self._max_tokens, self.released, successor
        )
        self._open = True
        return PublishContext(self._context)

    def _send(self, now: float, *, resend: bool) -> list[Effect]:
        """Send what is pending at the present base; a resend is a new round and carries the extras drafted since."""
        assert self._terms is not None
        base = len(self.log)
        most = MAX_DRAFT_TOKENS if self._pending.shown else self.longest_draft
        if not resend:
            most = min(most, self._policy.worth(self._pending.proposals))
        # The verdict adds one token of the target's own, so a draft as long as the limit would waste its last place.
        proposals = tuple(self._pending.proposals[: min(most, self._max_tokens - base - 1)])
        draft = tuple(proposal.token for proposal in proposals)
        run = (
            0
            if draft or (self._opening and self._reading)
            else min(self._most_run, self._run_hint, self._max_tokens - base - 1)
        )
        self._put_off = False
        number = self._rounds.begin(Asked(base, proposals, run))
        usual = not (resend or self._opening) and len(draft) <= self.longest_draft
        timeout = self._timeout(run)
        self._flight = _Flight(number, now, timeout, usual)
        self.tally.resends += resend
        bundle = DraftBundle(
            VERSION,
            "draft",
            self.request.session,
            self._epoch,
            self._revision,
            number,
            base,
            self.log.digest(),
            draft,
            run,
            time_left=round(timeout * 1e6),
        )
        return [PublishDraft(self._terms.verifier, bundle), StartTimer(timeout), *self._draft_on()]

    def _timeout(self, run: int = 0) -> float:
        """Return how long to wait for a verdict with a run of so many tokens.

        In the first round of an epoch or revision the verifier reads the whole log, which no other round's time tells.
        """
        least = self._roundtrip.first if self._opening else 0.0
        return self._roundtrip.timeout(max(least, self._round_time) + run * self._step_time)

    @property
    def _round_time(self) -> float:
        """What the verifier says that a round takes, in seconds; 0 before there is one."""
        return self._terms.round_time if self._terms else 0.0

    def _patience(self) -> float:
        """Return for how long link and verifier may be away before it counts: as long as usual rounds would take."""
        return self._outage.patience(self._roundtrip.timeout(self._round_time))

    # Outages ------------------------------------------------------------------------------------------------------

    def _timer(self, _event: TimerFired, now: float) -> list[Effect]:
        """No answer in time: send again, with the extras; look for another verifier, then call it an outage.

        Drafts are made final or shown only once nobody else could take over, which is known when a doubt has come back
        as the timer it started.
        """
        if not self._within_reach:
            return self._still_away(now)
        if self._departure is not None:
            return self._move(self._departure.to, now)
        if self._put_off:
            return self._reopen() + self._send(now, resend=True)
        outage = self._outage
        doubt: list[Effect] = []
        if outage.hesitating:
            outage.fall_back()
        else:
            self._roundtrip.back_off()
            if outage.unanswered(self.verifier, now, self._flight.timeout if self._flight else 0.0):
                self.state = State.OUTAGE
            doubt = [Doubt(self.verifier)] if outage.doubtful else []
        if outage.hesitating:
            return [*doubt, StartTimer(0.0)]
        effects = self._make_do()
        if self.state is State.FINISHED:
            return effects
        return effects + self._reopen() + self._send(now, resend=True) + doubt

    def _still_away(self, now: float) -> list[Effect]:
        """A round could have gone unanswered in the time that link or verifier has been away."""
        if self._outage.stalls:
            return []
        self._outage.absent(now)
        if self._outage.counting:
            return [StartTimer(self._patience())]
        return self._make_do() + self._draft_on()

    def _make_do(self) -> list[Effect]:
        """Release or show what is drafted, if the session has fallen back."""
        if self._outage.releasing:
            return self._release()
        return self._preview() if self._outage.showing else []

    def _release(self) -> list[Effect]:
        """Make the drafts final. What verifiers say of the log as it was is void from here on."""
        start = len(self.log)
        tokens = self._pending.tokens[: self._max_tokens - start]
        ranges = _joined(self.released, ReleasedRange(start, start + len(tokens)))
        if not tokens or len(ranges) > MAX_RELEASED_RANGES:
            return []
        if self._open:
            self._fence()
        self.log.extend(tokens)
        self._pending.follow(tokens)
        self.released = ranges
        self.tally.released += len(tokens)
        if self._ends(tokens[-1]):
            return self._finish("stop", tokens, released=True)
        if len(self.log) >= self._max_tokens:
            return self._finish("length", tokens, released=True)
        return [Persist(self._epoch.counter, start, tokens, released=True), Emit(start, tokens)]

    def _preview(self) -> list[Effect]:
        """Show the drafts; they stay drafts."""
        shown, self._pending.shown = self._pending.shown, len(self._pending)
        tokens = self._pending.tokens[shown:]
        return [Preview(len(self.log) + shown, tokens)] if tokens else []

    def _heard(self, message: Verdict | Resync | Refusal, now: float) -> list[Effect]:
        """What the message says is void; but whoever says it is there, so that making do has an end."""
        self.tally.ignored += 1
        theirs = message.session == self.request.session
        return self._resume(now) if theirs and self._outage.lasting and self._within_reach else []

    # Drafting -----------------------------------------------------------------------------------------------------

    def _can_draft(self) -> bool:
        """Whether one more token could ever be of use: room for it and the target's own, and no end before it."""
        ended = any(self._ends(proposal.token) for proposal in self._pending.proposals[-1:])
        length = len(self.log) + len(self._pending)
        most = self._max_tokens if self._outage.releasing else self._max_tokens - 1
        return (
            not (self._drafter_lost or self._pending.exhausted)
            and not ended
            and length < most
            and len(self.request.prompt) + length < self._drafter_context
        )

    def _ends(self, token: int) -> bool:
        """Whether a token ends the text."""
        end = self._terms.end_tokens if self._terms and not self.request.stop.ignore_end else frozenset()
        return token in end or token in self.request.stop.tokens

    def _draft_on(self) -> list[Effect]:
        """Ask for one more token, unless one is being drafted or there are enough to go on with."""
        if self.state is State.FINISHED or self._pending.busy or not self._can_draft() or not self._wants_more():
            return []
        self._pending.busy = True
        sequence = self.log.sequence() + self._pending.tokens
        position = len(self.log) + len(self._pending)
        return [Draft(self._pending.branch, sequence, self.request.sampling, position)]

    def _wants_more(self) -> bool:
        """Whether one more token is wanted: for the next bundle, or ahead while a verdict or the link is awaited."""
        if self.state is State.DRAFTING:
            return len(self._pending) < self._policy.max_draft
        if self._outage.fallen_back:
            return True
        most = max(self.longest_draft, self._policy.max_draft)
        return len(self._pending) < most and self._policy.ahead(self._pending.proposals)

    def _take_draft(self, event: Drafted, now: float) -> list[Effect]:
        self._reading = False
        if event.branch != self._pending.branch:
            return []
        proposal = event.proposal
        if proposal is not None and self._terms is not None and not 0 <= proposal.token < self._terms.vocab_size:
            return self._lose_drafter(DrafterLost(), now)
        self._pending.add(proposal)
        if self.state is State.DRAFTING and (self._enough() or not self._can_draft()):
            self.state = State.AWAITING
            return self._send(now, resend=False)
        return self._make_do() + self._draft_on()

    def _enough(self) -> bool:
        """Whether the draft is as long as the policy wants it, or as the verifier can take now."""
        return self._policy.enough(self._pending.proposals) or 0 < self._draft_hint <= len(self._pending)

    def _lose_drafter(self, _event: DrafterLost, now: float) -> list[Effect]:
        """Go on without drafts: every round then brings the one token the target adds."""
        self._pending.busy = False
        self._drafter_lost, self._reading = True, False
        if self.state is not State.DRAFTING:
            return []
        self.state = State.AWAITING
        return self._send(now, resend=False)

    # Answers of the verifier --------------------------------------------------------------------------------------

    def _verdict(self, verdict: Verdict, now: float) -> list[Effect]:
        """Append what continues the log; ignore what is of another epoch, contradicts the log or says nothing new."""
        if not self._continues(verdict):
            return self._heard(verdict, now)
        held = len(self.log)
        new = verdict.tokens[held - verdict.base :]
        if not (new or verdict.finish):
            return self._heard(verdict, now)
        flight, self._flight = self._flight, None
        since, self._since = self._since, now
        usual = flight is not None and flight.round == verdict.round and flight.usual
        if flight and usual:
            self._roundtrip.observe(now - flight.sent_at)
        if new:
            if flight and self._opening and flight.round == verdict.round:
                # The most: the verifier may have read the log before, and a bundle that was sent again says too little.
                pace = (now - flight.sent_at) / max(1, len(self.log.sequence()))
                self._reading_pace = max(pace, self._reading_pace or 0.0)
            asked = self._count(verdict)
            seconds = now - since if usual and since is not None else None
            step = None if seconds is None or not verdict.step_time else verdict.step_time / 1e6
            self._policy.learn(asked.outcome(self.log, new, seconds, step))
            self._draft_hint, self._run_hint = verdict.draft_hint, verdict.run_hint or self._most_run
            self._step_time = verdict.step_time / 1e6 or self._step_time
            self.log.extend(new)
            self.tally.revised += self._pending.follow(new)
        if verdict.finish or len(self.log) >= self._max_tokens:
            return self._finish(verdict.finish or "length", new)
        said: list[Effect] = [Persist(self._epoch.counter, held, new), Emit(held, new)]
        if self._departure is not None and self._departure.due <= now:
            self._outage.over()
            return said + self._move(self._departure.to, now)
        return said + self._resume(now)

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

    def _count(self, verdict: Verdict) -> Asked:
        """Count a verdict that adds to the log, and return what its round had asked for."""
        asked = self._rounds.settle(verdict.round, verdict.base)
        drafted = len(asked.proposals)
        self.tally.rounds += 1
        self._put_offs = 0
        self._opening &= verdict.round < self._read_from
        self.tally.committed += len(verdict.tokens) - (len(self.log) - verdict.base)
        self.tally.drafted += drafted
        self.tally.accepted += min(verdict.accepted, drafted)
        self.tally.generated += min(asked.run, max(0, len(verdict.tokens) - verdict.accepted - 1))
        return asked

    def _resync(self, resync: Resync, now: float) -> list[Effect]:
        """Say again, in a fresh revision or epoch, what the log is; then send the bundle again."""
        if resync.session != self.request.session or self._terms is None:
            return self._heard(resync, now)
        known = resync.known
        behind = known is not None and (known != self._epoch or resync.reason == "ended")
        if known is not None and behind and self._epoch.counter <= known.counter < MAX_COUNTER:
            self.tally.resyncs += 1
            return self._new_epoch(self._terms, above=known.counter) + self._resume(now)
        if resync.epoch != self._epoch or resync.revision != self._revision:
            return self._heard(resync, now)
        self.tally.resyncs += 1
        self._revision += 1
        self._read_anew()
        self._since = None
        effects: list[Effect] = [self._publish_context()]
        if not self._within_reach:
            return effects
        if self._outage.lasting:
            self._outage.over()
        if self._flight:
            effects += self._send(now, resend=True)
        return effects

    def _context_lost(self, _event: ContextLost, now: float) -> list[Effect]:
        """Only a fresh epoch opens a session again that verifiers believe to be over."""
        assert self._terms is not None
        return self._new_epoch(self._terms) + self._resume(now)

    def _refused(self, refusal: Refusal, now: float) -> list[Effect]:
        """Wait as long as the verifier asks for, or give up where waiting cannot help.

        It asks everybody it refuses for the same, so that each waits up to half as long again, or they would all be
        back at once; how much is drawn from the session's id and round. To be put off is an answer: nothing has gone
        unanswered when that time is over.

        A verifier that has the log in memory is left only if it goes on like this, or drains: another one would have to
        read all of it, which is more work than what was refused.
        """
        if refusal.session not in (None, self.request.session) or refusal.epoch not in (None, self._epoch):
            return self._heard(refusal, now)
        if refusal.code == "prompt_too_long" and len(self.log):
            # It was started again with less memory, and its announcement is still on its way.
            return self._unplace(Unplaced(), now)
        if refusal.retry_after == 0:
            return self._fail(refusal.code, refusal.sentence)
        if self._flight is None or refusal.round not in (None, self._flight.round):
            return self._heard(refusal, now)
        if self._departure is not None and self._within_reach:
            return self._move(self._departure.to, now)
        spread = 1 + int.from_bytes(next_digest(self.request.session, self._rounds.number)) / 2**65
        delay = max(refusal.retry_after / 1e6, LEAST_PUT_OFF) * spread
        self._put_offs += not self._put_off  # context and bundle may both be refused
        if self._opening:
            delay *= min(2 ** min(self._put_offs - 1, 16), MOST_PATIENCE)
        serves = refusal.round is not None and not self._opening
        doubt = [] if serves and self._put_offs < MOST_PUT_OFFS else [Doubt(self.verifier, delay)]
        if not self._within_reach:
            return list(doubt)
        self._outage.over()
        self._put_off, self.state = True, State.AWAITING
        return [StartTimer(delay), *doubt]

    # Ends ---------------------------------------------------------------------------------------------------------

    def _stop(self, _event: StopFound, _now: float) -> list[Effect]:
        return self._finish("stop")

    def _cancel(self, _event: Cancelled, _now: float) -> list[Effect]:
        return self._finish("cancelled")

    def _finish(
        self, reason: Literal["stop", "length", "cancelled"], new: tuple[int, ...] = (), *, released: bool = False
    ) -> list[Effect]:
        """End well: the last tokens and the end are durable as one before anybody is told, or the context goes."""
        self._end()
        start = len(self.log) - len(new)
        emitted: list[Effect] = [Emit(start, new)] if new else []
        return [
            Persist(self._epoch.counter, start, new, reason, released),
            *emitted,
            StopTimer(),
            *self._clear_context(),
            Finished(reason),
        ]

    def _fail(self, code: str, sentence: str) -> list[Effect]:
        self._end()
        return [
            StopTimer(),
            Persist(self._epoch.counter, len(self.log), finish="failed"),
            *self._clear_context(),
            Failed(code, sentence),
        ]

    def _end(self) -> None:
        self.state = State.FINISHED
        self.tally.revised += self._pending.shown  # the end of the text takes back what was not verified

    def _clear_context(self) -> list[Effect]:
        """Clear what this run, or an earlier one, has published."""
        return [ClearContext()] if self._epoch.counter else []

    def _ignore(self, _event: Event, _now: float) -> list[Effect]:
        self.tally.ignored += 1
        return []


def _joined(ranges: tuple[ReleasedRange, ...], new: ReleasedRange) -> tuple[ReleasedRange, ...]:
    """Add a range behind all others, as one with the last if they touch."""
    if ranges and ranges[-1].end == new.start:
        return (*ranges[:-1], ReleasedRange(ranges[-1].start, new.end))
    return (*ranges, new)


_Row = tuple["Callable[[Session, Any, float], list[Effect]]", frozenset[State]]


def _to(*states: State) -> frozenset[State]:
    return frozenset(states)


_Q, _D, _A, _O, _F = State
_ACTIVE: dict[type[Event], _Row] = {
    Placed: (Session._place, _to(_D, _A, _O)),
    Unplaced: (Session._unplace, _to(_O)),
    LinkUp: (Session._link_back, _to(_D, _A, _O)),
    LinkDown: (Session._link_lost, _to(_O)),
    Drafted: (Session._take_draft, _to(_D, _A, _O, _F)),
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
        Placed: (Session._begin, _to(_Q, _D, _A, _O, _F)),
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
    _A: _ACTIVE | {TimerFired: (Session._timer, _to(_D, _A, _O, _F))},
    _O: _ACTIVE | {TimerFired: (Session._timer, _to(_O, _F))},
    _F: dict.fromkeys(get_args(Event), (Session._ignore, _to(_F))),
}
"""(state, event) → what it does and the states it may lead to."""
