"""What an engine promises besides the right tokens, for both kinds of engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from verifier.engine.errors import EngineError
from verifier.engine.packed import PackedEngine
from verifier.engine.segment import Segment
from verifier.engine.sequential import SequentialEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from transformers import PreTrainedModel

A, B, C = b"session-a"[:8], b"B" * 8, b"C" * 8
POISON = 207


@pytest.fixture(params=[PackedEngine, SequentialEngine], ids=["packed", "sequential"])
def engine(
    request: pytest.FixtureRequest, tiny: Callable[..., PreTrainedModel]
) -> Iterator[PackedEngine | SequentialEngine]:
    """A llama whose embedding of POISON turns NaN after it was loaded."""
    model = tiny("llama", tie_word_embeddings=False)
    engine: PackedEngine | SequentialEngine = request.param(model, kv_budget_bytes=1 << 22)
    with torch.no_grad():
        model.get_input_embeddings().weight[POISON] = torch.nan
    yield engine
    engine.release(A)


def test_missing_counts_what_a_step_would_feed(engine: PackedEngine | SequentialEngine) -> None:
    """All of a new session; the differing tail of a known one; never less than is to be chosen."""
    text = list(range(10, 30))
    assert engine.missing(A, text, 1) == 20
    engine.step([Segment(A, text, 1)])
    assert engine.missing(A, text, 0) == 0
    assert engine.missing(A, text, 3) == 3
    assert engine.missing(A, [*text, 5, 6], 3) == 3
    assert engine.missing(A, [*text[:12], 5, 6], 1) == 2
    assert engine.missing(A, [9, *text[1:]], 1) == 20
    engine.release(A)
    assert engine.missing(A, text, 1) == 20


def test_a_step_is_not_confused_by_a_sequence_changed_afterwards(engine: PackedEngine | SequentialEngine) -> None:
    """The engine keeps its own copy of the token ids."""
    text = [10, 11, 12, 13]
    engine.step([Segment(A, text, 1)])
    text[1] = 99
    assert engine.missing(A, text, 1) == 3


def test_results_come_in_the_order_of_the_segments(engine: PackedEngine | SequentialEngine) -> None:
    """Also with nothing to feed, nothing to choose, or no tokens at all."""
    texts = {A: [20] * 30, B: [30, 31], C: [40] * 9}
    alone = {session: engine.step([Segment(session, text, 2)])[0] for session, text in texts.items()}
    chosen = engine.step(
        [Segment(B, texts[B], 2), Segment(A, texts[A], 0), Segment(b"empty", [], 0), Segment(C, texts[C], 2)]
    )
    assert chosen == [alone[B], [], [], alone[C]]
    assert engine.step([]) == []


def test_a_session_twice_in_a_step_is_a_mistake(engine: PackedEngine | SequentialEngine) -> None:
    """It would write the same rows twice."""
    with pytest.raises(ValueError, match="twice"):
        engine.step([Segment(A, [1, 2], 1), Segment(A, [1, 2, 3], 1)])


@pytest.mark.parametrize("choose", [-1, 3])
def test_choosing_more_than_there_is_is_a_mistake(choose: int, engine: PackedEngine | SequentialEngine) -> None:
    """Choose lies between none and all positions."""
    with pytest.raises(ValueError, match="asks for"):
        engine.step([Segment(A, [1, 2], choose)])


@pytest.mark.parametrize(
    ("tokens", "sentence"),
    [
        ([5, 211], "names token 211.*211 ids"),
        ([5, -1], "names token -1"),
        ([5, 1 << 40], "32-bit"),
        ([5] * 257, "257 tokens.*context ends at 256"),
    ],
)
def test_a_bad_segment_is_refused_before_anything_changes(
    tokens: list[int], sentence: str, engine: PackedEngine | SequentialEngine
) -> None:
    """The error names the session; a good segment beside it is not computed, what was held stays."""
    engine.step([Segment(A, [7, 8, 9], 1)])
    with pytest.raises(EngineError, match=f"{B.hex()}.*{sentence}") as caught:
        engine.step([Segment(A, [9, 9], 1), Segment(B, tokens, 1)])
    assert caught.value.session == B
    assert engine.missing(A, [7, 8, 9], 1) == 1
    assert engine.sessions == 1


def test_a_full_context_is_fine(engine: PackedEngine | SequentialEngine) -> None:
    """The last position of the context still has a next token."""
    assert len(engine.step([Segment(A, [5] * 256, 1)])[0]) == 1


@pytest.mark.parametrize("choose", [0, 1])
def test_nan_drops_the_sessions_of_the_step_only(choose: int, engine: PackedEngine | SequentialEngine) -> None:
    """Also in a prefill chunk that chooses nothing; the others go on as if nothing had been."""
    others = [[20, 21, 22, 23], [30, 31, 32, 33, 34, 35]]
    before = engine.step([Segment(A, others[0], 1), Segment(C, others[1], 1)])
    with pytest.raises(EngineError, match=f"session {B.hex()} are not numbers") as caught:
        engine.step([Segment(B, [5, POISON, 6], choose)])
    assert caught.value.session == B
    assert engine.missing(B, [5, 6], 1) == 2
    assert engine.missing(A, others[0], 1) == 1
    # B's rows lie beside those read with the others', and must have left no NaN behind.
    again = engine.step([Segment(A, others[0], 1), Segment(B, [5, 6], 1), Segment(C, others[1], 1)])
    assert [again[0], again[2]] == before


def test_a_failing_forward_drops_the_sessions_of_the_step_only(
    engine: PackedEngine | SequentialEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come back by prefill; the others are untouched."""
    engine.step([Segment(A, [20, 21, 22], 1), Segment(B, [30, 31], 1)])
    expected = engine.step([Segment(B, [30, 31, 32], 1)])
    with monkeypatch.context() as patch:
        patch.setattr(engine._model.model.norm, "forward", _fail)
        with pytest.raises(EngineError, match=r"failed \(RuntimeError: out of luck\)"):
            engine.step([Segment(B, [30, 31, 32, 33], 1)])
    assert engine.missing(A, [20, 21, 22], 1) == 1
    assert engine.missing(B, [30, 31, 32], 1) == 3
    assert engine.step([Segment(B, [30, 31, 32], 1)]) == expected


