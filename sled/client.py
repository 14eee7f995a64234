"""For apps: ask a device and read its answer as it streams."""

from __future__ import annotations

import queue
import secrets
import time
from typing import TYPE_CHECKING, Final, NoReturn, Self

import msgspec

from broker.client import Bridge
from schemas import codec
from schemas.errors import WireError
from schemas.messages import AgentState, AnswerEvent, Ask, Cancel, DoneEvent, ErrorEvent, VerifierState
from schemas.topics import Family, Topics, check_name
from sled.transcript import Transcript

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from broker.address import Addresses
    from broker.message import Message
    from broker.tls import Tls

REACHED_WITHIN: Final = 10.0
"""Seconds in which a broker must be reached."""
ANNOUNCED_WITHIN: Final = 10.0
"""Seconds to wait for a device's announcement, which is retained and so comes at once if there is one."""


class NoAnswerError(Exception):
    """A device does not answer; the message says why, as far as it is known."""


class Client:
    """An app's connection to its devices. Used from one thread.

        with Client(BrokerAddress()) as client:
            for event in client.ask("pi", Ask(prompt="Why is the sky blue?")):
                ...

    Raises:
        BrokerUnreachable: on entering, if no broker answers within ten seconds.
    """

    def __init__(
        self, address: Addresses, *, root: str = "sled/v1", client_id: str | None = None, tls: Tls | None = None
    ) -> None:
        self._topics = Topics(root)
        self._messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._asked: tuple[str, bytes] | None = None
        self._bridge = Bridge(
            address,
            client_id or f"app-{secrets.token_hex(6)}",
            tls=tls,
            first_patience=REACHED_WITHIN / 4,  # so that the second of two is tried in time
            on_up=lambda _: self._ask_again(),
        )
        self._bridge.subscribe(self._topics.device_state("+"), self._messages.put)
        self._bridge.subscribe(self._topics.verifier_state("+"), self._messages.put)
        self._devices: dict[str, AgentState] = {}
        self._verifiers: dict[str, VerifierState] = {}

    def __enter__(self) -> Self:
        self._bridge.start()
        try:
            self._bridge.wait_up(REACHED_WITHIN)
        except BaseException:
            self._bridge.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bridge.stop()

    def wait_online(self, *, devices: int = 1, verifiers: int = 1, timeout: float = 30) -> bool:
        """Wait until so many devices and verifiers have announced themselves; False if they have not in time."""
        give_up = time.monotonic() + timeout
        while True:
            online = sum(state.status == "online" for state in self._devices.values())
            serving = sum(state.status == "online" for state in self._verifiers.values())
            if online >= devices and serving >= verifiers:
                return True
            left = give_up - time.monotonic()
            if left <= 0:
                return False
            self._read(left)

    def ask(self, device: str, ask: Ask, *, timeout: float = 120) -> Iterator[AnswerEvent]:
        """Ask a device and yield the events of its answer, each piece of text once, ending with `done` or `error`.

        The text is that of the token events, one behind another. If the app takes text back (`ask.revise`), token
        events may be provisional, and a revise event replaces all text from its offset on.

        Args:
            device: its id.
            ask: the request; given an id if it has none, so that it is answered once.
            timeout: seconds to wait for each next event.

        Raises:
            NoAnswerError: the device is not online, or says nothing for `timeout` seconds.
            WireError: the device id or the request is malformed.
        """
        check_name(device)
        if ask.id is None:
            ask = msgspec.structs.replace(ask, id=secrets.token_hex(8))
        assert ask.id is not None
        self._await_device(device, min(timeout, ANNOUNCED_WITHIN))
        topic = self._topics.answer(device, ask.id)
        payload = codec.encode_json(ask)
        codec.decode_ask(payload)
        events: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._bridge.subscribe(topic, events.put)
        self._asked = (self._topics.ask(device), payload)
        try:
            self._bridge.publish(*self._asked)
            yield from self._answer(device, events, timeout, Transcript(revise=ask.revise))
        finally:
            self._asked = None
            self._bridge.unsubscribe(topic)

    def _ask_again(self) -> None:
        """After a lost connection, here or there: the broker may have had nobody to pass the request on to.

        The id makes it one request, and a device that has ended it says so again.
        """
        asked = self._asked
        if asked is not None:
            self._bridge.publish(*asked)

    def _heard_of(self, device: str, state: AgentState) -> None:
        self._devices[device] = state
        asked = self._asked
        if state.status == "online" and asked is not None and asked[0] == self._topics.ask(device):
            self._ask_again()

    def cancel(self, device: str, request: str) -> None:
        """End a request; its answer stream then ends with `done`, reason `cancelled`."""
        self._bridge.publish(self._topics.cancel(device), codec.encode_json(Cancel(request)))

    def _await_device(self, device: str, timeout: float) -> None:
        """Wait until a device has announced itself: before its first connect the broker would drop what it is sent."""
        give_up = time.monotonic() + timeout
        while device not in self._devices:
            left = give_up - time.monotonic()
            if left <= 0:
                self._give_up(device, timeout)
            self._read(left)

    def _answer(
        self, device: str, events: queue.SimpleQueue[Message], timeout: float, transcript: Transcript
    ) -> Iterator[AnswerEvent]:
        give_up = time.monotonic() + timeout
        while True:
            try:
                event = codec.decode_event(events.get(timeout=min(1.0, max(0.0, give_up - time.monotonic()))).payload)
            except queue.Empty:
                self._check_alive(device, give_up, timeout)
                continue
            news = transcript.take(event)
            if not news:
                continue
            give_up = time.monotonic() + timeout
            yield from news
            if isinstance(event, DoneEvent | ErrorEvent):
                return

    def _check_alive(self, device: str, give_up: float, timeout: float) -> None:
        self._read(0)
        if time.monotonic() >= give_up:
            self._give_up(device, timeout)

    def _give_up(self, device: str, timeout: float) -> NoReturn:
        state = self._devices.get(device)
        if state is None:
            why = f"no device {device!r} has announced itself at this broker: start one with `sled agent {device}`"
        elif state.status == "offline":
            why = f"device {device!r} is offline; the request waits for it at the broker"
        elif not any(verifier.status == "online" for verifier in self._verifiers.values()):
            why = f"device {device!r} is online, but no verifier is: start one with `sled verifier`"
        else:
            why = f"device {device!r} is online but has said nothing for {timeout:.0f} s: see its log"
        raise NoAnswerError(why)

    def _read(self, timeout: float) -> None:
        """Take in announcements, waiting at most so long for the first."""
        try:
            while True:
                message = self._messages.get(timeout=max(0.0, timeout))
                timeout = 0
                topic = self._topics.parse(message.topic)
                try:
                    if topic.family is Family.DEVICE_STATE and message.payload:
                        self._heard_of(topic.device, codec.decode_state(message.payload, AgentState))
                    elif topic.family is Family.VERIFIER_STATE and message.payload:
                        self._verifiers[topic.verifier] = codec.decode_state(message.payload, VerifierState)
                except WireError:
                    continue
        except queue.Empty:
            return
