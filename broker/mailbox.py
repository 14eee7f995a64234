"""Where a role's loop finds what has happened: messages, bounded, and its own threads' words, never dropped."""

from __future__ import annotations

import logging
import queue
from typing import TYPE_CHECKING, Generic, TypeVar

from msgspec import Struct

from broker.limits import MAX_INCOMING_MESSAGES

if TYPE_CHECKING:
    from broker.message import Message

_log = logging.getLogger(__name__)

T = TypeVar("T")


class Up(Struct, frozen=True):
    """The broker is connected and all subscriptions are in place."""


class Down(Struct, frozen=True):
    """The broker is not connected; a sentence says why."""

    reason: str


class Stop(Struct, frozen=True):
    """End the loop."""


class Mailbox(Generic[T]):
    """A queue from the network thread and others to one loop.

    When the loop cannot keep up, newly arriving messages are dropped: the protocol sends again what mattered, and a
    message that is acknowledged by hand stays with the broker. Memory stays bounded.

    Args:
        limit: messages that may wait.
    """

    def __init__(self, limit: int = MAX_INCOMING_MESSAGES) -> None:
        self._limit = limit
        self._items: queue.SimpleQueue[Message | T] = queue.SimpleQueue()
        self.dropped = 0

    def deliver(self, message: Message) -> None:
        """Take in a message from the broker, or drop it if too many wait."""
        if self._items.qsize() >= self._limit:
            if self.dropped % self._limit == 0:
                _log.error("%d messages wait to be read; dropping what arrives, such as %s", self._limit, message.topic)
            self.dropped += 1
            return
        self._items.put(message)

    def put(self, item: T) -> None:
        """Take in a word of the role's own threads."""
        self._items.put(item)

    def get(self, timeout: float) -> Message | T | None:
        """Return the next item, or None if there is none within `timeout` seconds."""
        try:
            return self._items.get(timeout=max(0.0, timeout))
        except queue.Empty:
            return None
