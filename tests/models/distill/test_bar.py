"""What a person waiting for hours sees."""

from __future__ import annotations

import io

from rich.console import Console

from models.distill.bar import LongProgress


def test_a_new_remark_goes_on_with_the_same_bar() -> None:
    shown = io.StringIO()
    with LongProgress(Console(file=shown, width=120, force_terminal=True)) as progress:
        progress("Loading", 0, None)
        progress("Training", 10, 1000)
        progress("Training: 1.50 held-out tokens a round", 500, 1000)
        progress("Export", 1, 2)
    last = shown.getvalue().rsplit("Loading", 1)[1]
    assert "Training: 1.50 held-out tokens a round" in last
    assert last.count("Training") == 1
    assert last.count("100%") == 3
