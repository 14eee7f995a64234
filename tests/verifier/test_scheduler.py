"""Which work goes into the next step: the continuous policy."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from verifier.scheduler import LEAST_PREFILL, LONGEST_PATIENCE, Candidate, Continuous, Moment, Share, prefill_budget
from verifier.speed import Speed


def plan(candidates: list[Candidate], budget: int, room: int | None = None, speed: Speed | None = None) -> list[Share]:
    planned = Continuous(budget).plan(candidates, Moment(0.0, len(candidates), room, speed))
    assert planned.wake_at is None, "it never waits for anything but work"
    return list(planned.shares)


def bundle(missing: int, choose: int, deadline: float = 1.0) -> Candidate:
    return Candidate(missing, choose, deadline)


def filling(missing: int) -> Candidate:
    return Candidate(missing, 0, math.inf)


@pytest.mark.parametrize(
    ("candidates", "budget", "shares"),
    [
        pytest.param([], 10, [], id="nothing waits"),
        pytest.param([bundle(3, 3)], 10, [Share(0, 3)], id="one bundle"),
        pytest.param([bundle(3, 3), bundle(5, 5)], 8, [Share(0, 3), Share(1, 5)], id="all that fit"),
        pytest.param(
            [bundle(3, 3, 9.0), bundle(5, 5, 2.0)], 8, [Share(1, 5), Share(0, 3)], id="earliest deadline first"
        ),
        pytest.param([bundle(3, 3), bundle(3, 3)], 8, [Share(0, 3), Share(1, 3)], id="same deadline: first come"),
        pytest.param([bundle(6, 6), bundle(6, 6)], 8, [Share(0, 6)], id="a bundle of choices only is never cut"),
        pytest.param([bundle(6, 6), bundle(6, 6, 2.0), bundle(2, 2, 3.0)], 8, [Share(0, 6), Share(2, 2)], id="fill up"),
        pytest.param([bundle(50, 5)], 8, [Share(0, 8)], id="a long prompt is cut into chunks"),
        pytest.param([bundle(10, 5)], 8, [Share(0, 5)], id="a chunk leaves the choices for later"),
        pytest.param([bundle(3, 3), bundle(50, 5, 2.0)], 8, [Share(0, 3), Share(1, 5)], id="a chunk beside a bundle"),
        pytest.param([bundle(20, 20)], 8, [Share(0, 20)], id="more choices than budget: alone, and over it"),
        pytest.param([bundle(20, 20), bundle(1, 1)], 8, [Share(0, 20)], id="nothing beside what is over the budget"),
        pytest.param([filling(5), bundle(3, 3, math.inf)], 8, [Share(1, 3), Share(0, 5)], id="bundles before filling"),
        pytest.param([filling(50), bundle(3, 3)], 8, [Share(1, 3), Share(0, 5)], id="filling takes what is left"),
        pytest.param([filling(5), bundle(8, 3)], 8, [Share(1, 8)], id="nothing left to fill with"),
        pytest.param([filling(9)], 8, [Share(0, 8)], id="filling is cut"),
        pytest.param([filling(0)], 8, [Share(0, 0)], id="a cache that is full already is done at once"),
    ],
)
def test_plan(candidates: list[Candidate], budget: int, shares: list[Share]) -> None:
    assert plan(candidates, budget) == shares


def holding(length: int, deadline: float = 1.0, *, choose: int = 2) -> Candidate:
    """A candidate whose session takes so much KV memory when it is done."""
    return Candidate(2, choose, deadline, length)


@pytest.mark.parametrize(
    ("candidates", "room", "taken"),
    [
        pytest.param([holding(60), holding(40)], 100, [0, 1], id="both fit"),
        pytest.param([holding(60), holding(41)], 100, [0], id="the later one waits"),
        pytest.param([holding(60), holding(41, 2.0), holding(40, 3.0)], 100, [0, 2], id="a smaller one goes instead"),
        pytest.param([holding(60, 2.0), holding(60, 1.0)], 100, [1], id="the earlier deadline has the memory"),
        pytest.param([holding(60, choose=0), holding(60)], 100, [1], id="filling a cache waits for a bundle"),
        pytest.param([holding(101)], 100, [0], id="one too large for any step is left to the engine to refuse"),
        pytest.param([holding(101), holding(1)], 100, [0], id="and nothing goes beside it"),
        pytest.param([holding(10**9), holding(10**9)], None, [0, 1], id="memory is no limit"),
    ],
)
def test_plan_begins_only_sessions_that_fit_into_the_memory_together(
    candidates: list[Candidate], room: int | None, taken: list[int]
) -> None:
    assert [share.index for share in plan(candidates, 64, room)] == taken


@st.composite
def any_candidate(draw: st.DrawFn) -> Candidate:
    choose = draw(st.integers(0, 12))
    missing = choose + draw(st.integers(0 if choose else 1, 60))
    deadline = draw(st.sampled_from([0.5, 1.0, 2.0, math.inf])) if choose else math.inf
    return Candidate(missing, choose, deadline, draw(st.integers(missing, 100)))


CANDIDATES = st.lists(any_candidate(), min_size=1, max_size=12)
BUDGET = st.integers(1, 64)
ROOM = st.one_of(st.none(), st.integers(1, 300))


@settings(deadline=None)
@given(candidates=CANDIDATES, budget=BUDGET)
def test_plan_keeps_to_the_budget_unless_the_first_choices_alone_exceed_it(
    candidates: list[Candidate], budget: int
) -> None:
    shares = plan(candidates, budget)
    if sum(share.feed for share in shares) > budget:
        (share,) = shares
        first = candidates[share.index]
        assert share.feed == first.missing == first.choose > budget


@settings(deadline=None)
@given(candidates=CANDIDATES, budget=BUDGET)
def test_plan_cuts_only_so_that_all_choices_come_in_one_later_step(candidates: list[Candidate], budget: int) -> None:
    shares = plan(candidates, budget)
    assert len({share.index for share in shares}) == len(shares)
    for share in shares:
        candidate = candidates[share.index]
        assert 1 <= share.feed <= candidate.missing
        if share.feed < candidate.missing:
            assert candidate.missing - share.feed >= max(1, candidate.choose)


@settings(deadline=None)
@given(candidates=CANDIDATES, budget=BUDGET)
def test_plan_takes_bundles_by_deadline_and_then_fills_caches(candidates: list[Candidate], budget: int) -> None:
    order = sorted(range(len(candidates)), key=lambda i: (candidates[i].choose == 0, candidates[i].deadline))
    taken = [share.index for share in plan(candidates, budget)]
    assert taken == [index for index in order if index in taken]
    assert taken[0] == order[0]


@settings(deadline=None)
@given(candidates=CANDIDATES, budget=BUDGET)
def test_plan_leaves_out_only_what_had_no_room(candidates: list[Candidate], budget: int) -> None:
    """Whoever could take a token of what was left has got it."""
    shares = plan(candidates, budget)
    left = budget - sum(share.feed for share in shares)
    fed = {share.index: share.feed for share in shares}
    for index, candidate in enumerate(candidates):
        waits = candidate.missing - fed.get(index, 0)
        if waits:
            assert left <= 0 or waits <= max(1, candidate.choose)
            assert waits > left


@settings(deadline=None)
@given(candidates=CANDIDATES, budget=BUDGET, room=ROOM)
def test_plan_keeps_to_the_memory_unless_one_session_alone_exceeds_it(
    candidates: list[Candidate], budget: int, room: int | None
) -> None:
    shares = plan(candidates, budget, room)
    assert shares
    if room is not None and len(shares) > 1:
        assert sum(candidates[share.index].length for share in shares) <= room


@settings(deadline=None)
@given(candidates=CANDIDATES, budget=BUDGET, room=ROOM)
def test_plan_repeated_finishes_everything(candidates: list[Candidate], budget: int, room: int | None) -> None:
    waiting = list(candidates)
    steps = 0
    while waiting:
        shares = {share.index: share.feed for share in plan(waiting, budget, room)}
        assert shares
        waiting = [
            replace(candidate, missing=candidate.missing - shares.get(index, 0))
            for index, candidate in enumerate(waiting)
            if shares.get(index, 0) < candidate.missing
        ]
        steps += 1
    assert steps <= sum(candidate.missing for candidate in candidates)


def test_a_step_has_at_least_one_token() -> None:
    with pytest.raises(ValueError, match="at least 1 token, but 0"):
        Continuous(0)


def test_plan_a_bundle_without_a_deadline_is_overtaken_only_for_so_long() -> None:
    old = Candidate(3, 3, math.inf, since=0.0)
    new = Candidate(3, 3, LONGEST_PATIENCE + 0.1, since=LONGEST_PATIENCE)
    earlier = Candidate(3, 3, LONGEST_PATIENCE - 0.1, since=1.0)
    assert [share.index for share in plan([new, old, earlier], 9)] == [2, 1, 0]


SPEED = Speed(0.05, 0.01, 0.0)
"""100 tokens a second, beside 50 ms of each step."""


@pytest.mark.parametrize(
    ("candidates", "goal", "most", "budget"),
    [
        pytest.param([], 1.05, 512, 100, id="what takes a second"),
        pytest.param([], 1.05, 64, 64, id="never beyond the step"),
        pytest.param([bundle(5, 5), bundle(8, 8)], 1.05, 512, 87, id="the tokens of bundles come first"),
        pytest.param([bundle(200, 5)], 1.05, 512, 95, id="but not their prompts"),
        pytest.param([bundle(90, 90)], 1.05, 512, LEAST_PREFILL, id="a full step still takes some"),
        pytest.param([], 0.0, 512, 35, id="a goal out of reach leaves what the fixed cost is worth"),
        pytest.param([bundle(90, 90)], 1.05, 16, 16, id="unless the step is smaller than that"),
    ],
)
def test_prefill_budget(candidates: list[Candidate], goal: float, most: int, budget: int) -> None:
    assert prefill_budget(candidates, SPEED, goal, most) == budget
    assert prefill_budget(candidates, None, goal, most) == most


def test_plan_bundles_are_not_held_up_by_a_prompt_that_is_due_earlier() -> None:
    slow = Speed(0.05, 0.005, 0.0)
    prompt, drafts = bundle(1000, 5, 0.5), [bundle(5, 5), bundle(4, 4)]
    assert plan([prompt, *drafts], 512) == [Share(0, 512)]
    assert plan([prompt, *drafts], 512, speed=slow) == [Share(0, 56), Share(1, 5), Share(2, 4)]


SPEEDS = st.builds(Speed, st.floats(0, 1), st.floats(0, 0.1), st.floats(0, 1e-4))


@given(candidates=CANDIDATES, budget=BUDGET, speed=SPEEDS)
def test_plan_the_goal_limits_prefill_and_never_a_bundle(
    candidates: list[Candidate], budget: int, speed: Speed
) -> None:
    hurried, calm = plan(candidates, budget, speed=speed), plan(candidates, budget)
    prefill = sum(min(share.feed, candidates[share.index].prefill) for share in hurried)
    assert prefill <= prefill_budget(candidates, speed, Continuous().goal, budget)

    def bundles(shares: list[Share]) -> set[int]:
        return {share.index for share in shares if candidates[share.index].prefill == 0}

    assert bundles(calm) <= bundles(hurried)


@given(candidates=CANDIDATES, budget=BUDGET, room=ROOM, speed=SPEEDS)
def test_plan_repeated_finishes_everything_at_any_speed(
    candidates: list[Candidate], budget: int, room: int | None, speed: Speed
) -> None:
    waiting = list(candidates)
    for _ in range(sum(candidate.missing for candidate in candidates)):
        shares = {share.index: share.feed for share in plan(waiting, budget, room, speed)}
        waiting = [
            replace(candidate, missing=candidate.missing - shares.get(index, 0))
            for index, candidate in enumerate(waiting)
            if shares.get(index, 0) < candidate.missing
        ]
        if not waiting:
            return
    raise AssertionError(f"{waiting} are never finished")
