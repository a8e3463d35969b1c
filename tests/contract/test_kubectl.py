"""What kubectl asks of an API server: by itself where there is one, and each kind of request by hand, always.

kubectl is the one that ``FEDERATION_KUBECTL`` names, or the one in the path; it has to be 1.30 or later, for earlier
ones ask for OpenAPI v2, which the sandbox has not. The bodies in protobuf were recorded from kubectl 1.36.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from federation.core.config.clusters import ClusterTimeouts, Credentials
from federation.core.identity import ClusterName
from federation.kubernetes.session import ClusterSession
from federation.runtime.clock import SystemClock
from federation.state.kubernetes_events import About, EventWriter, StateEvent
from federation.state.kubernetes_store import object_name
from federation_sandbox.apiserver.tables import age
from federation_sandbox.cluster import SandboxCluster
from tests.contract.client import Api, Response, pod, unique
from tests.support.patience import PATIENCE

ROOT: Final = Path(__file__).resolve().parents[2]
KUBECTL: Final = os.environ.get("FEDERATION_KUBECTL") or shutil.which("kubectl")
TABLE: Final = (
    "application/json;as=Table;v=v1;g=meta.k8s.io,"
    "application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json"
)
PROTOBUF: Final = "application/vnd.kubernetes.protobuf"
RECORDED_NAME: Final = b"contract-00000000"  # as long as the names that the tests make
RECORDED: Final = {
    "namespaces": "azhzAAoPCgJ2MRIJTmFtZXNwYWNlEikKIQoRY29udHJhY3QtMDAwMDAwMDASABoAIgAqADIAOABCABIAGgIKABoAIgA=",
    "serviceaccounts": "azhzAAoUCgJ2MRIOU2VydmljZUFjY291bnQSNAoyChFjb250cmFjdC0wMDAwMDAwMBIAGhFjb250cmFjdC0wMDAwMDA"
    "wMCIAKgAyADgAQgAaACIA",
    "configmaps": "azhzAAoPCgJ2MRIJQ29uZmlnTWFwEkIKMgoRY29udHJhY3QtMDAwMDAwMDASABoRY29udHJhY3QtMDAwMDAwMDAiACoAMgA4A"
    "EIAEgwKA2tleRIFdmFsdWUaACIA",
    "secrets": "azhzAAoMCgJ2MRIGU2VjcmV0EkQKMgoRY29udHJhY3QtMDAwMDAwMDASABoRY29udHJhY3QtMDAwMDAwMDAiACoAMgA4AEIAEgwKA"
    "2tleRIFdmFsdWUaABoAIgA=",
    "roles": "azhzAAokChxyYmFjLmF1dGhvcml6YXRpb24uazhzLmlvL3YxEgRSb2xlEkMKMgoRY29udHJhY3QtMDAwMDAwMDASABoRY29udHJhY3Q"
    "tMDAwMDAwMDAiACoAMgA4AEIAEg0KA2dldBIAGgRwb2RzGgAiAA==",
    "rolebindings": "azhzAAorChxyYmFjLmF1dGhvcml6YXRpb24uazhzLmlvL3YxEgtSb2xlQmluZGluZxKWAQoyChFjb250cmFjdC0wMDAwMDA"
    "wMBIAGhFjb250cmFjdC0wMDAwMDAwMCIAKgAyADgAQgASKgoOU2VydmljZUFjY291bnQSABoDYXBwIhFjb250cmFjdC0wMDAwMDAwMBo0ChlyY"
    "mFjLmF1dGhvcml6YXRpb24uazhzLmlvEgRSb2xlGhFjb250cmFjdC0wMDAwMDAwMBoAIgA=",
    "clusterroles": "azhzAAorChxyYmFjLmF1dGhvcml6YXRpb24uazhzLmlvL3YxEgtDbHVzdGVyUm9sZRIyCiEKEWNvbnRyYWN0LTAwMDAwMDA"
    "wEgAaACIAKgAyADgAQgASDQoDZ2V0EgAaBHBvZHMaACIA",
    "clusterrolebindings": "azhzAAoyChxyYmFjLmF1dGhvcml6YXRpb24uazhzLmlvL3YxEhJDbHVzdGVyUm9sZUJpbmRpbmcSjAEKIQoRY29"
    "udHJhY3QtMDAwMDAwMDASABoAIgAqADIAOABCABIqCg5TZXJ2aWNlQWNjb3VudBIAGgNhcHAiEWNvbnRyYWN0LTAwMDAwMDAwGjsKGXJiYWMuY"
    "XV0aG9yaXphdGlvbi5rOHMuaW8SC0NsdXN0ZXJSb2xlGhFjb250cmFjdC0wMDAwMDAwMBoAIgA=",
    "token": "azhzAAooChhhdXRoZW50aWNhdGlvbi5rOHMuaW8vdjESDFRva2VuUmVxdWVzdBInChAKABIAGgAiACoAMgA4AEIAEg0KCGlzdGlvLWN"
    "hINgEGgQKABIAGgAiAA==",
    "selfsubjectaccessreviews": "azhzAAoyChdhdXRob3JpemF0aW9uLms4cy5pby92MRIXU2VsZlN1YmplY3RBY2Nlc3NSZXZpZXcSRgoQCgA"
    "SABoAIgAqADIAOABCABIoCiYKEWNvbnRyYWN0LTAwMDAwMDAwEgNnZXQaACIAKgRwb2RzMgA6ABoICAASABoAIAAaACIA",
    "selfsubjectrulesreviews": "azhzAAoxChdhdXRob3JpemF0aW9uLms4cy5pby92MRIWU2VsZlN1YmplY3RSdWxlc1JldmlldxItChAKABIAG"
    "gAiACoAMgA4AEIAEhMKEWNvbnRyYWN0LTAwMDAwMDAwGgQYACIAGgAiAA==",
    "selfsubjectreviews": "azhzAAotChhhdXRoZW50aWNhdGlvbi5rOHMuaW8vdjESEVNlbGZTdWJqZWN0UmV2aWV3EhoKEAoAEgAaACIAKgAyA"
    "DgAQgASBgoECgASABoAIgA=",
}
RBAC: Final = "/apis/rbac.authorization.k8s.io/v1"

Kubectl = Callable[..., Awaitable[tuple[int, str, str]]]


def recorded(kind: str, name: str) -> bytes:
    """What kubectl sent, with the test's own name in it."""
    return base64.b64decode(RECORDED[kind]).replace(RECORDED_NAME, name.encode())


