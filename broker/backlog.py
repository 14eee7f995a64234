"""Messages that wait for one client, no more than may wait."""

from __future__ import annotations

import asyncio

from msgspec import Struct


class Kept(Struct, frozen=True):
    """A message that waits.

    Attributes:
        retain: whether it is the answer to a subscription, rather than news (MQTT 3.1.1, 3.3.1.3).
    """

    topic: str
    data: bytes
    qos: int
    retain: bool = False


class Backlog(asyncio.Queue[Kept]):
    """A queue with a limit on its bytes, payloads and topics together, beside the one on its length."""

    def __init__(self, messages: int, size: int) -> None:
        super().__init__(messages)
        self._most_bytes = size
        self._bytes = 0

    def full(self) -> bool:
        """Whether one more message is one too many; `put_nowait` then raises QueueFull."""
        return super().full() or self._bytes >= self._most_bytes

    def _put(self, item: Kept) -> None:
        self._bytes += len(item.data) + len(item.topic)
        super()._put(item)

    def _get(self) -> Kept:
        item: Kept = super()._get()
        self._bytes -= len(item.data) + len(item.topic)
        return item
