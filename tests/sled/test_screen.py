"""What is seen of an answer that may be revised."""

from __future__ import annotations

from io import StringIO
from typing import TYPE_CHECKING

from rich.console import Console

from sled.screen import Screen
from sled.transcript import Transcript
from tests.sled.test_transcript import done, revise, token

if TYPE_CHECKING:
    from schemas.messages import AnswerEvent


def shown(console: Console, *events: AnswerEvent) -> list[str]:
    """What the console has been sent after each event."""
    out, transcript = console.file, Transcript(revise=True)
    assert isinstance(out, StringIO)
    seen = []
    with Screen(console, redraw=True) as screen:
        for event in events:
            for news in transcript.take(event):
                screen.show(news)
            seen.append(out.getvalue())
    return seen


EVENTS: tuple[AnswerEvent, ...] = (
    token(0, 0, "Hi"),
    token(1, 2, " there", provisional=True),
    token(2, 2, " "),
    revise(3, 3, "me"),
    done(4, "Hi me"),
)


def test_into_a_pipe_goes_only_what_stays() -> None:
    seen = shown(Console(file=StringIO()), *EVENTS)
    assert seen == ["Hi", "Hi", "Hi ", "Hi me", "Hi me\n"]


def test_terminal_shows_provisional_text_dimly_and_draws_again() -> None:
    seen = shown(Console(file=StringIO(), force_terminal=True, width=60, color_system="standard"), *EVENTS)
    assert "\x1b[2m there\x1b[0m" in seen[1]
    assert " there" not in seen[3].rpartition("Hi ")[2]
    assert seen[3].rstrip().endswith("Hi me")


def test_text_that_only_grows_is_written_as_it_comes() -> None:
    out = StringIO()
    with Screen(Console(file=out, force_terminal=True), redraw=False) as screen:
        screen.show(token(0, 0, "Hi"))
        assert out.getvalue() == "Hi"
        screen.show(done(1, "Hi"))
    assert out.getvalue() == "Hi\n"
