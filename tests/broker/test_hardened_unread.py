"""Clients that do not read what amqtt 0.12.1 sends them, kept by plain amqtt and given up by ours."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

import pytest

from broker.limits import BrokerLimits
from tests.broker.brokers import both
from tests.broker.raw import SUBACK, RawClient, frame, publish_frame, text

if TYPE_CHECKING:
    from tests.broker.brokers import Start


@pytest.mark.parametrize(
    "further",
    [frame(0x82, b"\0\2" + text("topic") + b"\0"), frame(0xA2, b"\0\2" + text("topic"))],
    ids=["subscribe", "unsubscribe"],
)
@both
def test_subscriptions_that_wait(start: Start, closed: bool, further: bytes) -> None:
    """Plain: a client that does not read what its first subscription brings may ask for any number of others."""
    broker = start(closed=closed, limits=BrokerLimits(unsent=5))
    with RawClient(broker) as stuck, RawClient(broker) as watcher, RawClient(broker) as speaker:
        watcher.connect("watcher").subscribe("state")
        _flood(stuck.connect("stuck", will="state"), speaker.connect("speaker"))
        stuck.send(8 * further)
        assert watcher.receives(1.0) == closed
        speaker.barrier()


@both
def test_answers_that_are_not_read(start: Start, closed: bool) -> None:
    """Plain: what a client sends is read, however many answers wait for it already. Ours reads no more of it."""
    broker = start(closed=closed, limits=BrokerLimits(unsent=5))
    with RawClient(broker) as stuck, RawClient(broker) as speaker:
        _flood(stuck.connect("stuck"), speaker.connect("speaker"))
        stuck.socket.settimeout(2)
        with pytest.raises(TimeoutError) if closed else nullcontext():
            for mid in range(1, 31):
                stuck.publish("topic", bytes(1_000_000), mid)


@both
def test_connection_that_ends_unread(start: Start, closed: bool) -> None:
    """Plain: when a client is back by another connection, the old one stays until what was sent by it is read."""
    broker = start(closed=closed)
    with RawClient(broker) as stuck, RawClient(broker) as back, RawClient(broker) as speaker:
        _flood(stuck.connect("device", clean=False), speaker.connect("speaker"))
        back.connect("device", clean=False).barrier()
        came = sum(map(len, iter(partial(stuck.socket.recv, 1 << 20), b"")))
        cut = came % len(publish_frame("flood", bytes(1_000_000), qos=0)) > 0
        assert cut == closed


@both
def test_client_that_does_not_read(start: Start, closed: bool) -> None:
    """Plain: a client that goes on pinging but reads nothing is kept, with all that is sent to it."""
    broker = start(closed=closed, limits=BrokerLimits(write_seconds=0.2, unsent=5))
    with RawClient(broker) as stuck, RawClient(broker) as watcher, RawClient(broker) as speaker:
        watcher.connect("watcher").subscribe("state")
        stuck.connect("stuck", will="state").subscribe("flood")
        speaker.connect("speaker")
        for _ in range(100):
            speaker.send(publish_frame("flood", bytes(100_000), qos=0))
        speaker.barrier()
        assert watcher.receives(1.0) == closed
        speaker.barrier()


@both
def test_client_that_reads_again(start: Start, closed: bool) -> None:
    """Plain: all that is sent to it is kept in memory. Ours drops what comes at QoS 0 while its socket is full.

    What had to wait comes once the socket is free, though nothing is left to be acknowledged.
    """
    broker = start(closed=closed, limits=BrokerLimits(unsent=2))
    with RawClient(broker) as slow, RawClient(broker) as speaker:
        slow.connect("slow").subscribe("kept")
        slow.send(frame(0x82, b"\0\2" + text("flood") + b"\0"))
        slow.read_until(SUBACK)
        speaker.connect("speaker")
        for _ in range(300):
            speaker.send(publish_frame("flood", bytes(100_000), qos=0))
        speaker.publish_acknowledged("kept")
        count = 0
        while slow.read().topic != "kept":
            count += 1
        assert (count < 300) == closed


def _flood(stuck: RawClient, speaker: RawClient) -> None:
    """Have a client ask for more than its socket can hold; it does not read it."""
    speaker.publish_acknowledged("flood", bytes(1_000_000), retain=True)
    speaker.barrier()
    stuck.send(frame(0x82, b"\0\1" + 20 * (text("flood") + b"\0")))
    stuck.read_until(SUBACK)
    speaker.barrier()
