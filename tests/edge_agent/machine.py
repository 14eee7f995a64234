"""A session under test, with a clock of its own, and the messages of one verifier to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict, Unpack

from edge_agent.drafters.drafter import Proposal
from edge_agent.effects import Draft, Effect, PublishDraft
from edge_agent.events import Cancelled, Drafted, Event, LinkDown, Placed, Terms
from edge_agent.outage import STALL, OutageRules
from edge_agent.policy import FixedLength
from edge_agent.request import Request
from edge_agent.roundtrip import RoundTrip
from edge_agent.session import Session, State
from schemas.digest import Log
from schemas.messages import (
    GREEDY,
    VERSION,
    DraftBundle,
    Epoch,
    FinishReason,
    Refusal,
    RefusalCode,
    ReleasedRange,
    Resync,
    ResyncReason,
    Sampling,
    SessionContext,
    StopRules,
    Verdict,
)

if TYPE_CHECKING:
    from edge_agent.policy import Policy

SESSION = b"session1"
PROMPT = (11, 12, 13)
TOKENIZER = "70ce11a5"
MAX_TOKENS = 20
NONCE = b"boot-one"
OTHER_NONCE = b"boot-two"
VOCABULARY = 100
END = 0
FIRST_TIMEOUT = 2.0
"""Of a round trip that was never observed."""


def terms(verifier: str = "v0", boot: str = "1", *, context_length: int = 200, round_time: float = 0.0) -> Terms:
    return Terms(verifier, boot, VOCABULARY, context_length, frozenset({END}), round_time)


def context(
    epoch: int = 1,
    revision: int = 0,
    *,
    committed: tuple[int, ...] = (),
    owner: str = "v0",
    max_tokens: int = MAX_TOKENS,
    released: tuple[ReleasedRange, ...] = (),
    successor: str | None = None,
) -> SessionContext:
    """The context that the machine should publish."""
    return SessionContext(
        VERSION,
        "context",
        SESSION,
        Epoch(epoch, NONCE),
        revision,
        owner,
        TOKENIZER,
        PROMPT,
        committed,
        max_tokens,
        Sampling(),
        StopRules(),
        released,
        successor=successor,
    )


def bundle(
    number: int,
    draft: tuple[int, ...],
    *,
    after: tuple[int, ...] = (),
    epoch: int = 1,
    revision: int = 0,
    timeout: float = FIRST_TIMEOUT,
    run: int = 0,
) -> DraftBundle:
    """The bundle that the machine should send when `after` is committed."""
    return DraftBundle(
        VERSION,
        "draft",
        SESSION,
        Epoch(epoch, NONCE),
        revision,
        number,
        len(after),
        Log(PROMPT, after).digest(),
        draft,
        run,
        time_left=round(timeout * 1e6),
    )


def wish(branch: int, sequence: tuple[int, ...]) -> Draft:
    """The draft that the machine should ask for, greedily."""
    return Draft(branch, sequence, GREEDY, len(sequence) - len(PROMPT))


def verdict(
    number: int,
    tokens: tuple[int, ...],
    *,
    after: tuple[int, ...] = (),
    accepted: int = 0,
    finish: FinishReason | None = None,
    epoch: int = 1,
    nonce: bytes = NONCE,
    session: bytes = SESSION,
    step_time: int = 0,
    draft_hint: int = 0,
    run_hint: int = 0,
) -> Verdict:
    """What a verifier says that holds the log `after` and then chose `tokens`."""
    return Verdict(
        VERSION,
        "verdict",
        session,
        Epoch(epoch, nonce),
        number,
        len(after),
        tokens,
        accepted,
        Log(PROMPT, after + tokens).digest(),
        finish,
        0,
        step_time,
        draft_hint,
        run_hint,
    )


def resync(
    reason: ResyncReason = "unknown_session",
    *,
    epoch: int = 1,
    revision: int = 0,
    number: int = 1,
    known: Epoch | None = None,
    session: bytes = SESSION,
) -> Resync:
    return Resync(VERSION, "resync", session, Epoch(epoch, NONCE), revision, number, reason, known)


def refusal(
    code: RefusalCode = "overloaded",
    *,
    epoch: int | None = 1,
    number: int | None = None,
    retry_after: int = 0,
) -> Refusal:
    named = None if epoch is None else Epoch(epoch, NONCE)
    return Refusal(VERSION, "refusal", code, "a sentence for people", SESSION, named, number, retry_after)


def quick() -> RoundTrip:
    """What a device knows of round trips that took no time at all."""
    known = RoundTrip()
    known.observe(0.0)
    return known


class Options(TypedDict, total=False):
    """What a test may set; everything has a default."""

    max_tokens: int
    prompt: tuple[int, ...]
    stop: StopRules
    policy: Policy
    epoch: int
    committed: tuple[int, ...]
    link_up: bool
    drafter_context: int
    sampling: Sampling
    run: int
    roundtrip: RoundTrip
    outage: OutageRules
    released: tuple[ReleasedRange, ...]
    room: int | None
    reading: bool


class Machine:
    """A session and the time. Drafts two tokens a round, so five at most with extras, unless told otherwise.

    Its device knows of round trips that took no time; one that is told what to do in an outage knows of none.
    """

    def __init__(self, **options: Unpack[Options]) -> None:
        self.now = 0.0
        self.session = Session(
            Request(
                SESSION,
                options.get("prompt", PROMPT),
                options.get("max_tokens", MAX_TOKENS),
                TOKENIZER,
                options.get("sampling", GREEDY),
                stop=options.get("stop", StopRules()),
            ),
            options.get("policy", FixedLength(2)),
            nonce=NONCE,
            epoch=options.get("epoch", 0),
            committed=options.get("committed", ()),
            link_up=options.get("link_up", True),
            drafter_context=options.get("drafter_context", 1 << 30),
            roundtrip=options.get("roundtrip") or (RoundTrip() if "outage" in options else quick()),
            run=options.get("run", 0),
            outage=options.get("outage", STALL),
            released=options.get("released", ()),
            room=options.get("room"),
            reading=options.get("reading", False),
        )
        self.wish: Draft | None = None

    def state(self) -> State:
        return self.session.state

    @property
    def committed(self) -> tuple[int, ...]:
        return self.session.log.tokens()

    def tell(self, event: Event) -> list[Effect]:
        effects = self.session.receive(event, self.now)
        for effect in effects:
            if isinstance(effect, Draft):
                self.wish = effect
        return effects

    def draft(self, *tokens: int | None) -> list[Effect]:
        """Let the drafter answer so many times, None where it has nothing to propose; return all effects."""
        return self._answer(*(None if token is None else Proposal(token, 0.9) for token in tokens))

    def draft_unsure(self, *tokens: int) -> list[Effect]:
        """Let the drafter answer so many times with tokens that it hardly believes in."""
        return self._answer(*(Proposal(token, 0.1) for token in tokens))

    def _answer(self, *proposals: Proposal | None) -> list[Effect]:
        effects: list[Effect] = []
        for proposal in proposals:
            assert self.wish is not None, "the session did not ask for a draft"
            wish, self.wish = self.wish, None
            effects += self.tell(Drafted(wish.branch, proposal))
        return effects


def drafting(**options: Unpack[Options]) -> Machine:
    """A machine that was just placed on v0."""
    machine = Machine(**options)
    machine.tell(Placed(terms()))
    assert machine.state() is State.DRAFTING
    return machine


def opened(**options: Unpack[Options]) -> Machine:
    """A machine that was just placed on v0 and whose drafter has not read the prompt: round 1 has gone without it."""
    options["reading"] = True
    machine = Machine(**options)
    assert bundle(1, ()) in sent(machine.tell(Placed(terms())))
    assert machine.state() is State.AWAITING
    return machine


def sent(effects: list[Effect]) -> list[DraftBundle]:
    """The bundles among some effects."""
    return [effect.bundle for effect in effects if isinstance(effect, PublishDraft)]


def awaiting(*extras: int, **options: Unpack[Options]) -> Machine:
    """A machine that has sent the draft (21, 22) in round 1 and drafted the extras since."""
    machine = drafting(**options)
    machine.draft(21, 22, *extras)
    assert machine.state() is State.AWAITING
    return machine


def cut_off(*extras: int, **options: Unpack[Options]) -> Machine:
    """A machine that awaits a verdict, but whose link broke."""
    machine = awaiting(*extras, **options)
    machine.tell(LinkDown())
    assert machine.state() is State.OUTAGE
    return machine


def finished() -> Machine:
    machine = drafting()
    machine.tell(Cancelled())
    assert machine.state() is State.FINISHED
    return machine
