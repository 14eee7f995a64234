"""What a scrape of an agent says of outages."""

from __future__ import annotations

from prometheus_client import generate_latest

from edge_agent.metrics import AgentMetrics
from edge_agent.outage import OutageMode, OutageRules
from edge_agent.tally import Tally


class Counted:
    """An agent with some counts."""

    queued = 0
    link_up = True
    dropped = 0

    def __init__(self, mode: OutageMode, tally: Tally) -> None:
        self.outage = OutageRules(mode)
        self._tally = tally

    def tally(self) -> Tally:
        return self._tally


def scraped(mode: OutageMode, tally: Tally) -> list[str]:
    return generate_latest(AgentMetrics(Counted(mode, tally)).registry).decode().splitlines()


def test_outages_are_counted_by_what_was_done_in_them() -> None:
    lines = scraped(OutageMode.RELEASE, Tally(outages=5, fallbacks=2, released=30))
    assert "sled_agent_outages_total 5.0" in lines
    assert 'sled_agent_fallbacks_total{mode="release"} 2.0' in lines
    assert "sled_agent_released_tokens_total 30.0" in lines
    assert "sled_agent_revised_tokens_total 0.0" in lines


def test_tokens_taken_back_are_counted() -> None:
    lines = scraped(OutageMode.REVISE, Tally(fallbacks=1, revised=7))
    assert 'sled_agent_fallbacks_total{mode="revise"} 1.0' in lines
    assert "sled_agent_revised_tokens_total 7.0" in lines


def test_tallies_add_up_count_by_count() -> None:
    one = Tally(*range(1, len(Tally.__struct_fields__) + 1))
    assert one + Tally() == one
    assert one + one == Tally(*(2 * value for value in range(1, len(Tally.__struct_fields__) + 1)))
