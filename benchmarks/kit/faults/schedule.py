"""What goes wrong when, and whom it strikes: a plan with everything drawn. Pure: the same seed draws the same."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

from benchmarks.kit.faults.plan import Cut, Delay, Duplication, Freeze, Hold, Kill, Loss, times_of
from schemas.messages import Ask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.kit.faults.plan import Plan, Span
    from benchmarks.kit.prompts import Prompt

Setting: TypeAlias = Literal["delay", "loss", "duplication"]


class Strike(msgspec.Struct, frozen=True):
    """One victim is struck.

    Attributes:
        at: when, in seconds from the beginning.
        what: is done to it.
        victim: name of a process, or of the device whose link it is.
        seconds: how long it lasts.
    """

    at: float
    what: Literal["kill", "freeze", "cut", "hold"]
    victim: str
    seconds: float


class Spell(msgspec.Struct, frozen=True):
    """All links do something for a while.

    Attributes:
        at: from when, in seconds from the beginning.
        setting: of the links.
        value: what it is set to.
        seconds: how long it lasts.
    """

    at: float
    setting: Setting
    value: float
    seconds: float


class Asking(msgspec.Struct, frozen=True):
    """One request: when it may be asked at the earliest, whom, and what."""

    at: float
    device: str
    ask: Ask


def draw_faults(plan: Plan) -> list[Strike | Spell]:
    """Return what goes wrong, in the order in which it begins.

    Strikes of one fault are spread over the run: each is drawn from a part of its own. Victims take turns in an order
    that is drawn, so that all are struck before one is struck again.
    """
    drawn: list[Strike | Spell] = []
    for number, fault in enumerate(plan.faults):
        dice = random.Random(f"{plan.seed} {number}")
        match fault:
            case Delay() | Loss() | Duplication():
                drawn.append(_spell(fault, plan, dice))
            case _:
                drawn += _strikes(fault, plan, dice)
    return sorted(drawn, key=lambda each: each.at)


def _spell(fault: Delay | Loss | Duplication, plan: Plan, dice: random.Random) -> Spell:
    setting: Setting = "delay" if isinstance(fault, Delay) else "loss" if isinstance(fault, Loss) else "duplication"
    if fault.begin is not None and fault.end is not None:
        return Spell(fault.begin, setting, fault.value, fault.end - fault.begin)
    seconds = (1.0 if fault.share is None else fault.share) * plan.seconds
    return Spell(dice.uniform(0, plan.seconds - seconds), setting, fault.value, seconds)


def _strikes(fault: Kill | Freeze | Cut | Hold, plan: Plan, dice: random.Random) -> list[Strike]:
    names = list(plan.victims(fault))
    dice.shuffle(names)
    what: Literal["kill", "freeze", "cut", "hold"]
    what = (
        "kill" if isinstance(fault, Kill)
        else "freeze" if isinstance(fault, Freeze)
        else "cut" if isinstance(fault, Cut)
        else "hold"
    )  # fmt: skip
    return [
        Strike(dice.uniform(*times), what, fault.victim or names[number % len(names)], _draw(fault.seconds, dice))
        for number, times in enumerate(times_of(fault, plan.seconds))
    ]


def _draw(span: Span, dice: random.Random) -> float:
    return dice.uniform(span[0], span[1]) if isinstance(span, tuple) else span


def draw_asks(plan: Plan, prompts: Sequence[Prompt]) -> list[Asking]:
    """Return the requests, in the order in which they are asked: prompts and devices in turn, over all of the run.

    Which are sampled is drawn; each has a seed of its own, so that no two share their noise.
    """
    dice = random.Random(f"{plan.seed} asks")
    sampled = [number < round(plan.sampled * plan.requests) for number in range(plan.requests)]
    dice.shuffle(sampled)
    names = plan.device_names
    return [
        Asking(
            plan.seconds * number / plan.requests,
            names[number % len(names)],
            Ask(
                id=f"request-{number}",
                prompt=prompts[number % len(prompts)].prompt,
                max_tokens=plan.tokens,
                temperature=plan.temperature if sampled[number] else 0.0,
                top_k=plan.top_k if sampled[number] else 0,
                top_p=plan.top_p if sampled[number] else 1.0,
                seed=plan.seed * plan.requests + number if sampled[number] else None,
                revise=plan.outage == "revise",
            ),
        )
        for number in range(plan.requests)
    ]
