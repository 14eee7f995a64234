"""What amqtt 0.12.1 lets one client take, shown on plain amqtt and bounded in ours."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import pytest

from broker.backlog import Backlog, Kept
from broker.limits import BrokerLimits
from broker.packet_form import is_well_formed
from broker.packet_reader import PacketReader
from tests.broker.brokers import ALL, allow, both
from tests.broker.raw import (
    ACCEPTED,
    DISCONNECT,
    PING,
    PINGRESP,
    PUBCOMP,
    PUBLISH,
    PUBREC,
    REFUSED,
    UNAVAILABLE,
    RawClient,
    connect_frame,
    frame,
    length,
    publish_frame,
    text,
)
from tests.waiting import wait_for

if TYPE_CHECKING:
    from broker.embedded import EmbeddedBroker
    from tests.broker.brokers import Start

OWN = allow(("{name}/#", ALL))
CLOSED_WITHIN = 0.5
"""Seconds that are waited for what never comes on plain amqtt."""


@both
def test_longest_packet(start: Start, closed: bool) -> None:
    """Plain: a packet may be as long as it says, 256 MiB."""
    broker = start(closed=closed, limits=BrokerLimits(packet_bytes=1_000))
    with RawClient(broker) as client:
        client.connect("client").publish_acknowledged("topic", bytes(900))
        client.send(publish_frame("topic", bytes(1_000)))
        assert client.closed(CLOSED_WITHIN) == closed


@both
def test_longest_connect(start: Start, closed: bool) -> None:
    """Plain: so may the first, of a client that nobody knows yet."""
    broker = start(closed=closed, limits=BrokerLimits(packet_bytes=1_000))
    with RawClient(broker) as client:
        client.send(connect_frame("c" * 2_000))
        assert client.closed(CLOSED_WITHIN) == closed


@both
def test_length_of_five_bytes(start: Start, closed: bool) -> None:
    """Plain: a length that is none is discarded, and what follows is read as packets."""
    with RawClient(start(closed=closed)) as client:
        client.connect("client").send(b"\x30\xff\xff\xff\xff\x01")
        assert client.closed(CLOSED_WITHIN) == closed


@both
def test_publish_at_a_qos_that_is_none(start: Start, closed: bool) -> None:
    """Plain: it is dropped without a word."""
    with RawClient(start(closed=closed)) as client:
        client.connect("client").send(publish_frame("topic", qos=3))
        assert client.closed(CLOSED_WITHIN) == closed


@both
def test_subscribe_at_a_qos_that_is_none(start: Start, closed: bool) -> None:
    """Plain: it is granted, and nothing ever comes."""
    with RawClient(start(closed=closed)) as client:
        client.connect("client").send(frame(0x82, b"\0\1" + text("topic") + b"\x03"))
        assert client.read().body[2:] == bytes([REFUSED if closed else 3])


@both
def test_packet_that_does_not_end(start: Start, closed: bool) -> None:
    """Plain: a packet that has begun may take for ever."""
    broker = start(closed=closed, limits=BrokerLimits(packet_seconds=0.1))
    with RawClient(broker) as client:
        client.connect("client").send(b"\x30\x05")
        assert client.closed(CLOSED_WITHIN) == closed


@both
def test_connect_that_does_not_come(start: Start, closed: bool) -> None:
    """Plain: a connection on which nothing is said stays."""
    broker = start(closed=closed, limits=BrokerLimits(connect_seconds=0.1))
    with RawClient(broker) as client:
        assert client.closed(CLOSED_WITHIN) == closed


@both
def test_connections(start: Start, closed: bool) -> None:
    """Plain: at the limit, connections are accepted all the same and kept waiting."""
    broker = start(closed=closed, connections=1, limits=BrokerLimits(connections=1))
    with RawClient(broker) as first:
        first.connect("first")
        with RawClient(broker) as second:
            assert second.closed(CLOSED_WITHIN) == closed
        first.barrier()


@both
def test_sessions(start: Start, closed: bool) -> None:
    """Plain: clients may leave behind any number of sessions."""
    broker = start(closed=closed, access=OWN, limits=BrokerLimits(sessions=1))
    with RawClient(broker) as first, RawClient(broker) as second, RawClient(broker) as again:
        first.login("pi", clean=False)
        assert second.try_login("gpu", clean=False) == (UNAVAILABLE if closed else ACCEPTED)
        assert again.try_login("pi", clean=False) == ACCEPTED


@both
def test_subscriptions(start: Start, closed: bool) -> None:
    """Plain: a client may have any number of filters."""
    broker = start(closed=closed, limits=BrokerLimits(subscriptions=2))
    with RawClient(broker) as client, RawClient(broker) as other:
        codes, _ = client.connect("client").subscribe_all(["a", "b", "a", "c"])
        assert codes == [1, 1, 1, REFUSED if closed else 1]
        other.connect("other").subscribe("c")


@both
def test_filters_in_one_packet(start: Start, closed: bool) -> None:
    """Plain: any number; a hundred thousand keep every other client waiting for seconds."""
    broker = start(closed=closed, limits=BrokerLimits(subscriptions=2))
    for kind, after in ((0x82, b"\1"), (0xA2, b"")):
        with RawClient(broker) as client:
            client.connect("client")
            client.send(frame(kind, b"\0\1" + (text("a") + after) * 4))
            client.read()
            client.send(frame(kind, b"\0\1" + (text("a") + after) * 5))
            assert client.closed(CLOSED_WITHIN) == closed


@both
def test_filters_that_are_given_up(start: Start, closed: bool) -> None:
    """Plain: each is kept for ever, and looked at for each message."""
    broker = start(closed=closed, limits=BrokerLimits(subscriptions=1))
    with RawClient(broker) as client:
        client.connect("client")
        for number in range(3):
            assert client.subscribe_all([str(number)])[0] == [1]
            client.send(frame(0xA2, b"\0\1" + text(str(number))))
            client.read()
        assert list(_inside(broker)._subscriptions) == ([] if closed else ["0", "1", "2"])


@both
def test_packets_behind_one_that_is_not_done(start: Start, closed: bool) -> None:
    """Plain: while one message at QoS 2 is not released, all that follows stays in memory."""
    broker = start(closed=closed)
    with RawClient(broker) as client:
        client.connect("client").send(publish_frame("topic", qos=2))
        client.read()
        client.send(publish_frame("topic", qos=0) * 1_000)
        client.barrier()
        _, handler = _inside(broker)._sessions["client"]
        kept = handler._reader_task.get_coro().cr_frame.f_locals["running_tasks"]
        assert (len(kept) < 100) == closed


@both
def test_message_that_is_released(start: Start, closed: bool) -> None:
    """At QoS 2 a message is passed on once, in both."""
    broker = start(closed=closed)
    with RawClient(broker) as client, RawClient(broker) as other:
        client.connect("client")
        other.connect("other").subscribe("topic")
        client.send(publish_frame("topic", b"once", qos=2) * 2)
        client.send(frame(0x62, b"\0\1"))
        assert [client.read().kind for _ in range(3)] == [5, 5, 7]  # PUBREC, PUBCOMP
        assert _take(other) == b"once"
        assert other.barrier() == []


@pytest.mark.parametrize("limits", [BrokerLimits(queued_messages=2), BrokerLimits(queued_bytes=len("pi/ask0") * 2)])
@both
def test_messages_for_a_client_that_is_away(
    start: Start, closed: bool, limits: BrokerLimits, caplog: pytest.LogCaptureFixture
) -> None:
    """Plain: any number is kept. Ours keeps the first ones, and says that it drops the others."""
    broker = start(closed=closed, access=OWN, limits=limits)
    with RawClient(broker) as device, RawClient(broker) as app:
        device.login("pi", clean=False).subscribe("pi/ask")
        device.send(DISCONNECT)
        assert device.closed()
        app.login("root")
        for number in range(4):
            app.publish_acknowledged("pi/ask", b"%d" % number)
        app.barrier()
        with RawClient(broker) as again:
            again.login("pi", clean=False)
            received = [_take(again) for _ in range(2 if closed else 4)]
            assert received == [b"%d" % number for number in range(2 if closed else 4)]
    dropped = [record for record in caplog.records if "too much waits for pi" in record.message]
    assert len(dropped) == (2 if closed else 0)


@both
def test_messages_that_are_not_acknowledged(start: Start, closed: bool) -> None:
    """Plain: any number is on its way to a client at a time. Ours sends the next when one is acknowledged, in order."""
    broker = start(closed=closed, limits=BrokerLimits(inflight=2))
    with RawClient(broker) as device, RawClient(broker) as app:
        device.connect("device").subscribe("ask")
        app.connect("app")
        for number in range(5):
            app.publish_acknowledged("ask", b"%d" % number)
        at_once = [device.read() for _ in range(2 if closed else 5)]
        if closed:
            assert device.barrier() == []
        for packet in at_once:
            device.acknowledge(packet.mid)
        rest = [_take(device) for _ in range(5 - len(at_once))]
        assert [packet.payload for packet in at_once] + rest == [b"0", b"1", b"2", b"3", b"4"]


@both
def test_messages_that_are_not_released(start: Start, closed: bool) -> None:
    """Plain: any number of QoS 2 messages may be there whose sender does not release them."""
    broker = start(closed=closed, limits=BrokerLimits(inflight=2))
    with RawClient(broker) as client:
        client.connect("client")
        for mid in (1, 2, 3):
            client.send(publish_frame("topic", mid=mid, qos=2))
            client.read_until(PUBREC)
            if mid == 1:
                client.release(mid)
                client.read_until(PUBCOMP)
        client.send(publish_frame("topic", mid=4, qos=2))
        assert client.closed(CLOSED_WITHIN) == closed


def test_messages_that_wait_survive_the_connection(start: Start) -> None:
    """Those not acknowledged come again first, then those that waited."""
    broker = start(closed=True, access=OWN, limits=BrokerLimits(inflight=2))
    with RawClient(broker) as device, RawClient(broker) as again, RawClient(broker) as app:
        device.login("pi", clean=False).subscribe("pi/ask")
        app.login("root")
        for number in range(4):
            app.publish_acknowledged("pi/ask", b"%d" % number)
        device.barrier()
        again.login("pi", clean=False)
        assert [_take(again) for _ in range(4)] == [b"0", b"1", b"2", b"3"]


@both
def test_retained_messages(start: Start, closed: bool) -> None:
    """Plain: any number is retained. Ours replaces and clears those it has, and keeps no further ones."""
    broker = start(closed=closed, limits=BrokerLimits(retained_messages=1))
    with RawClient(broker) as client:
        client.connect("client")
        for topic, payload in (("a", b"1"), ("b", b"1"), ("a", b"2")):
            client.publish_acknowledged(topic, payload, retain=True)
        assert _retained(broker) == ({"a": b"2"} if closed else {"a": b"2", "b": b"1"})
        client.publish_acknowledged("a", retain=True)
        client.publish_acknowledged("c", b"3", retain=True)
        assert _retained(broker) == ({"c": b"3"} if closed else {"b": b"1", "c": b"3"})


@both
def test_retained_bytes(start: Start, closed: bool) -> None:
    """Plain: of any size."""
    broker = start(closed=closed, limits=BrokerLimits(retained_bytes=100))
    with RawClient(broker) as client:
        client.connect("client")
        for topic, size in (("a", 60), ("b", 60), ("a", 10), ("b", 70), ("a", 50)):
            client.publish_acknowledged(topic, bytes(size), retain=True)
        sizes = {topic: len(payload) for topic, payload in _retained(broker).items()}
        assert sizes == ({"a": 10, "b": 70} if closed else {"a": 50, "b": 70})


def test_client_that_does_not_read_is_not_listened_to(start: Start) -> None:
    """Until it reads again."""
    broker = start(closed=True)
    with RawClient(broker) as stuck, RawClient(broker) as speaker:
        stuck.connect("stuck").subscribe("flood")
        speaker.connect("speaker")
        for _ in range(100):
            speaker.send(publish_frame("flood", bytes(100_000), qos=0))
        speaker.barrier()
        _, handler = _inside(broker)._sessions["stuck"]
        wait_for(lambda: not handler.reader.welcome.is_set())
        stuck.send(PING)
        stuck.read_until(PINGRESP)


def test_client_that_comes_and_goes(start: Start) -> None:
    """None of its connections stays. On plain amqtt some wait for ever for the end of those before."""
    broker = start(closed=True)
    for _ in range(300):
        with RawClient(broker) as client:
            client.send(connect_frame("restless", clean=False) + PING)
    wait_for(lambda: not _inside(broker)._connections, within=10)
    with RawClient(broker) as client:
        client.connect("restless").barrier()


@both
def test_longest_keepalive(start: Start, closed: bool) -> None:
    """Plain: a client that asks for no keepalive at all is never given up."""
    broker = start(closed=closed, limits=BrokerLimits(keepalive_seconds=1))
    with RawClient(broker) as client:
        assert client.connect("client", keepalive=0).closed(3) == closed


def test_reader_that_is_not_to_take_more() -> None:
    """It gives the packet that it has, and takes the next one when it may."""

    async def read() -> None:
        stream = asyncio.StreamReader()
        stream.feed_data(PING + DISCONNECT)
        reader = PacketReader(stream, most_bytes=100)
        assert await reader.read(1) == PING[:1]
        reader.welcome.clear()
        assert await reader.read(1) == PING[1:]
        waiting = asyncio.ensure_future(reader.read(2))
        await asyncio.sleep(0)
        assert not waiting.done()
        reader.welcome.set()
        assert await waiting == DISCONNECT

    asyncio.run(read())


def test_backlog() -> None:
    """It counts messages and bytes, in and out."""
    backlog = Backlog(3, 10)
    backlog.put_nowait(Kept("t", b"12345678", 1))
    assert not backlog.full()
    backlog.put_nowait(Kept("t", b"", 1))
    assert backlog.full()
    backlog.get_nowait()
    assert not backlog.full()


@pytest.mark.parametrize(
    "rubbish",
    [
        b"\x00",
        b"\x10\x00",
        b"\x10\x02\x00\x04",
        b"\x10\x06\x00\x04MQTT",
        frame(0x10, b"\x00\x04MQTT\x04\xff\x00\x00\x00\x01"),
        frame(0x10, b"\xff\xff"),
        b"\xf0\x00" * 3,
        b"\x16\x03\x01\x02\x00\x01\x00\x01",  # TLS, where none is spoken
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_rubbish_instead_of_connect(start: Start, rubbish: bytes) -> None:
    """Whatever is sent instead of CONNECT harms nobody else."""
    broker = start(closed=True)
    with RawClient(broker) as other, RawClient(broker) as client:
        other.connect("other").barrier()
        client.send(rubbish)
        client.socket.shutdown(socket.SHUT_WR)
        assert client.closed(5)
        other.barrier()


@pytest.mark.parametrize(
    "packet",
    [
        frame(0x30, text(b"\xff")),
        publish_frame("a\0b"),
        publish_frame("a/+"),
        frame(0x32, text("topic")),
        frame(0x82, b"\0\1" + text(b"\xed\xa0\x80") + b"\1"),
        frame(0x82, b"\0\1" + text("topic")),
        frame(0x80, b"\0\1" + text("topic") + b"\1"),
        frame(0x82, b"\0\1"),
        frame(0xA2, b"\0\1\xff\xff"),
        frame(0x62, b"\0\1" + PING),
        frame(0x60, b"\0\1"),
        frame(0xC0, PING),
        frame(0x90, b"\0\1" + b"\1" * 1_000),
        frame(0xE0, b"\0"),
    ],
)
@both
def test_packet_that_has_not_the_form(start: Start, packet: bytes, closed: bool) -> None:
    """Plain: text that is no UTF-8 becomes other text, what is left over the next packet, and the connection stays."""
    with RawClient(start(closed=closed)) as client:
        client.connect("client").send(packet + PING)
        assert client.closed(CLOSED_WITHIN) == closed or packet[0] == DISCONNECT[0]


def test_what_was_retained_never_comes_after_what_replaced_it(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where it is replaced while a client is sent all that is retained."""
    broker = start(closed=True)
    inside = _inside(broker)
    asks = inside._topic_filtering

    async def ask(session: Any, topic: str, action: Any) -> bool:
        if topic == "a" and inside._retained_messages["b"].data == b"old":
            await inside.retain_message(None, "b", b"new", 0)
        return bool(await asks(session, topic, action))

    with RawClient(broker) as speaker:
        speaker.connect("speaker")
        for topic in ("a", "b", "c"):
            speaker.publish_acknowledged(topic, b"old", retain=True)
        monkeypatch.setattr(inside, "_topic_filtering", ask)
        assert _retained(broker) == {"a": b"old", "c": b"old"}
        assert _retained(broker) == {"a": b"old", "b": b"new", "c": b"old"}


