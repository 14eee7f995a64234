"""Starting whichever broker this machine has."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Literal, Protocol

from broker.errors import BrokerStartError
from broker.mosquitto import MosquittoProcess, find_mosquitto

if TYPE_CHECKING:
    from pathlib import Path

    from broker.security import Security

Engine = Literal["auto", "mosquitto", "embedded"]


class RunningBroker(Protocol):
    """A broker started by this process."""

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

    def reload(self) -> None:
        """Read the access file and the files of TLS again; an error leaves everything as it was."""

    def stop(self) -> None:
        """End it; does nothing the second time."""


def start_broker(
    engine: Engine = "auto",
    host: str = "127.0.0.1",
    port: int = 1883,
    *,
    state_dir: Path | None = None,
    security: Security | None = None,
) -> RunningBroker:
    """Start a broker and return when it accepts connections.

    Args:
        engine: `auto` takes Mosquitto where it is installed, else the one inside this process.
        host: an address of this machine: of loopback, unless both TLS and access rules are given.
        port: where to listen; 0 picks a free port.
        state_dir: where Mosquitto keeps sessions and retained messages; the embedded broker keeps them in memory only.
        security: TLS and access rules; without them everybody on this machine may do everything.

    Raises:
        BrokerStartError: no broker could be started; the sentence says why and what to do.
        AccessInvalid: the access file cannot be used.
    """
    if engine == "auto":
        engine = "mosquitto" if find_mosquitto() is not None else "embedded"
    if engine == "mosquitto":
        mosquitto = MosquittoProcess(host, port, state_dir=state_dir, security=security)
        mosquitto.start()
        return mosquitto
    if importlib.util.find_spec("amqtt") is None:
        raise BrokerStartError(
            "no broker is installed: install Mosquitto (Debian: apt install mosquitto) "
            "or the embedded broker (pip install 'sled-mqtt[broker]')"
        )
    from broker.embedded import EmbeddedBroker  # noqa: PLC0415 - needs the extra [broker]

    embedded = EmbeddedBroker(host, port, security=security)
    embedded.start()
    return embedded
