"""An MQTT 3.1.1 client that does only what it is told, so that it can misbehave."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    import ssl

CONNACK, PUBLISH, PUBACK, PUBREC, PUBCOMP, SUBACK, PINGRESP = 2, 3, 4, 5, 7, 9, 13
ACCEPTED, UNAVAILABLE, NOT_AUTHORIZED = 0, 3, 5
REFUSED = 0x80
DISCONNECT = b"\xe0\x00"
PING = b"\xc0\x00"


class Place(Protocol):
    """Where a broker listens."""

    @property
    def host(self) -> str: ...

    @property
    def port(self) -> int: ...


@dataclass(frozen=True)
class Packet:
    kind: int
    flags: int
    body: bytes

    @property
    def topic(self) -> str:
        (length,) = struct.unpack_from(">H", self.body)
        return self.body[2 : 2 + length].decode()

    @property
    def mid(self) -> int:
        (mid,) = struct.unpack_from(">H", self.body, 2 + len(self.topic) if self.kind == PUBLISH else 0)
        return int(mid)

    @property
    def payload(self) -> bytes:
        return self.body[2 + len(self.topic) + (2 if self.flags & 6 else 0) :]

    @property
    def retain(self) -> bool:
        return bool(self.flags & 1)

    @property
    def duplicate(self) -> bool:
        return bool(self.flags & 8)


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack(">H", len(data)) + data


def frame(first: int, body: bytes) -> bytes:
    return bytes((first,)) + length(len(body)) + body


def length(value: int) -> bytes:
    """Return a remaining length (MQTT 3.1.1, 2.2.3)."""
    digits = bytearray()
    while True:
        value, digit = divmod(value, 128)
        digits.append(digit | (0x80 if value else 0))
        if not value:
            return bytes(digits)


def publish_frame(topic: str, payload: bytes = b"", mid: int = 1, *, retain: bool = False, qos: int = 1) -> bytes:
    return frame(0x30 | qos << 1 | retain, text(topic) + (struct.pack(">H", mid) if qos else b"") + payload)


def connect_frame(
    client_id: str,
    *,
    clean: bool = True,
    keepalive: int = 0,
    will: str = "",
    will_payload: bytes = b"gone",
    will_retain: bool = False,
    username: str | None = None,
    password: str | None = None,
) -> bytes:
    flags = (2 if clean else 0) | (0x0C if will else 0) | (0x20 if will_retain else 0)  # the will at QoS 1
    flags |= (0x80 if username is not None else 0) | (0x40 if password is not None else 0)
    body = text("MQTT") + bytes((4, flags)) + struct.pack(">H", keepalive) + text(client_id)
    body += text(will) + text(will_payload) if will else b""
    return frame(0x10, body + b"".join(text(part) for part in (username, password) if part is not None))


class RawClient:
    """One connection.

    Args:
        broker: to connect to.
        tls: to speak TLS by.
    """

    def __init__(self, broker: Place, tls: ssl.SSLContext | None = None) -> None:
        self.socket = socket.create_connection((broker.host, broker.port), 5)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def try_connect(
        self,
        client_id: str,
        *,
        clean: bool = True,
        keepalive: int = 0,
        will: str = "",
        will_payload: bytes = b"gone",
        will_retain: bool = False,
        username: str | None = None,
        password: str | None = None,
    ) -> int:
        """Connect; returns the code of the CONNACK (MQTT 3.1.1, 3.2.2.3)."""
        self.send(
            connect_frame(
                client_id,
                clean=clean,
                keepalive=keepalive,
                will=will,
                will_payload=will_payload,
                will_retain=will_retain,
                username=username,
                password=password,
            )
        )
        answer = self.read()
        assert answer.kind == CONNACK
        return answer.body[1]

    def connect(
        self,
        client_id: str,
        *,
        clean: bool = True,
        keepalive: int = 0,
        will: str = "",
        username: str | None = None,
        password: str | None = None,
    ) -> Self:
        code = self.try_connect(
            client_id, clean=clean, keepalive=keepalive, will=will, username=username, password=password
        )
        assert code == ACCEPTED
        return self

    def login(
        self, name: str, *, clean: bool = True, password: str | None = None, client_id: str | None = None
    ) -> Self:
        """Connect as an identity whose password is its name."""
        return self.connect(client_id or name, clean=clean, username=name, password=password or name)

    def try_login(
        self, name: str, *, clean: bool = True, word: str | None = None, will: str = "", will_retain: bool = False
    ) -> int:
        """Connect as an identity whose password is its name, or with another word; returns the code."""
        return self.try_connect(
            name, clean=clean, username=name, password=word or name, will=will, will_retain=will_retain
        )

    def subscribe(self, topic_filter: str) -> list[Packet]:
        """Subscribe at QoS 1; returns what arrived before the answer."""
        return self.subscribe_all([topic_filter])[1]

    def subscribe_all(self, filters: list[str]) -> tuple[list[int], list[Packet]]:
        """Subscribe at QoS 1; returns the code of each filter, and what arrived before the answer."""
        self.send(frame(0x82, b"\0\1" + b"".join(text(each) + b"\1" for each in filters)))
        before = []
        while (packet := self.read()).kind != SUBACK:
            before.append(packet)
        return list(packet.body[2:]), before

    def publish(self, topic: str, payload: bytes = b"", mid: int = 1, *, retain: bool = False) -> None:
        self.send(publish_frame(topic, payload, mid, retain=retain))

    def publish_acknowledged(self, topic: str, payload: bytes = b"", *, retain: bool = False) -> None:
        self.publish(topic, payload, retain=retain)
        self.read_until(PUBACK)

    def acknowledge(self, mid: int) -> None:
        self.send(frame(0x40, struct.pack(">H", mid)))

    def release(self, mid: int) -> None:
        self.send(frame(0x62, struct.pack(">H", mid)))

    def read(self, timeout: float = 5) -> Packet:
        """Read a packet. Raises TimeoutError, or EOFError if the connection was closed."""
        self.socket.settimeout(timeout)
        first = self._take(1)[0]
        size = shift = 0
        while True:
            digit = self._take(1)[0]
            size |= (digit & 0x7F) << shift
            shift += 7
            if digit < 0x80:
                return Packet(first >> 4, first & 15, self._take(size))

    def read_until(self, kind: int) -> list[Packet]:
        before = []
        while (packet := self.read()).kind != kind:
            before.append(packet)
        return before

    def barrier(self) -> list[Packet]:
        """Return what arrives until the broker has dealt with everything that this client sent."""
        return [packet for packet in self.subscribe("barrier") if packet.kind == PUBLISH]

    def receives(self, timeout: float = 1) -> bool:
        try:
            return self.read(timeout).kind == PUBLISH
        except TimeoutError:
            return False

    def closed(self, timeout: float = 1) -> bool:
        """Whether the broker closes the connection within `timeout` seconds."""
        try:
            while True:
                self.read(timeout)
        except (EOFError, ConnectionResetError):
            return True
        except TimeoutError:
            return False

    def _take(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.socket.recv(size - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data
