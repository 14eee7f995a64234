"""The incoming side of one bridge: who wants which messages, and which of them the broker still keeps."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from paho.mqtt.client import topic_matches_sub

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.message import Message

_log = logging.getLogger(__name__)

Acknowledge = Literal["auto", "manual"]


@dataclass(frozen=True, slots=True)
class _Subscription:
    handler: Callable[[Message], None]
    qos: int
    acknowledge: Acknowledge


class Inbox:
    """Subscriptions and unacknowledged messages; safe to use from any thread.

    Args:
        call: runs a handler and survives what it raises.
        acknowledge: sends PUBACK for a message id.
    """

    def __init__(
        self, call: Callable[[Callable[[Message], None], Message], None], acknowledge: Callable[[int], None]
    ) -> None:
        self._call = call
        self._send_acknowledgement = acknowledge
        self._lock = threading.Lock()
        self._subscriptions: dict[str, _Subscription] = {}
        self._unacknowledged: set[int] = set()  # message ids of this connection
        self.payload_bytes = 0

    def add(self, topic_filter: str, handler: Callable[[Message], None], qos: int, acknowledge: Acknowledge) -> None:
        """Have `handler` called for what matches.

        Raises:
            ValueError: the filter breaks the rules for wildcards (MQTT 3.1.1, 4.7.1), or the QoS is neither 0 nor 1.
        """
        if qos not in (0, 1):
            raise ValueError(f"QoS {qos} is not used here: subscribe to {topic_filter!r} at 0 or 1")
        levels = topic_filter.split("/")
        misplaced = any("#" in level for level in levels[:-1]) or any(
            len(level) > 1 and ("#" in level or "+" in level) for level in levels
        )
        if not topic_filter or misplaced or "\0" in topic_filter or len(topic_filter.encode()) > 65_535:
            raise ValueError(
                f"{topic_filter[:100]!r} is not a topic filter: + and # stand alone in a level, # in the last one"
            )
        with self._lock:
            self._subscriptions[topic_filter] = _Subscription(handler, qos, acknowledge)

    def remove(self, topic_filter: str) -> None:
        """Forget a filter."""
        with self._lock:
            self._subscriptions.pop(topic_filter, None)

    def clear(self) -> None:
        """Forget every filter, and the handlers with them."""
        with self._lock:
            self._subscriptions.clear()

    def filters(self) -> list[tuple[str, int]]:
        """Every filter with its QoS."""
        with self._lock:
            return [(name, subscription.qos) for name, subscription in self._subscriptions.items()]

    def new_connection(self) -> None:
        """Forget the message ids of the connection before: the broker sends its messages again under new ones."""
        with self._lock:
            self._unacknowledged = set()

    def receive(self, message: Message, mid: int) -> None:
        """Hand a message to its handlers, and acknowledge it unless one of them wants to do so itself."""
        with self._lock:
            self.payload_bytes += len(message.payload)
            connection = self._unacknowledged
            if message.qos > 0:
                connection.add(mid)
            wanted = [sub for name, sub in self._subscriptions.items() if topic_matches_sub(name, message.topic)]

        def acknowledge() -> None:
            with self._lock:
                # An id of an earlier connection may belong to another message by now.
                if self._unacknowledged is not connection or mid not in connection:
                    return
                connection.remove(mid)
                self._send_acknowledgement(mid)

        manual = any(subscription.acknowledge == "manual" for subscription in wanted)
        if manual:
            message = replace(message, _acknowledge=acknowledge)
        for subscription in wanted:
            self._call(subscription.handler, message)
        if not wanted:
            _log.debug("a message to %r matches no subscription", message.topic)
        if not manual:
            acknowledge()
