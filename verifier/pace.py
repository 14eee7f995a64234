"""How fast this verifier is and how busy, learnt from its steps; and what follows for devices. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from verifier.backpressure import Backlog, Busy, backlog, late_bundle, late_session, predicted_wait
from verifier.hints import ACCEPTANCE, Load, draft_hint, run_hint
from verifier.ledger import Hint
from verifier.scheduler import STEP_TOKENS
from verifier.steptime import StepTime

if TYPE_CHECKING:
    from collections.abc import Sequence

    from verifier.ledger import Tally
    from verifier.scheduler import Candidate
    from verifier.speed import Speed

SMOOTHING: Final = 0.2
"""Weight of the newest step in what is said of the load."""
KNOWN: Final = 100
"""Draft tokens judged before the acceptance rate is taken from them."""


class Pace:
    """Speed, load and backlog of one verifier.

    Args:
        name: of the verifier, for sentences.
        step_tokens: fed per step at most.
    """

    def __init__(self, name: str, step_tokens: int = STEP_TOKENS) -> None:
        self._name = name
        self._step_tokens = step_tokens
        self._step_time = StepTime()
        self._bundles = 1.0
        self._context = 0.0
        self._wait = 0.0
        self._ahead = Backlog()
        self._ends_at = 0.0

    @property
    def speed(self) -> Speed:
        """What a step costs."""
        return self._step_time.speed

    @property
    def behind(self) -> float:
        """Seconds of work that was left waiting when the last step was planned."""
        return predicted_wait(self._ahead, self.speed, self._step_tokens)

    def planned(self, left: Sequence[Candidate], fed: int, context: int, now: float) -> None:
        """A step was planned.

        Args:
            left: what waits for a later one.
            fed: tokens that the step feeds.
            context: tokens of its sequences, together.
            now: in seconds.
        """
        self._ahead = backlog(left)
        self._ends_at = now + self.speed.seconds(fed, context) if fed else now

    def stepped(self, fed: int, context: int, bundles: int, waits: Sequence[float], seconds: float) -> None:
        """A step has ended.

        Args:
            fed: tokens that it fed.
            context: tokens of its sequences, together.
            bundles: that it answered.
            waits: seconds that each of them had waited before it.
            seconds: how long it took.
        """
        self._step_time.observe(fed, context, seconds)
        if bundles:
            self._bundles += SMOOTHING * (bundles - self._bundles)
            self._context += SMOOTHING * (context - self._context)
            self._wait += SMOOTHING * (sum(waits) / len(waits) - self._wait)

    def hint(self, tally: Tally) -> Hint:
        """Return what would suit now; `tally` tells how often drafts are right."""
        load = Load(self._bundles, self._context, self._wait)
        judged = tally.accepted + tally.corrected
        chance = tally.accepted / judged if judged and tally.drafted >= KNOWN else ACCEPTANCE
        return Hint(draft_hint(self.speed, load, acceptance=chance), run_hint(self.speed, load))

    def too_busy(self, now: float) -> Busy | None:
        """Return why a new session is not served now, or None if it is."""
        if not self._ahead.bundles:
            return None
        ahead = Backlog(self._ahead.bundles, self._ahead.fed, self._ahead.context, max(0.0, self._ends_at - now))
        return late_session(self._name, ahead, self.speed, self._step_tokens)

    def too_late(self, one: Candidate, others: Sequence[Candidate], now: float) -> Busy | None:
        """Return why a bundle that waits is not served, or None if it can be in time.

        Args:
            one: the bundle.
            others: all that waits, itself included or not.
            now: in seconds.
        """
        ahead = backlog((other for other in others if other is not one), before=one.due)
        return late_bundle(self._name, ahead, one, self.speed, self._step_tokens, now)
