"""The compiled winner is the one the rule has, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.choice import noisy, sample
from schemas.messages import Sampling
from schemas.noise import philox
from verifier.engine import race
from verifier.engine.race import LEAST_TEMPERATURE, _fill, nucleus_winner, winner


def row(seed: int, width: int, spread: float) -> np.ndarray:
    return (np.random.default_rng(seed).normal(0, 1, width) * spread).astype(np.float32)


@given(
    seed=st.integers(0, 2**63 - 1),
    position=st.integers(0, 2**33),
    temperature=st.sampled_from([1e-9, LEAST_TEMPERATURE, 0.1, 0.8, 1.0, 1.5, 10.0, 100.0]),
    width=st.sampled_from([1, 2, 63, 64, 65, 1000, 49152]),
    spread=st.sampled_from([0.0, 1e-6, 1.0, 5.0, 100.0, 1e30]),
)
def test_winner_is_the_rules(seed: int, position: int, temperature: float, width: int, spread: float) -> None:
    logits = row(seed % 1000, width, spread)
    sampling = Sampling(temperature, 0, 1.0, seed)
    assert winner(logits, sampling, position) == int(noisy(logits, sampling, position).argmax())


def mass(logits: np.ndarray, temperature: float) -> float:
    return float(np.exp((logits.astype(np.float64) - logits.max()) / temperature).sum())


@given(
    seed=st.integers(0, 2**63 - 1),
    temperature=st.sampled_from([1e-9, LEAST_TEMPERATURE, 0.8, 1.5, 100.0]),
    top_p=st.sampled_from([1e-9, 0.05, 0.5, 0.95, 1 - 1e-12]),
    width=st.sampled_from([1, 2, 63, 65, 1000]),
    spread=st.sampled_from([0.0, 1e-6, 1.0, 5.0, 1e30]),
    steps=st.sampled_from([0, 3]),
)
def test_nucleus_winner_is_the_rules(
    seed: int, temperature: float, top_p: float, width: int, spread: float, steps: int
) -> None:
    logits = row(seed % 1000, width, spread)
    if steps:  # many equal scores, so that it matters which of them top-p keeps
        logits = np.round(logits / max(spread, 1) * steps).astype(np.float32)
    sampling = Sampling(temperature, 0, top_p, seed)
    assert nucleus_winner(logits, sampling, 3, mass(logits, temperature)) == int(noisy(logits, sampling, 3).argmax())


def test_nucleus_winner_sorts_nothing_unless_it_must(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def plain(logits: np.ndarray, sampling: Sampling, position: int) -> int:
        asked.append(position)
        return sample(logits, sampling, position)

    monkeypatch.setattr(race, "sample", plain)
    logits = row(1, 49152, 1.0)
    total = mass(logits, 1.5)
    for position in range(40):
        sampling = Sampling(1.5, 0, 0.95, 7)
        assert nucleus_winner(logits, sampling, position, total) == sample(logits, sampling, position)
    assert not asked


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_winner_over_many_rows(temperature: float) -> None:
    for position in range(200):
        logits = row(position, 5000, 3.0)
        sampling = Sampling(temperature, 0, 1.0, 77)
        assert winner(logits, sampling, position) == sample(logits, sampling, position)


def test_tokens_that_cannot_be_are_never_taken() -> None:
    logits = np.full(300, -np.inf, np.float32)
    logits[[7, 200]] = 0.0
    taken = {winner(logits, Sampling(1.0, 0, 1.0, 5), position) for position in range(50)}
    assert taken == {7, 200}


def test_words_are_those_of_the_noise() -> None:
    words = np.empty(64, np.uint64)
    for seed in (0, 1, 2**32, 2**63 - 1):
        _fill(128, np.uint64(9), np.uint64(seed), words)
        assert np.array_equal(words, philox(np.arange(128, 192), 9, seed))
