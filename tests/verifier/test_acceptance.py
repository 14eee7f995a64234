"""Which draft tokens are accepted, and what the target adds."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verifier.acceptance import Judgement, ending, judge

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from collections.abc import Set as AbstractSet

    from schemas.messages import FinishReason

END = 9
ENDS = frozenset({END})


@pytest.mark.parametrize(
    ("draft", "chosen", "room", "judgement"),
    [
        pytest.param((), (1,), 9, Judgement((1,), 0, None), id="no draft: one token of the target"),
        pytest.param((1, 2), (1, 2, 3), 9, Judgement((1, 2, 3), 2, None), id="all accepted: bonus token"),
        pytest.param((1, 2), (1, 5, 6), 9, Judgement((1, 5), 1, None), id="second differs: correction token"),
        pytest.param((1, 2), (5, 2, 3), 9, Judgement((5,), 0, None), id="first differs: what follows means nothing"),
        pytest.param((1, 2, 3), (5, 2, 3, 4), 9, Judgement((5,), 0, None), id="later agreement is no acceptance"),
        pytest.param((), (END,), 9, Judgement((END,), 0, "stop"), id="end token alone"),
        pytest.param((1,), (1, END), 9, Judgement((1, END), 1, "stop"), id="end token as bonus"),
        pytest.param((1, 2), (1, END, 3), 9, Judgement((1, END), 1, "stop"), id="end token as correction"),
        pytest.param((1, END, 3), (1, END, 3, 4), 9, Judgement((1, END), 2, "stop"), id="end token inside the draft"),
        pytest.param((END,), (END, 2), 9, Judgement((END,), 1, "stop"), id="end token drafted: no bonus after it"),
        pytest.param((END, 2), (1, 2, 3), 9, Judgement((1,), 0, None), id="end token drafted, not chosen"),
        pytest.param((1, 2), (1, 2, 3), 3, Judgement((1, 2, 3), 2, "length"), id="room for just all"),
        pytest.param((1, 2), (1, 2, 3), 2, Judgement((1, 2), 2, "length"), id="room without the bonus"),
        pytest.param((1, 2), (1, 2, 3), 1, Judgement((1,), 1, "length"), id="room for less than the draft"),
        pytest.param((1, 2), (5, 2, 3), 1, Judgement((5,), 0, "length"), id="room for the correction only"),
        pytest.param((1,), (1, END), 2, Judgement((1, END), 1, "stop"), id="an end in the last place is a stop"),
        pytest.param((1, 2), (1, 2, END), 2, Judgement((1, 2), 2, "length"), id="an end beyond the room is none"),
    ],
)
def test_judge(draft: tuple[int, ...], chosen: tuple[int, ...], room: int, judgement: Judgement) -> None:
    assert judge(draft, chosen, end_tokens=ENDS, room=room) == judgement


def test_judge_without_end_tokens_goes_on_after_any_token() -> None:
    assert judge((END,), (END, END), end_tokens=frozenset(), room=9) == Judgement((END, END), 1, None)


@pytest.mark.parametrize("chosen", [(), (1,), (1, 2, 3, 4)])
def test_judge_of_other_lengths_is_a_mistake(chosen: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=f"a draft of 2 tokens needs 3 chosen ones, not {len(chosen)}"):
        judge((1, 2), chosen, end_tokens=ENDS, room=9)


@pytest.mark.parametrize("room", [0, -1])
def test_judge_without_room_is_a_mistake(room: int) -> None:
    with pytest.raises(ValueError, match="no room for another token"):
        judge((), (1,), end_tokens=ENDS, room=room)


@pytest.mark.parametrize(
    ("tokens", "room", "reason"),
    [
        ((), 5, None),
        ((1,), 5, None),
        ((1, END), 5, "stop"),
        ((1, 2), 2, "length"),
        ((1, 2), 1, "length"),
        ((), 0, "length"),
    ],
)
def test_ending(tokens: tuple[int, ...], room: int, reason: FinishReason | None) -> None:
    assert ending(tokens, end_tokens=ENDS, room=room) == reason


# The rule that everything stands on -----------------------------------------------------------------------------------


def hashing_target(seed: int, vocabulary: int) -> Callable[[Sequence[int]], int]:
    """A target that chooses its next token by all it has read."""

    def choose(sequence: Sequence[int]) -> int:
        digest = hashlib.blake2b(bytes(sequence), digest_size=8, key=seed.to_bytes(8, "big")).digest()
        return int.from_bytes(digest, "big") % vocabulary

    return choose


def written_alone(choose: Callable[[Sequence[int]], int], ends: AbstractSet[int], most: int) -> list[int]:
    text: list[int] = []
    while len(text) < most and not (text and text[-1] in ends):
        text.append(choose(text))
    return text


@settings(deadline=None, max_examples=300)
@given(
    seed=st.integers(0, 2**32),
    vocabulary=st.integers(1, 20),
    ends=st.frozensets(st.integers(0, 19), max_size=3),
    most=st.integers(1, 30),
    data=st.data(),
)
def test_rounds_of_any_drafts_give_exactly_the_text_the_target_writes_alone(
    seed: int, vocabulary: int, ends: frozenset[int], most: int, data: st.DataObject
) -> None:
    choose = hashing_target(seed, vocabulary)
    text: list[int] = []
    finish = None
    rounds = 0
    while finish is None:
        right = written_alone(choose, frozenset(), most + 8)[len(text) :]
        draft = right[: data.draw(st.integers(0, 6))] + data.draw(st.lists(st.integers(0, 19), max_size=3))
        chosen = [choose([*text, *draft[:i]]) for i in range(len(draft) + 1)]
        judged = judge(draft, chosen, end_tokens=ends, room=most - len(text))
        assert 1 <= len(judged.tokens) <= len(draft) + 1
        assert list(judged.tokens[: judged.accepted]) == draft[: judged.accepted]
        assert len(judged.tokens) - judged.accepted in (0, 1)
        text += judged.tokens
        finish = judged.finish
        rounds += 1
    assert text == written_alone(choose, ends, most)
    assert finish == ("stop" if text[-1] in ends else "length")
    assert rounds <= len(text)
