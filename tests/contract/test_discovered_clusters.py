"""Clusters are found on the sandbox and on a real API server alike, with the rights that the chart grants."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from federation_sandbox.cluster import SandboxCluster
from tests.contract.client import Api
from tests.controller.discovering import DiscoveringLeader, named
from tests.support.found_clusters import (
    PROFILES,
    cluster_api_secret,
    cluster_profile,
    grants,
    remote_secret,
)

PATH = f"/apis/{PROFILES.group}/{PROFILES.version}"


@pytest.fixture
async def profiles(api: Api, box: SandboxCluster, namespace: str) -> str:
    """The path of the namespace's ClusterProfiles."""
    if (await api.get(PATH)).status == 404:
        if api.config["clusters"] != box.kubeconfig()["clusters"]:
            pytest.skip(
                "it serves no ClusterProfiles: apply the CRD of kubernetes-sigs/cluster-inventory-api"
            )
        box.register(PROFILES)
    return f"{PATH}/namespaces/{namespace}/{PROFILES.plural}"


async def opened(config: dict[str, Any], token: str, directory: Path) -> DiscoveringLeader:
    leader = DiscoveringLeader(directory)
    user = config["contexts"][0]["context"]["user"]
    file = directory / "hub"
    file.touch(mode=0o600)
    file.write_text(json.dumps({**config, "users": [{"name": user, "user": {"token": token}}]}), "utf-8")
    return leader


async def test_every_source_is_read_with_the_rights_that_the_chart_grants(
    config: dict[str, Any], api: Api, namespace: str, profiles: str, tmp_path: Path
) -> None:
    for group, resource in (("", "secrets"), (PROFILES.group, PROFILES.plural)):
        role, binding = grants(namespace, group, resource, account="app", of=namespace)
        path = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}"
        await api.make(f"{path}/roles", role)
        await api.make(f"{path}/rolebindings", binding)
    secrets = f"/api/v1/namespaces/{namespace}/secrets"
    await api.make(secrets, remote_secret("east", "https://east:6443", namespace=namespace))
    await api.make(secrets, cluster_api_secret("west", "https://west:6443", namespace=namespace))
    profile = cluster_profile("north", "https://proxy/north", namespace=namespace)
    made = await api.make(profiles, profile)
    if "status" not in made:  # where status is a resource of its own, as with the real CRD
        answer = await api.put(f"{profiles}/north/status", {**made, "status": profile["status"]})
        assert answer.status == 200, answer.raw

    leader = await opened(config, await api.token(namespace, "app"), tmp_path)
    leader.configure(
        f'istio_secrets = ["{namespace}"]\nlabelled_secrets = ["{namespace}"]\n'
        f'cluster_profiles = ["{namespace}"]\nselector = "cluster.x-k8s.io/cluster-name"\n'
    )
    await leader.source.load()
    async with leader.looking():
        found = await leader.until(lambda found: len(found.clusters) == 3)
        servers = {name: cluster.server for name, cluster in named(found).items()}
        assert servers == {
            "east": "https://east:6443",
            "west": "https://west:6443",
            "north": "https://proxy/north",
        }
        assert [each.problem for each in found.sources] == [None, None, None]
        assert (await api.delete(f"{profiles}/north")).status == 200
        await api.delete(f"{secrets}/istio-remote-secret-east")
        found = await leader.until(lambda found: len(found.clusters) == 1)
        assert set(named(found)) == {"west"}


async def test_a_source_without_its_right_says_so_and_stops_no_other(
    config: dict[str, Any], api: Api, namespace: str, profiles: str, tmp_path: Path
) -> None:
    assert profiles
    role, binding = grants(namespace, "", "secrets", account="app", of=namespace)
    path = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}"
    await api.make(f"{path}/roles", role)
    await api.make(f"{path}/rolebindings", binding)
    east = remote_secret("east", "https://east:6443", namespace=namespace)
    await api.make(f"/api/v1/namespaces/{namespace}/secrets", east)
    leader = await opened(config, await api.token(namespace, "app"), tmp_path)
    leader.configure(f'istio_secrets = ["{namespace}"]\ncluster_profiles = ["{namespace}"]\n')
    await leader.source.load()
    async with leader.looking():
        found = await leader.until(lambda found: len(found.sources) == 2 and len(found.clusters) == 1)
        read, refused = found.sources
        assert (read.source, read.problem) == ("istio_secret", None)
        assert refused.problem is not None
        assert refused.problem.code == "forbidden"
        assert f"get and list {PROFILES.plural}.{PROFILES.group}" in refused.problem.remedy
