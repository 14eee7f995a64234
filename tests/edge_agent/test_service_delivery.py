"""Whom an agent answers, and what it says again: a real agent and real brokers; only the verifier is a mere word."""

from __future__ import annotations

import queue
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from msgspec import Struct

from benchmarks.kit.link import Link
from broker.address import BrokerAddress
from broker.client import Bridge
from edge_agent.delivery import REPEAT_AFTER
from edge_agent.drafters.spec import open_drafter, parse_drafter
from edge_agent.policy import FixedLength
from edge_agent.reply import NOWHERE_ELSE
from edge_agent.service import Agent, AgentOptions
from edge_agent.spool import Spool
from schemas import codec
from schemas.digest import tokenizer_digest
from schemas.messages import VERSION, Ask, DoneEvent, ErrorEvent, VerifierState
from schemas.topics import Topics
from tests.edge_agent.test_intake import bytewise

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    import paho.mqtt.client as paho

    from benchmarks.kit.link_log import Way
    from benchmarks.kit.mqtt_packets import Packet
    from broker.message import Message
    from broker.run import RunningBroker
    from edge_agent.reply import Reply
    from edge_agent.spool import Spooled

PATIENCE = 20.0
TOPICS = Topics()
ASK, CANCEL, ANSWERS = TOPICS.ask("pi"), TOPICS.cancel("pi"), TOPICS.answer("pi", "+")
TOKENIZER = bytewise()


class Clock:
    """Time that can be made to pass."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


@contextmanager
def agent(address: BrokerAddress, spool: Spool, clock: Clock | None = None) -> Iterator[None]:
    """An agent that has subscribed to what apps ask; no verifier is there."""
    drafter = open_drafter([parse_drafter("lookup")], vocab_limit=TOKENIZER.vocab_size)
    one = Agent(AgentOptions("pi", address), drafter, TOKENIZER, FixedLength(2), spool, clock=clock or Clock())
    thread = threading.Thread(target=one.run, daemon=True)
    with app(address, TOPICS.device_state("pi")) as (_, states):
        thread.start()
        try:
            while b"online" not in states.get(timeout=PATIENCE).payload:
                pass
            yield
        finally:
            one.stop()
            thread.join(PATIENCE)
            assert not thread.is_alive()


@contextmanager
def app(address: BrokerAddress, *filters: str) -> Iterator[tuple[Bridge, queue.Queue[Message]]]:
    """An app, and what it hears."""
    heard: queue.Queue[Message] = queue.Queue()
    bridge = Bridge(address)
    for name in filters:
        bridge.subscribe(name, heard.put)
    with bridge:
        bridge.wait_up(PATIENCE)
        yield bridge, heard


def asked(name: str) -> bytes:
    return codec.encode_json(Ask(id=name, prompt="Hi"))


# Last events ----------------------------------------------------------------------------------------------------------


class Forgetful(Link):
    """Loses the broker's acknowledgement of the first answer event to the request named."""

    def __init__(self, upstream: BrokerAddress, request: str) -> None:
        super().__init__(upstream)
        self._topic: str | None = TOPICS.answer("pi", request)
        self._lose = b""

    def decide(self, way: Way, packet: Packet) -> tuple[bytes, ...]:
        if way == "up" and packet.topic is not None and packet.topic == self._topic:
            self._topic = None
            after = packet.data.index(packet.topic.encode()) + len(packet.topic)
            self._lose = b"\x40\x02" + packet.data[after : after + 2]  # PUBACK with its packet id
        if way == "down" and packet.data == self._lose:
            return ()
        return super().decide(way, packet)


class Watched(Spool):
    """Says which requests are marked as delivered."""

    def __init__(self) -> None:
        super().__init__(None)
        self.marked: queue.Queue[list[str]] = queue.Queue()

    def mark_delivered(self, requests: Iterable[str]) -> None:
        super().mark_delivered(requests)
        self.marked.put(list(requests))


@pytest.mark.parametrize("engine", ["embedded"], indirect=True)
def test_acknowledgement_that_never_comes_holds_up_no_other_and_is_made_up_for(broker: RunningBroker) -> None:
    """The connection lives on, so the MQTT client never sends that message again."""
    spool, clock, address = Watched(), Clock(), BrokerAddress(broker.host, broker.port)
    with (
        Forgetful(address, "one") as link,
        app(address, ANSWERS) as (bridge, heard),
        agent(link.address, spool, clock),
    ):
        for name in ("one", "two"):
            bridge.publish(ASK, asked(name))
            bridge.publish(CANCEL, name.encode())
            assert codec.decode_event(heard.get(timeout=PATIENCE).payload).request == name
        assert spool.marked.get(timeout=PATIENCE) == ["two"]
        clock.ahead = REPEAT_AFTER
        assert codec.decode_event(heard.get(timeout=PATIENCE).payload).request == "one"
        assert spool.marked.get(timeout=PATIENCE) == ["one"]
        link.cut()  # or the agent would wait for the lost acknowledgement once more before it ends


