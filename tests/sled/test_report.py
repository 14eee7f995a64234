"""Sums over several devices."""

from __future__ import annotations

import json

import pytest
from rich.console import Console

from schemas.messages import Statistics
from sled.report import Answered, Report, all_identical, device_table, summarise, system_table


def answered(
    device: str, *, tokens: int = 10, rounds: int = 4, generated: int = 0, identical: bool | None = None
) -> Answered:
    statistics = Statistics(5, tokens, rounds, 8, 6, 0, 500_000, 1_400_000, 100, 50, generated)
    return Answered(device, "Why?", "Because.", "stop", tuple(range(tokens)), statistics, identical)


def test_summary_of_some_answers() -> None:
    summary = summarise([answered("a"), answered("a", tokens=14, generated=4)], "drafter")
    assert (summary.answers, summary.tokens, summary.rounds) == (2, 24, 8)
    assert summary.mean_accepted_length == 2.5, "tokens of runs were not accepted"
    assert summary.mean_draft_length == 2.0
    assert summary.acceptance_rate == 0.75
    assert summary.ttft_seconds == 0.5
    assert summary.tpot_seconds == pytest.approx(1.8 / 22, abs=1e-4)


def test_summary_of_nothing_is_zeros() -> None:
    assert summarise([], "drafter").mean_accepted_length == 0


@pytest.mark.parametrize(
    ("each", "whole"), [([True, True], True), ([True, False], False), ([True, None], None), ([], None)]
)
def test_all_identical_only_if_all_were_checked(each: list[bool | None], whole: bool | None) -> None:
    assert all_identical([answered("a", identical=one) for one in each]) is whole


def test_tables_show_each_device_and_the_whole() -> None:
    answers = [answered("pi"), answered("jetson")]
    devices = {
        name: summarise([a for a in answers if a.device == name], f"{name}'s drafter") for name in ("pi", "jetson")
    }
    report = Report(
        None, summarise(answers, ""), devices, 2.0, 10.0, 1.75, "mosquitto", "tiny", "float32", tuple(answers)
    )
    console = Console(width=140, record=True, file=None, quiet=True)
    with console.capture() as capture:
        console.quiet = False
        console.print(device_table(report))
        console.print(system_table(report))
    text = capture.get()
    for words in ("pi's drafter", "jetson's drafter", "all", "10.0 tokens per second", "1.75 sessions per step"):
        assert words in text
    assert json.loads(report.to_json())["devices"]["pi"]["rounds"] == 4
