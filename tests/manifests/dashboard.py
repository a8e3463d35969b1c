"""The Grafana dashboard of the chart, made from a list of panels.

``python -m tests.manifests.dashboard`` writes ``charts/federation-hub/files/dashboard.json``; a test compares it. Each
controller serves the figures of all processes, so every query takes ``max`` over those that answer first.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from tests.manifests.chart import CHART

FILE = CHART / "files" / "dashboard.json"
SCHEMA_VERSION: Final = 39
"""Of Grafana 10.4; newer ones migrate it as they read it."""
WIDTH: Final = 24
HEIGHT: Final = 8
SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
BAD_PAIRS: Final = '{cluster=~"$cluster", result=~"failed|unknown"}'
BEHIND: Final = '{cluster=~"$cluster", state=~"pending|failed|forbidden"}'
CLUSTERS: Final = '{cluster=~"$cluster"}'


@dataclass(frozen=True)
class Panel:
    """One panel: its kind, queries with what a line of each is called, its unit, and how wide it is of 24."""

    title: str
    queries: tuple[tuple[str, str], ...]
    about: str = ""
    kind: str = "timeseries"
    unit: str = "short"
    width: int = 8
    bad_above: float | None = None
    bad_below: float | None = None


def rate(metric: str, by: str, keep: str, matchers: str = "") -> str:
    """Of a counter, a second, by what is asked for; ``keep`` is by what its series of one process differ."""
    return f"sum by ({by}) (max by ({keep}) (rate({metric}{matchers}[$__rate_interval])))"


def quantile(share: float) -> str:
    inner = "sum by (le) (max by (replica, le) (rate(federation_issuance_seconds_bucket[$__rate_interval])))"
    return f"histogram_quantile({share}, {inner})"


def most(metric: str) -> str:
    return f"max by (cluster) ({metric}{CLUSTERS})"


def left(metric: str, by: str, matchers: str = "") -> str:
    return f"min by ({by}) ({metric}{matchers}) - time()"


ROWS: Final[dict[str, tuple[Panel, ...]]] = {
    "Now": (
        Panel(
            "Verdict", (("max by (verdict) (federation_verdict) > 0", "{{verdict}}"),), kind="stat", width=4
        ),
        Panel(
            "Needs attention",
            (("max by (severity) (federation_attention)", "{{severity}}"),),
            "`federation status` lists them, each with its cause and what to do.",
            kind="stat",
            width=8,
        ),
        Panel(
            "Pairs that validate",
            (("max(federation_matrix_valid) / max(federation_matrix_pairs)", "of all pairs"),),
            "Proved by handshakes of every ordered pair of clusters.",
            kind="stat",
            unit="percentunit",
            width=4,
            bad_below=1,
        ),
        Panel(
            "Signers ready",
            (("sum(max by (replica) (federation_signer_ready))", "signers"),),
            kind="stat",
            width=4,
            bad_below=1,
        ),
        Panel(
            "Controllers that lead",
            (("sum(max by (replica) (federation_controller_leader))", "controllers"),),
            kind="stat",
            width=4,
            bad_below=1,
        ),
    ),
    "Issuing": (
        Panel(
            "Certificates issued",
            (
                (
                    rate("federation_certificates_issued_total", "cluster", "replica, cluster", CLUSTERS),
                    "{{cluster}}",
                ),
            ),
            "A second, by cluster.",
        ),
        Panel(
            "Requests refused",
            (
                (
                    rate(
                        "federation_requests_refused_total",
                        "cluster, reason",
                        "replica, cluster, reason",
                        CLUSTERS,
                    ),
                    "{{cluster}}: {{reason}}",
                ),
            ),
            "A second, by the reason that status explains. Of the cluster - is what no cluster is answerable for.",
        ),
        Panel(
            "From request to answer",
            ((quantile(0.5), "half"), (quantile(0.99), "99 of 100")),
            "Seconds, of all signers.",
            unit="s",
        ),
        Panel(
            "Calls and connections rejected",
            (
                (rate("federation_calls_rejected_total", "reason", "replica, reason"), "call: {{reason}}"),
                (
                    rate("federation_connections_refused_total", "reason", "replica, reason"),
                    "connection: {{reason}}",
                ),
            ),
            "A second, before their caller was known.",
        ),
        Panel(
            "Back end",
            (
                (
                    "sum by (authority) (max by (replica, authority) (federation_authority_rate_per_second))",
                    "{{authority}} asked",
                ),
                ("max by (authority) (federation_authority_quota_per_second)", "{{authority}} allowed"),
                (
                    "sum by (authority) (max by (replica, authority) (federation_authority_queued))",
                    "{{authority}} waiting",
                ),
            ),
            "Certificates a second that are asked of it and that it allows, and requests that wait.",
        ),
        Panel(
            "Back end: failures",
            (
                (
                    "sum by (authority) (max by (replica, authority) (federation_authority_circuit_open))",
                    "{{authority}}: signers that leave it alone",
                ),
                (
                    rate("federation_authority_uncertain_total", "authority", "replica, authority"),
                    "{{authority}}: answers lost",
                ),
                (
                    rate("federation_authority_refused_early_total", "authority", "replica, authority"),
                    "{{authority}}: refused early",
                ),
                (
                    "sum by (authority) (max by (replica, authority) (federation_authority_violations_total))",
                    "{{authority}}: violations",
                ),
            ),
            "A violation is an answer that was not what was asked for.",
        ),
    ),
    "Clusters": (
        Panel(
            "Not in order",
            ((f"max by (cluster) (federation_cluster_healthy{CLUSTERS}) < 1", "{{cluster}}"),),
            "Clusters in which signing, publication, proof or workloads are not in order.",
            bad_below=1,
        ),
        Panel(
            "API server not reached",
            ((f"max by (cluster) (federation_cluster_up{CLUSTERS}) < 1", "{{cluster}}"),),
            bad_below=1,
        ),
        Panel(
            "Pairs that fail or are not known",
            (
                (
                    f"max by (cluster, result) (federation_cluster_pairs{BAD_PAIRS}) > 0",
                    "{{cluster}}: {{result}}",
                ),
            ),
        ),
        Panel(
            "Namespaces without the bundle in force",
            (
                (
                    f"max by (cluster, state) (federation_publication_namespaces{BEHIND}) > 0",
                    "{{cluster}}: {{state}}",
                ),
            ),
        ),
        Panel(
            "Until the last namespace had a generation",
            ((f"max by (cluster) (federation_publication_lag_seconds{CLUSTERS})", "{{cluster}}"),),
            unit="s",
        ),
        Panel(
            "Bundles put back",
            (
                (
                    f"max by (cluster) (rate(federation_publication_restored_total{CLUSTERS}[$__rate_interval]))",
                    "{{cluster}}",
                ),
            ),
            "A second, after an edit or a deletion by others.",
        ),
        Panel(
            "Workloads without a certificate",
            (
                (
                    f"{most('federation_workloads')} - {most('federation_workloads_with_certificate')}",
                    "{{cluster}}",
                ),
                (f"max by (cluster) (federation_workloads_ended{CLUSTERS}) > 0", "{{cluster}}: it has ended"),
            ),
            width=12,
        ),
        Panel(
            "Every caller refused",
            ((f"max by (cluster) (federation_callers_all_refused{CLUSTERS})", "{{cluster}}"),),
            bad_above=1,
            width=12,
        ),
    ),
    "Ends": (
        Panel(
            "Intermediates",
            ((left("federation_intermediate_not_after_timestamp_seconds", "authority"), "{{authority}}"),),
            "Until what signs ends.",
            unit="s",
            width=6,
        ),
        Panel(
            "Anchors",
            (
                (
                    left("federation_anchor_not_after_timestamp_seconds", "subject, kind"),
                    "{{kind}}: {{subject}}",
                ),
            ),
            "Until what is trusted ends.",
            unit="s",
            width=6,
        ),
        Panel(
            "istiod's certificates",
            (
                (
                    left(
                        "federation_control_plane_certificate_not_after_timestamp_seconds",
                        "cluster, namespace",
                        CLUSTERS,
                    ),
                    "{{cluster}}: {{namespace}}",
                ),
            ),
            unit="s",
            width=6,
        ),
        Panel(
            "The listener's certificates",
            ((left("federation_serving_not_after_timestamp_seconds", "replica"), "{{replica}}"),),
            unit="s",
            width=6,
        ),
    ),
    "Rotation": (
        Panel(
            "State",
            (("max by (state) (federation_rotation_state) > 0", "{{state}}"),),
            kind="state-timeline",
            width=12,
        ),
        Panel(
            "What the gate waits for",
            (("max by (condition) (federation_rotation_unmet_conditions) > 0", "{{condition}}"),),
            "`federation rotate status` says which clusters, and until when.",
            width=12,
        ),
    ),
    "Processes": (
        Panel(
            "Open files, of what is allowed",
            (
                (
                    "max by (replica) (federation_signer_open_files / federation_signer_open_files_limit)",
                    "signer {{replica}}",
                ),
                (
                    "max by (replica) (federation_controller_open_files / federation_controller_open_files_limit)",
                    "controller {{replica}}",
                ),
            ),
            unit="percentunit",
            bad_above=0.5,
        ),
        Panel(
            "Since the last report",
            (
                ("min by (replica) (federation_signer_report_age_seconds)", "signer {{replica}}"),
                ("min by (replica) (federation_controller_report_age_seconds)", "controller {{replica}}"),
            ),
            "A process that is gone stands here until its last certificates have ended.",
            unit="s",
        ),
        Panel(
            "Versions that answer",
            (("count by (version) (federation_build_info)", "{{version}}"),),
            kind="stat",
        ),
    ),
}


def thresholds(panel: Panel) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.bad_above is not None:
        steps.append({"color": "red", "value": panel.bad_above})
    if panel.bad_below is not None:
        steps = [{"color": "red", "value": None}, {"color": "green", "value": panel.bad_below}]
    return {"mode": "absolute", "steps": steps}


def options(kind: str) -> dict[str, Any]:
    if kind == "stat":
        return {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "textMode": "auto",
        }
    if kind == "state-timeline":
        return {"mergeValues": True, "showValue": "never"}
    return {
        "legend": {"displayMode": "list", "placement": "bottom"},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }


def made(panel: Panel, number: int, x: int, y: int, height: int) -> dict[str, Any]:
    targets = [
        {
            "datasource": SOURCE,
            "editorMode": "code",
            "expr": expression,
            "legendFormat": legend,
            "range": True,
            "refId": chr(ord("A") + index),
        }
        for index, (expression, legend) in enumerate(panel.queries)
    ]
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": SOURCE,
        "gridPos": {"h": height, "w": panel.width, "x": x, "y": y},
        "fieldConfig": {"defaults": {"unit": panel.unit, "thresholds": thresholds(panel)}, "overrides": []},
        "options": options(panel.kind),
        "targets": targets,
    }


def panels() -> list[dict[str, Any]]:
    """Rows from above, and their panels from the left, as many in a line as it holds."""
    found: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS.items():
        found.append(
            {
                "id": len(found) + 1,
                "type": "row",
                "title": title,
                "collapsed": False,
                "gridPos": {"h": 1, "w": WIDTH, "x": 0, "y": y},
                "panels": [],
            }
        )
        y, x = y + 1, 0
        height = HEIGHT // 2 if all(panel.kind == "stat" for panel in row) else HEIGHT
        for panel in row:
            if x + panel.width > WIDTH:
                y, x = y + height, 0
            found.append(made(panel, len(found) + 1, x, y, height))
            x += panel.width
        y += height
    return found


def variables() -> list[dict[str, Any]]:
    return [
        {"name": "datasource", "type": "datasource", "label": "Data source", "query": "prometheus"},
        {
            "name": "cluster",
            "type": "query",
            "label": "Cluster",
            "datasource": SOURCE,
            "query": {"query": "label_values(federation_cluster_up, cluster)", "refId": "clusters"},
            "refresh": 2,
            "sort": 1,
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        },
    ]


def dashboard() -> str:
    whole = {
        "uid": "federation-hub",
        "title": "Federation hub",
        "description": "One trust for many Istio clusters: issuing, publication, proof and rotation.",
        "tags": ["federation-hub", "istio"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "1m",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": variables()},
        "annotations": {"list": []},
        "links": [],
        "panels": panels(),
    }
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(dashboard(), "utf-8")
