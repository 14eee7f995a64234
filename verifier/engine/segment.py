"""One session's share of a step, and the checks every engine makes before it changes anything."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from schemas.messages import GREEDY, Sampling
from verifier.engine.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Tokens: TypeAlias = npt.NDArray[np.int32]
"""Token ids of one session, shape [length]."""


@dataclass(frozen=True, slots=True)
class Segment:
    """What one session should hold after a step, and where tokens are wanted.

    Attributes:
        session: 8-byte session id.
        tokens: the whole sequence (prompt, log and draft; cut short for a prefill chunk). The engine finds out
            itself which prefix it has already computed.
        choose: at how many of the last positions the next token is chosen; 0 for a prefill chunk.
        sampling: how they are chosen.
        position: output position, from 0, of the first token chosen; the sampling noise depends on it.
    """

    session: bytes
    tokens: Sequence[int]
    choose: int
    sampling: Sampling = GREEDY
    position: int = 0


@dataclass(frozen=True, slots=True)
class Job:
    """A checked segment: its tokens as an own array, and how many of them need no computing.

    Attributes:
        session: 8-byte session id.
        tokens: [length], a copy nobody else can change.
        choose: at how many of the last positions the next token is chosen.
        keep: how many leading tokens are already held and stay.
        sampling: how tokens are chosen.
        position: output position of the first token chosen.
    """

    session: bytes
    tokens: Tokens
    choose: int
    keep: int
    sampling: Sampling = GREEDY
    position: int = 0

    @property
    def fed(self) -> int:
        """How many tokens the step feeds for this session."""
        return len(self.tokens) - self.keep


def as_tokens(session: bytes, tokens: Sequence[int]) -> Tokens:
    """Return `tokens` as an int32 array of its own.

    Raises:
        EngineError: a token does not fit 32 bits.
    """
    try:
        # `array` converts a list about twice as fast as numpy does.
        return np.frombuffer(array("i", tokens), dtype=np.int32)
    except (OverflowError, TypeError) as error:
        raise EngineError(
            f"Session {session.hex()} names a token that is no 32-bit integer ({error}).", session=session
        ) from error


def kept(held: Tokens, tokens: Tokens, choose: int) -> int:
    """Return how many leading `tokens` need no computing: those held alike, short of the last `choose`.

    Logits are not cached, so a position whose token is to be chosen is always fed again.
    """
    size = min(len(held), len(tokens) - choose)
    if size <= 0:
        return 0
    differs = held[:size] != tokens[:size]
    first = int(differs.argmax())
    return first if differs[first] else size


def check_segments(
    segments: Sequence[Segment], held: Callable[[bytes], Tokens], vocab_size: int, context_length: int
) -> list[Job]:
    """Check every segment and return the jobs in the same order; changes nothing.

    Args:
        segments: what the step should do.
        held: the token ids held for a session, empty if none.
        vocab_size: token ids must lie in [0, vocab_size).
        context_length: the longest sequence, in tokens.

    Raises:
        ValueError: a session appears twice, or `choose` lies outside [0, number of tokens].
        EngineError: a token out of vocabulary or a sequence beyond the context; names the session.
    """
    jobs: list[Job] = []
    seen: set[bytes] = set()
    for segment in segments:
        session = segment.session
        if session in seen:
            raise ValueError(f"Session {session.hex()} appears twice in one step; it would write the same rows twice.")
        seen.add(session)
        length = len(segment.tokens)
        if not 0 <= segment.choose <= length:
            raise ValueError(f"Session {session.hex()} asks for {segment.choose} tokens on a sequence of {length}.")
        if length > context_length:
            raise EngineError(
                f"Session {session.hex()} holds {length} tokens, but the target's context ends at {context_length}; "
                "finish it or cut its prompt.",
                session=session,
            )
        tokens = as_tokens(session, segment.tokens)
        keep = kept(held(session), tokens, segment.choose)
        fed = tokens[keep:]
        # The kept prefix equals ids that were checked when they were fed.
        if len(fed) and (fed.min() < 0 or fed.max() >= vocab_size):
            wrong = int(fed[(fed < 0) | (fed >= vocab_size)][0])
            raise EngineError(
                f"Session {session.hex()} names token {wrong}, but the target's vocabulary has {vocab_size} ids "
                f"(0 to {vocab_size - 1}); is it tokenised for another model?",
                session=session,
            )
        jobs.append(Job(session, tokens, segment.choose, keep, segment.sampling, segment.position))
    return jobs
