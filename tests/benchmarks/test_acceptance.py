"""Acceptance against the drafter's measures: which tokens count, what is written, and a whole run on a tiny target."""

from __future__ import annotations

import csv
import json
import sys
from typing import TYPE_CHECKING

import pytest

from benchmarks.acceptance import judged, main, save, summarise
from benchmarks.kit.error import BenchError
from benchmarks.kit.record import Drafted, Recorded

if TYPE_CHECKING:
    from pathlib import Path


def draft(confidence: float | None, entropy: float = 1.0, source: str = "model") -> Drafted:
    return Drafted(confidence, entropy, 0.5, source)


RECORDS = [
    Recorded((draft(0.9, 0.2), draft(0.8, 0.4), draft(0.3, 2.2), draft(0.1)), accepted=2),
    Recorded((draft(0.95, 0.1, "lookup"), draft(0.7, 1.2)), accepted=2),
    Recorded((), accepted=0),
    Recorded((draft(0.2, 1.8),), accepted=0),
]


def test_tokens_count_up_to_and_including_the_first_rejected_one() -> None:
    assert [[(one.draft.confidence, one.accepted) for one in judged(record)] for record in RECORDS] == [
        [(0.9, True), (0.8, True), (0.3, False)],
        [(0.95, True), (0.7, True)],
        [],
        [(0.2, False)],
    ]


def test_summarise_adds_all_records_up() -> None:
    result = summarise(RECORDS, 5, {"policy": "fixed:4"})
    assert (result.rounds, result.judged, result.accepted, result.acceptance_rate) == (4, 6, 4, 0.6667)
    confidence = result.measures["confidence"]
    assert [(each.count, each.accepted) for each in confidence.bins] == [(0, 0), (2, 0), (0, 0), (1, 1), (3, 3)]
    assert confidence.auc == 1.0
    entropy = result.measures["entropy"]
    assert (entropy.bins[0].low, entropy.bins[-1].high) == (0.0, 2.5)
    assert entropy.auc == 1.0, "the less entropy the surer"
    assert result.measures["margin"].auc == 0.5
    lookup, model = result.sources["lookup"], result.sources["model"]
    assert (lookup.judged, lookup.acceptance_rate, lookup.auc["confidence"]) == (1, 1.0, None)
    assert (model.judged, model.acceptance_rate, model.auc["confidence"]) == (5, 0.6, 1.0)


def test_measure_that_is_no_number_is_left_out_and_said() -> None:
    result = summarise([Recorded((draft(None), draft(0.4)), accepted=1)], 2, {})
    assert result.judged == 2
    assert result.measures["confidence"].unusable == 1
    assert sum(each.count for each in result.measures["confidence"].bins) == 1
    assert sum(each.count for each in result.measures["entropy"].bins) == 2


def test_nothing_judged_is_an_error() -> None:
    with pytest.raises(BenchError, match="no draft token was judged"):
        summarise([Recorded((), accepted=0)], 5, {})


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_what_is_written_holds_every_bin(tmp_path: Path, kind: str) -> None:
    result = summarise(RECORDS, 4, {})
    table, data, picture = save(result, tmp_path, kind)
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    assert {row["measure"] for row in rows} == {"confidence", "entropy", "margin"}
    assert sum(int(row["count"]) for row in rows if row["measure"] == "entropy") == 6
    assert (rows[2]["low"], rows[2]["rate"]) == ("0.5", "1.0")
    assert rows[1]["count"] == "1"
    assert json.loads(data.read_text())["judged"] == 6
    start = picture.read_bytes()[:200]
    assert start.startswith(b"\x89PNG") if kind == "png" else b"<?xml" in start


def test_equal_results_give_equal_pictures_and_none_is_drawn_if_none_is_wanted(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    pictures = []
    for folder in (one, other):
        folder.mkdir()
        pictures.append(save(summarise(RECORDS, 4, {}), folder, "svg")[-1].read_bytes())
    assert pictures[0] == pictures[1]
    assert [path.suffix for path in save(summarise(RECORDS, 4, {}), one, "none")] == [".csv", ".json"]


def test_missing_matplotlib_is_said_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["--target", str(tmp_path / "nothing"), "--out", str(tmp_path / "out")]) == 1
    assert "pip install 'sled-mqtt[bench]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_folder_that_cannot_be_made_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["--plot", "none", "--out", str(tmp_path / "file" / "out")]) == 1
    assert str(tmp_path / "file" / "out") in capsys.readouterr().err


@pytest.mark.timeout(600)
def test_a_run_records_and_can_be_read_again(
    tiny_target: Path, tiny_drafter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "abc abc abc"}\n{"prompt": "1, 2, 3"}\n{"prompt": "zzzz"}\n')
    out = tmp_path / "out"
    arguments = [
        "--prompts", str(prompts), "--target", str(tiny_target), "--drafter", str(tiny_drafter), "--max-tokens", "16",
        "--policy", "fixed:3", "--devices", "2", "--out", str(out), "--json",
    ]  # fmt: skip
    assert main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert 0 < found["accepted"] <= found["judged"]
    assert found["settings"]["policy"] == "fixed:3"
    assert {path.name for path in out.iterdir()} == {
        "acceptance.csv", "acceptance.json", "acceptance.svg", "verdicts-device-1.jsonl", "verdicts-device-2.jsonl",
    }  # fmt: skip
    assert main(arguments) == 1, "records of an earlier run are not added to"
    assert "earlier run" in capsys.readouterr().err
    records = [str(path) for path in sorted(out.glob("verdicts-*.jsonl"))]
    assert main(["--from", *records, "--out", str(tmp_path / "again"), "--plot", "none", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["measures"] == found["measures"]
    assert again["settings"] == {}
