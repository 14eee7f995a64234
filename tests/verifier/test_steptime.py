"""How long steps take, learnt from steps of known cost."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verifier.speed import SURE, Speed
from verifier.steptime import GUESS, StepTime

CPU = Speed(0.06, 0.003, 8e-6)
GPU = Speed(0.012, 2e-5, 1e-7)
STEPS = [(fed, fed * context) for fed in (1, 5, 20, 80, 300) for context in (20, 60, 200)]


def run(steptime: StepTime, truth: Speed, steps: int, *, noise: float = 0.0, seed: int = 1) -> None:
    """Show the estimate so many steps of all sizes."""
    chance = random.Random(seed)
    for _ in range(steps):
        fed, context = chance.choice(STEPS)
        steptime.observe(fed, context, truth.seconds(fed, context) * chance.uniform(1 - noise, 1 + noise))


def worst(steptime: StepTime, truth: Speed) -> float:
    """Return the largest error of a prediction, relative."""
    return max(abs(steptime.predict(*step) / truth.seconds(*step) - 1) for step in STEPS)


@pytest.mark.parametrize("truth", [CPU, GPU])
def test_the_cost_is_found_exactly_where_nothing_disturbs(truth: Speed) -> None:
    steptime = StepTime()
    run(steptime, truth, 300)
    assert worst(steptime, truth) < 0.05
    assert steptime.speed.base == pytest.approx(truth.base, rel=0.05)
    assert steptime.speed.fed == pytest.approx(truth.fed, rel=0.1)


@pytest.mark.parametrize("truth", [CPU, GPU])
def test_noise_is_averaged_out(truth: Speed) -> None:
    steptime = StepTime()
    run(steptime, truth, 600, noise=0.2)
    assert worst(steptime, truth) < 0.25


@pytest.mark.parametrize("factor", [0.3, 4.0])
def test_a_machine_that_becomes_faster_or_slower_is_followed(factor: float) -> None:
    steptime = StepTime()
    run(steptime, CPU, 200)
    changed = Speed(CPU.base * factor, CPU.fed * factor, CPU.context * factor)
    run(steptime, changed, 300, seed=2)
    assert worst(steptime, changed) < 0.1


def test_a_first_step_that_is_a_hundred_times_slower_is_soon_forgotten() -> None:
    steptime = StepTime()
    steptime.observe(5, 100, 100 * CPU.seconds(5, 100))
    run(steptime, CPU, 40)
    assert worst(steptime, CPU) < 0.25


def test_one_hiccup_moves_the_estimate_little() -> None:
    steptime = StepTime()
    run(steptime, CPU, 100)
    steptime.observe(5, 100, 60.0)
    assert worst(steptime, CPU) < 0.1


def test_steps_that_are_all_alike_keep_the_proportions_of_the_guess() -> None:
    """Nothing tells the parts of their cost apart, but their sum is known."""
    steptime = StepTime()
    for _ in range(200):
        steptime.observe(40, 4000, 0.008)
    assert steptime.predict(40, 4000) == pytest.approx(0.008, rel=0.02)
    assert steptime.speed.base / steptime.speed.fed == pytest.approx(GUESS.base / GUESS.fed, rel=0.1)


def test_before_any_sample_there_is_a_guess_that_nobody_relies_on() -> None:
    steptime = StepTime()
    assert steptime.speed == GUESS
    assert not steptime.speed.sure
    run(steptime, CPU, SURE)
    assert steptime.speed.sure


@given(
    steps=st.lists(
        st.tuples(st.integers(0, 100_000), st.integers(0, 10_000_000), st.floats(0, 1e4)), min_size=1, max_size=60
    )
)
def test_whatever_comes_no_cost_is_negative_or_beyond_all_measure(steps: list[tuple[int, int, float]]) -> None:
    steptime = StepTime()
    for step in steps:
        steptime.observe(*step)
    speed = steptime.speed
    assert min(speed.base, speed.fed, speed.context) >= 0
    assert max(speed.base, speed.fed, speed.context) < 1e9
    assert speed.samples == len(steps)


@pytest.mark.parametrize(
    ("goal", "context", "tokens"),
    [
        (1.05, 0, 100),
        (1.55, 0, 128),
        (1.3, 500, 120),
        (0.0, 0, 35),
        (0.0, 500, 70),
        (0.0, 5000, 128),
    ],
)
def test_tokens_within(goal: float, context: int, tokens: int) -> None:
    """To the goal, or to so many times the fixed cost that it hardly matters."""
    assert Speed(0.05, 0.01, 1e-4).tokens_within(goal, context, 128) == pytest.approx(tokens, abs=1)


def test_tokens_within_where_tokens_cost_nothing() -> None:
    assert Speed(0.05, 0.0, 0.0).tokens_within(0.0, 0, 128) == 128
