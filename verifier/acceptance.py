"""Which of a draft's tokens the target accepts, and what it adds. Greedy or sampled, the rule is the same.

The target has chosen a token at every position of the draft and at the one after it. Chosen token i stands where the
drafter put draft[i]; as long as they agree, the target has read what it would have written itself, so its next choice
counts too. The first choice that differs is the correction token; after a draft without one comes the bonus token
(Leviathan et al. 2023, section 2.3, for a target that chooses deterministically given its noise).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from schemas.messages import FinishReason

if TYPE_CHECKING:
    from collections.abc import Sequence
    from collections.abc import Set as AbstractSet


class Judgement(Struct, frozen=True):
    """What a draft has come to.

    Attributes:
        tokens: accepted tokens, then the correction or bonus token unless the text ended before it.
        accepted: how many of the draft were accepted.
        finish: why the text ends with the last of `tokens`, or None.
    """

    tokens: tuple[int, ...]
    accepted: int
    finish: FinishReason | None


def judge(draft: Sequence[int], chosen: Sequence[int], *, end_tokens: AbstractSet[int], room: int) -> Judgement:
    """Judge a draft by what the target chose.

    Args:
        draft: [D] drafted token ids.
        chosen: [D + 1] ids the target chose at the draft's positions and after it.
        end_tokens: ids that end the text where they stand; nothing follows one.
        room: tokens the text may still have, at least 1.

    Raises:
        ValueError: the lengths do not fit, or there is no room.
    """
    if len(chosen) != len(draft) + 1:
        raise ValueError(f"a draft of {len(draft)} tokens needs {len(draft) + 1} chosen ones, not {len(chosen)}")
    if room < 1:
        raise ValueError("there is no room for another token")
    tokens: list[int] = []
    for position, token in enumerate(chosen[:room]):
        tokens.append(token)
        if token in end_tokens:
            break
        if position < len(draft) and token != draft[position]:
            break
    accepted = sum(1 for ours, theirs in zip(tokens, draft, strict=False) if ours == theirs)
    return Judgement(tuple(tokens), accepted, ending(tokens, end_tokens=end_tokens, room=room))


def ending(tokens: Sequence[int], *, end_tokens: AbstractSet[int], room: int) -> FinishReason | None:
    """Return why a text ends with the last of `tokens`, when `room` tokens were left before them."""
    if tokens and tokens[-1] in end_tokens:
        return "stop"
    return "length" if len(tokens) >= room else None
