"""Static and dynamic batches: what they wait for, and that they never wait too long."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verifier.gathering import Dynamic, Static
from verifier.scheduler import Candidate, Continuous, Moment, Plan, Share

if TYPE_CHECKING:
    from verifier.scheduler import Batching


def bundle(draft: int, since: float = 0.0, *, prompt: int = 0, length: int = 0, spare: int = 100) -> Candidate:
    return Candidate(prompt + draft + 1, draft + 1, math.inf, length, since, prompt + draft + 1, spare)


def filling(missing: int) -> Candidate:
    return Candidate(missing, 0, math.inf, since=math.inf)


def shares(batching: Batching, candidates: list[Candidate], *, live: int = 9, now: float = 0.0) -> list[Share]:
    return list(batching.plan(candidates, Moment(now, live)).shares)


def test_static_says_when_it_will_wait_no_longer() -> None:
    two = [bundle(4, 2.0), bundle(2, 1.75)]
    assert Static(3, 0.5).plan(two, Moment(2.0, 9)) == Plan((), 2.25)
    assert [share.index for share in shares(Static(3, 0.5), two, now=2.25)] == [1, 0]


def test_static_waits_for_no_more_than_are_live() -> None:
    two = [bundle(4), bundle(2)]
    assert shares(Static(3), two, live=3) == []
    assert [share.index for share in shares(Static(3), two, live=2)] == [0, 1]
    assert [share.index for share in shares(Static(3), two, live=0)] == [0, 1]


def test_static_takes_the_oldest_and_no_more_than_its_batch() -> None:
    four = [bundle(1, 4.0), bundle(1, 1.0), bundle(1, 3.0), bundle(1, 2.0)]
    assert [share.index for share in shares(Static(3), four, now=4.0)] == [1, 3, 2]


def test_static_pads_every_draft_to_the_longest_of_the_batch() -> None:
    three = [bundle(4), bundle(0), bundle(2, prompt=90)]
    assert shares(Static(3), three) == [Share(0, 5, 0), Share(1, 1, 4), Share(2, 93, 2)]


def test_static_pads_only_where_there_is_place() -> None:
    two = [bundle(8), bundle(1, spare=3)]
    assert shares(Static(2), two) == [Share(0, 9, 0), Share(1, 2, 3)]


def test_dynamic_starts_on_size_or_on_time_and_pads_nothing() -> None:
    two, batching = [bundle(4, 0.01), bundle(2, prompt=90)], Dynamic(3, 0.02)
    assert batching.plan(two, Moment(0.01, 2)) == Plan((), 0.02)
    assert shares(batching, two, now=0.02) == [Share(1, 93), Share(0, 5)]
    assert shares(batching, [*two, bundle(1, 0.01), bundle(9, 0.01)], now=0.01) == [
        Share(1, 93),
        Share(0, 5),
        Share(2, 2),
    ]


BATCHINGS: list[Batching] = [Static(4, 0.5), Dynamic(4, 0.02)]


@pytest.mark.parametrize("batching", BATCHINGS)
def test_caches_are_filled_one_at_a_time_and_only_while_no_bundle_waits(batching: Batching) -> None:
    assert shares(batching, [filling(700), filling(5)]) == [Share(0, 700)]
    assert batching.plan([filling(700), bundle(1, 0.0)], Moment(0.0, 9)).shares == ()


@pytest.mark.parametrize("batching", BATCHINGS)
def test_nothing_waits_and_nothing_is_done(batching: Batching) -> None:
    assert batching.plan([], Moment(0.0, 0)) == Plan()


@pytest.mark.parametrize("batching", BATCHINGS)
def test_sessions_that_do_not_fit_into_the_memory_wait(batching: Batching) -> None:
    four = [bundle(1, length=60), bundle(1, length=60), bundle(1, length=40), bundle(1, length=40)]
    assert [share.index for share in batching.plan(four, Moment(0.0, 4, 100)).shares] == [0, 2]
    alone = [bundle(1, length=900)] * 4
    assert [share.index for share in batching.plan(alone, Moment(0.0, 4, 100)).shares] == [0]


@pytest.mark.parametrize(
    ("kind", "size", "wait", "wrong"),
    [
        (Static, 0, 0.1, "A static batch has at least 1 bundle, but 0"),
        (Dynamic, -1, 0.1, "A dynamic batch has at least 1 bundle, but -1"),
        (Static, 1, -0.1, "waits for 0 seconds or more"),
        (Dynamic, 1, math.inf, "not for ever"),
        (Static, 1, math.nan, "waits for 0 seconds or more"),
    ],
)
def test_values_out_of_range_are_refused(kind: type[Static | Dynamic], size: int, wait: float, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        kind(size, wait)


# A server under each policy, with a clock of its own ---------------------------------------------------------------

STEP = 0.1
"""Seconds that every step of the simulated engine takes."""
POLICIES = st.one_of(
    st.builds(Static, st.integers(1, 6), st.sampled_from([0.0, 0.05, 0.3])),
    st.builds(Dynamic, st.integers(1, 6), st.sampled_from([0.0, 0.05, 0.3])),
    st.builds(Continuous, st.integers(1, 40)),
)


@st.composite
def arrivals(draw: st.DrawFn) -> list[Candidate]:
    """Bundles and cache fillings by the time they come; each is of another session."""
    times = sorted(draw(st.lists(st.integers(0, 30), min_size=1, max_size=12)))
    coming = []
    for time in times:
        choose = draw(st.integers(0, 9))
        prompt = draw(st.integers(0 if choose else 1, 50))
        deadline = draw(st.sampled_from([0.2, 2.0, math.inf])) + time / 10 if choose else math.inf
        length = draw(st.integers(1, 60))
        coming.append(Candidate(prompt + choose, choose, deadline, length, time / 10, prompt + choose, 20))
    return coming


def serve(batching: Batching, coming: list[Candidate], room: int | None) -> dict[int, float]:
    """Return when the step began that finished each; fail if the policy hangs or splits a bundle wrongly."""
    missing = {number: one.missing for number, one in enumerate(coming)}
    began: dict[int, float] = {}
    now = 0.0
    while missing:
        here = [number for number in missing if coming[number].since <= now]
        candidates = [
            Candidate(missing[n], coming[n].choose, coming[n].deadline, coming[n].length, coming[n].since, spare=20)
            for n in here
        ]
        plan = batching.plan(candidates, Moment(now, len(here), room))
        if not plan.shares:
            later = [coming[number].since for number in missing if coming[number].since > now]
            due = [*later[:1], *([plan.wake_at] if plan.wake_at is not None else [])]
            assert due, f"{batching} waits for nothing while {candidates} wait"
            assert plan.wake_at is None or plan.wake_at > now
            now = min(due)
            continue
        assert len({share.index for share in plan.shares}) == len(plan.shares)
        for share in plan.shares:
            number = here[share.index]
            left = missing[number] - share.feed
            assert left == 0 or left >= max(1, coming[number].choose), "choices come in one step"
            assert share.pad == 0 or left == 0
            missing[number] = left
            if left == 0:
                del missing[number]
                began[number] = now
        assert plan.wake_at is None
        now += STEP
    return began


@given(batching=POLICIES, coming=arrivals(), room=st.one_of(st.none(), st.integers(1, 200)))
def test_everything_is_served_in_the_end(batching: Batching, coming: list[Candidate], room: int | None) -> None:
    assert len(serve(batching, coming, room)) == len(coming)


@given(
    batching=st.one_of(
        st.builds(Static, st.integers(12, 20), st.sampled_from([0.0, 0.05, 0.3])),
        st.builds(Dynamic, st.integers(12, 20), st.sampled_from([0.0, 0.05, 0.3])),
    ),
    coming=arrivals(),
)
def test_a_bundle_waits_for_its_batch_no_longer_than_agreed_and_for_one_step(
    batching: Static | Dynamic, coming: list[Candidate]
) -> None:
    for number, began in serve(batching, coming, None).items():
        if coming[number].choose:
            assert began <= coming[number].since + batching.max_wait + STEP + 1e-9


@given(coming=arrivals(), batch=st.integers(1, 6))
def test_static_batches_are_even_and_no_larger_than_agreed(coming: list[Candidate], batch: int) -> None:
    bundles = [one for one in coming if one.choose]
    plan = Static(batch, 0.0).plan(bundles, Moment(99.0, len(bundles)))
    assert len(plan.shares) == min(batch, len(bundles))
    assert len({bundles[share.index].choose + share.pad for share in plan.shares}) <= 1
