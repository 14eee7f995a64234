"""Which work goes into the next step."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from verifier.scheduler import Candidate, Share, plan


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
