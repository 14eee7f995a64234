"""The text of one answer as an app knows it, whatever events come twice, late or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from schemas.messages import DoneEvent, ReviseEvent, TokenEvent

if TYPE_CHECKING:
    from schemas.messages import AnswerEvent


class Transcript:
    """Takes in the events of an answer and says what of them is news.

    Attributes:
        text: so far.
    """

    def __init__(self, *, revise: bool = False) -> None:
        """Start with nothing shown.

        Args:
            revise: whether the app takes text back; without it, text only grows.
        """
        self.text = ""
        self._revise = revise
        self._tokens = 0
        self._sequence = -1

    def take(self, event: AnswerEvent) -> list[AnswerEvent]:
        """Return what the app has to be told: of a token event the part it does not have, which may be nothing.

        Applied in order (a token event adds its text, a revise event replaces what there is from its offset on), what
        is returned makes `text`, and in the end the text of the `done` event.
        """
        if event.sequence <= self._sequence:
            return []
        self._sequence = event.sequence
        match event:
            case TokenEvent():
                return self._grow(event)
            case ReviseEvent():
                return self._rewrite(event)
            case DoneEvent():
                return [*self._complete(event), event]
            case _:
                return [event]

    def _grow(self, event: TokenEvent) -> list[AnswerEvent]:
        if event.offset > len(self.text):
            return []  # the broker has lost events; the last one has the whole text
        told: list[AnswerEvent] = []
        known = self.text[event.offset :]
        if self._revise and not (known.startswith(event.text) or event.text.startswith(known)):
            # It has lost the event that took this back.
            told += self._rewrite(ReviseEvent(event.request, event.sequence, event.index, event.offset, "", ()))
        rest = _unseen(event, self._tokens, len(self.text))
        self.text += rest.text
        self._tokens = max(self._tokens, event.index + len(event.tokens))
        return [*told, rest]

    def _rewrite(self, event: ReviseEvent) -> list[AnswerEvent]:
        if event.offset > len(self.text):
            return []
        self.text = self.text[: event.offset] + event.text
        self._tokens = event.index + len(event.tokens)
        return [event]

    def _complete(self, event: DoneEvent) -> list[AnswerEvent]:
        """Return what is missing or wrong when the answer has ended."""
        offset = _common(self.text, event.text) if self._revise else len(self.text)
        rest = event.text[offset:]
        told: list[AnswerEvent] = []
        if offset < len(self.text):
            told = [ReviseEvent(event.request, event.sequence, self._tokens, offset, rest, ())]
        elif rest:
            told = [TokenEvent(event.request, event.sequence, self._tokens, offset, rest, ())]
        self.text = self.text[:offset] + rest
        return told


def _common(one: str, other: str) -> int:
    """Return how long the beginning is that two texts share."""
    length = min(len(one), len(other))
    return next((i for i in range(length) if one[i] != other[i]), length)


def _unseen(event: TokenEvent, tokens: int, length: int) -> TokenEvent:
    """Cut from an event what was already shown; a restarted device says the text so far again."""
    known_tokens, known_text = max(0, tokens - event.index), max(0, length - event.offset)
    return replace(
        event,
        index=event.index + min(known_tokens, len(event.tokens)),
        tokens=event.tokens[known_tokens:],
        offset=event.offset + min(known_text, len(event.text)),
        text=event.text[known_text:],
    )