def test_the_budget_evicts_the_least_recently_used(tiny: Callable[..., PreTrainedModel]) -> None:
    """One not in the step; a step too large by itself is refused with both numbers."""
    for engine in (
        PackedEngine(tiny("llama"), kv_budget_bytes=64 * 1024, block_tokens=16),
        SequentialEngine(tiny("llama"), kv_budget_bytes=64 * 1024),
    ):
        # 1 KiB a token: 4 layers of 2 heads of 16 + 16 values of 4 bytes.
        for session in (A, B, C):
            engine.step([Segment(session, [5] * 16, 1)])
        assert (engine.used_bytes, engine.budget_bytes, engine.sessions) == (48 * 1024, 64 * 1024, 3)
        engine.step([Segment(A, [5] * 16, 1)])
        engine.step([Segment(b"D", [5] * 32, 1)])
        assert (engine.evictions, engine.sessions) == (1, 3)
        assert engine.missing(B, [5] * 16, 1) == 16
        assert engine.missing(A, [5] * 16, 1) == 1
        with pytest.raises(EngineError, match=r"needs 81920 bytes.*65536 bytes"):
            engine.step([Segment(A, [5] * 48, 1), Segment(B, [5] * 32, 1)])
        assert engine.missing(A, [5] * 16, 1) == 1
        assert engine.used_bytes == 64 * 1024


def test_end_tokens_come_from_both_files(tiny: Callable[..., PreTrainedModel]) -> None:
    """A text may end on any id that either names."""
    model = tiny("llama")
    model.generation_config.eos_token_id = [7, 9]
    assert PackedEngine(model, kv_budget_bytes=1 << 20).end_tokens == {2, 7, 9}


def _fail(*_: object) -> None:
    raise RuntimeError("out of luck")
