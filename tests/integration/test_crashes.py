"""Real processes, killed in the middle of an answer: the text is the same."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from broker.address import BrokerAddress
from sled.client import Client
from tests.integration.machine import begin, finish, kill_tree

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.machine import Machine


def test_killed_verifier(machine: Machine, whole: tuple[tuple[int, ...], str]) -> None:
    """The ledger comes back from the retained context and a Resync, the KV cache by prefill."""
    with Client(BrokerAddress("127.0.0.1", machine.port)) as client:
        events, tokens = begin(client)
        machine.verifier.kill()
        machine.start_verifier()
        done = finish(events, tokens)
    assert (tuple(tokens), done.text) == whole


def test_killed_agent(machine: Machine, whole: tuple[tuple[int, ...], str]) -> None:
    """The request goes on from the spool in a fresh epoch; the app sees each token once."""
    with Client(BrokerAddress("127.0.0.1", machine.port)) as client:
        events, tokens = begin(client)
        machine.agent.kill()
        machine.start_agent()
        done = finish(events, tokens)
    assert (tuple(tokens), done.text) == whole


def test_killed_broker(machine: Machine, whole: tuple[tuple[int, ...], str]) -> None:
    """A broker that comes back empty: every role publishes its retained state again.

    Events that it had taken but not passed on are gone; the last one has the whole text.
    """
    with Client(BrokerAddress("127.0.0.1", machine.port)) as client:
        events, tokens = begin(client)
        kill_tree(machine.broker)
        machine.start_broker()
        done = finish(events, tokens, gaps=True)
    assert done.text == whole[1]
    assert all(told in (-1, meant) for told, meant in zip(tokens, whole[0], strict=False))


@pytest.mark.parametrize("engine", ["mosquitto"], indirect=True)
def test_killed_broker_that_remembers_something_old(
    machine: Machine, whole: tuple[tuple[int, ...], str], tmp_path: Path
) -> None:
    """It comes back with what it had last written to disk: contexts of sessions that have ended, and older states."""
    disk = ("--state", str(tmp_path / "mosquitto"))
    kill_tree(machine.broker)
    machine.broker = machine.start_broker(*disk)
    with Client(BrokerAddress("127.0.0.1", machine.port)) as client:
        events, tokens = begin(client)
        machine.broker.stop()  # it writes what it has, the context of this session too
        machine.broker = machine.start_broker(*disk)
        assert finish(events, tokens, gaps=True).text == whole[1]
        events, tokens = begin(client)
        kill_tree(machine.broker)
        machine.broker = machine.start_broker(*disk)
        done = finish(events, tokens, gaps=True)
    assert done.text == whole[1]
    assert all(told in (-1, meant) for told, meant in zip(tokens, whole[0], strict=False))


def test_frozen_verifier(machine: Machine, whole: tuple[tuple[int, ...], str]) -> None:
    """A verifier that stands still for a while: resends are answered from its log, or ignored."""
    with Client(BrokerAddress("127.0.0.1", machine.port)) as client:
        events, tokens = begin(client)
        os.kill(machine.verifier.pid, signal.SIGSTOP)
        time.sleep(3)
        os.kill(machine.verifier.pid, signal.SIGCONT)
        done = finish(events, tokens)
    assert (tuple(tokens), done.text) == whole
