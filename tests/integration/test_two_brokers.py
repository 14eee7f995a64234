"""All roles turn to a second broker when the first one dies, and return when it is back."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from broker.client import Bridge
from schemas.messages import Ask
from tests.broker.two_brokers import QUICK, SECONDS, Pair
from tests.integration.fleet import Fleet, answer
from tests.integration.machine import ask, begin, finish

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from broker.run import Engine
    from sled.client import Client

ONLINE = {"sled/v1/device/pi/state", "sled/v1/verifier/verifier/state"}


@pytest.fixture
def pair(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    """Both run; what the roles wait for by default is shortened."""
    defaults = Bridge.__init__.__kwdefaults__
    assert defaults is not None
    for name, value in QUICK.items():
        monkeypatch.setitem(defaults, name, value)
    pair = Pair(engine)
    pair.start(0)
    pair.start(1)
    yield pair
    pair.close()


@pytest.fixture
def fleet(pair: Pair, tiny_target: Path, tiny_drafter: Path) -> Iterator[Fleet]:
    with Fleet(pair.running[0], tiny_target, tiny_drafter) as fleet:
        fleet.address = pair.addresses  # type: ignore[assignment]
        yield fleet


def until_retained(pair: Pair, index: int, topics: set[str]) -> None:
    give_up = time.monotonic() + SECONDS
    while (found := set(pair.retained(index, "sled/#"))) != topics:
        assert time.monotonic() < give_up, found
        time.sleep(0.2)


def until_at(client: Client, pair: Pair, index: int) -> None:
    give_up = time.monotonic() + SECONDS
    while not (client._bridge.is_up and client._bridge.address == pair.addresses[index]):
        assert time.monotonic() < give_up
        time.sleep(0.05)


def test_an_answer_goes_on_at_the_second_broker(pair: Pair, fleet: Fleet, whole: tuple[tuple[int, ...], str]) -> None:
    """The first dies in the middle of an answer and comes back after it; each side is left clean."""
    fleet.verifier()
    fleet.agent()
    with fleet.client() as client:
        events, tokens = begin(client)
        pair.kill(0)
        assert finish(events, tokens, gaps=True).text == whole[1]
        until_retained(pair, 1, ONLINE)
        pair.start(0)
        until_at(client, pair, 0)
        until_retained(pair, 0, ONLINE)
        until_retained(pair, 1, set())
        assert answer(client, "pi", Ask(prompt="abc", max_tokens=10))[1].verifier == "verifier"


def test_an_answer_survives_the_return(pair: Pair, fleet: Fleet, whole: tuple[tuple[int, ...], str]) -> None:
    """One answer after another, while everybody is moving back to the first broker."""
    pair.kill(0)
    fleet.verifier()
    fleet.agent()
    with fleet.client() as client:
        assert finish(*begin(client)).text == whole[1]
        assert client._bridge.address == pair.addresses[1]
        pair.start(0)
        while client._bridge.address != pair.addresses[0]:  # a whole stream may be missed, the text never
            assert finish(ask(client), [], gaps=True).text == whole[1]
        assert finish(ask(client), [], gaps=True).text == whole[1]
        until_retained(pair, 0, ONLINE)
        until_retained(pair, 1, set())


@pytest.mark.parametrize("engine", ["mosquitto"], indirect=True)
def test_a_command_finds_the_second_broker(pair: Pair) -> None:
    """Nobody waits for long at a terminal; the sentence is about the device, so a broker was found."""
    pair.kill(0)
    brokers = ",".join(map(str, pair.addresses))
    run = subprocess.run(
        [sys.executable, "-m", "sled", "ask", "nobody", "abc", "--broker", brokers, "--timeout", "1"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert run.returncode == 1
    assert run.stderr.strip().splitlines()[-1].startswith("sled: no device 'nobody' has announced itself")
