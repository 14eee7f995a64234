"""An agent whose disk is full for a while: a real agent, a real broker, a real file that the kernel lets not grow."""

from __future__ import annotations

import logging
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import pytest

from broker.address import BrokerAddress
from edge_agent.conversation import Conversation
from edge_agent.reply import NOWHERE_ELSE
from edge_agent.spool import Spool
from schemas import codec
from schemas.digest import tokenizer_digest
from schemas.messages import VERSION, AnswerEvent, DoneEvent, ErrorEvent, VerifierState
from tests.edge_agent.test_service_delivery import ANSWERS, ASK, CANCEL, PATIENCE, TOKENIZER, TOPICS, agent, app, asked
from tests.provisioning.bench import full_disk
from tests.waiting import wait_for

if TYPE_CHECKING:
    import queue
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from broker.message import Message
    from broker.run import RunningBroker
    from edge_agent.conversation import Surroundings
    from edge_agent.reply import Reply
    from edge_agent.spool import Spooled

embedded = pytest.mark.parametrize("engine", ["embedded"], indirect=True)

VERIFIER = VerifierState(
    VERSION,
    "online",
    "01",
    "t",
    tokenizer_digest(TOKENIZER.canonical_json),
    "01",
    TOKENIZER.vocab_size,
    1000,
    (),
    capacity=1,
)


