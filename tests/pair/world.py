"""A small world for both pure cores: a virtual clock, an unreliable link, a toy target and toy drafters.

Nothing happens by itself. A test decides which message arrives, which is lost, when time passes, when the engine or a
drafter does its next piece of work, and who crashes when.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

from edge_agent.answer import Answer
from edge_agent.drafters.drafter import Proposal
from edge_agent.effects import (
    ClearContext,
    Draft,
    Effect,
    Emit,
    Failed,
    Finished,
    Persist,
    Preview,
    PublishContext,
    PublishDraft,
    StartTimer,
    StopTimer,
)
from edge_agent.events import (
    Cancelled,
    ContextLost,
    Drafted,
    Event,
    LinkDown,
    LinkUp,
    Placed,
    StopFound,
    Terms,
    TimerFired,
    Unplaced,
)
from edge_agent.outage import STALL, OutageMode, OutageRules
from edge_agent.policy import Outcome, Policy, parse_policy
from edge_agent.request import Request
from edge_agent.session import Session, State
from schemas import codec
from schemas.messages import (
    DraftBundle,
    Refusal,
    ReleasedRange,
    Resync,
    SessionContext,
    Statistics,
    Verdict,
)
from tests.pair.consumer import Consumer
from verifier.admission import Target
from verifier.ledger import Ledger, Reply

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from schemas.messages import AnswerEvent
    from verifier.ledger import Effect as LedgerEffect

VOCABULARY = 50
END = 0
CONTEXT_LENGTH = 200
TOKENIZER = "70ce11a5"
NOTHING = Statistics(0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
PIECES = (b"a", b"b", b" ", b"\xc3", b"\xa4", b"ab", b"\xe2\x82", b"\xac", b"E", b"\xf0\x9f")
"""Bytes that tokens stand for: whole characters, parts of some, and what never becomes one."""
WAYS = ("link", "verifier", "silence")
"""How an outage comes about: something is gone, or nothing is heard."""


def decode(tokens: Sequence[int]) -> str:
    return b"".join(PIECES[token % len(PIECES)] for token in tokens if token != END).decode(errors="replace")


def cut(text: str, stop: Sequence[str]) -> str:
    """Cut a text before the stop string that is complete first."""
    ends = [(text.find(word) + len(word), text.find(word)) for word in stop if word in text]
    return text[: min(ends)[1]] if ends else text


class ToyTarget:
    """Chooses tokens by hashing what it has read; at some prefixes two tokens tie and either may be chosen."""

    def __init__(self, *, ties: bool = False) -> None:
        self.ties = ties

    def legal(self, sequence: Sequence[int]) -> tuple[int, ...]:
        """Return the tokens the target may choose after `sequence`, the usual one first."""
        digest = hashlib.blake2b(bytes(sequence), digest_size=4).digest()
        if digest[0] < 6:
            return (END,)
        first = 1 + digest[1] % (VOCABULARY - 1)
        if self.ties and digest[2] < 160:
            return (first, 1 + (first + 7) % (VOCABULARY - 1))
        return (first,)

    def text(self, prompt: Sequence[int], most: int) -> tuple[int, ...]:
        """Return what the target writes alone."""
        out: list[int] = []
        while len(out) < most:
            out.append(self.legal((*prompt, *out))[0])
            if out[-1] == END:
                break
        return tuple(out)

    def writes(self, prompt: Sequence[int], output: Sequence[int], released: Collection[int] = ()) -> bool:
        """Whether `output` is something the target may write after `prompt`, except at the positions released."""
        return all(
            (i in released or token in self.legal((*prompt, *output[:i]))) and (token != END or i == len(output) - 1)
            for i, token in enumerate(output)
        )


@dataclass
class Saved:
    """What survives a crash of the agent."""

    request: Request
    stop: tuple[str, ...] = ()
    rules: OutageRules = STALL
    revise: bool = False
    runs: int = 0
    released: set[int] = field(default_factory=set)
    fenced: int = 0  # the highest epoch that a verifier may know
    epoch: int = 0
    committed: list[int] = field(default_factory=list)
    finish: str | None = None
    room: int | None = None

    def ranges(self) -> tuple[ReleasedRange, ...]:
        """The positions released, as ranges that do not touch."""
        starts = [i for i in sorted(self.released) if i - 1 not in self.released]
        ends = [i + 1 for i in sorted(self.released) if i + 1 not in self.released]
        return tuple(ReleasedRange(start, end) for start, end in zip(starts, ends, strict=True))


@dataclass
class Shown:
    """What an app has seen of a request, over all runs of the agent."""

    tokens: dict[int, int] = field(default_factory=dict)
    ends: list[str] = field(default_factory=list)


class AgentCrashedError(Exception):
    """The agent dies between two effects."""


class Pupil:
    """The policy of a session, which checks that what it is taught is true."""

    def __init__(self, world: World, session: bytes, policy: Policy) -> None:
        self._world = world
        self._session = session
        self._policy = policy
        self.max_draft = policy.max_draft
        self.calibration = policy.calibration

    def enough(self, draft: Sequence[Proposal]) -> bool:
        return self._policy.enough(draft)

    def worth(self, draft: Sequence[Proposal]) -> int:
        return self._policy.worth(draft)

    def ahead(self, draft: Sequence[Proposal]) -> bool:
        return self._policy.ahead(draft)

    def learn(self, outcome: Outcome) -> None:
        """Accepted and rejected are the target's own words at the very place where the log ends."""
        sequence = list(self._world.sessions[self._session].log.sequence())
        assert 0 <= outcome.accepted <= min(len(outcome.proposals), outcome.committed)
        assert outcome.seconds is None or outcome.seconds >= 0
        for proposal in outcome.proposals[: outcome.accepted]:
            assert proposal.token in self._world.target.legal(sequence)
            sequence.append(proposal.token)
        for rejected in outcome.proposals[outcome.accepted : outcome.accepted + 1]:
            assert outcome.committed > outcome.accepted, "the target has said something else in its place"
            assert sequence[-1] != END
            assert self._world.target.ties or rejected.token not in self._world.target.legal(sequence)
        self._policy.learn(outcome)


