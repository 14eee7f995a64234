"""Choosing the next token from logits: the one statement of the rule, which both sides follow.

Greedy (temperature 0) takes the highest logit, the lowest id on ties. Sampling at output position i goes:

1. scores = (logits - highest logit) / temperature, in float64. (The usual logits / temperature, moved so that no
   temperature however small makes it overflow; only differences count.)
2. top-k keeps the k tokens of the highest logits, exactly k of them: the lower id goes first among equal logits.
3. top-p keeps the fewest of those, in the same order, whose probabilities reach top_p together. Probabilities are the
   softmax of the scores that top-k kept.
4. The token with the largest score + G wins, the lowest id on ties. G is `schemas.noise.gumbel` of (token, i).

`noisy` says this in a few plain lines; `choose` gets the same token faster, leaving out what cannot matter.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from schemas.noise import LEAST, MOST, Integers, Numbers, Words, gumbel, gumbel_of, philox

if TYPE_CHECKING:
    from schemas.messages import Sampling

_BLOCK = 64
"""Logits reduced together to their maximum, which is cheap and bounds what the block holds."""

_FLOOR = -80.0
"""Differences of logits below it count as this: e⁻⁸⁰ is nothing in float32, and still no slow subnormal number."""

_LEVELS = (1e-2, 1e-4, 1e-6, 0.0)
"""Top-p looks for its tokens among those so likely, relative to the best; among all if they do not reach top_p."""

_FIRST = 256
"""So many of the best tokens get their noise first; it bounds what the winner must reach."""


class Choice(Struct, frozen=True):
    """A token, and how sure the model was.

    Attributes:
        token: its id.
        confidence: its probability under the softmax of the raw logits, whatever the sampling.
        entropy: of that softmax, in nats.
        margin: the difference of its two largest probabilities.
    """

    token: int
    confidence: float
    entropy: float
    margin: float


def choose(logits: npt.NDArray[np.floating], sampling: Sampling, position: int) -> Choice:
    """Return the token that follows, as `argmax(noisy(...))` has it.

    Args:
        logits: [V], float32 or what converts to it; the rule's float64 starts from there.
        sampling: the session's parameters and seed.
        position: output position of the token, from 0.

    Raises:
        ValueError: `logits` are empty or hold NaN or +inf, or no token is possible since all are -inf.
    """
    single = logits.astype(np.float32, copy=False)
    best = _highest(single)
    token = _take(single, best, sampling, position)
    return _with_certainty(single, best, token)


def sample(logits: npt.NDArray[np.floating], sampling: Sampling, position: int) -> int:
    """Return the token of `choose` alone (arguments and errors as there)."""
    single = logits.astype(np.float32, copy=False)
    return _take(single, _highest(single), sampling, position)


def noisy(logits: npt.NDArray[np.floating], sampling: Sampling, position: int) -> Numbers:
    """Return the scores [V] whose argmax is the token; the rule in its plainest form (arguments as `choose`).

    Greedy sampling: the logits themselves. Otherwise score + G, in units of logits / temperature and at most MOST;
    -inf for the tokens that top-k and top-p leave out.

    Raises:
        ValueError: as `choose`.
    """
    best = _highest(logits)
    values = logits.astype(np.float32).astype(np.float64)
    if sampling.temperature == 0:
        return values
    scores = scaled(values, float(values[best]), sampling.temperature)
    kept = np.argsort(-values, kind="stable")  # stable: equal logits stay in the order of their ids
    if sampling.top_k:
        kept = kept[: sampling.top_k]
    if sampling.top_p < 1:
        kept = kept[: nucleus(np.exp(scores[kept]), sampling.top_p)]
    result = np.full(len(values), -np.inf)
    result[kept] = scores[kept] + gumbel(kept, position, sampling.seed)
    return result


def scaled(values: Numbers, highest: float, temperature: float) -> Numbers:
    """Return the scores of float64 logits."""
    with np.errstate(over="ignore"):  # what overflows to -inf cannot win
        result: Numbers = (values - highest) / temperature
    return result


def nucleus(weights: Numbers, top_p: float, total: float | None = None) -> int:
    """Return how many leading weights reach `top_p` of the total; more than there are if all together do not.

    Args:
        weights: [n] unnormalised probabilities, the largest first.
        top_p: share to reach.
        total: what they are a share of; None for their own sum.
    """
    mass = np.cumsum(weights)
    return int(np.searchsorted(mass, top_p * (mass[-1] if total is None else total))) + 1


def _highest(logits: npt.NDArray[np.floating]) -> int:
    """Return the lowest id of the highest logit.

    Raises:
        ValueError: there is none, or it is not a number.
    """
    if logits.ndim != 1 or not len(logits):
        raise ValueError(f"Logits must be one row of at least one number, not an array of shape {logits.shape}.")
    best = int(logits.argmax())  # the first NaN, if there is one
    if not math.isfinite(logits[best]):
        raise ValueError(f"The highest logit is {logits[best]}, not a number; the model's weights are damaged.")
    return best


def _with_certainty(logits: npt.NDArray[np.float32], best: int, token: int) -> Choice:
    """Measure how sure the model was; float32 will do for that."""
    below = logits - logits[best]
    np.maximum(below, np.float32(_FLOOR), out=below)
    weights = np.exp(below)
    total = float(weights.sum())
    second = max((float(part.max()) for part in (weights[:best], weights[best + 1 :]) if len(part)), default=0.0)
    entropy = math.log(total) - float(below @ weights) / total
    return Choice(token, float(weights[token]) / total, max(0.0, entropy), (1.0 - second) / total)


def _take(logits: npt.NDArray[np.float32], best: int, sampling: Sampling, position: int) -> int:
    temperature, top_k, top_p = sampling.temperature, sampling.top_k, sampling.top_p
    if temperature == 0:
        return best
    highest = float(logits[best])
    if top_k and top_k < len(logits):
        tokens = _top_k(logits, top_k)
        scores = scaled(logits[tokens].astype(np.float64), highest, temperature)
        if top_p < 1:
            kept = _largest(scores, nucleus(np.exp(_falling(scores)), top_p))
            tokens, scores = tokens[kept], scores[kept]
    elif top_p < 1:
        scores = scaled(logits.astype(np.float64), highest, temperature)
        tokens = _top_p(scores, top_p)
        scores = scores[tokens]
    else:
        # A little lower than the rule's arithmetic has it, since this compares in float32.
        cut = highest - 1.0001 * (MOST - LEAST) * temperature - 1e-6 * abs(highest)
        tokens = np.flatnonzero(logits >= cut)
        scores = scaled(logits[tokens].astype(np.float64), highest, temperature)
    return winner(tokens, scores, position, sampling.seed)


def _top_k(logits: npt.NDArray[np.float32], k: int) -> Integers:
    """Return the k tokens of the highest logits by rising id; of equal logits, those of lower ids go first."""
    whole = len(logits) - len(logits) % _BLOCK
    highs = logits[:whole].reshape(-1, _BLOCK).max(1)
    if k <= len(highs):
        # k blocks hold a logit of at least this height each.
        tokens = np.flatnonzero(logits >= np.partition(highs, len(highs) - k)[len(highs) - k])
    else:
        tokens = np.arange(len(logits))
    return tokens[_largest(logits[tokens], k)]


def _top_p(scores: Numbers, top_p: float) -> Integers:
    """Return the most likely tokens that reach `top_p` by rising id; of equal scores, those of lower ids go first."""
    weights = np.exp(scores)
    total = float(weights.sum())
    for least in _LEVELS:
        tokens = np.flatnonzero(weights >= least)
        if least and float(weights[tokens].sum()) < top_p * total:
            continue  # a sum costs less than a search among too few
        near = scores[tokens]
        size = nucleus(np.exp(_falling(near)), top_p, total)
        if size <= len(near):
            return tokens[_largest(near, size)]
    return tokens


def _falling(scores: Numbers) -> Numbers:
    return np.sort(scores)[::-1]


def _largest(values: npt.NDArray[np.floating], size: int) -> npt.NDArray[np.bool_]:
    """Mark the `size` largest values; of those equal to the last, the first ones."""
    least = np.partition(values, len(values) - size)[len(values) - size]
    kept: npt.NDArray[np.bool_] = values > least
    equal = np.flatnonzero(values == least)
    kept[equal[: size - int(np.count_nonzero(kept))]] = True
    return kept


def winner(tokens: Integers, scores: Numbers, position: int, seed: int) -> int:
    """Return the token of the largest score + G, the lowest id on ties.

    The best tokens get their noise first, which bounds what the winner must reach. Those that MOST could not lift so
    far are out. The others need their words of Philox, but a logarithm only where the word is large enough:
    G ≥ bound - score means -log u ≤ e^(score - bound), and 1 - u ≤ -log u.

    Args:
        tokens: [n] ids in any order, n > 0.
        scores: [n] float64, not above 0.
        position: output position.
        seed: of the session.
    """
    if len(tokens) > 2 * _FIRST:
        first = np.argpartition(scores, len(scores) - _FIRST)[-_FIRST:]
        bound = float((scores[first] + gumbel(tokens[first], position, seed)).max())
        able = np.flatnonzero(scores >= bound - MOST)
        tokens, scores = tokens[able], scores[able]
        words = philox(tokens, position, seed)
        able = np.flatnonzero(_short_of_one(words) <= _reach(scores, bound))
        tokens = tokens[able]
        result = scores[able] + gumbel_of(words[able])
    else:
        result = scores + gumbel(tokens, position, seed)
    return int(tokens[result == result.max()].min())


def _short_of_one(words: Words) -> npt.NDArray[np.float32]:
    """Return (1 - u)·2³² of the words of `philox`, less a half, to float32's precision."""
    return np.invert(words).astype(np.float32)


def _reach(scores: Numbers, bound: float) -> npt.NDArray[np.float32]:
    """Return the largest (1 - u)·2³² with which a score may still reach the bound, rounded up generously."""
    reach = (scores - bound).astype(np.float32)
    np.exp(reach, out=reach)
    reach *= np.float32(1.001 * 2**32)
    return reach