# Response topics ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["mosquitto"], indirect=True)
def test_answers_come_to_the_response_topic_too_with_the_correlation_data(
    broker: RunningBroker, tmp_path: Path
) -> None:
    """Of requests that are refused, cancelled, asked again, and of one that outlives the agent."""
    address, path = BrokerAddress(broker.host, broker.port, mqtt5=True), tmp_path / "spool.db"
    with app(address, ANSWERS, "inbox/#") as (bridge, heard):

        def hear(name: str, inbox: str | None, correlation: bytes) -> type:
            """Take the same event from the answer topic and the inbox, if any; return its kind."""
            topics = {TOPICS.answer("pi", name), *([inbox] if inbox else [])}
            messages = [heard.get(timeout=PATIENCE) for _ in topics]
            assert {message.topic for message in messages} == topics
            assert {message.correlation for message in messages} == {correlation}
            (payload,) = {message.payload for message in messages}
            return type(codec.decode_event(payload))

        with agent(address, Spool(path)):
            bridge.publish(ASK, b'{"id": "bad", "prompt": 1}', response_topic="inbox/bad", correlation=b"0")
            assert hear("bad", "inbox/bad", b"0") is ErrorEvent
            bridge.publish(ASK, asked("sly"), response_topic=TOPICS.ask("other"), correlation=b"1")
            assert hear("sly", None, b"1") is ErrorEvent
            bridge.publish(ASK, asked("one"), response_topic="inbox/one", correlation=b"\x00\xff")
            bridge.publish(CANCEL, b"one")
            assert hear("one", "inbox/one", b"\x00\xff") is DoneEvent
            bridge.publish(ASK, asked("one"), response_topic="inbox/one/again", correlation=b"2")
            assert hear("one", "inbox/one/again", b"2") is DoneEvent
            bridge.publish(ASK, asked("two"), response_topic="inbox/two", correlation=b"3")
            bridge.publish(ASK, asked("two"))
            bridge.publish(ASK, asked("end"))
            bridge.publish(CANCEL, b"end")  # once it is answered, all before it is spooled
            assert heard.get(timeout=PATIENCE).topic == TOPICS.answer("pi", "end")
        with agent(address, Spool(path)):
            bridge.publish(CANCEL, b"two")
            assert hear("two", "inbox/two", b"3") is DoneEvent
        assert heard.empty()


# What brokers keep for a device that is away --------------------------------------------------------------------------


class StandIn(Bridge):
    """Takes up a device's MQTT session, and hears all that the broker has kept for it."""

    def __init__(self, address: BrokerAddress) -> None:
        super().__init__(address, "agent-pi", clean=False)
        self.topics: queue.Queue[str] = queue.Queue()

    def _received(self, client: paho.Client, userdata: object, message: paho.MQTTMessage) -> None:
        self.topics.put(message.topic)
        super()._received(client, userdata, message)


def test_asks_and_verdicts_wait_for_a_device_that_is_away_and_announcements_do_not(broker: RunningBroker) -> None:
    """Or a day's announcements would fill the broker's queue, and asks would be dropped."""
    address = BrokerAddress(broker.host, broker.port)
    with app(address) as (bridge, _):
        with agent(address, Spool(None)):
            pass
        for topic in (TOPICS.verifier_state("v0"), TOPICS.session("pi", b"12345678"), TOPICS.device_state("pi")):
            bridge.publish(topic, b"anything", retain=True)
        waiting = [TOPICS.verdict("pi"), CANCEL, ASK]
        for topic in waiting:
            bridge.publish(topic, b"anything")
        assert bridge.flush(PATIENCE)
        with StandIn(address) as device:
            assert [device.topics.get(timeout=PATIENCE) for _ in waiting] == waiting


