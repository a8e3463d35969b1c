"""What Helm makes of the chart: for each authority, each way to keep the state, and every value.

Runs where FEDERATION_HELM names helm. Without it test_chart.py compares digests only.
"""

from __future__ import annotations

import re
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml

from federation.core.config.discovery import DiscoveryConfig
from federation.core.config.hub import HubConfig
from federation.core.config.load import parse_config
from tests.manifests import chart, dashboard
from tests.manifests.chart_pages import leaves
from tests.manifests.kustomize import Object, identity
from tests.manifests.schema import problems
from tests.manifests.test_chart import CHOICES, DEFAULTS, merged
from tests.manifests.tree import ROLES, Tree

pytestmark = pytest.mark.skipif(not chart.HELM, reason="FEDERATION_HELM names no helm")

CONFIG_PATH = "/etc/federation/config/clusters.toml"
OPERATORS = ("ServiceMonitor", "PrometheusRule")
"""Kinds of Prometheus' operator, which Kubernetes' own document does not have."""


def choice(name: str) -> Path:
    return chart.CHART / "ci" / f"{name}-values.yaml"


def configuration(tree: Tree) -> HubConfig:
    text = tree.one("ConfigMap", "federation-config")["data"]["clusters.toml"]
    return parse_config(text, file=CONFIG_PATH)


def paths(value: Any) -> Iterator[PurePosixPath]:
    """Every absolute path of a file in a table of the configuration."""
    if isinstance(value, dict):
        yield from (path for each in value.values() for path in paths(each))
    elif isinstance(value, list):
        yield from (path for each in value for path in paths(each))
    elif isinstance(value, str) and value.removeprefix("file:").startswith("/"):
        yield PurePosixPath(value.removeprefix("file:"))


def refusal(*options: str) -> str:
    """Why Helm does not render the chart."""
    with pytest.raises(subprocess.CalledProcessError) as caught:
        chart.rendered_files(*options)
    return str(caught.value.stderr)


def test_the_base_is_rendered_from_the_chart_of_today() -> None:
    files = chart.base_files()

    assert set(files) == {str(path.relative_to(chart.BASE)) for path in chart.made()}
    assert {name: (chart.BASE / name).read_text("utf-8") for name in files} == files
    files = chart.discovery_files()
    assert {name: (chart.DISCOVERY / name).read_text("utf-8") for name in files} == files


@pytest.mark.parametrize("each", CHOICES, ids=lambda path: path.stem)
def test_helm_lints_without_a_warning(each: Path) -> None:
    said = chart.helm("lint", "--strict", chart.CHART, "--values", each)

    assert "0 chart(s) failed" in said
    assert "[WARNING]" not in said


@pytest.mark.parametrize("each", CHOICES, ids=lambda path: path.stem)
def test_what_is_rendered_is_valid_and_the_hub_reads_its_configuration(each: Path) -> None:
    tree = chart.rendered("--values", each)
    config = configuration(tree)

    own = [item for item in tree.objects if item["kind"] not in OPERATORS]
    assert [problem for item in own for problem in problems(item)] == []
    assert len({identity(item) for item in tree.objects}) == len(tree.objects)
    kind = chart.values(each).get("authority", {}).get("kind", "local")
    assert config.signer.authority.kind == kind
    open_status = chart.values(each).get("status", {}).get("tls") == {"enabled": False}
    assert [warning.split(":")[0] for warning in config.warnings] == ["status.listen"] * open_status


@pytest.mark.parametrize("each", CHOICES, ids=lambda path: path.stem)
def test_each_role_mounts_the_files_that_it_reads_and_the_other_does_not(each: Path) -> None:
    tree = chart.rendered("--values", each)
    table = tomllib.loads(tree.one("ConfigMap", "federation-config")["data"]["clusters.toml"])
    image = {PurePosixPath("/usr/lib/softhsm/libsofthsm2.so")}  # of an image of one's own
    clusters = table.get("clusters", [])
    reads = {
        "signer": [
            *paths(table["signer"]),
            *(path for one in clusters for path in paths(one.get("signer", {}))),
        ],
        "controller": [
            *paths(table["status"]),
            *(path for one in clusters for path in paths(one.get("controller", {}))),
        ],
    }
    shared = [*paths(table["trust"]), *paths(table["state"]), PurePosixPath(CONFIG_PATH)]

    assert reads["controller"]
    for role, other in (("signer", "controller"), ("controller", "signer")):
        mounts, others = tree.mounts(role), tree.mounts(other)
        for path in set(reads[role]) - image:
            assert any(path.is_relative_to(mount) for mount in mounts), f"the {role} mounts no {path}"
            assert not any(path.is_relative_to(mount) for mount in others), f"the {other} mounts {path}"
        for path in shared:
            assert any(path.is_relative_to(mount) for mount in mounts), f"the {role} mounts no {path}"
        assert not set(tree.secrets(role)) & set(tree.secrets(other))