class Filling(Spool):
    """A spool on a disk that is full while `full` says so, or for notes of what has arrived only."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.full = False
        self.full_for_notes = False
        self.tries = 0
        self.known: set[str] = set()
        self.marked: set[str] = set()
        self._log = path.with_name(path.name + "-wal")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self.tries += self.full
        with full_disk(self._log.stat().st_size) if self.full else nullcontext(), super()._transaction():
            yield

    def add(self, request: Spooled, reply: Reply = NOWHERE_ELSE) -> bool:
        new = super().add(request, reply)
        self.known.add(request.id)
        return new

    def mark_delivered(self, requests: Iterable[str]) -> None:
        self.tries += self.full_for_notes
        with full_disk(self._log.stat().st_size) if self.full_for_notes else nullcontext():
            super().mark_delivered(requests)
        self.marked |= set(requests)


def event(heard: queue.Queue[Message]) -> AnswerEvent:
    return codec.decode_event(heard.get(timeout=PATIENCE).payload)


def sentences(caplog: pytest.LogCaptureFixture, words: str) -> int:
    return sum(words in record.getMessage() for record in caplog.records)


def unanswered(folder: Path) -> list[str]:
    """Return what a next run of the agent would begin again."""
    spool = Spool(folder / "spool.db")
    names = [request.id for request in spool.unanswered()]
    spool.close()
    return names


@pytest.fixture
def spool(tmp_path: Path) -> Filling:
    return Filling(tmp_path / "spool.db")


@pytest.fixture
def address(broker: RunningBroker) -> BrokerAddress:
    return BrokerAddress(broker.host, broker.port)


@embedded
def test_request_that_cannot_begin_waits_for_the_disk_and_the_one_under_way_has_one_end(
    address: BrokerAddress, spool: Filling, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with (
        app(address, TOPICS.draft("pi", "v0")) as (_, drafts),
        app(address, ANSWERS) as (bridge, heard),
        agent(address, spool),
    ):
        bridge.publish(ASK, asked("one"))
        bridge.publish(ASK, asked("two"))
        wait_for(lambda: "two" in spool.known)
        spool.full = True
        bridge.publish(TOPICS.verifier_state("v0"), codec.encode_json(VERIFIER), retain=True)
        failed = event(heard)
        assert isinstance(failed, ErrorEvent)
        assert (failed.request, failed.code) == ("one", "spool_failed")
        bridge.publish(ASK, asked("one"))
        assert event(heard) == failed, "the end is known while it is not on disk"
        bridge.publish(ASK, asked("late"))
        late = event(heard)
        assert isinstance(late, ErrorEvent)
        assert (late.request, late.code) == ("late", "spool_failed")
        tries = spool.tries
        wait_for(lambda: spool.tries > tries + 3)
        assert sentences(caplog, "is tried again every") == 1
        spool.full = False
        assert drafts.get(timeout=PATIENCE).payload, "the second has begun"
        wait_for(lambda: sentences(caplog, "the spool has taken what waited for it"))
        bridge.publish(CANCEL, b"two")
        done = event(heard)
        assert isinstance(done, DoneEvent)
        assert (done.request, done.finish_reason) == ("two", "cancelled")
        assert heard.empty()
    assert unanswered(tmp_path) == [], "nothing is told a second end"


@embedded
def test_end_of_another_request_that_cannot_be_noted_is_noted_later_and_fails_nobody(
    address: BrokerAddress, spool: Filling, caplog: pytest.LogCaptureFixture
) -> None:
    with app(address, ANSWERS) as (bridge, heard), agent(address, spool):
        bridge.publish(ASK, asked("one"))
        bridge.publish(ASK, asked("two"))
        spool.full_for_notes = True
        bridge.publish(CANCEL, b"two")
        assert event(heard).request == "two"
        wait_for(lambda: spool.tries > 2)
        assert sentences(caplog, "is tried again every") == 1
        spool.full_for_notes = False
        wait_for(lambda: "two" in spool.marked)
        assert heard.empty(), "the request under way goes on"
        bridge.publish(CANCEL, b"one")
        assert isinstance(event(heard), DoneEvent)


@embedded
def test_waiting_request_is_cancelled_once_the_disk_takes_it(
    address: BrokerAddress, spool: Filling, caplog: pytest.LogCaptureFixture
) -> None:
    with app(address, ANSWERS) as (bridge, heard), agent(address, spool):
        bridge.publish(ASK, asked("one"))
        bridge.publish(ASK, asked("two"))
        wait_for(lambda: "two" in spool.known)
        spool.full = True
        bridge.publish(CANCEL, b"two")
        bridge.publish(CANCEL, b"two")
        wait_for(lambda: spool.tries > 3)
        assert heard.empty()
        assert sentences(caplog, "is tried again every") == 1
        spool.full = False
        done = event(heard)
        assert isinstance(done, DoneEvent)
        assert (done.request, done.finish_reason) == ("two", "cancelled")
        bridge.publish(CANCEL, b"one")
        assert event(heard).request == "one"
        assert heard.empty()


@pytest.mark.parametrize("engine", ["mosquitto"], indirect=True)
def test_request_under_way_that_is_asked_again_goes_on(broker: RunningBroker, spool: Filling) -> None:
    address = BrokerAddress(broker.host, broker.port, mqtt5=True)
    with app(address, ANSWERS) as (bridge, heard), agent(address, spool):
        bridge.publish(ASK, asked("one"))
        wait_for(lambda: "one" in spool.known)
        spool.full = True
        bridge.publish(ASK, asked("one"), response_topic="inbox")
        wait_for(lambda: spool.tries)
        spool.full = False
        bridge.publish(CANCEL, b"one")
        assert isinstance(event(heard), DoneEvent)


@embedded
def test_request_that_nobody_can_begin_ends_with_an_error_and_holds_up_no_other(
    address: BrokerAddress,
    spool: Filling,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    begin = Conversation.__init__

    def stumble(self: Conversation, request: Spooled, around: Surroundings) -> None:
        if request.id == "bad":
            raise RuntimeError("nobody thought of this")
        begin(self, request, around)

    monkeypatch.setattr(Conversation, "__init__", stumble)
    with app(address, ANSWERS) as (bridge, heard), agent(address, spool):
        bridge.publish(ASK, asked("bad"))
        bridge.publish(ASK, asked("one"))
        failed = event(heard)
        assert isinstance(failed, ErrorEvent)
        assert (failed.request, failed.code) == ("bad", "internal_error")
        bridge.publish(CANCEL, b"one")
        assert isinstance(event(heard), DoneEvent)
    assert sentences(caplog, "request bad could not be begun") == 1
    assert unanswered(tmp_path) == []
