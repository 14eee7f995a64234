"""Two verifiers as real processes: when one goes, its sessions go on with the other, and the text is the same."""

from __future__ import annotations

import os
import queue
import signal
from typing import TYPE_CHECKING

import pytest

from broker.address import BrokerAddress
from broker.client import Bridge
from schemas import codec
from schemas.messages import Ask, SessionContext
from schemas.topics import Topics
from sled.client import Client
from tests.integration.machine import begin, finish

if TYPE_CHECKING:
    from broker.message import Message
    from sled.processes import Process
    from tests.integration.machine import Machine

OTHER = "other-verifier"


class Pair:
    """The machine's verifier and another one."""

    def __init__(self, machine: Machine, *options: str) -> None:
        self.address = BrokerAddress("127.0.0.1", machine.port)
        if options:
            machine.verifier.kill()
            machine.verifier = machine.start_verifier("verifier", *options)
        self._processes = {"verifier": machine.verifier, OTHER: machine.start_verifier(OTHER, *options)}

    def serving(self) -> tuple[str, Process]:
        """The name and process of the verifier that serves the only session, and so owns its context."""
        contexts: queue.SimpleQueue[Message] = queue.SimpleQueue()
        with Bridge(self.address) as bridge:
            bridge.subscribe(Topics().sessions("pi"), contexts.put)
            owner = codec.decode(contexts.get(timeout=20).payload, SessionContext).owner
        return owner, self._processes[owner]


@pytest.mark.parametrize(
    ("engine", "fault"),
    [
        ("mosquitto", signal.SIGKILL),
        ("embedded", signal.SIGKILL),
        ("mosquitto", signal.SIGSTOP),
        ("mosquitto", signal.SIGTERM),
    ],
    indirect=["engine"],
    ids=["mosquitto-kill", "embedded-kill", "mosquitto-stop", "mosquitto-term"],
)
def test_the_other_verifier_takes_over(
    fault: signal.Signals, machine: Machine, whole: tuple[tuple[int, ...], str]
) -> None:
    """Told by the last will, by rounds that go unanswered, or by the verifier itself when it ends in good order."""
    pair = Pair(machine)
    with Client(pair.address) as client:
        assert client.wait_online(verifiers=2, timeout=60)
        events, tokens = begin(client)
        name, process = pair.serving()
        os.kill(process.pid, fault)
        done = finish(events, tokens)
        if fault == signal.SIGSTOP:
            os.kill(process.pid, signal.SIGCONT)
    assert (tuple(tokens), done.text) == whole
    assert done.verifier != name


@pytest.mark.parametrize("engine", ["mosquitto"], indirect=True)
def test_a_verifier_that_drains_hands_its_sessions_over_and_ends(
    machine: Machine, whole: tuple[tuple[int, ...], str]
) -> None:
    """It is there until they have left, and serves them while the other one reads."""
    pair = Pair(machine, "--drain", "60")
    contexts: queue.SimpleQueue[Message] = queue.SimpleQueue()
    with Client(pair.address) as client, Bridge(pair.address) as watcher:
        assert client.wait_online(verifiers=2, timeout=60)
        # A text's first round tells how long reading takes, but not on a verifier that has just been started.
        list(client.ask("pi", Ask(prompt="Hello", max_tokens=4), timeout=60))
        watcher.subscribe(Topics().sessions("pi"), contexts.put)
        events, tokens = begin(client)
        name, process = pair.serving()
        os.kill(process.pid, signal.SIGTERM)
        done = finish(events, tokens)
    assert (tuple(tokens), done.text) == whole
    assert done.verifier != name
    published = [codec.decode(contexts.get(timeout=20).payload, SessionContext) for _ in range(3)]
    assert [(context.owner, context.successor) for context in published] == [
        (name, None),
        (name, done.verifier),
        (done.verifier, None),
    ]
    assert process.wait(30) == 0


@pytest.mark.parametrize("engine", ["mosquitto"], indirect=True)
def test_a_verifier_that_drains_serves_on_where_there_is_no_other(
    machine: Machine, whole: tuple[tuple[int, ...], str]
) -> None:
    """Until the text has ended."""
    machine.verifier.kill()
    machine.verifier = machine.start_verifier("verifier", "--drain", "60")
    with Client(BrokerAddress("127.0.0.1", machine.port)) as client:
        events, tokens = begin(client)
        os.kill(machine.verifier.pid, signal.SIGTERM)
        done = finish(events, tokens)
    assert (tuple(tokens), done.text) == whole
    assert done.verifier == "verifier"
    assert machine.verifier.wait(30) == 0
