"""The state in objects with exactly what manifests/hub grants: enough, each grant needed, and no more.

On the sandbox in every run, and on each API server that FEDERATION_REAL_KUBECONFIGS names; there the admission
policy is shown as well, which the sandbox does not have.
"""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from federation.core.config.clusters import ClusterTimeouts, Credentials
from federation.core.errors import StateUnavailable
from federation.core.identity import ClusterName
from federation.kubernetes.session import ClusterSession
from federation.runtime.clock import SystemClock
from federation.state.kubernetes_events import About, EventWriter, StateEvent
from federation.state.kubernetes_store import KubernetesStore
from federation.state.store import StateConflict
from federation_sandbox.cluster import SandboxCluster, kubeconfig
from tests.contract.client import Api, eventually, remove_namespace, unique
from tests.manifests.kustomize import Object
from tests.manifests.test_member import Grant, grants
from tests.manifests.tree import ROLES, Tree
from tests.state.conftest import SERVERS
from tests.state.places import Objects
from tests.support.patience import PATIENCE

HERE = "pod-0"
OTHER = {"signer": "controller", "controller": "signer"}
LEFT = f"horizons/{HERE}-signer"
PATHS = {
    "Namespace": "/api/v1/namespaces/{name}",
    "ServiceAccount": "/api/v1/namespaces/{namespace}/serviceaccounts/{name}",
    "ConfigMap": "/api/v1/namespaces/{namespace}/configmaps/{name}",
    "Role": "/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/roles/{name}",
    "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings/{name}",
    "ValidatingAdmissionPolicy": "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/{name}",
    "ValidatingAdmissionPolicyBinding": (
        "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings/{name}"
    ),
}


@dataclass(frozen=True)
class Hub:
    """What manifests/hub grants, under names of its own, and a store for each role's account."""

    api: Api
    real: bool
    system: str
    state: str
    roles: list[Object]
    places: dict[str, Objects]
    stores: dict[str, KubernetesStore]

    async def apply(self, item: Object) -> None:
        await applied(self.api, item)


async def applied(api: Api, item: Object) -> None:
    meta = item["metadata"]
    path = PATHS[item["kind"]].format(name=meta["name"], namespace=meta.get("namespace", ""))
    answer = await api.apply(path, item, "manifests-test", force=True)
    assert answer.status in {200, 201}, answer.raw


def renamed(text: str, system: str, state: str) -> str:
    """The same objects in other namespaces, so that tests beside this one are not disturbed."""
    text = text.replace("federation-system", system).replace("federation-state", state)
    return text.replace("federation-signer-documents", f"{state}-documents")


@asynccontextmanager
async def opened_hub(config: dict[str, Any], directory: Path, *, real: bool) -> AsyncIterator[Hub]:
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(Api.open(config))
        system, state = unique("system"), unique("state")
        for name in (system, state, f"{state}-signers"):
            stack.push_async_callback(remove_namespace, api, name)
        kinds = [kind for kind in PATHS if real or not kind.startswith("Validating")]
        objects: list[Object] = json.loads(renamed(json.dumps(Tree.of("hub").objects), system, state))
        for kind in kinds:
            for item in (item for item in objects if item["kind"] == kind):
                await applied(api, item)
                if kind.startswith("Validating"):
                    stack.push_async_callback(api.delete, PATHS[kind].format(name=item["metadata"]["name"]))
        for item in (item for item in objects if item["kind"] == "Deployment"):
            name = item["metadata"]["name"].replace("federation", HERE)
            made = {"metadata": {"name": name}, "spec": item["spec"]["template"]["spec"]}
            await api.make(f"/api/v1/namespaces/{system}/pods", made)
        places, stores = {}, {}
        for role in ROLES:
            place = Objects(directory / role, state)
            await write_kubeconfig(api, place.kubeconfig, system, role)
            places[role] = place
            stores[role] = await stack.enter_async_context(place.opened())
        roles = [
            item for item in objects if item["kind"] == "Role" and item["metadata"]["namespace"] != system
        ]
        yield Hub(api, real, system, state, roles, places, stores)


async def write_kubeconfig(api: Api, path: Path, namespace: str, role: str) -> None:
    """With a token as the kubelet mounts one: bound to the pod."""
    cluster = api.config["clusters"][0]["cluster"]
    bound = {"kind": "Pod", "apiVersion": "v1", "name": f"{HERE}-{role}"}
    token = await api.token(namespace, f"federation-{role}", boundObjectRef=bound, expirationSeconds=600)
    document = kubeconfig(cluster="hub", server=cluster["server"], ca_pem=b"", user=role, credential=token)
    document["clusters"][0]["cluster"] = cluster
    path.touch(mode=0o600)
    path.write_text(json.dumps(document))


@pytest.fixture(scope="module")
def box() -> SandboxCluster:
    return SandboxCluster("grants", controllers=False, signing_algorithm="ES256")


