"""What is due is done in its order, what is done is undone, and nobody is struck who lies low."""

from __future__ import annotations

from typing import Any

from benchmarks.kit.faults.carry_out import POSTPONED, CarryOut
from benchmarks.kit.faults.schedule import Spell, Strike


class Link:
    """Writes down what is done to it."""

    def __init__(self, name: str, done: list[Any]) -> None:
        self.__dict__.update(name=name, done=done)

    def __getattr__(self, what: str) -> Any:
        return lambda: self.__dict__["done"].append((what, self.__dict__["name"]))

    def __setattr__(self, setting: str, value: float) -> None:
        self.__dict__["done"].append((setting, value))


class Machine:
    """Writes down what is done to it, and knows who is up."""

    def __init__(self) -> None:
        self.done: list[Any] = []
        self.down: set[str] = set()
        self.links = {"device-1": Link("device-1", self.done)}

    def runs(self, name: str) -> bool:
        return name not in self.down

    def kill(self, name: str) -> None:
        self.done.append(("kill", name))
        self.down.add(name)

    def start(self, name: str) -> None:
        self.done.append(("start", name))
        self.down.remove(name)

    freeze = kill
    thaw = start


def carried_out(*schedule: Strike | Spell) -> tuple[list[Any], float]:
    """Carry out a schedule at once, whatever it takes; return what was done and when it was over."""
    machine = Machine()
    carry_out = CarryOut(schedule, machine)  # type: ignore[arg-type]
    now = 0.0
    while not carry_out.finished:
        due = carry_out.next_due()
        assert due is not None
        assert due >= now
        now = due
        carry_out.turn(now)
    return machine.done, now


def test_each_fault_ends() -> None:
    done, over = carried_out(
        Strike(1, "kill", "broker", 2), Strike(2, "cut", "device-1", 3), Strike(6, "hold", "device-1", 1)
    )
    assert done == [
        ("kill", "broker"), ("cut", "device-1"), ("start", "broker"), ("mend", "device-1"), ("hold", "device-1"),
        ("resume", "device-1"),
    ]  # fmt: skip
    assert over == 7


def test_a_victim_that_lies_low_is_struck_later() -> None:
    done, over = carried_out(Strike(1, "kill", "broker", 2), Strike(2, "freeze", "broker", 1))
    assert done == [("kill", "broker"), ("start", "broker"), ("kill", "broker"), ("start", "broker")]
    assert 3 <= over - 1 <= 3 + POSTPONED


def test_a_link_is_not_held_while_it_is_cut() -> None:
    done, _ = carried_out(Strike(1, "cut", "device-1", 2), Strike(2, "hold", "device-1", 1))
    assert [what for what, _ in done] == ["cut", "mend", "hold", "resume"]


def test_of_several_spells_the_worst_counts_until_all_are_over() -> None:
    done, _ = carried_out(Spell(1, "loss", 0.1, 4), Spell(2, "loss", 0.3, 1), Spell(2.5, "delay", 1.0, 1))
    assert done == [("loss", 0.1), ("loss", 0.3), ("delay", 1.0), ("loss", 0.1), ("delay", 0.0), ("loss", 0.0)]
