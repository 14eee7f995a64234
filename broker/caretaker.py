"""Looks after the brokers that a client does not use: visits them, and calls the client back to a better one."""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.address import BrokerAddress
    from broker.route import Route

_log = logging.getLogger(__name__)

AT_HOME: Final = 12
"""How many times longer a client waits between visits while it uses the broker it prefers: they only clear up."""
_TICK: Final = 1.0


class Caretaker:
    """A thread beside one bridge with several addresses.

    Args:
        route: of the bridge.
        lock: guards the route.
        every: seconds between looks, stretched at random by up to a fifth either way.
        visit: visits an address, and gives up when the event is set; says whether the broker was there.
        move: leaves the connection for the address of this index.
        cut: ends an attempt to connect that hangs.
    """

    def __init__(
        self,
        route: Route,
        lock: threading.Condition,
        *,
        every: float,
        visit: Callable[[BrokerAddress, threading.Event], bool],
        move: Callable[[int], None],
        cut: Callable[[], None],
    ) -> None:
        self._route = route
        self._lock = lock
        self._every = every
        self._visit = visit
        self._move = move
        self._cut = cut
        self._looked_at = 0.0
        self._stretch = _stretch()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to look."""
        self._thread = threading.Thread(target=self._run, name="sled-caretaker", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it, and the visit it is on; does nothing if it was not started."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        self._looked_at = time.monotonic()
        while not self._ended.wait(min(_TICK, self._every)):
            try:
                self._turn()
            except Exception:  # noqa: BLE001 - whatever it is, the next look must come
                _log.exception("a look at the other brokers failed; the next one comes")
                self._looked_at = time.monotonic()

    def _turn(self) -> None:
        """Do what is due."""
        with self._lock:
            now, route = time.monotonic(), self._route
            overdue, indexes = route.overdue(now), route.to_visit()
            pause = self._every * self._stretch * (AT_HOME if route.is_first else 1)
        if overdue:
            self._cut()
        if indexes and now >= self._looked_at + pause:
            self._look(indexes)

    def _look(self, indexes: list[int]) -> None:
        for index in indexes:
            began = time.monotonic()
            reached = self._visit(self._route.addresses[index], self._ended)
            with self._lock:
                self._route.visited(index, began, reached=reached)
        self._looked_at, self._stretch = time.monotonic(), _stretch()
        with self._lock:
            better = self._route.better()
        if better is not None and not self._ended.is_set():
            self._move(better)
            self._looked_at = -math.inf  # what stays behind is to be cleared as soon as there is a connection again


def _stretch() -> float:
    return random.uniform(0.8, 1.2)  # noqa: S311 - spreads load, keeps no secret