class Listed(Spool):
    """Says which requests are taken in."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.added: queue.Queue[int] = queue.Queue()

    def add(self, request: Spooled, reply: Reply = NOWHERE_ELSE) -> bool:
        self.added.put(len(request.prompt))
        return super().add(request, reply)


def test_retained_ask_is_answered_as_it_comes_and_not_again_at_every_connect(
    broker: RunningBroker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    address, path = BrokerAddress(broker.host, broker.port), tmp_path / "spool.db"
    with app(address) as (bridge, _):

        def taken_in(*, away: bytes = b"", present: bytes = b"", retain: bool = True) -> list[int]:
            """Return the lengths of the prompts that an agent takes in that comes back."""
            if away:
                bridge.publish(ASK, away, retain=retain)
                assert bridge.flush(PATIENCE)
            spool = Listed(path)
            with agent(address, spool):
                if present:
                    bridge.publish(ASK, present, retain=retain)
                bridge.publish(ASK, b"12345")
                lengths = [spool.added.get(timeout=PATIENCE)]
                while lengths[-1] != 5:
                    lengths.append(spool.added.get(timeout=PATIENCE))
            return lengths

        assert taken_in(present=b"1") == [1, 5], "as it is published"
        assert taken_in() == [5]
        assert sum("publish without retain" in record.getMessage() for record in caplog.records) == 1
        assert taken_in(away=b"12") == [2, 5], "once, though the device was away"
        assert taken_in(away=b"123", present=b"1234", retain=False) == [3, 4, 5]


@pytest.mark.parametrize("engine", ["embedded"], indirect=True)
def test_retained_cancel_and_verdict_are_dropped(broker: RunningBroker, caplog: pytest.LogCaptureFixture) -> None:
    address = BrokerAddress(broker.host, broker.port)
    with app(address, ANSWERS) as (bridge, heard):
        bridge.publish(CANCEL, b"one", retain=True)
        bridge.publish(TOPICS.verdict("pi"), b"anything", retain=True)
        bridge.publish(ASK, asked("old"), retain=True)
        assert bridge.flush(PATIENCE)
        with agent(address, Spool(None)):
            bridge.publish(ASK, asked("one"))
            bridge.publish(ASK, asked("two"))
            bridge.publish(CANCEL, b"two")
            assert codec.decode_event(heard.get(timeout=PATIENCE).payload).request == "two"
    for topic in (CANCEL, TOPICS.verdict("pi"), ASK):
        assert f"retained at {topic} is dropped" in caplog.text


# What brokers forget --------------------------------------------------------------------------------------------------


class Seen(Struct):
    """A message as an MQTT 5 client sees it."""

    topic: str
    payload: bytes
    expiry: int | None


class Watcher(Bridge):
    """Sees when messages expire, which is nothing that a role asks for."""

    def __init__(self, address: BrokerAddress) -> None:
        super().__init__(address)
        self.seen: queue.Queue[Seen] = queue.Queue()

    def _received(self, client: paho.Client, userdata: object, message: paho.MQTTMessage) -> None:
        expiry = getattr(message.properties, "MessageExpiryInterval", None)
        self.seen.put(Seen(message.topic, bytes(message.payload), expiry))
        super()._received(client, userdata, message)


@pytest.mark.parametrize("engine", ["mosquitto"], indirect=True)
def test_context_expires_at_the_broker_unless_it_is_published_again_which_it_is(broker: RunningBroker) -> None:
    address, clock = BrokerAddress(broker.host, broker.port, mqtt5=True), Clock()
    digest = tokenizer_digest(TOKENIZER.canonical_json)
    verifier = VerifierState(VERSION, "online", "01", "t", digest, "01", TOKENIZER.vocab_size, 1000, (), capacity=1)
    watcher = Watcher(address)
    watcher.subscribe(TOPICS.sessions("pi"), lambda _: None)
    watcher.subscribe(TOPICS.draft("+", "v0"), lambda _: None)
    with watcher, app(address) as (bridge, _):
        watcher.wait_up(PATIENCE)
        bridge.publish(TOPICS.verifier_state("v0"), codec.encode_json(verifier), retain=True)
        with agent(address, Spool(None), clock):
            bridge.publish(ASK, asked("one"))
            context, draft = watcher.seen.get(timeout=PATIENCE), watcher.seen.get(timeout=PATIENCE)
            assert context.expiry == 3600
            assert (draft.topic, draft.expiry) == (TOPICS.draft("pi", "v0"), 2)
            clock.ahead = 1200.0
            while (again := watcher.seen.get(timeout=PATIENCE)).topic != context.topic:
                pass  # the bundle was not answered, and is sent again too
            assert again == context
            bridge.publish(CANCEL, b"one")
            while (end := watcher.seen.get(timeout=PATIENCE)).topic != context.topic:
                pass
            assert (end.payload, end.expiry) == (b"", None)
