"""What is found of Istio against what the hub needs: each setting that is wrong is found, and nothing else is."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.clusters.istio_findings import compare_istio
from federation.clusters.istio_inventory import (
    Environment,
    FoundInjection,
    FoundIstiod,
    FoundMesh,
    FoundWebhook,
    FoundZtunnel,
    IstioFound,
    Unread,
    read_injection,
    read_istiod,
    read_mesh,
    read_webhook,
    read_ztunnel,
)
from federation.clusters.permissions import CheckResult
from federation.core.config.clusters import ClusterConfig, IstioConfig
from federation.core.config.hub import HubConfig
from federation.core.identity import ServiceAccountRef
from tests.core.config.texts import good
from tests.support import istio_objects as charts
from tests.support.pki import root

ROOT = root("hub root").certificate
OTHER = root("istiod of its own").certificate
CONFIG = f"""
trust_domain = "{charts.TRUST_DOMAIN}"
[[trust.anchors]]
file = "root.pem"
sha256 = "{ROOT.sha256}"
[listener]
server_names = ["hub.example.org"]
[signer.authority]
name = "shared"
certificate_file = "ca.pem"
key_file = "ca.key"
[state]
directory = "state"
[[clusters]]
name = "east"
cluster_id = "east"
kubeconfig = "a"
[clusters.policy]
trusted_node_accounts = ["istio-system/ztunnel"]
[[clusters]]
name = "west"
cluster_id = "west"
kubeconfig = "b"
"""
HUB: HubConfig = good(CONFIG)
EAST: ClusterConfig = HUB.clusters[0]


def found(*objects: dict[str, Any]) -> IstioFound:
    readers = {"Deployment": read_istiod, "DaemonSet": read_ztunnel}
    kinds: dict[str, list[Any]] = {
        "istiods": [],
        "ztunnels": [],
        "meshes": [],
        "injections": [],
        "webhooks": [],
    }
    for item in objects:
        raw = msgspec.Raw(json.dumps(item).encode())
        if item["kind"] in readers:
            kinds["istiods" if item["kind"] == "Deployment" else "ztunnels"].append(
                readers[item["kind"]](raw)
            )
        elif item["kind"] == "ConfigMap":
            injects = item["metadata"]["name"].startswith("istio-sidecar-injector")
            kinds["injections" if injects else "meshes"].append(
                (read_injection if injects else read_mesh)(raw)
            )
        else:
            kinds["webhooks"].append(read_webhook(raw, "mutatingwebhook"))
    return IstioFound(**{kind: tuple(values) for kind, values in kinds.items()})


def complaints(
    *objects: dict[str, Any], config: ClusterConfig = EAST, hub: HubConfig = HUB
) -> dict[str, CheckResult]:
    """What is not ok, by check, on top of a control plane as it should be where an object is not given."""
    results = compare_istio(found(*objects), config, hub)
    assert all(result.cluster == "east" and result.role == "controller" for result in results)
    return {result.check: result for result in results if result.outcome != "ok"}


GOOD = (charts.istiod(), charts.mesh(), charts.injection(), charts.injector(ROOT.pem), charts.ztunnel())


def test_a_control_plane_as_printed_has_no_finding() -> None:
    assert complaints(*GOOD) == {}
    checked = {result.check for result in compare_istio(found(*GOOD), EAST, HUB)}
    assert len(checked) == 16  # every comparison saw something


def test_where_nothing_runs_the_way_in_is_named() -> None:
    rights, planes = compare_istio(IstioFound(), EAST, HUB)
    assert (rights.outcome, planes.outcome) == ("ok", "ok")
    assert "clusters istio east" in planes.detail


ON = {"ENABLE_CA_SERVER": "true"}
CASES: list[tuple[str, list[dict[str, Any]], str, str, str]] = [
    ("trust domain", [charts.mesh("cluster.local")], "istio_trust_domain", "failed", "'cluster.local'"),
    ("no trust domain", [charts.mesh(None)], "istio_trust_domain", "failed", "'cluster.local'"),
    ("no cluster name", [charts.istiod(CLUSTER_ID="Kubernetes")], "istio_cluster_name", "failed", "not set"),
    ("a twin", [charts.istiod("west")], "istio_cluster_name", "failed", "cluster_id of west"),
    ("injected name", [charts.injection("")], "istio_cluster_name", "failed", "'Kubernetes'"),
    ("CA on", [charts.istiod(**ON)], "istio_ca_server", "warning", "is on"),
    ("CA by default", [charts.istiod(ENABLE_CA_SERVER=None)], "istio_ca_server", "warning", "is on"),
    (
        "unsigned",
        [charts.istiod(), charts.injection(ca_address="")],
        "istio_ca_address",
        "failed",
        "CA is off",
    ),
    (
        "istiod signs",
        [charts.istiod(**ON), charts.injection(ca_address="")],
        "istio_ca_address",
        "warning",
        "ask istiod",
    ),
    (
        "istio-csr",
        [charts.injection(ca_address="cert-manager-istio-csr.cert-manager.svc:443")],
        "istio_ca_address",
        "warning",
        "another CA",
    ),
    (
        "a typo",
        [charts.injection(ca_address="hub.example.com:15443")],
        "istio_ca_address",
        "failed",
        "not the hub",
    ),
    ("no port", [charts.injection(ca_address="hub.example.org")], "istio_ca_address", "failed", "no port"),
    (
        "provider",
        [charts.istiod(PILOT_CERT_PROVIDER="kubernetes")],
        "istio_cert_provider",
        "failed",
        "kubernetes",
    ),
    ("injected provider", [charts.injection(provider="custom")], "istio_cert_provider", "failed", "custom"),
    (
        "idle RA",
        [charts.istiod(EXTERNAL_CA="ISTIOD_RA_KUBERNETES_API")],
        "istio_external_ca",
        "warning",
        "nothing",
    ),
    (
        "RA",
        [charts.istiod(EXTERNAL_CA="ISTIOD_RA_KUBERNETES_API", **ON)],
        "istio_external_ca",
        "failed",
        "Kubernetes signer",
    ),
    ("multi-root", [charts.istiod(ISTIO_MULTIROOT_MESH="true")], "istio_options", "warning", "MULTIROOT"),
    (
        "any domain",
        [charts.istiod(PILOT_SKIP_VALIDATE_TRUST_DOMAIN="1")],
        "istio_options",
        "warning",
        "every trust",
    ),
    ("bundle", [charts.istiod(PILOT_CA_CERT_CONFIGMAP="roots")], "istio_trust_bundle", "failed", "'roots'"),
    (
        "injected bundle",
        [charts.injection(trustBundleName="roots")],
        "istio_trust_bundle",
        "failed",
        "'roots'",
    ),
    ("audience", [charts.injection(audience="vault")], "istio_audience", "failed", "'vault'"),
    ("network", [charts.injection(network="net-b")], "istio_network", "warning", "'net-b'"),
    ("ztunnel's network", [charts.ztunnel(NETWORK="net-b")], "istio_network", "warning", "'net-b'"),
    ("no caBundle", [charts.injector()], "istio_webhooks", "warning", "no caBundle"),
    ("another CA", [charts.injector(OTHER.pem)], "istio_webhooks", "warning", "another CA"),
    ("a root too many", [charts.injector(ROOT.pem + OTHER.pem)], "istio_webhooks", "warning", "1 roots"),
    ("no PEM", [charts.injector(b"nonsense")], "istio_webhooks", "warning", "cannot be read"),
    ("account", [charts.ztunnel(account="tunnel")], "ztunnel_account", "failed", "istio-system/tunnel"),
    (
        "namespace",
        [charts.ztunnel(namespace="kube-system")],
        "ztunnel_account",
        "failed",
        "kube-system/ztunnel",
    ),
    ("ztunnel's name", [charts.ztunnel("Kubernetes")], "ztunnel_cluster_name", "failed", "not set"),
    (
        "ztunnel's CA",
        [charts.ztunnel(CA_ADDRESS="ca.example:443")],
        "ztunnel_ca_address",
        "failed",
        "not the hub",
    ),
    (
        "ztunnel at istiod",
        [charts.istiod(), charts.ztunnel(CA_ADDRESS="istiod.istio-system.svc:15012")],
        "ztunnel_ca_address",
        "failed",
        "CA is off",
    ),
    (
        "another namespace",
        [charts.istiod(namespace="mesh")],
        "istio_control_planes",
        "failed",
        "no certificate",
    ),
    (
        "a webhook elsewhere",
        [charts.injector(ROOT.pem, namespace="old")],
        "istio_control_planes",
        "warning",
        "old",
    ),
]


@pytest.mark.parametrize(
    ("objects", "check", "outcome", "words"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_what_is_set_otherwise_is_found(
    objects: list[dict[str, Any]], check: str, outcome: str, words: str
) -> None:
    result = complaints(*objects)
    assert check in result
    assert result[check].outcome == outcome
    assert words in result[check].detail
    assert result[check].remedy


def test_an_address_with_a_scheme_is_the_same_listener() -> None:
    assert complaints(charts.ztunnel(CA_ADDRESS="https://hub.example.org:15443")) == {}


def test_a_configuration_that_leaves_an_istiod_out_is_found() -> None:
    def planes(istio: IstioConfig, *objects: dict[str, Any]) -> str:
        result = complaints(*objects, config=replace(EAST, istio=istio)).get("istio_control_planes")
        return result.detail if result else ""

    canary = charts.istiod(revision="canary")
    assert planes(IstioConfig(), canary) == ""  # without a list all that are found are served
    assert "canary" in planes(IstioConfig(revisions=("stable",)), canary)
    assert planes(IstioConfig(revisions=("canary",)), canary) == ""
    assert "Secret own-tls" in planes(IstioConfig(secret="own-tls"), charts.istiod())
    assert planes(IstioConfig(provide_certificate=False), charts.istiod(namespace="mesh")) == ""


@pytest.mark.parametrize(("can", "outcome"), [(True, "ok"), (None, "ok"), (False, "failed")])
def test_a_cluster_trust_bundle_is_not_expected_where_none_is_published(
    can: bool | None, outcome: str
) -> None:
    istiod = found(charts.istiod(ENABLE_CLUSTER_TRUST_BUNDLE_API="true"))
    for config, expected in (
        (EAST, outcome),
        (replace(EAST, istio=IstioConfig(cluster_trust_bundle="off")), "failed"),
    ):
        results = {r.check: r.outcome for r in compare_istio(istiod, config, HUB, trust_bundle=can)}
        assert results["istio_trust_bundle"] == expected


def test_a_value_taken_from_elsewhere_is_unknown_and_not_ok() -> None:
    item = charts.istiod()
    for variable in item["spec"]["template"]["spec"]["containers"][0]["env"]:
        if variable["name"] in {"ENABLE_CA_SERVER", "CLUSTER_ID"}:
            del variable["value"]
            variable["valueFrom"] = {"configMapKeyRef": {"name": "x", "key": "y"}}
    assert {name: result.outcome for name, result in complaints(item).items()} == {
        "istio_ca_server": "warning",
        "istio_cluster_name": "warning",
    }


def test_the_worst_of_several_counts_and_each_is_named() -> None:
    result = complaints(charts.istiod("west"), charts.istiod("Kubernetes", revision="canary"))
    detail = result["istio_cluster_name"].detail
    assert "istiod has 'west'" in detail
    assert "istiod-canary has 'Kubernetes'" in detail
    istiods = [charts.istiod("west", revision=f"r{number}") for number in range(9)]
    assert "and 4 more" in complaints(*istiods)["istio_cluster_name"].detail


def test_nothing_is_concluded_from_what_could_not_be_read() -> None:
    unread = Unread(what="list deployments.apps istiod", why="403", forbidden=True)
    (only,) = compare_istio(IstioFound(unread=(unread,)), EAST, HUB)
    assert (only.check, only.outcome) == ("istio_rights", "warning")
    assert only.detail == "may not list deployments.apps istiod"


TEXT = st.sampled_from(["", "x", "Kubernetes", "hub.example.org:15443", ":::", "[::1]:5", ".svc", "a" * 900])
NAMES = TEXT | st.text(max_size=12).filter(str.isprintable)
ENVIRONMENTS = st.builds(
    Environment,
    literal=st.lists(
        st.tuples(st.sampled_from(["ENABLE_CA_SERVER", "CLUSTER_ID", "EXTERNAL_CA", "CA_ADDRESS"]), NAMES),
        max_size=4,
    ).map(tuple),
    indirect=st.frozensets(st.sampled_from(["ENABLE_CA_SERVER", "CLUSTER_ID", "CA_ADDRESS"])),
)
WORLDS = st.builds(
    IstioFound,
    istiods=st.lists(
        st.builds(FoundIstiod, namespace=NAMES, name=NAMES, revision=NAMES, environment=ENVIRONMENTS),
        max_size=3,
    ).map(tuple),
    meshes=st.lists(
        st.builds(FoundMesh, namespace=NAMES, name=NAMES, trust_domain=NAMES, problem=NAMES), max_size=2
    ).map(tuple),
    injections=st.lists(
        st.builds(FoundInjection, namespace=NAMES, name=NAMES, ca_address=NAMES, cluster_name=NAMES),
        max_size=2,
    ).map(tuple),
    ztunnels=st.lists(
        st.builds(FoundZtunnel, namespace=NAMES, name=NAMES, account=NAMES, environment=ENVIRONMENTS),
        max_size=2,
    ).map(tuple),
    webhooks=st.lists(
        st.builds(
            FoundWebhook,
            name=NAMES,
            namespace=NAMES,
            service=NAMES,
            ca_bundles=st.lists(st.binary(max_size=40), max_size=2).map(tuple),
        ),
        max_size=2,
    ).map(tuple),
    unread=st.lists(st.builds(Unread, what=NAMES, why=NAMES, forbidden=st.booleans()), max_size=2).map(tuple),
)


@settings(deadline=None)
@given(WORLDS)
def test_whatever_is_found_every_finding_can_be_printed_and_has_a_remedy(world: IstioFound) -> None:
    results = compare_istio(world, EAST, HUB)
    assert len({result.check for result in results}) == len(results)
    for result in results:
        assert result.detail.isprintable()
        assert result.outcome == "ok" or result.remedy


def test_a_trusted_account_elsewhere_is_that_namespaces() -> None:
    policy = replace(EAST.policy, trusted_node_accounts=(ServiceAccountRef("kube-system", "ztunnel"),))
    config = replace(EAST, policy=policy)
    assert complaints(charts.ztunnel(namespace="kube-system"), config=config) == {}
    assert "ztunnel_account" in complaints(charts.ztunnel(), config=config)
