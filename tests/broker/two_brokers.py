"""Two real brokers that can be killed and come back."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING, Any

from broker.address import BrokerAddress
from broker.client import Bridge
from broker.port import claim
from broker.run import Engine, RunningBroker, start_broker

if TYPE_CHECKING:
    from broker.message import Message

SECONDS = 30.0
QUICK: dict[str, Any] = {"reconnect_delay": (0.05, 0.2), "patience": 0.5, "look_every": 0.1}
"""Options of a bridge that does not wait long."""


def cut(bridge: Bridge) -> None:
    """Close the connection under a bridge, as a failing network would."""
    sock = bridge._client.socket()
    assert isinstance(sock, socket.socket)
    sock.shutdown(socket.SHUT_RDWR)


class Pair:
    """Two brokers of one kind, each of which can be killed and started again."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.addresses = tuple(BrokerAddress("127.0.0.1", claim("127.0.0.1", 0)) for _ in range(2))
        self.running: dict[int, RunningBroker] = {}
        self._bridges: list[Bridge] = []

    def start(self, index: int) -> None:
        address = self.addresses[index]
        self.running[index] = start_broker(self.engine, address.host, address.port)

    def kill(self, index: int) -> None:
        """Without a word, where that can be done."""
        broker = self.running.pop(index)
        if self.engine == "mosquitto":
            process = broker._process  # type: ignore[attr-defined]
            process.kill()
            process.wait(SECONDS)
        broker.stop()

    def bridge(self, client_id: str = "", **options: Any) -> Bridge:
        bridge = Bridge(self.addresses, client_id, **{**QUICK, **options})
        self._bridges.append(bridge)
        return bridge

    def retained(self, index: int, topic_filter: str) -> dict[str, bytes]:
        """What a newcomer is sent by one broker."""
        found: dict[str, bytes] = {}
        ended = threading.Event()

        def take(message: Message) -> None:
            if message.topic == "end":
                ended.set()
            elif message.payload:
                found[message.topic] = message.payload

        with Bridge(self.addresses[index]) as bridge:
            bridge.wait_up(SECONDS)
            bridge.subscribe(topic_filter, take)
            bridge.subscribe("end", take)
            while not ended.wait(0.05):
                bridge.publish("end", b"")
        return found

    def close(self) -> None:
        for bridge in self._bridges:
            bridge.stop(1)
        for broker in self.running.values():
            broker.stop()
