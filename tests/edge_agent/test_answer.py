"""Committed tokens as the events an app sees. Tokens here are single bytes, so that characters can be cut in two."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.answer import EVENTS_PER_RUN, Answer
from schemas.messages import DoneEvent, ErrorEvent, Statistics, TokenEvent

STATISTICS = Statistics(3, 2, 1, 2, 1, 0, 10, 20, 300, 100)


def decode(tokens: list[int]) -> str:
    return bytes(tokens).decode(errors="replace")


def answer(*stop: str, run: int = 0) -> Answer:
    return Answer("ask-1", decode, stop, run=run)


def test_token_events_are_numbered_and_carry_index_and_offset() -> None:
    one = answer()
    assert [one.token(0, tuple(b"Hel")), one.token(3, tuple(b"lo"))] == [
        TokenEvent("ask-1", 0, 0, 0, "Hel", tuple(b"Hel")),
        TokenEvent("ask-1", 1, 3, 3, "lo", tuple(b"lo")),
    ]


def test_token_offset_counts_code_points_not_bytes() -> None:
    one = answer()
    first = one.token(0, tuple("äöü😀".encode()))
    second = one.token(len(first.tokens), tuple(b"!"))
    assert (first.text, second.index, second.offset) == ("äöü😀", 10, 4)


def test_token_event_is_empty_while_a_character_is_not_complete() -> None:
    one = answer()
    euro = "€".encode()
    events = [one.token(i, (byte,)) for i, byte in enumerate(euro)]
    assert [event.text for event in events] == ["", "", "€"]
    assert [event.offset for event in events] == [0, 0, 0]
    assert one.token(3, (33,)).offset == 1


def test_token_text_that_may_be_a_stop_string_is_held_back() -> None:
    one = answer("END")
    assert [one.token(0, tuple(b"the E")).text, one.token(5, tuple(b"X")).text] == ["the ", "EX"]
    assert not one.stopped


def test_token_stop_string_across_tokens_ends_the_text_before_it() -> None:
    one = answer("END")
    texts = [one.token(i, (byte,)).text for i, byte in enumerate(b"the END of")]
    assert "".join(texts) == "the "
    assert one.stopped


def test_done_carries_the_whole_text_and_the_next_number() -> None:
    one = answer()
    one.token(0, tuple(b"Hello"))
    assert one.done(5, "length", STATISTICS, "v0") == (
        None,
        DoneEvent("ask-1", 1, "Hello", "length", lossless=True, released=(), statistics=STATISTICS, verifier="v0"),
    )


def test_done_shows_what_was_held_back_first() -> None:
    one = answer("END")
    one.token(0, tuple(b"the EN"))
    rest, done = one.done(6, "stop", STATISTICS, "v0")
    assert rest == TokenEvent("ask-1", 1, 6, 4, "EN", ())
    assert (done.sequence, done.text) == (2, "the EN")


def test_done_after_a_stop_string_has_the_text_before_it() -> None:
    one = answer("END")
    one.token(0, tuple(b"the END"))
    rest, done = one.done(7, "stop", STATISTICS, "v0")
    assert rest is None
    assert done.text == "the "


def test_done_without_tokens_is_an_empty_text() -> None:
    rest, done = answer().done(0, "cancelled", STATISTICS, "")
    assert rest is None
    assert (done.sequence, done.text, done.finish_reason) == (0, "", "cancelled")


def test_error_takes_the_next_number() -> None:
    one = answer()
    one.token(0, tuple(b"H"))
    assert one.error("overloaded", "try later") == ErrorEvent("ask-1", 1, "overloaded", "try later")


def test_run_after_a_crash_repeats_the_text_under_higher_numbers() -> None:
    first, second = answer(run=0), answer(run=1)
    before = [first.token(i, (byte,)) for i, byte in enumerate(b"Hello")]
    again = second.token(0, tuple(b"Hello"))
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
        events.append(one.token(position, tuple(tokens[position : position + size])))
        position += size
    rest, done = one.done(len(tokens), "stop", STATISTICS, "v0")
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
        "token": one.token(0, (72,)),
        "done": one.done(1, "stop", STATISTICS, "v0")[1],
        "error": one.error("code", "sentence"),
    }[kind]
    assert msgspec.json.decode(msgspec.json.encode(event))["event"] == kind
