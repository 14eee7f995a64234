"""What is drawn from a plan: as many as were planned, within the run, and the same for the same seed."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest

from benchmarks.kit.faults.plan import DEFAULT, Cut, Delay, Freeze, Hold, Kill, Loss, Plan, read_plan
from benchmarks.kit.faults.schedule import Spell, Strike, draw_asks, draw_faults
from benchmarks.kit.prompts import BUILT_IN


@pytest.mark.parametrize("seed", range(10))
def test_the_default_plan_whatever_the_seed(seed: int) -> None:
    plan = msgspec.structs.replace(read_plan(DEFAULT), seed=seed)
    drawn = draw_faults(plan)
    assert drawn == sorted(drawn, key=lambda each: each.at)
    assert all(0 <= each.at < plan.seconds for each in drawn)
    strikes = [each for each in drawn if isinstance(each, Strike)]
    assert Counter(strike.what for strike in strikes) == {"kill": 12, "freeze": 2, "cut": 5}
    assert all(1 <= strike.seconds <= 20 for strike in strikes if strike.what == "cut")
    cut = [strike.victim for strike in strikes if strike.what == "cut"]
    assert len(set(cut)) == 5, "all are struck before one is struck again"
    for spell in drawn:
        if isinstance(spell, Spell):
            assert spell.seconds == pytest.approx(plan.seconds / 3, rel=0.01)
            assert spell.at + spell.seconds <= plan.seconds


def test_the_seed_draws_times_and_victims() -> None:
    plan = read_plan(DEFAULT)
    assert draw_faults(plan) == draw_faults(plan)
    assert draw_faults(plan) != draw_faults(msgspec.structs.replace(plan, seed=plan.seed + 1))


def test_what_is_named_is_not_drawn() -> None:
    faults = (
        Kill(role="agent", at=(7.0, 3.0), victim="device-2", seconds=2.0),
        Freeze(role="verifier", per_minute=2.0),
        Hold(at=(4.0,), victim="device-1", seconds=(1.0, 1.0)),
        Delay(seconds=0.1, begin=1.0, end=5.0),
        Loss(chance=0.5),
    )
    drawn = draw_faults(Plan(devices=3, seconds=120, faults=faults))
    assert Strike(3.0, "kill", "device-2", 2.0) in drawn
    assert Strike(7.0, "kill", "device-2", 2.0) in drawn
    assert Strike(4.0, "hold", "device-1", 1.0) in drawn
    assert Spell(1.0, "delay", 0.1, 4.0) in drawn
    assert Spell(0.0, "loss", 0.5, 120.0) in drawn
    assert sum(isinstance(each, Strike) and each.what == "freeze" for each in drawn) == 4
    assert len(draw_faults(Plan(faults=(Cut(),)))) == 1


def test_asks_are_spread_over_run_devices_and_prompts_with_a_seed_each() -> None:
    plan = Plan(devices=3, requests=10, seconds=100, sampled=0.5, seed=4, tokens=7)
    asks = draw_asks(plan, BUILT_IN)
    assert [asking.at for asking in asks] == [10.0 * number for number in range(10)]
    assert [asking.device for asking in asks[:4]] == ["device-1", "device-2", "device-3", "device-1"]
    assert len({asking.ask.id for asking in asks}) == 10
    sampled = [asking.ask for asking in asks if asking.ask.temperature]
    assert len(sampled) == 5
    assert len({ask.seed for ask in sampled}) == 5
    assert {ask.max_tokens for ask in sampled} == {7}
    assert not any(asking.ask.revise for asking in asks)
    assert all(asking.ask.revise for asking in draw_asks(Plan(outage="revise"), BUILT_IN))
