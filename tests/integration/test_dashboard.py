"""The Grafana dashboard asks only for what the roles export."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import CollectorRegistry

    from tests.integration.fleet import Fleet

DASHBOARD = Path(__file__).parents[2] / "docs" / "grafana" / "sled.json"
NAME = re.compile(r"\bsled_(?:agent|verifier)_\w+")
KNOWN_VARIABLES = {"datasource", "verifier", "device", "__rate_interval"}


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return loaded


def expressions(dashboard: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Every query with the title of its panel."""
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for variable in dashboard["templating"]["list"]:
        yield variable["name"], variable["definition"] if variable["type"] == "query" else ""


def exported(registry: CollectorRegistry) -> set[str]:
    """Names as they are queried; a family with labels has no sample before something is counted."""
    names = set()
    for family in registry.collect():
        endings = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        names |= {family.name + ending for ending in endings}
    return names


@pytest.mark.parametrize("engine", ["embedded"], indirect=True)
def test_every_metric_is_exported_and_every_exported_one_is_shown(fleet: Fleet, dashboard: dict[str, Any]) -> None:
    available = exported(fleet.verifier().metrics.registry) | exported(fleet.agent().metrics.registry)
    asked = {name: title for title, expression in expressions(dashboard) for name in NAME.findall(expression)}
    assert {name: title for name, title in asked.items() if name not in available} == {}
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked}
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in available} - shown == set()


def test_panels_are_well_formed(dashboard: dict[str, Any]) -> None:
    """Brackets match, variables exist, ids differ, and no panel covers another."""
    ids = Counter(panel["id"] for panel in dashboard["panels"])
    assert set(ids.values()) == {1}
    cells: Counter[tuple[int, int]] = Counter()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells.update(
            (place["x"] + column, place["y"] + line) for column in range(place["w"]) for line in range(place["h"])
        )
    assert max(cells.values()) == 1
    for title, expression in expressions(dashboard):
        for opening, closing in ("()", "{}", "[]"):
            assert expression.count(opening) == expression.count(closing), title
        assert set(re.findall(r"\$(\w+)", expression)) <= KNOWN_VARIABLES, title


def test_everything_can_be_narrowed_to_an_instance(dashboard: dict[str, Any]) -> None:
    for title, expression in expressions(dashboard):
        if expression and not expression.startswith("label_values"):
            for name, selector in re.findall(r"(sled_(?:agent|verifier)_\w+)(\{[^}]*\})?", expression):
                variable = "$verifier" if name.startswith("sled_verifier") else "$device"
                assert f'instance=~"{variable}"' in selector, title
