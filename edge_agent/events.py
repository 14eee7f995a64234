"""What can happen to a session. Verdicts, Resyncs and Refusals are events as they come off the wire."""

from __future__ import annotations

from msgspec import Struct

from edge_agent.drafters.drafter import Proposal
from schemas.messages import Refusal, Resync, Verdict


class Terms(Struct, frozen=True):
    """What a verifier announced that matters to a session.

    Attributes:
        verifier: its id.
        boot: id of its run; another boot has forgotten everything.
        vocab_size: token ids are below it.
        context_length: prompt and output tokens together.
        end_tokens: ids with which its target ends a text.
        round_time: seconds from a bundle's receipt to its verdict, as announced.
        target: name of its target; one text is one target's.
        numerics: fingerprint of how it computes; between equal ones texts are equal to the last near-tie.
    """

    verifier: str
    boot: str
    vocab_size: int
    context_length: int
    end_tokens: frozenset[int]
    round_time: float = 0.0
    target: str = ""
    numerics: str = ""


class Placed(Struct, frozen=True):
    """The agent has picked a verifier, or the picked one is back or has announced new terms.

    Attributes:
        terms: what it announced.
        at_leisure: whether the verifier in use so far still answers (it drains), so that the next one can read the log
            before the session turns to it.
    """

    terms: Terms
    at_leisure: bool = False


class Unplaced(Struct, frozen=True):
    """The verifier is gone (last will, frozen heartbeat, drained) and no other is known yet."""


class Drafted(Struct, frozen=True):
    """The drafter answers a `Draft` effect.

    Attributes:
        branch: of that effect; drafts of a branch that was given up are dropped.
        proposal: the drafted token and how sure the drafter was of it; None if it has nothing to propose there.
    """

    branch: int
    proposal: Proposal | None


class DrafterLost(Struct, frozen=True):
    """The drafter cannot go on; the session does, with empty drafts."""


class TimerFired(Struct, frozen=True):
    """The round's timer ran out; a later `StartTimer` or `StopTimer` would have made it void."""


class LinkUp(Struct, frozen=True):
    """The broker is reachable (again)."""


class LinkDown(Struct, frozen=True):
    """The broker cannot be reached."""


class StopFound(Struct, frozen=True):
    """A stop string of the request appeared in the text."""


class ContextLost(Struct, frozen=True):
    """Somebody else cleared the retained context (a sweeper, a clone): verifiers hold the session for ended."""


class Cancelled(Struct, frozen=True):
    """The app no longer wants the answer."""


Event = (
    Placed
    | Unplaced
    | Drafted
    | DrafterLost
    | Verdict
    | Resync
    | Refusal
    | TimerFired
    | LinkUp
    | LinkDown
    | StopFound
    | Cancelled
    | ContextLost
)
