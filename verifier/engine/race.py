"""The winner among all tokens of a row, for sampling that leaves out none, or few: compiled, for logits on a CPU.

Without top-k and top-p, tens of thousands of tokens may still win, and each needs its word of noise, 160 rows of them
in a step of 32 sessions. numpy takes some eighty passes for that. Compiled, a tile of tokens is one pass through
registers, and most tiles end after it: the largest word of a tile says how much noise any of its tokens has at most.

Only the words and the bounds are computed here. The few tokens that are left are compared by `schemas.noise` itself, so
that the token is, to the last bit, the one that `schemas.choice` has.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numba
import numpy as np

from schemas.choice import sample, scaled
from schemas.messages import Sampling
from schemas.noise import MOST, gumbel_of

if TYPE_CHECKING:
    import numpy.typing as npt

LEAST_TEMPERATURE: Final = 1e-3
"""Below it scores are too large to be bounded in float64; the plain way is fast there, since few tokens can win."""

_TILE = 64
_KEPT = 1024
_ROUGHNESS = 1e-4
"""Of all mass; far more than what float32 gets wrong in the exponentials and their sum."""
_SLACK = 1e-6
"""The bounds are kept so much too low, which is far more than their rounding."""
_WORDS = 2.0**32
_LAST_WORD = np.int64(0xFFFFFFFF)
_LIMITS = np.array([int(math.exp(-need) * _WORDS) + 2 for need in range(math.ceil(MOST) + 1)])
"""G is at least n only if the word is no further than limits[n] from the last one: G ≤ -log(1 - u)."""


def winner(logits: npt.NDArray[np.float32], sampling: Sampling, position: int) -> int:
    """Return the token of `schemas.choice.sample`, for sampling with neither top-k nor top-p.

    Args:
        logits: [V], the highest of them finite.
        sampling: temperature and seed count.
        position: output position of the token, from 0.
    """
    if sampling.temperature < LEAST_TEMPERATURE:
        return sample(logits, sampling, position)
    highest = float(logits.max())
    tokens, words = np.empty(_KEPT, np.int64), np.empty(_KEPT, np.uint32)
    key, place = np.uint64(sampling.seed), np.uint64(position & 0xFFFFFFFF)
    count = _leaders(np.ascontiguousarray(logits), highest, sampling.temperature, place, key, _LIMITS, tokens, words)
    if count > _KEPT:
        return sample(logits, sampling, position)
    tokens = tokens[:count]
    drawn = scaled(logits[tokens].astype(np.float64), highest, sampling.temperature) + gumbel_of(words[:count])
    return int(tokens[drawn == drawn.max()].min())


def nucleus_winner(logits: npt.NDArray[np.float32], sampling: Sampling, position: int, total: float) -> int:
    """Return the token of `schemas.choice.sample`, for sampling with top-p alone, where top-p leaves out little.

    Whoever wins among all tokens wins among those that top-p keeps, if it is one of them; it is if all that go before
    it have less than `top_p` of the mass. If not, neither is any that goes after it, and the race is run again without
    these. So nothing need be sorted, unless float32 cannot tell.

    Args:
        logits: [V], the highest of them finite.
        sampling: temperature, top_p and seed count.
        position: output position of the token, from 0.
        total: mass of all tokens, e^(score - highest score) summed, as float32 has it.
    """
    if sampling.temperature < LEAST_TEMPERATURE:
        return sample(logits, sampling, position)
    highest, running = logits.max(), logits
    while True:
        token = winner(running, sampling, position)
        height = logits[token]
        higher = logits[logits > height]
        above = float(np.exp((higher - highest) / np.float32(sampling.temperature)).sum())
        equals = np.count_nonzero(logits == height) - 1
        beside = equals * math.exp((height - highest) / sampling.temperature)
        if above + beside < (sampling.top_p - _ROUGHNESS) * total:
            return token  # kept, however its equals are ordered
        if above < (sampling.top_p + _ROUGHNESS) * total:
            return sample(logits, sampling, position)
        running = np.where(logits > height, logits, np.float32(-np.inf))


def warm_up() -> None:
    """Compile, or load what was compiled before, so that the first sampled request does not wait for it: seconds."""
    winner(np.zeros(_TILE, np.float32), Sampling(temperature=1.0), 0)


@numba.njit(inline="always")  # type: ignore[untyped-decorator]
def _round(
    c0: np.uint64, c1: np.uint64, c2: np.uint64, c3: np.uint64, k0: np.uint64, k1: np.uint64
) -> tuple[np.uint64, np.uint64, np.uint64, np.uint64]:
    """One round of Philox4x32 (see `schemas.noise`); words are the low halves of 64 bits."""
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    p0, p1 = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
    return (p1 >> half) ^ c1 ^ k0, p1 & low, (p0 >> half) ^ c3 ^ k1, p0 & low


@numba.njit(inline="always")  # type: ignore[untyped-decorator]
def _next(k0: np.uint64, k1: np.uint64) -> tuple[np.uint64, np.uint64]:
    """The key words of the next round."""
    low = np.uint64(0xFFFFFFFF)
    return (k0 + np.uint64(0x9E3779B9)) & low, (k1 + np.uint64(0xBB67AE85)) & low


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _fill(start: int, position: np.uint64, seed: np.uint64, words: npt.NDArray[np.uint64]) -> None:
    """Set `words` to the first words for the tokens from `start` on. Written out, the rounds become vector code."""
    nothing = np.uint64(0)
    a0, a1 = seed & np.uint64(0xFFFFFFFF), seed >> np.uint64(32)
    b0, b1 = _next(a0, a1)
    d0, d1 = _next(b0, b1)
    e0, e1 = _next(d0, d1)
    f0, f1 = _next(e0, e1)
    g0, g1 = _next(f0, f1)
    h0, h1 = _next(g0, g1)
    i0, i1 = _next(h0, h1)
    j0, j1 = _next(i0, i1)
    k0, k1 = _next(j0, j1)
    for index in range(_TILE):
        w0, w1, w2, w3 = np.uint64(start + index), position, nothing, nothing
        w0, w1, w2, w3 = _round(w0, w1, w2, w3, a0, a1)
        w0, w1, w2, w3 = _round(w0, w1, w2, w3, b0, b1)
        w0, w1, w2, w3 = _round(w0, w1, w2, w3, d0, d1)
        w0, w1, w2, w3 = _round(w0, w1, w2, w3, e0, e1)
        w0, w1, w2, w3 = _round(w0, w1, w2, w3, f0, f1)
        w0, w1, w2, w3 = _round(w0, w1, w2, w3, g0, g1)
        w0, w1, w2, w3 = _round(w0, w1, w2, w3, h0, h1)
        w0, w1, w2, w3 = _round(w0, w1, w2, w3, i0, i1)
        w0, w1, w2, w3 = _round(w0, w1, w2, w3, j0, j1)
        w0, w1, w2, w3 = _round(w0, w1, w2, w3, k0, k1)
        words[index] = w0


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _leaders(  # noqa: C901 -- one loop, so that it becomes one piece of machine code
    logits: npt.NDArray[np.float32],
    highest: float,
    temperature: float,
    position: np.uint64,
    seed: np.uint64,
    limits: npt.NDArray[np.int64],
    tokens: npt.NDArray[np.int64],
    found: npt.NDArray[np.uint32],
) -> int:
    """Note every token that leads when it is reached, up to a little slack: the winner is the last of them or ties.

    Args:
        logits: [V].
        highest: of them.
        temperature: at least `LEAST_TEMPERATURE`.
        position: of the noise.
        seed: of the noise.
        limits: as `_LIMITS`.
        tokens: [K], set to the tokens noted.
        found: [K], set to their words.

    Returns:
        how many were noted; more than K if there was no room.
    """
    width, count = len(logits), 0
    words = np.empty(_TILE, np.uint64)
    inverse = 1.0 / temperature
    bound = -1e300
    for start in range(0, width, _TILE):
        end = min(start + _TILE, width)
        top = logits[start]
        for token in range(start, end):
            if logits[token] > top:  # noqa: PLR1730 -- so it becomes vector code
                top = logits[token]
        base = bound + highest * inverse - _SLACK  # the noise that a token needs is this less its logit / temperature
        least = base - np.float64(top) * inverse
        if least > MOST:
            continue
        _fill(start, position, seed, words)
        if least > 0:
            largest = words[0]
            for word in words:
                largest = max(largest, word)
            if _LAST_WORD - np.int64(largest) > limits[np.int64(least)]:
                continue
        for token in range(start, end):
            need = base - np.float64(logits[token]) * inverse
            word = words[token - start]
            if need > MOST or (need > 0 and _LAST_WORD - np.int64(word) > limits[np.int64(need)]):
                continue
            drawn = (np.float64(logits[token]) - highest) / temperature - math.log(
                -math.log((np.float64(word) + 0.5) / _WORDS)
            )
            if drawn < bound - _SLACK:
                continue
            bound = max(bound, drawn - _SLACK)
            if count < len(tokens):
                tokens[count] = token
                found[count] = word
            count += 1
    return count
