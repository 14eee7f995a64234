"""`scripts/fuzz [--inputs N] [--seconds S] [--seed N] [--target NAME] [--json]`."""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from pathlib import Path

import msgspec

from tests.fuzz.campaign import Campaign
from tests.fuzz.targets import targets


def main() -> int:
    """Run a campaign; returns 1 if it found something."""
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description="Try every reader of what comes from outside.")
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=480.0, help="end after so long in any case")
    parser.add_argument("--seed", type=int, default=0, help="the same number tries the same input")
    parser.add_argument("--target", action="append", default=[], help="only readers whose name has this in it")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        known = targets(Path(folder))
        some = [one for one in known if not chosen.target or any(part in one.name for part in chosen.target)]
        result = Campaign(some, chosen.seed).run(chosen.inputs, chosen.seconds)
    out = sys.stdout.write
    if chosen.json:
        out(msgspec.json.encode(result).decode() + "\n")
    else:
        for name, count in result.per_target.items():
            out(f"{count:8}  {name}\n")
        for fault in result.faults:
            out(f"{fault.kind}: {fault.target}: {fault.what}\n    {fault.payload[:400]}\n")
        out(
            f"{result.inputs} inputs in {result.seconds:.0f} s, {result.refused} refused; "
            f"slowest {result.slowest:.3f} s; grew by {result.growth / 2**20:.0f} MiB; {len(result.faults)} faults\n"
        )
    return 0 if result.is_well else 1


if __name__ == "__main__":
    sys.exit(main())
