"""Whose turn it is, where several are compared on a machine that is not always equally fast."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")


def rotated(items: Sequence[T], turn: int) -> list[T]:
    """Return the items in the order of a turn (from 0): over as many turns as items, each has had every place."""
    first = turn % len(items)
    return [*items[first:], *items[:first]]