@pytest.mark.parametrize(
    "packet",
    [
        connect_frame("c", will="state", username="u"),
        connect_frame("c"),
        frame(0x82, b"\0\1" + text("a/#") + b"\1"),
        frame(0xA2, b"\0\1" + text("a/#")),
        frame(0x40, b"\0\1"),
        frame(0x62, b"\0\1"),
        PING,
        DISCONNECT,
    ],
)
def test_form_of_a_packet(packet: bytes) -> None:
    """No less of it will do, and no more."""
    first, body = packet[0], packet[2:]
    assert is_well_formed(first, memoryview(body))
    for other in (*(body[:end] for end in range(len(body))), body + b"\0"):
        assert not is_well_formed(first, memoryview(other))


@pytest.mark.parametrize(
    "packet",
    [
        publish_frame("topic", b"\xff"),
        publish_frame("\ufeff", qos=0),
        frame(0x10, text("MQTT") + b"\5\2\0\0\0" + text("c")),  # of other versions, which are answered
        frame(0x10, text("MQIsdp") + b"\3\2\0\0" + text("c")),
    ],
)
def test_packet_whose_end_is_open(packet: bytes) -> None:
    assert is_well_formed(packet[0], memoryview(packet)[2:])


@pytest.mark.parametrize("value", [0, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152, 268_435_455])
def test_length(value: int) -> None:
    """The lengths of these tests are MQTT's (3.1.1, table 2.4)."""
    assert len(length(value)) == 1 + (value > 127) + (value > 16_383) + (value > 2_097_151)


def _inside(broker: EmbeddedBroker) -> Any:
    """Return amqtt's broker; what is read of it is untyped."""
    return broker._broker


def _take(client: RawClient) -> bytes:
    """Return the next message's payload; acknowledges it."""
    while (packet := client.read()).kind != PUBLISH:
        pass
    client.acknowledge(packet.mid)
    return packet.payload


def _retained(broker: object) -> dict[str, bytes]:
    with RawClient(broker) as reader:  # type: ignore[arg-type]
        reader.connect("reader").subscribe("#")
        found = {}
        reader.publish("end")
        while (packet := reader.read()).kind != PUBLISH or packet.topic != "end":
            if packet.kind == PUBLISH:
                reader.acknowledge(packet.mid)
                found[packet.topic] = packet.payload
        return found