async def send(api: Api, path: str, kind: str, name: str) -> Response:
    return await api.post(
        path, recorded(kind, name), content_type=PROTOBUF, accept=f"{PROTOBUF},application/json"
    )


async def made(api: Api, path: str, name: str) -> Any:
    """What is there now: a real server answers protobuf with protobuf, so it is read anew."""
    found = await api.get(f"{path}/{name}")
    assert found.status == 200, found.raw
    return found.json


@pytest.mark.parametrize(
    ("kind", "holds"),
    [
        ("serviceaccounts", {}),
        ("configmaps", {"data": {"key": "value"}}),
        ("secrets", {"data": {"key": base64.b64encode(b"value").decode()}, "type": "Opaque"}),
    ],
)
async def test_create_sends_core_objects_in_protobuf(
    api: Api, namespace: str, kind: str, holds: dict[str, Any]
) -> None:
    path = f"/api/v1/namespaces/{namespace}/{kind}"
    sent = await send(api, path, kind, namespace)
    assert sent.status == 201, sent.raw
    found = await made(api, path, namespace)
    assert {key: found[key] for key in holds} == holds


async def test_create_sends_a_namespace_in_protobuf(api: Api) -> None:
    name = unique("contract")
    assert (await send(api, "/api/v1/namespaces", "namespaces", name)).status == 201
    api.litter.append(f"/api/v1/namespaces/{name}")
    found = await made(api, "/api/v1/namespaces", name)
    assert found["metadata"]["labels"] == {"kubernetes.io/metadata.name": name}
    assert found["spec"]["finalizers"] == ["kubernetes"]


