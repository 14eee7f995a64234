"""`sled draft distill` as a person meets it: from a target alone to a measured drafter, kills and all."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import msgspec
import pytest
import torch
from typer.testing import CliRunner

from edge_agent.drafters.onnx import OnnxDrafter
from models.distill.report import Point, Report
from models.error import ModelError
from models.seal import sha256_of
from sled.cli import app
from tests.models.distill.targets import write_prompts

if TYPE_CHECKING:
    from pathlib import Path

    from typer.testing import Result


def distill(*arguments: object) -> Result:
    """Run the command in this process, to its end."""
    result = CliRunner().invoke(app, ["draft", "distill", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def known_to_be_exportable(work: Path) -> None:
    """Spare the seconds of trying it, as a second run is spared them."""
    work.mkdir()
    (work / "exportable").touch()


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    give_up = time.monotonic() + 240
    while not path.is_file():
        assert process.poll() is None
        assert time.monotonic() < give_up
        time.sleep(0.05)


def trained(work: Path) -> int:
    """Answer tokens seen at the last checkpoint."""
    return int(torch.load(work / "checkpoint.pt", weights_only=True)["state"]["tokens"])


def test_a_target_alone_becomes_a_drafter_even_if_the_run_is_killed(llama: Path, tmp_path: Path) -> None:
    out, work = tmp_path / "drafter", tmp_path / "drafter.training"
    known_to_be_exportable(work)
    options = ["--target", llama, "--out", out, "--minutes", "5", "--texts", "6", "--vocabulary", "200"]
    command = [sys.executable, "-m", "sled", "draft", "distill", *map(str, options), "--threads", "1"]
    with subprocess.Popen([*command, "--tokens", "1000000000"]) as process:
        wait_for(work / "checkpoint.pt", process)
        process.send_signal(signal.SIGKILL)
    assert not out.exists()
    texts, seen = (work / "texts.jsonl").read_bytes(), trained(work)
    assert seen > 0

    result = distill(*options, "--tokens", str(seen + 3000), "--json")
    report = msgspec.json.decode(result.stdout.splitlines()[-1], type=Report)
    begun = next(line for line in result.stderr.splitlines() if line.startswith("Training"))
    assert int(begun.rpartition(", ")[2].removesuffix(" %")) == round(100 * seen / (seen + 3000))
    assert (work / "texts.jsonl").read_bytes() == texts
    assert trained(work) == report.tokens >= seen + 3000
    assert report.curve[-1].tokens == report.tokens
    assert (report.layers, len(report.curve)) == ((0,), len({point.tokens for point in report.curve}))
    kept = [msgspec.json.decode(line, type=Point) for line in (work / "curve.jsonl").read_bytes().splitlines()]
    assert kept == report.curve
    best = report.drafters[0]
    assert best.folder == "drafter"
    assert OnnxDrafter(out).propose([1, 2, 3]) is not None
    assert best.acceptance.tokens > 0
    assert [speed.round_trip_ms for speed in best.speeds] == [5, 20, 50, 100]
    assert msgspec.json.decode((out / "report.json").read_bytes(), type=Report) == report
    assert "| Seed | 0 |" in (out / "README.md").read_text()
    assert not (work / "graph").exists()

    with pytest.raises(ModelError, match="was begun with tokens 200, not 100"):
        distill(*options, "--vocabulary", "100")


def test_minutes_prompts_and_evaluation(qwen2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = write_prompts(tmp_path / "training.jsonl", ["apple", "pear", "plum", "fig"])
    evaluation = write_prompts(tmp_path / "evaluation.jsonl", ["Plum ", "cherry"])
    out = tmp_path / "drafter"
    monkeypatch.chdir(tmp_path)
    result = distill(
        "--target", qwen2, "--out", "drafter", "--minutes", "0.1", "--layers", "0,2", "--prompts", prompts,
        "--evaluation", evaluation, "--round-trip", "7",
    )  # fmt: skip
    assert OnnxDrafter(out).propose([1, 2, 3]) is not None
    report = msgspec.json.decode((out / "report.json").read_bytes(), type=Report)
    card = (out / "README.md").read_text()
    assert report.layers == (0, 2)
    assert report.texts == 2  # and one held out
    assert set(report.drafters[0].by_source) == {"s0", "s1"}
    assert f"prompts training.jsonl (sha256 {sha256_of(prompts)[:16]}), answers written by" in card
    assert str(tmp_path) not in card
    assert "Warning: 1 of the 4 training prompts are among the 2 evaluation prompts" in result.stdout
    assert re.search(r"round trip 7 ms: (drafts of \d+|no draft pays), ", result.stdout)
    assert re.search(r"^Training: \d\.\d\d held-out tokens a round, 100 %$", result.stderr, re.MULTILINE)


def test_frontier_makes_students_of_several_sizes_of_the_same_texts(llama: Path, tmp_path: Path) -> None:
    out = tmp_path / "sizes"
    known_to_be_exportable(tmp_path / "sizes.training")
    options = ["--target", llama, "--out", out, "--texts", "6", "--tokens", "400"]
    result = distill(*options, "--frontier", "2,1")
    one, two = (
        msgspec.json.decode((out / f"{count}-layers" / "report.json").read_bytes(), type=Report) for count in (1, 2)
    )
    assert (one.layers, two.layers) == ((0,), (0, 1))
    assert one.tokens == two.tokens
    assert two.weights > one.weights
    assert two.drafters[0].size > one.drafters[0].size
    assert OnnxDrafter(out / "2-layers").propose([1]) is not None
    rows = [line for line in result.stdout.splitlines() if line.startswith("|")]
    assert [row.split("|")[1].strip() for row in rows] == ["layers", "---", "1 (0)", "2 (0, 1)"]


def test_layers_and_frontier_exclude_each_other(llama: Path, tmp_path: Path) -> None:
    result = distill("--target", llama, "--out", tmp_path / "out", "--layers", "1", "--frontier", "1,2")
    assert result.exit_code == 2
    assert "give one of them" in result.stderr


def test_a_width_is_taken_for_all_students(llama: Path, tmp_path: Path) -> None:
    for more in (("--layers", "1"), ("--frontier", "1,2")):
        with pytest.raises(ModelError, match="cannot be 100 numbers wide"):
            distill("--target", llama, "--out", tmp_path / "out", "--width", "100", *more)
