"""The agent's shell: carries out what sessions want, and tells them what happens.

One loop owns all state. The network thread, the drafting thread and the clock only put things into its queue.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import deque
from typing import TYPE_CHECKING, Final, assert_never

from msgspec import Struct

from broker.address import Addresses
from broker.client import Bridge
from broker.errors import BrokerError
from broker.mailbox import Down, Mailbox, Stop, Up
from broker.message import Message, Will
from broker.tls import Tls
from edge_agent.conversation import Conversation
from edge_agent.delivery import Delivery
from edge_agent.drafters.chain import DrafterChain
from edge_agent.drafting import DraftingThread
from edge_agent.events import Cancelled, ContextLost, Drafted, DrafterLost, Event, LinkDown, LinkUp, Placed, Unplaced
from edge_agent.intake import AskError, new_request_id, reply_wanted, spooled
from edge_agent.metrics import AgentMetrics
from edge_agent.outage import STALL, OutageRules
from edge_agent.placement import Placement
from edge_agent.reply import Reply
from edge_agent.roundtrip import RoundTrip
from edge_agent.spool import SpoolError
from edge_agent.tally import Tally
from schemas import codec
from schemas.digest import tokenizer_digest
from schemas.errors import WireError
from schemas.limits import ID_BYTES
from schemas.messages import (
    VERSION,
    AgentState,
    ErrorEvent,
    Refusal,
    Resync,
    Verdict,
    VerifierState,
)
from schemas.topics import Family, Topics, check_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.receipt import Receipt
    from edge_agent.drafters.drafter import Drafter
    from edge_agent.effects import Draft
    from edge_agent.policy import Policy
    from edge_agent.spool import Spool, Spooled
    from edge_agent.tokenizer import ChatTokenizer

_log = logging.getLogger(__name__)

MISFIT_GRACE: Final = 2.0
"""Seconds an agent waits for a fitting verifier after it has seen only others: announcements arrive one by one."""
ANNOUNCED_AGAIN: Final = 2.0
"""Seconds after a reconnect in which every verifier that is still there has announced itself again."""
SPOOL_RETRY: Final = 1.0
"""Seconds after which what a full or failing disk has not taken is tried again."""


class AgentOptions(Struct, frozen=True):
    """How one agent runs.

    Attributes:
        device: own id.
        address: of the broker, or of several, the preferred one first.
        root: of all topics.
        target: name of the only target to use; empty for whichever fits the tokenizer.
        max_tokens: length of an answer if the ask leaves it open.
        max_queue: requests that may wait; more are refused.
        run: tokens the verifier writes by itself in a round for which the drafter has nothing to propose; 0 is plain
            SLED, with one token for such a round.
        outage: what to do when the verifier does not answer, and after how long.
        tls: the files of its identity, or those to trust.
        release: version of the software, for people.
        client_id: of the MQTT session; empty for `agent-` and the id. Where brokers know clients by their certificates
            it is the name in it.
    """

    device: str
    address: Addresses
    root: str = "sled/v1"
    target: str = ""
    max_tokens: int = 256
    max_queue: int = 16
    run: int = 8
    outage: OutageRules = STALL
    tls: Tls | None = None
    release: str = ""
    client_id: str = ""


class _DraftAnswer(Struct, frozen=True):
    """The drafting thread has answered for a session."""

    session: bytes
    event: Drafted | DrafterLost


_Word = Up | Down | _DraftAnswer | Stop
_Item = Message | _Word


class Agent:
    """A device: takes asks, drafts, has drafts verified, answers."""

    def __init__(
        self,
        options: AgentOptions,
        drafter: Drafter,
        tokenizer: ChatTokenizer,
        policy: Policy,
        spool: Spool,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Set an agent up; nothing is connected before `run`.

        Raises:
            InvalidTopic: the device id or the topic root is malformed.
        """
        self._options = options
        self.device = check_name(options.device)
        self.topics = Topics(options.root)
        self._tokenizer = tokenizer
        self._digest = tokenizer_digest(tokenizer.canonical_json)
        self._drafter = drafter
        self.run_tokens = options.run
        self.outage = options.outage
        self.policy = policy
        self.spool = spool
        self._clock = clock
        self.nonce = secrets.token_bytes(ID_BYTES)
        self._items: Mailbox[_Word] = Mailbox()
        self._placement = Placement(self.device, self._digest, options.target)
        self._doubt_until: float | None = None
        self.metrics = AgentMetrics(self)
        self.roundtrip = RoundTrip(tell=self.metrics.round_seconds.observe)
        self._ended = Tally()
        self._waiting: deque[Spooled] = deque()
        self._active: Conversation | None = None
        self.link_up = False
        self._unkept: dict[str, tuple[bytes, bytes]] = {}  # request → session and last event, said but not on disk
        self._uncancelled: list[str] = []
        self._retained: set[str] = set()  # topics of which it was said
        self._spool_due: float | None = None  # when a spool that has failed is tried again
        self._misfit_since: float | None = None
        self._announced_drafter = drafter.name
        self._turns = 0
        self._heard = 0
        self._drafting = DraftingThread(
            drafter,
            lambda session, event: self._items.put(_DraftAnswer(session, event)),
            self.metrics.draft_token_seconds.observe,
        )
        self._bridge = self._make_bridge()
        self._delivery = Delivery(self.device, self.topics, spool, self.publish, clock)

    def _make_bridge(self) -> Bridge:
        topics, device = self.topics, self.device
        state = topics.device_state(device)
        bridge = Bridge(
            self._options.address,
            self._options.client_id or f"agent-{device}",
            clean=False,
            tls=self._options.tls,
            will=Will(state, codec.encode_json(self._state("offline"))),
            on_up=lambda _present: self._items.put(Up()),
            on_down=lambda reason: self._items.put(Down(reason)),
            on_error=lambda error: _log.error("%s", error),
            retains=(state, topics.sessions(device)),
        )
        bridge.subscribe(topics.verdict(device), self._items.deliver)
        bridge.subscribe(topics.ask(device), self._items.deliver, acknowledge="manual")
        bridge.subscribe(topics.cancel(device), self._items.deliver)
        # What is retained is there after a connect anyway. At QoS 1 the broker would keep each announcement for a
        # device that is away, and once its queue is full of them, drop asks.
        bridge.subscribe(topics.verifier_state("+"), self._items.deliver, qos=0)
        bridge.subscribe(state, self._hear, qos=0)
        bridge.subscribe(topics.sessions(device), self._items.deliver, qos=0)
        return bridge

    def _state(self, status: str) -> AgentState:
        return AgentState(
            VERSION,
            "online" if status == "online" else "offline",
            self.nonce.hex(),
            self._drafter.name,
            self._options.target,
            self._digest,
            self._options.release,
        )

    # The loop -----------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Ask the loop to end; callable from any thread and from a signal handler."""
        self._items.put(Stop())

    def run(self) -> None:
        """Serve until `stop`: connect, resume what was under way, answer."""
        self._recall()
        for request in self.spool.unanswered():
            self._waiting.append(request)
        self._drafting.start()
        self._bridge.start()
        self._begin_next()
        try:
            while True:
                item = self._items.get(self._patience())
                if isinstance(item, Stop):
                    break
                self._turn(item)
        finally:
            self._shut_down()

    def _shut_down(self) -> None:
        self._drafting.stop()
        try:
            self._bridge.publish(
                self.topics.device_state(self.device), codec.encode_json(self._state("offline")), retain=True
            )
        except BrokerError as error:
            _log.warning("the offline state could not be published: %s", error)
        self._bridge.stop()
        try:
            self._keep_ends()
            self._delivery.note()
        except SpoolError as error:
            _log.warning("%s", error)
        self._keep_calibration()
        self.spool.close()

    def _recall(self) -> None:
        """Go on from what an earlier run has learnt of the drafters; what of it is damaged is learnt anew."""
        if self.policy.calibration is None:
            return
        try:
            for complaint in self.policy.calibration.load(self.spool.calibration()):
                _log.warning("%s", complaint)
        except SpoolError as error:
            _log.warning("%s", error)

    def _keep_calibration(self) -> None:
        if self.policy.calibration is None:
            return
        try:
            self.spool.keep_calibration(self.policy.calibration.unkept())
        except SpoolError as error:
            _log.warning("what was learnt of the drafters is not kept: %s", error)

    def progress(self) -> dict[str, int | None]:
        """Return for each part of this agent a count that grows while it gets on; None while it has nothing to do.

        The network thread is given something to do for the next time: a broker answers a repeated SUBSCRIBE with the
        retained message (MQTT-3.8.4-3), here this device's own state, which costs nobody else anything. A broker that
        has never let it read its state proves nothing. Callable from any thread but the network's.
        """
        heard = self._heard if self.link_up and self._heard else None
        if self.link_up:
            self._bridge.subscribe(self.topics.device_state(self.device), self._hear, qos=0)
        return {"the loop": self._turns, "the network thread": heard, "drafting": self._drafting.progress}

    def _hear(self, message: Message) -> None:
        """Take in this device's own state, on the network thread."""
        self._heard += 1
        self._items.deliver(message)

    def _turn(self, item: _Item | None) -> None:
        """One turn of the loop. A mistake of ours ends the request it happened in, never the agent."""
        self._turns += 1
        try:
            if item is not None:
                self._take(item)
            self._check_timers()
            self._try_spool()
        except SpoolError as error:
            _log.error("%s", error)
            self._fail_active("spool_failed", str(error))
        except Exception:  # noqa: BLE001 -- one bad message must not end the service
            _log.exception("a turn of the agent failed; it goes on")
            self._fail_active("internal_error", "the agent made a mistake and has logged it: ask again")

    def _patience(self) -> float:
        now = self._clock()
        due = [now + 1.0]
        if self._active is not None and self._active.timer is not None:
            due.append(self._active.timer)
        return max(0.0, min(due) - now)

    def _take(self, item: _Item) -> None:
        match item:
            case Message():
                self._message(item)
            case _DraftAnswer(session, event):
                if self._active is not None and self._active.request.session == session:
                    self._tell(event)
                self._check_drafter()
            case Up():
                self._connected()
            case Down(reason):
                _log.warning("%s", reason)
                if self.link_up:
                    self.link_up = False
                    self._tell(LinkDown())
            case Stop():
                pass
            case _:
                assert_never(item)

    def _connected(self) -> None:
        self.link_up = True
        now = self._clock()
        self._placement.doubt(now)
        self._doubt_until = now + ANNOUNCED_AGAIN
        _log.info("device %s is connected to the broker at %s", self.device, self._bridge.address)
        self._publish_state()
        self._delivery.resume()
        self._tell(LinkUp())

    def _check_drafter(self) -> None:
        """Let everybody know when another drafter has taken over."""
        if self._drafter.name != self._announced_drafter and self.link_up:
            self._publish_state()

    def _publish_state(self) -> None:
        self._announced_drafter = self._drafter.name
        self.publish(self.topics.device_state(self.device), codec.encode_json(self._state("online")), retain=True)

    def _check_timers(self) -> None:
        if self._doubt_until is not None and self._doubt_until <= self._clock():
            self._doubt_until = None
            self._placement.drop_doubtful()
            self._place()
        if self._active is not None:
            self._active.check_timer()
            self._active.refresh()
            self._retire()
        self._place_anew()
        if self._active is not None and self._active.queued:
            self._check_misfit(self._clock())

    def _check_misfit(self, now: float) -> None:
        """Refuse early where only verifiers are about that will never do."""
        misfit = self._placement.misfit()
        if misfit is None:
            self._misfit_since = None
        elif self._misfit_since is None:
            self._misfit_since = now
        elif now - self._misfit_since >= MISFIT_GRACE:
            self._fail_active(misfit.code, misfit.sentence)

    def _fail_active(self, code: str, sentence: str) -> None:
        if self._active is not None:
            self._active.fail(code, sentence)
            self._retire()

    # A disk that is full ------------------------------------------------------------------------------------------

    def _spool_failed(self, error: SpoolError) -> None:
        """Leave what waits for the disk for later; say so once, not at each try."""
        now = self._clock()
        if self._spool_due is None:
            _log.error("%s; what waits for it is tried again every %g s", error, SPOOL_RETRY)
        if self._spool_due is None or self._spool_due <= now:
            self._spool_due = now + SPOOL_RETRY

    def _try_spool(self) -> None:
        """Have on disk what should be, and go on with what waits for that: always, or now and then while it fails."""
        due = self._spool_due
        if due is not None and self._clock() < due:
            return
        for work in (self._keep_ends, self._delivery.check) if self.link_up else (self._keep_ends,):
            try:
                work()
            except SpoolError as error:
                self._spool_failed(error)
        for _ in range(len(self._uncancelled)):
            self._cancel(self._uncancelled.pop(0))
        self._begin_next()
        if due is not None and self._spool_due == due:
            self._spool_due = None
            _log.info("the spool has taken what waited for it")

    def _keep_ends(self) -> None:
        """Note the ends that were said but not kept, or those requests would begin again after a restart.

        Raises:
            SpoolError: the disk does not take them yet.
        """
        for request, (session, final) in list(self._unkept.items()):
            self.spool.finalize(session, final)
            del self._unkept[request]

    def _note_end(self, ended: Conversation) -> None:
        if ended.unkept is not None:
            self._unkept[ended.request.id] = (ended.request.session, ended.unkept)

    # Messages -----------------------------------------------------------------------------------------------------

    def _message(self, message: Message) -> None:
        try:
            topic = self.topics.parse(message.topic)
            match topic.family:
                case Family.VERDICT | Family.ASK | Family.CANCEL if message.retain:
                    self._drop_retained(message)
                case Family.VERDICT:
                    self._verdict(message.payload)
                case Family.VERIFIER_STATE:
                    self._verifier_state(topic.verifier, message.payload)
                case Family.ASK:
                    self._ask(message)
                case Family.CANCEL:
                    self._cancel(codec.decode_cancel(message.payload).id)
                case Family.DEVICE_STATE:
                    self._own_state(message.payload)
                case Family.SESSION:
                    self._own_context(topic.session, message.payload)
                case _:
                    pass
        except WireError as error:
            _log.warning("a message to %s was dropped (%s): %s", message.topic, error.code, error)

    def _drop_retained(self, message: Message) -> None:
        """Drop what a broker keeps and would say again at every connect, a new request each time.

        What comes as it is published, or was queued for a device that is away, is not marked as retained
        (MQTT-3.3.1-9), so nothing is lost but what was published before the device first subscribed.
        """
        if message.topic not in self._retained:
            self._retained.add(message.topic)
            _log.warning("what is retained at %s is dropped at every connect: publish without retain", message.topic)
        message.acknowledge()

    def _verdict(self, payload: bytes) -> None:
        message = codec.decode(payload, Verdict, Resync, Refusal)
        active = self._active
        if active is not None and message.session == active.request.session:
            active.bytes_down += len(payload)
            self._tell(message)
            self._compare_speeds()
        elif isinstance(message, Resync) and not self._knows(message.session):
            # The verifier holds a context of a session that has ended: clear it again.
            self.publish(self.topics.session(self.device, message.session), b"", retain=True)
        elif isinstance(message, Refusal):
            if message.session is None and message.code == "unsupported_version":
                self._tell(message)  # it cannot read what this agent says, and never will
            _log.warning("the verifier refused (%s): %s", message.code, message.sentence)

    def _compare_speeds(self) -> None:
        """Tell a chain of drafters what a token costs without drafts, which is a round."""
        if isinstance(self._drafter, DrafterChain) and self.roundtrip.smoothed is not None:
            self._drafter.target_time(self.roundtrip.smoothed)

    def _knows(self, session: bytes) -> bool:
        if self._active is not None and self._active.request.session == session:
            return True
        return any(request.session == session for request in self._waiting)

    def _is_under_way(self, request: str) -> bool:
        if self._active is not None and self._active.request.id == request:
            return True
        return any(waiting.id == request for waiting in self._waiting)

    def _verifier_state(self, verifier: str, payload: bytes) -> None:
        state = codec.decode_state(payload, VerifierState) if payload else None
        self._placement.announce(verifier, state, self._clock())
        self._place()

    def _place(self) -> None:
        self._tell(self._picked() or Unplaced())

    def _place_anew(self) -> None:
        """Move to another verifier where the one in use has come to be doubted."""
        before = self._placement.current
        if not self.link_up or before is None:
            return  # what has not been heard from could not be heard from
        placed = self._picked()
        if placed is not None and placed.terms.verifier != before:
            self._tell(placed)

    def _picked(self) -> Placed | None:
        """Choose a verifier for the request under way, and say whether the one it has can be left at leisure."""
        now, in_use = self._clock(), self._active.verifier if self._active is not None else ""
        terms = self._placement.pick(now, in_use)
        return Placed(terms, at_leisure=self._placement.answers(in_use, now)) if terms is not None else None

    def _own_state(self, payload: bytes) -> None:
        """Put right at once what an old will says of this device."""
        if self.link_up and (not payload or codec.decode_state(payload, AgentState).status == "offline"):
            self._publish_state()

    def _own_context(self, session: bytes, payload: bytes) -> None:
        """Clear retained contexts of sessions that this agent does not know (any more)."""
        if not payload and self._active is not None and self._active.request.session == session:
            _log.warning("somebody cleared the retained context of session %s; opening it again", session.hex())
            self._tell(ContextLost())
        elif payload and not self._knows(session):
            _log.info("clearing the retained context of session %s, which has ended", session.hex())
            self.publish(self.topics.session(self.device, session), b"", retain=True)

    # Asks ---------------------------------------------------------------------------------------------------------

    def _ask(self, message: Message) -> None:
        """Spool a request, then acknowledge it: from here on it survives a crash."""
        request, reply = new_request_id(), Reply(correlation=message.correlation)
        try:
            reply = reply_wanted(message, self.topics, self.device)
            ask = codec.decode_ask(message.payload)
            request = ask.id or request
            prepared = spooled(ask, request, self._tokenizer, self._digest, max_tokens=self._options.max_tokens)
            self._accept(prepared, reply)
        except (WireError, AskError) as error:
            self._decline(codec.ask_id(message.payload) or request, reply, error.code, str(error))
        except SpoolError as error:
            if self._is_under_way(request):
                _log.error("request %s was asked again and goes on: %s", request, error)
            else:
                self._decline(request, reply, "spool_failed", str(error))
        except Exception:  # noqa: BLE001 -- one bad ask must not fail the request under way
            _log.exception("request %s could not be taken in", request)
            sentence = "the agent made a mistake and has logged it: ask something else"
            self._decline(request, reply, "internal_error", sentence)
        message.acknowledge()

    def _decline(self, request: str, reply: Reply, code: str, sentence: str) -> None:
        _log.warning("request %s was refused (%s): %s", request, code, sentence)
        self._delivery.send(request, codec.encode_json(ErrorEvent(request, 0, code, sentence[:1000])), reply)

    def _accept(self, request: Spooled, reply: Reply) -> None:
        known = self.spool.find(request.id)
        if known is not None:
            _log.info("request %s was asked again", request.id)
            self._readdress(request.id, reply)
            _, final = self._unkept.get(request.id, (b"", known.final))
            if final is not None:
                self._delivery.say(request.id, final, last=True)
            return
        if len(self._waiting) >= self._options.max_queue:
            raise AskError(
                "queue_full",
                f"device {self.device} has {len(self._waiting)} requests waiting, which is all it takes: "
                "ask again when some are answered",
            )
        self.spool.add(request, reply)
        self._waiting.append(request)
        _log.info(
            "request %s: %d prompt tokens, at most %d of answer", request.id, len(request.prompt), request.max_tokens
        )
        self._begin_next()

    def _readdress(self, request: str, reply: Reply) -> None:
        """Send the answer elsewhere from now on; a disk that does not take that is no reason to end the request."""
        if reply.topic is None:
            return
        try:
            self.spool.readdress(request, reply)
        except SpoolError as error:
            _log.error("the answer to request %s goes where it was wanted first: %s", request, error)

    def _cancel(self, request: str) -> None:
        if self._active is not None and self._active.request.id == request:
            self._tell(Cancelled())
            return
        for waiting in self._waiting:
            if waiting.id == request:
                self._cancel_waiting(waiting)
                return
        _log.info("request %s cannot be cancelled: it is not known or has ended", request)

    def _cancel_waiting(self, waiting: Spooled) -> None:
        """End a request that waits; where the disk does not take that, it waits on and is cancelled later."""
        try:
            conversation = Conversation(waiting, self)
            conversation.receive(Cancelled())
        except SpoolError as error:
            if waiting.id not in self._uncancelled:
                self._uncancelled.append(waiting.id)
            self._spool_failed(error)
            return
        self._waiting.remove(waiting)
        self._note_end(conversation)
        self.metrics.requests.labels("cancelled").inc()

    # Conversations ------------------------------------------------------------------------------------------------

    def _begin_next(self) -> None:
        """Take up the next request, if none is under way; one that the disk does not let begin is the next again."""
        while self._active is None and self._waiting:
            request = self._waiting.popleft()
            try:
                self._active = Conversation(request, self)
                self._begin(self._active)
            except SpoolError as error:
                # What a session wants first is to persist, so no app has been told anything new.
                self._active = None
                self._waiting.appendleft(request)
                self._spool_failed(error)
                return
            except Exception:  # noqa: BLE001 -- one bad request must not end the service
                _log.exception("request %s could not be begun", request.id)
                sentence = "the agent made a mistake and has logged it: ask again"
                if self._active is None:
                    final = codec.encode_json(ErrorEvent(request.id, 0, "internal_error", sentence))
                    self._unkept[request.id] = (request.session, final)
                    self._delivery.say(request.id, final, last=True)
                else:
                    self._active.fail("internal_error", sentence)
            self._retire()

    def _begin(self, active: Conversation) -> None:
        self._placement.begin(active.target, active.length, active.numerics)
        placed = self._picked()
        if placed is not None:
            self._tell(placed)
        elif not active.over:
            missing = "a verifier to announce itself" if self.link_up else "the broker"
            _log.info("request %s waits for %s", active.request.id, missing)

    def _tell(self, event: Event) -> None:
        if self._active is not None:
            self._active.receive(event)
            self._placement.keep(self._active.target, self._active.length)
            self._retire()

    def _retire(self) -> None:
        if self._active is not None and self._active.over:
            self._note_end(self._active)
            self._ended += self._active.tally
            self.metrics.requests.labels(self._active.outcome).inc()
            self._active = None
            self._keep_calibration()
            self._begin_next()

    # What is counted ----------------------------------------------------------------------------------------------

    def tally(self) -> Tally:
        """Return the counts of all sessions of this run."""
        active = self._active
        return self._ended + active.tally if active is not None else self._ended

    @property
    def queued(self) -> int:
        """Requests that wait or are under way."""
        return len(self._waiting) + (self._active is not None)

    @property
    def dropped(self) -> int:
        """Incoming messages dropped because the loop could not keep up."""
        return self._items.dropped

    # What conversations need --------------------------------------------------------------------------------------

    @property
    def drafter_context(self) -> int:
        """The longest sequence, in tokens, that the present drafter takes."""
        return self._drafter.context_length

    def now(self) -> float:
        """Return the time in seconds, of a clock that never goes back."""
        return self._clock()

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
        """Send a message; one that cannot be sent is logged and lost, which the protocol survives.

        Args:
            topic: where to.
            payload: what.
            retain: whether the broker keeps it.
            expiry: seconds after which an MQTT 5 broker forgets it.
            correlation: what an MQTT 5 app wanted its answer to carry.
            receipt: says later whether the broker has it.
        """
        try:
            self._bridge.publish(topic, payload, retain=retain, expiry=expiry, correlation=correlation, receipt=receipt)
        except BrokerError as error:
            _log.warning("a message to %s was not sent: %s", topic, error)

    def say(self, request: str, payload: bytes, *, last: bool = False) -> None:
        """Send an answer event to whoever asked, the last one until the broker has it."""
        self._delivery.say(request, payload, last=last)

    def doubt(self, verifier: str, seconds: float | None) -> None:
        """Look for another verifier at the next turn: this one does not answer, or asks to be left alone."""
        if seconds is None:
            _log.warning("verifier %s does not answer", verifier)
            self._placement.health.failed(verifier, self._clock())
        else:
            self._placement.health.busy(verifier, seconds, self._clock())

    def moved(self, request: str, left: str, verifier: str) -> None:
        """Note that a request has left one verifier for another."""
        reason = self._placement.reason(left, self._clock())
        level = logging.INFO if reason in ("busy", "draining") else logging.WARNING
        _log.log(level, "request %s moves from verifier %s to %s (%s)", request, left, verifier, reason)
        self.metrics.moves.labels(reason).inc()

    def crossed(self, request: str, verifier: str) -> None:
        """Note that a text goes on at a verifier that computes otherwise than the one before."""
        _log.warning(
            "request %s goes on at verifier %s, which has other weights, precision, device or engine than the one "
            "before: where two tokens are all but equally likely, it may choose the other",
            request,
            verifier,
        )
        self.metrics.crossings.inc()

    def credit(self, verifier: str) -> None:
        """Hold nothing against a verifier that has answered a round."""
        self._placement.health.answered(verifier)

    def draft(self, session: bytes, wish: Draft) -> None:
        """Have a token drafted."""
        self._drafting.draft(session, wish)

    def decode(self, tokens: list[int]) -> str:
        """Turn token ids into text."""
        return self._tokenizer.decode(tokens)
