"""Sampling many rows at once; the rule is that of `schemas.choice`.

Rows that top-k or top-p cut short have few candidates: those above a cut are gathered, sorted and given their noise
together. Rows that may choose any token need the noise of a good part of the vocabulary. On a CPU they are taken one by
one, by compiled code that leaves the interpreter free for a second thread; on a GPU all at once.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING

import torch

from schemas.choice import sample as sample_row
from verifier.engine.philox import noise
from verifier.engine.race import nucleus_winner, winner

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from verifier.engine.blocks import Blocks
    from verifier.engine.choose import Row

_LEVELS = (-6.0, -9.0)
"""Top-p looks for its tokens among those of at least such a score, and further down if they do not reach top_p."""

_FEW_BLOCKS = 48
"""Blocks of columns with a token above the first cut; from more on, rows are faster one by one, on a CPU."""

_ROUGHNESS = 1e-5
"""A bound on the relative error of a float32 sum of exponentials: 1e-7 for each unit of the scores that matter in it,
as much for the exponential, and ten times that for the sum."""

_PIECE = 1 << 22
"""Numbers computed together where whole rows are: bounds the memory."""

_CACHED = 1 << 18
"""The same on a CPU: their float64 stays in its caches."""


@dataclass(frozen=True, slots=True)
class Draws:
    """The sampling of N rows, as tensors [N] on the device of their logits.

    Attributes:
        rows: the same, as they came.
        temperatures: float64, above 0.
        top_k: int64; the width of the row where the sampling names none.
        top_p: float64.
        seeds: int64.
        positions: int64.
    """

    rows: Sequence[Row]
    temperatures: torch.Tensor
    top_k: torch.Tensor
    top_p: torch.Tensor
    seeds: torch.Tensor
    positions: torch.Tensor

    @classmethod
    def of(cls, rows: Sequence[Row], width: int, device: torch.device) -> Draws:
        """Make the tensors."""
        samplings = [row.sampling for row in rows]
        top_k = [min(sampling.top_k, width) if sampling.top_k else width for sampling in samplings]
        return cls(
            rows,
            torch.tensor([sampling.temperature for sampling in samplings], dtype=torch.float64, device=device),
            torch.tensor(top_k, device=device),
            torch.tensor([sampling.top_p for sampling in samplings], dtype=torch.float64, device=device),
            torch.tensor([sampling.seed for sampling in samplings], device=device),
            torch.tensor([row.position for row in rows], device=device),
        )

    def some(self, index: torch.Tensor) -> Draws:
        """Return those of some rows."""
        return Draws(
            [self.rows[i] for i in index.tolist()],
            self.temperatures[index],
            self.top_k[index],
            self.top_p[index],
            self.seeds[index],
            self.positions[index],
        )


@torch.inference_mode()
def sample(blocks: Blocks, draws: Draws, *, one_by_one: bool) -> torch.Tensor:
    """Return the token [N] of each row.

    Args:
        blocks: N rows of logits, the highest of each a finite number.
        draws: how each is sampled.
        one_by_one: rows with many candidates are taken one by one, by numpy; for logits on a CPU.
    """
    width = blocks.logits.shape[1]
    result = torch.zeros_like(draws.top_k)
    by_k = draws.top_k < width
    by_p = ~by_k & (draws.top_p < 1)
    any_token = _one_by_one if one_by_one else _at_once
    by_top_p = _sample_top_p_one_by_one if one_by_one else _sample_top_p

    for kind, rule in ((by_k, _sample_top_k), (by_p, by_top_p), (~(by_k | by_p), any_token)):
        index = kind.nonzero()[:, 0]
        if len(index):
            result[index] = rule(blocks.rows(index), draws.some(index))
    return result


class _Candidates:
    """Tokens that may be chosen: [N, C], by falling logit and then by rising id, filled up with scores of -inf."""

    def __init__(self, blocks: Blocks, draws: Draws, cuts: torch.Tensor) -> None:
        """Gather the tokens whose logits are not below the cuts [N]."""
        row, token, value = blocks.at_least(cuts)
        self.counts = torch.bincount(row, minlength=len(cuts))
        place = torch.arange(len(row), device=row.device) - (self.counts.cumsum(0) - self.counts)[row]
        shape = len(cuts), int(self.counts.max())
        tokens = token.new_zeros(shape)
        values = torch.full(shape, -torch.inf, dtype=torch.float64, device=row.device)
        tokens[row, place] = token
        values[row, place] = value.double()
        values, order = values.sort(dim=1, descending=True, stable=True)
        self._draws = draws
        self.tokens = tokens.gather(1, order)
        self.scores = (values - blocks.highest.double()[:, None]) / draws.temperatures[:, None]

    def nucleus(self, least: torch.Tensor, most: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Count the tokens it takes to reach top_p.

        Args:
            least: [N] the unnormalised probability of all tokens that are no candidates is at least this,
            most: and at most this; NaN where nothing is known.

        Returns:
            how many [N], and whether that is sure; 0 where it is not.
        """
        mass = self.scores.exp().cumsum(1)
        sizes, others = (_nucleus(mass, self._draws.top_p, mass[:, -1] + rest) for rest in (least, most))
        surely = (sizes == others) & ((sizes <= self.counts) | (most == 0)) & most.isfinite()
        return sizes.where(surely, 0), surely

    def choose(self, sizes: torch.Tensor) -> torch.Tensor:
        """Return the token [N] with the largest noisy score among the first `sizes` [N] of each row."""
        draws = self._draws
        row, place = (_numbers(self.scores)[None] < sizes[:, None]).nonzero(as_tuple=True)
        drawn = torch.full_like(self.scores, -torch.inf)
        drawn[row, place] = self.scores[row, place] + noise(
            self.tokens[row, place], draws.positions[row], draws.seeds[row]
        )
        best = drawn == drawn.amax(1, keepdim=True)
        return self.tokens.where(best, torch.iinfo(torch.int64).max).amin(1)


