"""Token ids to text, piece by piece, never splitting a character or letting a stop string through."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""What a decoder writes for bytes that are not (yet) a character."""

_WINDOW = 32
"""Tokens decoded together at most, before the window is cut back. A character spans at most 4 byte tokens."""

_KEPT = 8
"""Tokens left in the window when it is cut back: context enough for leading spaces and split characters."""


class Detokenizer:
    """Turns a growing sequence of tokens into text that never has to be taken back.

    Only a window of the newest tokens is decoded for each token (the idea of text-generation-inference's prefix and
    read offsets), so the cost per token does not grow with the text. The pieces of `add` and `finish`, joined, are
    `decode` of all tokens, cut before the first stop string. That holds for any tokens where decoding joins bytes
    (byte-level BPE). Decoders with byte fallback (SentencePiece) rewrite characters that they have already shown
    when malformed bytes follow; there it holds for every sequence that is valid text.

    Args:
        decode: token ids to text, special tokens left out (`ChatTokenizer.decode`).
        stop: strings that end the text; they are not part of it.

    Attributes:
        stop_found: how many of the added tokens it took to complete a stop string; None while there is none.

    Raises:
        ValueError: a stop string is empty.
    """

    def __init__(self, decode: Callable[[list[int]], str], stop: Sequence[str] = ()) -> None:
        if "" in stop:
            raise ValueError("A stop string is empty, and would end every text at once; leave it out.")
        self._decode = decode
        self._stop = tuple(stop)
        self._window: list[int] = []
        self._read = 0  # characters of the window's text already passed on to `_release`
        self._held = ""  # text that may be the beginning of a stop string
        self._added = 0
        self._finished = False
        self.stop_found: int | None = None

    def add(self, tokens: Iterable[int]) -> str:
        """Take further tokens and return the text that is final because of them; tokens after a stop are ignored.

        Raises:
            ValueError: `finish` was called before.
        """
        if self._finished:
            raise ValueError("The text is finished; start another detokenizer for another text.")
        pieces: list[str] = []
        for token in tokens:
            if self.stop_found is not None:
                break
            self._added += 1
            pieces.append(self._release(self._push(token)))
        return "".join(pieces)

    def fork(self) -> Detokenizer:
        """Return another one that has read the same tokens and goes its own way from here."""
        other = copy.copy(self)
        other._window = self._window.copy()
        return other

    def finish(self) -> str:
        """Return the text that was held back, at the end of the tokens; empty after a stop string."""
        if self._finished or self.stop_found is not None:
            self._finished = True
            return ""
        self._finished = True
        rest = self._release(self._decode(self._window)[self._read :] if self._window else "")
        if self.stop_found is None:
            rest += self._held
        return rest

    def _push(self, token: int) -> str:
        """Append a token to the window; return the characters that no later token can change."""
        self._window.append(token)
        text = self._decode(self._window)
        # The last bytes may be the beginning of a character: trailing replacement characters wait.
        stable = len(text.rstrip(_UNFINISHED))
        if text and self._read == len(text) == stable:
            self._window.pop()  # a special token, or one that decodes to nothing: it would only fill the window
            return ""
        piece = text[self._read : stable]
        self._read = max(self._read, stable)
        if len(self._window) > _WINDOW:
            piece += self._shorten(text)
        return piece

    def _shorten(self, text: str) -> str:
        """Cut the window back to its newest tokens; return text that can no longer wait.

        Args:
            text: the decoded window.
        """
        waiting = len(text) - self._read
        if waiting and len(self._window) <= 2 * _WINDOW:
            return ""  # in the middle of a character, or of a run of byte tokens: wait for its end
        for kept in range(_KEPT, _KEPT + 4):
            tail = self._decode(self._window[-kept:])
            # Not so where the cut goes through a character. A leading space may be lost: it belongs to the past.
            if text.endswith(tail) and (tail or not text):
                # Of so many malformed bytes only the newest can still become a character.
                overdue = text[self._read : len(text) - len(tail)]
                self._window = self._window[-kept:]
                self._read = max(0, len(tail) - waiting)
                return overdue
        return ""

    def _release(self, piece: str) -> str:
        """Return what of the held text and `piece` cannot belong to a stop string; note a stop string if there."""
        if not self._stop:
            return piece
        text = self._held + piece
        # The first to be complete counts, so that the text does not depend on how tokens cut it.
        found = [(start + len(stop), start) for stop in self._stop if (start := text.find(stop)) >= 0]
        if found:
            self.stop_found = self._added
            self._held = ""
            return text[: min(found)[1]]
        keep = max(_overlap(text, stop) for stop in self._stop)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest beginning of `stop`, short of all of it, that `text` ends with."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
