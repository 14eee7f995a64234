"""A second broker to fall back to: real ones, which are killed and come back."""

from __future__ import annotations

import queue
import signal
import threading
import time
from typing import TYPE_CHECKING

import pytest

from broker.client import Bridge
from broker.message import Message, Will
from tests.broker.two_brokers import QUICK, SECONDS, Pair, cut

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.address import BrokerAddress
    from broker.run import Engine


@pytest.fixture
def pair(engine: Engine) -> Iterator[Pair]:
    """Both run."""
    pair = Pair(engine)
    pair.start(0)
    pair.start(1)
    yield pair
    pair.close()


class Role:
    """Publishes its retained state on every connect, and says where it is."""

    def __init__(self, pair: Pair, name: str) -> None:
        self.ups: queue.Queue[BrokerAddress] = queue.Queue()
        self.downs: queue.Queue[str] = queue.Queue()
        self.inbox: queue.Queue[Message] = queue.Queue()
        self.sessions = [f"{name}/session/1"]
        self._state = f"{name}/state"
        self.bridge = pair.bridge(
            name,
            will=Will(self._state, b"offline"),
            on_up=self._up,
            on_down=self.downs.put,
            retains=(self._state, f"{name}/session/+"),
        )
        self.bridge.subscribe(f"{name}/inbox", self.inbox.put)
        self.bridge.start()

    def _up(self, _: bool) -> None:
        self.bridge.publish(self._state, b"online", retain=True)
        for topic in self.sessions:
            self.bridge.publish(topic, b"context", retain=True)
        self.ups.put(self.bridge.address)

    def comes_to(self, address: BrokerAddress) -> None:
        assert self.ups.get(timeout=SECONDS) == address


def until_retained(pair: Pair, index: int, expected: dict[str, bytes]) -> None:
    give_up = time.monotonic() + SECONDS
    while (found := pair.retained(index, "#")) != expected:
        assert time.monotonic() < give_up, found


def test_falls_back_and_returns_and_leaves_nothing_behind(pair: Pair) -> None:
    """The whole story, for two roles that talk to each other."""
    first, second = pair.addresses
    pi, box = Role(pair, "pi"), Role(pair, "box")
    of_both = {"pi/state": b"online", "pi/session/1": b"context", "box/state": b"online", "box/session/1": b"context"}
    for role in (pi, box):
        role.comes_to(first)

    pair.kill(0)
    for role in (pi, box):
        role.comes_to(second)
    assert f"the connection to the broker at {first} was lost" in pi.downs.get(timeout=SECONDS)
    pi.bridge.publish("box/inbox", b"on the second")
    assert box.inbox.get(timeout=SECONDS).payload == b"on the second"
    pi.bridge.publish("pi/session/2", b"another", retain=True)
    assert pi.bridge.flush(SECONDS)
    assert pair.retained(1, "#") == of_both | {"pi/session/2": b"another"}

    pair.start(0)
    for role in (pi, box):
        role.comes_to(first)
        while "is back" not in (reason := role.downs.get(timeout=SECONDS)):
            pass
        assert reason == f"the broker at {first} is back: leaving the one at {second}"
    box.bridge.publish("pi/inbox", b"on the first")
    assert pi.inbox.get(timeout=SECONDS).payload == b"on the first"
    until_retained(pair, 1, {})
    assert pair.retained(0, "#") == of_both


def test_what_an_earlier_life_left_behind_is_cleared(pair: Pair) -> None:
    """A first broker that kept its retained messages, and a client that does not remember them."""
    with Bridge(pair.addresses[0]) as earlier:
        for topic in ("pi/state", "pi/session/1", "pi/session/2", "box/state"):
            earlier.publish(topic, b"old", retain=True)
        assert earlier.flush(SECONDS)
    pi = Bridge(pair.addresses[::-1], "pi", **QUICK, retains=("pi/state", "pi/session/+"))
    with pi:
        pi.wait_up(SECONDS)
        until_retained(pair, 0, {"box/state": b"old"})


def test_nobody_is_moved_by_a_lost_connection_alone(pair: Pair) -> None:
    """A broker that is there again at once keeps its clients, although another one is there too."""
    first = pair.addresses[0]
    pi = Role(pair, "pi")
    pi.comes_to(first)
    for _ in range(3):
        cut(pi.bridge)
        pi.comes_to(first)


def test_first_broker_is_down_at_start(pair: Pair) -> None:
    pair.kill(0)
    pi = Role(pair, "pi")
    pi.comes_to(pair.addresses[1])
    pi.bridge.wait_up(SECONDS)


def test_both_brokers_are_away_for_a_while(pair: Pair) -> None:
    """What was published meanwhile arrives, in order, wherever the connection comes about."""
    first, second = pair.addresses
    pi = Role(pair, "pi")
    pi.comes_to(first)
    pair.kill(0)
    pair.kill(1)
    for number in range(5):
        pi.bridge.publish("pi/inbox", b"%d" % number)
    pair.start(1)
    pi.comes_to(second)
    assert [pi.inbox.get(timeout=SECONDS).payload for _ in range(5)] == [b"0", b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize("engine", ["mosquitto"], indirect=True)
def test_a_frozen_broker_is_left(pair: Pair) -> None:
    """One that accepts connections and says nothing is no broker; it is used again when it wakes."""
    first, second = pair.addresses
    process = pair.running[0]._process  # type: ignore[attr-defined]
    process.send_signal(signal.SIGSTOP)
    try:
        pi = Role(pair, "pi")
        pi.comes_to(second)
    finally:
        process.send_signal(signal.SIGCONT)
    pi.comes_to(first)


def test_stop_while_away(pair: Pair) -> None:
    """Nothing goes on after a stop, in whatever it was interrupted."""
    pi = Role(pair, "pi")
    pi.comes_to(pair.addresses[0])
    pair.kill(0)
    pi.comes_to(pair.addresses[1])
    pi.bridge.stop()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("sled-caretaker", "paho"))]


@pytest.mark.parametrize("engine", ["mosquitto"], indirect=True)
def test_a_persistent_session_waits_at_each_broker(pair: Pair) -> None:
    """What was asked at the first broker before it died is there when the client has returned."""
    ups: queue.Queue[bool] = queue.Queue()
    asked: queue.Queue[Message] = queue.Queue()
    device = pair.bridge("device", clean=False, on_up=ups.put)
    device.subscribe("ask", asked.put, acknowledge="manual")
    device.start()
    assert ups.get(timeout=SECONDS) is False
    with Bridge(pair.addresses[0]) as app:
        app.publish("ask", b"question")
        unspooled = asked.get(timeout=SECONDS)
        device._route._turn(1, 0.0)  # as after a broken way to the first
        cut(device)
        assert ups.get(timeout=SECONDS) is False
        assert device.address == pair.addresses[1]
        unspooled.acknowledge()  # of a connection that is gone
        assert ups.get(timeout=SECONDS) is True
        assert asked.get(timeout=SECONDS).payload == b"question"
