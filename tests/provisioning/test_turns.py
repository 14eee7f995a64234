"""Whose request is taken next."""

from __future__ import annotations

from provisioning.turns import Turns


def test_one_at_a_time_and_a_rest_after_it() -> None:
    turns = Turns(10, 1.0)
    assert turns.take("pi", 0.0)
    assert not turns.take("pi", 60.0), "the first is under way still"
    turns.end("pi", 60.0)
    assert not turns.take("pi", 60.9)
    assert turns.take("pi", 61.0)


def test_nobody_waits_for_another() -> None:
    turns = Turns(10, 1.0)
    assert turns.take("pi", 0.0)
    assert turns.take("pi-2", 0.0)
    turns.end("pi", 0.0)
    assert turns.take("pi-3", 0.0)


def test_so_many_at_most() -> None:
    turns = Turns(2, 1.0)
    assert [turns.take(name, 0.0) for name in "abc"] == [True, True, False]
    turns.end("a", 0.0)
    assert turns.take("c", 0.0)


def test_what_is_remembered_is_bounded() -> None:
    turns = Turns(100, 1.0)
    for number in range(10_000):
        assert turns.take(f"pi-{number}", 0.0)
        turns.end(f"pi-{number}", 0.0)
    assert len(turns._resting) == 100
    assert not turns.take("pi-9999", 0.5)
    turns.end("pi", 1.0)
    assert len(turns._resting) == 1, "who has rested is forgotten"
