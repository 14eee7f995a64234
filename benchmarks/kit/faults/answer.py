"""One request as an app sees it: folds the events that came into what is shown, and notes what must not be.

An app drops by sequence number what it has had, and by token index and text offset what is said again, by a restarted
device or because provisional tokens were confirmed. What is left it shows. `sled.client` does so too; this is written
for the checker alone, from the contract of the messages, so that a mistake there does not hide itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.messages import DoneEvent, ErrorEvent, ReviseEvent, TokenEvent

if TYPE_CHECKING:
    from schemas.messages import AnswerEvent


class Answer:
    """What an app has made of the events of one request so far.

    Attributes:
        text: shown; what is provisional is at its end.
        tokens: final output tokens by position, as far as they came; those of events that came late too.
        progress: when final tokens came that had not come before, or the end, in seconds.
        done: the `done` event, once it has come.
        failed: the `error` event, once it has come.
        ended_at: when either came; None before.
        repeats: events that were dropped, all of which the app had already.
        revised: provisional tokens in whose place others came.
        again: what was shown, or ended, a second time; sentences.
        wrong: what contradicts what was final before, or was not to be shown; sentences.
    """

    def __init__(self, *, revise: bool = False) -> None:
        """Begin with nothing; with `revise` the app takes text back."""
        self.text = ""
        self.tokens: dict[int, int] = {}
        self.progress: list[float] = []
        self.done: DoneEvent | None = None
        self.failed: ErrorEvent | None = None
        self.ended_at: float | None = None
        self.repeats = 0
        self.revised = 0
        self.again: list[str] = []
        self.wrong: list[str] = []
        self._takes_back = revise
        self._sequence = -1
        self._count = 0  # final tokens are known to reach this far
        self._final = 0  # and final text this far
        self._provisional: dict[int, int] = {}

    def take(self, at: float, event: AnswerEvent) -> None:
        """Take in an event that came at a time."""
        if event.sequence <= self._sequence:
            self.repeats += 1
            if isinstance(event, TokenEvent) and not event.provisional:
                self._keep(event)  # one that was lost and sent again later; nothing of it is shown any more
            return
        self._sequence = event.sequence
        if self.ended_at is not None:
            self.again.append(f"event {event.sequence} came after the last one")
            return
        match event:
            case TokenEvent(provisional=True):
                self._preview(event)
            case TokenEvent():
                self._commit(at, event)
            case ReviseEvent():
                self._revise(at, event)
            case DoneEvent():
                self._end(at, event)
            case ErrorEvent():
                self.failed, self.ended_at = event, at

    def _preview(self, event: TokenEvent) -> None:
        if not self._takes_back:
            self.wrong.append(f"event {event.sequence} is provisional, which the app did not ask for")
        self._provisional |= dict(enumerate(event.tokens, event.index))
        self._show(event)

    def _commit(self, at: float, event: TokenEvent) -> None:
        for position, token in enumerate(event.tokens, event.index):
            self.revised += self._provisional.pop(position, token) != token
        self._advance(at, event)
        if self._show(event) and event.offset <= self._final:  # else what is between was never confirmed
            self._final = max(self._final, event.offset + len(event.text))

    def _show(self, event: TokenEvent) -> bool:
        """Add the text of an event; False if what is before it is lost (`done` has the whole text), or it is wrong."""
        if event.offset > len(self.text):
            return False
        if not _agree(self.text[event.offset :], event.text):
            # What took the provisional text back was lost. What is final is not taken back.
            self.text = self.text[: max(event.offset, self._final)]
        said_again = self.text[event.offset :]
        if not _agree(said_again, event.text):
            self.wrong.append(f"event {event.sequence} says other text at offset {event.offset} than was final there")
            return False
        self.text += event.text[len(said_again) :]
        return True

    def _revise(self, at: float, event: ReviseEvent) -> None:
        if not self._takes_back:
            self.wrong.append(f"event {event.sequence} takes text back, which the app did not ask for")
        now = dict(enumerate(event.tokens, event.index))
        for position in [each for each in self._provisional if each >= event.index]:
            self.revised += self._provisional.pop(position) != now.get(position)
        self._advance(at, event)
        if event.offset > len(self.text):
            return
        if not _agree(self.text[event.offset : self._final], event.text):
            self.wrong.append(f"event {event.sequence} takes back what was final at offset {event.offset}")
        self.text = self.text[: event.offset] + event.text
        self._final = len(self.text)

    def _advance(self, at: float, event: TokenEvent | ReviseEvent) -> None:
        self._keep(event)
        if event.index + len(event.tokens) > self._count:
            self._count = event.index + len(event.tokens)
            self.progress.append(at)

    def _keep(self, event: TokenEvent | ReviseEvent) -> None:
        for position, token in enumerate(event.tokens, event.index):
            known = self.tokens.setdefault(position, token)
            if known != token:
                self.wrong.append(
                    f"event {event.sequence} says token {token} at position {position}, where {known} was"
                )

    def _end(self, at: float, event: DoneEvent) -> None:
        self.done, self.ended_at = event, at
        self.progress.append(at)
        if not _agree(self.text[: self._final], event.text):
            self.again.append("what was shown is not how the whole text begins")

    @property
    def falls_short(self) -> bool:
        """Whether the end leaves out what was final before."""
        if self.done is None:
            return False
        missing = max(self.tokens, default=-1) >= self.done.statistics.tokens
        return missing or len(self.done.text) < self._final


def _agree(one: str, other: str) -> bool:
    """Whether two texts that begin at the same place can both be right."""
    return one.startswith(other) or other.startswith(one)
