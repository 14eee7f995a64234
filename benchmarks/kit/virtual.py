"""A device on a virtual clock: its session, policy and drafter are real, its verifier knows the answer already."""

from __future__ import annotations

import heapq
import secrets
import time
from itertools import count
from typing import TYPE_CHECKING, Final

import msgspec

from edge_agent.drafters.drafter import DrafterError
from edge_agent.effects import Draft, PublishDraft
from edge_agent.events import Drafted, DrafterLost, Placed, Terms
from edge_agent.request import Request
from edge_agent.roundtrip import RoundTrip
from edge_agent.session import Session, State
from schemas.messages import VERSION, Verdict
from sled.rounds import Rounds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge_agent.drafters.drafter import Drafter
    from edge_agent.effects import Effect
    from edge_agent.events import Event
    from edge_agent.policy import Policy
    from schemas.messages import DraftBundle

RUN: Final = 8
"""Tokens that the target writes by itself in a round for which there is no draft, as `sled agent` asks for them."""

_TOKENIZER: Final = "the target's"


class Text(msgspec.Struct, frozen=True):
    """A prompt and what the target writes after it, as token ids.

    Attributes:
        finished: whether the answer is at its end, and was not cut off.
        source: where the prompt is from.
    """

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    finished: bool
    source: str = ""


class Costs(msgspec.Struct, frozen=True):
    """Seconds that the target takes, with one session.

    Attributes:
        step: for a step that feeds one token.
        position: for each token more in a step.
        reading: for each token of a prompt.
    """

    step: float
    position: float
    reading: float

    def alone(self, text: Text) -> float:
        """Return what the target takes to write a text by itself, one token at a time."""
        return self.reading * len(text.prompt) + self.step * len(text.answer)


class Virtual(Rounds, frozen=True):
    """What one answer took.

    Attributes:
        seconds: of virtual time, from the asking to the last token.
        alone: that the target would have taken by itself.
        draft_times: of every token that was drafted, sent or not, with its source; the first of an answer reads its
            prompt.
    """

    seconds: float
    alone: float
    draft_times: tuple[tuple[str, float], ...]


class VirtualDevice:
    """Answers one text after another, as `sled agent` would with the server to itself.

    But that the server gives no hints, and that a drafter that is slower than a round is not given up. Drafting takes
    the time that it takes here, measured; a round takes the round-trip time and what `costs` says.

    Args:
        drafter: proposes; should be open on the texts' vocabulary.
        policy: says when to send; learns on from text to text.
        costs: of the target.
        round_trip: seconds to the server and back.
        vocab_size: the target's.
        end_tokens: of the target.
    """

    def __init__(
        self,
        drafter: Drafter,
        policy: Policy,
        costs: Costs,
        *,
        round_trip: float,
        vocab_size: int,
        end_tokens: frozenset[int],
    ) -> None:
        self.drafter = drafter
        self.policy = policy
        self.costs = costs
        self.round_trip = round_trip
        self.vocab_size = vocab_size
        self.end_tokens = end_tokens
        self.timer = RoundTrip()

    def write(self, text: Text) -> Virtual:
        """Answer one text."""
        return _Answer(self, text).write()


class _Answer:
    def __init__(self, device: VirtualDevice, text: Text) -> None:
        self._device = device
        self._text = text
        room = len(text.answer) + (1 if text.finished else 0)
        self._session = Session(
            Request(secrets.token_bytes(8), text.prompt, room, _TOKENIZER),
            device.policy,
            nonce=secrets.token_bytes(8),
            drafter_context=device.drafter.context_length,
            roundtrip=device.timer,
            run=RUN,
            reading=True,
        )
        self._now = 0.0
        self._due: list[tuple[float, int, Event]] = []
        self._order = count()
        self._wish: Draft | None = None
        self._drafting = False
        self._read = False
        self._times: list[tuple[str, float]] = []

    def write(self) -> Virtual:
        text, device = self._text, self._device
        context = len(text.prompt) + len(text.answer) + 1
        terms = Terms("replay", "1", device.vocab_size, context, device.end_tokens)
        self._carry_out(self._session.receive(Placed(terms), 0.0))
        while self._session.state is not State.FINISHED:
            self._now, _, event = heapq.heappop(self._due)
            if isinstance(event, Drafted | DrafterLost):
                self._drafting = False
            self._carry_out(self._session.receive(event, self._now))
        if self._session.log.tokens() != text.answer:
            raise AssertionError("a text that was replayed is not the target's")
        tally = self._session.tally
        return Virtual(
            tally.committed,
            tally.rounds,
            tally.drafted,
            tally.accepted,
            tally.generated,
            tally.resends,
            self._now,
            device.costs.alone(text),
            tuple(self._times),
        )

    def _at(self, delay: float, event: Event) -> None:
        heapq.heappush(self._due, (self._now + delay, next(self._order), event))

    def _carry_out(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Draft():
                    self._wish = effect
                case PublishDraft(_, bundle):
                    self._verify(bundle)
                case _:
                    pass  # nothing is lost here, so timers never run out
        if self._wish is not None and not self._drafting:
            wish, self._wish, self._drafting = self._wish, None, True
            self._draft(wish)

    def _draft(self, wish: Draft) -> None:
        began = time.perf_counter()
        try:
            proposal = self._device.drafter.propose(wish.sequence, wish.sampling, wish.position)
        except DrafterError:
            self._at(time.perf_counter() - began, DrafterLost())
            return
        seconds = time.perf_counter() - began
        if proposal is not None:
            source = proposal.source or self._device.drafter.name
            self._times.append((source, seconds))
            proposal = msgspec.structs.replace(proposal, source=source, seconds=seconds)
        self._at(seconds, Drafted(wish.branch, proposal))

    def _verify(self, bundle: DraftBundle) -> None:
        answer, costs = self._text.answer, self._device.costs
        right = answer[bundle.base :]
        accepted = next(
            (number for number, pair in enumerate(zip(bundle.draft, right, strict=False)) if pair[0] != pair[1]),
            min(len(bundle.draft), len(right)),
        )
        tokens = right[: accepted + 1 + bundle.run]
        steps = 1 + max(0, len(tokens) - accepted - 1)
        last = bundle.base + len(tokens) == len(answer) and self._text.finished
        step = costs.step + costs.position * len(bundle.draft)
        verdict = Verdict(
            VERSION,
            "verdict",
            bundle.session,
            bundle.epoch,
            bundle.round,
            bundle.base,
            tokens,
            accepted,
            self._session.log.digest_with(bundle.base, tokens),
            "stop" if last else None,
            step_time=round(step * 1e6),
        )
        reading = 0.0 if self._read else costs.reading * len(self._text.prompt)
        self._read = True
        took = costs.step * steps + costs.position * len(bundle.draft)
        self._at(self._device.round_trip + reading + took, verdict)
