"""Starting whichever broker this machine has."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Literal, Protocol

from broker.errors import BrokerStartError
from broker.mosquitto import MosquittoProcess, find_mosquitto

if TYPE_CHECKING:
    from pathlib import Path

Engine = Literal["auto", "mosquitto", "embedded"]


class RunningBroker(Protocol):
    """A broker on loopback, started by this process."""

    @property
    def name(self) -> str:
        """Which engine it is: `mosquitto` or `embedded`."""

    @property
    def host(self) -> str:
        """The numeric address it listens at."""

    @property
    def port(self) -> int:
        """The port it listens at."""

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it has ended, at most `timeout` seconds; False if it still runs."""

    def stop(self) -> None:
        """End it; does nothing the second time."""


def start_broker(
    engine: Engine = "auto", host: str = "127.0.0.1", port: int = 1883, *, state_dir: Path | None = None
) -> RunningBroker:
    """Start a broker and return when it accepts connections.

    Args:
        engine: `auto` takes Mosquitto where it is installed, else the one inside this process.
        host: a loopback address.
        port: where to listen; 0 picks a free port.
        state_dir: where Mosquitto keeps sessions and retained messages; the embedded broker keeps them in memory only.

    Raises:
        BrokerStartError: no broker could be started; the sentence says why and what to do.
    """
    if engine == "auto":
        engine = "mosquitto" if find_mosquitto() is not None else "embedded"
    if engine == "mosquitto":
        mosquitto = MosquittoProcess(host, port, state_dir=state_dir)
        mosquitto.start()
        return mosquitto
    if importlib.util.find_spec("amqtt") is None:
        raise BrokerStartError(
            "no broker is installed: install Mosquitto (Debian: apt install mosquitto) "
            "or the embedded broker (pip install 'sled-mqtt[broker]')"
        )
    from broker.embedded import EmbeddedBroker  # noqa: PLC0415 - needs the extra [broker]

    embedded = EmbeddedBroker(host, port)
    embedded.start()
    return embedded
