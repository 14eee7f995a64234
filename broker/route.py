"""Which of several brokers to use, and when to turn to another one: the rule, without network, clock and threads.

- The first address is preferred; every client begins there.
- When no connection has come about within `patience` seconds, the next address is tried, round and round. The delays
  between attempts double, and begin again at each address until all were tried once.
- While another than the first is in use, those before it are looked at now and then. One that was there at `LOOKS`
  looks in a row is used again. So a broker that comes and goes moves nobody, and a fleet that was split by a broken
  network meets at the same broker when it is whole again.
- What a client may have retained at a broker that it does not use is owed a visit that clears it. A visit settles that
  only when nothing more can come, such as a last will.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from broker.address import BrokerAddress

LOOKS: Final = 3
"""Looks in a row at which a preferred broker must be there before it is used again."""


class Route:
    """Where one client stands among its brokers.

    Args:
        addresses: of the brokers, the preferred one first.
        patience: seconds after which the next address is tried.
        first_patience: the same, until there has been a connection.
        delays: seconds before the first attempt after a loss, and between the last ones.
        stretch: draws a factor for the first delay, so that a fleet does not return all at once.
    """

    def __init__(
        self,
        addresses: Sequence[BrokerAddress],
        *,
        patience: float,
        first_patience: float | None = None,
        delays: tuple[float, float],
        stretch: Callable[[], float],
    ) -> None:
        self.addresses = tuple(addresses)
        self._patience = patience if first_patience is None else first_patience
        self._patience_later = patience
        self._first, self._last = delays
        self._stretch = stretch
        self._current = 0
        self._since: float | None = None  # trying the current address since then; None while connected
        self._delay = 0.0
        self._given_up = 0  # addresses, since the last connection
        self._owed = dict.fromkeys(range(1, len(self.addresses)), -math.inf)  # index → a visit settles it from then on
        self._looks: dict[int, int] = {}  # index → looks in a row at which it was there

    @property
    def address(self) -> BrokerAddress:
        """The broker to use now."""
        return self.addresses[self._current]

    # Connecting

    def begin(self, now: float) -> None:
        """Note that the first attempt begins."""
        self._since = now

    def failed(self, now: float) -> float:
        """Note that an attempt has failed; return the seconds to wait before the next, perhaps elsewhere."""
        self._delay = min(2 * self._delay, self._last) if self._delay else self._drawn()
        since = now if self._since is None else self._since
        if len(self.addresses) > 1 and now + self._delay - since > self._patience:
            self._turn((self._current + 1) % len(self.addresses), now)
        return self._delay

    def overdue(self, now: float) -> bool:
        """Whether an attempt hangs for longer than patience allows, and there is another address to try."""
        return len(self.addresses) > 1 and self._since is not None and now - self._since > self._patience + self._delay

    def connected(self, now: float) -> None:
        """Note that the current address is in use; from now on something may be retained there."""
        self._since, self._delay, self._given_up = None, 0.0, 0
        self._patience = self._patience_later
        self._owed[self._current] = now
        self._looks.clear()

    def lost(self, now: float, linger: float) -> float:
        """Note that the connection broke; return the seconds to wait before an attempt at the same address.

        Args:
            now: the time in seconds.
            linger: seconds within which the broker may still publish the last will.
        """
        self._since, self._delay = now, self._drawn()
        self._owed[self._current] = now + linger
        return self._delay

    # The other addresses

    def to_visit(self) -> list[int]:
        """Return the indexes of the addresses to look at: those owed a visit, and those preferred to the current."""
        if self._since is not None:
            return []
        return [i for i in range(len(self.addresses)) if i != self._current and (i in self._owed or i < self._current)]

    def visited(self, index: int, began: float, *, reached: bool) -> None:
        """Note how a visit that began at `began` has ended; one that was reached has been cleared."""
        self._looks[index] = self._looks.get(index, 0) + 1 if reached else 0
        if reached and began >= self._owed.get(index, math.inf):
            del self._owed[index]

    def better(self) -> int | None:
        """Return the index of a preferred address that has been there long enough, or None."""
        steady = (i for i in range(self._current) if self._looks.get(i, 0) >= LOOKS)
        return None if self._since is not None else next(steady, None)

    def move(self, index: int, now: float) -> None:
        """Note that the connection was closed to use another address."""
        self._owed[self._current] = now
        self._current, self._since, self._delay, self._given_up = index, now, 0.0, 0
        self._looks.clear()

    @property
    def is_first(self) -> bool:
        """Whether the preferred address is the current one."""
        return self._current == 0

    def _turn(self, index: int, now: float) -> None:
        self._current, self._since = index, now
        self._given_up += 1
        if self._given_up < len(self.addresses):
            self._delay = self._drawn()

    def _drawn(self) -> float:
        return self._first * self._stretch()
