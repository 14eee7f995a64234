"""A step that would only read a prompt waits a moment for the bundle."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from schemas.messages import Ask
from tests.integration.fleet import Fleet, answer
from verifier.linger import SECONDS, Linger

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from broker.run import RunningBroker
    from verifier.engine.segment import Segment


def test_it_waits_once_and_not_for_long() -> None:
    linger = Linger(0.5)
    assert linger.until(7.0, reading=True) == 7.5
    assert linger.until(7.25, reading=True) == 7.5
    assert linger.until(7.5, reading=True) is None
    assert linger.until(8.0, reading=True) == 8.5, "the next prompt has a moment of its own"


def test_it_does_not_wait_once_there_is_a_bundle() -> None:
    linger = Linger(0.5)
    assert linger.until(7.0, reading=True) == 7.5
    assert linger.until(7.1, reading=False) is None
    assert linger.until(7.2, reading=True) == 7.7
    assert 0 < SECONDS < 0.1, "nobody notices"


@pytest.mark.parametrize("engine", ["embedded"], indirect=True)
def test_the_first_step_of_a_text_chooses_its_first_token(
    broker: RunningBroker, tiny_target: Path, tiny_drafter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Linger.__init__, "__defaults__", (10.0,))
    with Fleet(broker, tiny_target, tiny_drafter) as fleet:
        verifier = fleet.verifier()
        step, steps = verifier._engine.step, []

        def watched(segments: Sequence[Segment]) -> list[list[int]]:
            steps.append([segment.choose for segment in segments])
            return step(segments)

        monkeypatch.setattr(verifier._engine, "step", watched)
        fleet.agent()
        with fleet.client() as client:
            answer(client, "pi", Ask(prompt="abc", max_tokens=4, ignore_end=True))
    assert steps
    assert all(min(chosen, default=1) > 0 for chosen in steps), steps
