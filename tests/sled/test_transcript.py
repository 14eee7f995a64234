"""What an app's client makes of the events of a device: when it was restarted in between, when some were lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from schemas.messages import AnswerEvent, DoneEvent, ErrorEvent, ReviseEvent, Statistics, TokenEvent
from sled.transcript import Transcript, _unseen

STATISTICS = Statistics(0, 0, 0, 0, 0, 0, 0, 0, 0, 0)


def token(sequence: int, offset: int, text: str, *, provisional: bool = False) -> TokenEvent:
    """Characters are tokens here, so that indices are offsets."""
    return TokenEvent("r", sequence, offset, offset, text, tuple(map(ord, text)), provisional)


def revise(sequence: int, offset: int, text: str) -> ReviseEvent:
    return ReviseEvent("r", sequence, offset, offset, text, tuple(map(ord, text)))


def done(sequence: int, text: str) -> DoneEvent:
    return DoneEvent("r", sequence, text, "stop", lossless=True, released=(), statistics=STATISTICS)


def applied(events: list[AnswerEvent]) -> str:
    """The text of an app that does what `Transcript.take` says."""
    text = ""
    for event in events:
        if isinstance(event, TokenEvent):
            text += event.text
        elif isinstance(event, ReviseEvent):
            text = text[: event.offset] + event.text
    return text


def told(*events: AnswerEvent, opted_in: bool = True) -> list[AnswerEvent]:
    transcript = Transcript(revise=opted_in)
    news = [piece for event in events for piece in transcript.take(event)]
    assert applied(news) == transcript.text
    return news


@given(st.text(max_size=30), st.integers(0, 40), st.integers(0, 40), st.integers(0, 40))
def test_unseen_shows_each_piece_once(text: str, tokens: int, seen_text: int, seen_tokens: int) -> None:
    """The whole text so far comes again; what was shown is cut off, the rest is kept."""
    event = TokenEvent("r", 1, 0, 0, text, tuple(range(tokens)))
    rest = _unseen(event, seen_tokens, seen_text)
    assert text[:seen_text] + rest.text == text if seen_text <= len(text) else rest.text == ""
    assert rest.tokens == tuple(range(tokens))[seen_tokens:]
    assert rest.offset == min(seen_text, len(text))
    assert rest.index == min(seen_tokens, tokens)


def test_each_piece_is_told_once_over_a_restart() -> None:
    events = (token(0, 0, "Hi"), token(1, 2, " y"), token(1_000_000, 0, "Hi yo"), done(1_000_001, "Hi you"))
    assert told(*events, opted_in=False) == [
        token(0, 0, "Hi"),
        token(1, 2, " y"),
        token(1_000_000, 4, "o"),
        TokenEvent("r", 1_000_001, 5, 5, "u", ()),
        done(1_000_001, "Hi you"),
    ]


def test_events_that_come_twice_or_late_are_dropped() -> None:
    assert told(token(1, 0, "Hi"), token(1, 0, "Hi"), token(0, 0, "H")) == [token(1, 0, "Hi")]


def test_confirmed_text_is_not_told_again_but_how_far_it_is_final() -> None:
    events = told(token(0, 0, "Hi there", provisional=True), token(1, 0, "Hi"))
    assert events[1] == TokenEvent("r", 1, 2, 2, "", ())
    assert applied(events) == "Hi there"


def test_confirmed_tokens_are_cut_to_what_is_new_however_they_are_cut() -> None:
    events = told(token(0, 0, "Hi there", provisional=True), token(1, 0, "Hi"), token(2, 2, " there you"))
    assert events[2] == token(2, 8, " you")


def test_provisional_text_is_replaced_from_the_first_wrong_token_on() -> None:
    events = told(token(0, 0, "Hi there", provisional=True), token(1, 0, "Hi "), revise(2, 3, "me"), token(3, 5, "!"))
    assert applied(events) == "Hi me!"


def test_restart_takes_back_what_was_provisional() -> None:
    events = told(token(0, 0, "Hi"), token(1, 2, " there", provisional=True), revise(1_000_000, 0, "Hi"))
    assert applied(events) == "Hi"


def test_event_behind_a_lost_one_waits_for_the_last() -> None:
    events = told(token(0, 0, "Hi"), token(2, 5, "you"), done(3, "Hi, you"), opted_in=False)
    assert events == [token(0, 0, "Hi"), TokenEvent("r", 3, 2, 2, ", you", ()), done(3, "Hi, you")]
    assert told(revise(0, 3, "you")) == []


def test_lost_revision_is_made_up_for_by_the_next_event_that_shows_it() -> None:
    events = told(token(0, 0, "Hi there", provisional=True), token(2, 3, "me, you"))
    assert events[1] == ReviseEvent("r", 2, 3, 3, "", ())
    assert applied(events) == "Hi me, you"


def test_lost_revision_is_made_up_for_in_the_end() -> None:
    events = told(token(0, 0, "Hi there", provisional=True), done(2, "Hi this"))
    assert events[1] == ReviseEvent("r", 2, 8, 5, "is", ())
    assert applied(events) == "Hi this"


def test_who_did_not_opt_in_is_never_told_to_take_back() -> None:
    events = told(token(0, 0, "Hi there"), done(1, "Hi"), opted_in=False)
    assert events == [token(0, 0, "Hi there"), done(1, "Hi")]
    events = told(token(0, 0, "Hi there"), token(1_000_000, 0, "Hi, there you"), opted_in=False)
    assert not any(isinstance(event, ReviseEvent) for event in events)


def test_error_is_passed_on() -> None:
    error = ErrorEvent("r", 1, "overloaded", "Try later.")
    assert told(token(0, 0, "Hi"), error)[-1] == error
