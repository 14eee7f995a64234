"""What a device's own metrics say of its drafting, between two readings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from sled.rounds import ratio

if TYPE_CHECKING:
    from sled.scrape import Samples


class Drafting(msgspec.Struct, frozen=True, kw_only=True):
    """How long draft tokens and rounds took.

    Attributes:
        computed: tokens drafted, whether sent or not.
        mean_ms_per_draft_token: the first token of each answer, for which the prompt is read, included.
        mean_ms_per_round: from a bundle to its verdict; rounds sent again are left out.
    """

    computed: int
    mean_ms_per_draft_token: float
    mean_ms_per_round: float

    @classmethod
    def between(cls, before: Samples, after: Samples) -> Drafting:
        """Return what was added between two readings."""

        def added(name: str) -> float:
            return after.get(f"sled_agent_{name}", 0.0) - before.get(f"sled_agent_{name}", 0.0)

        tokens, rounds = added("draft_token_seconds_count"), added("round_seconds_count")
        return cls(
            computed=round(tokens),
            mean_ms_per_draft_token=ratio(1e3 * added("draft_token_seconds_sum"), tokens),
            mean_ms_per_round=ratio(1e3 * added("round_seconds_sum"), rounds),
        )
