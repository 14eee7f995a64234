"""When to stop drafting and send the bundle."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

import msgspec

from edge_agent.cost_aware import CostAware
from edge_agent.drafters.drafter import Proposal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge_agent.calibration import Calibration

DEFAULT_MAX_DRAFT = 8
"""Tokens a policy with a threshold drafts at most, unless told otherwise."""

_FORMS = (
    "cost-aware or cost-aware:LONGEST (cost-aware:16), fixed:LENGTH (fixed:4), confidence:THRESHOLD (confidence:0.6), "
    "entropy:NATS (entropy:2.0) or margin:THRESHOLD (margin:0.2), the last three with the longest draft behind them if "
    "you like (confidence:0.6:12)"
)


class Outcome(msgspec.Struct, frozen=True):
    """What became of one round's draft.

    Attributes:
        proposals: as sent, oldest first, the extras of a resend included. What an earlier verdict has settled is left
            out, and so is what the end of the text cut off unjudged.
        accepted: how many of them were accepted. `proposals[accepted]`, if there is one, was rejected; what lies beyond
            was never judged.
        committed: tokens that the round added to the log.
        seconds: since the round before was taken in; None where that says nothing about a usual round: something was
            resent, an outage or a resync lay between, or the round opened an epoch, so that the prompt was read in it.
        sent: how many tokens the round's draft had.
        step: seconds that the target took to judge them, in one step with whoever else was in it; None where `seconds`
            is.
    """

    proposals: tuple[Proposal, ...]
    accepted: int
    committed: int
    seconds: float | None = None
    sent: int = 0
    step: float | None = None


class Policy(Protocol):
    """Says after each drafted token whether the draft is long enough, and learns from what became of it.

    The token that falls past a threshold ends the draft and is still sent, as its last token: it has been computed
    already, and with a chance of about its confidence it is accepted after all. (`CostAware` asks whether that is worth
    the server's time.) It also means that a round always drafts at least one token. A measure that is not a number
    counts as past the threshold: a drafter that lost it is not a sure drafter.

    A verdict may leave extras, tokens drafted while it was awaited. They are the beginning of the next draft, so the
    policy is asked about them as about any other, and about all of them at once: a token past the threshold ends the
    draft wherever it stands.
    """

    @property
    def max_draft(self) -> int:
        """The most tokens a round may draft; `enough` is true there at the latest."""
        ...

    def enough(self, draft: Sequence[Proposal]) -> bool:
        """Say whether to stop drafting and send.

        Args:
            draft: what is drafted and not yet verified, oldest first.
        """
        ...

    def worth(self, draft: Sequence[Proposal]) -> int:
        """Say how many of the drafted tokens, from the first, are worth their place in a bundle; at least one of some.

        Args:
            draft: what is drafted and not yet verified, oldest first.
        """
        ...

    def ahead(self, draft: Sequence[Proposal]) -> bool:
        """Say whether to draft on behind `draft` while its verdict, or the link, is awaited.

        Args:
            draft: what is drafted and not yet verified, oldest first: what was sent and the extras since.
        """
        ...

    def learn(self, outcome: Outcome) -> None:
        """Take in what became of a round."""
        ...

    @property
    def calibration(self) -> Calibration | None:
        """What the policy has learnt of confidences and must be kept; None if it learns nothing."""
        ...


class _Unlearned(msgspec.Struct, frozen=True):
    """A policy that stays as it is, and drafts ahead as far as it may, since waiting costs no time."""

    def worth(self, draft: Sequence[Proposal]) -> int:
        """All of them."""
        return len(draft)

    def ahead(self, draft: Sequence[Proposal]) -> bool:  # noqa: ARG002 -- whatever it is
        """Always true."""
        return True

    def learn(self, outcome: Outcome) -> None:
        """Learn nothing."""

    @property
    def calibration(self) -> Calibration | None:
        """None."""
        return None


class FixedLength(_Unlearned, frozen=True):
    """Always draft the same number of tokens.

    Attributes:
        length: tokens per round, at least 1.

    Raises:
        ValueError: `length` is below 1.
    """

    length: int

    def __post_init__(self) -> None:
        _check_length("A fixed draft length", self.length)

    @property
    def max_draft(self) -> int:
        """The fixed length."""
        return self.length

    def enough(self, draft: Sequence[Proposal]) -> bool:
        """True once `length` tokens are drafted."""
        return len(draft) >= self.length


class Confidence(_Unlearned, frozen=True):
    """Draft until a token's probability is low: the rule of the SLED paper, with its threshold c_th.

    Attributes:
        threshold: c_th, from 0 (never unsure) to 1 (stop after any token that is not certain).
        max_draft: tokens per round at most, at least 1.

    Raises:
        ValueError: a value is out of its range.
    """

    threshold: float
    max_draft: int = DEFAULT_MAX_DRAFT

    def __post_init__(self) -> None:
        _check_share("A confidence threshold", self.threshold)
        _check_length("The longest draft", self.max_draft)

    def enough(self, draft: Sequence[Proposal]) -> bool:
        """True once a token's probability is below the threshold, or `max_draft` tokens are drafted."""
        return len(draft) >= self.max_draft or any(not token.confidence >= self.threshold for token in draft)


class Entropy(_Unlearned, frozen=True):
    """Draft until the drafter's distribution is broad.

    Attributes:
        threshold: nats, from 0 (stop after any token that is not certain); ln V is the entropy of V equal chances.
        max_draft: tokens per round at most, at least 1.

    Raises:
        ValueError: a value is out of its range.
    """

    threshold: float
    max_draft: int = DEFAULT_MAX_DRAFT

    def __post_init__(self) -> None:
        if not (self.threshold >= 0 and math.isfinite(self.threshold)):
            raise ValueError(f"An entropy threshold is a number of nats from 0 on, but {self.threshold} was given.")
        _check_length("The longest draft", self.max_draft)

    def enough(self, draft: Sequence[Proposal]) -> bool:
        """True once a token's entropy is above the threshold, or `max_draft` tokens are drafted."""
        return len(draft) >= self.max_draft or any(not token.entropy <= self.threshold for token in draft)


class Margin(_Unlearned, frozen=True):
    """Draft until the drafter's two best tokens are nearly equal.

    Attributes:
        threshold: least difference of the two largest probabilities, from 0 (never too close) to 1.
        max_draft: tokens per round at most, at least 1.

    Raises:
        ValueError: a value is out of its range.
    """

    threshold: float
    max_draft: int = DEFAULT_MAX_DRAFT

    def __post_init__(self) -> None:
        _check_share("A margin threshold", self.threshold)
        _check_length("The longest draft", self.max_draft)

    def enough(self, draft: Sequence[Proposal]) -> bool:
        """True once a token's margin is below the threshold, or `max_draft` tokens are drafted."""
        return len(draft) >= self.max_draft or any(not token.margin >= self.threshold for token in draft)


_WITH_THRESHOLD: dict[str, type[Confidence | Entropy | Margin]] = {
    "confidence": Confidence,
    "entropy": Entropy,
    "margin": Margin,
}


def parse_policy(text: str) -> Policy:
    """Read a policy from the command line: `cost-aware`, `fixed:4`, `confidence:0.6`, `entropy:2.0` or `margin:0.2`.

    The longest draft may follow, except behind a fixed length: `cost-aware:12`, `confidence:0.6:12`.

    Raises:
        ValueError: the text is none of these; the message quotes it and shows what is possible.
    """
    kind, *values = text.strip().split(":")
    match values:
        case [] if kind == "cost-aware":
            return CostAware()
        case [longest] if kind == "cost-aware":
            return CostAware(_whole(longest, text))
        case [length] if kind == "fixed":
            return FixedLength(_whole(length, text))
        case [threshold] if kind in _WITH_THRESHOLD:
            return _WITH_THRESHOLD[kind](_real(threshold, text))
        case [threshold, longest] if kind in _WITH_THRESHOLD:
            return _WITH_THRESHOLD[kind](_real(threshold, text), _whole(longest, text))
        case _:
            raise ValueError(f"The draft policy {text!r} is not known; write {_FORMS}.")


def _check_share(what: str, threshold: float) -> None:
    if not 0 <= threshold <= 1:  # also refuses NaN
        raise ValueError(f"{what} lies between 0 and 1, but {threshold} was given.")


def _check_length(what: str, length: int) -> None:
    if length < 1:
        raise ValueError(f"{what} is at least 1 token, but {length} was given.")


def _whole(value: str, policy: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise ValueError(
            f"In the draft policy {policy!r}, {value!r} should be a whole number, as in fixed:4."
        ) from None


def _real(value: str, policy: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise ValueError(
            f"In the draft policy {policy!r}, {value!r} should be a number, as in confidence:0.6."
        ) from None
