"""The embedded broker as it runs, with clients that send it all kinds of bytes."""

from __future__ import annotations

from contextlib import suppress
from random import Random
from typing import TYPE_CHECKING, Any, Final

from broker.embedded import EmbeddedBroker
from tests.broker.raw import PUBLISH, RawClient
from tests.fuzz.campaign import forget_peak, peak
from tests.fuzz.mutate import mutated
from tests.fuzz.packets import LIMITS, STREAMS
from tests.waiting import wait_for

if TYPE_CHECKING:
    from tests.broker.raw import Packet

CLIENTS: Final = 2_000
MOST: Final = 8 * 1024
"""Bytes that one of them sends."""
MOST_GROWTH: Final = 60 * 2**20


def test_clients_that_send_anything_harm_nobody() -> None:
    """One that behaves is served before, between and after them, and they leave little behind."""
    random = Random(0)
    with EmbeddedBroker(port=0, limits=LIMITS) as broker, RawClient(broker) as steady:
        steady.connect("steady").subscribe("steady/#")
        forget_peak()
        grown = peak()
        for number in range(CLIENTS):
            with RawClient(broker) as client, suppress(ConnectionError):
                client.send(mutated(random.choice(STREAMS), random.choice(STREAMS), random)[:MOST])
            if number % 100 == 0:
                assert echoed(steady, b"%d" % number).payload == b"%d" % number
        with RawClient(broker) as late:
            late.connect("late").subscribe("steady/#")
            assert echoed(late, b"late").payload == b"late"
        inside: Any = broker._broker
        wait_for(lambda: len(inside._connections) == 1)
        assert all(inside._subscriptions.values())  # what nobody subscribes to any more is forgotten
        assert len(inside._retained_messages) <= LIMITS.retained_messages
        assert peak() - grown < MOST_GROWTH


def echoed(client: RawClient, payload: bytes) -> Packet:
    """Return what comes back of a message."""
    client.publish("steady/echo", payload)
    while (packet := client.read()).kind != PUBLISH or packet.topic != "steady/echo" or packet.payload != payload:
        client.acknowledge(packet.mid)
    client.acknowledge(packet.mid)
    return packet
