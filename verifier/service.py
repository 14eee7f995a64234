"""The verifier's shell: intake → ledger → scheduler → engine → verdicts.

One loop owns the ledger. The network thread only puts messages into its queue; the engine runs on a thread of its own,
so that intake goes on while a step is computed.
"""

from __future__ import annotations

import logging
import secrets
import time
from typing import TYPE_CHECKING, Final, assert_never, get_args

from msgspec import Struct

from broker.address import Addresses
from broker.client import Bridge
from broker.errors import BrokerError
from broker.mailbox import Down, Mailbox, Stop, Up
from broker.message import Message, Will
from broker.tls import Tls
from schemas import codec
from schemas.errors import WireError
from schemas.messages import (
    VERSION,
    DraftBundle,
    Refusal,
    RefusalCode,
    Resync,
    SessionContext,
    Verdict,
    VerifierState,
)
from schemas.topics import Family, Topic, Topics, check_name
from verifier.admission import Target
from verifier.backpressure import draining
from verifier.engine.segment import Segment
from verifier.ledger import Effect, Key, Ledger, Release, Reply, Work
from verifier.linger import Linger
from verifier.metrics import VerifierMetrics
from verifier.pace import SMOOTHING, Pace
from verifier.scheduler import STEP_TOKENS, Batching, Candidate, Continuous, Moment, Share
from verifier.stepping import SteppingThread, StepResult

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from verifier.engine.engine import Engine

_log = logging.getLogger(__name__)

ANNOUNCE_EVERY: Final = 5.0
"""Seconds between announcements: load, round time and heartbeat."""
LEAST_DELAY: Final = 1.0
"""Seconds that the verifier must be behind before it refuses any bundle."""
VERDICT_EXPIRY: Final = 60.0
"""Seconds for which a broker that speaks MQTT 5 keeps a verdict for a device that is away; it will have asked again."""
MOST_PER_TURN: Final = 1_000
"""Messages taken in before the engine is looked after again, so that a flood cannot starve it."""
PADDING: Final = (0,)
"""A token that every vocabulary has, to fill a draft up; what the target chooses behind it is thrown away."""

_REFUSAL_CODES = frozenset(get_args(RefusalCode))


class VerifierOptions(Struct, frozen=True):
    """How one verifier runs.

    Attributes:
        verifier: own id.
        address: of the broker, or of several, the preferred one first.
        root: of all topics.
        target: name of the target model, for people.
        tokenizer: digest of its tokenizer.
        numerics: fingerprint of weights, dtype, device kind and engine version.
        capacity: sessions served at once.
        batching: what makes a step.
        drain: seconds that sessions have to move to other verifiers, or to end, once this one is told to stop.
        tls: the files of its identity, or those to trust.
        release: version of the software, for people.
        client_id: of the MQTT session; empty for `verifier-` and the id. Where brokers know clients by their
            certificates it is the name in it.
    """

    verifier: str
    address: Addresses
    tokenizer: str
    numerics: str
    root: str = "sled/v1"
    target: str = ""
    capacity: int = 256
    batching: Batching = Continuous()
    drain: float = 0.0
    tls: Tls | None = None
    release: str = ""
    client_id: str = ""


class _Stepped(Struct, frozen=True):
    """The engine has finished a step, or has shown that it is alive (None)."""

    result: StepResult | None


class _Drain(Struct, frozen=True):
    """Take no new sessions, and end when the present ones have gone."""


class _Part(Struct, frozen=True):
    """One session's part in the step under way.

    Attributes:
        work: what it is for.
        whole: whether the step does all that was left of it.
        fed: tokens the engine is fed for it, padding included.
        segment: as the engine was given it.
    """

    work: Work
    whole: bool
    fed: int
    segment: Segment


_Word = Up | Down | _Stepped | _Drain | Stop
_Item = Message | _Word


