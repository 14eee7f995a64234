"""A drafter whose tokenizer is not the target's, used through text."""

from __future__ import annotations

from bisect import bisect_right
from math import prod
from typing import TYPE_CHECKING, Final, NamedTuple

from msgspec.structs import replace

from edge_agent.drafters.drafter import SequenceError
from edge_agent.drafters.lookup import UNLIMITED
from edge_agent.drafters.sequence import check_sequence, common_prefix
from edge_agent.drafters.translation import Translation
from schemas.messages import GREEDY

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edge_agent.drafters.drafter import Drafter, Proposal
    from edge_agent.drafters.vocabulary import Vocabulary
    from schemas.messages import Sampling

MOST_AHEAD: Final = 16
"""Enough for the longest words of a drafter that writes letters; runs of one character could go on for ever."""
_TAIL: Final = 4
"""Tokens before the proposed one that are encoded together with it."""


class _Step(NamedTuple):
    """One token of the inner drafter: its proposal, and where its text begins in the drafted text."""

    proposal: Proposal
    start: int


class CrossVocabulary:
    """Drafts in another vocabulary and proposes the target's tokens for the text that comes out.

    The target's tokens are translated through their bytes; the inner drafter continues them with its own, greedily;
    the target's tokenizer encodes the new text in its context. (The idea is that of string-level exact match, Timor et
    al. 2025, arXiv:2502.05202.) A token is proposed only once no further text can change it, mostly when the inner
    drafter's next token is known: `the` might become `there`. Text that was drafted but not yet proposed is kept, so
    an inner token that makes several of the target's is computed once, and so is one that was only looked ahead to.

    When a sequence comes that goes on with the drafted text, however its tokens cut it, the draft goes on with it.
    Any other sequence is translated anew, and the inner drafter rolls back by itself.

    Confidence is the product over the inner tokens that begin in the proposed token; entropy is their sum and margin
    the least of theirs. A token that lies inside an inner token of which an earlier proposal told is certain (1, 0, 1).
    All this is another measure than the inner drafter's own, so proposals name this drafter as their source.

    The sampling noise belongs to the target's token ids and has no meaning for others, so with temperature the greedy
    text is proposed all the same.

    Args:
        inner: a drafter with a model, for `own` token ids alone.
        own: its vocabulary.
        target: the target's vocabulary.
        vocab_limit: the target's token ids at and above it are never proposed.
        most_ahead: tokens that the inner drafter is asked for at most for one proposal; then the token is proposed
            that would be right if the text ended there.
        retell: returns a prompt in the inner drafter's tokens and its own chat template, or None if it cannot
            (`ChatPrompt.retold`); None for a drafter without one.
    """

    def __init__(
        self,
        inner: Drafter,
        own: Vocabulary,
        target: Vocabulary,
        *,
        vocab_limit: int | None = None,
        most_ahead: int = MOST_AHEAD,
        retell: Callable[[list[int]], list[int] | None] | None = None,
    ) -> None:
        self._inner = inner
        self._own = own
        self._target = target
        self._vocab_size = vocab_limit or target.size
        self._most_ahead = most_ahead
        self._translation = Translation(target, own, retell)
        self._sequence: list[int] = []
        self._begin([], 0)

    @property
    def name(self) -> str:
        """`cross:` and the inner drafter's name."""
        return f"cross:{self._inner.name}"

    @property
    def vocab_size(self) -> int:
        """Proposals lie in [0, vocab_size), ids of the target."""
        return self._vocab_size

    @property
    def context_length(self) -> int:
        """The inner drafter's, in its own tokens: the same text may have more or fewer of the target's."""
        return self._inner.context_length

    def propose(
        self,
        tokens: Sequence[int],
        sampling: Sampling = GREEDY,  # noqa: ARG002 -- the noise is for the target's ids
        position: int = 0,
    ) -> Proposal | None:
        """Return the target's token that begins the text with which the inner drafter continues `tokens`.

        Returns:
            The proposal, or None where the target has no token for that text.

        Raises:
            SequenceError: `tokens` is empty, holds a negative id, or is too long for the inner drafter.
            DrafterError: the inner drafter cannot go on.
        """
        sequence = list(tokens)
        check_sequence(sequence, self.name, UNLIMITED)  # how long it is for the inner drafter, only that knows
        self._turn_to(sequence, position)
        for _ in range(self._most_ahead):
            if self._over:
                break
            token, settled = self._target.next_token(self._tail(), self._left())
            if settled:
                return self._proposal(token)
            if not self._draft_on():
                break
        return self._last_proposal()

    # The drafted text ---------------------------------------------------------------------------------------------

    def _begin(self, sequence: list[int], output: int) -> None:
        """Begin a draft after `sequence`, of which so many tokens are output."""
        self._sequence = sequence
        self._base = len(sequence)
        self._ids = self._translation.ids(sequence, output)
        self._text = bytearray()
        self._steps: list[_Step] = []
        self._reached = [0]  # where in the drafted text the target's tokens after the base end, the base first
        self._stop: Proposal | None = None  # the special token that ends the drafted text
        self._over = False

    def _turn_to(self, sequence: list[int], output: int) -> None:
        """Go on with the draft if `sequence` is its beginning; else begin another."""
        kept = common_prefix(self._sequence, sequence)
        if kept < self._base or not self._base:
            self._begin(sequence, output)
            return
        del self._reached[kept - self._base + 1 :]
        for token in sequence[kept:]:
            piece = self._target.piece(token)
            if piece is None or not self._text.startswith(piece, self._reached[-1]):
                self._begin(sequence, output)
                return
            self._reached.append(self._reached[-1] + len(piece))
        self._sequence = sequence

    def _draft_on(self) -> bool:
        """Ask the inner drafter for one more token; False if it has none.

        Raises:
            SequenceError: the sequence is too long for it, and nothing is left of the draft.
            DrafterError: it cannot go on.
        """
        if not self._ids:  # nothing but special tokens that it does not know
            return False
        try:
            proposal = self._inner.propose(self._ids)
        except SequenceError:
            if self._left():
                return False
            raise
        piece = None
        if proposal is not None and proposal.token not in self._own.ends:
            piece = self._own.piece(proposal.token)
        if proposal is None or piece is None:
            self._stop, self._over = proposal, True
            return True
        self._steps.append(_Step(proposal, len(self._text)))
        self._text += piece
        self._ids.append(proposal.token)
        return True

    def _left(self) -> bytes:
        """Return the drafted text that the sequence does not have yet."""
        return bytes(self._text[self._reached[-1] :])

    def _tail(self) -> bytes:
        """Return the text of the sequence's last tokens, from the beginning of a character on."""
        pieces: list[bytes] = []
        for token in reversed(self._sequence[-_TAIL:]):
            piece = self._target.piece(token)
            if piece is None:
                return b"".join(reversed(pieces))
            pieces.append(piece)
        tail = b"".join(reversed(pieces))
        begins = next((at for at, byte in enumerate(tail) if not 0x80 <= byte < 0xC0), len(tail))
        return tail[begins:]

    # What is proposed ---------------------------------------------------------------------------------------------

    def _last_proposal(self) -> Proposal | None:
        """Propose what can be said without further text: the text has ended, or was long enough."""
        left = self._left()
        if left:
            return self._proposal(self._target.next_token(self._tail(), left, final=True).token)
        if self._stop is None:
            return None
        token = self._special(self._stop.token)
        if token is None or token >= self._vocab_size:
            return None
        return replace(self._stop, token=token, source=self.name)

    def _proposal(self, token: int | None) -> Proposal | None:
        piece = None if token is None else self._target.piece(token)
        if token is None or piece is None or token >= self._vocab_size:
            return None
        start = self._reached[-1]
        begin, end = (
            bisect_right(self._steps, at - 1, key=lambda step: step.start) for at in (start, start + len(piece))
        )
        used = [step.proposal for step in self._steps[begin:end]]
        covering = self._steps[begin if used else begin - 1]
        return replace(
            covering.proposal,
            token=token,
            source=self.name,
            confidence=prod(proposal.confidence for proposal in used),
            entropy=sum((proposal.entropy for proposal in used), 0.0),
            margin=min((proposal.margin for proposal in used), default=1.0),
        )

    def _special(self, token: int) -> int | None:
        """Return the target's token for a special one of the inner drafter; None if there is none."""
        content = self._own.specials.get(token)
        alike = None if content is None else self._target.special(content)
        if token in self._own.ends and alike not in self._target.ends:
            return self._target.ends[0] if self._target.ends else None
        return alike
