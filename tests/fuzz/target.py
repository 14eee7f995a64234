"""One reader of what comes from outside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypothesis import strategies as st

    Read = Callable[[bytes], object]


@dataclass(frozen=True)
class Target:
    """One reader.

    Attributes:
        name: for the report.
        read: is given the bytes.
        may: what it may raise; anything else is a crash.
        samples: valid input.
        legal: draws more valid input, if there is a strategy for it.
        weight: how often it is tried, beside the others.
    """

    name: str
    read: Read
    may: tuple[type[Exception], ...]
    samples: tuple[bytes, ...]
    legal: st.SearchStrategy[bytes] | None = None
    weight: int = 4
