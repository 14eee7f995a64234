"""How often drafted tokens are accepted, learnt from verdicts.

A drafter's confidence is its own model's, and says of the target only what verdicts show: a small model may be sure
and wrong, a lookup unsure and right. So the confidences are sorted into bins, and per bin it is counted how often the
target agreed (histogram binning: Zadrozny and Elkan 2001), per source, which is a drafter's name and its weights,
and apart for greedy and sampled tokens.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from edge_agent.drafters.drafter import Proposal

EDGES: Final = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
"""Where a bin ends and the next begins; finer at both ends, where most confidences lie."""
_CENTRES: Final = tuple((low + high) / 2 for low, high in pairwise((0.0, *EDGES, 1.0)))
PRIOR_WEIGHT: Final = 4.0
"""A bin is believed to be right as often as its own confidence says, as if so many verdicts had said so."""
MEMORY: Final = 400.0
"""Verdicts that a bin remembers: texts change their kind."""
_ANY: Final = 0.5
"""Chance of a token of whatever confidence, before anything is known."""

Row = tuple[str, bool, bytes]
"""What is kept of one source: its `Proposal.learner`, whether its tokens were sampled, and its counts."""


class Share(Struct, array_like=True):
    """How many of the latest tries were hits.

    Attributes:
        hits: 0 to `tries`.
        tries: up to `MEMORY`, older ones faded in proportion.

    Raises:
        ValueError: the counts are none.
    """

    hits: float = 0.0
    tries: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.hits <= self.tries < math.inf:
            raise ValueError(f"{self.hits} hits of {self.tries} tries cannot be")

    def add(self, *, hit: bool) -> None:
        """Count one more."""
        fade = min(1.0, MEMORY / (self.tries + 1))
        self.hits, self.tries = (self.hits + hit) * fade, (self.tries + 1) * fade

    def chance(self, prior: float) -> float:
        """Return the mean of the Beta posterior, strictly between 0 and 1 if `prior` is."""
        return (self.hits + prior * PRIOR_WEIGHT) / (self.tries + PRIOR_WEIGHT)


class _Record(Struct, array_like=True):
    """What is known of one source.

    Attributes:
        bins: one share per bin of confidence, lowest first.
        all: the share of all its tokens.

    Raises:
        ValueError: the bins are not ours.
    """

    bins: list[Share]
    all: Share

    def __post_init__(self) -> None:
        if len(self.bins) != len(_CENTRES):
            raise ValueError(f"there are {len(self.bins)} bins instead of {len(_CENTRES)}")


_Key = tuple[str, bool]


class Calibration:
    """Turns confidences into the chances that the target agrees."""

    def __init__(self) -> None:
        self._records: dict[_Key, _Record] = {}
        self._unkept: set[_Key] = set()

    def chance(self, proposal: Proposal) -> float:
        """Return the chance that a proposal is accepted if all before it are: above 0 and below 1."""
        number = _bin(proposal.confidence)
        record = self._records.get((proposal.learner, proposal.sampled))
        return (record.bins[number] if record else Share()).chance(_CENTRES[number])

    def mean(self, learner: str, *, sampled: bool) -> float:
        """Return the chance that the next token of a `learner` is accepted, whatever its confidence will be."""
        record = self._records.get((learner, sampled))
        return (record.all if record else Share()).chance(_ANY)

    def learn(self, proposals: Sequence[Proposal], accepted: int) -> None:
        """Take in a verdict: the first `accepted` were right, the one behind them was not, the rest was not judged."""
        for number, proposal in enumerate(proposals[: accepted + 1]):
            key = (proposal.learner, proposal.sampled)
            record = self._records.setdefault(key, _new_record())
            hit = number < accepted
            record.bins[_bin(proposal.confidence)].add(hit=hit)
            record.all.add(hit=hit)
            self._unkept.add(key)

    def unkept(self) -> list[Row]:
        """Return what has changed since this was last asked."""
        rows = [(name, sampled, msgspec.msgpack.encode(self._records[name, sampled])) for name, sampled in self._unkept]
        self._unkept.clear()
        return rows

    def load(self, rows: Iterable[Sequence[object]]) -> list[str]:
        """Take in what was kept, and return a sentence for every row that is damaged and was left out.

        Args:
            rows: as `unkept` gave them, or whatever a disk has made of them.
        """
        complaints: list[str] = []
        for row in rows:
            try:
                name, sampled, body = msgspec.convert(row, tuple[str, bool, bytes], strict=False)
                self._records[name, sampled] = msgspec.msgpack.decode(body, type=_Record)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                name = repr(_source(row[0])) if row else "a drafter"
                complaints.append(f"what was learnt of {name} is damaged and is learnt anew ({error})")
        return complaints


def _source(learner: object) -> object:
    """Return what a person knows a `Proposal.learner` by."""
    if not isinstance(learner, str):
        return learner
    source, _, weights = learner.rpartition("@")
    return source or weights


def _new_record() -> _Record:
    return _Record([Share() for _ in _CENTRES], Share())


def _bin(confidence: float) -> int:
    """Return the number of the bin; a confidence that is not a number is none."""
    return 0 if math.isnan(confidence) else bisect_right(EDGES, confidence)
