"""The target's tokens as tokens of a drafter with another vocabulary."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from edge_agent.drafters.sequence import common_prefix
from edge_agent.drafters.vocabulary import complete

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_agent.drafters.vocabulary import Vocabulary

_WORD = re.compile(rb"(?<=[^ \t\n\r\f\v])(?= [^ \t\n\r\f\v])")
"""Where a word begins after a single space. No tokenizer in use has tokens that reach across."""
_LONGEST_PIECE: Final = 128
"""Bytes that are encoded together at most where no word begins (Chinese, long numbers); what keeps a step's work small
however long the text is."""


class _Mark(NamedTuple):
    """A place to which the translation can be taken back.

    Attributes:
        needed: how many of the target's tokens must be the same for it to be such a place.
        tokens: how many of the target's tokens lie before it.
        ids: how many of the drafter's.
        texts: how many texts between special tokens have begun.
        opened: whether the last of them has.
    """

    needed: int
    tokens: int
    ids: int
    texts: int
    opened: bool


class Translation:
    """Turns the target's token sequence into the drafter's, and keeps up with it as it grows and is taken back.

    The target's tokens are joined to bytes and encoded again word by word. The result depends on the sequence alone,
    not on the way to it, so what the drafter has computed stays valid. A step costs what its last word costs.

    A special token becomes the drafter's that is written alike (`<|im_start|>`); else one that ends a text becomes the
    drafter's end token, and one that begins a text the drafter's beginning; all others are left out, so that of a chat
    template unknown to the drafter the words remain (`assistant`). What the drafter's tokenizer puts before every text
    is put before this one.

    Args:
        target: the vocabulary translated from.
        drafter: the vocabulary translated to.
        retell: returns a prompt in the drafter's tokens and its own chat template, or None if it cannot.
    """

    def __init__(
        self,
        target: Vocabulary,
        drafter: Vocabulary,
        retell: Callable[[list[int]], list[int] | None] | None = None,
    ) -> None:
        self._target = target
        self._drafter = drafter
        self._retell = retell
        self._prompt: list[int] = []
        self._told: list[int] | None = None  # the prompt as it was retold
        self._specials = {token: _counterpart(token, target, drafter) for token in target.specials}
        self._tokens: list[int] = []
        self._ids = list(drafter.preamble)
        self._marks = [_Mark(0, 0, len(self._ids), 0, opened=False)]
        self._texts, self._opened = 0, False
        self._open = bytearray()  # the text that is not encoded yet: the last word or piece
        self._bounds: list[tuple[int, int]] = []  # where in it tokens begin, and their indices

    def ids(self, tokens: list[int], output: int = 0) -> list[int]:
        """Return the drafter's tokens for the target's; a new list.

        Args:
            tokens: prompt and output.
            output: how many of them are output.
        """
        if self._retell is not None:
            self._take_prompt(tokens[: max(0, len(tokens) - output)], self._retell)
        kept = common_prefix(self._tokens, tokens)
        if kept < len(self._tokens):
            self._take_back(kept)
        for token in tokens[len(self._tokens) :]:
            self._add(token)
        return self._ids + self._drafter.encode(bytes(self._open))

    def _take_prompt(self, prompt: list[int], retell: Callable[[list[int]], list[int] | None]) -> None:
        """Begin anew with another prompt, if this one or the one before is retold."""
        if prompt == self._prompt:
            return
        before, self._prompt, self._told = self._told, prompt, retell(prompt)
        if self._told is not None:
            self._tokens, self._ids = list(prompt), list(self._told)
            self._marks = [_Mark(len(prompt), len(prompt), len(self._ids), 1, opened=True)]
        elif before is not None:
            self._tokens, self._ids = [], list(self._drafter.preamble)
            self._marks = [_Mark(0, 0, len(self._ids), 0, opened=False)]
        else:
            return
        self._take_back(len(self._tokens))

    def _add(self, token: int) -> None:
        self._tokens.append(token)
        piece = self._target.piece(token)
        if piece is None:
            self._close(len(self._open))
            self._add_special(token)
            self._opened = False
            self._mark(len(self._tokens))
            return
        if not self._opened:
            piece = self._begin_text(piece)
        searched = max(0, len(self._open) - 2)
        self._bounds.append((len(self._open), len(self._tokens) - 1))
        self._open += piece
        self._cut(searched)

    def _begin_text(self, piece: bytes) -> bytes:
        """Put before the text what the drafter's tokenizer would, and leave out what the target's has put there."""
        first = self._texts == 0
        self._texts += 1
        self._opened = True
        piece = piece.removeprefix(self._target.opening(first=first))
        if not piece.startswith(b" "):
            self._open += self._drafter.opening(first=first)
        return piece

    def _cut(self, searched: int) -> None:
        """Encode what is whole: up to the last place where a word begins, or all if it is long.

        Args:
            searched: up to where no word begins.
        """
        cuts = [found.start() for found in _WORD.finditer(self._open, searched)]
        begun = 0
        for cut in cuts:
            self._close(cut - begun)
            begun = cut
        if len(self._open) > _LONGEST_PIECE and complete(bytes(self._open)) == len(self._open):
            self._close(len(self._open))
            self._mark(len(self._tokens))
        elif cuts and self._bounds and self._bounds[0][0] == 0:
            self._mark(self._bounds[0][1])

    def _close(self, length: int) -> None:
        """Encode the first bytes of what is open."""
        self._ids += self._drafter.encode(bytes(self._open[:length]))
        del self._open[:length]
        self._bounds = [(at - length, index) for at, index in self._bounds if at >= length]

    def _add_special(self, token: int) -> None:
        counterpart = self._specials.get(token)
        preamble = list(self._drafter.preamble)
        if counterpart is not None and not (self._ids == preamble and preamble[-1:] == [counterpart]):
            self._ids.append(counterpart)

    def _mark(self, tokens: int) -> None:
        self._marks.append(_Mark(len(self._tokens), tokens, len(self._ids), self._texts, self._opened))

    def _take_back(self, kept: int) -> None:
        """Go to the last mark that the first `kept` tokens vouch for."""
        while self._marks[-1].needed > kept:
            self._marks.pop()
        mark = self._marks[-1]
        del self._tokens[mark.tokens :]
        del self._ids[mark.ids :]
        self._texts, self._opened = mark.texts, mark.opened
        self._open.clear()
        self._bounds.clear()


def _counterpart(token: int, target: Vocabulary, drafter: Vocabulary) -> int | None:
    alike = drafter.special(target.specials[token])
    if alike is not None:
        return alike
    if token in target.ends:
        return drafter.ends[0] if drafter.ends else None
    return drafter.begin if token == target.begin else None
