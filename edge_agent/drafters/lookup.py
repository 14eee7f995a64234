"""A drafter without a model: what followed these tokens the last time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from edge_agent.drafters.drafter import Proposal
from edge_agent.drafters.sequence import check_sequence, common_prefix
from schemas.messages import GREEDY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from schemas.messages import Sampling

LONGEST_MATCH: Final = 4
"""Tokens that the longest match has, unless told otherwise."""
SHORTEST_MATCH: Final = 2
UNLIMITED: Final = 1 << 30
"""No model, no limit of its own."""

_FIRST_GUESS: Final = {1: 0.2, 2: 0.45, 3: 0.5}
"""How often a match of so many tokens is right before anything was observed (measured on 20 answers of
SmolLM2-135M-Instruct to mixed prompts, its own drafts included) …"""
_FIRST_GUESS_LONGER: Final = 0.7
_FIRST_GUESS_WEIGHT: Final = 8.0
"""… counting for as much as so many observations."""
_MEMORY: Final = 64.0
"""Observations after which older ones count half: texts change their kind."""


class PromptLookup:
    """Proposes the token that followed the most recent earlier occurrence of the sequence's last tokens.

    Good where the answer repeats the prompt or itself: summaries, code, translations with names, corrections. The
    longest match wins, then the most recent. A proposal costs microseconds: every n-gram of the sequence is kept in an
    index that is extended and rolled back with the sequence.

    The confidence is how often matches of that length were right lately (`_HitRates`). Nothing else is known of the
    distribution; entropy and margin suppose that each further candidate has the same chance among those left as the
    first has among all (geometric): entropy = (-p ln p - (1-p) ln(1-p)) / p, margin = p².

    Args:
        longest: tokens of the longest match, at least `shortest`.
        shortest: tokens of the shortest match, at least 1.
        vocab_limit: token ids at and above it are never proposed.

    Raises:
        ValueError: `shortest` is below 1, or `longest` below `shortest`.
    """

    def __init__(
        self, *, longest: int = LONGEST_MATCH, shortest: int = SHORTEST_MATCH, vocab_limit: int | None = None
    ) -> None:
        if not 1 <= shortest <= longest:
            raise ValueError(
                f"Prompt lookup needs matches of 1 token or more, the longest not below the shortest; "
                f"{shortest} to {longest} was given."
            )
        self._lengths = range(longest, shortest - 1, -1)
        self._vocab_size = vocab_limit or UNLIMITED
        self._tokens: list[int] = []
        self._ends: dict[tuple[int, ...], list[int]] = {}  # n-gram -> where its occurrences end, in order
        self._rates = _HitRates()

    @property
    def name(self) -> str:
        """Always `lookup`."""
        return "lookup"

    @property
    def vocab_size(self) -> int:
        """Proposals lie in [0, vocab_size)."""
        return self._vocab_size

    @property
    def context_length(self) -> int:
        """No limit of its own."""
        return UNLIMITED

    def propose(self, tokens: Sequence[int], sampling: Sampling = GREEDY, position: int = 0) -> Proposal | None:  # noqa: ARG002 -- there is nothing to sample from
        """Return what followed the same tokens earlier in `tokens`, or None if they are new.

        Raises:
            SequenceError: `tokens` is empty or holds a negative id.
        """
        sequence = list(tokens)
        check_sequence(sequence, self.name, self.context_length)
        self._follow(sequence)
        match = self._longest_match()
        if match is None:
            return None
        length, token = match
        if token >= self._vocab_size:
            return None
        self._rates.expect(len(sequence), length, token)
        return _proposal(token, self._rates.rate(length), self.name)

    def _longest_match(self) -> tuple[int, int] | None:
        """Return the length of the longest match and the token that followed its most recent occurrence."""
        here = len(self._tokens)
        for length in self._lengths:
            if length >= here:
                continue
            ends = self._ends[tuple(self._tokens[here - length :])]
            if len(ends) > 1:  # the last one is the end of the sequence itself
                return length, self._tokens[ends[-2]]
        return None

    def _follow(self, sequence: list[int]) -> None:
        """Bring the index from the sequence held to this one."""
        kept = common_prefix(self._tokens, sequence)
        if kept < len(self._tokens):
            self._rates.observe(kept, sequence)
        if 2 * kept < len(self._tokens):  # rather begin anew than take most of it back
            self._tokens.clear()
            self._ends.clear()
            kept = 0
        while len(self._tokens) > kept:
            for gram in self._grams():
                ends = self._ends[gram]
                ends.pop()
                if not ends:
                    del self._ends[gram]
            self._tokens.pop()
        for token in sequence[kept:]:
            self._tokens.append(token)
            for gram in self._grams():
                self._ends.setdefault(gram, []).append(len(self._tokens))

    def _grams(self) -> list[tuple[int, ...]]:
        """Return the n-grams that end where the sequence ends."""
        here = len(self._tokens)
        return [tuple(self._tokens[here - length :]) for length in self._lengths if length <= here]


class _HitRates:
    """How often matches of each length were right, learnt from what later sequences show.

    A token appended to a sequence may be a draft, our own or another drafter's, so it shows nothing. A token that
    *replaces* another one was put there by a verdict, and a verdict covers everything before it.
    """

    def __init__(self) -> None:
        self._expected: dict[int, tuple[int, int]] = {}  # position in the sequence -> match length, token
        self._tries: dict[int, float] = {}
        self._hits: dict[int, float] = {}

    def expect(self, position: int, length: int, token: int) -> None:
        """Note a proposal: `token` at `position`, by a match of `length` tokens."""
        self._expected[position] = (length, token)

    def rate(self, length: int) -> float:
        """Return the smoothed share of right proposals, strictly between 0 and 1."""
        first = _FIRST_GUESS.get(length, _FIRST_GUESS_LONGER)
        hits = self._hits.get(length, 0.0) + first * _FIRST_GUESS_WEIGHT
        return hits / (self._tries.get(length, 0.0) + _FIRST_GUESS_WEIGHT)

    def observe(self, kept: int, sequence: list[int]) -> None:
        """Learn from a rollback to `kept` tokens, of which `sequence` is what came then."""
        for position, (length, token) in self._expected.items():
            if position <= kept and position < len(sequence):
                self._count(length, right=sequence[position] == token)
        self._expected.clear()

    def _count(self, length: int, *, right: bool) -> None:
        if self._tries.get(length, 0.0) >= _MEMORY:
            self._tries[length] /= 2
            self._hits[length] /= 2
        self._tries[length] = self._tries.get(length, 0.0) + 1
        self._hits[length] = self._hits.get(length, 0.0) + right


def _proposal(token: int, chance: float, source: str) -> Proposal:
    doubt = 1 - chance
    entropy = -(chance * math.log(chance) + doubt * math.log(doubt)) / chance
    return Proposal(token, chance, entropy, chance * chance, source)