async def test_create_sends_rights_in_protobuf_and_they_count(api: Api, namespace: str) -> None:
    for kind in ("roles", "rolebindings"):
        sent = await send(api, f"{RBAC}/namespaces/{namespace}/{kind}", kind, namespace)
        assert sent.status == 201, sent.raw
    rules = (await made(api, f"{RBAC}/namespaces/{namespace}/roles", namespace))["rules"]
    assert rules == [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]
    binding = await made(api, f"{RBAC}/namespaces/{namespace}/rolebindings", namespace)
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "app", "namespace": namespace}]
    group = "rbac.authorization.k8s.io"
    assert binding["roleRef"] == {"apiGroup": group, "kind": "Role", "name": namespace}
    for kind in ("clusterroles", "clusterrolebindings"):
        sent = await send(api, f"{RBAC}/{kind}", kind, namespace)
        assert sent.status == 201, sent.raw
        api.litter.append(f"{RBAC}/{kind}/{namespace}")
    cluster_wide = await made(api, f"{RBAC}/clusterrolebindings", namespace)
    assert cluster_wide["roleRef"] == {"apiGroup": group, "kind": "ClusterRole", "name": namespace}


async def test_create_token_and_auth_ask_in_protobuf(api: Api, namespace: str) -> None:
    account = f"/api/v1/namespaces/{namespace}/serviceaccounts/app"
    asked = await api.post(f"{account}/token", recorded("token", namespace), content_type=PROTOBUF)
    assert asked.status == 201, asked.raw
    assert asked.json["spec"]["audiences"] == ["istio-ca"]
    assert asked.json["spec"]["expirationSeconds"] == 600
    reviewed = await api.review(asked.json["status"]["token"], "istio-ca")
    assert reviewed["user"]["username"] == f"system:serviceaccount:{namespace}:app"

    async def ask(group: str, kind: str) -> Any:
        path = f"/apis/{group}.k8s.io/v1/{kind}"
        answer = await api.post(path, recorded(kind, namespace), content_type=PROTOBUF)
        assert answer.status == 201, answer.raw
        return answer.json["status"]

    assert (await ask("authorization", "selfsubjectaccessreviews"))["allowed"] is True
    assert {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]} in (
        await ask("authorization", "selfsubjectrulesreviews")
    )["resourceRules"]
    assert "system:masters" in (await ask("authentication", "selfsubjectreviews"))["userInfo"]["groups"]


async def test_garbage_for_protobuf_is_refused(api: Api, maps: str, namespace: str) -> None:
    for body in (b"{}", b"k8s\x00\xff\xff\xff", recorded("secrets", namespace)):
        refused = await api.post(maps, body, content_type=PROTOBUF)
        assert (refused.status, refused.reason) == (400, "BadRequest"), body


async def test_a_list_is_a_table_where_it_is_asked_for(api: Api, namespace: str) -> None:
    await api.make(f"/api/v1/namespaces/{namespace}/pods", pod("one", "app"))
    found = (await api.get(f"/api/v1/namespaces/{namespace}/pods", accept=TABLE)).json
    assert (found["kind"], found["apiVersion"]) == ("Table", "meta.k8s.io/v1")
    assert found["metadata"]["resourceVersion"].isdecimal()
    columns = {column["name"]: column for column in found["columnDefinitions"]}
    ordered = ["Name", "Ready", "Status", "Restarts", "Age", "IP", "Node"]
    assert list(columns)[: len(ordered)] == ordered
    assert [columns[name]["priority"] for name in ordered] == [0, 0, 0, 0, 0, 1, 1]
    assert columns["Name"]["format"] == "name"
    (row,) = found["rows"]
    cells = dict(zip(columns, row["cells"], strict=True))
    wanted = {"Name": "one", "Ready": "0/1", "Restarts": "0", "IP": "<none>", "Node": "node-contract"}
    assert {name: str(cells[name]) for name in wanted} == wanted
    assert cells["Age"].endswith("s")
    assert row["object"]["kind"] == "PartialObjectMetadata"
    assert row["object"]["metadata"]["name"] == "one"


