"""What would suit the verifier now: how long the next draft, and how many tokens in a run. Pure.

For a draft it is the length that gives the most committed tokens per second of the engine's time, as in SmartSpec (Liu
et al., "Optimizing Speculative Decoding for Serving Large Language Models Using Goodput", 2024). With drafts of k
tokens, each accepted with chance a if those before it were, a bundle brings (1 - a^(k+1)) / (1 - a) tokens (Leviathan
et al., 2023, equation 1) and takes its part of the step's fixed cost and of its context, and k + 1 tokens. While few
bundles share a step, its fixed cost is most of it, one token more costs next to nothing, and long drafts win; when
many do, their tokens are the cost, and short ones win. What drafting costs the device is for the device to weigh.

The hint is also kept so short that a step with all the bundles stays within its goal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct

from verifier.scheduler import STEP_GOAL

if TYPE_CHECKING:
    from verifier.speed import Speed

LONGEST_DRAFT: Final = 16
"""No longer draft is hinted: beyond it even good drafters are seldom right."""
LONGEST_RUN: Final = 16
"""No longer run is hinted: a device that drafts again should not have to wait long for its turn."""
ACCEPTANCE: Final = 0.7
"""Chance that a draft token is accepted, where it is not known."""
_LEAST_ACCEPTANCE, _MOST_ACCEPTANCE = 0.05, 0.98
"""A few lucky or unlucky rounds prove nothing beyond these."""


class Load(Struct, frozen=True):
    """How busy a verifier is.

    Attributes:
        bundles: that share a step, on average lately; at least 1 is assumed.
        context: tokens of their sequences, together.
        wait: seconds that a bundle waits before its step, on average lately.
    """

    bundles: float
    context: float
    wait: float = 0.0


def draft_hint(speed: Speed, load: Load, *, acceptance: float = ACCEPTANCE, goal: float = STEP_GOAL) -> int:
    """Return the draft length that would suit now: 1 to `LONGEST_DRAFT`, or 0 (no hint) before the speed is known.

    It never rises with the load, the wait or the cost of a token, and never falls with the acceptance rate.

    Args:
        speed: of the engine.
        load: of the verifier.
        acceptance: chance that a draft token is accepted, 0 to 1.
        goal: seconds that a bundle should take from its arrival to its verdict.
    """
    if not speed.sure:
        return 0
    bundles = max(1.0, load.bundles)
    chance = min(max(acceptance, _LEAST_ACCEPTANCE), _MOST_ACCEPTANCE)
    fixed = speed.seconds(0, load.context) / bundles
    within = speed.tokens_within(goal - load.wait, load.context, round(bundles * (LONGEST_DRAFT + 1)) + 1)
    most = min(LONGEST_DRAFT, int(within / bundles) - 1)
    length = 1
    while length < most and _pays(length, chance, fixed, speed.fed):
        length += 1
    return length


def _pays(length: int, chance: float, fixed: float, per_token: float) -> bool:
    """Whether one token more than `length` raises the tokens committed per second of engine time.

    It does if its own yield per cost, a^(k+1) / c, is above the bundle's so far. That falls with every token, so the
    first one that does not pay ends the search.
    """
    expected = (1 - chance ** (length + 1)) / (1 - chance)
    return chance ** (length + 1) * (fixed + per_token * (length + 1)) > expected * per_token


def run_hint(speed: Speed, load: Load, *, goal: float = STEP_GOAL) -> int:
    """Return how many tokens it would suit to generate after an empty draft: 1 to `LONGEST_RUN`, or 0 for no hint.

    Every token of a run takes part in a step of its own, so there are as many as steps beyond the first fit into the
    goal; but one, since a round trip costs everybody more than that.

    Args:
        speed: of the engine.
        load: of the verifier.
        goal: seconds that a bundle should take from its arrival to its verdict.
    """
    if not speed.sure:
        return 0
    step = speed.seconds(max(1.0, load.bundles), load.context)
    return max(1, min(LONGEST_RUN, int((goal - load.wait) / step) - 1)) if step > 0 else LONGEST_RUN
