"""What is read of Istio: the charts' objects, each right by itself, and nothing that could break the check."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.clusters.istio_inventory import (
    FoundIstiod,
    IstioFound,
    parse_go_bool,
    read_injection,
    read_istio,
    read_istiod,
    read_mesh,
    read_webhook,
    read_ztunnel,
)
from federation.core.config.clusters import (
    ClusterConfig,
    ClusterPolicy,
    ClusterTimeouts,
    Credentials,
    IstioConfig,
)
from federation.core.identity import ClusterId, ClusterName, ServiceAccountRef
from federation.kubernetes.session import ClusterSession
from federation.runtime.clock import SystemClock
from federation_sandbox.apiserver.faults import Garbage, Hang
from federation_sandbox.cluster import SandboxCluster
from tests.support import istio_objects as charts

MEMBER = Path(__file__).parents[2] / "manifests" / "member"
TIMEOUTS = ClusterTimeouts(connect=1, request=5)


def raw(item: Any) -> msgspec.Raw:
    return msgspec.Raw(json.dumps(item).encode())


def roles() -> list[dict[str, Any]]:
    """The ClusterRoles of the controller: what it may always do, and what it may read of Istio besides."""
    files = [MEMBER / name for name in ("controller.yaml", "istio-reader.yaml")]
    objects = [item for file in files for item in yaml.safe_load_all(file.read_text())]
    return [item for item in objects if item["kind"] == "ClusterRole"]


class World:
    """A cluster in a box with the member's grants, and what an istiod leaves there."""

    def __init__(self, cluster: SandboxCluster, config: ClusterConfig) -> None:
        self.cluster = cluster
        self.config = config

    def install(self, *objects: dict[str, Any]) -> None:
        for item in objects:
            namespace = item["metadata"].get("namespace")
            if namespace and self.cluster.get("namespaces", "", namespace) is None:
                self.cluster.create_namespace(namespace)
        self.cluster.apply_manifest(objects)

    async def read(self, config: ClusterConfig | None = None) -> IstioFound:
        session = await ClusterSession.open(
            self.config.controller,
            cluster=self.config.name,
            timeouts=self.config.timeouts,
            clock=SystemClock(),
        )
        async with session:
            return await read_istio(session, config or self.config)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with SandboxCluster("east") as cluster:
        cluster.create_namespace("istio-system")
        for name in yaml.safe_load((MEMBER / "kustomization.yaml").read_text())["resources"]:
            cluster.apply_manifest(doc for doc in yaml.safe_load_all((MEMBER / name).read_text()) if doc)
        path = tmp_path / "controller"
        path.write_text(
            json.dumps(cluster.service_account_kubeconfig("federation-system", "federation-controller"))
        )
        credentials = Credentials(kubeconfig=path)
        yield World(
            cluster,
            ClusterConfig(
                name=ClusterName("east"),
                cluster_id=ClusterId("east"),
                signer=credentials,
                controller=credentials,
                timeouts=TIMEOUTS,
            ),
        )


def unread(found: IstioFound) -> list[str]:
    return [entry.what for entry in found.unread]


async def test_a_control_plane_is_read_with_its_settings(world: World) -> None:
    world.install(charts.istiod(), charts.mesh(aliases=("old.example",)), charts.injection(network="net-a"))
    found = await world.read()
    assert unread(found) == []
    (istiod,) = found.istiods
    assert (str(istiod), istiod.revision, istiod.account) == ("istio-system/istiod", "default", "istiod")
    assert istiod.image.endswith("pilot:1.31.0")
    assert istiod.ca_server is False
    assert istiod.cluster_name == "east"
    assert {"secret/istiod-tls", "secret/cacerts", "configmap/istio-ca-root-cert"} <= istiod.mounts
    mesh, injection = found.of(istiod)
    assert mesh is not None
    assert injection is not None
    assert (mesh.trust_domain, mesh.trust_domain_aliases) == (charts.TRUST_DOMAIN, ("old.example",))
    assert (injection.ca_address, injection.cluster_name, injection.network) == (
        charts.LISTENER,
        "east",
        "net-a",
    )


