"""Clears what a client has left behind at a broker that it does not use."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Final

from broker.errors import BrokerError, BrokerUnreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from broker.client import Bridge
    from broker.message import Message

_log = logging.getLogger(__name__)

REACHED_WITHIN: Final = 5.0
"""Seconds in which a broker must let the visitor in."""
QUIET: Final = 1.0
"""Seconds without a further retained message after which all have come: MQTT does not say which is the last."""
_POLL: Final = 0.1


def visit(bridge: Bridge, retains: Sequence[str], ended: threading.Event, *, unless: Callable[[], bool]) -> bool:
    """Connect, clear every retained message that matches, and leave.

    Args:
        bridge: of the visitor, not started; it is stopped at the end.
        retains: filters of the topics to clear.
        ended: set when nobody wants the visit any more.
        unless: whether what is retained there must stay after all, since its owner is back.

    Returns:
        Whether the broker was there and has taken every clear.
    """
    something = threading.Event()

    def clear(message: Message) -> None:
        if not message.retain or not message.payload or unless():
            return
        something.set()
        _log.info("%s: clearing %s, which was left behind", bridge.address, message.topic)
        bridge.publish(message.topic, b"", retain=True)

    for topic_filter in retains:
        bridge.subscribe(topic_filter, clear)
    bridge.start()
    try:
        if not _reached(bridge, ended):
            return False
        while retains and not ended.wait(QUIET) and something.is_set():
            something.clear()
        return bridge.flush(REACHED_WITHIN) and not ended.is_set()
    except BrokerError as error:
        _log.debug("the visit to %s failed: %s", bridge.address, error)
        return False
    finally:
        bridge.stop(0.0)


def _reached(bridge: Bridge, ended: threading.Event) -> bool:
    """Wait until the broker has let the visitor in, but no longer than anybody wants it."""
    for _ in range(round(REACHED_WITHIN / _POLL)):
        if ended.is_set():
            return False
        try:
            bridge.wait_up(_POLL)
        except BrokerUnreachable:
            continue
        return True
    return False
