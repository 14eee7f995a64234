"""Draft on while one more token is worth its time: the default policy.

Rounds follow one another, each brings some tokens and takes some time, and what counts is tokens per second: a
renewal-reward process. The best rule for when to end a draft then maximises, in every round, its expected tokens minus
r times its expected time, r being the rate that this very rule earns (Ferguson, *Optimal Stopping and Applications*,
chapter 6; with the rate last measured in its place the rate rises to that fixed point, which is Dinkelbach's method).

Let q_i be the chance that drafted token i is accepted if those before it are, and P_k = q_1 … q_k. One more token
behind k is accepted with a chance of P_k·q, and takes its draft time d, in which the device would otherwise earn r·d
tokens. So the rule is: draft on while P_k·q > r·d. Looking one token ahead is enough: P_k falls with every token while
r·d stays, so where one token is not worth its time, none behind it is (the monotone case, chapter 5).

One more token also takes v, the time by which the target's step grows with it, if it is sent. So d above is d + v; and
of what is drafted, only tokens with P_k > r·v are sent: d is spent by then, v is not.

Round trip, verify time, queueing and what was drafted for nothing or for free while waiting are all in the measured r.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from typing import TYPE_CHECKING, Final

from edge_agent.calibration import Calibration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge_agent.drafters.drafter import Proposal
    from edge_agent.policy import Outcome

LONGEST: Final = 16
"""Tokens drafted at most, unless told otherwise."""
FIRST: Final = 4
"""Tokens drafted until there is something to go by."""
LEAST_CHANCE: Final = 0.02
"""However quick the drafter, a token with a smaller chance is not drafted: the server has to check it too."""
LEAST_CHANCE_AHEAD: Final = 0.25
"""While waiting, drafting costs no time but energy, and the server's cores where it is the same machine. The first
token drafted ahead brings nothing by itself: the target adds one too."""
_DECAY: Final = 0.9
"""Weight of the rounds so far against the newest one's."""
_TIMED: Final = 33
"""Latest tokens of a source whose draft times are kept."""
_STEP_DECAY: Final = 0.98
"""Weight of the steps so far against the newest one's: fifty of them say how a step grows with its tokens."""
_DOUBT: Final = 0.5
"""Added to the variance of draft lengths (tokens squared): where all are alike, they say nothing of what one costs."""
_OUTLIER: Final = 3.0
"""A step of so many times the mean did something else too, as reading a prompt."""
_CHANGED: Final = 4
"""So many of them in a row did not: the target has become slower, or is another one."""


class CostAware:
    """Drafts on while the next token is expected to bring more than its time would.

    The chances q_i are calibrated (`Calibration`); q, of the token that is not drafted yet, is the mean chance of the
    last one's source. d is the median draft time of that source's latest tokens: a median, since the first token of an
    answer takes as long as reading the prompt. r is the ratio of two exponential averages over rounds, of committed
    tokens and of seconds, over rounds with a draft alone: one without brings a run, which is another trade.

    v is the slope of the target's step time over the tokens sent, by least squares over the latest rounds; 0 until some
    were of different lengths.

    Until a rate and a draft time were measured, drafts have `FIRST` tokens. A verifier's hint is the session's concern.

    Attributes:
        max_draft: tokens per round at most.
        calibration: what is known of confidences.

    Raises:
        ValueError: `max_draft` is below 1.
    """

    def __init__(self, max_draft: int = LONGEST, calibration: Calibration | None = None) -> None:
        if max_draft < 1:
            raise ValueError(f"The longest draft is at least 1 token, but {max_draft} was given.")
        self.max_draft = max_draft
        self.calibration = calibration or Calibration()
        self._rate = _Rate()
        self._times = _DraftTimes()
        self._steps = _StepTimes()

    def enough(self, draft: Sequence[Proposal]) -> bool:
        """True once the next token is not worth its time, or `max_draft` tokens are drafted; never for no draft."""
        if not draft:
            return False
        if len(draft) >= self.max_draft:
            return True
        rate, seconds = self._rate.tokens_per_second, self._times.of(draft[-1].source)
        if rate is None or seconds is None:
            return len(draft) >= FIRST
        return self._chance_behind(draft) <= max(rate * (seconds + self._steps.per_token), LEAST_CHANCE)

    def worth(self, draft: Sequence[Proposal]) -> int:
        """Return how many tokens, from the first, are each expected to bring more than checking them takes."""
        least = (self._rate.tokens_per_second or 0.0) * self._steps.per_token
        chance = 1.0
        for number, proposal in enumerate(draft):
            chance *= self.calibration.chance(proposal)
            if number and chance <= least:
                return number
        return len(draft)

    def ahead(self, draft: Sequence[Proposal]) -> bool:
        """True while the next token has some chance of being of use."""
        return not draft or self._chance_behind(draft) >= LEAST_CHANCE_AHEAD

    def learn(self, outcome: Outcome) -> None:
        """Take in what was accepted, how long drafting took, and what the round brought in its time."""
        self.calibration.learn(outcome.proposals, outcome.accepted)
        for proposal in outcome.proposals:
            self._times.add(proposal)
        if outcome.proposals and outcome.seconds is not None:
            self._rate.add(outcome.committed, outcome.seconds)
        if outcome.sent and outcome.step is not None:
            self._steps.add(outcome.sent, outcome.step)

    def _chance_behind(self, draft: Sequence[Proposal]) -> float:
        """Return P_k·q: the chance that the token after `draft` (not empty) is accepted."""
        last = draft[-1]
        chance = math.prod(map(self.calibration.chance, draft))
        return chance * self.calibration.mean(last.learner, sampled=last.sampled)


