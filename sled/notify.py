"""Tells systemd how a role is: ready, alive, stopping (sd_notify(3), systemd.service(5) `Type=notify`).

Without systemd (no `NOTIFY_SOCKET`) nothing is said. The watchdog is fed only while every part of the role gets on: a
timer alone would keep a role alive whose drafting thread has hung for hours.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_log = logging.getLogger(__name__)

CHECKS: Final = 4
"""How often a role is looked at within the time that systemd allows for a sign of life."""
_UNWATCHED: Final = 30.0
"""Seconds between looks where systemd does not watch; they are for the log and `systemctl status` only."""
_FIRST: Final = 0.05
"""Seconds between looks until the role has begun to serve."""


@runtime_checkable
class Progressing(Protocol):
    """A role that can show that it gets on."""

    def progress(self) -> Mapping[str, int | None]:
        """Return for each part a count that grows while it gets on; None for one that has nothing to do.

        Callable from any thread.
        """
        ...


class Progress:
    """Compares what a role shows with what it showed when it was last found well. Pure."""

    def __init__(self) -> None:
        self._before: dict[str, int | None] = {}

    def stuck(self, counts: Mapping[str, int | None]) -> tuple[str, ...]:
        """Return the parts that have something to do and have not got on since the role was last found well.

        A part that has only now got something to do is given until the next time.
        """
        stuck = tuple(part for part, count in counts.items() if count is not None and self._before.get(part) == count)
        if not stuck:
            self._before = dict(counts)
        else:
            for part, count in counts.items():
                if part not in stuck and (count is None or self._before.get(part) is None):
                    self._before[part] = count
        return stuck


class Notifier:
    """Sends to the service manager, if there is one. What cannot be sent is lost: a role works without.

    Args:
        address: `NOTIFY_SOCKET`: a path, or a name with `@` before it; empty for no manager.
        watchdog: seconds within which the manager wants a sign of life; None if it does not watch.
    """

    def __init__(self, address: str = "", watchdog: float | None = None) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog = watchdog

    @classmethod
    def from_environment(cls) -> Notifier:
        """Return the one that systemd's environment describes (sd_notify(3), sd_watchdog_enabled(3)).

        It is taken out of the environment: Mosquitto, as a child, would speak to systemd in our name.
        """
        address, usec, pid = (os.environ.pop(name, "") for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"))
        watchdog = None
        if pid in ("", str(os.getpid())):
            with contextlib.suppress(ValueError):
                watchdog = int(usec or "0") / 1e6 or None
        return cls(address, watchdog)

    @property
    def wanted(self) -> bool:
        """Whether anybody listens."""
        return bool(self._address)

    def tell(self, *lines: str) -> None:
        """Send some assignments, as `READY=1`."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
                channel.settimeout(0)  # a manager that does not read must not hold up a role
                channel.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            _log.debug("the service manager was not told %s: %s", lines, error)

    def stopping(self, within: float = 0.0) -> None:
        """Say that the role ends, and that it may take so many seconds beyond what the unit allows."""
        extend = (f"EXTEND_TIMEOUT_USEC={round((within + 30) * 1e6)}",) if within else ()
        self.tell("STOPPING=1", "STATUS=stopping", *extend)


@contextlib.contextmanager
def attended(role: object, notifier: Notifier) -> Iterator[None]:
    """Tell the service manager how a role is while it runs.

    A role that shows progress is ready once its loop has turned; any other is ready at once, and not watched further.
    """
    if not notifier.wanted:
        yield
        return
    if not isinstance(role, Progressing):
        notifier.tell("READY=1")
        yield
        return
    ended = threading.Event()
    thread = threading.Thread(target=_attend, args=(role, notifier, ended), name="watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(5)


def _attend(role: Progressing, notifier: Notifier, ended: threading.Event) -> None:
    while not any(role.progress().values()):
        if ended.wait(_FIRST):
            return
    notifier.tell("READY=1", "STATUS=serving")
    progress = Progress()
    pause = (notifier.watchdog or _UNWATCHED * CHECKS) / CHECKS
    well = True
    while True:
        stuck = progress.stuck(role.progress())
        if stuck:
            what = f"no progress: {', '.join(stuck)}"
            _log.log(logging.ERROR if well else logging.DEBUG, "%s", what)
            notifier.tell(f"STATUS={what}")
        else:
            notifier.tell("WATCHDOG=1", "STATUS=serving")
        well = not stuck
        if ended.wait(pause):
            return
