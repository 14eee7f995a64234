"""Sampling many rows at once: the tokens of `schemas.choice`, and the distribution they should have."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.choice import noisy
from schemas.messages import GREEDY, Sampling
from schemas.noise import gumbel
from schemas.noise import philox as philox_of_arrays
from tests.schemas.logits import logits_rows, samplings, target
from tests.schemas.pearson import chi_square
from verifier.engine.blocks import Blocks
from verifier.engine.choose import Row, choose
from verifier.engine.errors import EngineError
from verifier.engine.load import engine_for
from verifier.engine.packed import PackedEngine
from verifier.engine.philox import philox
from verifier.engine.sample import Draws, sample
from verifier.engine.segment import Segment
from verifier.engine.sequential import SequentialEngine

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt
    from transformers import PreTrainedModel

_SESSION = b"sampled!"


def _plainly(logits: torch.Tensor, rows: list[Row]) -> list[int]:
    """One row after the other, in the rule's plainest form."""
    numbers = logits.float().numpy()
    return [int(noisy(values, row.sampling, row.position).argmax()) for values, row in zip(numbers, rows, strict=True)]


@settings(max_examples=150)
@given(
    logits_rows(),
    st.lists(st.tuples(samplings(), st.integers(0, 2**31)), min_size=4, max_size=4),
    st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_many_rows_are_those_of_one(
    values: npt.NDArray[np.float32], how: list[tuple[Sampling, int]], dtype: torch.dtype
) -> None:
    """Rows of different sampling in one call; ties, -inf, huge ranges."""
    logits = torch.from_numpy(values).to(dtype)
    rows = [Row(_SESSION, sampling, position) for sampling, position in how]
    if bool(logits.isfinite().any(1).all()) and not bool(logits.isposinf().any()):
        assert choose(logits, rows) == _plainly(logits, rows)


@pytest.mark.parametrize("spread", [0.0, 1.0, 3.0, 10.0])
def test_a_whole_vocabulary(spread: float) -> None:
    """As many ids as real targets have, flat to peaked, all samplings side by side."""
    kinds = [
        Sampling(temperature, top_k, top_p, 40 + top_k)
        for temperature in (0.5, 1.0, 1.5)
        for top_k, top_p in ((0, 1.0), (50, 1.0), (5000, 0.95), (0, 0.95), (0, 0.999999), (40, 0.9))
    ]
    rows = [Row(_SESSION, sampling, 9 + index) for index, sampling in enumerate([GREEDY, *kinds, GREEDY])]
    logits = torch.randn(len(rows), 49_152, generator=torch.Generator().manual_seed(1)) * spread
    for kind in (logits, logits.bfloat16()):
        assert choose(kind, rows) == _plainly(kind, rows)


@pytest.mark.parametrize("nudge", [1 - 1e-11, 1 + 1e-11])
def test_a_hair_decides_where_top_p_ends(nudge: float) -> None:
    """Probabilities summed in float32 cannot tell; such rows have to be looked at more closely."""
    values = np.random.default_rng(8).normal(0, 1.2, (16, 49_152)).astype(np.float32)
    rows = []
    for index, row in enumerate(values):
        order = np.argsort(-row, kind="stable")
        mass = np.exp(row[order].astype(np.float64) - float(row[order[0]])).cumsum()
        seed = _seed_for_the_last(row[order[: index + 2]].astype(np.float64), order[: index + 2], index)
        rows.append(Row(_SESSION, Sampling(1.0, top_p=float(mass[index] / mass[-1] * nudge), seed=seed), index))
    assert choose(torch.from_numpy(values), rows) == _plainly(torch.from_numpy(values), rows)


def _seed_for_the_last(scores: npt.NDArray[np.float64], tokens: npt.NDArray[np.int64], position: int) -> int:
    """Return a seed with which the last of some tokens wins, so that it shows whether that one was kept."""
    return next(seed for seed in range(10_000) if (scores + gumbel(tokens, position, seed)).argmax() == len(tokens) - 1)


@settings(max_examples=60)
@given(logits_rows(), st.lists(samplings(), min_size=4, max_size=4))
def test_the_form_for_accelerators_is_the_same(values: npt.NDArray[np.float32], how: list[Sampling]) -> None:
    """It is not used on a CPU, but runs on one."""
    drawn = [Sampling(how_.temperature or 1.0, how_.top_k, how_.top_p, how_.seed) for how_ in how]
    rows = [Row(_SESSION, sampling, 3 * index) for index, sampling in enumerate(drawn)]
    logits = torch.from_numpy(values)
    tokens = sample(Blocks(logits), Draws.of(rows, logits.shape[1], logits.device), one_by_one=False)
    assert tokens.tolist() == _plainly(logits, rows)


def test_the_words_of_tensors_are_those_of_arrays() -> None:
    """Seeds use all their bits, positions and tokens 32."""
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(0, 2**31 - 1, (6, 500), generator=generator)
    positions = torch.randint(0, 2**40, (6, 1), generator=generator)
    seeds = torch.randint(0, 2**63 - 1, (6, 1), generator=generator)
    words = philox(tokens, positions, seeds)
    for row in range(6):
        expected = philox_of_arrays(tokens[row].numpy(), int(positions[row]), int(seeds[row]))
        assert words[row].tolist() == expected.tolist()


@pytest.mark.parametrize(
    "sampling",
    [Sampling(0.7, seed=1), Sampling(1.0, top_k=4, seed=2), Sampling(1.3, top_p=0.8, seed=3), Sampling(0.6, 6, 0.9, 4)],
    ids=["temperature", "top_k", "top_p", "all"],
)
def test_tokens_follow_the_distribution(sampling: Sampling) -> None:
    """Over 10,000 positions of a seed; those of the neighbouring temperature or top-k do not."""
    values = np.array([1.5, -0.5, 2.0, 0.25, 2.0, -1.0, 0.75, 1.0, -3.0, 0.0], dtype=np.float32)
    logits = torch.from_numpy(values).expand(10_000, 10)
    counts = np.bincount(choose(logits, [Row(_SESSION, sampling, i) for i in range(10_000)]), minlength=10)
    assert chi_square(counts, target(values, sampling)) > 1e-3
    hotter = Sampling(sampling.temperature * 1.15, sampling.top_k, sampling.top_p, sampling.seed)
    assert chi_square(counts, target(values, hotter)) < 1e-6
    fewer = Sampling(sampling.temperature, 3, sampling.top_p, sampling.seed)
    assert chi_square(counts, target(values, fewer)) < 1e-6


@pytest.mark.parametrize(
    ("value", "said"), [(torch.nan, "NaN"), (torch.inf, "highest is inf"), (-torch.inf, "is -inf")]
)
def test_a_row_without_numbers_is_an_error(value: float, said: str) -> None:
    """It names the session; a greedy row may hold infinities, since only an order is wanted there."""
    logits = torch.zeros(3, 70)
    logits[1] = value
    rows = [Row(b"aa", GREEDY), Row(b"bb", Sampling(1.0)), Row(b"cc", Sampling(1.0))]
    with pytest.raises(EngineError, match=rf"session 6262 .*{said}.*row 1 of 3") as caught:
        choose(logits, rows)
    assert caught.value.session == b"bb"


@pytest.mark.parametrize("kind", ["llama", "bloom"])
def test_engines_sample_with_each_segments_own(kind: str, tiny: Callable[..., PreTrainedModel]) -> None:
    """Packed and one by one: sampling, seed and rising positions; prefill chunks and greedy sessions beside them."""
    engine = engine_for(tiny(kind), kv_budget_bytes=1 << 24)
    assert isinstance(engine, PackedEngine if kind == "llama" else SequentialEngine)
    chance = np.random.default_rng(3)
    prompts = [chance.integers(3, 200, size).tolist() for size in (9, 5, 30, 17)]
    segments = [
        Segment(b"11111111", prompts[0], 5, Sampling(1.0, seed=5), 40),
        Segment(b"22222222", prompts[1], 2),
        Segment(b"33333333", prompts[2], 0, Sampling(1.0, seed=5), 0),
        Segment(b"44444444", prompts[3], 3, Sampling(2.0, 100, 0.99, 6), 2**33),
    ]
    chosen, logits = engine.step_with_logits(segments)
    assert [len(tokens) for tokens in chosen] == [5, 2, 0, 3]
    for segment, tokens, rows in zip(segments, chosen, logits, strict=True):
        positions = [segment.position + index for index in range(segment.choose)]
        assert tokens == _plainly(rows, [Row(segment.session, segment.sampling, i) for i in positions])
    assert engine.step(segments) == chosen, "the same seed gives the same tokens"
    assert chosen[0] != [int(row.argmax()) for row in logits[0]], "that were greedy"
