"""When to stop drafting and send the bundle."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge_agent.drafters.drafter import Proposal

DEFAULT_MAX_DRAFT = 8
"""Tokens a policy with a threshold drafts at most, unless told otherwise."""

_FORMS = (
    "fixed:LENGTH (fixed:4), confidence:THRESHOLD (confidence:0.6), entropy:NATS (entropy:2.0) or margin:THRESHOLD "
    "(margin:0.2), the last three with the longest draft behind them if you like (confidence:0.6:12)"
)


class Policy(Protocol):
    """Says after each drafted token whether the draft is long enough.

    The token that falls past a threshold ends the draft and is still sent, as its last token. It has been computed
    already, checking one position more costs the server next to nothing, and with a chance of about its confidence it
    is accepted after all. It also means that a round always drafts at least one token. A measure that is not a number
    counts as past the threshold: a drafter that lost it is not a sure drafter.
    """

    @property
    def max_draft(self) -> int:
        """The most tokens a round may draft; `enough` is true there at the latest."""
        ...

    def enough(self, draft: Sequence[Proposal]) -> bool:
        """Say whether to stop drafting and send.

        Args:
            draft: what was drafted so far in this round, oldest first.
        """
        ...


class FixedLength(msgspec.Struct, frozen=True):
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


class Confidence(msgspec.Struct, frozen=True):
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
        """True once the newest token's probability is below the threshold, or `max_draft` tokens are drafted."""
        return len(draft) >= self.max_draft or (bool(draft) and not draft[-1].confidence >= self.threshold)


class Entropy(msgspec.Struct, frozen=True):
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
        """True once the newest token's entropy is above the threshold, or `max_draft` tokens are drafted."""
        return len(draft) >= self.max_draft or (bool(draft) and not draft[-1].entropy <= self.threshold)


class Margin(msgspec.Struct, frozen=True):
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
        """True once the newest token's margin is below the threshold, or `max_draft` tokens are drafted."""
        return len(draft) >= self.max_draft or (bool(draft) and not draft[-1].margin >= self.threshold)


_WITH_THRESHOLD: dict[str, type[Confidence | Entropy | Margin]] = {
    "confidence": Confidence,
    "entropy": Entropy,
    "margin": Margin,
}


def parse_policy(text: str) -> Policy:
    """Read a policy from the command line: `fixed:4`, `confidence:0.6`, `entropy:2.0` or `margin:0.2`.

    All but the first may have a third part, the longest draft: `confidence:0.6:12`.

    Raises:
        ValueError: the text is none of these; the message quotes it and shows what is possible.
    """
    kind, *values = text.strip().split(":")
    match values:
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
