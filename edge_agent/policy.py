"""When to stop drafting and send the bundle."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT_MAX_DRAFT = 8
"""Tokens a confidence policy drafts at most, unless told otherwise."""


class Policy(Protocol):
    """Says after each drafted token whether the draft is long enough."""

    @property
    def max_draft(self) -> int:
        """The most tokens a round may draft; `enough` is true there at the latest."""
        ...

    def enough(self, confidences: Sequence[float]) -> bool:
        """Say whether to stop drafting and send.

        Args:
            confidences: the drafter's probability of each token drafted so far in this round, oldest first.
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

    def enough(self, confidences: Sequence[float]) -> bool:
        """True once `length` tokens are drafted."""
        return len(confidences) >= self.length


class Confidence(msgspec.Struct, frozen=True):
    """Draft until the drafter is unsure: the rule of the SLED paper, with its threshold c_th.

    The token whose confidence falls below the threshold ends the draft and is still sent, as its last token. It has
    been computed already, checking one position more costs the server next to nothing, and with a chance of about
    its confidence it is accepted after all. It also means that a round always drafts at least one token.

    Attributes:
        threshold: c_th, from 0 (never unsure) to 1 (stop after any token that is not certain).
        max_draft: tokens per round at most, at least 1.

    Raises:
        ValueError: a value is out of its range.
    """

    threshold: float
    max_draft: int = DEFAULT_MAX_DRAFT

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:  # also refuses NaN
            raise ValueError(f"A confidence threshold lies between 0 and 1, but {self.threshold} was given.")
        _check_length("The longest draft", self.max_draft)

    def enough(self, confidences: Sequence[float]) -> bool:
        """True once the newest token fell below the threshold, or `max_draft` tokens are drafted."""
        if not confidences:
            return False
        newest = confidences[-1]
        # A drafter that lost its confidence (NaN) is not a sure drafter.
        return newest < self.threshold or math.isnan(newest) or len(confidences) >= self.max_draft


def parse_policy(text: str) -> Policy:
    """Read a policy from the command line: `fixed:4`, `confidence:0.6` or `confidence:0.6:12`.

    The third part of a confidence policy is its longest draft.

    Raises:
        ValueError: the text is none of these; the message quotes it and shows what is possible.
    """
    kind, *values = text.strip().split(":")
    match kind, values:
        case "fixed", [length]:
            return FixedLength(_whole(length, text))
        case "confidence", [threshold]:
            return Confidence(_real(threshold, text))
        case "confidence", [threshold, longest]:
            return Confidence(_real(threshold, text), _whole(longest, text))
        case _:
            raise ValueError(
                f"The draft policy {text!r} is not known; write fixed:LENGTH (fixed:4), confidence:THRESHOLD "
                "(confidence:0.6) or confidence:THRESHOLD:LONGEST (confidence:0.6:12)."
            )


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
            f"In the draft policy {policy!r}, {value!r} should be a number from 0 to 1, as in confidence:0.6."
        ) from None
