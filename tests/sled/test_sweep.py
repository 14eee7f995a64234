"""The sweeper over real brokers."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

from msgspec.structs import replace

from broker.address import BrokerAddress
from broker.client import Bridge
from schemas import codec
from schemas.messages import VERSION, AgentState
from schemas.topics import Topics
from sled.sweep import Sweep, SweepOptions
from sled.sweeper import Finding
from tests.schemas.samples import CONTEXT
from tests.waiting import wait_for

if TYPE_CHECKING:
    from broker.message import Message
    from broker.run import RunningBroker


SECONDS = 20.0
TOPICS = Topics()
STALE = TOPICS.session("pi", b"stale---")
ALIVE = TOPICS.session("pi", b"alive---")
BROKEN = TOPICS.session("pi", b"broken--")


class Clock:
    """Stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def context(session: bytes) -> bytes:
    return codec.encode(replace(CONTEXT, session=session, ttl=100_000_000))


def retained(address: BrokerAddress) -> dict[str, bytes]:
    """What a newcomer is sent."""
    found: dict[str, bytes] = {}
    ended = threading.Event()

    def take(message: Message) -> None:
        if message.topic == "end":
            ended.set()
        elif message.payload:
            found[message.topic] = message.payload

    with Bridge(address) as bridge:
        bridge.wait_up(SECONDS)
        bridge.subscribe("sled/#", take)
        bridge.subscribe("end", take)
        while not ended.wait(0.05):
            bridge.publish("end", b"")
    return found


def test_clears_what_nobody_refreshes(broker: RunningBroker) -> None:
    """One session is refreshed, one is not, one cannot be read, and a device is online."""
    address = BrokerAddress(broker.host, broker.port)
    clock, found = Clock(), queue.Queue[Finding]()
    online = codec.encode_json(AgentState(VERSION, "online", "boot"))
    with Bridge(address) as agent:
        agent.publish(STALE, context(b"stale---"), retain=True)
        agent.publish(ALIVE, context(b"alive---"), retain=True)
        agent.publish(BROKEN, b"\xc1", retain=True)
        agent.publish(TOPICS.device_state("pi"), online, retain=True)
        assert agent.flush(SECONDS)
        sweep = Sweep(SweepOptions(address, malformed=True), found.put, clock=clock)
        watching = threading.Thread(target=sweep.run)
        watching.start()
        assert found.get(timeout=SECONDS).topic == BROKEN
        wait_for(lambda: len(sweep._sweeper) == 3)  # the two sessions and the device; the broken one is cleared
        clock.now = 60.0
        agent.publish(ALIVE, context(b"alive---"), retain=True)
        wait_for(lambda: sweep._sweeper._kept[ALIVE].since == 60.0)
        clock.now = 110.0
        assert found.get(timeout=SECONDS).topic == STALE
        sweep.stop()
        watching.join(SECONDS)
    assert set(retained(address)) == {ALIVE, TOPICS.device_state("pi")}
    report = sweep.report()
    assert (report.cleared, report.watched) == (2, 110.0)
    assert [finding.topic for finding in report.findings] == [BROKEN, STALE]


def test_dry_run_clears_nothing(broker: RunningBroker) -> None:
    """The command, which only looks: what it says, and what is there afterwards."""
    address = BrokerAddress(broker.host, broker.port)
    with Bridge(address) as agent:
        agent.publish(STALE, context(b"stale---"), retain=True)
        agent.publish(BROKEN, b"\xc1", retain=True)
        agent.publish("sled/v2/device/pi/state", b"of another root", retain=True)
        assert agent.flush(SECONDS)
    before = retained(address)
    run = subprocess.run(
        [
            sys.executable, "-m", "sled", "sweep", "--broker", str(address),
            "--dry-run", "--malformed", "--watch", "0", "--json",
        ],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout.splitlines()[-1])
    assert (report["retained"], report["cleared"], report["dry_run"]) == (2, 0, True)
    assert [(finding["topic"], finding["reason"]) for finding in report["findings"]] == [(BROKEN, "malformed")]
    assert f"would clear {BROKEN}: " in run.stderr
    assert retained(address) == before


def test_without_a_broker_it_says_so() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "sled", "sweep", "--broker", "127.0.0.1:1,127.0.0.1:2", "--watch", "0"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert run.returncode == 1
    assert "no broker answers at 127.0.0.1:" in run.stderr.strip().splitlines()[-1]
    assert "Traceback" not in run.stderr
