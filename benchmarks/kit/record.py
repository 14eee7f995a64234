"""What `sled agent --record` wrote: the verdicts on a device's drafts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from benchmarks.kit.error import BenchError

if TYPE_CHECKING:
    from pathlib import Path


class Drafted(msgspec.Struct, frozen=True):
    """One proposal of a recorded draft, as `edge_agent.drafters.drafter.Proposal`.

    A measure that was not a number is None.
    """

    confidence: float | None = None
    entropy: float | None = None
    margin: float | None = None
    source: str = ""
    seconds: float = 0.0


class Recorded(msgspec.Struct, frozen=True):
    """One line of a record: `edge_agent.policy.Outcome`, as far as it is used here."""

    proposals: tuple[Drafted, ...]
    accepted: int


def read_record(path: Path) -> list[Recorded]:
    """Return what a device has recorded.

    Raises:
        BenchError: the file cannot be read, or a line is no such record.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise BenchError(
            f"{path} cannot be read ({error.strerror}): give a file that `sled agent --record` wrote"
        ) from error
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(msgspec.json.decode(line, type=Recorded))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BenchError(
                f"line {number} of {path} is no recorded verdict ({error}): give a file that `sled agent "
                "--record` wrote, and remove a last line that was cut short"
            ) from error
    return records