@pytest.mark.parametrize("each", CHOICES, ids=lambda path: path.stem)
def test_the_pods_pass_the_restricted_profile_whatever_is_chosen(each: Path) -> None:
    tree = chart.rendered("--values", each)
    openshift = chart.values(each).get("openshift") is True

    for role in ROLES:
        pod, container = tree.pod(role), tree.container(role)
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        user = {pod["securityContext"].get(key) for key in ("runAsUser", "runAsGroup", "fsGroup")}
        assert user == ({None} if openshift else {65532})
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {kind for volume in pod["volumes"] for kind in volume if kind != "name"} <= {
            *("configMap", "secret", "projected", "emptyDir", "csi", "persistentVolumeClaim")
        }
        writable = {m["mountPath"] for m in container["volumeMounts"] if not m.get("readOnly")}
        assert writable <= {"/tmp", "/var/lib/federation"}
    for item in tree.all(
        "NetworkPolicy"
    ):  # who could reach that port could make the kubelet restart the role
        ports = {port["port"] for rule in item["spec"].get("ingress", []) for port in rule["ports"]}
        assert ports <= {"listener", "health", "status"}


@pytest.mark.parametrize(
    ("name", "overlay"), [("files", "volume"), ("in-cluster", "in-cluster"), ("openshift", "openshift")]
)
def test_values_render_what_the_overlay_of_the_same_purpose_does(name: str, overlay: str) -> None:
    """But for the configuration, which an overlay leaves to its owner."""

    def compared(tree: Tree) -> list[Object]:
        return sorted((item for item in tree.objects if item["kind"] != "ConfigMap"), key=identity)

    assert compared(chart.rendered("--values", choice(name))) == compared(Tree.of(overlay))


def test_by_default_the_chart_renders_the_base_but_for_what_helm_has_its_own_way_for() -> None:
    """Helm makes no namespace for its release, and the configuration is written once."""
    tree, base = chart.rendered(), Tree.of("hub")
    left = {("Namespace", "", "federation-system"), ("ConfigMap", "federation-system", "federation-config")}

    found = {identity(item): item for item in tree.objects if identity(item) not in left}
    assert found == {identity(item): item for item in base.objects if identity(item) not in left}
    assert not any(item["metadata"]["name"] == "federation-system" for item in tree.all("Namespace"))
    config = tree.one("ConfigMap", "federation-config")
    assert config["metadata"]["annotations"]["helm.sh/hook"] == "pre-install"
    assert "clusters" not in tomllib.loads(config["data"]["clusters.toml"])


def without(values: Any, path: str) -> Any:
    """The values without one, so that its default counts."""
    head, _, rest = path.partition(".")
    left = dict(values)
    taken = left.pop(head)
    return left | {head: without(taken, rest)} if rest else left


def set_in(values: Any) -> set[str]:
    """The paths of the values that are given, and are not the default."""
    return {path for path, value in leaves(merged(DEFAULTS, values)) if value != dict(leaves(DEFAULTS))[path]}


def test_every_value_is_in_an_example_and_has_an_effect(tmp_path: Path) -> None:
    """Without it something else is rendered, or nothing."""
    never = {path for path, _ in leaves(DEFAULTS)}
    file = tmp_path / "values.yaml"
    for each in CHOICES:
        values = chart.values(each)
        whole = chart.rendered_files("--values", each)
        for path in sorted(set_in(values) & never):
            file.write_text(yaml.safe_dump(without(values, path)), "utf-8")
            try:
                changed = chart.rendered_files("--values", file) != whole
            except subprocess.CalledProcessError:
                changed = True
            if changed:
                never.remove(path)
    assert never == set()


def test_openshift_and_prometheus_operator_are_found_where_they_are() -> None:
    apis = (
        "security.openshift.io/v1",
        "monitoring.coreos.com/v1/ServiceMonitor",
        "monitoring.coreos.com/v1/PrometheusRule",
    )
    there = chart.rendered(*(f"--api-versions={api}" for api in apis))
    off = chart.rendered(
        *(f"--api-versions={api}" for api in apis),
        *(
            "--set",
            "openshift=false,monitoring.serviceMonitor.enabled=false,monitoring.prometheusRule.enabled=false",
        ),
    )

    assert "runAsUser" not in there.pod("signer")["securityContext"]
    assert there.one("NetworkPolicy", "federation-egress-openshift-dns")
    (rule,), (monitor,) = there.all("PrometheusRule"), there.all("ServiceMonitor")
    assert rule["spec"] == chart.values(chart.CHART / "files" / "alerts.yaml")
    (service,) = [
        item
        for item in there.all("Service")
        if monitor["spec"]["selector"]["matchLabels"].items() <= item["metadata"]["labels"].items()
    ]
    (endpoint,) = monitor["spec"]["endpoints"]
    assert service["metadata"]["name"] == "federation-status"
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert endpoint["authorization"]["credentials"]["name"] in there.secrets("controller")
    assert off == chart.rendered()


