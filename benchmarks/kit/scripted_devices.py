"""Devices that are real agents with a drafter that plays a script, kept busy by one app."""

from __future__ import annotations

import queue
import random
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, Self

from benchmarks.kit.counted_verifier import Server, Work
from broker.client import Bridge
from edge_agent.drafters.drafter import Proposal
from edge_agent.policy import parse_policy
from edge_agent.service import Agent, AgentOptions
from edge_agent.spool import Spool
from schemas import codec
from schemas.messages import GREEDY, Ask, DoneEvent, ErrorEvent, Statistics, TokenEvent
from schemas.topics import Topics
from sled.client import Client

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from types import TracebackType

    from broker.address import BrokerAddress
    from broker.message import Message
    from edge_agent.tokenizer import ChatTokenizer
    from schemas.messages import Sampling

_PATIENCE: Final = 120.0
"""Seconds without any event after which the run is given up."""
_SETTLE: Final = 0.15
"""Seconds between the first requests of two devices."""


@dataclass(frozen=True, slots=True)
class Text:
    """A prompt as text and as token ids, and what the target will say."""

    prompt: str
    tokens: tuple[int, ...]
    output: tuple[int, ...]


class ScriptedDrafter:
    """Proposes what the target will say, or with a fixed chance something else, in its own time.

    Whether it is right depends on the text and the position alone, so that it is so under every policy.
    """

    name = "script"

    def __init__(self, texts: Sequence[Text], vocab_size: int, acceptance: float, seconds: float) -> None:
        """Set a drafter up.

        Args:
            texts: that it may be asked to continue.
            vocab_size: proposals lie below it.
            acceptance: chance that a token is the target's, 0 to 1.
            seconds: that every token takes.
        """
        self.vocab_size = vocab_size
        self.context_length = 1 << 20
        self._texts = texts
        self._acceptance = acceptance
        self._seconds = seconds

    def propose(self, tokens: Sequence[int], sampling: Sampling = GREEDY, position: int = 0) -> Proposal | None:
        """Return the next token of the text that `tokens` begin with, or a wrong one; None beyond its end."""
        del sampling, position  # a script is read by its place alone
        time.sleep(self._seconds)
        for number, text in enumerate(self._texts):
            at = len(tokens) - len(text.tokens)
            if 0 <= at < len(text.output) and tuple(tokens[: len(text.tokens)]) == text.tokens:
                right = random.Random(f"{number} {at}").random() < self._acceptance
                return Proposal((text.output[at] + (not right)) % self.vocab_size, 0.9 if right else 0.5)
        return None


@dataclass(slots=True)
class Turn:
    """What was seen of one policy in one turn. Times are in seconds.

    Attributes:
        tokens: committed while it was counted.
        seconds: how long it was counted.
        tpot: time per output token after the first commit, of each request.
        ttft: time to the first commit, of each request.
        rounds: of these requests.
        resends: of these requests.
        work: of the engine while it was counted.
    """

    tokens: int = 0
    seconds: float = 0.0
    tpot: list[float] = field(default_factory=list)
    ttft: list[float] = field(default_factory=list)
    rounds: int = 0
    resends: int = 0
    work: Work = field(default_factory=Work)

    def add(self, done: Statistics) -> None:
        """Count a request."""
        self.ttft.append(done.ttft / 1e6)
        self.tpot.append((done.duration - done.ttft) / 1e6 / max(1, done.tokens - 1))
        self.rounds += done.rounds
        self.resends += done.resends


class Devices:
    """Devices, and the app that asks them."""

    def __init__(
        self, address: BrokerAddress, tokenizer: ChatTokenizer, texts: Sequence[Text], options: argparse.Namespace
    ) -> None:
        self._address = address
        self._texts = texts
        self._options = options
        self._topics = Topics()
        self._events: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._bridge = Bridge(address, "bench-app")
        self._bridge.subscribe(self._topics.answer("+", "+"), self._events.put)
        count = options.devices
        fastest, slowest = options.draft_ms
        self.devices = [f"bench-{number}" for number in range(count)]
        self._agents = [
            Agent(
                AgentOptions(device, address),
                ScriptedDrafter(
                    texts,
                    tokenizer.vocab_size,
                    options.acceptance,
                    (fastest + (slowest - fastest) * number / max(1, count - 1)) / 1e3,
                ),
                tokenizer,
                parse_policy(options.draft),
                Spool(None),
            )
            for number, device in enumerate(self.devices)
        ]
        self._threads = [threading.Thread(target=agent.run, daemon=True) for agent in self._agents]
        self._asked = dict.fromkeys(self.devices, 0)
        self._answered = dict.fromkeys(self.devices, 0)
        self._asking: Literal["not counted", "counted", "no more"] = "not counted"
        self._under_way: dict[str, bool] = {}

    def __enter__(self) -> Self:
        self._bridge.start()
        self._bridge.wait_up(10)
        for thread in self._threads:
            thread.start()
        with Client(self._address) as client:
            if not client.wait_online(devices=len(self.devices)):
                raise TimeoutError("the devices and the verifier did not come online within 30 seconds")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for agent in self._agents:
            agent.stop()
        for thread in self._threads:
            thread.join(20)
        self._bridge.stop()

    def run(self, server: Server) -> Turn:
        """Keep all devices busy, and return what was seen while that was so."""
        begin = time.monotonic()
        for number, device in enumerate(self.devices):
            self._take_in(Turn(), until=begin + _SETTLE * number)
            self._ask(device)
        while not all(self._answered.values()):
            self._take_in(Turn())
        turn, before, self._asking = Turn(), server.count(), "counted"
        began, enough = time.monotonic(), sum(self._answered.values()) + self._options.requests * len(self.devices)
        while sum(self._answered.values()) < enough:
            self._take_in(turn)
        turn.seconds = time.monotonic() - began
        turn.work = server.count().since(before)
        self._asking, tokens = "no more", turn.tokens
        while self._under_way:
            self._take_in(turn)
        turn.tokens = tokens
        return turn

    def _take_in(self, turn: Turn, until: float | None = None) -> None:
        """Take in one event, or all until a time; a device that is done is asked its next request."""
        while (message := self._next(until)) is not None:
            event = codec.decode_event(message.payload)
            match event:
                case TokenEvent():
                    turn.tokens += len(event.tokens)
                case DoneEvent() if event.request in self._under_way:
                    device = self._topics.parse(message.topic).device
                    self._answered[device] += 1
                    if self._under_way.pop(event.request):
                        turn.add(event.statistics)
                    if self._asking != "no more":
                        self._ask(device)
                case ErrorEvent():
                    raise RuntimeError(f"a device could not answer ({event.code}): {event.message}")
                case _:
                    pass
            if until is None:
                return

    def _next(self, until: float | None) -> Message | None:
        """Return the next message, or None at `until`."""
        try:
            return self._events.get(timeout=_PATIENCE if until is None else max(0.0, until - time.monotonic()))
        except queue.Empty:
            if until is None:
                raise TimeoutError(f"no device said anything for {_PATIENCE:.0f} seconds") from None
            return None

    def _ask(self, device: str) -> None:
        """Ask a device its next text; the devices begin with different ones."""
        number = self._asked[device]
        self._asked[device] += 1
        text = self._texts[(self.devices.index(device) + number) % len(self._texts)]
        request = f"{device}-{number}"
        ask = Ask(request, text.prompt, max_tokens=self._options.tokens, ignore_end=True)
        self._bridge.publish(self._topics.ask(device), codec.encode_json(ask))
        self._under_way[request] = self._asking == "counted"