class Verifier:
    """A server: verifies the drafts of many devices in shared steps of one target."""

    def __init__(
        self, options: VerifierOptions, engine: Engine, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Set a verifier up; nothing is connected before `run`.

        Raises:
            InvalidTopic: the verifier id or the topic root is malformed.
        """
        self._options = options
        self._verifier = check_name(options.verifier, "verifier id")
        self._topics = Topics(options.root)
        self._engine = engine
        self._clock = clock
        target = Target(options.tokenizer, engine.vocab_size, engine.context_length, engine.end_tokens)
        self._ledger = Ledger(self._verifier, target, capacity=options.capacity)
        self._items: Mailbox[_Word] = Mailbox()
        self.metrics = VerifierMetrics(self._ledger, engine, lambda: self._items.dropped)
        self._stepping = SteppingThread(engine, lambda result: self._items.put(_Stepped(result)))
        self._boot = secrets.token_hex(8)
        self._link_up = False
        self._started: dict[Key, Work] = {}
        self._batch: list[_Part] | None = None
        self._pace = Pace(self._verifier, getattr(options.batching, "step_tokens", STEP_TOKENS))
        self._wake_at: float | None = None
        self._linger = Linger()
        self._alive_asked = False
        self._heartbeat = 0
        self._turns = 0
        self._heard = 0
        self._round_time = 0.0
        self._announce_at = 0.0
        self._released: list[Key] = []
        self._drained_at: float | None = None
        self._bridge = self._make_bridge()

    def _make_bridge(self) -> Bridge:
        state = self._topics.verifier_state(self._verifier)
        bridge = Bridge(
            self._options.address,
            self._options.client_id or f"verifier-{self._verifier}",
            clean=True,
            tls=self._options.tls,
            will=Will(state, codec.encode_json(VerifierState(VERSION, "offline", self._boot))),
            on_up=lambda _present: self._items.put(Up()),
            on_down=lambda reason: self._items.put(Down(reason)),
            on_error=lambda error: _log.error("%s", error),
            retains=(state,),
        )
        bridge.subscribe(state, self._hear)
        bridge.subscribe(self._topics.sessions("+"), self._items.deliver)
        bridge.subscribe(self._topics.draft("+", self._verifier), self._items.deliver)
        return bridge

    # The loop -----------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Ask the loop to end at once; callable from any thread and from a signal handler."""
        self._items.put(Stop())

    def drain(self) -> None:
        """Ask the loop to end once no session is served any more, or after the time that the options give.

        Agents turn to other verifiers as soon as those can have read the log; where there is none, they stay until
        their text ends. Callable like `stop`.
        """
        self._items.put(_Drain())

    def run(self) -> None:
        """Serve until `stop`."""
        self._stepping.start()
        self._bridge.start()
        try:
            while self._turn():
                pass
        finally:
            self._shut_down()

    def _shut_down(self) -> None:
        self._stepping.stop()
        offline = VerifierState(VERSION, "offline", self._boot)
        self._publish(self._topics.verifier_state(self._verifier), codec.encode_json(offline), retain=True)
        self._bridge.stop()

    def progress(self) -> dict[str, int | None]:
        """Return for each part of this verifier a count that grows while it gets on; None while it has nothing to do.

        What the network thread has to do is to bring the verifier's own announcements back, every few seconds. A broker
        that has never let it read them proves nothing. Callable from any thread.
        """
        heard = self._heard if self._link_up and self._heard else None
        stepping = self._batch is not None or self._alive_asked
        return {
            "the loop": self._turns,
            "the network thread": heard,
            "the engine": self._heartbeat if stepping else None,
        }

    def _hear(self, message: Message) -> None:
        """Take in this verifier's own state, on the network thread."""
        self._heard += 1
        self._items.deliver(message)

    def _turn(self) -> bool:
        """Take in everything that has come, then start a step if the engine is free; False to end."""
        self._turns += 1
        for item in self._take_all():
            if isinstance(item, Stop):
                return False
            self._survive(self._take, item)
        self._survive(self._do_what_is_due)
        return not self._has_drained()

    def _has_drained(self) -> bool:
        if self._drained_at is None or (self._ledger.live and self._clock() < self._drained_at):
            return False
        _log.info("verifier %s has drained; %d sessions are left", self._verifier, self._ledger.live)
        return True

    def _survive(self, work: Callable[..., None], *arguments: _Item) -> None:
        """Whatever one message or step does wrong, the service goes on with the next."""
        try:
            work(*arguments)
        except Exception:  # noqa: BLE001 -- see above
            _log.exception("a turn of the verifier failed; it goes on")
            time.sleep(0.1)  # a mistake that comes back at once must not fill the disk with its log

    def _do_what_is_due(self) -> None:
        now = self._clock()
        self._carry_out(self._ledger.tick(now))
        if self._batch is None:
            self._start_step()
        if self._link_up and now >= self._announce_at:
            self._announce()

    def _take_all(self) -> list[_Item]:
        now = self._clock()
        due = [self._announce_at if self._link_up else now + 1.0, self._ledger.next_tick() or now + 1.0]
        if self._drained_at is not None:
            due.append(min(self._drained_at, now + 0.1))
        if self._wake_at is not None and self._batch is None:
            due.append(self._wake_at)
        items: list[_Item] = []
        item = self._items.get(min(due) - now)
        while item is not None:
            items.append(item)
            item = self._items.get(0) if len(items) < MOST_PER_TURN else None
        return items

    def _take(self, item: _Item) -> None:
        match item:
            case Message():
                self._message(item)
            case _Stepped(result):
                self._heartbeat += 1
                if result is None:
                    self._alive_asked = False
                else:
                    self._stepped(result)
            case Up():
                self._link_up = True
                _log.info("verifier %s is connected to the broker at %s", self._verifier, self._bridge.address)
                self._announce()
            case Down(reason):
                self._link_up = False
                _log.warning("%s", reason)
            case _Drain():
                self._drained_at = self._clock() + self._options.drain
                _log.info("verifier %s drains: %d sessions are to leave", self._verifier, self._ledger.live)
                self._announce()
            case Stop():
                pass
            case _:
                assert_never(item)

    # Messages -----------------------------------------------------------------------------------------------------

    def _message(self, message: Message) -> None:
        try:
            topic = self._topics.parse(message.topic)
        except WireError as error:
            _log.warning("a message to %s was dropped (%s): %s", message.topic[:200], error.code, error)
            return
        try:
            if topic.family is Family.VERIFIER_STATE:
                self._own_state(message.payload)
            else:
                self._carry_out(self._device_message(topic, message.payload))
        except WireError as error:
            _log.warning("a message from %s was refused (%s): %s", topic.device or "?", error.code, error)
            if topic.device:
                self._refuse(topic.device, error, topic.session or None)

    def _device_message(self, topic: Topic, payload: bytes) -> list[Effect]:
        now = self._clock()
        busy = self._pace.too_busy(now) if self._drained_at is None else draining(self._verifier)
        if topic.family is Family.DRAFT:
            return self._ledger.bundle(topic.device, codec.decode(payload, DraftBundle), now, busy)
        if not payload:
            return self._ledger.cleared(topic.device, topic.session)
        context = codec.decode(payload, SessionContext)
        if context.session != topic.session:
            _log.warning("device %s published the context of another session than its topic names", topic.device)
            return []
        return self._ledger.context(topic.device, context, now, busy)

    def _refuse(self, device: str, error: WireError, session: bytes | None) -> None:
        code: RefusalCode = error.code if error.code in _REFUSAL_CODES else "malformed"  # type: ignore[assignment]
        refusal = Refusal(VERSION, "refusal", code, str(error)[:1000], session)
        self.metrics.refusals.labels(code).inc()
        self._publish(self._topics.verdict(device), codec.encode(refusal))

    def _own_state(self, payload: bytes) -> None:
        """Put right at once what an old will says of this verifier."""
        if self._link_up and (not payload or codec.decode_state(payload, VerifierState).status == "offline"):
            self._announce()

    def _carry_out(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Reply(device, message):
                    self._count(device, message)
                    self._publish(self._topics.verdict(device), codec.encode(message), expiry=VERDICT_EXPIRY)
                case Release(key):
                    self._started.pop(key, None)
                    self._released.append(key)

    def _count(self, device: str, message: Verdict | Resync | Refusal) -> None:
        match message:
            case Verdict():
                if message.step_time:
                    self.metrics.queue_seconds.observe(message.queue_time / 1e6)
            case Resync():
                self.metrics.resyncs.labels(message.reason).inc()
            case Refusal():
                self.metrics.refusals.labels(message.code).inc()
                _log.warning("refused device %s (%s): %s", device, message.code, message.sentence)

    def _publish(self, topic: str, payload: bytes, *, retain: bool = False, expiry: float | None = None) -> None:
        try:
            self._bridge.publish(topic, payload, retain=retain, expiry=expiry)
        except BrokerError as error:
            _log.warning("a message to %s was not sent: %s", topic, error)

    # Steps --------------------------------------------------------------------------------------------------------

    def _start_step(self) -> None:
        """Plan a step from what waits and hand it to the engine, which is this loop's until then."""
        for key in self._released:
            self._engine.release(key.to_bytes())
        self._released.clear()
        works = list((self._started | {work.key: work for work in self._ledger.ready()}).values())
        now = self._clock()
        reading = bool(works) and not any(work.choose or work.key in self._started for work in works)
        self._wake_at = self._linger.until(now, reading=reading)
        if self._wake_at is not None:
            return
        candidates = [self._candidate(work) for work in works]
        moment = Moment(now, self._ledger.live, self._engine.budget_tokens, self._pace.speed)
        plan = self._options.batching.plan(candidates, moment)
        self._wake_at = plan.wake_at
        chosen = {share.index for share in plan.shares}
        left = [index for index in range(len(works)) if index not in chosen]
        fed = sum(share.feed + share.pad for share in plan.shares)
        context = sum(candidates[index].context for index in chosen)
        self._pace.planned([candidates[index] for index in left], fed, context, now)
        self._shed([(works[index], candidates[index]) for index in left], candidates, now)
        if plan.shares:
            batch = [self._part(works[share.index], candidates[share.index], share) for share in plan.shares]
            self._batch = batch
            self.metrics.step_sessions.observe(len(batch))
            self.metrics.step_tokens.observe(sum(part.fed for part in batch))
            self._stepping.step([part.segment for part in batch])

    def _shed(self, left: list[tuple[Work, Candidate]], waiting: list[Candidate], now: float) -> None:
        """Refuse at once what would come too late, in words, rather than let the device find out by its timer."""
        if self._pace.behind < LEAST_DELAY:
            return  # what waits will be done before a refused device were back
        for work, candidate in left:
            if work.choose and work.key not in self._started:
                busy = self._pace.too_late(candidate, waiting, now)
                if busy is not None:
                    self._carry_out(self._ledger.shed(work.key, busy))

    def _part(self, work: Work, candidate: Candidate, share: Share) -> _Part:
        if self._started.get(work.key) is not work:
            self._ledger.start(work)
            self._started[work.key] = work
        left = candidate.missing - share.feed
        tokens = work.sequence[: len(work.sequence) - left] + PADDING * share.pad
        choose = 0 if left else work.choose + share.pad
        segment = Segment(work.key.to_bytes(), tokens, choose, work.sampling, work.position)
        return _Part(work, left == 0, share.feed + share.pad, segment)

    def _candidate(self, work: Work) -> Candidate:
        engine, length = self._engine, len(work.sequence)
        blocks = -(-length // engine.block_tokens)
        reserved = blocks * engine.block_tokens
        return Candidate(
            missing=engine.missing(work.key.to_bytes(), work.sequence, work.choose),
            choose=work.choose,
            deadline=work.deadline,
            length=reserved,
            since=work.since,
            context=length,
            spare=max(0, min(reserved, engine.context_length) - length),
        )

    def _stepped(self, result: StepResult) -> None:
        """Turn the target's choices into verdicts."""
        batch, self._batch = self._batch or [], None
        now = self._clock()
        self.metrics.step_seconds.observe(result.seconds)
        context = sum(len(part.segment.tokens) for part in batch)
        waits = [now - result.seconds - part.work.since for part in batch if part.whole and part.work.choose]
        self._pace.stepped(sum(part.fed for part in batch), context, len(waits), waits, result.seconds)
        hint = self._pace.hint(self._ledger.tally)
        for part, chosen in zip(batch, result.chosen, strict=True):
            work, failed = part.work, isinstance(chosen, str)
            if (part.whole or failed) and self._started.get(work.key) is work:
                del self._started[work.key]
            if isinstance(chosen, str):
                self._carry_out(self._ledger.fail(work, chosen))
            elif part.whole:
                self._carry_out(self._ledger.complete(work, chosen[: work.choose], now, result.seconds, hint))
                if work.choose:
                    self._round_time += SMOOTHING * (now - work.since - self._round_time)

    def _announce(self) -> None:
        """Say who this verifier is, how busy it is and that its engine is alive."""
        self._announce_at = self._clock() + ANNOUNCE_EVERY
        options, engine = self._options, self._engine
        state = VerifierState(
            VERSION,
            "online",
            self._boot,
            options.target,
            options.tokenizer,
            options.numerics,
            engine.vocab_size,
            engine.context_length,
            tuple(sorted(engine.end_tokens)),
            options.capacity,
            len(self._ledger),
            round(self._round_time * 1e6),
            self._heartbeat,
            draining=self._drained_at is not None,
            release=options.release,
        )
        self._publish(self._topics.verifier_state(self._verifier), codec.encode_json(state), retain=True)
        if self._batch is None and not self._alive_asked:
            # An idle engine has no progress to show, so its thread is asked to pass by.
            self._alive_asked = True
            self._stepping.step([])