async def test_other_variables_than_those_looked_at_are_not_kept(world: World) -> None:
    world.install(charts.istiod())
    assert "hunter2" not in repr(await world.read())


async def test_ztunnel_is_found_in_any_namespace(world: World) -> None:
    world.install(charts.ztunnel(namespace="ztunnel"))
    (ztunnel,) = (await world.read()).ztunnels
    assert (str(ztunnel), ztunnel.account) == ("ztunnel/ztunnel", "ztunnel")
    assert ztunnel.environment.get("CA_ADDRESS") == charts.LISTENER
    assert ztunnel.environment.get("ISTIO_META_CLUSTER_ID") == "east"


async def test_a_revision_that_is_configured_is_read_under_its_names(world: World) -> None:
    names = [name + "-canary" for name in ("istiod", "istio", "istio-sidecar-injector")]
    (role,) = (r for r in roles() if r["metadata"]["name"] == "federation-istio-reader")
    for rule in role["rules"]:
        if "resourceNames" in rule:
            rule["resourceNames"] = [*rule["resourceNames"], *names]
    world.cluster.apply_manifest([role])
    world.install(charts.istiod(revision="canary"), charts.mesh(revision="canary"))
    world.install(charts.injection(revision="canary"))
    config = replace(world.config, istio=IstioConfig(revisions=("canary",)))
    found = await world.read(config)
    assert unread(found) == []
    (istiod,) = found.istiods
    assert istiod.revision == "canary"
    assert None not in found.of(istiod)


async def test_a_ztunnel_of_another_name_is_looked_for_by_its_account(world: World) -> None:
    policy = ClusterPolicy(trusted_node_accounts=(ServiceAccountRef("mesh", "tunnel"),))
    found = await world.read(replace(world.config, policy=policy))
    assert "list daemonsets.apps tunnel" in unread(found)


RIGHTS = {
    ("apps", "deployments", "istiod"): ("list deployments.apps istiod", "istiods"),
    ("apps", "daemonsets", "ztunnel"): ("list daemonsets.apps ztunnel", "ztunnels"),
    ("", "configmaps", "istio"): ("list configmaps istio", "meshes"),
    ("", "configmaps", "istio-sidecar-injector"): ("list configmaps istio-sidecar-injector", "injections"),
    ("", "validatingwebhookconfigurations", ""): (
        "list validatingwebhookconfigurations.admissionregistration.k8s.io",
        "",  # the mutating ones are read
    ),
    ("", "mutatingwebhookconfigurations", ""): (
        "list mutatingwebhookconfigurations.admissionregistration.k8s.io",
        "webhooks",
    ),
}


@pytest.mark.parametrize("right", RIGHTS, ids=["/".join(right) for right in RIGHTS])
async def test_a_right_that_is_missing_is_named_and_the_rest_is_read(
    world: World, right: tuple[str, str, str]
) -> None:
    world.install(
        charts.istiod(), charts.mesh(), charts.injection(), charts.ztunnel(), charts.injector(b"one")
    )
    _, resource, name = right
    role, rule = next(
        (role, rule)
        for role in reversed(roles())
        for rule in role["rules"]
        if resource in rule.get("resources", ())
    )
    if name:
        rule["resourceNames"] = [n for n in rule["resourceNames"] if n != name] or ["no-such"]
    else:
        rule["resources"].remove(resource)
    world.cluster.apply_manifest([role])
    found = await world.read()
    what, kind = RIGHTS[right]
    (missing,) = found.unread
    assert (missing.what, missing.forbidden) == (what, True)
    for other in ("istiods", "meshes", "injections", "ztunnels", "webhooks"):
        assert bool(getattr(found, other)) is (other != kind)


async def test_reading_changes_nothing(world: World) -> None:
    world.cluster.requests.reset()
    await world.read()
    assert world.cluster.requests.writes == 0


@pytest.mark.parametrize("item", [b'{"metadata":{"name":1}}', b'{"metadata":{"name":"\xff"}}', b"[" * 5000])
async def test_garbage_is_said_and_the_rest_is_read(world: World, item: bytes) -> None:
    world.install(charts.istiod(), charts.mesh())
    body = b'{"metadata":{"resourceVersion":"1"},"items":[' + item + b"]}"
    fault = Garbage(code=200, content_type="application/json", body=body)
    world.cluster.faults.inject(fault, path="/apis/apps/v1/deployments")
    found = await world.read()
    assert unread(found) == ["list deployments.apps istiod"]
    assert found.meshes