def test_callers_of_status_are_asked_of_the_cluster_only_where_that_is_switched_on() -> None:
    def delegated(tree: Tree) -> list[Object]:
        return [item for item in tree.all("ClusterRoleBinding") if "delegator" in item["roleRef"]["name"]]

    off, on = chart.rendered(), chart.rendered("--values", choice("every-value"))

    assert delegated(off) == []
    (binding,) = delegated(on)
    assert binding["roleRef"]["name"] == "system:auth-delegator"
    subject = {"kind": "ServiceAccount", "name": "federation-controller", "namespace": chart.NAMESPACE}
    assert binding["subjects"] == [subject]
    status = configuration(on).status
    assert status.kubernetes is not None
    assert status.kubernetes.credentials.in_cluster
    assert status.kubernetes.audience == "mesh-hub"
    assert status.oidc is not None
    assert (status.oidc.issuer, status.oidc.read) == ("https://login.example.org", ("platform-readers",))
    assert [(token.name, token.right) for token in status.tokens] == [("ann", "operate")]
    assert configuration(off).status == replace(
        configuration(off).status, tokens=(), kubernetes=None, oidc=None
    )
    files = ("--set", "state.kind=files", "--set", "status.kubernetes.enabled=true")
    pods = {role: chart.rendered(*files).pod(role) for role in ROLES}
    assert {role: pod["automountServiceAccountToken"] for role, pod in pods.items()} == {
        "controller": True,
        "signer": False,
    }


def test_the_dashboard_and_the_address_of_runbooks_are_rendered() -> None:
    tree = chart.rendered("--values", choice("every-value"))
    (rule,) = tree.all("PrometheusRule")
    board = tree.one("ConfigMap", "federation-hub-dashboard")

    urls = [each["annotations"]["runbook_url"] for group in rule["spec"]["groups"] for each in group["rules"]]
    assert len(urls) > 10
    assert all(url.startswith("https://docs.example.org/federation/runbooks#federationhub") for url in urls)
    assert board["data"]["federation-hub.json"] == dashboard.dashboard()
    assert board["metadata"]["labels"]["grafana_dashboard"] == "mesh"
    assert board["metadata"]["annotations"]["grafana_folder"] == "Mesh"


def test_the_configuration_is_written_once_with_each_release_or_never() -> None:
    by = {
        mode: chart.rendered("--set", f"configuration.mode={mode}").all("ConfigMap")
        for mode in ("once", "release", "external")
    }

    assert by["external"] == []
    (once,), (release,) = by["once"], by["release"]
    assert once["data"] == release["data"]
    assert "annotations" not in release["metadata"]


def test_another_namespace_is_named_everywhere() -> None:
    tree = chart.rendered("--set", "state.namespace=mesh-state", namespace="mesh-hub")
    text = yaml.safe_dump_all(tree.objects)

    assert "federation-system" not in text.replace("federation-system/federation-", "")
    assert re.findall(r"federation-state\b", text) == []
    assert configuration(tree).listener.server_names == ("federation-hub.mesh-hub.svc",)
    assert {item["metadata"]["name"] for item in tree.all("ValidatingAdmissionPolicy")} == {
        "mesh-state-signer-documents"
    }


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--set", "state.namespace=federation-system"], "install it into another namespace"),
        (["--set", "signer.replica=3"], "additional properties 'replica' not allowed"),
        (["--set", "authority.kind=vault"], "missing properties 'address', 'auth', 'role', 'serving_role'"),
        (["--set", "authority.certManager.rbac=true"], "the namespace of the requests"),
        (["--kube-version", "1.29.0"], "chart requires kubeVersion: >=1.30.0-0"),
    ],
)
def test_what_cannot_work_is_not_rendered(options: list[str], why: str) -> None:
    assert why in refusal(*options)


def test_the_controller_reads_objects_elsewhere_only_where_discovery_is_switched_on() -> None:
    def rights(*options: str | Path) -> dict[str, list[tuple[str, list[str]]]]:
        tree, name = chart.rendered(*options), "federation-system-federation-discovery"
        found = {}
        for role in tree.all("Role"):
            if role["metadata"]["name"] == name:
                namespace = role["metadata"]["namespace"]
                controller = {"name": "federation-controller", "namespace": "federation-system"}
                binding = tree.one("RoleBinding", name, namespace)
                assert binding["subjects"] == [{"kind": "ServiceAccount", **controller}]
                found[namespace] = [(rule["resources"][0], rule["verbs"]) for rule in role["rules"]]
        return found

    assert rights() == {}
    read = ["get", "list"]
    assert rights("--values", choice("every-value")) == {
        "istio-system": [("secrets", read)],
        "fleet": [("secrets", read), ("clusterprofiles", read)],
        "inventory": [("clusterprofiles", read)],
    }
    options = ("--set", "discovery.clusterProfiles={fleet}", "--set", "state.kind=files")
    tree = chart.rendered(*options)
    found = configuration(tree).discovery
    assert found == DiscoveryConfig(in_cluster=True, cluster_profiles=("fleet",))
    mounts = {role: tree.pod(role)["automountServiceAccountToken"] for role in ROLES}
    assert mounts == {"controller": True, "signer": False}, "only the controller looks"
