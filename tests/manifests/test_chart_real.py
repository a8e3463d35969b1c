"""Real API servers take what Helm renders, and an installation goes through its life there without losing anything.

Runs where FEDERATION_HELM names helm and FEDERATION_REAL_KUBECONFIGS an API server, in namespaces of its own names.
"""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from federation.core.errors import ClusterDenied, ClusterNotFound
from federation.kubernetes.session import ClusterSession
from tests.manifests import chart
from tests.manifests.test_chart import CHOICES
from tests.manifests.test_chart_rendered import OPERATORS
from tests.manifests.test_real import KUBECONFIGS, apply, finish, open_session
from tests.manifests.tree import ROLES

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not KUBECONFIGS, reason="FEDERATION_REAL_KUBECONFIGS names no real API server"),
    pytest.mark.skipif(not chart.HELM, reason="FEDERATION_HELM names no helm"),
]
RELEASE = "federation-hub"


@pytest.fixture
async def admin() -> AsyncIterator[ClusterSession]:
    async with await open_session(Path(KUBECONFIGS[0])) as session:
        yield session


@pytest.mark.parametrize("each", CHOICES, ids=lambda path: path.stem)
async def test_a_real_api_server_takes_every_rendering_strictly(admin: ClusterSession, each: Path) -> None:
    for item in chart.rendered("--values", each).objects:
        if item["kind"] in OPERATORS:
            continue
        if "namespace" in item["metadata"]:
            item["metadata"]["namespace"] = "default"  # a dry run makes no namespace that others could be in
        taken = await apply(admin, item, dryRun="All", fieldValidation="Strict")
        assert taken["metadata"]["name"] == item["metadata"]["name"]


@dataclass(frozen=True)
class Installation:
    """A release in a namespace of its own; ``admin`` sees what is there."""

    admin: ClusterSession
    namespace: str

    @property
    def state(self) -> str:
        return f"{self.namespace}-state"

    def helm(self, verb: str, *arguments: str | Path) -> str:
        where = ("--namespace", self.namespace, "--kubeconfig", KUBECONFIGS[0])
        return chart.helm(verb, RELEASE, *arguments, *where)

    def put(self, verb: str, *values: str) -> str:
        """Install or upgrade with these values."""
        options = (part for value in (f"state.namespace={self.state}", *values) for part in ("--set", value))
        return self.helm(verb, chart.CHART, *options)

    async def get(self, path: str) -> Any:
        """An object of the API, or None where it is not there."""
        with suppress(ClusterNotFound):
            return msgspec.json.decode(await self.admin.get(path))
        return None

    async def of_mine(self, group: str, kind: str, name: str) -> Any:
        return await self.get(f"{group}/namespaces/{self.namespace}/{kind}/{name}")

    async def replicas(self, role: str) -> int | None:
        found = await self.of_mine("/apis/apps/v1", "deployments", f"federation-{role}")
        return None if found is None else int(found["spec"]["replicas"])

    async def configuration(self) -> str:
        found = await self.of_mine("/api/v1", "configmaps", "federation-config")
        text: str = found["data"]["clusters.toml"]
        return text

    async def label(self, labels: dict[str, str]) -> None:
        place = {"name": self.namespace, "labels": labels}
        await apply(self.admin, {"apiVersion": "v1", "kind": "Namespace", "metadata": place})

    async def make_pod(self, body: Any) -> Any:
        """What the API server makes of a pod; none is made."""
        path = f"/api/v1/namespaces/{self.namespace}/pods"
        params = {"dryRun": "All", "fieldValidation": "Strict"}
        answer = await self.admin.request("POST", path, params=params, body=msgspec.json.encode(body))
        return msgspec.json.decode(answer)

    async def register(self, text: str) -> None:
        """Write to the configuration as one who registers a cluster does."""
        path = f"/api/v1/namespaces/{self.namespace}/configmaps/federation-config"
        body = msgspec.json.encode({"data": {"clusters.toml": text}})
        await self.admin.request("PATCH", path, body=body, content_type="application/merge-patch+json")


