"""A shell that does whatever a shell can do, at random."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_agent.drafters.drafter import Proposal
from edge_agent.effects import Draft, Effect, PublishContext, PublishDraft, StartTimer, StopTimer
from edge_agent.events import (
    Cancelled,
    ContextLost,
    Drafted,
    DrafterLost,
    Event,
    LinkDown,
    LinkUp,
    Placed,
    StopFound,
    TimerFired,
    Unplaced,
)
from edge_agent.outage import OutageMode, OutageRules
from edge_agent.policy import parse_policy
from edge_agent.session import State
from schemas.messages import Epoch, Refusal, Resync, Verdict
from tests.edge_agent.machine import (
    END,
    MAX_TOKENS,
    NONCE,
    OTHER_NONCE,
    VOCABULARY,
    Machine,
    refusal,
    resync,
    terms,
    verdict,
)

if TYPE_CHECKING:
    from random import Random

SAMPLES: dict[type[Event], Event] = {
    Placed: Placed(terms()),
    Unplaced: Unplaced(),
    Drafted: Drafted(0, Proposal(21, 0.9)),
    DrafterLost: DrafterLost(),
    Verdict: verdict(1, (21,)),
    Resync: resync(),
    Refusal: refusal(),
    TimerFired: TimerFired(),
    LinkUp: LinkUp(),
    LinkDown: LinkDown(),
    StopFound: StopFound(),
    Cancelled: Cancelled(),
    ContextLost: ContextLost(),
}


"""One event of every kind."""


class Shell:
    """Produces at random what a real shell could.

    Drafts come only where they were asked for (though perhaps late), the timer fires only where it runs; messages of
    all kinds, right and wrong, may come at any time.
    """

    def __init__(self, random: Random) -> None:
        self.random = random
        most = random.choice([1, 6, MAX_TOKENS])
        self.machine = Machine(
            max_tokens=most,
            epoch=random.choice([0, 3]),
            committed=random.choice([(), (), (21, 22)]),
            link_up=random.random() < 0.8,
            policy=parse_policy(random.choice(["fixed:1", "fixed:2", "confidence:0.5:3", "cost-aware:3"])),
            outage=OutageRules(random.choice(list(OutageMode)), random.choice([1, 3])),
            room=random.choice([None, None, most]),
            reading=random.random() < 0.3,
        )
        self.timer = False
        self.wishes: list[Draft] = []
        self.revision = 0
        self.round = 0
        self.pending: tuple[int, ...] = ()

    def step(self) -> tuple[State, type[Event], State]:
        before = self.machine.state()
        event = self.random.choice(self.possible())
        self.machine.now += self.random.choice([0.0, 0.3, 3.0, 40.0])
        self.carry_out(self.machine.tell(event))
        return before, type(event), self.machine.state()

    def carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case StartTimer():
                    self.timer = True
                case StopTimer():
                    self.timer = False
                case Draft():
                    self.wishes.append(effect)
                case PublishContext(published):
                    self.revision = published.revision
                case PublishDraft(_, offered):
                    self.round, self.pending = offered.round, offered.draft

    def possible(self) -> list[Event]:
        random = self.random

        def one_of(*events: Event) -> Event:
            return random.choice(events)

        events: list[Event] = [
            Placed(terms(random.choice(["v0", "v1"]), random.choice(["1", "2"])), at_leisure=random.random() < 0.5),
            one_of(Unplaced(), LinkUp(), LinkDown()),
            one_of(LinkUp(), Placed(terms())),
            self.verdict(),
            self.verdict(),
            self.resync(),
            self.refusal(),
        ]
        if self.wishes:
            wish = self.wishes.pop(random.randrange(len(self.wishes)))
            token = random.choice([END, 21, 22, 23, 24, VOCABULARY])
            proposal = Proposal(token, random.random()) if random.random() < 0.9 else None
            drafted = Drafted(wish.branch, proposal)
            events += [drafted, drafted, drafted, one_of(drafted, DrafterLost())]
        if self.timer:
            events += [TimerFired()] * 2
        if random.random() < 0.1:
            events.append(one_of(Cancelled(), ContextLost(), Placed(terms(context_length=2))))
        if self.machine.committed and random.random() < 0.1:
            events.append(StopFound())
        if self.machine.state() is State.FINISHED:
            events = list(SAMPLES.values())
        return events

    def verdict(self) -> Verdict:
        random, held = self.random, self.machine.committed
        base = random.randint(0, len(held))
        room = self.machine.session.request.max_tokens - len(held)
        new = (*self.pending, 23)[: random.randint(0, max(0, room))]
        return verdict(
            random.choice([self.round, self.round, max(0, self.round - 1)]),
            held[base:] + new,
            after=held[:base],
            finish="length" if len(new) == room else random.choice([None, None, None, "stop"]),
            epoch=random.choice([self.machine.session.epoch.counter, self.machine.session.epoch.counter, 1]),
        )

    def resync(self) -> Resync:
        counter = self.machine.session.epoch.counter
        known = self.random.choice([None, Epoch(counter, NONCE), Epoch(counter, OTHER_NONCE), Epoch(2, OTHER_NONCE)])
        return resync(epoch=counter, revision=self.random.choice([self.revision, 0]), known=known)

    def refusal(self) -> Refusal:
        return refusal(
            epoch=self.machine.session.epoch.counter,
            number=self.random.choice([None, self.round, 0]),
            retry_after=self.random.choice([0, 10, 5_000_000, 5_000_000]),
        )
