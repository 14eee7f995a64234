"""Bridges that are stopped at the end of their test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import pytest

from broker.address import BrokerAddress
from broker.client import Bridge
from broker.embedded import EmbeddedBroker
from tests.broker.brokers import maker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.run import RunningBroker
    from tests.broker.brokers import Start


class MakeBridge(Protocol):
    """Makes a bridge to the broker of the test; keywords are those of `Bridge`."""

    def __call__(self, client_id: str = "", **options: Any) -> Bridge: ...


@pytest.fixture
def make_bridge(broker: RunningBroker) -> Iterator[MakeBridge]:
    """Bridges to the broker, not started, quick to reconnect; stopped at the end."""
    made: list[Bridge] = []

    def make(client_id: str = "", **options: Any) -> Bridge:
        address = BrokerAddress(broker.host, broker.port)
        bridge = Bridge(address, client_id, **{"reconnect_delay": (0.05, 0.2), **options})
        made.append(bridge)
        return bridge

    yield make
    for bridge in made:
        bridge.stop(1)


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts the hardened broker, or plain amqtt in the same setting; stopped at the end."""
    started: list[EmbeddedBroker] = []

    def begin(**setting: Any) -> EmbeddedBroker:
        started.append(EmbeddedBroker(port=0, make=maker(**setting)))
        started[-1].start()
        return started[-1]

    yield begin
    for broker in started:
        broker.stop()
