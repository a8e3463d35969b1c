"""Alerts: each asks for what the hub serves, has a runbook entry, and fires in the fault that it is for.

The faults are made in the documents of a healthy federation, and what the hub's endpoint says of them is what the rules
are given. Whether they fire is promtool's word: without one (``FEDERATION_PROMTOOL``, or on the PATH) names, labels and
the change of what they ask for are compared alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from msgspec.structs import replace

from federation.core.documents.signer import Histogram, RefusalsReport
from federation.core.rotation.record import State
from federation.status.metrics import hub_metrics, role_metrics
from federation.status.view import compose
from tests.last_version import names
from tests.manifests import chart, promql
from tests.manifests.tree import ROOT
from tests.status import worlds
from tests.status.rotations import rotate, unmet
from tests.status.worlds import DAY, World

NAMES = ["east", "west", "north"]
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
T = NOW.timestamp()
FILE = chart.CHART / "files" / "alerts.yaml"
((GROUP,),) = (chart.values(FILE)["groups"],)
RULES: dict[str, dict[str, Any]] = {rule["alert"]: rule for rule in GROUP["rules"]}
RUNBOOKS = ROOT / "docs" / "runbooks.md"
PARTS = ("What it means", "What breaks, and when", "How to look", "What to do")
COUNTED = ("_total", "_bucket", "_count", "_sum")
SHAKES = pytest.mark.skipif(not promql.PROMTOOL, reason="no promtool: FEDERATION_PROMTOOL names none")

Fault = Callable[[World], None]


@cache
def said(fault: Fault | None = None) -> dict[str, tuple[str, float]]:
    """What the hub's endpoint says in a world with that fault; nothing in one without a hub."""
    world = World(NAMES, T)
    if fault is silent:
        return {}
    if fault is not None:
        fault(world)
    problems = ("clusters[0].name: it is given twice",) if fault is configuration_refused else ()
    documents = world.document_set()
    status = compose(documents, world.config, NOW, problems)
    return promql.samples(hub_metrics(status, documents, T, version="0.1.0").decode())


def of_authority(world: World, **changes: object) -> None:
    for replica, signer in world.signers.items():
        assert signer.authority is not None
        world.edit_signer(replica, authority=replace(signer.authority, **changes))


def silent(_: World) -> None:
    """No controller answers."""


def none_leads(world: World) -> None:
    world.edit_leader(leader=False)


def none_signs(world: World) -> None:
    for replica in world.signers:
        world.edit_signer(replica, ready=False, reasons=["no bundle yet"])


def no_signer_ever(world: World) -> None:
    world.signers = {}


def callers_refused(world: World) -> None:
    why = RefusalsReport(count=40, since=T - 300, last=T - 2, reason="csr_trust_domain", detail="another one")
    for replica in world.signers:
        none = replace(world.signers[replica].clusters["east"].workloads, with_certificate=0, lapsed=12)
        world.edit_on_signer(replica, "east", refusals=why, workload_issued_at=T - 50000, workloads=none)


def violated(world: World) -> None:
    of_authority(world, violations=2, last_violation="another key", last_violation_at=T - 60)


def circuit_open(world: World) -> None:
    of_authority(world, circuit="open", state="unavailable", reason="unreachable", detail="it is unreachable")


def pair_fails(world: World) -> None:
    world.set_cells({("east", "west"): "x"}, {"x": "the chain does not verify"})


def unreachable(world: World) -> None:
    world.edit_seen("west", state="unavailable", reason="unreachable", detail="it is unreachable")


def behind(world: World) -> None:
    world.edit_publication("west", current=40, pending=8, contents={worlds.SHA: 40})


def certificates_ended(world: World) -> None:
    for replica, signer in world.signers.items():
        seen = signer.clusters["east"].workloads
        world.edit_on_signer(replica, "east", workloads=replace(seen, with_certificate=9, lapsed=3))


def slow(world: World) -> None:
    late = Histogram(bounds=[0.1, 1.0, 5.0], counts=[10, 20, 40], total=90.0, count=40)
    for replica in world.signers:
        world.edit_signer(replica, latency=late)


def intermediate_ends(world: World) -> None:
    of_authority(world, not_after=T + 10 * DAY)