@pytest.fixture
async def installation(admin: ClusterSession) -> AsyncIterator[Installation]:
    namespace = f"federation-chart-{secrets.token_hex(4)}"
    await apply(admin, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    made = Installation(admin, namespace)
    try:
        yield made
    finally:
        policy = (
            f"/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/{made.state}-signer-documents"
        )
        for path in (policy, policy.replace("policies/", "policybindings/")):
            with suppress(ClusterNotFound):
                await admin.request("DELETE", path)
        for name in (namespace, made.state, f"{made.state}-signers"):
            with suppress(ClusterNotFound):
                await admin.request("DELETE", f"/api/v1/namespaces/{name}")
            await finish(admin, name)


async def test_pods_of_every_rendering_are_admitted_where_the_restricted_profile_is_enforced(
    installation: Installation,
) -> None:
    hub = installation
    await hub.label({"pod-security.kubernetes.io/enforce": "restricted"})
    for role in ROLES:
        account = {"name": f"federation-{role}", "namespace": hub.namespace}
        await apply(hub.admin, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account})

    for each in CHOICES:
        tree = chart.rendered("--values", each)
        for role in ROLES:
            spec = tree.pod(role)
            body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": role}, "spec": spec}
            admitted = await hub.make_pod(body)
            assert admitted["spec"]["containers"][0]["image"] == tree.container(role)["image"], each.stem
    spec["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    with pytest.raises(ClusterDenied, match="violates PodSecurity"):
        await hub.make_pod(body)


async def test_what_was_registered_outlives_upgrade_rollback_and_uninstallation(
    installation: Installation,
) -> None:
    hub = installation
    said = hub.put("install")
    assert "NO ROOT IS PINNED" in said
    assert "Secret federation-intermediate" in said  # what is missing, with the command that makes it
    first = await hub.configuration()
    registered = first + '\n[[clusters]]\nname = "east"\n'
    await hub.register(registered)

    said = hub.put("upgrade", "signer.replicas=3", "trustDomain=other.example.org")
    assert "is not the one that these values make" in said
    assert (await hub.replicas("signer"), await hub.replicas("controller")) == (3, 2)
    assert await hub.configuration() == registered

    hub.helm("rollback", "1")
    assert await hub.replicas("signer") == 2
    assert await hub.configuration() == registered

    hub.helm("uninstall")
    assert await hub.replicas("signer") is None
    assert await hub.configuration() == registered
    for name in (hub.state, f"{hub.state}-signers"):
        assert (await hub.get(f"/api/v1/namespaces/{name}"))["status"]["phase"] == "Active"

    hub.put("install")
    assert await hub.replicas("signer") == 2
    assert await hub.configuration() == registered


async def test_the_values_decide_where_they_own_the_configuration(installation: Installation) -> None:
    hub = installation
    mode = "configuration.mode=release"
    hub.put("install", mode)
    await hub.register("nothing")

    try:
        hub.put("upgrade", mode, "trustDomain=other.example.org")
    except (
        subprocess.CalledProcessError
    ) as refused:  # Helm 4 applies on the server, which knows who wrote what
        assert 'conflict with "' in refused.stderr
        assert ".data.clusters.toml" in refused.stderr
        options = (
            "--set",
            mode,
            "--set",
            f"state.namespace={hub.state}",
            "--set",
            "trustDomain=other.example.org",
        )
        hub.helm("upgrade", chart.CHART, "--force-conflicts", *options)

    assert 'trust_domain = "other.example.org"' in await hub.configuration()


async def test_a_configuration_of_one_s_own_is_not_written(installation: Installation) -> None:
    installation.put("install", "configuration.mode=external")

    assert await installation.of_mine("/api/v1", "configmaps", "federation-config") is None
    assert await installation.replicas("controller") == 2
