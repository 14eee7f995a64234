"""A session, a drafter and a verifier under one virtual clock: what a policy earns in tokens per second."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from itertools import count
from random import Random
from typing import TYPE_CHECKING

from edge_agent.drafters.drafter import Proposal
from edge_agent.effects import Draft, PublishDraft
from edge_agent.events import Drafted, Placed
from edge_agent.session import State
from tests.edge_agent.machine import PROMPT, Machine, terms, verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_agent.effects import Effect
    from edge_agent.events import Event
    from edge_agent.policy import Policy
    from schemas.messages import DraftBundle


@dataclass(frozen=True)
class Setting:
    """Where a policy has to earn its tokens.

    Attributes:
        confidence: draws how sure the drafter is at a position.
        truth: the chance that it is right there, from how sure it is.
        draft: seconds per draft token.
        round_trip: seconds from a bundle to its verdict, before what the positions cost.
        position: seconds per position that the verifier checks.
    """

    confidence: Callable[[Random], float]
    truth: Callable[[float], float]
    draft: float
    round_trip: float
    position: float = 0.0005


@dataclass(frozen=True)
class Place:
    """What happens at one position of a text, whatever the policy."""

    confidence: float
    right: bool


def tokens_per_second(policy: Policy, setting: Setting, *, answers: int = 8, length: int = 200) -> float:
    """Let a policy draft some answers, one after another, and return what it earned in virtual time."""
    seconds = 0.0
    for number in range(answers):
        random = Random(number)
        text = []
        for _ in range(length):
            confidence = setting.confidence(random)
            text.append(Place(confidence, random.random() < setting.truth(confidence)))
        seconds += _Answer(policy, setting, text).write()
    return answers * length / seconds


class _Answer:
    """One answer. The target's token is 1 everywhere, and a draft that is wrong is 2."""

    def __init__(self, policy: Policy, setting: Setting, text: list[Place]) -> None:
        self._setting = setting
        self._text = text
        self._machine = Machine(policy=policy, max_tokens=len(text))
        self._due: list[tuple[float, int, Event | None]] = []  # time, order, event; None: the drafter is free
        self._order = count()
        self._wish: Draft | None = None
        self._drafter_busy = False

    def write(self) -> float:
        """Write the answer and return when it was done."""
        self._carry_out(self._machine.tell(Placed(terms(context_length=len(self._text) + len(PROMPT)))))
        while self._machine.state() is not State.FINISHED:
            self._machine.now, _, event = heapq.heappop(self._due)
            if isinstance(event, Drafted | None):
                self._drafter_busy = False
            self._carry_out(self._machine.tell(event) if event else [])
        return self._machine.now

    def _at(self, delay: float, event: Event | None) -> None:
        heapq.heappush(self._due, (self._machine.now + delay, next(self._order), event))

    def _carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Draft():
                    self._wish = effect
                case PublishDraft(_, bundle):
                    self._verify(bundle)
        if self._wish is not None and not self._drafter_busy:
            wish, self._wish, self._drafter_busy = self._wish, None, True
            self._at(self._setting.draft, Drafted(wish.branch, self._propose(wish)))

    def _propose(self, wish: Draft) -> Proposal:
        """Whatever follows a wrong token is wrong too, but the drafter does not know."""
        place = self._text[wish.position]
        right = place.right and 2 not in wish.sequence[len(PROMPT) :]
        return Proposal(1 if right else 2, place.confidence, source="model", seconds=self._setting.draft)

    def _verify(self, bundle: DraftBundle) -> None:
        accepted = next((i for i, token in enumerate(bundle.draft) if token != 1), len(bundle.draft))
        tokens = (1,) * (accepted + 1)
        end = bundle.base + len(tokens) == len(self._text)
        answer = verdict(
            bundle.round, tokens, after=(1,) * bundle.base, accepted=accepted, finish="length" if end else None
        )
        self._at(self._setting.round_trip + self._setting.position * (len(bundle.draft) + 1), answer)
