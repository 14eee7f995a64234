"""What a session wants done. A shell carries the effects out in order, each before the next."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from schemas.messages import GREEDY, DraftBundle, FinishReason, Sampling, SessionContext


class Persist(Struct, frozen=True):
    """Make durable before anything that follows: a crash may come right after.

    Attributes:
        epoch: counter of the newest epoch.
        start: output position of the first of `tokens`.
        tokens: newly committed output tokens.
        finish: why the text has ended, if it has.
        released: whether `tokens` are drafts that the target has not confirmed, and never will.
    """

    epoch: int
    start: int
    tokens: tuple[int, ...] = ()
    finish: Literal["stop", "length", "cancelled", "failed"] | None = None
    released: bool = False


class PublishContext(Struct, frozen=True):
    """Publish the retained context."""

    context: SessionContext


class ClearContext(Struct, frozen=True):
    """Clear the retained context; for verifiers this is the sign that the session has ended."""


class PublishDraft(Struct, frozen=True):
    """Send a bundle to a verifier."""

    verifier: str
    bundle: DraftBundle


class Draft(Struct, frozen=True):
    """Draft one token after `sequence` and say `Drafted` with the same branch. Replaces an earlier unanswered Draft.

    Attributes:
        branch: names the line of drafting.
        sequence: prompt, log and what is drafted so far.
        sampling: how the target will choose, so that the drafter may guess with the same noise.
        position: output position of the token to draft.
    """

    branch: int
    sequence: tuple[int, ...]
    sampling: Sampling = GREEDY
    position: int = 0


class StartTimer(Struct, frozen=True):
    """Say `TimerFired` after `delay` seconds. Replaces the running timer."""

    delay: float


class StopTimer(Struct, frozen=True):
    """Forget the running timer."""


class Doubt(Struct, frozen=True):
    """Turn to another verifier, if there is one.

    Attributes:
        verifier: that does not answer, or asks to be left alone.
        seconds: for so long; None leaves it to whoever remembers how often this has happened.
    """

    verifier: str
    seconds: float | None = None


class Emit(Struct, frozen=True):
    """Show newly committed tokens to the app; `index` is the output position of the first."""

    index: int
    tokens: tuple[int, ...]


class Preview(Struct, frozen=True):
    """Show drafted tokens to an app that can take them back; `index` is the output position of the first.

    They stay a draft. `Emit` says later what stands in their place, the same tokens or others.
    """

    index: int
    tokens: tuple[int, ...]


class Finished(Struct, frozen=True):
    """The answer is complete."""

    reason: FinishReason | Literal["cancelled"]


class Failed(Struct, frozen=True):
    """The request has ended without a complete answer; `sentence` says what was wrong and what to do."""

    code: str
    sentence: str


Effect = (
    Persist
    | PublishContext
    | ClearContext
    | PublishDraft
    | Draft
    | StartTimer
    | StopTimer
    | Doubt
    | Emit
    | Preview
    | Finished
    | Failed
)
