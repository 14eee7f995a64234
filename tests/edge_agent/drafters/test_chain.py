"""A drafter that fails is given up with the numbers, and the next takes over."""

from __future__ import annotations

import logging
import weakref
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edge_agent.drafters.chain import LEAST_TOKENS, Candidate, DrafterChain
from edge_agent.drafters.drafter import Drafter, DrafterError, Proposal, SequenceError
from edge_agent.drafters.lookup import PromptLookup
from edge_agent.drafters.onnx import OnnxDrafter
from schemas.messages import GREEDY, Sampling
from tests.edge_agent.drafters.kinds import DECODER
from tests.edge_agent.drafters.tiny_decoder import LONGEST, PADDED, TinyDecoder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

SEQUENCE = [3, 4, 5]


class Timed:
    """Proposes the token 1 in a time of a clock that only it moves."""

    name = "timed"
    vocab_size = 100
    context_length = 100

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds

    def propose(self, tokens: Sequence[int], sampling: Sampling = GREEDY, position: int = 0) -> Proposal | None:
        self._clock.now += self._seconds
        return None if tokens == [0] else Proposal(1, 0.5)


class Clock:
    """Seconds that pass when a drafter says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Odd:
    """Does something no drafter should."""

    name = "odd"
    vocab_size = 100
    context_length = 100

    def __init__(self, act: Callable[[], Proposal]) -> None:
        self._act = act

    def propose(self, tokens: Sequence[int], sampling: Sampling = GREEDY, position: int = 0) -> Proposal | None:
        return self._act()


def chain(*drafters: Callable[[], Drafter], vocab_size: int | None = None, clock: Clock | None = None) -> DrafterChain:
    candidates = [Candidate(f"number {number}", make) for number, make in enumerate(drafters, start=1)]
    return DrafterChain(candidates, vocab_size=vocab_size, clock=clock or Clock())


@pytest.fixture
def good(tmp_path: Path) -> Callable[[], OnnxDrafter]:
    """Opens a drafter that works."""
    folder = DECODER.save(tmp_path / "good", "fused")
    return lambda: OnnxDrafter(folder)


def warning(caplog: pytest.LogCaptureFixture) -> str:
    """The one warning there was."""
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    caplog.clear()
    return record.getMessage()


def expect_good(drafter: Drafter, tokens: list[int]) -> None:
    proposal = drafter.propose(tokens)
    assert proposal is not None
    assert proposal.token == DECODER.greedy(tokens)[0]


def test_open_corrupt_file_takes_the_next(
    good: Callable[[], OnnxDrafter], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = DECODER.save(tmp_path / "corrupt", "fused")
    file = folder / "model.onnx"
    file.write_bytes(file.read_bytes()[:500])
    drafters = chain(lambda: OnnxDrafter(folder), good)
    assert drafters.name == "good"
    message = warning(caplog)
    assert "the drafter number 1 is given up, the next is number 2: The ONNX file" in message
    assert "model.onnx cannot be loaded" in message
    expect_good(drafters, SEQUENCE)


def test_open_only_what_is_needed(good: Callable[[], OnnxDrafter]) -> None:
    def unneeded() -> Drafter:
        raise AssertionError("the second drafter was opened")

    expect_good(chain(good, unneeded), SEQUENCE)


def test_propose_damaged_weights_within_an_answer_take_the_next(
    good: Callable[[], OnnxDrafter], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The token 17's embedding is NaN, so the first drafter works until the answer has a 17."""
    embeddings = DECODER.weights["emb"].copy()
    embeddings[17] = np.nan
    folder = TinyDecoder(DECODER.weights | {"emb": embeddings}).save(tmp_path / "damaged", "published")
    drafters = chain(lambda: OnnxDrafter(folder), good)
    expect_good(drafters, SEQUENCE)
    assert drafters.name == "damaged"
    assert not caplog.records
    expect_good(drafters, [*SEQUENCE, 17])
    assert "the drafter damaged is given up, the next is number 2" in (message := warning(caplog))
    assert "the model's weights are damaged" in message
    assert drafters.name == "good"
    expect_good(drafters, [*SEQUENCE, 17, 2])
    assert not caplog.records, "a warning once, not per token"


