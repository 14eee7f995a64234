"""What a verifier shows of its parts, over a real broker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integration.fleet import Fleet
from tests.waiting import wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from broker.run import RunningBroker
    from verifier.service import Verifier

PATIENCE = 60.0


def count(verifier: Verifier, part: str) -> int:
    """Return what a part shows; -1 while it has nothing to do."""
    shown = verifier.progress()[part]
    return -1 if shown is None else shown


@pytest.mark.parametrize("engine", ["embedded"], indirect=True)
def test_every_part_shows(broker: RunningBroker, tiny_target: Path) -> None:
    with Fleet(broker, tiny_target, tiny_target) as fleet:
        verifier = fleet.verifier()
        wait_for(lambda: count(verifier, "the network thread") > 0)
        assert set(verifier.progress()) == {"the loop", "the network thread", "the engine"}
        turns = count(verifier, "the loop")
        wait_for(lambda: count(verifier, "the loop") > turns)
        wait_for(lambda: count(verifier, "the engine") == -1)  # idle, once it has answered that it is alive
        broker.stop()
        wait_for(lambda: count(verifier, "the network thread") == -1)
