"""An agent keeps what it has learnt of its drafters across restarts: real verdicts, real files."""

from __future__ import annotations

import logging
import sqlite3
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from broker.address import BrokerAddress
from edge_agent.calibration import Calibration
from edge_agent.cost_aware import CostAware
from edge_agent.drafters.spec import open_drafter, parse_drafter
from edge_agent.policy import FixedLength, Policy
from edge_agent.recorder import Recorder
from edge_agent.service import Agent, AgentOptions
from edge_agent.spool import Spool, SpoolError
from schemas.messages import Ask
from tests.integration.fleet import Fleet, answer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from broker.run import RunningBroker
    from edge_agent.calibration import Row
    from sled.client import Client

PATIENCE = 30.0
ASK = Ask(prompt="abc", max_tokens=30)
SOURCE = "tiny-drafter"

pytestmark = pytest.mark.parametrize("engine", ["embedded"], indirect=True)


class Watched(Calibration):
    """Says when it is asked what is to be kept."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = threading.Event()

    def unkept(self) -> list[Row]:
        rows = super().unkept()
        self.asked.set()
        return rows

    @property
    def known(self) -> float:
        (learner,) = {learner for learner, _ in self._records} or {f"{SOURCE}@"}
        assert learner.startswith(f"{SOURCE}@")
        return self.mean(learner, sampled=False)


@pytest.fixture
def fleet(broker: RunningBroker, tiny_target: Path, tiny_drafter: Path) -> Iterator[Fleet]:
    with Fleet(broker, tiny_target, tiny_drafter) as running:
        running.verifier()
        yield running


@contextmanager
def serving(fleet: Fleet, policy: Policy, spool: Spool) -> Iterator[Client]:
    """An agent with this policy and spool, ready, and a client of it."""
    drafter = open_drafter([parse_drafter(str(fleet.drafter))], vocab_limit=fleet.tokenizer.vocab_size)
    address = BrokerAddress(fleet.address.host, fleet.address.port)
    agent = Agent(AgentOptions("pi", address), drafter, fleet.tokenizer, policy, spool)
    thread = threading.Thread(target=agent.run, daemon=True)
    thread.start()
    try:
        with fleet.client() as client:
            assert client.wait_online(devices=1, timeout=PATIENCE)
            yield client
    finally:
        agent.stop()
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_what_was_learnt_is_kept_when_a_request_ends_and_is_there_after_a_restart(fleet: Fleet, tmp_path: Path) -> None:
    first, path = Watched(), tmp_path / "spool.db"
    with serving(fleet, Recorder(CostAware(calibration=first), tmp_path / "record.jsonl"), Spool(path)) as client:
        assert not first.asked.is_set()
        statistics = answer(client, "pi", ASK)[1].statistics
        assert first.asked.wait(PATIENCE), "the end of a request is a moment to keep it"
    assert statistics.drafted > 0
    assert first.known != 0.5
    assert (tmp_path / "record.jsonl").read_bytes().count(b"\n") == statistics.rounds
    second = Watched()
    with serving(fleet, CostAware(calibration=second), Spool(path)):
        assert second.known == first.known


def test_what_is_damaged_is_told_of_and_learnt_anew(
    fleet: Fleet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "spool.db"
    with serving(fleet, CostAware(), Spool(path)) as client:
        answer(client, "pi", ASK)
    db = sqlite3.connect(path)
    with db:
        assert db.execute("UPDATE calibration SET body = x'c1'").rowcount == 1
    db.close()
    calibration = Watched()
    with serving(fleet, CostAware(calibration=calibration), Spool(path)) as client:
        assert f"what was learnt of '{SOURCE}' is damaged and is learnt anew" in caplog.text
        answer(client, "pi", ASK)
        assert calibration.asked.wait(PATIENCE)
    assert calibration.known != 0.5


class Broken(Spool):
    """A disk that gives and takes nothing of it."""

    def calibration(self) -> list[tuple[object, ...]]:
        raise SpoolError("it cannot be read")

    def keep_calibration(self, rows: object) -> None:
        raise SpoolError("it cannot be written")


def test_disk_that_does_not_take_it_fails_no_request(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    with serving(fleet, CostAware(), Broken(None)) as client:
        assert answer(client, "pi", ASK)[1].statistics.drafted > 0
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "it cannot be read" in warnings
    assert "what was learnt of the drafters is not kept: it cannot be written" in warnings


def test_policy_that_learns_nothing_keeps_nothing(fleet: Fleet, tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    with serving(fleet, FixedLength(2), Spool(path)) as client:
        answer(client, "pi", ASK)
    spool = Spool(path)
    assert spool.calibration() == []
    spool.close()
