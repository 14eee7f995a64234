"""The thread that drafts."""

from __future__ import annotations

import logging
import queue
import threading
from typing import TYPE_CHECKING

import pytest

from edge_agent.drafters.drafter import DrafterError, Proposal
from edge_agent.drafting import DraftingThread
from edge_agent.effects import Draft
from edge_agent.events import Drafted, DrafterLost

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PATIENCE = 10.0
ONE, TWO = b"session1", b"session2"


class Scripted:
    """Proposes the length of what it read, but only when it may; fails where a sequence says so."""

    name = "scripted"
    vocab_size = 100
    context_length = 100

    def __init__(self) -> None:
        self.begun: queue.SimpleQueue[tuple[int, ...]] = queue.SimpleQueue()
        self.may = threading.Semaphore(0)

    def propose(self, tokens: Sequence[int]) -> Proposal:
        self.begun.put(tuple(tokens))
        assert self.may.acquire(timeout=PATIENCE)
        if tokens[-1] == 66:
            raise DrafterError("the file is broken: export it again")
        if tokens[-1] == 77:
            raise RuntimeError("nobody thought of this")
        return Proposal(len(tokens), 0.5)


class Bench:
    """A drafting thread, its drafter and its answers."""

    def __init__(self) -> None:
        self.drafter = Scripted()
        self.answers: queue.SimpleQueue[tuple[bytes, Drafted | DrafterLost]] = queue.SimpleQueue()
        self.thread = DraftingThread(self.drafter, lambda session, event: self.answers.put((session, event)))
        before = set(threading.enumerate())
        self.thread.start()
        (self._running,) = {t for t in threading.enumerate() if t.name == "drafting"} - before

    def alive(self) -> bool:
        return self._running.is_alive()

    def answer(self) -> tuple[bytes, Drafted | DrafterLost]:
        return self.answers.get(timeout=PATIENCE)

    def begun(self) -> tuple[int, ...]:
        return self.drafter.begun.get(timeout=PATIENCE)


@pytest.fixture
def bench() -> Iterator[Bench]:
    running = Bench()
    yield running
    for _ in range(10):
        running.drafter.may.release()
    running.thread.stop(PATIENCE)
    assert not running.alive()


def test_draft_answers_with_session_branch_token_and_confidence(bench: Bench) -> None:
    bench.drafter.may.release()
    bench.thread.draft(ONE, Draft(7, (1, 2, 3)))
    assert bench.answer() == (ONE, Drafted(7, 3, 0.5))


def test_draft_replaces_the_wish_that_was_not_begun(bench: Bench) -> None:
    bench.thread.draft(ONE, Draft(0, (1,)))
    assert bench.begun() == (1,)
    bench.thread.draft(ONE, Draft(1, (1, 2)))
    bench.thread.draft(TWO, Draft(2, (1, 2, 3)))
    bench.drafter.may.release(2)
    assert [bench.answer(), bench.answer()] == [(ONE, Drafted(0, 1, 0.5)), (TWO, Drafted(2, 3, 0.5))]
    assert bench.begun() == (1, 2, 3)
    assert bench.answers.empty()


def test_draft_drafter_error_is_answered_and_logged_as_a_sentence(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.drafter.may.release()
    bench.thread.draft(ONE, Draft(0, (66,)))
    assert bench.answer() == (ONE, DrafterLost())
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "goes on without drafts: the file is broken: export it again" in record.getMessage()


def test_draft_unforeseen_exception_is_answered_and_logged_with_its_trace(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.drafter.may.release()
    bench.thread.draft(ONE, Draft(0, (77,)))
    assert bench.answer() == (ONE, DrafterLost())
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info


@pytest.mark.parametrize("failing", [66, 77])
def test_draft_after_a_failure_is_tried(bench: Bench, failing: int) -> None:
    """The next request may be shorter, or the trouble over."""
    bench.drafter.may.release(2)
    bench.thread.draft(ONE, Draft(0, (failing,)))
    bench.answer()
    bench.thread.draft(TWO, Draft(0, (1, 2)))
    assert bench.answer() == (TWO, Drafted(0, 2, 0.5))


def test_stop_ends_an_idle_thread(bench: Bench) -> None:
    bench.thread.stop(PATIENCE)
    assert not bench.alive()


def test_stop_ends_the_thread_after_the_token_it_is_at_and_drops_the_next_wish(bench: Bench) -> None:
    bench.thread.draft(ONE, Draft(0, (1,)))
    bench.begun()
    bench.thread.draft(ONE, Draft(1, (1, 2)))
    bench.thread.stop(0)
    bench.drafter.may.release(2)
    assert bench.answer() == (ONE, Drafted(0, 1, 0.5))
    bench.thread.stop(PATIENCE)
    assert bench.answers.empty()
    assert bench.drafter.begun.empty()


def test_draft_after_stop_is_ignored(bench: Bench) -> None:
    bench.thread.stop(PATIENCE)
    bench.thread.draft(ONE, Draft(0, (1,)))
    assert bench.answers.empty()
