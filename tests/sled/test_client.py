"""What an app's client makes of the events of a device that was restarted in between."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from schemas.messages import TokenEvent
from sled.client import _unseen


@given(st.text(max_size=30), st.integers(0, 40), st.integers(0, 40), st.integers(0, 40))
def test_unseen_shows_each_piece_once(text: str, tokens: int, seen_text: int, seen_tokens: int) -> None:
    """The whole text so far comes again; what was shown is cut off, the rest is kept."""
    event = TokenEvent("r", 1, 0, 0, text, tuple(range(tokens)))
    rest = _unseen(event, seen_tokens, seen_text)
    assert text[:seen_text] + rest.text == text if seen_text <= len(text) else rest.text == ""
    assert rest.tokens == tuple(range(tokens))[seen_tokens:]
    assert rest.offset == min(seen_text, len(text))
    assert rest.index == min(seen_tokens, tokens)
