"""What sessions count."""

from __future__ import annotations

from msgspec import Struct


class Tally(Struct):
    """Counts of one session, or of many added up.

    Attributes:
        rounds: verdicts that committed something.
        drafted: draft tokens that those judged.
        accepted: of those, accepted.
        committed: output tokens that verdicts added to the log.
        generated: of those, tokens of runs, which the verifier wrote by itself.
        resends: bundles sent again.
        resyncs: contexts published again because a verifier asked.
        outages: times the session fell into an outage.
        ignored: messages that were late, stale or repeated.
        fallbacks: outages that lasted so long that drafts were released or shown.
        released: draft tokens made final without the target's word.
        revised: draft tokens shown and taken back.
    """

    rounds: int = 0
    drafted: int = 0
    accepted: int = 0
    committed: int = 0
    generated: int = 0
    resends: int = 0
    resyncs: int = 0
    outages: int = 0
    ignored: int = 0
    fallbacks: int = 0
    released: int = 0
    revised: int = 0

    def __add__(self, other: Tally) -> Tally:
        """Return both added up, count by count."""
        return Tally(*(getattr(self, name) + getattr(other, name) for name in self.__struct_fields__))
