"""A fleet over each broker, and the target alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sled.reference import Reference
from tests.integration.fleet import Fleet

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from broker.run import RunningBroker


@pytest.fixture
def fleet(broker: RunningBroker, tiny_target: Path, tiny_drafter: Path) -> Iterator[Fleet]:
    """No role is started yet."""
    with Fleet(broker, tiny_target, tiny_drafter) as fleet:
        yield fleet


@pytest.fixture(scope="session")
def reference(tiny_target: Path) -> Reference:
    """The target alone, by plain `generate`."""
    return Reference(tiny_target, "float32")
