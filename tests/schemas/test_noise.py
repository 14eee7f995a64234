"""The sampling noise, against the definition of Philox and known answers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.noise import LEAST, MOST, Numbers, gumbel, gumbel_of, philox
from tests.schemas.pearson import chi_square

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

_FULL = 0xFFFFFFFF


def _philox4x32(counter: list[int], key: list[int]) -> list[int]:
    """Ten rounds, as the paper writes them."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        left, right = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (right >> 32) ^ c1 ^ k0, right & _FULL, (left >> 32) ^ c3 ^ k1, left & _FULL
        k0, k1 = (k0 + 0x9E3779B9) & _FULL, (k1 + 0xBB67AE85) & _FULL
    return [c0, c1, c2, c3]


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_the_reference_gives_the_known_answers(counter: str, key: str, expected: str) -> None:
    """Those of Random123's kat_vectors; the reference in turn judges the fast form."""
    words = [[int(word, 16) for word in text.split()] for text in (counter, key, expected)]
    assert _philox4x32(words[0], words[1]) == words[2]


@given(st.lists(st.integers(0, 2**32 - 1), max_size=5), st.integers(0, 2**53 - 1), st.integers(0, 2**64 - 1))
def test_words_are_the_first_of_the_reference(tokens: list[int], position: int, seed: int) -> None:
    """Seed low, seed high is the key; token, position (low 32 bits), 0, 0 the counter."""
    expected = [_philox4x32([token, position & _FULL, 0, 0], [seed & _FULL, seed >> 32])[0] for token in tokens]
    ids = np.array(tokens, dtype=np.int64)
    assert philox(ids, position, seed).tolist() == expected
    positions, seeds = np.full(len(ids), position), np.full(len(ids), seed, dtype=np.uint64)
    assert philox(ids, positions, seeds).tolist() == expected


def test_many_tokens_are_those_of_few() -> None:
    """Pieces fit together, in any shape and integer type."""
    ids = np.arange(20_000)
    words = philox(ids, 3, 2**62 + 5)
    assert words.dtype == np.uint32
    assert words[[0, 8191, 8192, 19_999]].tolist() == philox(np.array([0, 8191, 8192, 19_999]), 3, 2**62 + 5).tolist()
    assert philox(ids.reshape(100, 200).astype(np.int32), 3, 2**62 + 5).tolist() == words.reshape(100, 200).tolist()


@pytest.mark.parametrize(
    ("seed", "position", "token", "word", "noise"),
    [
        (0, 0, 0, 0x6627E8D5, 0.08482025111138775),
        (1, 0, 0, 0xE3E80670, 2.152075435130231),
        (1, 2, 3, 0xF87DFF44, 3.514385686557572),
        (2**63 - 1, 1023, 49151, 0x39C5F9AC, -0.3978696717323912),
        (0x0123456789ABCDEF, 511, 128_000, 0x7498C8B9, 0.24021913114264554),
    ],
)
def test_golden(seed: int, position: int, token: int, word: int, noise: float) -> None:
    """Fixed for ever: another noise would be another text for the same seed."""
    ids = np.array([token])
    assert int(philox(ids, position, seed)[0]) == word
    assert float(gumbel(ids, position, seed)[0]) == pytest.approx(noise, rel=1e-14)


def test_the_range_of_the_noise() -> None:
    """Its ends are those of the words, and what the design names."""
    ends = gumbel_of(np.array([0, 2**32 - 1], dtype=np.uint32))
    assert ends.tolist() == pytest.approx([LEAST, MOST], rel=1e-12)
    assert -3.2 < LEAST < MOST < 22.9
    middle = gumbel_of(np.array([2**31], dtype=np.uint32))[0]
    assert middle == pytest.approx(-math.log(math.log(2)), rel=1e-9)


_SAMPLES = {
    "tokens": lambda: philox(np.arange(200_000), 5, 77),
    "positions": lambda: philox(np.full(200_000, 42), np.arange(200_000), 77),
    "seeds": lambda: philox(np.full(200_000, 42), 5, np.arange(200_000)),
    "high halves of seeds": lambda: philox(np.full(200_000, 42), 5, np.arange(200_000) << 32),
}


@pytest.mark.parametrize("along", _SAMPLES)
def test_words_are_uniform_along_every_axis(along: str) -> None:
    """High bits, low bits, and pairs of neighbours."""
    words = _SAMPLES[along]()
    for values in (words >> 24, words & 255, (words[:-1:2] >> 28) * 16 + (words[1::2] >> 28)):
        assert chi_square(np.bincount(values, minlength=256), np.full(256, 1 / 256)) > 1e-3


@pytest.mark.parametrize("along", _SAMPLES)
def test_the_noise_follows_gumbel(along: str) -> None:
    """P(G < g) = exp(-e⁻ᵍ), in bins of width 1/4."""
    assert chi_square(*_binned(gumbel_of(_SAMPLES[along]()))) > 1e-3


@pytest.mark.parametrize(
    "wrong",
    [
        lambda uniform: -np.log(1 - uniform),  # exponential noise
        lambda uniform: np.log(-np.log(uniform)),  # the sign forgotten
        lambda uniform: -np.log(-np.log(np.sqrt(uniform))),  # shifted by log 2
        lambda uniform: -1.02 * np.log(-np.log(uniform)),  # 2 % too wide
    ],
)
def test_other_noise_is_found_out(wrong: Callable[[Numbers], Numbers]) -> None:
    """The test above can fail."""
    uniform = (philox(np.arange(200_000), 5, 77) + 0.5) / 2**32
    assert chi_square(*_binned(wrong(uniform))) < 1e-6


def _binned(values: Numbers) -> tuple[npt.NDArray[np.int64], Numbers]:
    edges = np.arange(-1.5, 6.1, 0.25)
    below = np.concatenate([[0.0], np.exp(-np.exp(-edges)), [1.0]])
    return np.bincount(np.searchsorted(edges, values), minlength=len(below) - 1), np.diff(below)