@pytest.mark.parametrize(
    ("path", "columns"),
    [
        ("/api/v1/namespaces", ["Name", "Status", "Age"]),
        ("/api/v1/namespaces/{}/configmaps", ["Name", "Data", "Age"]),
        ("/api/v1/namespaces/{}/secrets", ["Name", "Type", "Data", "Age"]),
        ("/api/v1/namespaces/{}/serviceaccounts", ["Name", "Age"]),
        ("/apis/coordination.k8s.io/v1/namespaces/{}/leases", ["Name", "Holder", "Age"]),
        (f"{RBAC}/namespaces/{{}}/rolebindings", ["Name", "Role", "Age"]),
        ("/apis/certificates.k8s.io/v1beta1/clustertrustbundles", ["Name", "SignerName"]),
    ],
)
async def test_each_type_has_its_columns(api: Api, namespace: str, path: str, columns: list[str]) -> None:
    found = (await api.get(path.format(namespace), accept=TABLE)).json
    assert [c["name"] for c in found["columnDefinitions"] if not c["priority"]][: len(columns)] == columns


async def test_one_object_and_a_watch_are_tables_too(api: Api, maps: str) -> None:
    await api.make(maps, {"metadata": {"name": "one"}, "data": {"a": "1", "b": "2"}})
    one = (await api.get(f"{maps}/one", accept=TABLE)).json
    (row,) = one["rows"]
    assert (one["kind"], row["cells"][:2]) == ("Table", ["one", 2])
    async with api.watch(maps, accept=TABLE, fieldSelector="metadata.name=one") as watcher:
        kind, event = await watcher.next()
        assert (kind, event["kind"], event["rows"][0]["cells"][:2]) == ("ADDED", "Table", ["one", 2])


async def test_openapi_says_that_the_server_validates_fields_and_runs_dry(api: Api) -> None:
    index = (await api.get("/openapi/v3")).json["paths"]
    for place, kind in (
        ("api/v1", "ServiceAccount"),
        ("apis/rbac.authorization.k8s.io/v1", "ClusterRole"),
        ("apis/coordination.k8s.io/v1", "Lease"),
    ):
        document = (await api.get(index[place]["serverRelativeURL"])).json
        assert document["openapi"].startswith("3.0")
        operations = [
            operation
            for path in document["paths"].values()
            for operation in [path.get("patch")]
            if operation and operation["x-kubernetes-group-version-kind"]["kind"] == kind
        ]
        names = {parameter["name"] for parameter in operations[0]["parameters"]}
        assert names >= {"dryRun", "fieldManager", "fieldValidation", "force"}, place
        kinds = [
            each["kind"]
            for schema in document["components"]["schemas"].values()
            for each in schema.get("x-kubernetes-group-version-kind", ())
        ]
        assert kind in kinds


async def test_events_are_found_by_the_object_they_are_about(api: Api, namespace: str) -> None:
    selector = f"involvedObject.name=x,involvedObject.namespace={namespace},involvedObject.kind=Pod"
    found = await api.get(f"/api/v1/namespaces/{namespace}/events", fieldSelector=selector)
    assert (found.status, found.json["items"]) == (200, [])


