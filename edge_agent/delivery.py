"""Answer events on their way to apps; last events until the broker has them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from broker.receipt import Receipt
from edge_agent.reply import NOWHERE_ELSE, Reply
from edge_agent.spool import SpoolError

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_agent.spool import Spool
    from schemas.topics import Topics

_log = logging.getLogger(__name__)

REPEAT_AFTER: Final = 10.0
"""Seconds after which a last event is sent again that the broker has not acknowledged; twice as long each time."""
REPEATS: Final = 5
"""How often, until the next connect: a broker that does not answer for five minutes is not helped by more."""
KEPT_REQUESTS: Final = 1_000
"""Requests remembered after their last event has arrived, so that an app that asks again is answered again."""


class Publish(Protocol):
    """How events are sent."""

    def __call__(self, topic: str, payload: bytes, *, correlation: bytes | None, receipt: Receipt) -> None:
        """Send a message, if that can be done; the receipt says later whether it has arrived."""
        ...


@dataclass(slots=True)
class _Last:
    """A last event that the broker may not have.

    Attributes:
        tries: the receipts of each time it was sent, one per topic.
        due: when it is sent again.
    """

    payload: bytes
    tries: list[list[Receipt]]
    due: float

    @property
    def arrived(self) -> bool:
        """Whether the broker has acknowledged it, at every topic."""
        return any(all(receipt.acknowledged for receipt in receipts) for receipts in self.tries)


class Delivery:
    """Publishes answer events where they are wanted.

    That is always the answer topic; with a Response Topic, that one too. All carry the Correlation Data, if any.

    The last event of a request is what an app waits for, so it is looked after: sent again after every connect, and now
    and then, until the broker has acknowledged it. Each is looked after by itself: one that the broker never
    acknowledges keeps no other from being marked as delivered.

    Args:
        device: own id.
        topics: of the root in use.
        spool: knows where answers are wanted, and which last events have not arrived.
        publish: sends.
        clock: seconds, never going back.
    """

    def __init__(self, device: str, topics: Topics, spool: Spool, publish: Publish, clock: Callable[[], float]) -> None:
        self._device = device
        self._topics = topics
        self._spool = spool
        self._publish = publish
        self._clock = clock
        self._lasts: dict[str, _Last] = {}

    def say(self, request: str, payload: bytes, *, last: bool = False) -> None:
        """Publish an event of the request with this id."""
        receipts = self.send(request, payload, self._reply(request))
        if last:
            self._lasts[request] = _Last(payload, [receipts], self._clock() + REPEAT_AFTER)

    def send(self, request: str, payload: bytes, reply: Reply) -> list[Receipt]:
        """Publish an event once, with the reply given: for a request that is in no spool."""
        topics = {self._topics.answer(self._device, request): Receipt()}
        if reply.topic is not None:
            topics.setdefault(reply.topic, Receipt())  # the two may be the same
        for topic, receipt in topics.items():
            self._publish(topic, payload, correlation=reply.correlation, receipt=receipt)
        return list(topics.values())

    def resume(self) -> None:
        """After a connect: send all last events that have not arrived."""
        try:
            undelivered = self._spool.undelivered()
        except SpoolError as error:
            _log.error("%s", error)
            return  # those sent before are looked after as ever
        self._lasts.clear()
        for request, final in undelivered:
            self.say(request.id, final, last=True)

    def check(self) -> None:
        """Send again what should have arrived and note what has. To be called often while there is a connection.

        Raises:
            SpoolError: as `note`.
        """
        now = self._clock()
        for request, last in self._lasts.items():
            if last.due <= now and len(last.tries) <= REPEATS and not last.arrived:
                _log.warning("the broker has not acknowledged the last event of request %s; sending it again", request)
                last.tries.append(self.send(request, last.payload, self._reply(request)))
                last.due = now + REPEAT_AFTER * 2 ** (len(last.tries) - 1)
        self.note()

    def note(self) -> None:
        """Note what has arrived, so that it is not sent again after the next connect.

        Raises:
            SpoolError: it could not be noted; the next call tries again.
        """
        arrived = [request for request, last in self._lasts.items() if last.arrived]
        if arrived:
            self._spool.mark_delivered(arrived)
            for request in arrived:
                del self._lasts[request]
            self._spool.prune(KEPT_REQUESTS)

    def _reply(self, request: str) -> Reply:
        try:
            return self._spool.reply(request)
        except SpoolError as error:
            _log.error("%s", error)
            return NOWHERE_ELSE
