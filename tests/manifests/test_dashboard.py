"""The Grafana dashboard: what its panels ask for is served, and it is a dashboard."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.manifests import dashboard, promql

BOARD: dict[str, Any] = json.loads(dashboard.FILE.read_text("utf-8"))
PANELS: list[dict[str, Any]] = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
QUERIES = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]
VARIABLES = {"$__rate_interval": "5m", "$cluster": ".*"}

GRID = {
    "type": "object",
    "required": ["h", "w", "x", "y"],
    "additionalProperties": False,
    "properties": {
        "h": {"type": "integer", "minimum": 1},
        "w": {"type": "integer", "minimum": 1, "maximum": 24},
        "x": {"type": "integer", "minimum": 0, "maximum": 23},
        "y": {"type": "integer", "minimum": 0},
    },
}
SOURCE = {"const": {"type": "prometheus", "uid": "${datasource}"}}
TARGET = {
    "type": "object",
    "required": ["refId", "expr", "datasource", "legendFormat"],
    "properties": {"refId": {"pattern": "^[A-Z]$"}, "expr": {"minLength": 1}, "datasource": SOURCE},
}
SCHEMA = {
    "type": "object",
    "required": ["uid", "title", "schemaVersion", "panels", "templating", "time", "refresh"],
    "properties": {
        "uid": {"pattern": "^[-_a-zA-Z0-9]{1,40}$"},
        "id": False,
        "schemaVersion": {"type": "integer", "minimum": 36},
        "panels": {
            "items": {
                "type": "object",
                "required": ["id", "type", "title", "gridPos"],
                "properties": {
                    "id": {"type": "integer", "minimum": 1},
                    "type": {"enum": ["row", "stat", "timeseries", "state-timeline"]},
                    "gridPos": GRID,
                    "targets": {"type": "array", "minItems": 1, "items": TARGET},
                    "datasource": SOURCE,
                },
            }
        },
    },
}
"""What Grafana needs of the kinds of panels that are used (its document of the dashboard's JSON model)."""


def test_the_file_is_that_of_the_panels() -> None:
    assert dashboard.FILE.read_text("utf-8") == dashboard.dashboard(), "python -m tests.manifests.dashboard"


def test_it_is_a_dashboard() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    jsonschema.validate(BOARD, SCHEMA)
    numbers = [panel["id"] for panel in BOARD["panels"]]

    assert len(PANELS) >= 20
    assert len(set(numbers)) == len(numbers)
    assert all(panel["targets"] for panel in PANELS)


def test_no_panel_lies_on_another_or_past_the_edge() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in BOARD["panels"]:
        grid = panel["gridPos"]
        assert grid["x"] + grid["w"] <= 24, panel["title"]
        for cell in itertools.product(
            range(grid["x"], grid["x"] + grid["w"]), range(grid["y"], grid["y"] + grid["h"])
        ):
            assert cell not in taken, (panel["title"], taken.get(cell))
            taken[cell] = panel["title"]


@pytest.mark.parametrize(("title", "query"), QUERIES)
def test_a_panel_asks_for_metrics_and_labels_that_there_are(title: str, query: str) -> None:
    (panel,) = [each for each in PANELS if each["title"] == title]
    (legend,) = [each["legendFormat"] for each in panel["targets"] if each["expr"] == query]
    shown = {part.partition("}}")[0] for part in legend.split("{{")[1:]}

    assert promql.asked(query)
    assert promql.unknown(query) == []
    assert shown <= promql.grouping(query), "a line is called by a label that its query drops"


def test_the_clusters_to_choose_from_are_a_metric_s_label() -> None:
    (variable,) = [each for each in BOARD["templating"]["list"] if each["name"] == "cluster"]

    assert variable["query"]["query"] == "label_values(federation_cluster_up, cluster)"
    assert "cluster" in promql.labels_of_samples()["federation_cluster_up"]


@pytest.mark.skipif(not promql.PROMTOOL, reason="no promtool: FEDERATION_PROMTOOL names none")
def test_promtool_takes_every_query(tmp_path: Path) -> None:
    rules = []
    for number, (_, query) in enumerate(QUERIES):
        for name, value in VARIABLES.items():
            query = query.replace(name, value)
        rules.append({"record": f"panel:{number}", "expr": query})
    file = tmp_path / "panels.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}), "utf-8")

    done = promql.promtool("check", "rules", file)

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(QUERIES)} rules found" in done.stdout
