"""When a verifier is too far behind to take more on, and in what words it says so. Pure.

What waits is bounded already: a session has at most one bundle waiting, and there are only so many sessions. This rule
keeps the wait itself bounded: work that would come too late is refused at once, with a reason and a time to come back,
instead of timing out silently at the device.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Final

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Iterable

    from verifier.scheduler import Candidate
    from verifier.speed import Speed

LEAST_PATIENCE: Final = 2.0
"""Seconds of patience that every device is taken to have."""
LATE: Final = 3.0
"""A bundle is refused if it would be answered after so many times its device's patience. By then the device has sent it
again twice, with doubled patience each, and will soon take the silence for an outage. Before, it keeps its place."""
SESSION_PATIENCE: Final = 5.0
"""Seconds that a new session may be behind; those that are served already have their bundles to think of."""
RETRY_LEAST: Final = 0.25
RETRY_MOST: Final = 30.0
"""Seconds within which a refused device comes back."""


class Backlog(Struct, frozen=True):
    """Work that is to be done first.

    Attributes:
        bundles: how many.
        fed: tokens that have to be fed for them.
        context: tokens of their sequences, together.
        running: seconds until the step under way is expected to end; 0 if the engine is free.
    """

    bundles: int = 0
    fed: int = 0
    context: int = 0
    running: float = 0.0


class Busy(Struct, frozen=True):
    """Why work is refused for now.

    Attributes:
        sentence: for people.
        retry_after: in microseconds. The same for all who are refused now, so each device must spread it by chance.
    """

    sentence: str
    retry_after: int


def backlog(candidates: Iterable[Candidate], *, before: float = float("inf"), running: float = 0.0) -> Backlog:
    """Return the bundles that are due no later than `before`, in seconds; cache filling waits for all and is none."""
    ahead = [candidate for candidate in candidates if candidate.choose and candidate.due <= before]
    return Backlog(len(ahead), sum(one.missing for one in ahead), sum(one.context for one in ahead), max(0.0, running))


def predicted_wait(ahead: Backlog, speed: Speed, step_tokens: int) -> float:
    """Return the seconds until work that comes after `ahead` could begin, in steps of at most `step_tokens`."""
    if not ahead.fed:
        return ahead.running
    steps = ceil(ahead.fed / step_tokens)
    return ahead.running + steps * speed.base + speed.fed * ahead.fed + speed.context * ahead.context


def late_bundle(name: str, ahead: Backlog, own: Candidate, speed: Speed, step_tokens: int, now: float) -> Busy | None:
    """Return why a bundle is refused, or None if it can be served in time.

    In time means within `LATE` times its device's patience. Nobody is refused on a guess of the speed, nor while
    nothing is ahead: waiting would not help.

    Args:
        name: of the verifier.
        ahead: what is to be done before it.
        own: the bundle.
        speed: of the engine.
        step_tokens: tokens fed per step at most.
        now: in seconds.
    """
    wait = predicted_wait(ahead, speed, step_tokens)
    done = now + wait + speed.seconds(own.missing, own.context)
    latest = own.since + LATE * max(own.deadline - own.since, LEAST_PATIENCE)
    if not speed.sure or wait <= 0 or done <= latest:
        return None
    left = max(0.0, latest - now)
    return Busy(
        f"verifier {name!r} is {wait:.1f} s behind and would answer in {done - now:.1f} s, but this bundle can wait "
        f"for {left:.1f} s: try again later, or use another verifier",
        _retry_after(done - latest),
    )


def late_session(name: str, ahead: Backlog, speed: Speed, step_tokens: int) -> Busy | None:
    """Return why a new session is refused, or None if the verifier is not too far behind (see `SESSION_PATIENCE`).

    Args:
        name: of the verifier.
        ahead: all that waits.
        speed: of the engine.
        step_tokens: tokens fed per step at most.
    """
    wait = predicted_wait(ahead, speed, step_tokens)
    if not speed.sure or wait <= SESSION_PATIENCE:
        return None
    return Busy(
        f"verifier {name!r} is {wait:.1f} s behind with the sessions it serves and takes no new ones: try again later, "
        "or use another verifier",
        _retry_after(wait - SESSION_PATIENCE),
    )


def draining(name: str) -> Busy:
    """Return why a verifier that is about to stop takes no new session."""
    return Busy(
        f"verifier {name!r} is about to stop and takes no new sessions: use another one", _retry_after(RETRY_MOST)
    )


def _retry_after(seconds: float) -> int:
    """Return microseconds, within bounds: the backlog may be gone sooner, and must not keep anybody away for long."""
    return round(1e6 * min(max(seconds, RETRY_LEAST), RETRY_MOST))
