"""What draft and run lengths suit a verifier."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verifier.hints import LONGEST_DRAFT, LONGEST_RUN, Load, draft_hint, run_hint
from verifier.speed import SURE, Speed

GPU = Speed(0.012, 2e-5, 1e-7, SURE)
CPU = Speed(0.06, 0.003, 8e-6, SURE)
SPEEDS = st.builds(Speed, st.floats(1e-4, 1.0), st.floats(1e-7, 0.1), st.floats(0, 1e-4), st.just(SURE))
LOADS = st.builds(Load, st.floats(0, 300), st.floats(0, 1e6), st.floats(0, 30))
CHANCES = st.floats(0, 1)


def per_second(speed: Speed, load: Load, length: int, chance: float) -> float:
    """Tokens committed per second of the engine's time, by drafts of one length."""
    bundles = max(1.0, load.bundles)
    expected = sum(chance**accepted for accepted in range(length + 1))
    return bundles * expected / speed.seconds(bundles * (length + 1), load.context)


def test_an_idle_gpu_likes_long_drafts_and_runs() -> None:
    assert draft_hint(GPU, Load(1, 500), acceptance=0.9) == LONGEST_DRAFT
    assert run_hint(GPU, Load(1, 500)) == LONGEST_RUN


def test_a_saturated_cpu_likes_short_ones() -> None:
    assert draft_hint(CPU, Load(16, 3000)) == 2
    assert draft_hint(CPU, Load(1, 200)) > 4
    assert run_hint(CPU, Load(16, 3000)) == 1


def test_bad_drafters_are_hinted_short_drafts() -> None:
    assert draft_hint(CPU, Load(1, 200), acceptance=0.2) < draft_hint(CPU, Load(1, 200), acceptance=0.9)


def test_whoever_waits_long_is_hinted_what_brings_the_step_to_its_end_in_time() -> None:
    speed = Speed(0.01, 0.0005, 0.0, SURE)
    assert draft_hint(speed, Load(20, 0), acceptance=0.98) > 6
    assert draft_hint(speed, Load(20, 0, wait=0.2), acceptance=0.98) == 6


@pytest.mark.parametrize("samples", [0, SURE - 1])
def test_nothing_is_hinted_on_a_guess(samples: int) -> None:
    unsure = Speed(0.06, 0.003, 8e-6, samples)
    assert draft_hint(unsure, Load(1, 200)) == 0
    assert run_hint(unsure, Load(1, 200)) == 0


@given(speed=SPEEDS, load=LOADS, chance=st.floats(0.05, 0.98))
def test_the_draft_hint_is_the_best_length_unless_the_goal_asks_for_a_shorter_one(
    speed: Speed, load: Load, chance: float
) -> None:
    best = max(per_second(speed, load, length, chance) for length in range(1, LONGEST_DRAFT + 1))
    free = draft_hint(speed, load, acceptance=chance, goal=1e9)
    assert per_second(speed, load, free, chance) == pytest.approx(best, rel=1e-6)
    hint = draft_hint(speed, load, acceptance=chance)
    assert 1 <= hint <= free
    if 1 < hint < free:
        fed = max(1.0, load.bundles) * (hint + 2)
        assert speed.seconds(fed + 1, load.context) > 0.25 - load.wait


@given(speed=SPEEDS, load=LOADS, chance=CHANCES, more=st.floats(1, 10))
def test_hints_never_rise_with_load_wait_or_cost(speed: Speed, load: Load, chance: float, more: float) -> None:
    harder = [
        (speed, Load(max(1.0, load.bundles) * more, load.context, load.wait)),
        (speed, Load(load.bundles, load.context, load.wait + more)),
        (Speed(speed.base, speed.fed * more, speed.context, SURE), load),
    ]
    for other, busier in harder:
        assert draft_hint(other, busier, acceptance=chance) <= draft_hint(speed, load, acceptance=chance)
        assert run_hint(other, busier) <= run_hint(speed, load)


@given(speed=SPEEDS, load=LOADS)
def test_the_draft_hint_never_falls_with_the_acceptance_rate(speed: Speed, load: Load) -> None:
    hints = [draft_hint(speed, load, acceptance=tenth / 10) for tenth in range(11)]
    assert all(lower <= higher for lower, higher in pairwise(hints))


@given(speed=SPEEDS, load=LOADS)
def test_a_run_of_the_hinted_length_ends_within_the_goal(speed: Speed, load: Load) -> None:
    hint = run_hint(speed, load)
    assert 1 <= hint <= LONGEST_RUN
    if hint > 1:
        assert load.wait + (hint + 1) * speed.seconds(max(1.0, load.bundles), load.context) <= 0.25 + 1e-9
