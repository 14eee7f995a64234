"""An answer and how long it took."""

from __future__ import annotations

import msgspec

from benchmarks.kit.timing import Timing


class Answer(msgspec.Struct, frozen=True):
    """What somebody wrote for one prompt."""

    tokens: tuple[int, ...]
    text: str
    timing: Timing
