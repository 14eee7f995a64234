"""Hands amqtt one whole packet after another, none of them too long, and each in the form that MQTT gives it.

amqtt reads a packet piece by piece from the socket and believes what it says of its length.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from amqtt.adapters import ReaderAdapter

from broker.limits import MAX_TOPIC_BYTES
from broker.packet_form import LONG_KINDS, is_well_formed

_log = logging.getLogger(__name__)

_LENGTH_BYTES: Final = 4
"""The most that a remaining length takes (MQTT 3.1.1, 2.2.3)."""
_ENDED: Final = "its connection is ended"


class PacketReader(ReaderAdapter):  # type: ignore[misc]  # amqtt is not typed
    """Reads one connection.

    A packet that is not allowed looks like the end of the connection to amqtt, which then ends it.

    Args:
        stream: of the connection.
        most_bytes: longest packet. One that names filters has at most `MAX_TOPIC_BYTES`: many short filters keep amqtt
            busy for seconds.
    """

    def __init__(self, stream: asyncio.StreamReader, *, most_bytes: int) -> None:
        self.began: float | None = None  # when the packet did that is not whole yet, by the event loop's clock
        self.welcome = asyncio.Event()  # cleared while no further packet is to be taken
        self.welcome.set()
        self.over = False  # whether no further packet is to be taken, ever
        self._clock = asyncio.get_running_loop().time
        self._stream = stream
        self._most_bytes = most_bytes
        self._packet = b""
        self._at = 0

    async def read(self, n: int = -1) -> bytes:
        """Return the next `n` bytes of the packet, or all that is left of it; begins the next packet at its end.

        Raises:
            asyncio.IncompleteReadError: the connection has ended, or must; or the packet has not so many bytes.
        """
        if n == 0:
            return b""
        if self._at >= len(self._packet):
            self._packet, self._at = await self._next(), 0
        end = len(self._packet) if n < 0 else self._at + n
        piece = self._packet[self._at : end]
        self._at = end
        if len(piece) < n:
            raise asyncio.IncompleteReadError(piece, n)
        return piece

    def feed_eof(self) -> None:
        """Take it that nothing more will come."""
        self._stream.feed_eof()

    async def _next(self) -> bytes:
        if not self.welcome.is_set():
            await self.welcome.wait()
        if self.over:
            raise asyncio.IncompleteReadError(b"", None)
        head = await self._stream.readexactly(2)
        self.began = self._clock()
        length = head[1] & 0x7F
        while head[-1] >= 0x80:
            if len(head) > _LENGTH_BYTES:
                raise asyncio.IncompleteReadError(head, None)
            head += await self._stream.readexactly(1)
            length |= (head[-1] & 0x7F) << 7 * (len(head) - 2)
        most = self._most_bytes if head[0] >> 4 in LONG_KINDS else min(self._most_bytes, MAX_TOPIC_BYTES)
        if len(head) + length > most:
            _log.warning("a packet of %d bytes is over the limit of %d: %s", length, most, _ENDED)
            raise asyncio.IncompleteReadError(head, length)
        body = await self._stream.readexactly(length) if length else b""
        self.began = None
        if not is_well_formed(head[0], memoryview(body)):
            _log.warning("a packet of kind %d is not as MQTT 3.1.1 has it: %s", head[0] >> 4, _ENDED)
            raise asyncio.IncompleteReadError(head, length)
        return head + body