@pytest.mark.parametrize(
    ("method", "subresource"),
    [("GET", "log"), ("POST", "exec"), ("POST", "attach"), ("GET", "proxy")],
)
async def test_the_sandbox_says_that_no_kubelet_is_there(
    box: SandboxCluster, method: str, subresource: str
) -> None:
    await box.start()
    try:
        async with Api.open(box.kubeconfig()) as api:
            refused = await api.call(method, f"/api/v1/namespaces/default/pods/x/{subresource}")
        assert (refused.status, refused.reason) == (501, "NotImplemented")
        assert 'pod "x" has no ' in refused.json["message"]
        assert "no kubelet runs containers in it" in refused.json["message"]
        async with Api.open(box.kubeconfig("someone")) as unknown:
            hidden = await unknown.call(method, f"/api/v1/namespaces/default/pods/x/{subresource}")
        assert hidden.status == 403
    finally:
        await box.stop()


def test_ages_are_shown_as_kubectl_shows_them() -> None:
    minute, hour, day = 60, 3600, 86400
    shown = {
        -5: "<invalid>",
        0: "0s",
        119: "119s",
        2 * minute: "2m",
        9 * minute + 5: "9m5s",
        10 * minute + 5: "10m",
        179 * minute: "179m",
        3 * hour: "3h",
        7 * hour + 3 * minute: "7h3m",
        8 * hour + 3 * minute: "8h",
        47 * hour: "47h",
        2 * day + 3 * hour: "2d3h",
        8 * day + 3 * hour: "8d",
        729 * day: "729d",
        800 * day: "2y70d",
        9 * 365 * day: "9y",
    }
    assert {seconds: age(seconds) for seconds in shown} == shown


def kubectl_of(config: dict[str, Any], directory: Path) -> Kubectl:
    """Runs kubectl as the user of a kubeconfig: exit code, output, errors."""
    if KUBECTL is None:
        pytest.skip("no kubectl: name one with FEDERATION_KUBECTL")
    binary = KUBECTL
    file = directory / "kubeconfig"
    file.touch(mode=0o600)
    file.write_text(yaml.safe_dump(config), "utf-8")

    async def run(*arguments: str, stdin: str = "") -> tuple[int, str, str]:
        process = await asyncio.create_subprocess_exec(
            binary,
            f"--kubeconfig={file}",
            f"--cache-dir={directory}",
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"HOME": str(directory), "PATH": os.environ["PATH"]},
            cwd=ROOT,
        )
        async with asyncio.timeout(PATIENCE):
            out, err = await process.communicate(stdin.encode())
        return process.returncode or 0, out.decode(), err.decode()

    return run


@pytest.fixture
def kubectl(config: dict[str, Any], tmp_path: Path) -> Kubectl:
    return kubectl_of(config, tmp_path)


async def done(kubectl: Kubectl, *arguments: str, **options: Any) -> str:
    code, out, err = await kubectl(*arguments, **options)
    assert code == 0, (arguments, err)
    return out


async def test_kubectl_creates_shows_changes_and_asks(kubectl: Kubectl, namespace: str) -> None:
    here = ("-n", namespace)
    await done(kubectl, "create", "configmap", "settings", "--from-literal=a=1", *here)
    shown = (await done(kubectl, "get", "configmaps", "settings", *here)).splitlines()
    assert shown[0].split() == ["NAME", "DATA", "AGE"]
    assert shown[1].split()[:2] == ["settings", "1"]
    manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied"}, "data": {"a": "1"}}
    for data, word in (({"a": "1"}, "created"), ({"a": "1"}, "unchanged"), ({"b": "2"}, "configured")):
        text = json.dumps(manifest | {"data": data})
        assert word in await done(kubectl, "apply", "-f", "-", *here, stdin=text)
    found = json.loads(await done(kubectl, "get", "configmap", "applied", "-o", "json", *here))
    assert found["data"] == {"b": "2"}
    await done(kubectl, "label", "configmap", "applied", "app=hub", *here)
    assert "app=hub" in await done(kubectl, "describe", "configmap", "applied", *here)
    assert "Service Account" not in await done(kubectl, "describe", "serviceaccount", "app", *here)

    token = (await done(kubectl, "create", "token", "app", "--duration=10m", *here)).strip()
    assert token.count(".") == 2
    assert (await done(kubectl, "auth", "can-i", "get", "pods", *here)).strip() == "yes"
    await done(kubectl, "delete", "configmap", "applied", *here)
    code, _, err = await kubectl("get", "configmap", "applied", *here)
    assert (code, err.strip()) == (1, 'Error from server (NotFound): configmaps "applied" not found')


