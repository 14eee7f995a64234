"""What an agent shows of its parts, over real brokers."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from broker.address import BrokerAddress
from edge_agent.drafters.lookup import PromptLookup
from edge_agent.policy import FixedLength
from edge_agent.service import Agent, AgentOptions
from edge_agent.spool import Spool
from edge_agent.watched import Watched
from tests.edge_agent.test_intake import bytewise

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from broker.run import RunningBroker
    from edge_agent.drafters.drafter import Proposal
    from schemas.messages import Sampling

PATIENCE = 60.0


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until something is so; what never is fails the test."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_network_thread_is_asked_and_answers(broker: RunningBroker) -> None:
    tokenizer = bytewise()
    options = AgentOptions("pi", BrokerAddress(broker.host, broker.port), client_id="pi")
    agent = Agent(options, PromptLookup(), tokenizer, FixedLength(2), Spool(None))
    assert agent.progress() == {"the loop": 0, "the network thread": None, "drafting": None}
    thread = threading.Thread(target=agent.run, daemon=True)
    thread.start()
    try:
        wait_for(lambda: agent.progress()["the network thread"])
        heard = agent.progress()["the network thread"] or 0
        wait_for(lambda: (agent.progress()["the network thread"] or 0) > heard)
        assert (agent.progress()["the loop"] or 0) > 0
        broker.stop()
        wait_for(lambda: agent.progress()["the network thread"] is None)
    finally:
        agent.stop()
        thread.join(PATIENCE)
    assert not thread.is_alive()


class Halting(PromptLookup):
    """Drafts when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.let = threading.Event(), threading.Event()

    def propose(self, tokens: Sequence[int], *rest: Sampling | int) -> Proposal | None:
        self.begun.set()
        assert self.let.wait(PATIENCE)
        raise RuntimeError


def test_a_drafter_under_way_shows() -> None:
    inner = Halting()
    drafter = Watched(inner)
    assert (drafter.name, drafter.vocab_size, drafter.context_length) == (
        inner.name,
        inner.vocab_size,
        inner.context_length,
    )
    assert shown(drafter) is None
    for ended in range(2):
        inner.begun.clear()
        inner.let.clear()
        thread = threading.Thread(target=_swallow, args=(drafter,))
        thread.start()
        assert inner.begun.wait(PATIENCE)
        assert shown(drafter) == ended
        inner.let.set()
        thread.join(PATIENCE)
        assert shown(drafter) is None, "also after a call that failed"


def shown(drafter: Watched) -> int | None:
    return drafter.progress


def _swallow(drafter: Watched) -> None:
    try:
        drafter.propose([1])
    except RuntimeError:
        return
