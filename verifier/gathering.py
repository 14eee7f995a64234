"""Batching policies that wait for a batch: the paper's, and the usual one of model servers.

Both feed prompts whole, as such servers do. Caches are filled ahead of any bundle only while no bundle waits, one
session per step: a bundle that comes meanwhile then waits for one prompt at most.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct

from verifier.scheduler import Plan, Share

if TYPE_CHECKING:
    from collections.abc import Sequence

    from verifier.scheduler import Candidate, Moment

STATIC_WAIT: Final = 0.5
"""Seconds that a static batch waits for its last bundle, unless told otherwise: a slow device's draft."""
DYNAMIC_WAIT: Final = 0.05
"""Seconds that a dynamic batch waits, unless told otherwise: about what a small step takes."""


class Static(Struct, frozen=True):
    """The SLED paper's server: wait for a fixed number of bundles, pad all drafts to the longest, verify them together.

    No batch waits for more sessions than are live, or for longer than `max_wait`.

    Attributes:
        batch: bundles per step, at least 1.
        max_wait: seconds that the first bundle waits for the others at most.

    Raises:
        ValueError: a value is out of its range.
    """

    batch: int
    max_wait: float = STATIC_WAIT

    def __post_init__(self) -> None:
        _check("A static batch", self.batch, self.max_wait)

    def plan(self, candidates: Sequence[Candidate], moment: Moment) -> Plan:
        """Return a whole batch, or what there is of it when the first bundle has waited long enough."""
        most = max(moment.live, sum(candidate.choose > 0 for candidate in candidates))
        plan = _gather(candidates, moment, min(self.batch, most), self.max_wait)
        longest = max((candidates[share.index].choose for share in plan.shares), default=0)
        return Plan(tuple(_padded(share, candidates[share.index], longest) for share in plan.shares), plan.wake_at)


def _padded(share: Share, candidate: Candidate, longest: int) -> Share:
    return Share(share.index, share.feed, min(longest - candidate.choose, candidate.spare))


class Dynamic(Struct, frozen=True):
    """Size or time: start when `size` bundles wait, or when the first has waited for `max_wait`; nothing is padded.

    Attributes:
        size: bundles per step at most, at least 1.
        max_wait: seconds.

    Raises:
        ValueError: a value is out of its range.
    """

    size: int
    max_wait: float = DYNAMIC_WAIT

    def __post_init__(self) -> None:
        _check("A dynamic batch", self.size, self.max_wait)

    def plan(self, candidates: Sequence[Candidate], moment: Moment) -> Plan:
        """Return the oldest bundles, if there are enough of them or one has waited long enough."""
        return _gather(candidates, moment, self.size, self.max_wait)


def _gather(candidates: Sequence[Candidate], moment: Moment, size: int, max_wait: float) -> Plan:
    """Return a step of the oldest bundles, `size` of them or as many as the memory holds, or when to ask again."""
    waiting = sorted((i for i in range(len(candidates)) if candidates[i].choose), key=lambda i: candidates[i].since)
    if not waiting:
        return Plan(tuple(Share(index, one.missing) for index, one in enumerate(candidates[:1])))
    wake_at = candidates[waiting[0]].since + max_wait
    if len(waiting) < size and moment.now < wake_at:
        return Plan(wake_at=wake_at)
    room = moment.room
    shares: list[Share] = []
    for index in waiting[:size]:
        one = candidates[index]
        if room is not None and shares and one.length > room:
            continue
        shares.append(Share(index, one.missing))
        room = None if room is None else room - one.length
    return Plan(tuple(shares))


def _check(what: str, size: int, max_wait: float) -> None:
    if size < 1:
        raise ValueError(f"{what} has at least 1 bundle, but {size} were given.")
    if not 0 <= max_wait < float("inf"):  # also refuses NaN
        raise ValueError(f"{what} waits for 0 seconds or more, and not for ever, but {max_wait} were given.")
