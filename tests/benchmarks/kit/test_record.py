"""Records of devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from benchmarks.kit.error import BenchError
from benchmarks.kit.record import Drafted, Recorded, read_record
from edge_agent.drafters.drafter import Proposal
from edge_agent.policy import FixedLength, Outcome
from edge_agent.recorder import Recorder

if TYPE_CHECKING:
    from pathlib import Path


def test_what_an_agent_records_is_read(tmp_path: Path) -> None:
    path = tmp_path / "record.jsonl"
    recorder = Recorder(FixedLength(4), path)
    proposals = (Proposal(5, 0.5, float("nan"), 0.1, "model", 0.01), Proposal(6, 0.4))
    recorder.learn(Outcome(proposals, 1, 2, 0.3))
    recorder.learn(Outcome((), 0, 1))
    first = Recorded((Drafted(0.5, None, 0.1, "model", 0.01), Drafted(0.4, 0.0, 1.0)), 1)
    assert read_record(path) == [first, Recorded((), 0)]


def test_what_is_no_record_is_named(tmp_path: Path) -> None:
    path = tmp_path / "record.jsonl"
    line = (
        '{"proposals":[{"token":5,"confidence":0.5,"entropy":null,"margin":0.1,"source":"m","seconds":0.01}],'
        '"accepted":1,"committed":2,"seconds":null}\n'
    )
    path.write_text(line * 2)
    assert read_record(path) == [Recorded((Drafted(0.5, None, 0.1, "m", 0.01),), 1)] * 2
    path.write_text(line + line[:40])
    with pytest.raises(BenchError, match="line 2"):
        read_record(path)
    with pytest.raises(BenchError, match="cannot be read"):
        read_record(tmp_path / "nothing")


def test_a_record_nested_too_deeply_is_named(tmp_path: Path) -> None:
    path = tmp_path / "record.jsonl"
    path.write_text('{"more":' + "[" * 9_000)
    with pytest.raises(BenchError, match="line 1 of"):
        read_record(path)
