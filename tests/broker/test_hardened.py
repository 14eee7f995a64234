"""Each gap of amqtt 0.12.1, shown on plain amqtt and closed in ours."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from amqtt.broker import Broker

from broker.embedded import EmbeddedBroker
from broker.hardened import HardenedBroker
from tests.broker.raw import DISCONNECT, PING, PINGRESP, PUBLISH, RawClient, connect_frame, frame, text

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator


class PlainWithNames(Broker):  # type: ignore[misc]  # amqtt is not typed
    """Plain amqtt whose clients count as known, so that it keeps messages for them while they are away."""

    async def _authenticate(self, session: Any, listener: Any) -> bool:
        accepted: bool = await super()._authenticate(session, listener)
        session.is_anonymous = False
        return accepted


@pytest.fixture
def start() -> Iterator[Callable[..., EmbeddedBroker]]:
    """Starts a broker of the class given; stopped at the end."""
    started: list[EmbeddedBroker] = []

    def begin(make: Callable[[dict[str, Any]], Any]) -> EmbeddedBroker:
        started.append(EmbeddedBroker(port=0, make=make))
        started[-1].start()
        return started[-1]

    yield begin
    for broker in started:
        broker.stop()


both = pytest.mark.parametrize(
    ("make", "closed"), [(Broker, False), (HardenedBroker, True)], ids=["plain shows the gap", "hardened"]
)
both_named = pytest.mark.parametrize(
    ("make", "closed"), [(PlainWithNames, False), (HardenedBroker, True)], ids=["plain shows the gap", "hardened"]
)


@both
def test_retained_messages_stay_with_those_who_subscribed(start: Any, make: Any, closed: bool) -> None:
    """Plain: a newcomer without subscriptions gets the retained messages that others subscribed to."""
    broker = start(make)
    with RawClient(broker) as reader, RawClient(broker) as newcomer:
        reader.connect("reader").subscribe("private/#")
        reader.publish("private/state", b"on", retain=True)
        reader.read_until(PUBLISH)  # passed on, so it is retained by now
        leaked = newcomer.connect("newcomer").barrier()
        assert [packet.topic for packet in leaked] == ([] if closed else ["private/state"])


@both_named
def test_unacknowledged_message_is_sent_again(start: Any, make: Any, closed: bool) -> None:
    """Plain: a QoS 1 message whose connection ends before PUBACK is lost."""
    broker = start(make)
    with RawClient(broker) as device, RawClient(broker) as app:
        device.connect("device", clean=False).subscribe("ask")
        app.connect("app").publish_acknowledged("ask")
        first = device.read()
        assert (first.kind, first.duplicate) == (PUBLISH, False)
        device.socket.close()
        with RawClient(broker) as again:
            received = again.connect("device", clean=False).barrier()
            assert [(packet.topic, packet.duplicate, packet.mid) for packet in received] == (
                [("ask", True, first.mid)] if closed else []
            )


@both
def test_acknowledged_message_is_not_sent_again(start: Any, make: Any, closed: bool) -> None:
    """PUBACK ends it, in both."""
    broker = start(make)
    with RawClient(broker) as device, RawClient(broker) as app:
        device.connect("device", clean=False).subscribe("ask")
        app.connect("app").publish_acknowledged("ask")
        device.acknowledge(device.read().mid)
        device.barrier()
        device.socket.close()
        with RawClient(broker) as again:
            assert again.connect("device", clean=False).barrier() == []


@both_named
def test_message_is_not_given_up(start: Any, make: Any, closed: bool) -> None:
    """Plain: a QoS 1 message that is not acknowledged within 5 s is forgotten, though its connection stands."""
    brokers: list[Any] = []

    def noted(config: dict[str, Any]) -> Any:
        brokers.append(make(config))
        return brokers[0]

    broker = start(noted)
    with RawClient(broker) as device, RawClient(broker) as app:
        device.connect("device", clean=False).subscribe("ask")
        app.connect("app").publish_acknowledged("ask")
        mid = device.read().mid
        assert not device.receives(6)
        session, _ = brokers[0].sessions["device"]
        assert list(session.inflight_out) == ([mid] if closed else [])


@both
def test_silent_client_is_given_up(start: Any, make: Any, closed: bool) -> None:
    """Plain: a client that misses its keepalive is kept, and its last will never comes."""
    broker = start(make)
    with RawClient(broker) as watcher, RawClient(broker) as silent:
        watcher.connect("watcher").subscribe("state")
        silent.connect("silent", keepalive=1, will="state")
        assert watcher.receives(timeout=3) == closed


@both
def test_silence_shorter_than_one_and_a_half_keepalives_is_fine(start: Any, make: Any, closed: bool) -> None:
    """A client that pings once per keepalive, a little late, stays."""
    broker = start(make)
    with RawClient(broker) as client:
        client.connect("client", keepalive=1)
        for _ in range(2):
            with suppress(TimeoutError):
                client.read(timeout=1.2)
            client.send(PING)
            client.read_until(PINGRESP)


@both
def test_messages_are_kept_for_clients_without_a_name(start: Any, make: Any, closed: bool) -> None:
    """Plain: what arrives while an anonymous client with a persistent session is away is lost."""
    broker = start(make)
    with RawClient(broker) as device, RawClient(broker) as app:
        device.connect("device", clean=False).subscribe("ask")
        device.send(DISCONNECT)
        assert device.closed()
        app.connect("app").publish_acknowledged("ask")
        assert not app.receives(1.5)  # amqtt looks once a second for sessions that it need not keep
        with RawClient(broker) as again:
            assert [packet.topic for packet in again.connect("device", clean=False).barrier()] == (
                ["ask"] if closed else []
            )


@both_named
def test_kept_messages_are_not_marked_retained(start: Any, make: Any, closed: bool) -> None:
    """Plain: what waited for a client arrives with the retain flag."""
    broker = start(make)
    with RawClient(broker) as device, RawClient(broker) as app:
        device.connect("device", clean=False).subscribe("ask")
        device.send(DISCONNECT)
        assert device.closed()
        app.connect("app").publish_acknowledged("ask")
        app.barrier()
        with RawClient(broker) as again:
            again.connect("device", clean=False)
            assert again.read().retain == (not closed)


@both
def test_what_was_acknowledged_to_a_publisher_is_passed_on(start: Any, make: Any, closed: bool) -> None:
    """Plain: messages acknowledged just before the publisher leaves are dropped."""
    broker = start(make)
    with RawClient(broker) as reader, RawClient(broker) as publisher:
        reader.connect("reader").subscribe("topic")
        publisher.connect("publisher")
        publisher.send(
            b"".join(frame(0x32, text("topic") + struct.pack(">H", mid)) for mid in range(1, 101)) + DISCONNECT
        )
        assert publisher.closed()
        publisher.socket.close()
        reader.publish("topic", b"end")
        count = 0
        while not (packet := reader.read()).body.endswith(b"end"):
            count += packet.kind == PUBLISH
        assert (count == 100) == closed


@both_named
def test_client_that_returns_early_is_heard_and_hears(start: Any, make: Any, closed: bool) -> None:
    """Plain: a session resumed while its old connection stands counts as away."""
    broker = start(make)
    with RawClient(broker) as half_open, RawClient(broker) as back, RawClient(broker) as app:
        half_open.connect("device", clean=False).subscribe("ask")
        back.connect("device", clean=False).barrier()
        app.connect("app").publish_acknowledged("ask")
        assert back.receives() == closed


@both
def test_clean_client_that_returns_early_ends_its_old_connection(start: Any, make: Any, closed: bool) -> None:
    """Plain: the old connection stays open beside the new one (against MQTT-3.1.4-2)."""
    broker = start(make)
    with RawClient(broker) as old, RawClient(broker) as new:
        old.connect("verifier")
        new.connect("verifier").barrier()
        assert old.closed() == closed
        new.barrier()


@both
def test_early_disconnect_is_a_disconnect(start: Any, make: Any, closed: bool) -> None:
    """Plain: after a DISCONNECT in the same segment as CONNECT the last will is published all the same."""
    broker = start(make)
    with RawClient(broker) as watcher, RawClient(broker) as hasty:
        watcher.connect("watcher").subscribe("state")
        hasty.send(connect_frame("hasty", will="state") + DISCONNECT)
        assert hasty.closed()
        assert watcher.receives(0.5) == (not closed)


@both
def test_second_connect_ends_the_connection(start: Any, make: Any, closed: bool) -> None:
    """It does in both (MQTT-3.1.0-2)."""
    broker = start(make)
    with RawClient(broker) as client:
        client.connect("client").barrier()
        client.send(connect_frame("client"))
        assert client.closed()


@both
def test_forbidden_topic_ends_the_connection(start: Any, make: Any, closed: bool) -> None:
    """Plain: publishing to a topic that begins with $ leaves a connection open on which nothing is passed on."""
    broker = start(make)
    with RawClient(broker) as client:
        client.connect("client")
        client.publish("$mine")
        assert client.closed() == closed


@both
def test_silent_connection_is_closed_at_shutdown(start: Any, make: Any, closed: bool) -> None:
    """Plain: a connection on which CONNECT never came outlives the broker."""
    accepted, outcome = threading.Event(), []

    class Watching(make):  # type: ignore[misc]  # amqtt is not typed
        async def stream_connected(self, reader: Any, writer: asyncio.StreamWriter, listener_name: str) -> None:
            self.accepted = writer
            accepted.set()
            await super().stream_connected(reader, writer, listener_name)

        async def shutdown(self) -> None:
            try:
                await super().shutdown()
            finally:
                outcome.append(self.accepted.is_closing())
                self.accepted.close()

    broker = start(Watching)
    with RawClient(broker):
        assert accepted.wait(5)
        broker.stop()
        assert outcome == [closed]


def test_accepted_sockets_send_at_once(start: Any) -> None:
    """TCP_NODELAY is set on the broker's side of a connection: asyncio does it."""
    seen: list[int] = []

    class Watching(HardenedBroker):
        async def stream_connected(
            self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, listener_name: str
        ) -> None:
            accepted = writer.get_extra_info("socket")
            seen.append(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            await super().stream_connected(reader, writer, listener_name)

    with RawClient(start(Watching)) as client:
        client.connect("client")
    assert seen == [1]
