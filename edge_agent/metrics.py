"""What an agent counts, for Prometheus.

Counters come from the sessions' own tallies at the moment of scraping, so that nothing is counted twice. Names follow
Prometheus' conventions: base units, `_total` for counters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client.metrics_core import Metric

    from edge_agent.outage import OutageRules
    from edge_agent.tally import Tally

_DRAFT_SECONDS = (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
_ROUND_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Counted(Protocol):
    """What is read of an agent at scrape time.

    Attributes:
        outage: what it does when the verifier does not answer.
    """

    outage: OutageRules

    def tally(self) -> Tally:
        """Return the counts of all its sessions so far."""
        ...

    @property
    def queued(self) -> int:
        """Requests that wait or are under way."""
        ...

    @property
    def link_up(self) -> bool:
        """Whether the broker is connected."""
        ...

    @property
    def dropped(self) -> int:
        """Incoming messages dropped because the loop could not keep up."""
        ...


class AgentMetrics:
    """The registry of one agent.

    Attributes:
        registry: serve this, for example with `prometheus_client.start_http_server`.
        draft_token_seconds: one draft token.
        round_seconds: from a bundle to its verdict, resent rounds left out.
        moves: requests that left a verifier for another, by the reason (`edge_agent.placement.Reason`).
        crossings: texts that went on at a verifier with other numerics than the one before.
        requests: requests ended, by outcome (`stop`, `length`, `cancelled`, or the code of an error).
    """

    def __init__(self, agent: Counted) -> None:
        """Set up a registry that reads `agent` when it is scraped."""
        self.registry = CollectorRegistry()
        self.draft_token_seconds = self._histogram("draft_token_seconds", "Drafting one token.", _DRAFT_SECONDS)
        self.round_seconds = self._histogram("round_seconds", "From a bundle to its verdict.", _ROUND_SECONDS)
        self.requests = Counter("sled_agent_requests", "Requests ended.", ["outcome"], registry=self.registry)
        self.moves = Counter(
            "sled_agent_moves", "Requests that left a verifier for another.", ["reason"], registry=self.registry
        )
        self.crossings = Counter(
            "sled_agent_crossings",
            "Texts that went on at a verifier with other numerics than the one before.",
            registry=self.registry,
        )
        self.registry.register(_Counts(agent))

    def _histogram(self, name: str, what: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"sled_agent_{name}", what, buckets=buckets, registry=self.registry)


class _Counts(Collector):
    """Reads what is counted elsewhere, at scrape time. Reading an int of another thread is safe."""

    def __init__(self, agent: Counted) -> None:
        self._agent = agent

    def collect(self) -> Iterable[Metric]:
        """Yield every sample as it stands."""
        tally = self._agent.tally()
        counters = {
            "rounds": (tally.rounds, "Verdicts that committed something."),
            "drafted_tokens": (tally.drafted, "Draft tokens that verdicts judged."),
            "accepted_tokens": (tally.accepted, "Draft tokens accepted."),
            "committed_tokens": (tally.committed, "Output tokens that verdicts committed."),
            "generated_tokens": (tally.generated, "Of those, tokens of runs, written by the verifier alone."),
            "retries": (tally.resends, "Bundles sent again."),
            "resyncs": (tally.resyncs, "Contexts published again because a verifier asked."),
            "outages": (tally.outages, "Times a session had no link, no verifier or no answers."),
            "released_tokens": (tally.released, "Draft tokens made final without the target's word."),
            "revised_tokens": (tally.revised, "Draft tokens shown and taken back."),
            "ignored_messages": (tally.ignored, "Verdicts and other messages that were late, stale or repeated."),
            "dropped_messages": (self._agent.dropped, "Messages dropped because too many waited."),
        }
        gauges = {
            "queue_requests": (self._agent.queued, "Requests that wait or are under way."),
            "link_up": (int(self._agent.link_up), "1 while the broker is connected."),
        }
        for name, (value, what) in counters.items():
            yield CounterMetricFamily(f"sled_agent_{name}", what, value=value)
        fallbacks = CounterMetricFamily(
            "sled_agent_fallbacks", "Outages that lasted until drafts were released or shown.", labels=["mode"]
        )
        fallbacks.add_metric([self._agent.outage.mode.value], tally.fallbacks)
        yield fallbacks
        for name, (value, what) in gauges.items():
            yield GaugeMetricFamily(f"sled_agent_{name}", what, value=value)
