"""A small slice of the campaign that `scripts/fuzz` runs, and that it would notice."""

from __future__ import annotations

import time
from random import Random
from typing import TYPE_CHECKING

import pytest

from schemas import codec
from schemas.errors import WireError
from schemas.messages import Verdict
from tests.broker.raw import connect_frame
from tests.fuzz.campaign import SLOW, Campaign
from tests.fuzz.mutate import MOST, mutated
from tests.fuzz.packets import STREAMS, serve, subscribe_frame
from tests.fuzz.target import Target
from tests.fuzz.targets import targets
from tests.schemas.samples import VERDICT

if TYPE_CHECKING:
    from pathlib import Path

VALID = (codec.encode(VERDICT),)


def read_verdict(payload: bytes) -> object:
    return codec.decode(payload, Verdict)


def test_a_slice_of_the_campaign(tmp_path: Path) -> None:
    result = Campaign(targets(tmp_path)).run(inputs=2_000, seconds=60)
    assert result.is_well, result.faults
    assert result.inputs >= 2_000
    assert 0.3 < result.refused / result.inputs < 1  # else the input was too wild, or too tame


def test_every_sample_is_valid(tmp_path: Path) -> None:
    """Else the mutations begin with what is refused at once."""
    for target in targets(tmp_path):
        refused = []
        for sample in target.samples:
            try:
                target.read(sample)
            except target.may as error:
                refused.append(str(error))
        assert len(refused) < len(target.samples), (target.name, refused)


def test_mutations_are_repeatable_and_bounded() -> None:
    made = [mutated(VALID[0], VALID[0], Random(number)) for number in range(500)]
    assert made == [mutated(VALID[0], VALID[0], Random(number)) for number in range(500)]
    assert len(set(made)) > 300
    assert max(map(len, made)) <= MOST


def test_another_error_than_the_documented_is_found() -> None:
    def careless(payload: bytes) -> object:
        try:
            return read_verdict(payload)
        except WireError:
            return payload[500]

    result = Campaign([Target("careless", careless, (WireError,), VALID)]).run(inputs=200, seconds=60)
    (fault,) = result.faults
    assert fault.kind == "crash"
    assert fault.what.startswith("IndexError")
    assert bytes.fromhex(fault.payload)[:1] != b""
    assert not result.is_well


def test_a_slow_input_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fuzz.campaign.SLOW", 0.0)

    def thoughtful(payload: bytes) -> object:
        time.sleep(0)
        return payload

    assert SLOW > 0
    result = Campaign([Target("thoughtful", thoughtful, (), VALID)]).run(inputs=20, seconds=60)
    assert {fault.kind for fault in result.faults} == {"slow"}


def test_what_goes_wrong_inside_the_broker_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """It happens in tasks that nobody waits for."""
    serve(STREAMS[0])

    async def careless(*_: object) -> None:
        raise IndexError

    monkeypatch.setattr("broker.hardened.HardenedHandler.handle_pingreq", careless)
    with pytest.raises(RuntimeError, match="IndexError"):
        serve(STREAMS[0])


def test_what_stays_behind_in_the_broker_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.hardened.HardenedBroker._del_subscription", lambda *_: 0)
    with pytest.raises(AssertionError):
        serve(connect_frame("pi") + subscribe_frame("a"))


def test_memory_that_is_not_given_back_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fuzz.campaign.MOST_GROWTH", 0)
    kept: list[bytes] = []

    def hoard(payload: bytes) -> object:
        kept.append(b"x" * 2**20)
        return None

    result = Campaign([Target("hoard", hoard, (), VALID)]).run(inputs=200, seconds=60)
    assert result.growth > 50 * 2**20
    assert not result.is_well
