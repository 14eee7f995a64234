"""Which work goes into the next step: the continuous policy, without I/O.

Each step takes what is waiting, earliest deadline first, until its token budget is spent. A bundle needs all its
tokens in one step, since its choices are at their end; a long prompt is cut into chunks that fill what is left beside
the bundles. Filling caches ahead of any bundle comes last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Sequence


class Candidate(Struct, frozen=True):
    """Work that could be in the next step.

    Attributes:
        missing: tokens the engine has to be fed for it.
        choose: positions at its end whose token is wanted; 0 for cache filling.
        deadline: in seconds; earlier goes first.
        length: tokens of KV memory its session takes when it is done, in whole blocks.
    """

    missing: int
    choose: int
    deadline: float
    length: int = 0


class Share(Struct, frozen=True):
    """What a step does of one candidate.

    Attributes:
        index: of the candidate in the list given.
        feed: how many of its missing tokens; all of them, or a chunk that leaves its last `choose` for later.
    """

    index: int
    feed: int


def plan(candidates: Sequence[Candidate], budget: int, room: int | None = None) -> list[Share]:
    """Return the shares of the next step; empty only if there are no candidates.

    A candidate whose session would not fit beside those before it waits: were it begun, its cache and theirs would
    evict each other step by step, and none would ever be whole.

    Args:
        candidates: what waits.
        budget: tokens fed per step, at least 1. The first share may exceed it, as far as its last positions demand.
        room: tokens of KV memory; None if it is no limit. The first share may exceed it: the engine then says so.
    """
    shares: list[Share] = []
    left = budget
    order = sorted(range(len(candidates)), key=lambda i: (candidates[i].choose == 0, candidates[i].deadline))
    for index in order:
        candidate = candidates[index]
        if room is not None and shares and candidate.length > room:
            continue
        if candidate.missing <= left or (not shares and candidate.missing <= candidate.choose):
            feed = candidate.missing
        else:
            feed = min(left, candidate.missing - max(1, candidate.choose))
            if feed <= 0:
                continue
        shares.append(Share(index, feed))
        left -= feed
        room = None if room is None else room - candidate.length
        if left <= 0:
            break
    return shares
