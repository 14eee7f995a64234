"""A ledger under test, with a clock, an engine that knows the text by heart, and the messages of one device."""

from __future__ import annotations

from schemas.digest import Log
from schemas.messages import (
    VERSION,
    DraftBundle,
    Epoch,
    FinishReason,
    Refusal,
    Resync,
    ResyncReason,
    Sampling,
    SessionContext,
    StopRules,
    Verdict,
)
from verifier.admission import Target
from verifier.ledger import Effect, Key, Ledger, Release, Reply, Work

DEVICE = "pi"
SESSION = b"session1"
KEY = Key(DEVICE, SESSION)
PROMPT = (11, 12, 13)
TOKENIZER = "70ce11a5"
NONCE = b"boot-one"
OTHER_NONCE = b"boot-two"
VOCABULARY = 100
CONTEXT_LENGTH = 64
MAX_TOKENS = 20
END = 0
TEXT = tuple(range(21, 21 + MAX_TOKENS))
"""What the target writes: 21, 22, 23, …"""


def context(
    epoch: int = 1,
    revision: int = 0,
    *,
    committed: tuple[int, ...] = (),
    owner: str = "v0",
    session: bytes = SESSION,
    nonce: bytes = NONCE,
    tokenizer: str = TOKENIZER,
    prompt: tuple[int, ...] = PROMPT,
    max_tokens: int = MAX_TOKENS,
    temperature: float = 0.0,
    stop: StopRules = StopRules(),  # noqa: B008 -- frozen
    successor: str | None = None,
) -> SessionContext:
    return SessionContext(
        VERSION,
        "context",
        session,
        Epoch(epoch, nonce),
        revision,
        owner,
        tokenizer,
        prompt,
        committed,
        max_tokens,
        Sampling(temperature),
        stop,
        successor=successor,
    )


def bundle(
    number: int,
    draft: tuple[int, ...] = (),
    *,
    after: tuple[int, ...] = (),
    epoch: int = 1,
    revision: int = 0,
    nonce: bytes = NONCE,
    session: bytes = SESSION,
    time_left: int = 0,
    run: int = 0,
) -> DraftBundle:
    """A bundle of an agent that has committed `after`."""
    return DraftBundle(
        VERSION,
        "draft",
        session,
        Epoch(epoch, nonce),
        revision,
        number,
        len(after),
        Log(PROMPT, after).digest(),
        draft,
        run,
        time_left=time_left,
    )


def verdict(
    number: int,
    tokens: tuple[int, ...],
    *,
    after: tuple[int, ...] = (),
    accepted: int = 0,
    finish: FinishReason | None = None,
    epoch: int = 1,
    queue_time: int = 0,
    step_time: int = 0,
    draft_hint: int = 0,
    run_hint: int = 0,
) -> Verdict:
    """The verdict that should come where the agent has committed `after`."""
    return Verdict(
        VERSION,
        "verdict",
        SESSION,
        Epoch(epoch, NONCE),
        number,
        len(after),
        tokens,
        accepted,
        Log(PROMPT, after + tokens).digest(),
        finish,
        queue_time,
        step_time,
        draft_hint,
        run_hint,
    )


def resync(
    reason: ResyncReason, *, number: int = 1, epoch: int = 1, revision: int = 0, known: Epoch | None = None
) -> Resync:
    """The Resync that should come."""
    return Resync(VERSION, "resync", SESSION, Epoch(epoch, NONCE), revision, number, reason, known)


class Bench:
    """A ledger and the time; what it says to the device comes back as messages."""

    def __init__(self, *, text: tuple[int, ...] = TEXT, capacity: int = 256, memory: int = 65_536) -> None:
        self.now = 0.0
        self.text = text
        target = Target(TOKENIZER, VOCABULARY, CONTEXT_LENGTH, frozenset({END}))
        self.ledger = Ledger("v0", target, capacity=capacity, memory=memory)
        self.released: list[Key] = []

    def heard(self, effects: list[Effect]) -> list[Verdict | Resync | Refusal]:
        self.released += [effect.key for effect in effects if isinstance(effect, Release)]
        return [effect.message for effect in effects if isinstance(effect, Reply)]

    def context(self, message: SessionContext, device: str = DEVICE) -> list[Verdict | Resync | Refusal]:
        return self.heard(self.ledger.context(device, message, self.now))

    def bundle(self, message: DraftBundle, device: str = DEVICE) -> list[Verdict | Resync | Refusal]:
        return self.heard(self.ledger.bundle(device, message, self.now))

    def clear(self, session: bytes = SESSION) -> list[Verdict | Resync | Refusal]:
        return self.heard(self.ledger.cleared(DEVICE, session))

    def tick(self, now: float) -> list[Verdict | Resync | Refusal]:
        self.now = now
        return self.heard(self.ledger.tick(now))

    def start(self) -> Work:
        """Hand the only piece of work to the engine."""
        (work,) = self.ledger.ready()
        self.ledger.start(work)
        return work

    def complete(self, work: Work, step_time: float = 0.0) -> list[Verdict | Resync | Refusal]:
        """Let the engine finish a piece of work."""
        chosen = [
            self.text[length - len(PROMPT)]
            for length in range(len(work.sequence) - work.choose + 1, len(work.sequence) + 1)
        ]
        return self.heard(self.ledger.complete(work, chosen, self.now, step_time))

    def step(self) -> list[Verdict | Resync | Refusal]:
        return self.complete(self.start())


def serving(*, text: tuple[int, ...] = TEXT, stop: StopRules = StopRules(), max_tokens: int = MAX_TOKENS) -> Bench:  # noqa: B008 -- frozen
    """A bench that has the context of one session and has filled its cache."""
    bench = Bench(text=text)
    assert bench.context(context(stop=stop, max_tokens=max_tokens)) == []
    assert bench.step() == []
    return bench
