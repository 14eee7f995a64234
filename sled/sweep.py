"""The operator's sweeper: watches a broker and clears what nobody keeps up any more."""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Final, assert_never

from msgspec import Struct

from broker.address import Addresses
from broker.client import Bridge
from broker.errors import BrokerError
from broker.mailbox import Down, Mailbox, Stop, Up
from broker.message import Message
from broker.tls import Tls
from schemas.topics import Topics
from sled.sweeper import Finding, Sweeper

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger(__name__)

INVENTORY: Final = 2.0
"""Seconds without a further retained message after which all have been seen."""
REACHED_WITHIN: Final = 10.0
"""Seconds in which a broker must be reached when it begins."""
KEPT_FINDINGS: Final = 1_000
MOST_PER_TURN: Final = 1_000
"""Messages taken in before it is looked what is due."""

_Word = Up | Down | Stop


class SweepOptions(Struct, frozen=True):
    """What `sled sweep` was told.

    Attributes:
        address: of the broker, or of several, the preferred one first.
        root: of all topics.
        ttl_factor: times to live are multiplied by this.
        offline_after: seconds after which states of the departed are cleared; None leaves them.
        malformed: clear what nobody can read, too.
        dry_run: clear nothing, only say what would be cleared.
        watch: seconds to watch for; None until `stop`. What was retained when it began is looked at in any case.
    """

    address: Addresses
    root: str = "sled/v1"
    ttl_factor: float = 1.0
    offline_after: float | None = None
    malformed: bool = False
    dry_run: bool = False
    watch: float | None = None
    tls: Tls | None = None


class SweepReport(Struct, frozen=True):
    """What one run of the sweeper came to.

    Attributes:
        watched: seconds.
        retained: messages that are left and watched at the end.
        cleared: of the findings, how many were cleared; 0 in a dry run.
        findings: what should not have been there; of very many, the last thousand.
    """

    watched: float
    retained: int
    cleared: int
    dry_run: bool
    findings: tuple[Finding, ...]

    def describe(self) -> str:
        """Return a line for people."""
        return (
            f"watched {self.retained} retained messages for {self.watched:.0f} s: {len(self.findings)} should not be "
            f"there, {self.cleared} were cleared"
        )


class Sweep:
    """One run of the sweeper.

    Args:
        options: see there.
        tell: is told of each finding as it is made.
        clock: in seconds, never goes back.
    """

    def __init__(
        self,
        options: SweepOptions,
        tell: Callable[[Finding], None] = lambda _: None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._options = options
        self._tell = tell
        self._clock = clock
        self._topics = Topics(options.root)
        self._sweeper = Sweeper(
            self._topics,
            ttl_factor=options.ttl_factor,
            offline_after=options.offline_after,
            malformed=options.malformed,
        )
        self._items: Mailbox[_Word] = Mailbox()
        self._findings: deque[Finding] = deque(maxlen=KEPT_FINDINGS)
        self._cleared = 0
        self._watched = 0.0
        self._everything = f"{options.root}/#"
        self._inventory_until: float | None = None
        self._bridge = Bridge(
            options.address,
            tls=options.tls,
            first_patience=REACHED_WITHIN / 4,
            on_up=lambda _: self._items.put(Up()),
            on_down=lambda reason: self._items.put(Down(reason)),
            on_error=lambda error: _log.error("%s", error),
        )
        topics = self._topics
        for topic_filter in (topics.sessions("+"), topics.device_state("+"), topics.verifier_state("+")):
            self._bridge.subscribe(topic_filter, self._items.deliver)
        # Everything below the root is looked at once; to read all traffic for ever would be too much to ask.
        self._bridge.subscribe(self._everything, self._items.deliver)

    def stop(self) -> None:
        """Ask it to end; callable from any thread and from a signal handler."""
        self._items.put(Stop())

    def run(self) -> None:
        """Watch until the time is over, or until `stop`.

        Raises:
            BrokerUnreachable: no broker answers when it begins.
        """
        with self._bridge as bridge:
            bridge.wait_up(REACHED_WITHIN)
            began = self._clock()
            end = None if self._options.watch is None else began + self._options.watch
            while self._turn(end):
                pass
            self._watched = self._clock() - began

    def report(self) -> SweepReport:
        """Return what it came to; after `run`."""
        return SweepReport(
            round(self._watched, 1), len(self._sweeper), self._cleared, self._options.dry_run, tuple(self._findings)
        )

    def _turn(self, end: float | None) -> bool:
        """Take in what has come and clear what is due; False to end."""
        patience = self._patience(end)
        for _ in range(MOST_PER_TURN):
            item = self._items.get(patience)
            if item is None:
                break
            if isinstance(item, Stop):
                return False
            self._take(item, self._clock())
            patience = 0.0
        now = self._clock()
        for finding in self._sweeper.due(now):
            self._found(finding)
        if self._inventory_until is not None and now >= self._inventory_until:
            self._inventory_until = None
            self._bridge.unsubscribe(self._everything)
        return self._inventory_until is not None or end is None or now < end

    def _take(self, item: Message | _Word, now: float) -> None:
        match item:
            case Message():
                self._sweeper.seen(item.topic, item.payload, retain=item.retain, now=now)
                if item.retain and self._inventory_until is not None:
                    self._inventory_until = now + INVENTORY
            case Up():
                self._inventory_until = now + INVENTORY
            case Down(reason):
                self._sweeper.forget()
                self._bridge.subscribe(self._everything, self._items.deliver)
                _log.warning("%s; what is retained will be watched anew", reason)
            case Stop():
                pass
            case _:
                assert_never(item)

    def _patience(self, end: float | None) -> float:
        now = self._clock()
        due = [at for at in (end, self._inventory_until, self._sweeper.next_due()) if at is not None]
        return max(0.0, min([now + 1.0, *due]) - now)

    def _found(self, finding: Finding) -> None:
        self._findings.append(finding)
        self._tell(finding)
        if finding.clear and not self._options.dry_run:
            try:
                self._bridge.publish(finding.topic, b"", retain=True)
            except BrokerError as error:
                _log.warning("%s is not cleared: %s", finding.topic, error)
            else:
                self._cleared += 1
