"""The roles over MQTT 5, alone and beside roles over 3.1.1."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from broker.address import BrokerAddress
from schemas.messages import Ask
from sled.client import Client
from tests.integration.fleet import answer

if TYPE_CHECKING:
    from broker.run import RunningBroker
    from tests.integration.fleet import Fleet


@pytest.mark.parametrize("engine", ["mosquitto"], indirect=True)
def test_versions_meet_at_one_broker(broker: RunningBroker, fleet: Fleet) -> None:
    """Agent, verifier and app in turn speak the one and the other; every answer is the same."""
    old = BrokerAddress(broker.host, broker.port)
    new = BrokerAddress(broker.host, broker.port, mqtt5=True)
    texts = []
    for number, (of_verifier, of_agent, of_app) in enumerate([(new, new, new), (old, new, old), (new, old, new)]):
        fleet.address = of_verifier
        verifier = fleet.verifier()
        fleet.address = of_agent
        agent = fleet.agent(f"pi-{number}")
        with Client(of_app) as client:
            texts.append(answer(client, f"pi-{number}", Ask(prompt="abc", max_tokens=20))[1].text)
        fleet.stop(agent)
        fleet.stop(verifier)
    assert len(set(texts)) == 1
