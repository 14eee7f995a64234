"""Which draft policies are compared, and at which round-trip times."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.kit import flags

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence


def add_policies_at(parser: argparse.ArgumentParser, policies: Sequence[str], round_trips_ms: Sequence[float]) -> None:
    """Add `--policies` and `--round-trips`, with what is taken where they are not given."""
    parser.add_argument(
        "--policies",
        nargs="+",
        type=flags.policy,
        default=list(policies),
        metavar="POLICY",
        help=f"as for `sled agent --policy` (default: {' '.join(policies)})",
    )
    parser.add_argument(
        "--round-trips",
        nargs="+",
        type=_milliseconds,
        default=list(round_trips_ms),
        metavar="MS",
        help="round-trip times between device and server that are added, in ms (default: "
        f"{' '.join(f'{each:g}' for each in round_trips_ms)})",
    )


def _milliseconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 60_000:
        raise ValueError(text)
    return value