async def test_settings_that_would_take_long_to_read_hold_up_nothing_else(world: World) -> None:
    """The leader reads them in a cluster that joins, again and again, on the loop of all others."""
    line = "defaultConfig: {proxyMetadata: {a: b}, holdApplicationUntilProxyStarts: true}\n"
    for number in range(6):
        mesh = charts.mesh(namespace=f"mesh-{number}")
        mesh["data"]["mesh"] = "".join(f"x{n}{line}" for n in range(1200))
        world.install(mesh)
    loop, process = time.thread_time(), time.process_time()
    found = await world.read()
    loop, process = time.thread_time() - loop, time.process_time() - process
    assert 0 < len(found.meshes) < 6
    assert unread(found) == ["list configmaps istio"]
    assert loop < process / 2  # CPU time, which other work on the machine does not change


async def test_after_a_list_without_an_answer_nothing_more_is_asked(world: World) -> None:
    world.install(charts.istiod(), charts.ztunnel())
    world.cluster.faults.inject(Hang(), path="/apis/apps/v1/deployments")
    config = replace(world.config, timeouts=ClusterTimeouts(connect=1, request=1))
    world.config = config
    found = await world.read()
    assert (found.webhooks, found.istiods, found.ztunnels) == ((), (), ())
    hung, *rest = found.unread
    assert hung.what == "list deployments.apps istiod"
    assert {entry.what for entry in rest} >= {"list configmaps istio", "list daemonsets.apps ztunnel"}
    assert all("not asked" in entry.why for entry in rest)


def test_a_variable_that_comes_from_elsewhere_is_not_known() -> None:
    item = charts.istiod()
    variables = item["spec"]["template"]["spec"]["containers"][0]["env"]
    for variable in variables:
        if variable["name"] in {"ENABLE_CA_SERVER", "CLUSTER_ID"}:
            del variable["value"]
            variable["valueFrom"] = {"configMapKeyRef": {"name": "x", "key": "y"}}
    istiod = read_istiod(raw(item))
    assert istiod.ca_server is None
    assert istiod.cluster_name is None


def test_of_a_variable_that_is_there_twice_the_last_counts() -> None:
    item = charts.istiod()
    item["spec"]["template"]["spec"]["containers"][0]["env"] += [
        {"name": "ENABLE_CA_SERVER", "value": "true"}
    ]
    assert read_istiod(raw(item)).ca_server is True


def test_without_settings_istio_has_its_own_defaults() -> None:
    istiod = read_istiod(raw(charts.istiod(ENABLE_CA_SERVER=None, CLUSTER_ID=None)))
    assert istiod.ca_server is True
    assert istiod.cluster_name == "Kubernetes"


def test_a_deployment_is_settled_once_every_replica_is_new_and_ready() -> None:
    item = charts.istiod()
    item["metadata"]["generation"] = 2
    good = {"replicas": 1, "readyReplicas": 1, "updatedReplicas": 1, "observedGeneration": 2}

    def settled(**status: int) -> bool:
        return read_istiod(raw({**item, "status": good | status})).settled

    assert settled()
    assert not settled(observedGeneration=1)
    assert not settled(readyReplicas=0)
    assert not settled(updatedReplicas=0)
    assert not settled(replicas=2)  # one of the former template still runs
    assert not read_istiod(raw(item)).settled


