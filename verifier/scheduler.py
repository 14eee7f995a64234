"""Which work goes into the next step, without I/O: what every batching policy is told and answers, and the default.

A bundle needs all its tokens in one step, since its choices are at their end. `Continuous` starts a step whenever
anything waits; `verifier.gathering` has the policies that wait for a batch first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from msgspec import Struct

from verifier.speed import Speed

if TYPE_CHECKING:
    from collections.abc import Sequence

STEP_TOKENS: Final = 512
"""Tokens fed per step at most, unless told otherwise."""
STEP_GOAL: Final = 0.25
"""Seconds that a step should take at most, for the sake of those who wait for its end."""
LEAST_PREFILL: Final = 32
"""Tokens of prefill that a step takes even if it then lasts longer than it should: prompts must come forward."""
LONGEST_PATIENCE: Final = 5.0
"""Seconds after which a bundle is due, whatever its agent said: none may be overtaken for ever."""


class Candidate(Struct, frozen=True):
    """Work that could be in the next step.

    Attributes:
        missing: tokens the engine has to be fed for it.
        choose: positions at its end whose token is wanted; 0 for cache filling.
        deadline: in seconds; earlier goes first.
        length: tokens of KV memory its session takes when it is done, in whole blocks.
        since: when it began to wait, in seconds.
        context: tokens of its whole sequence, which the new ones attend to.
        spare: tokens that could follow its sequence within the memory it takes and the target's context.
    """

    missing: int
    choose: int
    deadline: float
    length: int = 0
    since: float = 0.0
    context: int = 0
    spare: int = 0

    @property
    def prefill(self) -> int:
        """How many of its missing tokens can be fed in earlier steps."""
        return self.missing - self.choose

    @property
    def due(self) -> float:
        """When it should be done, in seconds: at its deadline, or earlier if that is very far."""
        return min(self.deadline, self.since + LONGEST_PATIENCE)


class Share(Struct, frozen=True):
    """What a step does of one candidate.

    Attributes:
        index: of the candidate in the list given.
        feed: how many of its missing tokens; all of them, or a chunk that leaves its last `choose` for later.
        pad: tokens to add after its sequence, and to choose at, for nothing but an even length.
    """

    index: int
    feed: int
    pad: int = 0


class Plan(Struct, frozen=True):
    """What to do now.

    Attributes:
        shares: the next step; empty to start none.
        wake_at: when to ask again though nothing new has come, in seconds; None if only new work can change the answer.
    """

    shares: tuple[Share, ...] = ()
    wake_at: float | None = None


class Moment(Struct, frozen=True):
    """What a policy must know besides the candidates.

    Attributes:
        now: in seconds.
        live: sessions that are served and have not ended; each may have a bundle soon.
        room: tokens of KV memory; None if it is no limit. The first share may exceed it: the engine then says so.
        speed: what a step costs, as far as it is known.
    """

    now: float
    live: int
    room: int | None = None
    speed: Speed | None = None


class Batching(Protocol):
    """Says which work goes into the next step. Asked whenever the engine is free and something may have changed."""

    def plan(self, candidates: Sequence[Candidate], moment: Moment) -> Plan:
        """Return the next step, or when to ask again.

        Args:
            candidates: what waits, at most one per session; work whose chunks were begun is among them.
            moment: when and where.
        """
        ...


class Continuous(Struct, frozen=True):
    """Start at once with what waits, earliest deadline first, within a budget of tokens.

    A long prompt is cut into chunks beside the bundles. Chunks, but never the bundles' own tokens, are kept so small
    that the step reaches its goal: a step reads the weights once, so a batch that is split costs more than one that
    lasts long, while a chunk only takes time from the others. Filling caches ahead of any bundle comes last.
    (Iteration-level scheduling is Orca's, Yu et al., OSDI 2022; chunks beside decoding are Sarathi-Serve's, Agrawal et
    al., OSDI 2024.)

    Attributes:
        step_tokens: fed per step, at least 1. The first share may exceed it, as far as its last positions demand.
        goal: seconds that a step with chunks should take at most.

    Raises:
        ValueError: `step_tokens` is below 1.
    """

    step_tokens: int = STEP_TOKENS
    goal: float = STEP_GOAL

    def __post_init__(self) -> None:
        if self.step_tokens < 1:
            raise ValueError(f"A step feeds at least 1 token, but {self.step_tokens} were given.")

    def plan(self, candidates: Sequence[Candidate], moment: Moment) -> Plan:
        """Return the next step; it is empty only if nothing waits.

        A candidate whose session would not fit into the memory beside those before it waits: were it begun, its cache
        and theirs would evict each other step by step, and none would ever be whole.
        """
        left, room = self.step_tokens, moment.room
        prefill = prefill_budget(candidates, moment.speed, self.goal, left)
        shares: list[Share] = []
        for index in sorted(range(len(candidates)), key=lambda i: (candidates[i].choose == 0, candidates[i].due)):
            candidate = candidates[index]
            if room is not None and shares and candidate.length > room:
                continue
            fits = candidate.missing <= left and candidate.prefill <= prefill
            if fits or (not shares and candidate.prefill <= 0):
                feed = candidate.missing
            else:
                feed = min(left, prefill, candidate.missing - max(1, candidate.choose))
                if feed <= 0:
                    continue
            shares.append(Share(index, feed))
            left -= feed
            prefill -= min(feed, candidate.prefill)
            room = None if room is None else room - candidate.length
            if left <= 0:
                break
        return Plan(tuple(shares))


def prefill_budget(candidates: Sequence[Candidate], speed: Speed | None, goal: float, most: int) -> int:
    """Return how many tokens of prefill a step may feed beside the bundles that wait: `LEAST_PREFILL` to `most`.

    Args:
        candidates: what waits.
        speed: of the engine; None leaves it at `most`.
        goal: seconds that the step should take at most.
        most: tokens fed per step.
    """
    if speed is None:
        return most
    bundles = [candidate for candidate in candidates if candidate.choose]
    tokens = speed.tokens_within(goal, sum(bundle.context for bundle in bundles), most)
    return min(most, max(LEAST_PREFILL, tokens - sum(bundle.choose for bundle in bundles)))
