"""An app that follows the documented rules, and checks at every event that they hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.messages import DoneEvent, ErrorEvent, ReviseEvent, TokenEvent
from sled.transcript import Transcript

if TYPE_CHECKING:
    from schemas.messages import AnswerEvent


class Consumer:
    """What an app has of one answer, over all runs of the agent.

    Attributes:
        text: as it is shown.
        tokens: likewise.
        final: how many of the tokens will not be taken back.
        final_text: the text that will not be, built from final and revise events alone.
        done: the last event.
    """

    def __init__(self, *, revise: bool) -> None:
        self.revise = revise
        self.text = ""
        self.tokens: tuple[int, ...] = ()
        self.final = 0
        self.final_text = ""
        self.done: DoneEvent | None = None
        self.provisional = 0
        self.revised = 0
        self._sequence = -1
        self._transcript = Transcript(revise=revise)
        self._retold = ""

    def take(self, event: AnswerEvent) -> None:
        assert event.sequence > self._sequence, "numbers rise, over a crash too"
        self._sequence = event.sequence
        match event:
            case TokenEvent():
                self._token(event)
            case ReviseEvent():
                self._revise(event)
            case DoneEvent():
                assert self.done in (None, event)
                assert event.text == self.text == self.final_text
                self.done = event
            case ErrorEvent():
                pass
        self._tell_client(event)

    def _token(self, event: TokenEvent) -> None:
        assert event.offset <= len(self.text), "no text is left out"
        assert event.index <= len(self.tokens), "no token is left out"
        text, tokens = self.text[event.offset :], self.tokens[event.index :]
        assert text.startswith(event.text) or event.text.startswith(text)
        assert tokens[: len(event.tokens)] == event.tokens[: len(tokens)]
        self.text += event.text[len(text) :]
        self.tokens += event.tokens[len(tokens) :]
        if event.provisional:
            assert self.revise, "only who can take it back sees it"
            self.provisional += len(event.tokens)
            return
        self._settle(event)

    def _revise(self, event: ReviseEvent) -> None:
        assert self.revise, "only who can take it back is told so"
        assert event.offset <= len(self.text)
        assert event.index <= len(self.tokens)
        before = self.tokens[: self.final]
        self.revised += len(self.tokens) - event.index
        self.text = self.text[: event.offset] + event.text
        self.tokens = self.tokens[: event.index] + event.tokens
        assert self.tokens[: self.final] == before, "what is final stays"
        self._settle(event)
        assert len(self.tokens) == self.final

    def _settle(self, event: TokenEvent | ReviseEvent) -> None:
        assert event.offset <= len(self.final_text), "final events leave no gap"
        known = self.final_text[event.offset :]
        assert known.startswith(event.text) or event.text.startswith(known), "final text stays"
        self.final_text += event.text[len(known) :]
        self.final = max(self.final, event.index + len(event.tokens))

    def _tell_client(self, event: AnswerEvent) -> None:
        """What the client library passes on makes the same text."""
        for news in self._transcript.take(event):
            if isinstance(news, TokenEvent):
                self._retold += news.text
            elif isinstance(news, ReviseEvent):
                self._retold = self._retold[: news.offset] + news.text
        assert self._retold == self._transcript.text == self.text
