"""The app of a run, with a device that plays a script, over a real broker that is killed."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING, Self

import msgspec
import pytest

from benchmarks.kit.faults.app import App
from benchmarks.kit.faults.logs import AppEvent, Asked, Began, Ended, Heard, JsonLines, Linked
from benchmarks.kit.faults.schedule import Asking
from broker.address import BrokerAddress
from broker.client import Bridge
from broker.mosquitto import MosquittoProcess
from schemas import codec
from schemas.messages import Ask, DoneEvent, ErrorEvent, Statistics
from schemas.topics import Topics
from tests.conftest import require

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from broker.message import Message

TOPICS = Topics()


def end(request: str) -> bytes:
    return codec.encode_json(
        DoneEvent(request, 0, "", "length", lossless=True, released=(), statistics=Statistics(*[0] * 10))
    )


class Device:
    """Answers the asks that a script says, counted from 1."""

    def __init__(self, address: BrokerAddress, name: str, script: Callable[[int, Ask], bytes | None]) -> None:
        self._topic = TOPICS.answer(name, "+").removesuffix("+")
        self._script = script
        self.asked: list[str] = []
        self.came = threading.Event()
        self._bridge = Bridge(address, name, reconnect_delay=(0.05, 0.2))
        self._bridge.subscribe(TOPICS.ask(name), self._ask)

    def _ask(self, message: Message) -> None:
        ask = codec.decode_ask(message.payload)
        assert ask.id is not None
        self.asked.append(ask.id)
        answer = self._script(len(self.asked), ask)
        if answer is not None:
            self._bridge.publish(self._topic + ask.id, answer)
        self.came.set()

    def __enter__(self) -> Self:
        self._bridge.start()
        self._bridge.wait_up(20)
        return self

    def __exit__(self, *_: object) -> None:
        self._bridge.stop(timeout=1)


@pytest.fixture
def broker() -> Iterator[MosquittoProcess]:
    require("mosquitto")
    with MosquittoProcess(port=0) as running:
        yield running


@pytest.fixture
def log(tmp_path: Path) -> Iterator[JsonLines]:
    with JsonLines(tmp_path / "app.jsonl") as log:
        yield log


def address_of(broker: MosquittoProcess) -> BrokerAddress:
    return BrokerAddress(broker.host, broker.port)


def asks(*requests: str, device: str = "pi", at: float = 0.0) -> list[Asking]:
    return [Asking(at, device, Ask(id=request, prompt="abc")) for request in requests]


def events(tmp_path: Path) -> list[AppEvent]:
    decoder: msgspec.json.Decoder[AppEvent] = msgspec.json.Decoder(AppEvent)
    return [decoder.decode(line) for line in (tmp_path / "app.jsonl").read_bytes().splitlines()]


def test_each_device_is_asked_one_after_the_other_and_all_is_written_down(
    broker: MosquittoProcess, log: JsonLines, tmp_path: Path
) -> None:
    def answer(_: int, ask: Ask) -> bytes:
        assert ask.id is not None
        if ask.id == "two":
            return codec.encode_json(ErrorEvent("two", 0, "overloaded", "later"))
        return end(ask.id)

    address = address_of(broker)
    with Device(address, "pi", answer) as pi, Device(address, "nano", answer) as nano:
        planned = [*asks("one", "two", "three"), *asks("four", device="nano"), *asks("five", at=0.2)]
        with App(address, planned, log) as app:
            while not app.finished:
                app.turn(0.05)
    assert (pi.asked, nano.asked) == (["one", "two", "three", "five"], ["four"])
    written = events(tmp_path)
    assert isinstance(written[0], Began)
    assert isinstance(written[-1], Ended)
    told = [(type(event).__name__, event.ask.id if isinstance(event, Asked) else event.request)
            for event in written if isinstance(event, Asked | Heard) and event.device == "pi"]  # fmt: skip
    assert told == [(kind, name) for name in ("one", "two", "three", "five") for kind in ("Asked", "Heard")]
    (fifth,) = [event for event in written if isinstance(event, Asked) and event.ask.id == "five"]
    assert fifth.at - written[0].at >= 0.2


def test_silence_and_what_cannot_be_read_are_no_answer(
    broker: MosquittoProcess, log: JsonLines, tmp_path: Path
) -> None:
    answers = {2: b"\xff{", 3: end("one")}
    with (
        Device(address_of(broker), "pi", lambda number, _: answers.get(number)) as pi,
        App(address_of(broker), asks("one"), log, silence=0.1) as app,
    ):
        while not app.finished:
            app.turn(0.02)
    assert pi.asked[:3] == ["one"] * 3
    written = events(tmp_path)
    assert [event.why for event in written if isinstance(event, Asked)][:3] == ["first", "silence", "silence"]
    assert next(event.payload for event in written if isinstance(event, Heard)) == "\ufffd{"


def test_after_a_broker_that_forgot_it_is_asked_again(broker: MosquittoProcess, log: JsonLines, tmp_path: Path) -> None:
    answers = {2: end("one")}
    with (
        Device(address_of(broker), "pi", lambda number, _: answers.get(number)) as pi,
        # If the device comes back after the app, the broker has nobody to pass the ask to: then silence is needed.
        App(address_of(broker), asks("one"), log, silence=3.0) as app,
    ):
        while not pi.came.is_set():
            app.turn(0.02)
        assert broker.pid is not None
        os.kill(broker.pid, signal.SIGKILL)
        broker.stop()
        broker.start()
        while not app.finished:
            app.turn(0.02)
    written = events(tmp_path)
    assert [event.up for event in written if isinstance(event, Linked)][-2:] == [False, True]
    assert "reconnected" in [event.why for event in written if isinstance(event, Asked)]
