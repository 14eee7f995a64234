"""The app of a run: asks the devices, never gives up, and writes down every event as it comes.

It does what `sled.client` does for one request, for many at once, and drops nothing: what an app would drop is for the
checker to see. Every request has an id, so that asking again is harmless: it asks again what is not answered after
each new connection, since a broker that was killed may have taken an ask and not passed it on, and after some silence,
since a message may be lost on the link of the device.
"""

from __future__ import annotations

import queue
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Self

from benchmarks.kit.faults.logs import Asked, Began, Ended, Heard, Linked
from broker.client import Bridge
from broker.errors import BrokerError
from schemas import codec
from schemas.errors import WireError
from schemas.messages import DoneEvent, ErrorEvent
from schemas.topics import Topics

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from benchmarks.kit.faults.logs import JsonLines
    from benchmarks.kit.faults.schedule import Asking
    from broker.address import BrokerAddress
    from broker.message import Message

SILENCE: Final = 10.0
"""Seconds without an event after which a request is asked again."""
RECONNECT: Final = (0.2, 1.0)
"""Seconds before the first and between the last attempts to connect again; recovery is timed here, so they are few."""


@dataclass
class _Waiting:
    """A request that is under way; when it was asked or heard from last."""

    asking: Asking
    since: float


class App:
    """Asks each device one request after the other. `turn` does all the work, on the thread that calls it.

    Attributes:
        ended: requests that have got their last event.
        heard_at: when the last event came; the time of the beginning if none has.
    """

    def __init__(
        self,
        address: BrokerAddress,
        asks: Sequence[Asking],
        log: JsonLines,
        advance: Callable[[], object] = lambda: None,
        *,
        silence: float = SILENCE,
    ) -> None:
        """Set it up; it connects on entering.

        Args:
            address: of the broker.
            asks: in the order in which they are asked.
            log: to which everything is written.
            advance: called after each answer.
            silence: seconds without an event after which a request is asked again.
        """
        self.ended = 0
        self.heard_at = time.monotonic()
        self._topics = Topics()
        self._log = log
        self._advance = advance
        self._silence = silence
        self._began = 0.0
        self._count = len(asks)
        self._left: dict[str, deque[Asking]] = {}
        for asking in asks:
            self._left.setdefault(asking.device, deque()).append(asking)
        self._under_way: dict[str, _Waiting] = {}
        self._items: queue.SimpleQueue[tuple[float, Message | bool]] = queue.SimpleQueue()
        self._bridge = Bridge(
            address,
            "app",
            reconnect_delay=RECONNECT,
            on_up=lambda _: self._put(item=True),
            on_down=lambda _: self._put(item=False),
        )
        self._bridge.subscribe(self._topics.answer("+", "+"), lambda message: self._put(item=message))

    def _put(self, *, item: Message | bool) -> None:
        self._items.put((time.monotonic(), item))

    def __enter__(self) -> Self:
        self._bridge.start()
        try:
            self._bridge.wait_up(10)
        except BaseException:
            self._bridge.stop()
            raise
        self.heard_at = self._began = time.monotonic()
        self._log.add(Began(self._began))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._log.add(Ended(time.monotonic()))
        self._bridge.stop(timeout=1)

    @property
    def began(self) -> float:
        """When everything began."""
        return self._began

    @property
    def finished(self) -> bool:
        """Whether every request has got its last event."""
        return self.ended == self._count

    def turn(self, patience: float) -> None:
        """Wait so many seconds at most for something to come, take in all there is, and ask what is due."""
        try:
            while True:
                at, item = self._items.get(timeout=patience)
                patience = 0.0
                self._take(at, item)
        except queue.Empty:
            pass
        now = time.monotonic()
        for device, left in self._left.items():
            if left and device not in self._under_way and now - self._began >= left[0].at:
                self._under_way[device] = _Waiting(left.popleft(), now)
                self._ask(device, "first")
            elif device in self._under_way and now - self._under_way[device].since >= self._silence:
                self._ask(device, "silence")

    def _take(self, at: float, item: Message | bool) -> None:  # noqa: FBT001 -- up or down
        if isinstance(item, bool):
            self._log.add(Linked(at, item))
            for device in self._under_way if item else ():
                self._ask(device, "reconnected")
            return
        topic = self._topics.parse(item.topic)
        self._log.add(Heard(at, topic.device, topic.request, item.payload.decode(errors="replace")))
        self.heard_at = at
        waiting = self._under_way.get(topic.device)
        if waiting is None or waiting.asking.ask.id != topic.request:
            return
        waiting.since = at
        try:
            event = codec.decode_event(item.payload)
        except WireError:
            return  # it is in the log, where the checker finds it
        if isinstance(event, DoneEvent | ErrorEvent):
            del self._under_way[topic.device]
            self.ended += 1
            self._advance()

    def _ask(self, device: str, why: Literal["first", "reconnected", "silence"]) -> None:
        waiting = self._under_way[device]
        waiting.since = time.monotonic()
        self._log.add(Asked(waiting.since, device, waiting.asking.ask, why))
        try:
            self._bridge.publish(self._topics.ask(device), codec.encode_json(waiting.asking.ask))
        except BrokerError:
            return  # asked again after some silence
