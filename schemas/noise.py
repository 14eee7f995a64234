"""Sampling noise that both sides compute alike: one number for each session seed, output position and token.

The word behind it is the first of Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC11),
a generator without state: the seed is the key, token id and output position are the counter. So any machine gets the
noise of any token at any position without computing another, and the same seed gives the same text whoever drafts and
whatever breaks.
"""

from __future__ import annotations

import math
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

Words: TypeAlias = npt.NDArray[np.uint32]
Integers: TypeAlias = npt.NDArray[np.integer]
Numbers: TypeAlias = npt.NDArray[np.float64]

_ROUNDS = 10
_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_KEY_STEPS = tuple(np.arange(_ROUNDS, dtype=np.uint64) * np.uint64(step) for step in (0x9E3779B9, 0xBB67AE85))
"""What is added to each key word before each round, of which the low halves count."""

_PIECE = 8192
"""Tokens computed together: their few 64-bit words stay in the second-level cache."""

_RESOLUTION = 2.0**32

LEAST: Final = -math.log(-math.log(0.5 / _RESOLUTION))
"""The smallest noise there is, -3.13."""

MOST: Final = -math.log(-math.log((_RESOLUTION - 0.5) / _RESOLUTION))
"""The largest noise there is, 22.87. A score more than MOST - LEAST below another loses whatever their words are."""


def philox(tokens: Integers, position: int | Integers, seed: int | Integers) -> Words:
    """Return the first word of Philox4x32-10 for each token.

    Args:
        tokens: token ids, any shape; the first counter word is their low 32 bits.
        position: output position, from 0; its low 32 bits are the second counter word. The other two are zero.
        seed: 64 bits, the low half of which is the first key word.

    Returns:
        x, in the shape of `tokens`. Positions and seeds may be arrays of that shape too.
    """
    flat = np.ascontiguousarray(tokens).reshape(-1)
    words = np.empty(flat.shape, np.uint32)
    for start in range(0, len(flat), _PIECE):
        piece = slice(start, start + _PIECE)
        words[piece] = _first_word(flat[piece].astype(np.uint64), _piece(position, piece), _piece(seed, piece))
    return words.reshape(tokens.shape)


def gumbel(tokens: Integers, position: int | Integers, seed: int | Integers) -> Numbers:
    """Return the noise G = -log(-log u), u = (x + 0.5) / 2³², of each token (arguments as `philox`).

    G follows the standard Gumbel distribution up to the 2⁻³² resolution of u, so that the token with the largest
    score + G is drawn from the softmax of the scores (Gumbel, 1954; "the Gumbel-max trick").
    """
    return gumbel_of(philox(tokens, position, seed))


def gumbel_of(words: Words) -> Numbers:
    """Return the noise that belongs to words of `philox`, in float64 throughout."""
    noise = words.astype(np.float64)
    noise += 0.5
    noise /= _RESOLUTION
    np.log(noise, out=noise)
    np.negative(noise, out=noise)
    np.log(noise, out=noise)
    return np.negative(noise, out=noise)


def _piece(value: int | Integers, piece: slice) -> np.uint64 | npt.NDArray[np.uint64]:
    if isinstance(value, np.ndarray):
        return value.reshape(-1)[piece].astype(np.uint64)
    return np.uint64(value & 0xFFFFFFFFFFFFFFFF)


def _first_word(
    token: npt.NDArray[np.uint64],
    position: np.uint64 | npt.NDArray[np.uint64],
    seed: np.uint64 | npt.NDArray[np.uint64],
) -> npt.NDArray[np.uint64]:
    """Ten rounds, less what the zero counter words and the three unused words of the result leave out.

    A round takes the words (c0, c1, c2, c3) to (hi(m1·c2) ^ c1 ^ k0, lo(m1·c2), hi(m0·c0) ^ c3 ^ k1, lo(m0·c0)) and
    moves the key on by a constant. Words c1 and c3 are only ever low halves of products, so the products stand for
    them here, and their high halves are masked away after the exclusive or.
    """
    m0, m1 = _MULTIPLIERS
    k0, k1 = _keys(seed & _LOW, 0), _keys(seed >> _HALF, 1)
    # Round 1: c2 = c3 = 0, so its first two words are (position ^ k0, 0).
    spare = token & _LOW
    spare *= m0
    common = m0 * ((position & _LOW) ^ k0[0])
    # Round 2, whose first product is the same for all tokens of a position.
    c1 = spare >> _HALF
    c1 ^= k1[0]
    c1 *= m1
    c0 = c1 >> _HALF
    c0 ^= k0[1]
    c2 = spare & _LOW
    c2 ^= (common >> _HALF) ^ k1[1]
    c3 = np.empty_like(c0)
    c3[...] = common
    for number in range(2, _ROUNDS - 2):
        c0 *= m0
        c2 *= m1
        _mix(c1, np.right_shift(c2, _HALF, out=spare), k0[number])
        _mix(c3, np.right_shift(c0, _HALF, out=spare), k1[number])
        c0, c1, c2, c3 = c1, c2, c3, c0
    # Round 9 without its first word, and round 10 for its first word alone.
    c0 *= m0
    c2 *= m1
    _mix(c3, np.right_shift(c0, _HALF, out=spare), k1[-2])
    c3 *= m1
    return _mix(c2, np.right_shift(c3, _HALF, out=spare), k0[-1])


def _mix(
    word: npt.NDArray[np.uint64], high: npt.NDArray[np.uint64], key: np.uint64 | npt.NDArray[np.uint64]
) -> npt.NDArray[np.uint64]:
    """Set `word` to the low half of word ^ high ^ key."""
    word ^= high
    word ^= key
    word &= _LOW
    return word


def _keys(first: np.uint64 | npt.NDArray[np.uint64], which: int) -> npt.NDArray[np.uint64]:
    """Return one key word of each round, shape [rounds, ...]."""
    steps = _KEY_STEPS[which]
    keys: npt.NDArray[np.uint64] = (steps.reshape(-1, *(1,) * np.ndim(first)) + first) & _LOW
    return keys