async def test_kubectl_describes_an_object_of_the_state_with_the_events_of_the_hub(
    config: dict[str, Any], kubectl: Kubectl, namespace: str, tmp_path: Path
) -> None:
    here, name = ("-n", namespace), object_name("current")
    await done(kubectl, "create", "configmap", name, *here)
    file = tmp_path / "state.kubeconfig"
    file.touch(mode=0o600)
    file.write_text(json.dumps(config), "utf-8")
    clock = SystemClock()
    credentials = Credentials(kubeconfig=file)
    timeouts = ClusterTimeouts()
    async with await ClusterSession.open(
        credentials, cluster=ClusterName("state"), timeouts=timeouts, clock=clock
    ) as session:
        writer = EventWriter(session, clock, namespace, "controller-0")
        for note in ("generation 4 is in force", "generation 5 is in force"):
            event = StateEvent(about=About.TRUST, reason="GenerationInForce", note=note)
            await writer.write(event, permitted=lambda: True)
    described = await done(kubectl, "describe", "configmap", name, *here)
    events = described.partition("\nEvents:")[2]
    assert "GenerationInForce" in events
    assert "generation 5 is in force" in events
    assert "federation-hub" in events
    listed = await done(kubectl, "events", "--for", f"configmap/{name}", *here)
    assert "generation 5 is in force" in listed


@pytest.fixture
async def cluster() -> AsyncIterator[SandboxCluster]:
    """A cluster as the demo's are: namespaces are filled and emptied."""
    async with SandboxCluster("east") as opened:
        yield opened


async def test_a_sandbox_is_set_up_as_the_manual_says(cluster: SandboxCluster, tmp_path: Path) -> None:
    kubectl = kubectl_of(cluster.kubeconfig(), tmp_path)
    await done(kubectl, "create", "namespace", "istio-system")
    first = (await done(kubectl, "apply", "-k", "manifests/member")).splitlines()
    assert len(first) > 15
    assert all(line.endswith(" created") for line in first)
    again = (await done(kubectl, "apply", "-k", "manifests/member")).splitlines()
    assert [line.rsplit(" ", 1)[1] for line in again] == ["unchanged"] * len(first)
    assert await done(kubectl, "diff", "-k", "manifests/member") == ""

    here = ("-n", "federation-system")
    token = (await done(kubectl, "create", "token", "federation-signer", "--duration=8760h", *here)).strip()
    async with Api.open(cluster.kubeconfig(), token=token) as signer:
        who = await signer.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", {})
        assert who.json["status"]["userInfo"]["username"].endswith(":federation-signer")
        assert (await signer.get("/api/v1/pods")).status == 200
        assert (await signer.get("/api/v1/secrets")).status == 403

    cluster.create_namespace("shop")
    cluster.create_pod("shop", "cart-0")
    code, _, err = await kubectl("logs", "cart-0", "-n", "shop")
    assert code == 1
    assert err.startswith('Error from server (NotImplemented): pod "cart-0" has no logs: this is a cluster')
    assert "Node:             node-1" in await done(kubectl, "describe", "pod", "cart-0", "-n", "shop")

    await done(kubectl, "delete", "-k", "manifests/member", "--ignore-not-found")
    assert cluster.get("namespaces", "", "federation-system") is None
    assert cluster.get("clusterroles", "", "federation-signer") is None
