"""Bridges and brokers that are stopped at the end of their test, and certificates."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from broker.address import BrokerAddress
from broker.client import Bridge
from broker.embedded import EmbeddedBroker
from tests.broker.brokers import maker
from tests.broker.certificates import Authority

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


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority with a broker's certificate, some identities' and some that are not good."""
    made = Authority(tmp_path_factory.mktemp("authority"))
    made.issue("localhost", server=True)
    for name in ("pi", "gpu", "root", "stranger"):
        made.issue(name)
    made.issue("pi", ends=-timedelta(hours=1), file="expired")
    made.issue("pi", begins=timedelta(hours=1), file="early")
    made.issue("pi", by_itself=True, file="self-signed")
    made.revoke(made.issue("pi", file="revoked"))
    other = Authority(tmp_path_factory.mktemp("other"))
    other.issue("pi")
    for ending in ("pem", "key"):
        (made.folder / f"elsewhere.{ending}").write_bytes((other.folder / f"pi.{ending}").read_bytes())
    return made
