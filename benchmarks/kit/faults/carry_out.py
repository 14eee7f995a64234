"""Doing what a schedule says, when its time has come."""

from __future__ import annotations

import heapq
from functools import partial
from typing import TYPE_CHECKING, Final, assert_never

from benchmarks.kit.faults.schedule import Setting, Spell, Strike

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from benchmarks.kit.faults.machine import Machine

POSTPONED: Final = 0.5
"""Seconds after which a strike is tried again whose victim lies low from another one."""


class CarryOut:
    """Carries out strikes and spells, and what ends each. A victim is struck only when nothing else holds it down."""

    def __init__(
        self, schedule: Iterable[Strike | Spell], machine: Machine, say: Callable[[str], object] = lambda _: None
    ) -> None:
        self._machine = machine
        self._say = say
        self._number = 0
        self._due: list[tuple[float, int, Callable[[float], None]]] = []
        self._in_force: dict[Setting, list[float]] = {}
        self._broken: set[str] = set()
        for fault in schedule:
            if isinstance(fault, Strike):
                self._at(fault.at, partial(self._strike, fault))
            else:
                self._at(fault.at, partial(self._begin, fault))

    @property
    def finished(self) -> bool:
        """Whether all is done and everything is whole again."""
        return not self._due

    def next_due(self) -> float | None:
        """Return when there is something to do again, in seconds from the beginning."""
        return self._due[0][0] if self._due else None

    def turn(self, now: float) -> None:
        """Do what is due, `now` seconds from the beginning."""
        while self._due and self._due[0][0] <= now:
            _, _, do = heapq.heappop(self._due)
            do(now)

    def _at(self, when: float, do: Callable[[float], None]) -> None:
        self._number += 1  # those due at once come in their order
        heapq.heappush(self._due, (when, self._number, do))

    def _strike(self, strike: Strike, now: float) -> None:
        machine, victim = self._machine, strike.victim
        links = strike.what in {"cut", "hold"}
        if victim in self._broken if links else not machine.runs(victim):
            self._at(now + POSTPONED, partial(self._strike, strike))
            return
        self._say(f"{now:6.1f} s: {strike.what} {victim} for {strike.seconds:.1f} s")
        match strike.what:
            case "kill":
                machine.kill(victim)
                self._at(now + strike.seconds, lambda _: machine.start(victim))
            case "freeze":
                machine.freeze(victim)
                self._at(now + strike.seconds, lambda _: machine.thaw(victim))
            case "cut":
                machine.links[victim].cut()
                self._at(now + strike.seconds, lambda _: self._repair(victim, machine.links[victim].mend))
            case "hold":
                machine.links[victim].hold()
                self._at(now + strike.seconds, lambda _: self._repair(victim, machine.links[victim].resume))
            case _:
                assert_never(strike.what)
        if links:
            self._broken.add(victim)

    def _repair(self, victim: str, repair: Callable[[], None]) -> None:
        repair()
        self._broken.discard(victim)

    def _begin(self, spell: Spell, now: float) -> None:
        self._say(f"{now:6.1f} s: {spell.setting} of {spell.value:g} for {spell.seconds:.1f} s")
        self._in_force.setdefault(spell.setting, []).append(spell.value)
        self._set(spell.setting)
        self._at(now + spell.seconds, lambda _: self._end(spell))

    def _end(self, spell: Spell) -> None:
        self._in_force[spell.setting].remove(spell.value)
        self._set(spell.setting)

    def _set(self, setting: Setting) -> None:
        """Of several spells at once the worst counts."""
        value = max(self._in_force[setting], default=0.0)
        for link in self._machine.links.values():
            setattr(link, setting, value)
