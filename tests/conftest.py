"""Real brokers and tiny real models, shared by all tests."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

# Tests share the cores; set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest

from broker.mosquitto import find_mosquitto
from broker.run import Engine, RunningBroker, start_broker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Examples are not timed: a busy machine is no failure.
hypothesis.settings.register_profile("sled", deadline=None)
hypothesis.settings.load_profile("sled")


def require(engine: Engine) -> None:
    """Skip the test if the engine is not installed here, or fail it where SLED_REQUIRE_MOSQUITTO=1 promises it."""
    if engine != "mosquitto" or find_mosquitto() is not None:
        return
    if os.environ.get("SLED_REQUIRE_MOSQUITTO") == "1":
        pytest.fail("Mosquitto is not installed, and SLED_REQUIRE_MOSQUITTO=1 says it must be")
    pytest.skip("Mosquitto is not installed")


@pytest.fixture(params=["mosquitto", "embedded"])
def engine(request: pytest.FixtureRequest) -> Engine:
    """Each kind of broker in turn."""
    name: Engine = request.param
    require(name)
    return name


@pytest.fixture
def broker(engine: Engine) -> Iterator[RunningBroker]:
    """A broker on a free port of loopback."""
    running = start_broker(engine, port=0)
    yield running
    running.stop()


@pytest.fixture(scope="session")
def tiny_target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer llama with a tokenizer of single bytes."""
    from tests.models.tiny import save_llama

    folder = tmp_path_factory.mktemp("models") / "tiny-target"
    folder.mkdir()
    return save_llama(folder)


@pytest.fixture(scope="session")
def tiny_drafter(tiny_target: Path) -> Path:
    """An int8 export of the tiny target: it often agrees with it, and often does not."""
    from models.export import export_drafter

    return export_drafter(tiny_target, tiny_target.parent / "tiny-drafter", precision="int8")