def test_a_webhook_names_its_istiod_and_every_bundle() -> None:
    item = charts.injector(b"one", revision="canary")
    item["webhooks"][1]["clientConfig"] = {"service": {"name": "istiod-canary", "namespace": "istio-system"}}
    found = read_webhook(raw(item), "mutatingwebhook")
    assert found is not None
    assert (found.namespace, found.service, found.revision) == ("istio-system", "istiod-canary", "canary")
    assert found.ca_bundles == (b"one", b"")
    item["webhooks"] = [{"clientConfig": {"service": {"name": "cert-manager", "namespace": "x"}}}]
    assert read_webhook(raw(item), "mutatingwebhook") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- a list",
        "{",
        "a: &x [1]\nb: *y",
        "a0: &a0 [x,x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1},*a{i - 1}]\n" for i in range(1, 60)),
        "[" * 30 + "]" * 30,
        "trustDomain: [not, text]",
    ],
)
def test_mesh_settings_that_cannot_be_understood_leave_no_trust_domain(text: str) -> None:
    item = charts.mesh()
    item["data"]["mesh"] = text
    found = read_mesh(raw(item))
    assert found is not None
    assert found.trust_domain == ""
    assert bool(found.problem) is (text[:5] != "trust")


def test_mesh_settings_are_read_as_istiod_reads_them() -> None:
    item = charts.mesh()
    item["data"]["mesh"] = (
        "a: &x {trustDomain: one.example}\ntrustDomainAliases: &l [n, 'y']\nb: *l\n<<: *x\n"
    )
    found = read_mesh(raw(item))
    assert found is not None
    assert not found.problem
    assert found.trust_domain == "one.example"
    assert found.trust_domain_aliases == ("y",)  # a bare n is a boolean to go-yaml


def test_values_of_the_injector_that_are_no_json_are_a_problem() -> None:
    item = charts.injection()
    item["data"]["values"] = "{"
    found = read_injection(raw(item))
    assert found is not None
    assert found.problem


def test_other_objects_of_those_names_are_not_istios() -> None:
    for item, read in ((charts.mesh(), read_mesh), (charts.injection(), read_injection)):
        item["data"] = {"something": "else"}
        assert read(raw(item)) is None


def test_texts_are_bounded_and_printable() -> None:
    found = read_mesh(raw(charts.mesh("evil\x1b[31m" + "x" * 5000)))
    assert found is not None
    assert found.trust_domain.isprintable()
    assert len(found.trust_domain) < 1100


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def _spoiled(item: Any, replacement: Any, path: list[int]) -> Any:
    """The object with one value somewhere in it replaced."""
    if not path or not isinstance(item, dict | list) or not item:
        return replacement
    copied = dict(item) if isinstance(item, dict) else list(item)
    keys = list(copied) if isinstance(copied, dict) else list(range(len(copied)))
    key = keys[path[0] % len(keys)]
    copied[key] = _spoiled(copied[key], replacement, path[1:])
    return copied


READERS: list[tuple[Callable[[msgspec.Raw], Any], Any]] = [
    (read_istiod, charts.istiod()),
    (read_ztunnel, charts.ztunnel()),
    (read_mesh, charts.mesh()),
    (read_injection, charts.injection()),
    (lambda item: read_webhook(item, "mutatingwebhook"), charts.injector(b"x")),
]


@settings(deadline=None)
@given(st.sampled_from(READERS), JSON, st.lists(st.integers(0, 20), max_size=9))
def test_whatever_an_object_holds_it_is_read_or_refused(
    reader: tuple[Callable[[msgspec.Raw], Any], Any], replacement: Any, path: list[int]
) -> None:
    read, item = reader
    good = read(raw(item))
    assert good is not None
    try:
        found = read(raw(_spoiled(item, replacement, path)))
    except msgspec.MsgspecError:
        return
    assert found is None or type(found) is type(good)


@pytest.mark.parametrize(
    ("text", "value"), [("1", True), ("t", True), ("False", False), ("f", False), ("no", None), (None, None)]
)
def test_booleans_are_those_of_go(text: str | None, value: bool | None) -> None:
    assert parse_go_bool(text, True) is (True if value is None else value)
    assert parse_go_bool(text, False) is (False if value is None else value)


def test_what_belongs_to_an_istiod_is_of_its_namespace_and_revision() -> None:
    one, other = FoundIstiod(namespace="a", name="istiod"), FoundIstiod(namespace="b", name="istiod")
    mesh = read_mesh(raw(charts.mesh(namespace="a")))
    assert mesh is not None
    found = IstioFound(istiods=(one, other), meshes=(mesh,))
    assert found.of(one) == (mesh, None)
    assert found.of(other) == (None, None)
