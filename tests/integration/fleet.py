"""Real agents and verifiers over a real broker, on threads of the test, and what the target alone would say."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Self, TypeVar

from broker.address import BrokerAddress
from edge_agent.drafters.spec import open_drafter, parse_drafter
from edge_agent.policy import FixedLength
from edge_agent.service import Agent, AgentOptions
from edge_agent.spool import Spool
from edge_agent.tokenizer import ChatTokenizer
from schemas.choice import noisy
from schemas.digest import tokenizer_digest
from schemas.messages import AnswerEvent, Ask, DoneEvent, Sampling, TokenEvent
from sled.client import Client
from verifier.engine.load import load_engine
from verifier.scheduler import Continuous
from verifier.service import Verifier, VerifierOptions

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from broker.run import RunningBroker
    from sled.reference import Reference

Role = TypeVar("Role", Agent, Verifier)


class Fleet:
    """Starts and stops roles; all are stopped on leaving."""

    def __init__(self, broker: RunningBroker, target: Path, drafter: Path) -> None:
        self.address = BrokerAddress(broker.host, broker.port)
        self.target = target
        self.drafter = drafter
        self.tokenizer = ChatTokenizer.load(target)
        self._running: list[tuple[Agent | Verifier, threading.Thread]] = []

    def verifier(
        self,
        name: str = "verifier",
        *,
        capacity: int = 16,
        tokenizer: str | None = None,
        kv_budget: int = 1 << 28,
        target: str = "tiny",
    ) -> Verifier:
        engine = load_engine(self.target, dtype="float32", kv_budget_bytes=kv_budget, threads=1)
        digest = tokenizer or tokenizer_digest(self.tokenizer.canonical_json)
        options = VerifierOptions(
            name, self.address, digest, "test", target=target, capacity=capacity, batching=Continuous(64)
        )
        return self._start(Verifier(options, engine))

    def agent(
        self,
        device: str = "pi",
        *,
        spool: Path | None = None,
        draft: int = 4,
        max_queue: int = 16,
        drafter: str = "",
        run: int = 8,
        padding: bool = False,
    ) -> Agent:
        """Start an agent; with `padding`, it drafts ids beyond the tokenizer's too, as a random target writes them."""
        specs = [parse_drafter(drafter or str(self.drafter))]
        drafters = open_drafter(
            specs,
            vocab_limit=None if padding else self.tokenizer.vocab_size,
            target=self.target,
        )
        options = AgentOptions(device, self.address, max_queue=max_queue, run=run)
        return self._start(Agent(options, drafters, self.tokenizer, FixedLength(draft), Spool(spool)))

    def client(self) -> Client:
        return Client(self.address)

    def stop(self, role: Agent | Verifier) -> None:
        """End one role in good order."""
        for entry in self._running:
            if entry[0] is role:
                role.stop()
                entry[1].join(20)
                assert not entry[1].is_alive(), "a role must end when told to"
                self._running.remove(entry)
                return

    def _start(self, role: Role) -> Role:
        thread = threading.Thread(target=role.run, daemon=True)
        thread.start()
        self._running.append((role, thread))
        return role

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for role, _ in reversed(self._running.copy()):
            self.stop(role)


def answer(client: Client, device: str, ask: Ask, *, timeout: float = 30) -> tuple[tuple[int, ...], DoneEvent]:
    """Ask and return the answer's tokens and last event; the streamed pieces must make up the text."""
    tokens: list[int] = []
    pieces: list[str] = []
    for event in client.ask(device, ask, timeout=timeout):
        match event:
            case TokenEvent():
                assert event.index == len(tokens)
                assert event.offset == sum(map(len, pieces))
                tokens += event.tokens
                pieces.append(event.text)
            case DoneEvent():
                assert event.text == "".join(pieces)
                return tuple(tokens), event
            case _:
                raise AssertionError(f"the answer ended with {event}")
    raise AssertionError("the answer ended without a last event")


def last(client: Client, device: str, ask: Ask, *, timeout: float = 30) -> AnswerEvent:
    """Ask and return the last event."""
    return list(client.ask(device, ask, timeout=timeout))[-1]


def sampled_alone(reference: Reference, prompt: str, sampling: Sampling, max_tokens: int) -> tuple[int, ...]:
    """Return what the target alone writes when each token is chosen by the rule, one whole forward per token."""
    ids = reference.tokenizer.encode_chat([{"role": "user", "content": prompt}])
    out: list[int] = []
    while len(out) < max_tokens:
        logits = reference.logits(ids, [*out, 0])[-1]
        out.append(int(noisy(logits, sampling, len(out)).argmax()))
        if out[-1] in reference.end_tokens:
            break
    return tuple(out)


def alone(reference: Reference, prompt: str, max_tokens: int) -> tuple[tuple[int, ...], str]:
    """Return what the target alone says, as tokens and text."""
    return reference.write([{"role": "user", "content": prompt}], max_tokens)
