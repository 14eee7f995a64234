"""The sequence a drafter is told: whether it can be continued, and how much of it is known already."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_agent.drafters.drafter import SequenceError

if TYPE_CHECKING:
    from collections.abc import Sequence


def check_sequence(tokens: Sequence[int], name: str, context_length: int) -> None:
    """Check what no drafter can continue.

    Args:
        tokens: the whole sequence.
        name: of the drafter, for the message.
        context_length: the most tokens it takes.

    Raises:
        SequenceError: the sequence is empty, too long, or holds a negative id.
    """
    if not tokens:
        raise SequenceError("There is nothing to continue: the sequence is empty. Give at least one token.")
    if len(tokens) > context_length:
        raise SequenceError(
            f"The sequence has {len(tokens)} tokens, but the drafter {name} reads at most {context_length}; "
            "shorten the prompt, or use a drafter with a longer context."
        )
    if min(tokens) < 0:  # models would take it as counted from the end of the vocabulary
        raise SequenceError(f"The sequence holds the token id {min(tokens)}; token ids are not negative.")


def common_prefix(left: list[int], right: list[int]) -> int:
    """Return how many first tokens two sequences share."""
    length = min(len(left), len(right))
    if left[:length] == right[:length]:  # nearly always, and much faster than a loop
        return length
    return next(index for index in range(length) if left[index] != right[index])