def test_propose_slower_than_the_target_takes_the_next_and_says_the_numbers(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    drafters = chain(lambda: Timed(clock, 0.050), PromptLookup, clock=clock)
    drafters.target_time(0.040)
    for _ in range(LEAST_TOKENS - 1):
        assert drafters.propose(SEQUENCE) == Proposal(1, 0.5)
    assert not caplog.records
    assert drafters.propose(SEQUENCE) == Proposal(1, 0.5), "the token is there, so it may be used"
    message = warning(caplog)
    assert "the drafter timed is given up, the next is number 2" in message
    assert "50.0 ms for a draft token (median of 16), but the target answers in 40.0 ms" in message
    assert drafters.context_length == 100, "until the next is open"
    assert drafters.propose([1, 2, 7, 1, 2]) == PromptLookup().propose([1, 2, 7, 1, 2])
    assert drafters.name == "lookup"


def test_propose_faster_than_the_target_is_kept_despite_a_slow_prompt(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    drafter = Timed(clock, 1.0)
    drafters = chain(lambda: drafter, clock=clock)
    drafters.target_time(0.040)
    drafters.propose(SEQUENCE)
    drafter._seconds = 0.039
    for _ in range(100):
        drafters.propose(SEQUENCE)
    assert not caplog.records


def test_propose_without_a_known_target_time_nothing_is_slow(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    drafters = chain(lambda: Timed(clock, 60.0), clock=clock)
    for _ in range(100):
        drafters.propose(SEQUENCE)
    assert not caplog.records


def test_propose_nothing_is_neither_a_fault_nor_a_time() -> None:
    clock = Clock()
    drafters = chain(lambda: Timed(clock, 60.0), clock=clock)
    drafters.target_time(0.040)
    assert [drafters.propose([0]) for _ in range(100)] == [None] * 100


def test_propose_the_next_drafter_is_timed_anew(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    drafters = chain(lambda: Timed(clock, 9.0), lambda: Timed(clock, 0.001), clock=clock)
    drafters.target_time(0.040)
    for _ in range(3 * LEAST_TOKENS):
        drafters.propose(SEQUENCE)
    assert len(caplog.records) == 1


@pytest.mark.parametrize("token", [-1, 50, 99])
def test_propose_id_outside_the_target_s_vocabulary_takes_the_next(
    token: int, caplog: pytest.LogCaptureFixture
) -> None:
    drafters = chain(lambda: Odd(lambda: Proposal(token, 0.5)), PromptLookup, vocab_size=50)
    assert drafters.propose(SEQUENCE) is None
    assert f"proposed the token {token}, but token ids lie between 0 and 49" in warning(caplog)


def test_propose_a_drafter_given_up_leaves_its_memory_to_the_next() -> None:
    def fail() -> Proposal:
        raise DrafterError("It broke.")

    opened: list[weakref.ref[Odd]] = []

    def broken() -> Drafter:
        drafter = Odd(fail)
        opened.append(weakref.ref(drafter))
        return drafter

    def following() -> Drafter:
        assert opened[0]() is None, "the first drafter is still there"
        return PromptLookup()

    drafters = chain(broken, following)
    assert drafters.propose(SEQUENCE) is None
    assert drafters.name == "lookup"


def test_propose_unforeseen_exception_takes_the_next_with_its_trace(
    good: Callable[[], OnnxDrafter], caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> Proposal:
        raise ZeroDivisionError("by nought")

    drafters = chain(lambda: Odd(fail), good)
    expect_good(drafters, SEQUENCE)
    (record,) = caplog.records
    assert "failed unexpectedly with ZeroDivisionError: by nought" in record.getMessage()
    assert record.exc_info


def test_open_drafter_that_knows_too_few_ids_takes_the_next(
    good: Callable[[], OnnxDrafter], caplog: pytest.LogCaptureFixture
) -> None:
    assert chain(good, PromptLookup, vocab_size=PADDED).name == "good"
    assert chain(good, PromptLookup, vocab_size=PADDED + 1).name == "lookup"
    assert f"knows {PADDED} token ids, but the target's tokenizer has {PADDED + 1}" in warning(caplog)


def test_propose_sequence_that_cannot_be_continued_is_no_fault_of_the_drafter(
    good: Callable[[], OnnxDrafter], caplog: pytest.LogCaptureFixture
) -> None:
    drafters = chain(good, PromptLookup)
    with pytest.raises(SequenceError):
        drafters.propose([1] * (LONGEST + 1))
    expect_good(drafters, SEQUENCE)
    assert not caplog.records


def test_open_none_works_is_an_error_with_every_reason(tmp_path: Path) -> None:
    with pytest.raises(DrafterError, match=r"No drafter works\. number 1: There is no drafter in .*a: .* number 2: "):
        chain(lambda: OnnxDrafter(tmp_path / "a"), lambda: OnnxDrafter(tmp_path / "b"))


def test_propose_when_none_is_left_is_an_error_each_time(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> Proposal:
        raise DrafterError("It broke.")

    drafters = chain(lambda: Odd(fail))
    for _ in range(2):
        with pytest.raises(DrafterError, match=r"No drafter works\. odd: It broke\."):
            drafters.propose(SEQUENCE)
    assert "the drafter odd is given up, no other is left: It broke." in warning(caplog)
    assert (drafters.name, drafters.vocab_size, drafters.context_length) == ("none", 0, 0)
