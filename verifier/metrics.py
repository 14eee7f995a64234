"""What a verifier counts, for Prometheus.

Counters come from the ledger's and the engine's own counts at the moment of scraping, so that nothing is counted
twice; only distributions are observed as they happen. Names follow Prometheus' conventions: base units, `_total` for
counters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from prometheus_client.metrics_core import Metric

    from verifier.engine.engine import Engine
    from verifier.ledger import Ledger

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class VerifierMetrics:
    """The registry of one verifier.

    Attributes:
        registry: serve this, for example with `prometheus_client.start_http_server`.
        step_seconds: one step of the engine.
        step_tokens: tokens fed in a step, padding included.
        step_sessions: sessions in a step: the batch size.
        queue_seconds: from a bundle's receipt to the start of the step that answers it.
        refusals: sessions and bundles refused, by code.
        resyncs: contexts asked for again, by reason.
    """

    def __init__(self, ledger: Ledger, engine: Engine, dropped: Callable[[], int]) -> None:
        """Set up a registry.

        Args:
            ledger: whose tally and sizes are told.
            engine: whose KV memory is told.
            dropped: how many incoming messages were dropped because the loop could not keep up.
        """
        self.registry = CollectorRegistry()
        self.step_seconds = self._histogram("step_seconds", "Duration of a step of the target.", _SECONDS)
        self.step_tokens = self._histogram("step_tokens", "Tokens fed to the target in a step.", _COUNTS)
        self.step_sessions = self._histogram("step_sessions", "Sessions in a step: the batch size.", _COUNTS)
        self.queue_seconds = self._histogram(
            "queue_seconds", "From a bundle's receipt to the start of its step.", _SECONDS
        )
        self.refusals = Counter(
            "sled_verifier_refusals", "Sessions and bundles refused.", ["code"], registry=self.registry
        )
        self.resyncs = Counter("sled_verifier_resyncs", "Contexts asked for again.", ["reason"], registry=self.registry)
        self.registry.register(_Counts(ledger, engine, dropped))

    def _histogram(self, name: str, what: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"sled_verifier_{name}", what, buckets=buckets, registry=self.registry)


class _Counts(Collector):
    """Reads what is counted elsewhere, at scrape time. Reading an int of another thread is safe."""

    def __init__(self, ledger: Ledger, engine: Engine, dropped: Callable[[], int]) -> None:
        self._ledger = ledger
        self._engine = engine
        self._dropped = dropped

    def collect(self) -> Iterable[Metric]:
        """Yield every sample as it stands."""
        tally, engine = self._ledger.tally, self._engine
        counters = {
            "rounds": (tally.rounds, "Rounds the target was run for."),
            "drafted_tokens": (tally.drafted, "Draft tokens judged."),
            "accepted_tokens": (tally.accepted, "Draft tokens accepted."),
            "committed_tokens": (tally.committed, "Tokens committed, of drafts, corrections, bonuses and runs."),
            "generated_tokens": (tally.generated, "Of those, tokens of runs, written without a draft."),
            "kv_evictions": (engine.evictions, "Sessions whose keys and values made room for others."),
            "dropped_messages": (self._dropped(), "Messages dropped because too many waited."),
        }
        gauges = {
            "sessions": (len(self._ledger), "Sessions served, or read ahead, now."),
            "queue_bundles": (self._ledger.queued, "Bundles that wait for a step."),
            "kv_used_bytes": (engine.used_bytes, "Memory that keys and values take."),
            "kv_budget_bytes": (engine.budget_bytes, "Memory that keys and values may take."),
        }
        for name, (value, what) in counters.items():
            yield CounterMetricFamily(f"sled_verifier_{name}", what, value=value)
        for name, (value, what) in gauges.items():
            yield GaugeMetricFamily(f"sled_verifier_{name}", what, value=value)
