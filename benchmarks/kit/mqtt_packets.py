"""Cutting a stream of bytes into MQTT packets (MQTT 3.1.1, section 2.2; MQTT 5 has the same fixed header).

Only what tells packets apart is read: the kind, its flags, the remaining length, and of a PUBLISH the topic.
"""

from __future__ import annotations

from typing import Final

import msgspec

CONNECT: Final = 1
CONNACK: Final = 2
_PUBLISH: Final = 3
_FLAGS: Final = {kind: 2 if kind in {6, 8, 10} else 0 for kind in range(1, 16)}
"""The flags that each kind but PUBLISH must have (MQTT 3.1.1, table 2.2)."""

_AGAIN: Final = 0b1000
"""Flag of a PUBLISH that may have been sent before (DUP)."""
_LENGTH_BYTES: Final = 4
LONGEST: Final = 4 << 20
"""Bytes of the longest packet that is waited for; longer ones are nothing that a role sends."""


class Packet(msgspec.Struct, frozen=True):
    """Bytes that belong together.

    Attributes:
        data: as they came.
        topic: of a PUBLISH; None for all else.
    """

    data: bytes
    topic: str | None = None

    def again(self) -> bytes:
        """Return this PUBLISH as its sender would send it again: of QoS 1 or 2 it then says so (MQTT-3.3.1-1)."""
        first = self.data[0]
        return bytes([first | _AGAIN if first & 0b0110 else first]) + self.data[1:]


class Packets:
    """One direction of one connection.

    What is no MQTT is passed on as it comes, from there to the end: packets cannot be found again in the middle.

    Attributes:
        lost_track: why the rest is passed on as it comes; empty as long as it is not.
    """

    def __init__(self, first: int) -> None:
        """Begin a stream whose first packet is of kind `first`: CONNECT from a client, CONNACK from a broker."""
        self.lost_track = ""
        self._first: int | None = first
        self._held = bytearray()

    def feed(self, data: bytes) -> list[Packet]:
        """Take in more bytes and return the packets that are complete."""
        self._held += data
        packets: list[Packet] = []
        while self._held:
            if self.lost_track:
                packets.append(Packet(self.rest()))
                break
            try:
                packet = self._next()
            except ValueError as error:
                self.lost_track = str(error)
                continue
            if packet is None:
                break
            packets.append(packet)
        return packets

    def rest(self) -> bytes:
        """Return what is held of a packet that is not complete; for when nothing more comes."""
        held = bytes(self._held)
        self._held.clear()
        return held

    def _next(self) -> Packet | None:
        """Take the next packet out if it is all there.

        Raises:
            ValueError: this is no MQTT packet, or one too long to wait for.
        """
        kind = self._check_kind()
        length = self._length()
        if length is None:
            return None
        body, size = length
        if len(self._held) < body + size:
            return None
        data = bytes(self._held[: body + size])
        topic = _topic(data[body:]) if kind == _PUBLISH else None
        del self._held[: body + size]
        return Packet(data, topic)

    def _check_kind(self) -> int:
        kind, flags = self._held[0] >> 4, self._held[0] & 0x0F
        if self._first is not None and kind != self._first:
            raise ValueError(f"the first packet is of kind {kind}, not {self._first}")
        if kind == _PUBLISH:
            if flags & 0b0110 == 0b0110:
                raise ValueError("a PUBLISH of QoS 3")
        elif _FLAGS.get(kind) != flags:
            raise ValueError(f"a packet of kind {kind} with flags {flags}")
        return kind

    def _length(self) -> tuple[int, int] | None:
        """Return where the body begins and how many bytes it has, or None if that is not known yet."""
        size = 0
        for place in range(1, _LENGTH_BYTES + 1):
            if place >= len(self._held):
                return None
            size |= (self._held[place] & 0x7F) << 7 * (place - 1)
            if self._held[place] < 0x80:
                if size > LONGEST:
                    raise ValueError(f"a packet of {size} bytes, more than {LONGEST}")
                self._first = None
                return place + 1, size
        raise ValueError("a remaining length of more than four bytes")


def _topic(body: bytes) -> str:
    size = int.from_bytes(body[:2], "big")
    topic = body[2 : 2 + size]
    if len(body) < 2 or len(topic) < size:
        raise ValueError("a PUBLISH whose topic is longer than the packet")
    try:
        return topic.decode()
    except UnicodeDecodeError as error:
        raise ValueError("a PUBLISH whose topic is no UTF-8") from error
