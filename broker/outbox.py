"""The outgoing messages of one bridge: bounded, in order, and counted until acknowledged.

Why not leave it to paho: while a connection is being made, paho sends what is published at that moment ahead of what
waited from before, and even ahead of CONNECT if the thread is unlucky. An older retained message would then overwrite
a newer one. Here messages wait until the connection is up, and only then go to paho, in the order they were given.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

from broker.errors import OutgoingQueueFull

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.message import Outgoing


class Outbox:
    """Messages on their way to the broker; safe to use from any thread.

    Two locks, so that paho's locks and ours are never taken in opposite orders: `_gate` is held while paho is called,
    `_tally` never is, and paho's acknowledgements take `_tally` alone.

    Args:
        send: hands a message to paho and returns its message id, or None if it was dropped (QoS 0 only). It may
            raise `OutgoingQueueFull`.
        limit: how many QoS 1 messages may wait or be unacknowledged, all together.
    """

    def __init__(self, send: Callable[[Outgoing], int | None], limit: int) -> None:
        self._send = send
        self._limit = limit
        self._gate = threading.RLock()
        self._waiting: deque[Outgoing] = deque()
        self._is_open = False
        self._tally = threading.Condition()
        self._unacknowledged: dict[int, int] = {}  # message id → QoS
        self._acknowledged_early: set[int] = set()  # by a broker faster than the thread that published
        self.payload_bytes = 0

    def put(self, message: Outgoing) -> None:
        """Send the message now if the connection is up, else when it is. QoS 0 is dropped while it is down.

        Raises:
            OutgoingQueueFull: `limit` messages are on their way already.
        """
        with self._gate:
            if self._is_open:
                self._pass_on(message)
            elif message.qos > 0:
                if len(self._waiting) + len(self._unacknowledged) >= self._limit:
                    raise OutgoingQueueFull(
                        f"{self._limit} messages wait for the broker, so the one to {message.topic!r} was not taken: "
                        "wait until the broker is back, or publish less"
                    )
                self._waiting.append(message)
            self.payload_bytes += len(message.payload)

    def open(self) -> None:
        """Let messages through, those that waited first."""
        with self._gate:
            self._is_open = True
            while self._waiting:
                self._pass_on(self._waiting[0])
                self._waiting.popleft()  # only now, so that `wait_empty` never sees it in neither place

    def close(self) -> None:
        """Hold messages back: the connection is down. paho itself sends again what was not acknowledged."""
        with self._gate:
            self._is_open = False
        with self._tally:
            self._unacknowledged = {mid: qos for mid, qos in self._unacknowledged.items() if qos > 0}
            self._tally.notify_all()

    def acknowledged(self, mid: int) -> None:
        """Forget a message: the broker has it, or at QoS 0 the socket has."""
        with self._tally:
            if self._unacknowledged.pop(mid, None) is None:
                self._acknowledged_early.add(mid)
            if not self._unacknowledged:
                self._tally.notify_all()

    def wait_empty(self, timeout: float) -> bool:
        """Wait, at most `timeout` seconds, until every message is acknowledged; False if some are not."""
        with self._tally:
            return self._tally.wait_for(lambda: not (self._waiting or self._unacknowledged), timeout)

    def _pass_on(self, message: Outgoing) -> None:
        mid = self._send(message)
        if mid is None:
            return
        with self._tally:
            if mid in self._acknowledged_early:
                self._acknowledged_early.remove(mid)
            else:
                self._unacknowledged[mid] = message.qos