def root_ends(world: World) -> None:
    made = world.generations[7]
    world.generations[7] = replace(
        made, anchors=[replace(made.anchors[0], not_after=T + 60 * DAY), *made.anchors[1:]]
    )


def configuration_refused(_: World) -> None:
    """The problems are the controller's own: see :func:`said`."""


def rotation_paused(world: World) -> None:
    rotate(world, State.SOAKED, unmet("alive", "east"), paused="an operator aborted a step")


def warned(world: World) -> None:
    world.edit_leader(config_problems=["clusters[0].name: it is given twice"])


FAULTS: dict[str, list[Fault]] = {
    "FederationHubSilent": [silent],
    "FederationHubNoLeader": [none_leads],
    "FederationHubNoSignerReady": [none_signs, no_signer_ever],
    "FederationHubAttention": [pair_fails],
    "FederationHubWarnings": [warned],
    "FederationHubAuthorityViolation": [violated],
    "FederationHubAuthorityUnavailable": [circuit_open],
    "FederationHubCallersRefused": [callers_refused],
    "FederationHubPairsFail": [pair_fails],
    "FederationHubClusterUnreachable": [unreachable],
    "FederationHubBundleBehind": [behind],
    "FederationHubCertificatesEnded": [certificates_ended],
    "FederationHubIssuanceSlow": [slow],
    "FederationHubIntermediateExpires": [intermediate_ends],
    "FederationHubRootExpires": [root_ends],
    "FederationHubConfigurationRefused": [configuration_refused],
    "FederationHubRotationPaused": [rotation_paused],
}
CASES = [(alert, fault) for alert, faults in FAULTS.items() for fault in faults]


def test_every_alert_has_a_fault_and_what_it_asks_for_is_another_thing_then() -> None:
    healthy = said()

    assert set(FAULTS) == set(RULES)
    for alert, fault in CASES:
        wanted = {each.sample for each in promql.asked(RULES[alert]["expr"])}
        before, after = (
            {series: value for series, (name, value) in found.items() if name in wanted}
            for found in (healthy, said(fault))
        )
        assert before != after, (alert, fault.__name__)


@pytest.mark.parametrize("alert", RULES)
def test_an_alert_asks_for_metrics_and_labels_that_there_are(alert: str) -> None:
    rule, there = RULES[alert], {name for name, _ in said().values()}

    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert promql.asked(rule["expr"])
    assert promql.unknown(rule["expr"]) == []
    for each in promql.asked(rule["expr"]):
        values = {f"{label}={promql.quoted(value)}" for label, how, value in each.labels if how == "="}
        served = [series for series, (name, _) in said().items() if name == each.sample]
        assert not values or any(all(value in series for value in values) for series in served), each
    shown = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
    assert shown <= promql.grouping(rule["expr"])
    assert there


def test_what_the_hub_does_not_serve_is_found() -> None:
    assert promql.unknown('max by (cluster) (federation_cluster_upp{cluster="a"}) < 1') == [
        "no metric federation_cluster_upp",
        "nothing there has a label cluster",
    ]
    assert promql.unknown("federation_authority_violations > 0"), "samples of a counter end in _total"
    assert promql.unknown('federation_cluster_up{clutser="a"}') == [
        "federation_cluster_up has no label clutser"
    ]
    assert promql.unknown("sum by (le) (rate(federation_issuance_seconds_bucket[5m]))") == []


@pytest.mark.parametrize("alert", RULES)
def test_an_alert_has_a_runbook_entry_with_every_part(alert: str) -> None:
    annotations = RULES[alert]["annotations"]
    page = RUNBOOKS.read_text("utf-8")
    entry = page.partition(f"\n## {alert}\n")[2].partition("\n## ")[0]

    assert set(annotations) == {"summary", "description", "runbook_url"}
    assert annotations["runbook_url"] == f"docs/runbooks.md#{alert.lower()}"
    assert [part for part in PARTS if f"**{part}.**" not in entry] == []
    assert all(len(text) > 40 for text in entry.split("**")[2::2])


def test_every_runbook_entry_has_an_alert() -> None:
    headings = re.findall(r"^## (\w+)$", RUNBOOKS.read_text("utf-8"), re.MULTILINE)

    assert headings == list(RULES)


# --- With promtool -------------------------------------------------------------------------------------------


