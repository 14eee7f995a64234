"""Choosing one token: the fast form against the plain one, and both against the distribution they should have."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.choice import choose, noisy, sample
from schemas.messages import GREEDY, Sampling
from schemas.noise import gumbel_of, philox
from tests.schemas.logits import logits_rows, samplings, target
from tests.schemas.pearson import chi_square

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from schemas.noise import Numbers

_LOGITS = np.array([1.5, -0.5, 2.0, 0.25, 2.0, -1.0, 0.75, 1.0, -3.0, 0.0], dtype=np.float32)
_SAMPLINGS = {
    "temperature": Sampling(0.7, seed=11),
    "top_k": Sampling(1.0, top_k=4, seed=12),
    "top_p": Sampling(1.3, top_p=0.8, seed=13),
    "all": Sampling(0.6, top_k=6, top_p=0.9, seed=14),
}


@given(logits_rows(), samplings(), st.integers(0, 2**40))
def test_the_fast_form_is_the_plain_one(rows: npt.NDArray[np.float32], sampling: Sampling, position: int) -> None:
    """Ties, -inf, huge ranges, small and large vocabularies."""
    for row in rows[:2]:
        expected = int(noisy(row, sampling, position).argmax())
        assert choose(row, sampling, position).token == sample(row, sampling, position) == expected


@pytest.mark.parametrize("spread", [0.0, 1e-3, 1.0, 4.0, 12.0])
@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (50, 1.0), (5000, 1.0), (0, 0.95), (0, 0.99999), (50, 0.9)])
def test_a_whole_vocabulary(spread: float, top_k: int, top_p: float) -> None:
    """As large as real ones, flat to peaked."""
    logits = np.random.default_rng(5).normal(0, spread, 49_152).astype(np.float32)
    for position, temperature in enumerate((0.3, 0.8, 1.0, 1.5, 100.0)):
        sampling = Sampling(temperature, top_k, top_p, 3)
        assert sample(logits, sampling, position) == int(noisy(logits, sampling, position).argmax())


def test_greedy_takes_the_lowest_id_of_the_highest() -> None:
    """And its scores are the logits."""
    assert choose(_LOGITS, GREEDY, 0).token == 2
    assert noisy(_LOGITS, GREEDY, 0).tolist() == _LOGITS.tolist()


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(1.0, top_k=1), [2]),
        (Sampling(1.0, top_k=2), [2, 4]),
        (Sampling(1.0, top_k=3), [0, 2, 4]),
        (Sampling(1.0, top_k=99), list(range(10))),
        (Sampling(1.0, top_p=0.01), [2]),
        (Sampling(1e-310), [2, 4]),
        (Sampling(1e-300, top_p=0.5), [2]),
        (Sampling(1e-300, top_p=0.501), [2, 4]),
        (Sampling(1.0, top_k=2, top_p=0.5), [2]),
    ],
)
def test_what_is_kept(sampling: Sampling, kept: list[int]) -> None:
    """Exactly k, the lower id first on ties; the fewest that reach top_p of what top-k left."""
    assert np.flatnonzero(np.isfinite(noisy(_LOGITS, sampling, 0))).tolist() == kept


def test_top_p_of_equal_logits_is_exact() -> None:
    """Nine of ten equal ones are 0.9, without a tenth for the sake of rounding."""
    for top_p, size in ((0.1, 1), (0.5, 5), (0.9, 9), (0.91, 10)):
        kept = np.isfinite(noisy(np.zeros(10, np.float32), Sampling(1.0, top_p=top_p), 0))
        assert np.flatnonzero(kept).tolist() == list(range(size))


def test_how_sure_the_model_was() -> None:
    """By the softmax of the raw logits, whatever the sampling."""
    chances = np.exp(_LOGITS.astype(np.float64)) / np.exp(_LOGITS.astype(np.float64)).sum()
    for sampling in (GREEDY, *_SAMPLINGS.values()):
        choice = choose(_LOGITS, sampling, 3)
        assert choice.confidence == pytest.approx(chances[choice.token], rel=1e-6)
        assert choice.entropy == pytest.approx(-(chances * np.log(chances)).sum(), rel=1e-6)
        assert choice.margin == pytest.approx(0, abs=1e-7)
    peaked = choose(np.array([0.0, 3.0, -np.inf], np.float32), GREEDY, 0)
    assert peaked.confidence == pytest.approx(1 / (1 + math.exp(-3)))
    assert peaked.margin == pytest.approx(math.tanh(1.5), rel=1e-6)
    alone = choose(np.array([7.0], np.float32), GREEDY, 0)
    assert (alone.confidence, alone.entropy, alone.margin) == (1.0, 0.0, 1.0)


@pytest.mark.parametrize(
    "bad", [[1.0, math.nan], [math.nan, 1.0], [math.inf, 0.0], [-math.inf, -math.inf], [], [[1.0]]]
)
@pytest.mark.parametrize("sampling", [GREEDY, Sampling(1.0)])
def test_what_is_no_row_of_numbers_is_refused(bad: list[float], sampling: Sampling) -> None:
    """By both forms alike."""
    for form in (choose, noisy, sample):
        with pytest.raises(ValueError, match=r"must be one row|not a number"):
            form(np.array(bad, dtype=np.float32), sampling, 0)


@pytest.mark.parametrize("name", _SAMPLINGS)
def test_tokens_follow_the_distribution(name: str) -> None:
    """Over positions of one seed, and over seeds at one position."""
    sampling = _SAMPLINGS[name]
    over_positions = [sample(_LOGITS, sampling, position) for position in range(3000)]
    over_seeds = [
        sample(_LOGITS, Sampling(sampling.temperature, sampling.top_k, sampling.top_p, seed), 7) for seed in range(3000)
    ]
    for tokens in (over_positions, over_seeds):
        assert chi_square(np.bincount(tokens, minlength=10), target(_LOGITS, sampling)) > 1e-3


def _draw(sampling: Sampling, noise: Callable[[npt.NDArray[np.uint32]], Numbers] = gumbel_of) -> npt.NDArray[np.int64]:
    """Count what 20,000 positions choose; the rule once more, for all of them at once."""
    positions = np.broadcast_to(np.arange(20_000)[:, None], (20_000, 10))
    words = philox(np.broadcast_to(np.arange(10), positions.shape), positions, sampling.seed)
    kept = np.isfinite(noisy(_LOGITS, sampling, 0))
    scores = np.where(kept, _LOGITS / sampling.temperature, -np.inf) + noise(words)
    return np.bincount(scores.argmax(1), minlength=10)


_RIGHT = _SAMPLINGS["all"]
_RULES: dict[str, Callable[[], npt.NDArray[np.int64]]] = {
    "right": lambda: _draw(_RIGHT),
    "noise of one position for all": lambda: _draw(_RIGHT, lambda words: np.tile(gumbel_of(words[:1]), (20_000, 1))),
    "one noise for all tokens": lambda: _draw(_RIGHT, lambda words: np.tile(gumbel_of(words[:, :1]), (1, 10))),
    "exponential noise": lambda: _draw(_RIGHT, lambda words: -np.log((words + 0.5) / 2**32)),
    "noise of the wrong sign": lambda: _draw(_RIGHT, lambda words: -gumbel_of(words)),
    "temperature after the noise": lambda: _draw(_RIGHT, lambda words: gumbel_of(words) / _RIGHT.temperature),
    "no temperature": lambda: _draw(Sampling(1.0, _RIGHT.top_k, _RIGHT.top_p, 5)),
    "one more than top-k": lambda: _draw(Sampling(_RIGHT.temperature, _RIGHT.top_k + 1, 1.0, 5)),
    "one less than top-k": lambda: _draw(Sampling(_RIGHT.temperature, 4, _RIGHT.top_p, 5)),
    "no top-p": lambda: _draw(Sampling(_RIGHT.temperature, _RIGHT.top_k, 1.0, 5)),
    "noise of eight bits": lambda: _draw(_RIGHT, lambda words: gumbel_of((words >> 29 << 29).astype(np.uint32))),
}


@pytest.mark.parametrize("rule", _RULES)
def test_a_wrong_rule_is_found_out(rule: str) -> None:
    """The right one is not: the test of the distribution can fail, and on a good sampler it does not."""
    chance = chi_square(_RULES[rule](), target(_LOGITS, _RIGHT))
    assert chance > 1e-3 if rule == "right" else chance < 1e-6