def _sample_top_k(blocks: Blocks, draws: Draws) -> torch.Tensor:
    """Sample rows with top-k, and perhaps top-p among what it keeps."""
    most = int(draws.top_k.max())
    # k blocks hold a logit of at least the height of the k-th highest block each.
    source = blocks.highs if most <= blocks.highs.shape[1] else blocks.logits
    cuts = source.topk(most, dim=1).values.gather(1, draws.top_k[:, None] - 1)[:, 0]
    candidates = _Candidates(blocks, draws, cuts)
    kept = _numbers(candidates.scores)[None] < draws.top_k[:, None]
    mass = candidates.scores.exp().where(kept, 0.0).cumsum(1)
    within = _nucleus(mass, draws.top_p, mass[:, -1])
    return candidates.choose(torch.where(draws.top_p < 1, within.minimum(draws.top_k), draws.top_k))


def _sample_top_p_one_by_one(blocks: Blocks, draws: Draws) -> torch.Tensor:
    """Sample rows with top-p alone: those with few tokens above the first cut together, the others one by one."""
    few = (blocks.highs >= _cuts(blocks, draws, _LEVELS[0])[:, None]).sum(1) <= _FEW_BLOCKS
    result = torch.zeros_like(draws.top_k)
    for kind, rule in ((few, partial(_sample_top_p, otherwise=_one_by_one)), (~few, _one_by_one)):
        index = kind.nonzero()[:, 0]
        if len(index):
            result[index] = rule(blocks.rows(index), draws.some(index))
    return result


def _cuts(blocks: Blocks, draws: Draws, level: float) -> torch.Tensor:
    """Return the logits [N] of a score."""
    return (blocks.highest.double() + level * draws.temperatures).to(blocks.logits.dtype)


def _sample_top_p(
    blocks: Blocks, draws: Draws, otherwise: Callable[[Blocks, Draws], torch.Tensor] | None = None
) -> torch.Tensor:
    """Sample rows with top-p alone.

    The probabilities above a cut are summed in float64, those below it in float32. Where the cut is too high, or that
    sum too rough to say how many tokens it takes, the next cut is lower. `otherwise` samples what the last one leaves;
    None sorts that whole.
    """
    result = torch.zeros_like(draws.top_k)
    open_rows = _numbers(result[None])
    for level in _LEVELS:
        cuts = _cuts(blocks, draws, level)
        candidates = _Candidates(blocks, draws, cuts)
        sizes, surely = candidates.nucleus(*_mass_below(blocks, draws, cuts, candidates.counts))
        result[open_rows[surely]] = candidates.choose(sizes)[surely]
        left = (~surely).nonzero()[:, 0]
        if not len(left):
            return result
        open_rows, blocks, draws = open_rows[left], blocks.rows(left), draws.some(left)
    result[open_rows] = (otherwise or _sorted_whole)(blocks, draws)
    return result


