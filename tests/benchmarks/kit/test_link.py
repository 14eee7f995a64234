"""The bad link: order, delay, cuts, holding, loss and duplication, with real sockets and with a real broker."""

from __future__ import annotations

import queue
import socket
import threading
import time
from typing import TYPE_CHECKING, Self

import pytest

from benchmarks.kit.link import Link
from benchmarks.kit.link_log import Changed, LinkEvent, LostTrack, Published, Set
from broker.address import BrokerAddress
from broker.client import Bridge
from broker.run import start_broker
from tests.conftest import require

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.message import Message
    from broker.run import RunningBroker

LOTS = 4_000_000
HELLO = b"\x10\x16\x00\x04MQTT\x04\x02\x00\x0a\x00\x0asled-probe"
NEWS = b"\x32\x08\x00\x03a/b\x00\x07x"
AGAIN = b"\x3a" + NEWS[1:]
PING = b"\xc0\x00"


class Echo:
    """A server that sends back what it gets, ends when its client ends, and counts what it has read."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = BrokerAddress("127.0.0.1", self._socket.getsockname()[1])
        self.ended: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._serve, daemon=True)]

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._echo, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _echo(self, connection: socket.socket) -> None:
        read = bytearray()
        with connection:
            try:
                while data := connection.recv(1 << 16):
                    read += data
                    connection.sendall(data)
            except OSError:
                pass
        self.ended.put(bytes(read))

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        # Closing alone does not wake a thread in accept().
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for thread in self._threads:
            thread.join(10)


def connect(link: Link) -> socket.socket:
    return socket.create_connection((link.address.host, link.address.port), timeout=20)


def receive(connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size and (more := connection.recv(1 << 16)):
        data += more
    return bytes(data)


def ended(connection: socket.socket) -> bool:
    """Whether the other side has ended the connection, one way or the other."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_bytes_come_back_late_and_as_they_were_sent() -> None:
    with Echo() as echo, Link(echo.address, delay=0.05) as link, connect(link) as connection:
        began = time.monotonic()
        connection.sendall(b"abc")
        assert receive(connection, 3) == b"abc"
        assert time.monotonic() - began >= 0.1, "twice the delay"


def test_without_a_delay_it_is_a_plain_proxy_for_several_connections() -> None:
    with Echo() as echo, Link(echo.address) as link, connect(link) as one, connect(link) as other:
        one.sendall(b"one")
        other.sendall(b"other")
        assert (receive(other, 5), receive(one, 3)) == (b"other", b"one")


