"""Several drafters in order of preference: when one fails, the next takes over."""

from __future__ import annotations

import logging
import statistics
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edge_agent.drafters.drafter import DrafterError, SequenceError
from schemas.messages import GREEDY

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edge_agent.drafters.drafter import Drafter, Proposal
    from schemas.messages import Sampling

_log = logging.getLogger(__name__)

LEAST_TOKENS: Final = 16
"""Draft tokens timed before a drafter may be called slow."""
_TIMED: Final = 64
"""Latest draft tokens that the median is taken of."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A drafter that may be needed.

    Attributes:
        label: what it was called on the command line.
        open: loads it; called at most once. Whatever it raises counts as a failure of this candidate.
    """

    label: str
    open: Callable[[], Drafter]


@dataclass(frozen=True, slots=True)
class _Says:
    """What a drafter says of itself."""

    name: str = "none"
    vocab_size: int = 0
    context_length: int = 0


class DrafterChain:
    """Drafts with the first of several drafters that works, and says why one is given up.

    A drafter is given up, with a warning that has the numbers, when it cannot be opened, knows fewer token ids than
    the target's tokenizer has, proposes an id outside it, raises anything but `SequenceError`, or is slower than the
    target. Every drafter is told whole sequences, so the next one takes over within an answer and nothing is lost. A
    drafter once given up is not tried again.

    A drafter is slower than the target when the median time of its latest draft tokens, at least `LEAST_TOKENS` of
    them, exceeds the target's time per token as the device sees it (`target_time`): the target would have answered
    with a certain token while the drafter made an uncertain one.

    Args:
        candidates: in order of preference, at least one; the first that works is opened now, others when needed.
        vocab_size: token ids of the target's tokenizer; None leaves the check out.
        clock: seconds of any monotonic clock.

    Raises:
        DrafterError: no candidate can be opened.
    """

    def __init__(
        self,
        candidates: Sequence[Candidate],
        *,
        vocab_size: int | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._left = deque(candidates)
        self._needed = vocab_size
        self._clock = clock
        self._times: deque[float] = deque(maxlen=_TIMED)
        self._target_time: float | None = None
        self._given_up: list[str] = []
        self._drafter: Drafter | None = None
        self._says = _Says()  # of the last drafter until the next is open, of none when none is left
        self._working()

    @property
    def name(self) -> str:
        """The present drafter's name; `none` when none is left."""
        return self._says.name

    @property
    def vocab_size(self) -> int:
        """The present drafter's; 0 when none is left."""
        return self._says.vocab_size

    @property
    def context_length(self) -> int:
        """The present drafter's, so it may change within an answer; 0 when none is left."""
        return self._says.context_length

    def target_time(self, seconds_per_token: float) -> None:
        """Say what a token costs without drafts: the smoothed time of a round. Callable from any thread."""
        self._target_time = seconds_per_token

    def propose(self, tokens: Sequence[int], sampling: Sampling = GREEDY, position: int = 0) -> Proposal | None:
        """Return the present drafter's next token after `tokens`, or the next drafter's if it fails.

        Raises:
            SequenceError: the present drafter cannot continue `tokens`.
            DrafterError: no drafter is left.
        """
        while True:
            drafter = self._working()
            try:
                proposal = self._timed(drafter, tokens, sampling, position)
            except SequenceError:
                raise
            except Exception as error:  # noqa: BLE001 -- whatever it is, the next drafter may do better
                self._give_up(drafter.name, error)
                del drafter  # a device may not have the memory for two
            else:
                self._check_speed(drafter)
                return proposal

    def _timed(self, drafter: Drafter, tokens: Sequence[int], sampling: Sampling, position: int) -> Proposal | None:
        start = self._clock()
        proposal = drafter.propose(tokens, sampling, position)
        if proposal is None:
            return None
        self._times.append(self._clock() - start)
        limit = drafter.vocab_size if self._needed is None else self._needed
        if not 0 <= proposal.token < limit:
            raise DrafterError(f"It proposed the token {proposal.token}, but token ids lie between 0 and {limit - 1}.")
        return proposal

    def _check_speed(self, drafter: Drafter) -> None:
        target = self._target_time
        if target is None or len(self._times) < LEAST_TOKENS:
            return
        own = statistics.median(self._times)
        if own > target:
            slow = DrafterError(
                f"It takes {own * 1e3:.1f} ms for a draft token (median of {len(self._times)}), but the target "
                f"answers in {target * 1e3:.1f} ms, so its drafts are not worth their time."
            )
            self._give_up(drafter.name, slow)

    def _give_up(self, name: str, error: Exception) -> None:
        foreseen = isinstance(error, DrafterError)
        reason = str(error) if foreseen else f"It failed unexpectedly with {type(error).__name__}: {error}."
        following = f"the next is {self._left[0].label}" if self._left else "no other is left"
        _log.warning(
            "the drafter %s is given up, %s: %s", name, following, reason, exc_info=None if foreseen else error
        )
        self._given_up.append(f"{name}: {reason}")
        self._drafter = None
        self._times.clear()

    def _working(self) -> Drafter:
        """Return the present drafter, or the next one that opens and fits.

        Raises:
            DrafterError: none is left.
        """
        if self._drafter is not None:
            return self._drafter
        while self._left:
            candidate = self._left.popleft()
            try:
                drafter = candidate.open()
                self._check_fit(drafter)
            except Exception as error:  # noqa: BLE001 -- whatever it is, the next drafter may do better
                self._give_up(candidate.label, error)
            else:
                self._drafter = drafter
                self._says = _Says(drafter.name, drafter.vocab_size, drafter.context_length)
                return drafter
        self._says = _Says()
        raise DrafterError("No drafter works. " + " ".join(self._given_up))

    def _check_fit(self, drafter: Drafter) -> None:
        if self._needed is not None and drafter.vocab_size < self._needed:
            raise DrafterError(
                f"It knows {drafter.vocab_size} token ids, but the target's tokenizer has {self._needed}; "
                "use a drafter with the target's tokenizer."
            )
