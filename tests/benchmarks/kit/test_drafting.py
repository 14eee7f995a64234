"""Differences of a device's metrics."""

from __future__ import annotations

from benchmarks.kit.drafting import Drafting


def test_drafting_is_what_was_added() -> None:
    before = {"sled_agent_draft_token_seconds_count": 10.0, "sled_agent_draft_token_seconds_sum": 1.0}
    after = {
        "sled_agent_draft_token_seconds_count": 30.0,
        "sled_agent_draft_token_seconds_sum": 1.1,
        "sled_agent_round_seconds_count": 4.0,
        "sled_agent_round_seconds_sum": 0.2,
    }
    found = Drafting.between(before, after)
    assert (found.computed, found.mean_ms_per_draft_token, found.mean_ms_per_round) == (20, 5.0, 50.0)
    assert Drafting.between(after, after) == Drafting(computed=0, mean_ms_per_draft_token=0, mean_ms_per_round=0)