class _Rate:
    """Tokens per second, lately."""

    def __init__(self) -> None:
        self._tokens = 0.0
        self._seconds = 0.0

    @property
    def tokens_per_second(self) -> float | None:
        """The rate, or None before the first round."""
        return self._tokens / self._seconds if self._seconds else None

    def add(self, tokens: int, seconds: float) -> None:
        """Take in a round; one that took no time (a clock that stands) says nothing."""
        if 0 < seconds < math.inf:
            self._tokens = self._tokens * _DECAY + tokens
            self._seconds = self._seconds * _DECAY + seconds


class _DraftTimes:
    """What a token of each source takes to draft."""

    def __init__(self) -> None:
        self._latest: dict[str, deque[float]] = {}
        self._medians: dict[str, float] = {}

    def of(self, source: str) -> float | None:
        """Return the median in seconds, or None before the first."""
        return self._medians.get(source)

    def add(self, proposal: Proposal) -> None:
        """Take in a token's time, if it was measured."""
        if 0 < proposal.seconds < math.inf:
            latest = self._latest.setdefault(proposal.source, deque(maxlen=_TIMED))
            latest.append(proposal.seconds)
            self._medians[proposal.source] = statistics.median(latest)


class _StepTimes:
    """How the target's step grows with the tokens sent: a line through the latest steps, old ones fading."""

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self._weight = self._tokens = self._seconds = self._squares = self._products = 0.0
        self._outliers = 0

    @property
    def per_token(self) -> float:
        """Seconds that one token more takes; 0 while nothing is known."""
        if not self._weight:
            return 0.0
        tokens, seconds = self._tokens / self._weight, self._seconds / self._weight
        variance = max(0.0, self._squares / self._weight - tokens**2)
        slope = (self._products / self._weight - tokens * seconds) / (variance + _DOUBT)
        return min(max(0.0, slope), seconds)

    def add(self, tokens: int, seconds: float) -> None:
        """Take in a step that judged so many draft tokens."""
        if not 0 < seconds < math.inf:
            return
        if self._weight and seconds > _OUTLIER * self._seconds / self._weight:
            self._outliers += 1
            if self._outliers < _CHANGED:
                return
            self._forget()
        self._outliers = 0
        fading = (self._weight, self._tokens, self._seconds, self._squares, self._products)
        newest = (1.0, tokens, seconds, tokens**2, tokens * seconds)
        self._weight, self._tokens, self._seconds, self._squares, self._products = (
            _STEP_DECAY * old + new for old, new in zip(fading, newest, strict=True)
        )
