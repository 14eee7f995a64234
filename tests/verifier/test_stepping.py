"""The thread that runs the engine."""

from __future__ import annotations

import logging
import queue
import threading
from typing import TYPE_CHECKING

import pytest

from verifier.engine.errors import EngineError
from verifier.engine.segment import Segment
from verifier.stepping import SteppingThread, StepResult

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PATIENCE = 10.0
GOOD, ALSO_GOOD, BAD, UGLY = (name.ljust(8, b"-") for name in (b"good", b"also", b"bad", b"ugly"))


class Scripted:
    """Chooses the length of what it read, but only when it may; fails on some sessions."""

    vocab_size = 100
    context_length = 100
    end_tokens = frozenset({0})
    used_bytes = 0
    budget_bytes = 0
    budget_tokens = 1000
    block_tokens = 16
    dtype = "float32"
    device = "cpu"
    sessions = 0
    evictions = 0

    def __init__(self) -> None:
        self.steps: list[list[bytes]] = []
        self.begun = threading.Semaphore(0)
        self.may = threading.Semaphore(0)

    def missing(self, session: bytes, tokens: Sequence[int], choose: int) -> int:
        return len(tokens)

    def step(self, segments: Sequence[Segment]) -> list[list[int]]:
        self.begun.release()
        assert self.may.acquire(timeout=PATIENCE)
        self.steps.append([segment.session for segment in segments])
        if any(segment.session == BAD for segment in segments):
            raise EngineError("its logits are NaN")
        if any(segment.session == UGLY for segment in segments):
            raise RuntimeError("nobody thought of this")
        return [[len(segment.tokens)] * segment.choose for segment in segments]

    def release(self, session: bytes) -> None:
        pass


class Bench:
    """A stepping thread, its engine and its answers."""

    def __init__(self) -> None:
        self.engine = Scripted()
        self.answers: queue.SimpleQueue[StepResult | None] = queue.SimpleQueue()
        self.thread = SteppingThread(self.engine, self.answers.put)
        before = set(threading.enumerate())
        self.thread.start()
        (self._running,) = {t for t in threading.enumerate() if t.name == "engine"} - before

    def alive(self) -> bool:
        return self._running.is_alive()

    def step(self, *sessions: bytes) -> None:
        self.thread.step([Segment(session, (1, 2, 3), 1) for session in sessions])

    def answer(self) -> StepResult | None:
        return self.answers.get(timeout=PATIENCE)

    def chosen(self) -> list[list[int] | str]:
        result = self.answer()
        assert result is not None
        return result.chosen


@pytest.fixture
def bench() -> Iterator[Bench]:
    """An engine that may go ahead; `patient_bench` has one that waits to be let."""
    one = Bench()
    one.engine.may.release(100)
    yield one
    one.thread.stop(PATIENCE)
    assert not one.alive()


@pytest.fixture
def patient_bench() -> Iterator[Bench]:
    one = Bench()
    yield one
    one.engine.may.release(100)
    one.thread.stop(PATIENCE)
    assert not one.alive()


def test_step_answers_with_the_choices_in_order_and_the_time_it_took(bench: Bench) -> None:
    bench.thread.step([Segment(GOOD, (1, 2, 3), 2), Segment(ALSO_GOOD, (1,), 0)])
    result = bench.answer()
    assert result is not None
    assert result.chosen == [[3, 3], []]
    assert result.seconds >= 0


def test_step_empty_is_a_heartbeat_without_the_engine(bench: Bench) -> None:
    bench.step()
    assert bench.answer() is None
    assert bench.engine.steps == []


def test_step_heartbeat_does_not_pass_a_step_that_is_stuck(patient_bench: Bench) -> None:
    """That is what it is for: a verifier whose engine hangs shows no progress."""
    patient_bench.step(GOOD)
    assert patient_bench.engine.begun.acquire(timeout=PATIENCE)
    patient_bench.step()
    assert patient_bench.answers.empty()
    patient_bench.engine.may.release()
    assert patient_bench.chosen() == [[3]]
    assert patient_bench.answer() is None


@pytest.mark.parametrize("failing", [BAD, UGLY], ids=["engine error", "unforeseen"])
def test_step_that_fails_is_run_one_by_one_so_that_only_the_bad_session_fails(bench: Bench, failing: bytes) -> None:
    bench.step(GOOD, failing, ALSO_GOOD)
    first, second, third = bench.chosen()
    assert (first, third) == ([3], [3])
    assert isinstance(second, str)
    assert second.startswith("the target model failed on this session: ")
    assert bench.engine.steps == [[GOOD, failing, ALSO_GOOD], [GOOD], [failing], [ALSO_GOOD]]


def test_step_of_one_session_that_fails_is_not_tried_twice(bench: Bench) -> None:
    bench.step(BAD)
    assert bench.chosen() == ["the target model failed on this session: its logits are NaN"]
    assert bench.engine.steps == [[BAD]]


def test_step_of_bad_sessions_only_fails_each(bench: Bench) -> None:
    bench.step(BAD, UGLY)
    assert all(isinstance(chosen, str) for chosen in bench.chosen())


def test_step_failure_is_logged_as_a_sentence_and_with_its_trace_only_where_unforeseen(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.step(BAD)
    bench.answer()
    bench.step(UGLY)
    bench.answer()
    assert [(record.levelno, record.exc_info is not None) for record in caplog.records] == [
        (logging.ERROR, False),
        (logging.ERROR, True),
    ]


def test_step_after_a_failure_runs(bench: Bench) -> None:
    bench.step(UGLY)
    bench.answer()
    bench.step(GOOD)
    assert bench.chosen() == [[3]]


def test_step_failure_sentence_fits_into_a_message(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def verbose(segments: Sequence[Segment]) -> list[list[int]]:
        raise RuntimeError("x" * 5000)

    monkeypatch.setattr(bench.engine, "step", verbose)
    bench.step(GOOD)
    (sentence,) = bench.chosen()
    assert len(sentence) == 1000


def test_stop_ends_the_thread_after_the_step_it_is_at(patient_bench: Bench) -> None:
    patient_bench.step(GOOD)
    assert patient_bench.engine.begun.acquire(timeout=PATIENCE)
    patient_bench.thread.stop(0)
    alive = [patient_bench.alive()]
    patient_bench.engine.may.release()
    assert patient_bench.chosen() == [[3]]
    patient_bench.thread.stop(PATIENCE)
    assert [*alive, patient_bench.alive()] == [True, False]


def test_stop_ends_an_idle_thread(bench: Bench) -> None:
    bench.thread.stop(PATIENCE)
    assert not bench.alive()
