"""The thread that drafts: always the newest wish, never more than one."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from msgspec.structs import replace

from edge_agent.drafters.drafter import DrafterError
from edge_agent.events import Drafted, DrafterLost

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_agent.drafters.drafter import Drafter, Proposal
    from edge_agent.effects import Draft

_log = logging.getLogger(__name__)


class DraftingThread:
    """Runs a drafter beside the protocol, so that drafting blocks no message and no message waits for a draft.

    One token per wish: between two tokens the thread sleeps until the loop has taken the first one in and wants the
    next, and models compute without the interpreter's lock, so drafting never holds up a message for longer than a
    lookup takes.

    Args:
        drafter: used from this thread alone.
        answer: called on this thread with the session and `Drafted` or `DrafterLost`; must only enqueue.
        timed: called on this thread with the seconds that a drafted token took; None if nobody wants to know.
    """

    def __init__(
        self,
        drafter: Drafter,
        answer: Callable[[bytes, Drafted | DrafterLost], None],
        timed: Callable[[float], None] | None = None,
    ) -> None:
        self._drafter = drafter
        self._answer = answer
        self._timed = timed
        self._wish: tuple[bytes, Draft] | None = None
        self._changed = threading.Condition()
        self._stopping = False
        self._begun = 0
        self._ended = 0
        self._thread = threading.Thread(target=self._run, name="drafting", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """End the thread after the token it is at."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(timeout)

    @property
    def progress(self) -> int | None:
        """How many tokens have ended while another is under way; None while none is. May be read from any thread."""
        ended = self._ended  # before those begun, so that one that ends in between is one under way
        return ended if self._begun > ended else None

    def draft(self, session: bytes, wish: Draft) -> None:
        """Draft this next; replaces a wish that was not begun."""
        with self._changed:
            self._wish = (session, wish)
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while self._wish is None and not self._stopping:
                    self._changed.wait()
                if self._stopping or self._wish is None:
                    return
                (session, wish), self._wish = self._wish, None
            self._answer(session, self._propose(wish))

    def _propose(self, wish: Draft) -> Drafted | DrafterLost:
        began = time.perf_counter()
        self._begun += 1
        try:
            proposal = self._drafter.propose(wish.sequence, wish.sampling, wish.position)
            if proposal is not None:
                proposal = self._stamped(proposal, wish, time.perf_counter() - began)
            return Drafted(wish.branch, proposal)
        except DrafterError as error:
            _log.warning(
                "the drafter %s cannot go on, so this answer goes on without drafts: %s", self._drafter.name, error
            )
        except Exception:  # noqa: BLE001 -- drafts are a help, never a need
            _log.exception("the drafter %s failed, so this answer goes on without drafts", self._drafter.name)
        finally:
            self._ended += 1
        return DrafterLost()

    def _stamped(self, proposal: Proposal, wish: Draft, seconds: float) -> Proposal:
        """Add what the drafter does not say of its own proposal, so that it can be learnt from."""
        if self._timed is not None:
            self._timed(seconds)
        source = proposal.source or self._drafter.name
        return replace(proposal, source=source, seconds=seconds, sampled=wish.sampling.temperature > 0)