@pytest.fixture(params=SERVERS)
async def hub_state(
    request: pytest.FixtureRequest, box: SandboxCluster, tmp_path: Path
) -> AsyncIterator[Hub]:
    path: Path | None = request.param
    if path is not None:
        async with opened_hub(yaml.safe_load(path.read_text()), tmp_path, real=True) as opened:
            yield opened
        return
    async with box, opened_hub(box.kubeconfig(), tmp_path, real=False) as opened:
        yield opened


async def as_controller(store: KubernetesStore) -> None:
    """All that a controller does with its store, where a signer has left its bounds."""
    for key in await store.keys("generations/"):
        await store.delete(key)
    await store.write("generations/1", b"1", create=True)
    version = await store.write("current", b"1")
    await store.write("current", b"2", expected=version)
    await store.write("controllers/pod-0", b"report")
    assert "generations/1" in await store.keys("")
    await store.keys("signers/")
    left = await store.read(LEFT)
    assert left is not None
    await store.delete(LEFT, expected=left.version)
    assert await store.read(LEFT) is None
    await store.read("rotation")
    async with store.lead("controller", identity="pod-0") as leadership:
        assert leadership.leading


async def as_signer(store: KubernetesStore) -> None:
    """All that a signer does with its store."""
    await store.read("orders")
    await store.read("current")
    await store.read("signers/none")
    for key in (f"signers/{HERE}-signer", f"horizons/{HERE}-signer", f"callers/{HERE}-signer"):
        await store.write(key, b"1")
        await store.write(key, b"2")
        assert key in await store.keys(key.partition("/")[0] + "/")
        await store.delete(key)
        with pytest.raises(StateConflict):
            await store.write(key, b"3", expected="1")


USES: dict[str, Callable[[KubernetesStore], Awaitable[None]]] = {
    "controller": as_controller,
    "signer": as_signer,
}


async def leave(hub: Hub, role: str) -> None:
    """What a controller finds: bounds of a signer. Written as a signer, whose own grants are not what is looked at."""
    if role == "controller":
        await hub.stores["signer"].write(LEFT, b"x")


async def writes_events(hub: Hub) -> bool:
    """Whether it can write an Event, and count it there when the same happens again."""
    session = await ClusterSession.open(
        Credentials(kubeconfig=hub.places["controller"].kubeconfig),
        cluster=ClusterName("state"),
        timeouts=ClusterTimeouts(),
        clock=SystemClock(),
    )
    async with session:
        writer = EventWriter(session, SystemClock(), hub.state, "controller-0")
        for _ in range(2):
            event = StateEvent(about=About.TRUST, reason="Tried", note="tried", of="x")
            await writer.write(event, permitted=lambda: True)
    return writer.counts.failed == 0


async def works(hub: Hub, role: str) -> bool:
    """Whether a process of that role, just started, can do its work."""
    try:
        await leave(hub, role)
        async with hub.places[role].opened() as store:
            await USES[role](store)
        if role == "controller" and not await writes_events(hub):
            return False
    except StateUnavailable as error:
        if isinstance(error, StateConflict):
            raise
        assert "manifests/hub" in error.remedy, error.diagnostics()
        return False
    return True


async def ready(hub: Hub) -> None:
    """Wait for the authorizer and the admission policy of a real server to have seen it all."""
    for role in ROLES:
        assert await eventually(lambda role=role: works(hub, role)), f"the {role} cannot work"  # type: ignore[misc]
    if hub.real:

        async def in_force() -> bool:
            try:
                await hub.stores["signer"].write("signers/other-pod", b"x")
            except StateUnavailable:
                return True
            return False

        assert await eventually(in_force), "the admission policy never came into force"


async def test_the_grants_are_enough(hub_state: Hub) -> None:
    await ready(hub_state)
    for role in ROLES:
        await leave(hub_state, role)
        await USES[role](hub_state.stores[role])


FORBIDDEN: dict[str, list[tuple[str, Callable[[KubernetesStore], Awaitable[object]]]]] = {
    "signer": [
        ("write the current generation", lambda s: s.write("current", b"x")),
        ("write directives", lambda s: s.write("orders", b"x", create=True)),
        ("write a rotation", lambda s: s.write("rotation", b"x", create=True)),
        ("write a generation", lambda s: s.write("generations/2", b"x", create=True)),
        ("remove a generation", lambda s: s.delete("generations/1")),
        ("list generations", lambda s: s.keys("generations/")),
    ],
    "controller": [
        ("write a report of a signer", lambda s: s.write("signers/pod-0-signer", b"x")),
        ("write expiry bounds", lambda s: s.write("horizons/pod-0-signer", b"x", create=True)),
    ],
}


@pytest.mark.parametrize("role", ROLES)
async def test_only_the_other_role_may_write_its_documents(hub_state: Hub, role: str) -> None:
    await ready(hub_state)
    await hub_state.stores["signer"].write(f"horizons/{HERE}-signer", b"x")
    for what, attempt in FORBIDDEN[role]:
        with pytest.raises(StateUnavailable, match="403") as caught:
            await attempt(hub_state.stores[role])
        assert "manifests/hub" in caught.value.remedy, what
    for key in ("current", "generations/1", f"horizons/{HERE}-signer"):
        assert await hub_state.stores["controller"].read(key) is not None


