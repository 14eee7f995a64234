"""What the roles count over a real broker is what happened, under names by Prometheus' conventions."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from schemas.messages import Ask, ErrorEvent
from sled.processes import Processes
from sled.scrape import scrape
from tests.integration.fleet import Fleet, answer, last

if TYPE_CHECKING:
    from pathlib import Path

    from edge_agent.service import Agent

UNITS = ("_seconds", "_bytes", "_total", "_tokens", "_sessions", "_bundles", "_requests", "_up", "_created")


def samples(registry: CollectorRegistry) -> dict[str, float]:
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
        if not sample.labels
    }


def test_counts_are_what_happened(fleet: Fleet) -> None:
    verifier, agent = fleet.verifier(), fleet.agent()
    with fleet.client() as client:
        done = [answer(client, "pi", Ask(prompt=prompt, max_tokens=30))[1].statistics for prompt in ("abc", "def")]
        event = last(client, "pi", Ask(prompt="x" * 700))
    assert isinstance(event, ErrorEvent)
    _wait_until_idle(agent)
    of_agent, of_verifier = samples(agent.metrics.registry), samples(verifier.metrics.registry)
    for name, expected in {
        "rounds": sum(s.rounds for s in done),
        "committed_tokens": sum(s.tokens for s in done),
        "drafted_tokens": sum(s.drafted for s in done),
        "accepted_tokens": sum(s.accepted for s in done),
        "retries": sum(s.resends for s in done),
    }.items():
        assert of_agent[f"sled_agent_{name}_total"] == expected, name
    assert of_agent["sled_agent_link_up"] == 1
    assert of_agent["sled_agent_queue_requests"] == 0
    assert of_agent["sled_agent_draft_token_seconds_count"] >= sum(s.drafted for s in done)
    assert of_agent["sled_agent_round_seconds_count"] >= 1
    assert of_verifier["sled_verifier_committed_tokens_total"] == sum(s.tokens for s in done)
    assert of_verifier["sled_verifier_step_seconds_count"] == of_verifier["sled_verifier_step_sessions_count"] > 0
    assert of_verifier["sled_verifier_kv_budget_bytes"] > of_verifier["sled_verifier_kv_used_bytes"] >= 0
    outcomes = {
        sample.labels["outcome"]: sample.value
        for family in agent.metrics.registry.collect()
        for sample in family.samples
        if sample.name == "sled_agent_requests_total"
    }
    assert sum(outcomes.values()) == 3
    assert outcomes["prompt_too_long"] == 1


def _wait_until_idle(agent: Agent) -> None:
    """An app hears of the end of its request just before the agent counts it."""
    give_up = time.monotonic() + 10
    while agent.queued:
        assert time.monotonic() < give_up, "the last request must be retired"
        time.sleep(0.01)


def test_names_follow_the_conventions(fleet: Fleet) -> None:
    for role, registry in (
        ("agent", fleet.agent().metrics.registry),
        ("verifier", fleet.verifier().metrics.registry),
    ):
        for family in registry.collect():
            assert re.fullmatch(rf"sled_{role}_[a-z_]+", family.name)
            assert family.documentation.endswith(".")
            assert family.type != "unknown"
            for sample in family.samples:
                base = re.sub(r"_(count|sum|bucket)$", "", sample.name)
                assert base.endswith(UNITS), sample.name


@pytest.mark.parametrize("engine", ["embedded"], indirect=True)
def test_endpoint_is_served(broker: object, tiny_drafter: Path, tmp_path: Path) -> None:
    """A role serves its metrics while it runs, and says where."""
    from broker.port import claim

    port = claim("127.0.0.1", 0)
    with Processes(tmp_path) as processes:
        agent = processes.start(
            "agent", "agent", "pi", "--broker", f"127.0.0.1:{broker.port}", "--drafter", str(tiny_drafter),  # type: ignore[attr-defined]
            "--spool", str(tmp_path / "spool.db"), "--metrics", f"127.0.0.1:{port}",
        )  # fmt: skip
        while f"http://127.0.0.1:{port}/metrics" not in agent.log.read_text():
            agent.check()
        assert "sled_agent_rounds_total" in scrape(f"http://127.0.0.1:{port}/metrics")
        other = processes.start(
            "other", "agent", "other", "--broker", f"127.0.0.1:{broker.port}", "--drafter", str(tiny_drafter),  # type: ignore[attr-defined]
            "--spool", str(tmp_path / "other.db"), "--metrics", f"127.0.0.1:{port}",
        )  # fmt: skip
        assert other.wait() == 1
        assert f"metrics cannot be served at '127.0.0.1:{port}'" in other.log.read_text()
        agent.check()