def _nucleus(mass: torch.Tensor, top_p: torch.Tensor, totals: torch.Tensor) -> torch.Tensor:
    """Return how many columns [N] of the cumulated mass [N, C] it takes to reach `top_p` of the totals [N]."""
    return (mass < (top_p * totals)[:, None]).sum(1) + 1


def _mass_below(
    blocks: Blocks, draws: Draws, cuts: torch.Tensor, counts: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return bounds [N] on the sum of the unnormalised probabilities of the tokens below the cuts [N].

    All tokens are summed in float32 as if none were above the cut, which is several times faster than a mask; those
    that are, `counts` [N] of them, are taken off again.
    """
    clipped = _mass(blocks, draws, cuts).double()
    below = clipped - counts * ((cuts.double() - blocks.highest.double()) / draws.temperatures).exp()
    error = _ROUGHNESS * clipped
    # A temperature that is nothing in float32 gives NaN here.
    return (below - error).clamp(min=0), below + error


def _mass(blocks: Blocks, draws: Draws, cuts: torch.Tensor | None = None) -> torch.Tensor:
    """Return the sum [N] of the unnormalised probabilities of each row, in float32; no logit counts above its cut."""
    highest, temperatures = blocks.highest.float(), draws.temperatures.float()
    parts = []
    for part in _parts(blocks, _PIECE if blocks.logits.is_cuda else _CACHED):
        logits = blocks.logits[part]
        if cuts is not None:
            logits = torch.minimum(logits, cuts[part, None])
        values = logits.float() - highest[part, None]
        values /= temperatures[part, None]
        parts.append(values.exp_().sum(1))
    return torch.cat(parts)


def _parts(blocks: Blocks, numbers: int) -> list[slice]:
    """Divide the rows into parts of about so many logits."""
    size = max(1, numbers // blocks.logits.shape[1])
    return [slice(start, start + size) for start in range(0, len(blocks.logits), size)]


def _sorted_whole(blocks: Blocks, draws: Draws) -> torch.Tensor:
    """Sample rows with top-p by sorting all their tokens."""
    candidates = _Candidates(blocks, draws, torch.full_like(blocks.highest, -torch.inf))
    nothing = torch.zeros_like(draws.temperatures)
    return candidates.choose(candidates.nucleus(nothing, nothing)[0])


def _one_by_one(blocks: Blocks, draws: Draws) -> torch.Tensor:
    """Sample rows as a drafter does, in as many threads as torch has."""
    logits = blocks.logits
    by_p = bool((draws.top_p < 1).any())
    totals = _mass(blocks, draws).tolist() if by_p else []

    def one(index: int) -> int:
        row, values = draws.rows[index], logits[index].float().numpy()
        if row.sampling.top_k:
            return sample_row(values, row.sampling, row.position)
        if row.sampling.top_p == 1:
            return winner(values, row.sampling, row.position)
        return nucleus_winner(values, row.sampling, row.position, totals[index])

    return torch.tensor(list(_pool(torch.get_num_threads()).map(one, range(len(logits)))))


def _at_once(blocks: Blocks, draws: Draws) -> torch.Tensor:
    """Sample rows that may choose any token, on a device that does not mind computing what cannot win."""
    parts = []
    for part in _parts(blocks, _PIECE):
        drawn = blocks.logits[part].double()
        tokens = _numbers(drawn).expand_as(drawn)
        drawn -= blocks.highest[part, None].double()
        drawn /= draws.temperatures[part, None]
        drawn += noise(tokens, draws.positions[part, None], draws.seeds[part, None])
        best = drawn == drawn.amax(1, keepdim=True)
        parts.append(tokens.where(best, tokens.shape[1]).amin(1))
    return torch.cat(parts)


def _numbers(columns: torch.Tensor) -> torch.Tensor:
    """Return 0, 1, 2, … for the columns of [N, C]."""
    return torch.arange(columns.shape[1], device=columns.device)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="sled-sample")
