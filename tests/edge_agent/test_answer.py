"""Committed tokens as the events an app sees. Tokens here are single bytes, so that characters can be cut in two."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.answer import EVENTS_PER_RUN, Answer
from schemas.messages import DoneEvent, ErrorEvent, ReleasedRange, ReviseEvent, Statistics, TokenEvent
from tests.pair.consumer import Consumer

STATISTICS = Statistics(3, 2, 1, 2, 1, 0, 10, 20, 300, 100)


def decode(tokens: list[int]) -> str:
    return bytes(tokens).decode(errors="replace")


def answer(*stop: str, run: int = 0) -> Answer:
    return Answer("ask-1", decode, stop, run=run)


def commit(one: Answer, index: int, tokens: tuple[int, ...]) -> TokenEvent:
    """Commit tokens where nothing is provisional: one event, and no revision."""
    (event,) = one.commit(index, tokens)
    assert isinstance(event, TokenEvent)
    assert not event.provisional
    return event


def test_token_events_are_numbered_and_carry_index_and_offset() -> None:
    one = answer()
    assert [commit(one, 0, tuple(b"Hel")), commit(one, 3, tuple(b"lo"))] == [
        TokenEvent("ask-1", 0, 0, 0, "Hel", tuple(b"Hel")),
        TokenEvent("ask-1", 1, 3, 3, "lo", tuple(b"lo")),
    ]


def test_token_offset_counts_code_points_not_bytes() -> None:
    one = answer()
    first = commit(one, 0, tuple("äöü😀".encode()))
    second = commit(one, len(first.tokens), tuple(b"!"))
    assert (first.text, second.index, second.offset) == ("äöü😀", 10, 4)


def test_token_event_is_empty_while_a_character_is_not_complete() -> None:
    one = answer()
    euro = "€".encode()
    events = [commit(one, i, (byte,)) for i, byte in enumerate(euro)]
    assert [event.text for event in events] == ["", "", "€"]
    assert [event.offset for event in events] == [0, 0, 0]
    assert commit(one, 3, (33,)).offset == 1


def test_token_text_that_may_be_a_stop_string_is_held_back() -> None:
    one = answer("END")
    assert [commit(one, 0, tuple(b"the E")).text, commit(one, 5, tuple(b"X")).text] == ["the ", "EX"]
    assert not one.stopped


def test_token_stop_string_across_tokens_ends_the_text_before_it() -> None:
    one = answer("END")
    texts = [commit(one, i, (byte,)).text for i, byte in enumerate(b"the END of")]
    assert "".join(texts) == "the "
    assert one.stopped


def test_done_carries_the_whole_text_and_the_next_number() -> None:
    one = answer()
    commit(one, 0, tuple(b"Hello"))
    assert one.done(5, "length", STATISTICS, "v0") == (
        None,
        DoneEvent("ask-1", 1, "Hello", "length", lossless=True, released=(), statistics=STATISTICS, verifier="v0"),
    )


def test_done_shows_what_was_held_back_first() -> None:
    one = answer("END")
    commit(one, 0, tuple(b"the EN"))
    rest, done = one.done(6, "stop", STATISTICS, "v0")
    assert rest == TokenEvent("ask-1", 1, 6, 4, "EN", ())
    assert (done.sequence, done.text) == (2, "the EN")


def test_done_after_a_stop_string_has_the_text_before_it() -> None:
    one = answer("END")
    commit(one, 0, tuple(b"the END"))
    rest, done = one.done(7, "stop", STATISTICS, "v0")
    assert rest is None
    assert done.text == "the "


def test_done_without_tokens_is_an_empty_text() -> None:
    rest, done = answer().done(0, "cancelled", STATISTICS, "")
    assert rest is None
    assert (done.sequence, done.text, done.finish_reason) == (0, "", "cancelled")


def test_error_takes_the_next_number() -> None:
    one = answer()
    commit(one, 0, tuple(b"H"))
    assert one.error("overloaded", "try later") == ErrorEvent("ask-1", 1, "overloaded", "try later")


def test_run_after_a_crash_repeats_the_text_under_higher_numbers() -> None:
    first, second = answer(run=0), answer(run=1)
    before = [commit(first, i, (byte,)) for i, byte in enumerate(b"Hello")]
    again = commit(second, 0, tuple(b"Hello"))
    assert again == TokenEvent("ask-1", EVENTS_PER_RUN, 0, 0, "Hello", tuple(b"Hello"))
    assert again.sequence > before[-1].sequence


TEXTS = st.text(st.sampled_from("aä€😀EN D"), max_size=30)


@settings(deadline=None, max_examples=200)
@given(text=TEXTS, stop=st.lists(st.sampled_from(["END", "€", "N D", "aa"]), max_size=2), data=st.data())
def test_events_joined_at_their_offsets_are_the_whole_text(text: str, stop: list[str], data: st.DataObject) -> None:
    """However tokens are cut into verdicts; and the text ends before the first stop string to be complete."""
    tokens = text.encode()
    one = answer(*stop)
    events: list[TokenEvent] = []
    position = 0
    while position < len(tokens) and not one.stopped:
        size = data.draw(st.integers(1, 8))
        events.append(commit(one, position, tuple(tokens[position : position + size])))
        position += size
    rest, done = one.done(len(tokens), "stop", STATISTICS, "v0")
    assert not isinstance(rest, ReviseEvent)
    events += [rest] if rest else []
    shown = ""
    for event in events:
        assert event.offset == len(shown)
        shown += event.text
    ends = [(text.find(word) + len(word), text.find(word)) for word in stop if word in text]
    assert done.text == shown == (text[: min(ends)[1]] if ends else text)
    assert [*(event.sequence for event in events), done.sequence] == list(range(len(events) + 1))


@pytest.mark.parametrize("kind", ["token", "done", "error"])
def test_events_are_json_objects_that_name_their_kind(kind: str) -> None:
    one = answer()
    event = {
        "token": commit(one, 0, (72,)),
        "done": one.done(1, "stop", STATISTICS, "v0")[1],
        "error": one.error("code", "sentence"),
    }[kind]
    assert msgspec.json.decode(msgspec.json.encode(event))["event"] == kind


# Provisional text -----------------------------------------------------------------------------------------------------


def preview(one: Answer, index: int, tokens: bytes) -> TokenEvent:
    event = one.preview(index, tuple(tokens))
    assert event is not None
    assert event.provisional
    return event


def test_preview_goes_on_behind_the_final_text() -> None:
    one = answer()
    commit(one, 0, tuple(b"Hi"))
    assert [preview(one, 2, b" th"), preview(one, 5, b"ere")] == [
        TokenEvent("ask-1", 1, 2, 2, " th", tuple(b" th"), provisional=True),
        TokenEvent("ask-1", 2, 5, 5, "ere", tuple(b"ere"), provisional=True),
    ]


def test_provisional_is_on_the_wire_only_where_it_is_true() -> None:
    one = answer()
    assert b"provisional" not in msgspec.json.encode(commit(one, 0, (72,)))
    assert b'"provisional":true' in msgspec.json.encode(preview(one, 1, b"i"))


def test_commit_of_what_was_shown_says_it_again_as_final() -> None:
    one = answer()
    preview(one, 0, b"Hi there")
    assert one.commit(0, tuple(b"Hi")) == [TokenEvent("ask-1", 1, 0, 0, "Hi", tuple(b"Hi"))]
    assert one.commit(2, tuple(b" there you")) == [TokenEvent("ask-1", 2, 2, 2, " there you", tuple(b" there you"))]
    assert preview(one, 12, b"!").offset == 12


def test_commit_of_something_else_confirms_then_revises_from_the_first_wrong_token() -> None:
    one = answer()
    preview(one, 0, b"Hi there")
    assert one.commit(0, tuple(b"Hi my")) == [
        TokenEvent("ask-1", 1, 0, 0, "Hi ", tuple(b"Hi ")),
        ReviseEvent("ask-1", 2, 3, 3, "my", tuple(b"my")),
    ]
    assert preview(one, 5, b"!").offset == 5


def test_commit_of_another_first_token_only_revises() -> None:
    one = answer()
    preview(one, 0, b"Hi")
    assert one.commit(0, tuple(b"Oh")) == [ReviseEvent("ask-1", 1, 0, 0, "Oh", tuple(b"Oh"))]


def test_preview_and_revision_never_split_a_character() -> None:
    """The token that is right completes a character, the one that was shown another."""
    one = answer()
    commit(one, 0, (0xC3,))
    assert preview(one, 1, b"\xa4").text == "ä"
    assert one.commit(1, (0xB6,)) == [ReviseEvent("ask-1", 2, 1, 0, "ö", (0xB6,))]


def test_preview_holds_back_what_may_be_a_stop_string() -> None:
    one = answer("END")
    assert preview(one, 0, b"the E").text == "the "
    (event,) = one.commit(0, tuple(b"the EX"))
    assert (event.offset, event.text) == (0, "the EX")


def test_preview_of_a_stop_string_ends_nothing_but_the_preview() -> None:
    one = answer("END")
    assert preview(one, 0, b"the END of").text == "the "
    assert not one.stopped
    assert one.preview(10, tuple(b" it")) is None
    (first, second) = one.commit(0, tuple(b"the ENS"))
    assert (first.text, second.text) == ("the ", "ENS")
    assert isinstance(second, ReviseEvent)
    assert preview(one, 7, b" of").offset == 7


def test_stop_string_that_was_shown_ends_the_text_once_it_is_confirmed() -> None:
    one = answer("END")
    preview(one, 0, b"the END")
    (event,) = one.commit(0, tuple(b"the END"))
    assert (event.text, one.stopped) == ("the ", True)


def test_done_takes_back_what_was_not_verified_and_shows_what_was_held_back() -> None:
    one = answer("END")
    commit(one, 0, tuple(b"the E"))
    preview(one, 5, b"X there")
    last, done = one.done(5, "cancelled", STATISTICS, "v0")
    assert last == ReviseEvent("ask-1", 2, 5, 4, "E", ())
    assert done.text == "the E"


def test_take_back_leaves_what_is_final() -> None:
    one = answer()
    assert one.take_back(0) is None
    commit(one, 0, tuple(b"Hi"))
    preview(one, 2, b" there")
    assert one.take_back(2) == ReviseEvent("ask-1", 2, 2, 2, "", ())
    assert one.take_back(2) is None


def test_start_over_replaces_everything() -> None:
    one = answer(run=1)
    assert one.start_over(tuple(b"Hi")) == ReviseEvent("ask-1", EVENTS_PER_RUN, 0, 0, "Hi", tuple(b"Hi"))
    assert answer(run=2).start_over(()) == ReviseEvent("ask-1", 2 * EVENTS_PER_RUN, 0, 0, "", ())


def test_done_names_the_released_ranges() -> None:
    one = answer()
    commit(one, 0, tuple(b"Hi"))
    ranges = (ReleasedRange(0, 1),)
    _, done = one.done(2, "stop", STATISTICS, "v0", ranges)
    assert (done.lossless, done.released) == (False, ranges)


@settings(deadline=None, max_examples=300)
@given(
    text=TEXTS,
    guess=TEXTS,
    stop=st.lists(st.sampled_from(["END", "€", "N D", "aa"]), max_size=2),
    data=st.data(),
)
def test_an_app_that_applies_the_events_always_has_what_is_said(
    text: str, guess: str, stop: list[str], data: st.DataObject
) -> None:
    """Whatever is guessed and however it is cut; and final and revise events alone make the text too."""
    tokens, one, consumer = text.encode(), answer(*stop), Consumer(revise=True)
    position = ahead = 0
    while position < len(tokens) and not one.stopped:
        if data.draw(st.booleans()):
            ahead = max(ahead, position)
            right = tokens[ahead : ahead + data.draw(st.integers(0, 5))]
            guessed = (right + guess.encode()[: data.draw(st.integers(0, 3))]) or b"a"
            if (shown := one.preview(ahead, tuple(guessed))) is not None:
                consumer.take(shown)
            ahead += len(guessed)
        else:
            new = tokens[position : position + data.draw(st.integers(1, 8))]
            events = one.commit(position, tuple(new))
            for final in events:
                consumer.take(final)
            position += len(new)
            ahead = 0 if isinstance(events[-1], ReviseEvent) else ahead
    last, done = one.done(position, "stop", STATISTICS, "v0")
    for event in [last, done]:
        if event is not None:
            consumer.take(event)
    ends = [(text.find(word) + len(word), text.find(word)) for word in stop if word in text]
    assert done.text == consumer.text == (text[: min(ends)[1]] if ends else text)
