"""Outages that last, in every mode, with the agent killed at every point: what is said, and what an app makes of it."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import pytest

from edge_agent.outage import OutageMode, OutageRules
from tests.pair.world import WAYS, World

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.pair.consumer import Consumer

RELEASE = OutageRules(OutageMode.RELEASE)
REVISE = OutageRules(OutageMode.REVISE)


def exchange(world: World, session: bytes, guesses: Sequence[bool]) -> None:
    """Let drafts and messages come and go."""
    for right in guesses:
        world.draft(session, right=right)
        while world.up:
            world.arrive_up(0)
        for name in world.verifiers:
            world.verify(name)
        while world.down:
            world.arrive_down(0)
        world.check()


def answer(
    seed: int, outage: OutageRules, *, revise: bool = True, crash_after: int | None = None
) -> tuple[World, bytes, bool]:
    """Answer a request through two outages, with an agent that is killed after so many effects and events.

    Returns:
        The world, the session, and whether the agent came to be killed.
    """
    random = Random(seed)
    world = World()
    stop = random.choice([(), (), ("ä",), ("ab", "E a")])
    session = world.ask(
        random.randint(1, 9), 60, random.choice(["fixed:3", "cost-aware"]), outage=outage, revise=revise, stop=stop
    )

    def guesses(most: int) -> list[bool]:
        return [random.random() < 0.8 for _ in range(random.randint(0, most))]

    world.crash_after = crash_after
    for _ in range(2):
        exchange(world, session, guesses(9))
        world.suffer(random.choice(WAYS), guesses(25))
        world.check()
        if random.random() < 0.5:
            world.start_verifier("v0")
        world.mend()
        world.place(random.choice(["v0", "v0", "v1"]), at_leisure=random.random() < 0.5)
        exchange(world, session, guesses(9))
    killed = crash_after is not None and world.crash_after is None
    world.settle()
    world.check()
    world.check_ended()
    return world, session, killed


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("outage", [RELEASE, REVISE], ids=["release", "revise"])
def test_killed_anywhere_the_app_ends_with_the_text_that_is_durable(seed: int, outage: OutageRules) -> None:
    """`World.check_ended` says what that is; `Consumer` follows the events."""
    crash_after, killed = 0, True
    while killed:
        _, _, killed = answer(seed, outage, crash_after=crash_after)
        crash_after += 1
    assert crash_after > 20


@pytest.mark.parametrize("outage", [OutageRules(), REVISE], ids=["stall", "revise"])
def test_text_is_the_targets_to_the_letter(outage: OutageRules) -> None:
    for seed in range(150):
        world, session, _ = answer(seed, outage)
        saved, request = world.spool[session], world.spool[session].request
        assert not saved.released
        assert tuple(saved.committed) == world.target.text(request.prompt, request.max_tokens)[: len(saved.committed)]


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("outage", [OutageRules(), REVISE], ids=["stall", "revise"])
def test_text_is_the_same_where_another_verifier_has_less_memory(outage: OutageRules, *, restarted: bool) -> None:
    """It begins with one that can hold it, cannot go on with the other, and ends where it would have ended."""
    waited = 0
    for seed in range(40):
        random = Random(seed)
        world = World(lengths=(200, random.choice([4, 20, 40, 68])))
        session = world.ask(9, 60, "fixed:3", outage=outage, revise=True)
        exchange(world, session, [True] * random.randint(1, 5))
        if world.spool[session].finish:
            continue
        world.place("v1")
        if restarted:
            world.start_agent()
        exchange(world, session, [True] * 9)
        waited += world.spool[session].finish is None
        world.place("v0")
        world.settle()
        world.check()
        world.check_ended()
        assert not world.shown[session].ends[1:]
        saved = world.spool[session]
        assert tuple(saved.committed) == world.target.text(saved.request.prompt, 60)
    assert waited > 20


def test_released_text_is_the_targets_everywhere_else_given_what_was_released() -> None:
    """Drafts are wrong now and then; the target goes on from them and is right about all that is not in a range."""
    wrong = ranges = 0
    for seed in range(150):
        world, session, _ = answer(seed, RELEASE)
        saved = world.spool[session]
        for position, token in enumerate(saved.committed):
            legal = world.target.legal((*saved.request.prompt, *saved.committed[:position]))
            assert token in legal or position in saved.released
            wrong += token not in legal
        ranges += len(saved.ranges()) > 1
    assert wrong > 100
    assert ranges > 10


def test_only_who_opts_in_is_shown_what_may_be_taken_back() -> None:
    seen: dict[bool, list[Consumer]] = {True: [], False: []}
    for seed in range(60):
        for revise, consumers in seen.items():
            world, session, _ = answer(seed, REVISE, revise=revise)
            consumers.append(world.consumers[session])
    assert sum(consumer.provisional for consumer in seen[True]) > 300
    assert sum(consumer.revised for consumer in seen[True]) > 50
    assert not any(consumer.provisional or consumer.revised for consumer in seen[False])