def test_much_more_than_one_chunk_is_under_way_at_once() -> None:
    """A link that sent one chunk per delay would need a minute for this."""
    pattern = bytes(range(256)) * (LOTS // 256)
    with Echo() as echo, Link(echo.address, delay=0.5) as link, connect(link) as connection:
        writer = threading.Thread(target=connection.sendall, args=(pattern,))
        writer.start()
        assert receive(connection, len(pattern)) == pattern
        writer.join()


def test_nothing_overtakes_when_the_delay_becomes_shorter() -> None:
    with Echo() as echo, Link(echo.address, delay=0.3) as link, connect(link) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        expected = bytearray()
        for number in range(50):
            link.delay = 0.3 if number < 25 else 0.0
            connection.sendall(b"%03d" % number)
            expected += b"%03d" % number
        assert receive(connection, len(expected)) == bytes(expected)


def test_a_side_that_has_ended_still_gets_the_answer() -> None:
    with Echo() as echo, Link(echo.address, delay=0.02) as link, connect(link) as connection:
        connection.sendall(b"last words")
        connection.shutdown(socket.SHUT_WR)
        assert receive(connection, 100) == b"last words"
        assert echo.ended.get(timeout=10) == b"last words"


def test_what_was_sent_before_breaking_off_arrives() -> None:
    with Echo() as echo, Link(echo.address, delay=0.2) as link:
        connection = connect(link)
        connection.sendall(b"hello ")
        assert receive(connection, 6) == b"hello "
        connection.sendall(b"bye")
        link.upstream = None
        with connect(link) as later:
            assert ended(later), "by now the link has read what came before"
        # No lingering: the kernel resets the connection instead of closing it.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        connection.close()
        assert echo.ended.get(timeout=10) == b"hello bye"


def test_a_cut_breaks_connections_and_refuses_new_ones_until_it_is_mended() -> None:
    with Echo() as echo, Link(echo.address) as link:
        with connect(link) as before:
            before.sendall(b"kept")
            assert receive(before, 4) == b"kept"
            link.delay = 60.0
            before.sendall(b"lost")
            link.cut()
            assert ended(before)
            assert echo.ended.get(timeout=10) == b"kept"
        with connect(link) as during:
            assert ended(during)
        link.mend()
        link.delay = 0.0
        with connect(link) as after:
            after.sendall(b"abc")
            assert receive(after, 3) == b"abc"


def test_the_place_behind_it_may_be_named_later() -> None:
    with Echo() as echo, Link() as link:
        with connect(link) as early:
            assert ended(early)
        link.upstream = echo.address
        with connect(link) as connection:
            connection.sendall(b"abc")
            assert receive(connection, 3) == b"abc"


def test_nobody_behind_it_ends_the_connection() -> None:
    with Echo() as echo:
        nobody = echo.address
    with Link(nobody) as link, connect(link) as connection:
        assert ended(connection)


def test_leaving_ends_all_connections() -> None:
    with Echo() as echo:
        with Link(echo.address) as link:
            connection = connect(link)
            connection.sendall(b"abc")
            assert receive(connection, 3) == b"abc"
        with connection:
            assert ended(connection)


@pytest.mark.parametrize("delay", [-1.0, float("nan")])
def test_a_delay_that_is_none_is_refused(delay: float) -> None:
    with pytest.raises(ValueError, match="from 0 on"):
        Link(delay=delay)


def test_a_bridge_works_through_it_and_comes_back_after_a_cut(broker: RunningBroker) -> None:
    received: queue.SimpleQueue[Message] = queue.SimpleQueue()
    ups: queue.SimpleQueue[bool] = queue.SimpleQueue()
    downs: queue.SimpleQueue[str] = queue.SimpleQueue()
    with Link(BrokerAddress(broker.host, broker.port), delay=0.02) as link:
        bridge = Bridge(link.address, "far", reconnect_delay=(0.05, 0.2), on_up=ups.put, on_down=downs.put)
        bridge.subscribe("link/test", received.put)
        with bridge:
            bridge.wait_up(20)
            ups.get(timeout=20)
            began = time.monotonic()
            bridge.publish("link/test", b"before")
            assert received.get(timeout=20).payload == b"before"
            assert time.monotonic() - began >= 0.04
            link.cut()
            downs.get(timeout=20)
            bridge.publish("link/test", b"kept")
            link.mend()
            ups.get(timeout=20)
            assert received.get(timeout=20).payload == b"kept"


@pytest.mark.parametrize("chance", [-0.1, 1.1, float("nan")])
def test_a_chance_that_is_none_is_refused(chance: float) -> None:
    with Link() as link:
        with pytest.raises(ValueError, match="from 0 to 1"):
            link.loss = chance
        with pytest.raises(ValueError, match="from 0 to 1"):
            link.duplication = chance


def test_held_back_nothing_comes_and_nothing_is_lost() -> None:
    with Echo() as echo, Link(echo.address) as link, connect(link) as connection:
        connection.sendall(b"one ")
        assert receive(connection, 4) == b"one "
        link.hold()
        connection.sendall(b"two ")
        with connect(link) as other:
            other.sendall(b"three")
            for waiting in (connection, other):
                waiting.settimeout(0.2)
                with pytest.raises(TimeoutError):
                    waiting.recv(1)
                waiting.settimeout(20)
            link.resume()
            assert receive(connection, 4) == b"two "
            assert receive(other, 5) == b"three"


def test_while_it_is_held_nobody_learns_whether_the_other_side_is_there() -> None:
    with Echo() as echo:
        nobody = echo.address
    with Link(nobody) as link:
        link.hold()
        with connect(link) as connection:
            connection.settimeout(0.2)
            with pytest.raises(TimeoutError):
                connection.recv(1)
            connection.settimeout(20)
            link.resume()
            assert ended(connection)


def test_a_link_that_is_held_can_be_cut() -> None:
    with Echo() as echo, Link(echo.address) as link, connect(link) as connection:
        connection.sendall(b"abc")
        assert receive(connection, 3) == b"abc"
        link.hold()
        connection.sendall(b"lost")
        link.cut()
        assert ended(connection)
        assert echo.ended.get(timeout=10) == b"abc"


@pytest.mark.parametrize(
    ("setting", "arrives", "fate"), [("loss", b"", "dropped"), ("duplication", NEWS + AGAIN, "duplicated")]
)
def test_only_a_publish_is_dropped_or_repeated(setting: str, arrives: bytes, fate: str) -> None:
    told: queue.SimpleQueue[LinkEvent] = queue.SimpleQueue()
    with Echo() as echo, Link(echo.address, tell=told.put) as link, connect(link) as connection:
        setattr(link, setting, 1.0)
        connection.sendall(HELLO + NEWS + PING)
        connection.shutdown(socket.SHUT_WR)
        assert echo.ended.get(timeout=10) == HELLO + arrives + PING
    events = [told.get_nowait() for _ in range(told.qsize())]
    assert next(event for event in events if isinstance(event, Set)).value == 1.0
    published = [event for event in events if isinstance(event, Published)]
    assert [(event.way, event.topic, event.bytes, event.fate) for event in published] == [
        ("up", "a/b", len(NEWS), fate)
    ]


def test_about_as_many_are_lost_as_was_said_and_the_seed_says_which() -> None:
    arrived = []
    for seed in (1, 1, 2):
        with Echo() as echo, Link(echo.address, seed=seed) as link, connect(link) as connection:
            link.loss = 0.3
            connection.sendall(HELLO)
            for number in range(1000):
                connection.sendall(NEWS[:-1] + bytes([number % 251]))
            connection.shutdown(socket.SHUT_WR)
            arrived.append(echo.ended.get(timeout=20)[len(HELLO) :])
    assert arrived[0] == arrived[1] != arrived[2]
    assert 600 < len(arrived[0]) / len(NEWS) < 800


def test_what_is_no_mqtt_passes_and_is_said() -> None:
    told: queue.SimpleQueue[LinkEvent] = queue.SimpleQueue()
    with Echo() as echo, Link(echo.address, tell=told.put) as link, connect(link) as connection:
        link.loss = 1.0
        connection.sendall(HELLO + b"\x36" + NEWS)
        connection.shutdown(socket.SHUT_WR)
        assert receive(connection, 100) == HELLO + b"\x36" + NEWS
    events = [told.get_nowait() for _ in range(told.qsize())]
    assert [event.way for event in events if isinstance(event, LostTrack)] == ["up", "down"]


def test_cuts_and_holds_are_told() -> None:
    told: list[LinkEvent] = []
    with Link(tell=told.append) as link:
        link.cut()
        link.mend()
        link.hold()
        link.resume()
    assert [event.what for event in told if isinstance(event, Changed)] == ["cut", "mended", "held", "resumed"]
    assert [event.at for event in told] == sorted(event.at for event in told)


@pytest.fixture
def mosquitto() -> Iterator[RunningBroker]:
    require("mosquitto")
    running = start_broker("mosquitto", port=0)
    yield running
    running.stop()


def test_a_lost_message_comes_again_after_the_next_reconnect_and_not_before(mosquitto: RunningBroker) -> None:
    """The reason why dropping a PUBLISH is to lose a message."""
    received: queue.SimpleQueue[Message] = queue.SimpleQueue()
    ups: queue.SimpleQueue[bool] = queue.SimpleQueue()
    address = BrokerAddress(mosquitto.host, mosquitto.port)
    with Link(address) as link, Bridge(address) as near:
        near.subscribe("link/test", received.put)
        near.wait_up(20)
        far = Bridge(link.address, "far", reconnect_delay=(0.05, 0.2), on_up=ups.put)
        with far:
            ups.get(timeout=20)
            link.loss = 1.0
            far.publish("link/test", b"lost")
            assert not far.flush(0.3)
            link.loss = 0.0
            far.publish("link/test", b"later")
            assert received.get(timeout=20).payload == b"later"
            assert received.empty()
            link.cut()
            link.mend()
            ups.get(timeout=20)
            assert received.get(timeout=20).payload == b"lost"
            assert far.flush(20)


def test_a_repeated_message_comes_twice_on_each_way(mosquitto: RunningBroker) -> None:
    received: queue.SimpleQueue[Message] = queue.SimpleQueue()
    with Link(BrokerAddress(mosquitto.host, mosquitto.port)) as link:
        bridge = Bridge(link.address, "far")
        bridge.subscribe("link/test", received.put)
        with bridge:
            bridge.wait_up(20)
            link.duplication = 1.0
            bridge.publish("link/test", b"four times")
            assert [received.get(timeout=20).payload for _ in range(4)] == [b"four times"] * 4
            link.duplication = 0.0
            bridge.publish("link/test", b"once")
            assert received.get(timeout=20).payload == b"once"
