"""A small plan against real processes on a tiny target, and its log checked again, whole and damaged."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.faults import Alone, main
from benchmarks.kit.asking import sampling_of
from benchmarks.kit.faults.checker import Request, released_in
from schemas.messages import Ask, DoneEvent, ReleasedRange, Statistics, TokenEvent
from sled.errors import FAILED, NOT_IDENTICAL
from sled.reference import Reference
from tests.conftest import require

if TYPE_CHECKING:
    from pathlib import Path

PLAN = """
devices: 2
verifiers: 2
requests: 4
tokens: 300
seconds: 8
seed: 1
faults:
  - {fault: delay, seconds: 0.05}  # so that a text takes some seconds
  - {fault: kill, role: agent, victim: device-1, at: [0.7], seconds: 0.5}
  - {fault: kill, role: verifier, at: [2.5], seconds: 0.5}
  - {fault: kill, role: broker, at: [4], seconds: 1}
  - {fault: cut, victim: device-2, at: [3], seconds: 1}
  - {fault: freeze, role: verifier, at: [6], seconds: 1}
  - {fault: loss, chance: 0.05, begin: 0, end: 4}
  - {fault: duplication, chance: 0.05, begin: 2, end: 8}
"""


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any], str]:
    code = main([*arguments, "--json"])
    said = capsys.readouterr()
    return code, json.loads(said.out) if said.out else {}, said.err


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first test leaves its log for the others."""
    return tmp_path_factory.mktemp("faults") / "log"


def test_nothing_is_lost(log: Path, tiny_target: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    require("mosquitto")
    plan, prompts = tmp_path / "plan.yaml", tmp_path / "prompts.jsonl"
    plan.write_text(PLAN)
    prompts.write_text('{"prompt": "Tell me everything."}\n')
    code, found, said = run(
        capsys, "--plan", str(plan), "--prompts", str(prompts), "--target", str(tiny_target), "--out", str(log)
    )
    assert code == 0, found or said
    assert [found[each] for each in ("requests", "completed", "identical", "lost", "duplicated")] == [4, 4, 4, 0, 0]
    assert found["kills"] == {"agent": 1, "verifier": 1, "broker": 1}
    assert found["freezes"] == {"agent": 0, "verifier": 1, "broker": 0}
    assert (found["cuts"], found["holds"]) == (1, 0)
    assert found["recovery"]["kill agent"]["affected"] == 1
    assert found["recovery"]["kill agent"]["median"] > 0.5, "it is away for so long"
    assert found["dropped"]
    assert found["duplicates"]
    assert {path.name for path in log.glob("*.log")} == {
        "broker.log", "device-1.log", "device-2.log", "verifier-1.log", "verifier-2.log",
    }  # fmt: skip


def test_the_log_is_checked_again_and_damage_is_found(
    log: Path, tiny_target: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not log.exists():
        pytest.skip("the run before has left no log")
    code, found, _ = run(capsys, "--check", str(log))
    assert (code, found["identical"]) == (0, 4)

    ends = [line for line in (log / "app.jsonl").read_text().splitlines() if '\\"event\\":\\"done\\"' in line]
    request = json.loads(ends[-1])["request"]

    def check(change: tuple[str, str] | None) -> tuple[int, dict[str, Any], str]:
        copy = tmp_path / f"copy-{change is None}"
        shutil.copytree(log, copy)
        lines = (log / "app.jsonl").read_text().splitlines(keepends=True)
        mine = [line for line in lines if '\\"event\\":\\"done\\"' in line and f'"request":"{request}"' in line]
        kept = [line if line not in mine else line.replace(*change) if change else "" for line in lines]
        (copy / "app.jsonl").write_text("".join(kept))
        return run(capsys, "--check", str(copy), "--target", str(tiny_target))

    code, found, said = check(None)
    assert (code, found["completed"], found["lost"]) == (FAILED, 3, 1)
    assert f"{request} on" in said
    code, found, _ = check(('\\"text\\":\\"', '\\"text\\":\\"!'))
    assert (code, found["completed"], found["identical"]) == (NOT_IDENTICAL, 4, 3)


def test_twice_as_many_devices_as_places_are_all_served(
    tiny_target: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both verifiers refuse whoever comes while they are full, and those who wait do not wander between them."""
    require("mosquitto")
    plan, prompts = tmp_path / "plan.yaml", tmp_path / "prompts.jsonl"
    plan.write_text("{devices: 4, verifiers: 2, capacity: 1, requests: 12, tokens: 200, seconds: 1, sampled: 0.5}")
    prompts.write_text('{"prompt": "Tell me everything."}\n')
    log = tmp_path / "log"
    code, found, said = run(
        capsys, "--plan", str(plan), "--prompts", str(prompts), "--target", str(tiny_target), "--out", str(log)
    )
    assert code == 0, found or said
    assert (found["completed"], found["identical"]) == (12, 12)
    assert any("(overloaded)" in path.read_text() for path in log.glob("verifier-*.log"))
    assert 12 <= found["published"]["session"] < 200


def test_a_bad_plan_and_a_missing_log_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text("devices: none")
    code, _, said = run(capsys, "--plan", str(plan))
    assert code == FAILED
    assert "plan.yaml: devices: Expected `int`" in said
    code, _, said = run(capsys, "--check", str(tmp_path))
    assert code == FAILED
    assert "run.json cannot be read" in said


def test_released_tokens_are_compared_with_the_targets_choice(tiny_target: Path) -> None:
    reference = Reference(tiny_target, "float32")
    alone, ask = Alone(reference, 8), Ask(id="r", prompt="abc", max_tokens=8)
    tokens = alone.fill("abc", {2: 7, 5: 7}, 8, sampling_of(ask))  # two of another mind
    request = Request("device", ask, 0.0)
    counted = Statistics(1, 8, *[0] * 8)
    done = DoneEvent("r", 1, "", "length", lossless=False, released=(ReleasedRange(1, 6),), statistics=counted)
    request.answer.take(1.0, TokenEvent("r", 0, 0, 0, "", tokens))
    request.answer.take(2.0, done)
    assert (released_in(request), alone.unlike(request)) == (5, 2)
    assert tokens != alone.fill("abc", {}, 8, sampling_of(ask))
