"""The answer to one request, as a stream of events for the app."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from edge_agent.detokenizer import Detokenizer
from schemas.messages import DoneEvent, ErrorEvent, ReviseEvent, TokenEvent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from schemas.messages import ReleasedRange, Statistics

EVENTS_PER_RUN: Final = 1_000_000
"""Sequence numbers set aside for each run of the agent, so that they rise across a crash."""


class Answer:
    """Turns tokens into events: numbered, with token index and text offset.

    Committed tokens are final. Provisional ones may be shown ahead of them; a detokenizer of their own, which starts
    where the final text stands, reads them, and what is committed later is compared with them. Final token events and
    revise events are the whole text, piece by piece, for an app that leaves the provisional ones out.

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
        self._provisional: list[int] = []
        self._ahead: Detokenizer | None = None
        self._shown = 0

    @property
    def stopped(self) -> bool:
        """Whether a stop string ended the final text."""
        return self._detokenizer.stop_found is not None

    def commit(self, index: int, tokens: tuple[int, ...]) -> list[TokenEvent | ReviseEvent]:
        """Return the events for newly committed tokens; `index` is the output position of the first.

        Tokens that confirm provisional ones come in a token event like any others, and the first that does not in a
        revise event.
        """
        agreed = 0
        while agreed < min(len(tokens), len(self._provisional)) and tokens[agreed] == self._provisional[agreed]:
            agreed += 1
        if agreed in (len(tokens), len(self._provisional)):
            del self._provisional[:agreed]
            if not self._provisional:
                self._ahead = None
            return [self._token(index, tokens)]
        confirmed = [self._token(index, tokens[:agreed])] if agreed else []
        return [*confirmed, self._revise(index + agreed, tokens[agreed:])]

    def preview(self, index: int, tokens: tuple[int, ...]) -> TokenEvent | None:
        """Return the event for provisional tokens behind all others; None behind a provisional stop string."""
        if self._ahead is None:
            self._ahead = self._detokenizer.fork()
            self._shown = self._length
        if self._ahead.stop_found is not None:
            return None
        offset, text = self._shown, self._ahead.add(tokens)
        self._provisional += tokens
        self._shown += len(text)
        return TokenEvent(self._request, self._number(), index, offset, text, tokens, provisional=True)

    def start_over(self, tokens: tuple[int, ...]) -> ReviseEvent:
        """Return the first event of a restarted agent: what an earlier run has shown beyond these tokens is void."""
        return self._revise(0, tokens)

    def take_back(self, index: int) -> ReviseEvent | None:
        """Return the event that takes back what is provisional, if anything is; `index` tokens are final."""
        return self._revise(index, ()) if self._provisional else None

    def done(
        self,
        index: int,
        reason: Literal["stop", "length", "cancelled"],
        statistics: Statistics,
        verifier: str,
        released: tuple[ReleasedRange, ...] = (),
    ) -> tuple[TokenEvent | ReviseEvent | None, DoneEvent]:
        """Return the last event, and the one before it: for text that was held back until now, if any.

        That one also takes back what is provisional.

        Args:
            index: how many tokens the answer has.
            reason: why it ends.
            statistics: what it took.
            verifier: who verified it last.
            released: ranges of tokens that the target did not confirm.
        """
        rest = self._detokenizer.finish()
        last: TokenEvent | ReviseEvent | None = None
        if self._provisional:
            last = self._revise(index, (), rest)
        elif rest:
            last = self._token(index, (), rest)
        done = DoneEvent(
            self._request,
            self._number(),
            "".join(self._pieces),
            reason,
            lossless=not released,
            released=released,
            statistics=statistics,
            verifier=verifier,
        )
        return last, done

    def error(self, code: str, sentence: str) -> ErrorEvent:
        """Return the last event of a request that failed."""
        return ErrorEvent(self._request, self._number(), code, sentence)

    def _token(self, index: int, tokens: tuple[int, ...], rest: str = "") -> TokenEvent:
        offset, text = self._read(tokens, rest)
        return TokenEvent(self._request, self._number(), index, offset, text, tokens)

    def _revise(self, index: int, tokens: tuple[int, ...], rest: str = "") -> ReviseEvent:
        self._provisional.clear()
        self._ahead = None
        offset, text = self._read(tokens, rest)
        return ReviseEvent(self._request, self._number(), index, offset, text, tokens)

    def _read(self, tokens: tuple[int, ...], rest: str) -> tuple[int, str]:
        """Add tokens, or the rest of the text, to what is final; return its offset and text."""
        offset = self._length
        text = self._detokenizer.add(tokens) + rest if tokens else rest
        self._pieces.append(text)
        self._length += len(text)
        return offset, text

    def _number(self) -> int:
        self._sequence += 1
        return self._sequence - 1