async def test_a_signer_cannot_lead(hub_state: Hub) -> None:
    await ready(hub_state)
    with pytest.raises(StateUnavailable, match="403"):
        async with hub_state.stores["signer"].lead("controller", identity="x"):
            pytest.fail("a signer leads")


@pytest.mark.parametrize("role", ROLES)
async def test_neither_role_touches_the_configuration_or_a_secret_of_another(
    hub_state: Hub, role: str
) -> None:
    await ready(hub_state)
    system, state = hub_state.system, hub_state.state
    token = await hub_state.api.token(system, f"federation-{role}")
    async with Api.open(hub_state.api.config, token=token) as api:
        for method, path in (
            ("GET", f"/api/v1/namespaces/{system}/configmaps/federation-config"),
            ("PUT", f"/api/v1/namespaces/{system}/configmaps/federation-config"),
            ("DELETE", f"/api/v1/namespaces/{system}/configmaps/federation-config"),
            ("POST", f"/api/v1/namespaces/{system}/configmaps"),
            ("GET", f"/api/v1/namespaces/{system}/secrets/federation-intermediate"),
            ("GET", f"/api/v1/namespaces/{system}/secrets"),
            ("GET", f"/api/v1/namespaces/{system}/secrets/federation-{OTHER[role]}-kubeconfigs"),
            ("PUT", f"/api/v1/namespaces/{system}/secrets/federation-{OTHER[role]}-kubeconfigs"),
            ("PUT", f"/api/v1/namespaces/{system}/secrets/federation-{role}-kubeconfigs"),
            ("DELETE", f"/api/v1/namespaces/{system}/secrets/federation-{role}-kubeconfigs"),
            ("POST", f"/api/v1/namespaces/{system}/secrets"),
            ("GET", f"/api/v1/namespaces/{state}/secrets/any"),
            ("GET", f"/api/v1/namespaces/{state}-signers/secrets/any"),
            ("GET", "/api/v1/configmaps"),
            ("DELETE", f"/api/v1/namespaces/{state}/configmaps"),
            ("DELETE", f"/api/v1/namespaces/{state}-signers/configmaps"),
            ("DELETE", f"/api/v1/namespaces/{state}"),
        ):
            body = None if method in {"GET", "DELETE"} else {"metadata": {"name": "federation-config"}}
            answer = await api.call(method, path, body)
            assert answer.status == 403, (method, path, answer.raw)


def without(role: Object, grant: Grant) -> Object:
    """The same role, one grant fewer."""
    left = copy.deepcopy(role)
    left["rules"] = [
        {"apiGroups": [group], "resources": [resource], "verbs": [verb]}
        | ({"resourceNames": [name]} if name else {})
        for group, resource, name, verb in sorted(grants(role) - {grant})
    ]
    return left


async def test_without_any_one_grant_something_fails(hub_state: Hub) -> None:
    await ready(hub_state)
    tried = 0
    for item in hub_state.roles:
        role = item["metadata"]["name"].removeprefix("federation-")
        for grant in sorted(grants(item)):
            if grant == ("coordination.k8s.io", "leases", "", "create"):
                await hub_state.api.delete(
                    f"/apis/coordination.k8s.io/v1/namespaces/{hub_state.state}/leases/federation.controller"
                )
            await hub_state.apply(without(item, grant))

            async def fails(role: str = role) -> bool:
                return not await works(hub_state, role)

            assert await eventually(fails), f"the {role} can do without {grant}"
            await hub_state.apply(item)
            tried += 1
            if hub_state.real:
                assert await eventually(lambda role=role: works(hub_state, role)), grant  # type: ignore[misc]
    assert tried == 11 + 3 + 3 + 6


async def test_a_signer_writes_its_own_documents_and_no_other_s(hub_state: Hub) -> None:
    if not hub_state.real:
        pytest.skip("the sandbox has no admission policies; set FEDERATION_REAL_KUBECONFIGS")
    await ready(hub_state)
    signer, path = hub_state.stores["signer"], f"/api/v1/namespaces/{hub_state.state}-signers/configmaps"
    for key in ("signers/other", "horizons/other", "callers/other"):
        name = "federation." + key.replace("/", ".")
        await hub_state.api.make(path, {"metadata": {"name": name}, "data": {"document": "theirs"}})
        for attempt in (
            signer.write(key, b"x"),
            signer.write(f"{key}-new", b"x", create=True),
            signer.delete(key),
        ):
            with pytest.raises(StateUnavailable, match="its own pod only"):
                await attempt
        assert (await hub_state.api.get(f"{path}/{name}")).json["data"] == {"document": "theirs"}
    unbound = await hub_state.api.token(hub_state.system, "federation-signer")
    async with Api.open(hub_state.api.config, token=unbound) as api:  # a token of no pod
        answer = await api.post(path, {"metadata": {"name": f"federation.signers.{HERE}-signer"}})
        assert (answer.status, "its own pod only" in answer.json["message"]) == (403, True)
    assert await asyncio.wait_for(signer.write(f"signers/{HERE}-signer", b"mine"), PATIENCE)
