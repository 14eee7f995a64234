"""The plot of acceptance against the drafter's measures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import matplotlib as mpl
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.acceptance import Measure, Result

_AXES: Final = {
    "confidence": "confidence (probability of the token)",
    "entropy": "entropy (nats)",
    "margin": "margin (best less second probability)",
}
_BLUE, _GREY = "#2a6099", "#b8bec6"


def draw(result: Result, path: Path) -> None:
    """Draw one panel for each measure: acceptance per bin with its 95 % interval, and below it how many tokens.

    Args:
        result: what was measured.
        path: the picture; its suffix says of what kind. Equal results give equal SVG files.
    """
    with mpl.rc_context({"svg.hashsalt": "sled", "font.size": 9}):
        figure = Figure(figsize=(11, 4.2), layout="constrained")
        panels = figure.subplots(2, len(result.measures), sharex="col", sharey="row", height_ratios=(3, 1))
        for column, (name, measure) in enumerate(result.measures.items()):
            _draw_rates(panels[0][column], measure)
            _draw_counts(panels[1][column], measure)
            panels[1][column].set_xlabel(_AXES[name])
        panels[0][0].set_ylabel("acceptance rate")
        panels[1][0].set_ylabel("draft tokens")
        figure.suptitle(_title(result))
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)


def _draw_rates(axes: mpl.axes.Axes, measure: Measure) -> None:
    """Draw a point with its interval in the middle of each bin that is not empty."""
    filled = [each for each in measure.bins if each.rate is not None]
    rates = [each.rate or 0.0 for each in filled]
    below = [max(0.0, rate - each.least) for rate, each in zip(rates, filled, strict=True)]
    above = [max(0.0, each.most - rate) for rate, each in zip(rates, filled, strict=True)]
    middles = [(each.low + each.high) / 2 for each in filled]
    axes.errorbar(
        middles, rates, yerr=[below, above], fmt="o-", color=_BLUE, markersize=3.5, linewidth=1, elinewidth=0.8
    )
    axes.set_ylim(-0.03, 1.03)  # room for points at the ends
    axes.set_xlim(measure.bins[0].low, measure.bins[-1].high)
    axes.grid(alpha=0.3)
    axes.set_title("AUC -" if measure.auc is None else f"AUC {measure.auc:.3f}")


def _draw_counts(axes: mpl.axes.Axes, measure: Measure) -> None:
    lows = [each.low for each in measure.bins]
    axes.bar(lows, [each.count for each in measure.bins], measure.bins[0].high, align="edge", color=_GREY)
    axes.set_yscale("symlog", linthresh=10)
    axes.grid(alpha=0.3, axis="y")


def _title(result: Result) -> str:
    said = f"{result.judged:,} judged draft tokens of {result.rounds:,} rounds, {result.acceptance_rate:.1%} accepted"
    names = [name for name in result.sources if name]
    return f"{said} ({', '.join(names)})" if names else said