def series_of(found: dict[str, tuple[str, float]]) -> list[dict[str, str]]:
    """The samples as promtool takes them, for two hours from 0 on. Counters grow by their value each minute."""
    written = []
    for series, (name, value) in found.items():
        if name.endswith("_timestamp_seconds"):
            value -= T
        step = value if name.endswith(COUNTED) else 0.0
        written.append({"series": series, "values": f"{value:.10g}+{step:.10g}x120"})
    return written


def group(
    found: dict[str, tuple[str, float]], expression: str, expected: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "interval": "1m",
        "input_series": series_of(found),
        "promql_expr_test": [{"expr": expression, "eval_time": "110m", "exp_samples": expected}],
    }


@SHAKES
def test_promtool_takes_the_rules() -> None:
    done = promql.promtool("check", "rules", FILE)

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(RULES)} rules found" in done.stdout


@SHAKES
def test_each_alert_fires_in_its_fault_and_none_while_all_is_well(tmp_path: Path) -> None:
    firing = 'count by (alertname) (ALERTS{alertstate="firing", alertname=~"%s"}) > bool 0'
    groups = [group(said(), firing % ".+", [])]
    groups += [
        group(said(fault), firing % alert, [{"labels": f'{{alertname="{alert}"}}', "value": 1}])
        for alert, fault in CASES
    ]
    file = tmp_path / "fires.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(FILE)], "tests": groups}), "utf-8")

    done = promql.promtool("test", "rules", file)

    assert done.returncode == 0, done.stdout + done.stderr


@SHAKES
@pytest.mark.parametrize("fault", [None, *dict.fromkeys(fault for _, fault in CASES if fault is not silent)])
def test_promtool_has_no_complaint_about_what_is_served(fault: Fault | None) -> None:
    world = World(NAMES, T)
    if fault is not None:
        fault(world)
    documents = world.document_set()
    whole = hub_metrics(compose(documents, world.config, NOW), documents, T, version="0.1.0")
    parts = [role_metrics(signer, T, version="0.1.0") for signer in world.signers.values()]
    for text in [whole, *parts]:
        done = promql.promtool("check", "metrics", text=text.decode())
        assert done.returncode == 0, done.stdout + done.stderr


# --- Names --------------------------------------------------------------------------------------------------

OTHER_UNITS = re.compile(
    r"_(?:ms|milliseconds|minutes|hours|days|kb|kib|kilobytes|megabytes|mib|percent)(?:_|$)"
)
BOUNDED = {
    *("replica", "cluster", "namespace", "authority", "source"),
    *("reason", "result", "state", "severity", "verdict", "condition", "kind"),
    *("sha256", "subject", "version"),
}
"""What labels may say: what is configured, what of that is found in a cluster, and words of the code."""


def test_names_follow_the_conventions_of_prometheus() -> None:
    for name, family in names.metrics_in_code().items():
        assert re.fullmatch(r"federation(_[a-z0-9]+)+", name), name
        assert not OTHER_UNITS.search(name), name
        assert not name.endswith(("_total", "_count", "_sum", "_bucket")), f"{name}: its samples get that"
        assert not re.search(r"_(?:gauge|counter|histogram)\b", name), name
        assert ("timestamp" in name) == name.endswith("_timestamp_seconds"), name
        assert set(family["labels"]) <= BOUNDED, name
        assert family["type"] != "histogram" or name.endswith("_seconds")
        assert family["text"].endswith("."), name
        assert name.endswith("_info") == (name == "federation_build_info")


def test_labels_are_bounded_whatever_a_signer_reports() -> None:
    world = World(NAMES, T)
    seen = world.signers["signer-0"].clusters["east"]
    flood = {f"reason_{number}": 1 for number in range(5000)}
    world.edit_signer(
        "signer-0",
        clusters={f"cluster-{number}": seen for number in range(500)}
        | {"east": replace(seen, refused=flood)},
        rejected_calls=replace(world.signers["signer-0"].rejected_calls, total=flood),
        connections_refused=replace(world.signers["signer-0"].connections_refused, total=flood),
    )
    documents = world.document_set()
    found = promql.samples(hub_metrics(compose(documents, world.config, NOW), documents, T).decode())

    assert len(found) < len(said()) + 3 * 66
    assert sum(value for series, (_, value) in found.items() if 'reason="other"' in series) == 3 * (5000 - 64)
    assert not any("cluster-1" in series for series in found)
