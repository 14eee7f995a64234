"""The record of what became of drafts."""

from __future__ import annotations

import json
import logging
import math
from typing import TYPE_CHECKING

import msgspec
import pytest

from edge_agent.cost_aware import CostAware
from edge_agent.drafters.drafter import Proposal
from edge_agent.policy import Confidence, Outcome
from edge_agent.recorder import Recorder, RecorderError, check_record
from tests.edge_agent.machine import awaiting, verdict

if TYPE_CHECKING:
    from pathlib import Path

OUTCOME = Outcome((Proposal(7, 0.5, 1.5, 0.25, "model", 0.125, sampled=True), Proposal(8, 0.25)), 1, 2, 0.5)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "records" / "verdicts.jsonl"


def test_line_has_every_field_by_its_name(path: Path) -> None:
    Recorder(CostAware(), path).learn(OUTCOME)
    assert json.loads(path.read_bytes()) == {
        "proposals": [
            {
                "token": 7, "confidence": 0.5, "entropy": 1.5, "margin": 0.25, "source": "model", "seconds": 0.125,
                "sampled": True, "weights": "",
            },
            {
                "token": 8, "confidence": 0.25, "entropy": 0.0, "margin": 1.0, "source": "", "seconds": 0.0,
                "sampled": False, "weights": "",
            },
        ],
        "accepted": 1,
        "committed": 2,
        "seconds": 0.5,
        "sent": 0,
        "step": None,
    }  # fmt: skip


def test_lines_of_several_runs_follow_one_another_and_can_be_read_back(path: Path) -> None:
    outcomes = [OUTCOME, Outcome((), 0, 9), OUTCOME]
    Recorder(CostAware(), path).learn(outcomes[0])
    again = Recorder(CostAware(), path)
    again.learn(outcomes[1])
    again.learn(outcomes[2])
    assert [msgspec.json.decode(line, type=Outcome) for line in path.read_bytes().splitlines()] == outcomes


def test_measure_that_is_no_number_is_null(path: Path) -> None:
    Recorder(CostAware(), path).learn(Outcome((Proposal(1, math.nan),), 0, 1))
    assert json.loads(path.read_bytes())["proposals"][0]["confidence"] is None


def test_policy_behind_it_decides_and_learns(path: Path) -> None:
    policy = CostAware(5)
    recorder = Recorder(policy, path)
    assert recorder.max_draft == 5
    assert recorder.calibration is policy.calibration
    sure, unsure = Proposal(1, 0.99), Proposal(1, 0.01)
    assert [recorder.enough([sure] * length) for length in (3, 4)] == [False, True]
    assert [recorder.ahead([each] * 2) for each in (sure, unsure)] == [True, False]
    before = policy.calibration.chance(sure)
    recorder.learn(Outcome((sure,), 0, 1))
    assert policy.calibration.chance(sure) < before


def test_session_is_recorded(path: Path) -> None:
    machine = awaiting(policy=Recorder(Confidence(0.5, 2), path))
    machine.tell(verdict(1, (21, 30), accepted=1))
    (line,) = path.read_bytes().splitlines()
    assert msgspec.json.decode(line, type=Outcome) == Outcome((Proposal(21, 0.9), Proposal(22, 0.9)), 1, 2, sent=2)


def test_place_that_cannot_be_written_is_refused_in_a_sentence(tmp_path: Path) -> None:
    for attempt in (lambda: check_record(tmp_path), lambda: Recorder(CostAware(), tmp_path / "file" / "x")):
        (tmp_path / "file").touch()
        with pytest.raises(RecorderError, match=r"cannot be recorded in .*: give --record a file that can be written"):
            attempt()


def test_file_that_is_lost_meanwhile_ends_the_record_not_the_policy(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    policy = CostAware()
    recorder = Recorder(policy, path)
    path.unlink()
    path.mkdir()
    recorder.learn(OUTCOME)
    recorder.learn(OUTCOME)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "verdicts are no longer recorded" in record.getMessage()
    assert policy.calibration.unkept()
