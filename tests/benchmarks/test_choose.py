"""The measurement of choosing runs and says what it measured."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from benchmarks.choose import main

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_measures_the_step_and_every_sampling(
    dtype: str, tiny_target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a tiny target; the shares are those of the step."""
    arguments = ["--target", str(tiny_target), "--dtype", dtype, "--sessions", "3", "--tokens", "2"]
    assert main([*arguments, "--repetitions", "2", "--kv-budget-mib", "64", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert (results["dtype"], results["sessions"], results["tokens"]) == (dtype, 3, 2)
    assert results["choose_ms"].keys() == results["share"].keys() >= {"greedy", "T 1.0", "top-p 0.95, T 0.8"}
    for name, share in results["share"].items():
        assert share == pytest.approx(results["choose_ms"][name] / results["step_ms"])


def test_it_prints_a_table(tiny_target: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line for the step and one for each sampling."""
    options = ["--target", str(tiny_target), "--dtype", "float32", "--sessions", "2", "--repetitions", "1"]
    assert main([*options, "--kv-budget-mib", "64"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("float32 on cpu")
    assert lines[1].startswith("packed verify step")
    assert len(lines) == 11
    assert all(line.endswith("%") for line in lines[2:])
