"""Near-ties pass, wrong tokens do not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.kit.positions import Outcome, judge
from schemas.choice import noisy
from schemas.messages import GREEDY, Sampling

CLOSE = 1e-5
FAR = 1e-2
TOLERANCE = 1e-4


def row(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def test_greedy_choice_is_exact() -> None:
    assert judge(row(1, 3, 2), 1, GREEDY, 0, TOLERANCE) is Outcome.EXACT


def test_greedy_tie_takes_the_lowest_id_and_the_other_is_a_near_tie() -> None:
    assert judge(row(1, 3, 3), 1, GREEDY, 0, TOLERANCE) is Outcome.EXACT
    assert judge(row(1, 3, 3), 2, GREEDY, 0, TOLERANCE) is Outcome.NEAR_TIE


def test_greedy_token_within_the_tolerance_is_a_near_tie() -> None:
    assert judge(row(0, 1, 1 + CLOSE), 1, GREEDY, 0, TOLERANCE) is Outcome.NEAR_TIE


def test_greedy_token_beyond_the_tolerance_has_diverged() -> None:
    assert judge(row(0, 1, 1 + FAR), 1, GREEDY, 0, TOLERANCE) is Outcome.DIVERGED


def sampled(seed: int = 3, *, temperature: float = 0.8, top_k: int = 0, top_p: float = 1.0) -> Sampling:
    return Sampling(temperature, top_k, top_p, seed)


@given(seed=st.integers(0, 2**63 - 1), position=st.integers(0, 1000), top_p=st.floats(0.05, 1), top_k=st.integers(0, 9))
def test_sampled_choice_is_exact_and_anything_else_is_not(seed: int, position: int, top_p: float, top_k: int) -> None:
    logits = np.random.default_rng(seed).normal(0, 3, 40).astype(np.float32)
    sampling = sampled(seed, top_k=top_k, top_p=top_p)
    scores = noisy(logits, sampling, position)
    order = np.argsort(-scores)
    assert judge(logits, int(order[0]), sampling, position, TOLERANCE) is Outcome.EXACT
    if scores[order[0]] - scores[order[1]] > FAR:
        assert judge(logits, int(order[1]), sampling, position, TOLERANCE) is Outcome.DIVERGED


def test_sampled_token_whose_noisy_logit_is_close_is_a_near_tie() -> None:
    sampling = sampled()
    logits = np.random.default_rng(1).normal(0, 1, 40).astype(np.float32)
    scores = noisy(logits, sampling, 5)
    best, second = (int(token) for token in np.argsort(-scores)[:2])
    # Lift the second until it is just below the best.
    logits[second] += np.float32((scores[best] - scores[second] - CLOSE) * sampling.temperature)
    assert int(noisy(logits, sampling, 5).argmax()) == best
    assert judge(logits, second, sampling, 5, TOLERANCE) is Outcome.NEAR_TIE


@pytest.mark.parametrize("difference", [CLOSE, FAR])
def test_token_left_out_by_top_k_passes_only_at_the_edge(difference: float) -> None:
    logits = row(2, 1, 1 - difference, -5)
    position = next(
        i
        for i in range(1000)
        if int(noisy(logits, sampled(), i).argmax()) == 2 and int(noisy(logits, sampled(top_k=2), i).argmax()) == 1
    )
    outcome = judge(logits, 2, sampled(top_k=2), position, TOLERANCE)
    assert outcome is (Outcome.NEAR_TIE if difference == CLOSE else Outcome.DIVERGED)


@pytest.mark.parametrize(("top_p", "outcome"), [(0.6 - 1e-5, Outcome.NEAR_TIE), (0.5, Outcome.DIVERGED)])
def test_token_left_out_by_top_p_passes_only_at_the_edge(top_p: float, outcome: Outcome) -> None:
    logits = np.log(row(0.6, 0.3, 0.1)).astype(np.float32)
    sampling = sampled(temperature=1.0)
    position = next(i for i in range(1000) if int(noisy(logits, sampling, i).argmax()) == 1)
    assert judge(logits, 1, sampled(temperature=1.0, top_p=top_p), position, TOLERANCE) is outcome


def test_token_must_beat_those_surely_inside_even_at_the_edge() -> None:
    logits = row(2, 1, 1 - CLOSE, -5)
    position = next(i for i in range(1000) if int(noisy(logits, sampled(), i).argmax()) == 0)
    assert judge(logits, 2, sampled(top_k=2), position, TOLERANCE) is Outcome.DIVERGED
