"""A fleet over each broker, and the target alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sled.processes import Processes
from sled.reference import Reference
from tests.integration.fleet import Fleet, alone
from tests.integration.machine import PROMPT, TOKENS, Machine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from broker.run import Engine, RunningBroker


@pytest.fixture
def fleet(broker: RunningBroker, tiny_target: Path, tiny_drafter: Path) -> Iterator[Fleet]:
    """No role is started yet."""
    with Fleet(broker, tiny_target, tiny_drafter) as fleet:
        yield fleet


@pytest.fixture(scope="session")
def reference(tiny_target: Path) -> Reference:
    """The target alone, by plain `generate`."""
    return Reference(tiny_target, "float32")


@pytest.fixture
def machine(engine: Engine, tiny_target: Path, tiny_drafter: Path, tmp_path: Path) -> Iterator[Machine]:
    with Processes(tmp_path) as processes:
        yield Machine(engine, tiny_target, tiny_drafter, tmp_path, processes)


@pytest.fixture(scope="session")
def whole(reference: Reference) -> tuple[tuple[int, ...], str]:
    """The target alone, not stopping at its end token."""
    tokens, text = alone(reference, PROMPT, TOKENS)
    assert len(tokens) == TOKENS, "choose a prompt after which the tiny target does not end"
    return tokens, text
