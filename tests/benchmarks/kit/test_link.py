"""The slow link: order, delay, cuts, with real sockets and with a real broker."""

from __future__ import annotations

import queue
import socket
import threading
import time
from typing import TYPE_CHECKING, Self

import pytest

from benchmarks.kit.link import Link
from broker.address import BrokerAddress
from broker.client import Bridge

if TYPE_CHECKING:
    from broker.message import Message
    from broker.run import RunningBroker

LOTS = 4_000_000


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