class World:
    """Two verifiers, one device with several sessions, and the link between them."""

    device = "pi"

    def __init__(
        self,
        *,
        ties: bool = False,
        capacity: int = 8,
        memory: int = 65_536,
        lengths: Sequence[int] = (CONTEXT_LENGTH, CONTEXT_LENGTH),
    ) -> None:
        self.now = 0.0
        self.target = ToyTarget(ties=ties)
        self.capacity = capacity
        self.memory = memory
        self.retained: dict[bytes, bytes] = {}
        self.up: list[tuple[str, bytes, bytes]] = []  # verifier, session, payload (empty: context cleared)
        self.down: list[bytes] = []
        self.verifiers: dict[str, Ledger] = {}
        self.boots = dict.fromkeys(("v0", "v1"), 0)
        self.lengths = dict(zip(self.boots, lengths, strict=True))
        self.spool: dict[bytes, Saved] = {}
        self.shown: dict[bytes, Shown] = {}
        self.answers: dict[bytes, Answer] = {}
        self.consumers: dict[bytes, Consumer] = {}
        self.sessions: dict[bytes, Session] = {}
        self.timers: dict[bytes, float] = {}
        self.drafts: dict[bytes, Draft] = {}
        self.crash_after: int | None = None
        self.link_up = True
        self.faithful = True  # nothing was lost, repeated or reordered so far
        self.policies: dict[bytes, Pupil] = {}
        self.runs: dict[bytes, int] = {}
        self.placed: str | None = "v0"
        self._nonces = count(1)
        self._ids = count(1)
        self.nonce = b"-------0"
        for name in self.boots:
            self.start_verifier(name)
        self.start_agent()

    # Verifiers ----------------------------------------------------------------------------------------------------

    def start_verifier(self, name: str) -> None:
        """Start a verifier, or start it again with nothing remembered; the broker brings the retained contexts."""
        target = Target(TOKENIZER, VOCABULARY, self.lengths[name], frozenset({END}))
        self.verifiers[name] = Ledger(name, target, capacity=self.capacity, memory=self.memory)
        self.boots[name] += 1
        self.up += [(name, session, payload) for session, payload in self.retained.items()]
        if self.placed == name and self.link_up:
            self.tell_all(Placed(self.terms(name)))

    def terms(self, name: str) -> Terms:
        return Terms(name, str(self.boots[name]), VOCABULARY, self.lengths[name], frozenset({END}))

    def lose_up(self, index: int) -> None:
        self.faithful = False
        del self.up[index]

    def lose_down(self, index: int) -> None:
        self.faithful = False
        del self.down[index]

    def reply(self, effects: Sequence[LedgerEffect]) -> None:
        self.down += [codec.encode(effect.message) for effect in effects if isinstance(effect, Reply)]

    def arrive_up(self, index: int, *, keep: bool = False) -> None:
        """Let a message of the agent reach its verifier; `keep` leaves a copy on the link."""
        self.faithful &= index == 0 and not keep
        name, session, payload = self.up[index] if keep else self.up.pop(index)
        ledger = self.verifiers[name]
        if not payload:
            self.reply(ledger.cleared(self.device, session))
            return
        match codec.decode(payload, SessionContext, DraftBundle):
            case SessionContext() as context:
                self.reply(ledger.context(self.device, context, self.now))
            case DraftBundle() as bundle:
                self.reply(ledger.bundle(self.device, bundle, self.now))

    def verify(self, name: str, *, pick: int = 0, tie: int = 0) -> bool:
        """Let a verifier's engine do one piece of work; say whether there was one."""
        ledger = self.verifiers[name]
        ready = list(ledger.ready())
        if not ready:
            return False
        work = ready[pick % len(ready)]
        ledger.start(work)
        known = len(work.sequence) - work.choose + 1
        if work.choose:
            prompt = self.spool[work.key.session].request.prompt
            assert work.position == known - len(prompt), "noise is drawn for the output position"
        chosen = []
        for length in range(known, len(work.sequence) + 1) if work.choose else ():
            legal = self.target.legal(work.sequence[:length])
            chosen.append(legal[tie % len(legal)])
        self.reply(ledger.complete(work, chosen, self.now, 0.01))
        return True

    # The agent ----------------------------------------------------------------------------------------------------

    def start_agent(self) -> None:
        """Start the agent, or start it again with what the spool remembers."""
        self.nonce = next(self._nonces).to_bytes(8, "big")
        self.sessions.clear()
        self.timers.clear()
        self.drafts.clear()
        self.crash_after = None
        for session in list(self.spool):
            self._open(session)
        for session in set(self.retained) - {s for s, saved in self.spool.items() if saved.finish is None}:
            self._clear(session)

    def ask(
        self,
        length: int,
        most: int,
        policy: str,
        *,
        run: int = 0,
        outage: OutageRules = STALL,
        revise: bool = False,
        stop: tuple[str, ...] = (),
    ) -> bytes:
        """Ask for an answer of at most `most` tokens to a prompt of `length` tokens, drafted by a policy."""
        number = next(self._ids)
        session = number.to_bytes(8, "big")
        prompt = tuple(1 + (number * 7 + i * 3) % (VOCABULARY - 1) for i in range(length))
        if outage.mode is OutageMode.REVISE and not revise:
            outage = STALL
        self.spool[session] = Saved(Request(session, prompt, most, TOKENIZER), stop, outage, revise)
        self.consumers[session] = Consumer(revise=revise)
        self.shown[session] = Shown()
        self.policies[session] = Pupil(self, session, parse_policy(policy))
        self.runs[session] = run
        self._open(session)
        return session

    def _open(self, session: bytes) -> None:
        saved, committed = self.spool[session], tuple(self.spool[session].committed)
        if saved.finish == "failed" or self.consumers[session].done is not None:
            return
        self.answers[session] = Answer("ask-1", decode, saved.stop, run=saved.runs)
        saved.runs += 1
        if saved.revise and saved.runs > 1:
            self._say(session, self.answers[session].start_over(committed))
        elif committed:
            self._commit(session, 0, committed)
        if saved.finish is not None:
            self._done(session, saved.finish)
            return
        self.sessions[session] = Session(
            saved.request,
            self.policies[session],
            nonce=self.nonce,
            epoch=saved.epoch,
            committed=committed,
            released=saved.ranges(),
            room=saved.room,
            link_up=self.link_up,
            run=self.runs[session],
            outage=saved.rules,
            reading=True,
        )
        if self.placed is not None:
            self.tell(session, Placed(self.terms(self.placed)))

    def tell(self, session: bytes, event: Event) -> None:
        machine = self.sessions.get(session)
        if machine is None:
            if isinstance(event, Resync):
                self._clear(session)
            return
        saved = self.spool[session]
        if isinstance(event, Placed) and saved.room is None:
            saved.room = saved.request.room(event.terms)
        try:
            for effect in machine.receive(event, self.now):
                self._do(session, effect)
        except AgentCrashedError:
            self.start_agent()
            return
        if session in self.sessions and self.answers[session].stopped:
            self.tell(session, StopFound())

    def tell_all(self, event: Event) -> None:
        for session in list(self.sessions):
            self.tell(session, event)

    def _do(self, session: bytes, effect: Effect) -> None:  # noqa: C901, PLR0912 -- one case per effect
        self._may_crash()
        saved, shown = self.spool[session], self.shown[session]
        match effect:
            case Persist(epoch, start, tokens, finish, released):
                assert start == len(saved.committed)
                if released:
                    assert saved.rules.mode is OutageMode.RELEASE
                    assert epoch > saved.fenced, "no verifier may know the epoch in which tokens are released"
                    saved.released |= set(range(start, start + len(tokens)))
                saved.epoch = epoch
                saved.committed += tokens
                saved.finish = finish
            case PublishContext(context):
                assert saved.epoch == context.epoch.counter, "an epoch must be durable before it is used"
                assert context.committed == tuple(saved.committed[: len(context.committed)])
                assert context.released == saved.ranges(), "nothing was released since the epoch was opened"
                saved.fenced = context.epoch.counter
                self.retained[session] = codec.encode(context)
                self.up += [(name, session, self.retained[session]) for name in self.verifiers]
            case ClearContext():
                assert saved.finish is not None, "what ends a session must be durable before its context goes"
                self._clear(session)
            case PublishDraft(verifier, bundle):
                self.up.append((verifier, session, codec.encode(bundle)))
            case Draft():
                self.drafts[session] = effect
            case StartTimer(delay):
                self.timers[session] = self.now + delay
            case StopTimer():
                self.timers.pop(session, None)
            case Emit(index, tokens):
                assert tuple(saved.committed[index:]) == tokens, "only durable tokens may be shown"
                for position, token in enumerate(tokens, index):
                    assert shown.tokens.setdefault(position, token) == token, "shown tokens never change"
                self._commit(session, index, tokens)
            case Preview(index, tokens):
                assert saved.rules.mode is OutageMode.REVISE
                if (event := self.answers[session].preview(index, tokens)) is not None:
                    self._say(session, event)
            case Finished(reason):
                shown.ends.append(reason)
                del self.sessions[session]
                self._done(session, reason)
            case Failed(code, sentence):
                assert sentence
                shown.ends.append(code)
                del self.sessions[session]

    def _may_crash(self) -> None:
        if self.crash_after is not None:
            self.crash_after -= 1
            if self.crash_after < 0:
                raise AgentCrashedError

    def _say(self, session: bytes, event: AnswerEvent) -> None:
        self.consumers[session].take(event)
        self._may_crash()

    def _commit(self, session: bytes, index: int, tokens: tuple[int, ...]) -> None:
        if not self.answers[session].stopped:
            for event in self.answers[session].commit(index, tokens):
                self._say(session, event)

    def _done(self, session: bytes, reason: str) -> None:
        saved = self.spool[session]
        assert reason in ("stop", "length", "cancelled")
        last, done = self.answers[session].done(len(saved.committed), reason, NOTHING, "v0", saved.ranges())  # type: ignore[arg-type]
        if last is not None:
            self._say(session, last)
        self._say(session, done)

    def _clear(self, session: bytes) -> None:
        self.retained.pop(session, None)
        self.up += [(name, session, b"") for name in self.verifiers]

    def arrive_down(self, index: int, *, keep: bool = False) -> None:
        """Let a message of a verifier reach the agent; `keep` leaves a copy on the link."""
        message = codec.decode(self.down[index] if keep else self.down.pop(index), Verdict, Resync, Refusal)
        assert message.session is not None
        self.tell(message.session, message)

    def draft(self, session: bytes, *, right: bool | None) -> None:
        """Let the drafter answer, with the target's token, with another, or with none."""
        effect = self.drafts.pop(session, None)
        if effect is None:
            return
        assert effect.position == len(effect.sequence) - len(self.spool[session].request.prompt)
        token = self.target.legal(effect.sequence)[0]
        guess = token if right else token % (VOCABULARY - 1) + 1
        proposal = Proposal(guess, 0.8 if right else 0.4, source="toy", seconds=0.01)
        self.tell(session, Drafted(effect.branch, None if right is None else proposal))

    def refresh(self, session: bytes) -> None:
        """The shell publishes the retained context again, as it was; it may be long out of date."""
        if self.link_up and session in self.retained:
            self.up += [(name, session, self.retained[session]) for name in self.verifiers]

    def steal(self, session: bytes) -> None:
        """Somebody else clears the retained context: everybody hears of it, the agent too."""
        if self.retained.pop(session, None) is not None:
            self.up += [(name, session, b"") for name in self.verifiers]
            self.tell(session, ContextLost())

    def cancel(self, session: bytes) -> None:
        self.tell(session, Cancelled())

    def cut(self) -> None:
        if self.link_up:
            self.link_up = False
            self.tell_all(LinkDown())

    def mend(self) -> None:
        if not self.link_up:
            self.link_up = True
            self.tell_all(LinkUp())

    def place(self, name: str | None, *, at_leisure: bool = False) -> None:
        self.placed = name
        self.tell_all(Placed(self.terms(name), at_leisure) if name else Unplaced())

    def suffer(self, way: str, guesses: Sequence[bool]) -> None:
        """Let an outage begin and last, and every drafter guess on in it, right or wrong."""
        if way == "link":
            self.cut()
        elif way == "verifier":
            self.place(None)
        for _ in range(4):
            self.sleep(19)
        for right in guesses:
            for session in list(self.drafts):
                self.draft(session, right=right)

    # Time ---------------------------------------------------------------------------------------------------------

    def sleep(self, seconds: float) -> None:
        """Let time pass and whatever is due happen."""
        self.now += seconds
        for session, due in list(self.timers.items()):
            if due <= self.now and session in self.timers:
                del self.timers[session]
                self.tell(session, TimerFired())
        for ledger in self.verifiers.values():
            self.reply(ledger.tick(self.now))

    def settle(self, most: int = 20_000) -> None:
        """Let everything go well until all sessions have ended."""
        self.crash_after = None
        self.mend()
        if self.placed is None:
            self.place("v0")
        for turn in range(most):
            if not any(machine.state is not State.FINISHED for machine in self.sessions.values()):
                break
            for session in list(self.drafts):
                self.draft(session, right=(True, False, True, None, True)[turn % 5])
            while self.up:
                self.arrive_up(0)
            for name in self.verifiers:
                self.verify(name)
            while self.down:
                self.arrive_down(0)
            self.sleep(0.05)
        while self.up:
            self.arrive_up(0)

    def check(self) -> None:
        """What must hold at every moment."""
        for session, saved in self.spool.items():
            request, shown = saved.request, self.shown[session]
            committed = tuple(saved.committed)
            assert len(committed) <= request.max_tokens
            assert self.target.writes(request.prompt, committed, saved.released)
            if not (self.target.ties or saved.released):
                assert committed == self.target.text(request.prompt, request.max_tokens)[: len(committed)]
            for position, token in shown.tokens.items():
                assert committed[position] == token
            machine = self.sessions.get(session)
            if machine is not None:
                assert machine.log.tokens() == committed
                assert machine.released == saved.ranges()
            consumer = self.consumers[session]
            assert consumer.tokens[: consumer.final] == committed[: consumer.final]
            assert cut(decode(committed), saved.stop).startswith(consumer.final_text)

    def check_ended(self) -> None:
        """What must hold in the end: every text whole, nothing retained, nothing remembered but tombstones."""
        for session, saved in self.spool.items():
            committed = tuple(saved.committed)
            assert saved.finish in ("stop", "length", "cancelled"), (saved.finish, self.shown[session].ends)
            done, text = self.consumers[session].done, cut(decode(committed), saved.stop)
            assert done is not None
            assert (done.text, done.lossless, done.released) == (text, not saved.released, saved.ranges())
            if saved.finish == "cancelled" or text != decode(committed):
                continue
            if self.target.ties or saved.released:
                assert committed[-1] == END or len(committed) == saved.request.max_tokens
            else:
                assert committed == self.target.text(saved.request.prompt, saved.request.max_tokens)
        assert not self.retained
        if self.faithful:
            assert [len(ledger) for ledger in self.verifiers.values()] == [0, 0]
