"""Every architecture computes packed what it computes alone."""

from __future__ import annotations

import copy
import random
from typing import TYPE_CHECKING

import pytest
import torch

from verifier.engine.load import engine_for
from verifier.engine.packed import PackedEngine
from verifier.engine.segment import Segment
from verifier.engine.sequential import SequentialEngine

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedModel

PACKED = [
    "llama",
    "qwen2",
    "qwen3",
    "mistral",
    "gemma",
    "gemma2",
    "gemma3_text",
    "phi",
    "phi3",
    "gpt2",
    "opt",
    "gpt_neox",
    "olmo2",
    "cohere2",
    "granite",
    "smollm3",
    "starcoder2",
    "qwen3_moe",
    "gpt_oss",
    "deepseek_v3",
]
SEQUENTIAL = ["bloom", "gptj", "stablelm"]


class Alone:
    """The target without an engine: one sequence, no cache, eager attention."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = copy.deepcopy(model)

    @torch.inference_mode()
    def logits(self, tokens: list[int], last: int) -> torch.Tensor:
        """Logits [last, V] at the last positions."""
        out = self._model(input_ids=torch.tensor([tokens]), use_cache=False)
        logits: torch.Tensor = out.logits[0, len(tokens) - last :]
        return logits


class Checked:
    """An engine whose every step is compared with the target alone."""

    def __init__(self, engine: PackedEngine | SequentialEngine, alone: Alone) -> None:
        self.engine = engine
        self._alone = alone

    def step(self, *parts: tuple[int, list[int], int]) -> None:
        """Step over (session, tokens, choose) and compare logits and choices."""
        segments = [Segment(bytes([session] * 8), tokens, choose) for session, tokens, choose in parts]
        chosen, logits = self.engine.step_with_logits(segments)
        for segment, ids, rows in zip(segments, chosen, logits, strict=True):
            assert len(ids) == len(rows) == segment.choose
            if segment.choose:
                expected = self._alone.logits(list(segment.tokens), segment.choose)
                torch.testing.assert_close(rows, expected, atol=3e-5, rtol=1e-5)
                assert ids == expected.argmax(-1).tolist()


def _tokens(seed: int, count: int) -> list[int]:
    chance = random.Random(seed)
    return [chance.randrange(3, 200) for _ in range(count)]


def _life(checked: Checked) -> None:
    """Ragged prompts, odd prefill chunks, drafts, rollbacks, more drafts, eviction and return."""
    short, middle, long = _tokens(1, 5), _tokens(2, 17), _tokens(3, 90)
    checked.step((1, short, 1), (2, middle, 1), (3, long[:7], 0))
    checked.step((3, long[:40], 0), (1, short + _tokens(4, 4), 5), (2, middle + _tokens(5, 1), 2))
    checked.step((2, middle + _tokens(6, 6), 7), (3, long[:83], 0), (1, short + _tokens(4, 2) + _tokens(7, 3), 4))
    checked.step((3, long, 1), (1, short + _tokens(4, 2) + _tokens(8, 3), 6))
    # Three that can share one view, one of them rolled back into its prompt.
    checked.step((1, short + _tokens(9, 5), 5), (2, middle[:9] + _tokens(10, 5), 5), (4, _tokens(11, 14), 5))
    # A session alone fills the store: the others go and come back.
    before = checked.engine.evictions
    checked.step((5, _tokens(12, 150), 3))
    assert checked.engine.evictions > before
    checked.step((1, short + _tokens(9, 7), 3), (2, middle + _tokens(13, 4), 2), (3, long + _tokens(14, 3), 4))
    # Beyond the tokens that are folded, with and without something before.
    checked.step((6, _tokens(15, 70), 70))
    checked.step((6, _tokens(15, 70) + _tokens(16, 66), 66))


@pytest.mark.parametrize("kind", PACKED)
def test_packed_equals_alone(kind: str, tiny: Callable[..., PreTrainedModel]) -> None:
    """Logits to 3e-5 and chosen tokens exactly, through a whole life of sessions."""
    model = tiny(kind)
    alone = Alone(model)
    row_bytes = _row_bytes(PackedEngine(copy.deepcopy(model), kv_budget_bytes=1 << 24, block_tokens=1))
    engine = PackedEngine(model, kv_budget_bytes=160 * row_bytes, block_tokens=8)
    _life(Checked(engine, alone))


@pytest.mark.parametrize("kind", SEQUENTIAL)
def test_sequential_equals_alone(kind: str, tiny: Callable[..., PreTrainedModel]) -> None:
    """Targets that cannot be packed fall back and compute the same."""
    model = tiny(kind)
    alone = Alone(model)
    roomy = engine_for(copy.deepcopy(model), kv_budget_bytes=1 << 24)
    assert isinstance(roomy, SequentialEngine)
    roomy.step([Segment(b"x", [1, 2, 3, 4], 1)])
    _life(Checked(SequentialEngine(model, kv_budget_bytes=160 * roomy.used_bytes // 4), alone))


def test_longrope_equals_alone_on_both_sides_of_its_border(tiny: Callable[..., PreTrainedModel]) -> None:
    """Every position is computed with the frequencies of its own prefix, forth and back over the border."""
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "original_max_position_embeddings": 32,
        "short_factor": [1.0] * 8,
        "long_factor": [4.0] * 8,
    }
    model = tiny("phi3", rope_parameters=rope, original_max_position_embeddings=32)
    alone = Alone(model)
    engine = engine_for(model, kv_budget_bytes=1 << 24)
    assert isinstance(engine, SequentialEngine)
    text = _tokens(1, 40)
    for length, choose in ((20, 3), (30, 5), (34, 6), (36, 2), (31, 2), (40, 9), (33, 1)):
        _, logits = engine.step_with_logits([Segment(b"x", text[:length], choose)])
        expected = torch.cat([alone.logits(text[: end + 1], 1) for end in range(length - choose, length)])
        torch.testing.assert_close(logits[0], expected, atol=3e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["mistral", "gpt_oss"])
def test_a_long_chunk_behind_a_short_window_equals_alone(kind: str, tiny: Callable[..., PreTrainedModel]) -> None:
    """Whole blocks of keys are hidden from a query there, before and behind the ones it sees."""
    model = tiny(kind, max_position_embeddings=2048)
    checked = Checked(PackedEngine(copy.deepcopy(model), kv_budget_bytes=1 << 22), Alone(model))
    text = _tokens(1, 1300)
    checked.step((1, text[:20], 1), (2, text[20:30], 1))
    checked.step((1, text, 1300), (2, text[20:90], 60))


def test_bfloat16_stays_near_alone(tiny: Callable[..., PreTrainedModel]) -> None:
    """In bfloat16 the packed logits differ from the unpacked ones by rounding only."""
    model = tiny("llama").bfloat16()
    alone = Alone(model)
    engine = PackedEngine(model, kv_budget_bytes=1 << 22)
    tokens = [_tokens(seed, 20 + seed) for seed in range(4)]
    _, logits = engine.step_with_logits([Segment(bytes([i]), t, 4) for i, t in enumerate(tokens)])
    for text, rows in zip(tokens, logits, strict=True):
        expected = alone.logits(text, 4).float()
        assert float((rows.float() - expected).square().mean().sqrt() / expected.std()) < 0.05


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt_oss", "bloom"])
def test_greedy_texts_equal_generate(kind: str, tiny: Callable[..., PreTrainedModel]) -> None:
    """Five concurrent sessions write, token for token, what `generate` writes one at a time."""
    model = tiny(kind)
    prompts = [_tokens(seed, 3 + 5 * seed) for seed in range(5)]
    expected = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        out: torch.Tensor = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, eos_token_id=None
        )
        expected.append(out[0].tolist())
    engine = engine_for(model, kv_budget_bytes=1 << 22)
    texts: list[list[int]] = [list(prompt) for prompt in prompts]
    for _ in range(12):
        chosen = engine.step([Segment(bytes([i]), text, 1) for i, text in enumerate(texts)])
        texts = [[*text, *ids] for text, ids in zip(texts, chosen, strict=True)]
    assert texts == expected


def _row_bytes(engine: PackedEngine) -> int:
    """Bytes per token, read off an engine with blocks of one token."""
    engine.step([Segment(b"x", [3, 4], 1)])
    return engine.used_bytes // 2
