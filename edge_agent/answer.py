"""The answer to one request, as a stream of events for the app."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from edge_agent.detokenizer import Detokenizer
from schemas.messages import DoneEvent, ErrorEvent, Statistics, TokenEvent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

EVENTS_PER_RUN: Final = 1_000_000
"""Sequence numbers set aside for each run of the agent, so that they rise across a crash."""


class Answer:
    """Turns committed tokens into events: numbered, with token index and text offset.

    After a crash the next run of the agent sends the whole text so far again, under higher sequence numbers; an app
    drops what it has by offset.
    """

    def __init__(self, request: str, decode: Callable[[list[int]], str], stop: Sequence[str], *, run: int = 0) -> None:
        """Start an empty answer.

        Args:
            request: the app's name for the request.
            decode: token ids to text.
            stop: strings that end the text; they are not part of it.
            run: how many runs of the agent were at this request before.
        """
        self._request = request
        self._detokenizer = Detokenizer(decode, stop)
        self._sequence = run * EVENTS_PER_RUN
        self._pieces: list[str] = []
        self._length = 0

    @property
    def stopped(self) -> bool:
        """Whether a stop string ended the text."""
        return self._detokenizer.stop_found is not None

    def token(self, index: int, tokens: tuple[int, ...]) -> TokenEvent:
        """Return the event for newly committed tokens; `index` is the output position of the first."""
        return self._event(index, tokens, self._detokenizer.add(tokens))

    def done(
        self, index: int, reason: Literal["stop", "length", "cancelled"], statistics: Statistics, verifier: str
    ) -> tuple[TokenEvent | None, DoneEvent]:
        """Return the event for text that was held back until now, if any, and the last event."""
        rest = self._detokenizer.finish()
        last = self._event(index, (), rest) if rest else None
        done = DoneEvent(
            self._request,
            self._number(),
            "".join(self._pieces),
            reason,
            lossless=True,
            released=(),
            statistics=statistics,
            verifier=verifier,
        )
        return last, done

    def error(self, code: str, sentence: str) -> ErrorEvent:
        """Return the last event of a request that failed."""
        return ErrorEvent(self._request, self._number(), code, sentence)

    def _event(self, index: int, tokens: tuple[int, ...], text: str) -> TokenEvent:
        offset = self._length
        self._pieces.append(text)
        self._length += len(text)
        return TokenEvent(self._request, self._number(), index, offset, text, tokens)

    def _number(self) -> int:
        self._sequence += 1
        return self._sequence - 1
