"""The thread that drafts."""

from __future__ import annotations

import logging
import queue
import threading
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from edge_agent.drafters.drafter import DrafterError, Proposal
from edge_agent.drafting import DraftingThread
from edge_agent.effects import Draft
from edge_agent.events import Drafted, DrafterLost
from schemas.messages import GREEDY, Sampling

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PATIENCE = 10.0
ONE, TWO = b"session1", b"session2"
SAMPLED = Sampling(temperature=0.5, seed=9)


def wish(branch: int, *sequence: int) -> Draft:
    return Draft(branch, sequence, GREEDY, len(sequence))


def drafted(branch: int, token: int) -> Drafted:
    return Drafted(branch, Proposal(token, 0.5, source="scripted"))


class Scripted:
    """Proposes the length of what it read, but only when it may; a sequence may say that it fails or finds nothing."""

    name = "scripted"
    vocab_size = 100
    context_length = 100

    def __init__(self) -> None:
        self.begun: queue.SimpleQueue[tuple[int, ...]] = queue.SimpleQueue()
        self.may = threading.Semaphore(0)

    def propose(self, tokens: Sequence[int], sampling: Sampling = GREEDY, position: int = 0) -> Proposal | None:
        self.begun.put(tuple(tokens))
        assert self.may.acquire(timeout=PATIENCE)
        if tokens[-1] == 66:
            raise DrafterError("the file is broken: export it again")
        if tokens[-1] == 77:
            raise RuntimeError("nobody thought of this")
        if tokens[-1] == 88:
            return None
        if tokens[-1] == 99:
            return "the"  # type: ignore[return-value]
        if sampling != GREEDY:
            return Proposal(position, sampling.temperature, source="a part of it")
        return Proposal(len(tokens), 0.5)


class Bench:
    """A drafting thread, its drafter and its answers."""

    def __init__(self) -> None:
        self.drafter = Scripted()
        self.answers: queue.SimpleQueue[tuple[bytes, Drafted | DrafterLost]] = queue.SimpleQueue()
        self.seconds: list[float] = []
        self.thread = DraftingThread(
            self.drafter, lambda session, event: self.answers.put((session, event)), self.seconds.append
        )
        before = set(threading.enumerate())
        self.thread.start()
        (self._running,) = {t for t in threading.enumerate() if t.name == "drafting"} - before

    def alive(self) -> bool:
        return self._running.is_alive()

    def answer(self) -> tuple[bytes, Drafted | DrafterLost]:
        """The next answer, without the time that it took, which has to be the time that was told."""
        session, event = self.answers.get(timeout=PATIENCE)
        if isinstance(event, DrafterLost) or event.proposal is None:
            return session, event
        assert event.proposal.seconds == self.seconds.pop(0) > 0
        return session, Drafted(event.branch, replace(event.proposal, seconds=0.0))

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


def test_draft_answers_with_session_branch_and_proposal(bench: Bench) -> None:
    bench.drafter.may.release()
    bench.thread.draft(ONE, wish(7, 1, 2, 3))
    assert bench.answer() == (ONE, drafted(7, 3))


def test_draft_tells_the_drafter_how_the_target_chooses_and_the_session_who_drafted_and_how(bench: Bench) -> None:
    bench.drafter.may.release()
    bench.thread.draft(ONE, Draft(7, (1, 2, 3), SAMPLED, 42))
    assert bench.answer() == (ONE, Drafted(7, Proposal(42, 0.5, source="a part of it", sampled=True)))


def test_draft_nothing_to_propose_is_an_answer(bench: Bench) -> None:
    bench.drafter.may.release()
    bench.thread.draft(ONE, wish(7, 88))
    assert bench.answer() == (ONE, Drafted(7, None))


@pytest.mark.parametrize("last", [3, 66, 77, 88])
def test_progress_is_told_while_a_token_is_under_way(bench: Bench, last: int) -> None:
    shown = []
    for _ in range(2):
        shown.append(bench.thread.progress)
        bench.thread.draft(ONE, wish(0, 1, last))
        bench.begun()
        shown.append(bench.thread.progress)
        bench.drafter.may.release()
        bench.answers.get(timeout=PATIENCE)
    shown.append(bench.thread.progress)
    assert shown == [None, 0, None, 1, None], "also after a token that failed"


def test_draft_replaces_the_wish_that_was_not_begun(bench: Bench) -> None:
    bench.thread.draft(ONE, wish(0, 1))
    assert bench.begun() == (1,)
    bench.thread.draft(ONE, wish(1, 1, 2))
    bench.thread.draft(TWO, wish(2, 1, 2, 3))
    bench.drafter.may.release(2)
    assert [bench.answer(), bench.answer()] == [(ONE, drafted(0, 1)), (TWO, drafted(2, 3))]
    assert bench.begun() == (1, 2, 3)
    assert bench.answers.empty()


def test_draft_drafter_error_is_answered_and_logged_as_a_sentence(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.drafter.may.release()
    bench.thread.draft(ONE, wish(0, 66))
    assert bench.answer() == (ONE, DrafterLost())
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "goes on without drafts: the file is broken: export it again" in record.getMessage()


def test_draft_unforeseen_exception_is_answered_and_logged_with_its_trace(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.drafter.may.release()
    bench.thread.draft(ONE, wish(0, 77))
    assert bench.answer() == (ONE, DrafterLost())
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info


def test_draft_that_cannot_be_noted_down_is_answered_and_logged_and_the_next_is_tried(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """Such as by a drafter whose proposals are none."""
    bench.drafter.may.release(2)
    bench.thread.draft(ONE, wish(0, 99))
    assert bench.answer() == (ONE, DrafterLost())
    (record,) = caplog.records
    assert record.exc_info
    bench.seconds.clear()
    bench.thread.draft(TWO, wish(0, 1, 2))
    assert bench.answer() == (TWO, drafted(0, 2))


@pytest.mark.parametrize("failing", [66, 77])
def test_draft_after_a_failure_is_tried(bench: Bench, failing: int) -> None:
    """The next request may be shorter, or the trouble over."""
    bench.drafter.may.release(2)
    bench.thread.draft(ONE, wish(0, failing))
    bench.answer()
    bench.thread.draft(TWO, wish(0, 1, 2))
    assert bench.answer() == (TWO, drafted(0, 2))


def test_stop_ends_an_idle_thread(bench: Bench) -> None:
    bench.thread.stop(PATIENCE)
    assert not bench.alive()


def test_stop_ends_the_thread_after_the_token_it_is_at_and_drops_the_next_wish(bench: Bench) -> None:
    bench.thread.draft(ONE, wish(0, 1))
    bench.begun()
    bench.thread.draft(ONE, wish(1, 1, 2))
    bench.thread.stop(0)
    bench.drafter.may.release(2)
    assert bench.answer() == (ONE, drafted(0, 1))
    bench.thread.stop(PATIENCE)
    assert bench.answers.empty()
    assert bench.drafter.begun.empty()


def test_draft_after_stop_is_ignored(bench: Bench) -> None:
    bench.thread.stop(PATIENCE)
    bench.thread.draft(ONE, wish(0, 1))
    assert bench.answers.empty()
