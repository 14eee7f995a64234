"""Plans are read from YAML and JSON, and what is wrong with one is said with file and field."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.kit.error import BenchError
from benchmarks.kit.faults.plan import DEFAULT, EXPLAINED, Cut, Kill, Loss, Plan, find_plan, read_plan


def test_the_default_plan_is_as_hard_as_was_promised() -> None:
    plan = read_plan(DEFAULT)
    assert (plan.devices, plan.verifiers, plan.requests, plan.outage) == (20, 2, 200, "stall")
    assert 0 < plan.sampled < 1
    kills = [fault for fault in plan.faults if isinstance(fault, Kill)]
    assert {kill.role for kill in kills} == {"agent", "verifier", "broker"}
    assert sum(kill.count or 1 for kill in kills) >= 10
    (cut,) = [fault for fault in plan.faults if isinstance(fault, Cut)]
    assert (cut.count, cut.seconds) == (5, (1.0, 20.0))
    (loss,) = [fault for fault in plan.faults if isinstance(fault, Loss)]
    assert (loss.chance, round(loss.share or 0, 2)) == (0.05, 0.33)


def test_what_is_left_out_is_as_explained() -> None:
    """The help shows a default for every field."""
    plan = Plan()
    for line in EXPLAINED.splitlines():
        name, _, rest = line.strip().partition(": ")
        if line.startswith("  ") and name in plan.__struct_fields__ and name != "faults":
            shown = getattr(plan, name)
            told = rest.split()[0]
            assert told == (
                str(shown).lower()
                if isinstance(shown, bool)
                else f"{shown:g}"
                if isinstance(shown, float)
                else str(shown)
            )
    assert all(f"\n  {name}: " in EXPLAINED for name in plan.__struct_fields__)


@pytest.mark.parametrize(
    "text",
    [
        "devices: 2\nfaults:\n  - {fault: kill, role: broker, at: [1, 2], seconds: [0, 1]}\n",
        '{"devices": 2, "faults": [{"fault": "kill", "role": "broker", "at": [1, 2], "seconds": [0, 1]}]}',
    ],
)
def test_yaml_and_json(text: str, tmp_path: Path) -> None:
    path = tmp_path / "plan"
    path.write_text(text)
    assert read_plan(path) == Plan(devices=2, faults=(Kill(role="broker", at=(1.0, 2.0), seconds=(0.0, 1.0)),))


def test_an_empty_plan_is_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text("# nothing\n")
    assert read_plan(path) == Plan()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("devices: many", "devices: Expected `int`"),
        ("devices: 0", "devices: Expected `int` >= 1"),
        ("devises: 2", "unknown field `devises`"),
        ("seconds: .nan", "seconds: "),
        ("seconds: .inf", "seconds: "),
        ("outage: panic", "outage: Invalid"),
        ("faults: 3", "faults: Expected `array`"),
        ("faults: [{fault: kil}]", "faults[0].fault: Invalid value 'kil'"),
        ("faults: [{role: agent}]", "faults[0]: Object missing required field `fault`"),
        ("faults: [{fault: cut}, {fault: kill}]", "faults[1]: Object missing required field `role`"),
        ("faults: [{fault: kill, role: app}]", "faults[0].role: Invalid"),
        ("faults: [{fault: cut, role: agent}]", "faults[0]: Object contains unknown field `role`"),
        ("faults: [{fault: cut, count: 0}]", "faults[0].count: Expected `int` >= 1"),
        ("faults: [{fault: cut, count: 1, at: [3]}]", "faults[0]: give only one of"),
        ("faults: [{fault: cut, seconds: [3, 1]}]", "faults[0]: of the two `seconds`"),
        ("faults: [{fault: cut, seconds: [1, 2, 3]}]", "faults[0].seconds: "),
        ("faults: [{fault: cut, seconds: -1}]", "faults[0].seconds: "),
        ("faults: [{fault: cut, at: [300]}]", "faults[0] is after the run"),
        ("faults: [{fault: loss, chance: 1.5}]", "faults[0].chance: "),
        ("faults: [{fault: loss, chance: 1, begin: 1}]", "faults[0]: give either `share`"),
        ("faults: [{fault: loss, chance: 1, begin: 2, end: 1}]", "faults[0]: `begin` is before `end`"),
        ("faults: [{fault: loss, chance: 1, begin: 2, end: 1000}]", "faults[0] is after the run"),
        ("faults: [{fault: kill, role: verifier, victim: device-1}]", "only verifier-1 to verifier-2"),
        ("faults: [{fault: kill, role: broker, victim: mosquitto}]", "only broker"),
        ("- 1", "Expected `object`"),
        ("[1", "neither YAML nor JSON"),
        ("a: 2026-13-45", "month must be in 1..12"),
        ("a: \x00", "neither YAML nor JSON"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_field(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(BenchError) as caught:
        read_plan(path)
    assert words in str(caught.value)
    assert "bad.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_and_files_that_are_not_there(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(b"devices: \xff\xfe")
    with pytest.raises(BenchError, match="neither YAML nor JSON"):
        read_plan(path)
    for missing in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(BenchError, match="cannot be read"):
            read_plan(missing)


@pytest.mark.parametrize("name", ["default", "failover", "soak"])
def test_shipped_plans_are_found_by_name(name: str) -> None:
    assert find_plan(name).name == f"{name}.yaml"
    assert read_plan(find_plan(name)).faults


@pytest.mark.parametrize("name", ["mine.yaml", "../default", "nothing"])
def test_other_names_are_paths(name: str) -> None:
    assert find_plan(name) == Path(name)
