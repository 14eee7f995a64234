"""What a person waiting for minutes or hours sees."""

from __future__ import annotations

import io

from rich.console import Console

from models.progress import RichProgress


def test_each_step_is_a_bar_to_its_end() -> None:
    shown = io.StringIO()
    with RichProgress(Console(file=shown, width=120, force_terminal=True)) as progress:
        progress("Loading", 0, None)
        progress("Training", 10, 1000)
        progress("Training: 1.50 held-out tokens a round", 500, 1000)
        progress("Export", 1, 2)
    last = shown.getvalue().rsplit("Loading", 1)[1]
    assert "Training: 1.50 held-out tokens a round" in last
    assert last.count("Training") == 1  # a new remark goes on with the same bar
    assert last.count("100%") == 3


def test_a_log_file_gets_lines_once_a_minute_and_as_steps_begin_and_end() -> None:
    shown, times = io.StringIO(), iter([0.0, 0.0, 30.0, 90.0, 100.0, 160.0, 165.0, 166.0])
    with RichProgress(Console(file=shown, width=20), clock=lambda: next(times)) as progress:
        progress("Loading", 0, None)
        progress("Training", 100, 1000)  # an earlier run got as far
        for done in (150, 250, 260, 300, 1000):
            progress("Training: 1.50 held-out tokens a round", done, 1000)
        progress("Export", 1, 2)
    assert shown.getvalue().splitlines() == [
        "Loading",
        "Training, 10 %",
        "Training: 1.50 held-out tokens a round, 25 %, about 8 min left",
        "Training: 1.50 held-out tokens a round, 30 %, about 9 min left",
        "Training: 1.50 held-out tokens a round, 100 %",
        "Export, 50 %",
    ]


def test_a_warning_is_a_line_of_its_own_within_a_step() -> None:
    shown = io.StringIO()
    with RichProgress(Console(file=shown, width=20)) as progress:
        progress("Writing", 0, None)
        progress("Warning: 1 of the 4 prompts are [left] out.", 0, None)
        progress("Writing", 2, 2)
    assert shown.getvalue().splitlines() == [
        "Writing",
        "Warning: 1 of the 4 prompts are [left] out.",
        "Writing, 100 %",
    ]
    with RichProgress(Console(file=shown, width=20, force_terminal=True)) as progress:
        progress("Training", 1, 2)
        progress("Warning: the whole sentence is shown, whatever the width.", 0, None)
        progress("Training", 2, 2)
    assert "Warning: the whole sentence is shown, whatever the width.\n" in shown.getvalue()
    assert shown.getvalue().rsplit("Warning", 1)[1].count("100%") >= 1
