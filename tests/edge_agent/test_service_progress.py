"""What an agent shows of its parts, over real brokers."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from broker.address import BrokerAddress
from edge_agent.drafters.lookup import PromptLookup
from edge_agent.policy import FixedLength
from edge_agent.service import Agent, AgentOptions
from edge_agent.spool import Spool
from tests.edge_agent.test_intake import bytewise
from tests.waiting import wait_for

if TYPE_CHECKING:
    from broker.run import RunningBroker

PATIENCE = 60.0


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
