"""The hands of a test inside a sandbox cluster, and what they are good for."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import jwt
import pytest

from federation_sandbox.apiserver.resources import Resource
from federation_sandbox.cluster import DEFAULT_ISSUER, SandboxCluster
from tests.contract.client import Api, config_map

BUNDLE = "istio-ca-root-cert"


class FixedClock:
    """A clock that does not move."""

    def now(self) -> datetime:
        return datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)


@pytest.fixture
async def cluster() -> AsyncIterator[SandboxCluster]:
    async with SandboxCluster("world", signing_algorithm="ES256") as opened:
        yield opened


@pytest.fixture
async def api(cluster: SandboxCluster) -> AsyncIterator[Api]:
    async with Api.open(cluster.kubeconfig()) as opened:
        yield opened


async def test_a_new_cluster_looks_like_one(cluster: SandboxCluster, api: Api) -> None:
    namespaces = (await api.get("/api/v1/namespaces")).json["items"]
    names = {item["metadata"]["name"] for item in namespaces}
    assert names == {"default", "kube-node-lease", "kube-public", "kube-system"}
    assert (await api.get("/api/v1/namespaces/default/serviceaccounts/default")).status == 200
    bundle = cluster.config_map("default", "kube-root-ca.crt")
    assert bundle is not None
    assert bundle["data"] == {"ca.crt": cluster.ca_pem.decode()}
    assert cluster.objects("pods") == []


async def test_a_namespace_is_emptied_and_gone_when_deleted(cluster: SandboxCluster, api: Api) -> None:
    cluster.create_namespace("shop", {"a": "b"})
    cluster.create("configmaps", config_map("one"), namespace="shop")
    assert (await api.delete("/api/v1/namespaces/shop")).status == 200
    assert (await api.get("/api/v1/namespaces/shop")).status == 404
    assert cluster.config_map("shop", "one") is None


async def test_a_namespace_can_be_kept_terminating(cluster: SandboxCluster, api: Api) -> None:
    cluster.create_namespace("shop")
    cluster.controllers.enabled = False
    cluster.delete("namespaces", "", "shop")
    assert (await api.get("/api/v1/namespaces/shop")).json["status"]["phase"] == "Terminating"
    assert (await api.post("/api/v1/namespaces/shop/configmaps", config_map("x"))).status == 403
    cluster.controllers.finalize("shop")
    assert cluster.get("namespaces", "", "shop") is None


async def test_a_workload_and_its_token(cluster: SandboxCluster, api: Api) -> None:
    cluster.create_namespace("shop")
    cluster.create_service_account("shop", "cart")
    pod = cluster.create_pod("shop", "cart-1", "cart", node="n1", labels={"app": "cart"})
    assert pod["status"]["phase"] == "Running"
    claims = jwt.decode(cluster.token("shop", "cart", pod="cart-1"), options={"verify_signature": False})
    assert (claims["iss"], claims["aud"]) == (DEFAULT_ISSUER, ["istio-ca"])
    node = cluster.get("nodes", "", "n1")
    assert node is not None
    assert claims["kubernetes.io"]["node"] == {"name": "n1", "uid": node["metadata"]["uid"]}
    cluster.delete("pods", "shop", "cart-1", grace=30)
    assert "deletionTimestamp" in (await api.get("/api/v1/namespaces/shop/pods/cart-1")).meta
    cluster.delete("pods", "shop", "cart-1")
    assert cluster.get("pods", "shop", "cart-1") is None


async def test_keys_rotate_and_retire(cluster: SandboxCluster, api: Api) -> None:
    old = cluster.token("default", "default")
    cluster.keys.rotate()
    new = cluster.token("default", "default")
    keys = (await api.get("/openid/v1/jwks", accept="*/*")).json["keys"]
    kids = [jwt.get_unverified_header(token)["kid"] for token in (new, old)]
    assert [key["kid"] for key in keys] == kids
    assert (await api.review(old, "istio-ca"))["authenticated"] is True
    cluster.keys.retire()
    assert "authenticated" not in await api.review(old, "istio-ca")
    assert (await api.review(new, "istio-ca"))["authenticated"] is True
    rsa_key = cluster.keys.rotate("RS256").jwk()
    assert (rsa_key["kty"], rsa_key["alg"]) == ("RSA", "RS256")


async def test_a_token_of_one_cluster_is_worth_nothing_at_another_of_the_same_issuer(api: Api) -> None:
    other = SandboxCluster("other", signing_algorithm="ES256")
    status = await api.review(other.token("default", "default"), "istio-ca")
    assert "authenticated" not in status


async def test_manifests_grant_and_are_enforced(cluster: SandboxCluster) -> None:
    cluster.create_namespace("mesh")
    cluster.create_service_account("mesh", "signer")
    group = "rbac.authorization.k8s.io"
    cluster.apply_manifest(
        [
            {
                "apiVersion": f"{group}/v1",
                "kind": "ClusterRole",
                "metadata": {"name": "signer"},
                "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}],
            },
            {
                "apiVersion": f"{group}/v1",
                "kind": "ClusterRoleBinding",
                "metadata": {"name": "signer"},
                "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "signer"},
                "subjects": [{"kind": "ServiceAccount", "name": "signer", "namespace": "mesh"}],
            },
        ]
    )
    async with Api.open(cluster.service_account_kubeconfig("mesh", "signer")) as signer:
        assert (await signer.get("/api/v1/pods")).status == 200
        assert (await signer.get("/api/v1/secrets")).status == 403
    assert [record.status for record in cluster.requests.by("system:serviceaccount:mesh:signer")] == [
        200,
        403,
    ]


async def test_users_by_token_and_by_certificate(cluster: SandboxCluster) -> None:
    token = cluster.user_token("ops", ["system:masters"])
    async with Api.open(cluster.kubeconfig("ops", token=token)) as by_token:
        assert (await by_token.get("/api/v1/secrets")).status == 200
        cluster.revoke_token(token)
        assert (await by_token.get("/api/v1/secrets")).status == 401
    async with Api.open(cluster.kubeconfig("ops")) as by_certificate:
        assert (await by_certificate.get("/api")).status == 200
        assert (await by_certificate.get("/api/v1/secrets")).status == 403


async def test_a_kubeconfig_file_is_for_its_owner_only(cluster: SandboxCluster, tmp_path: Path) -> None:
    file = cluster.write_kubeconfig(tmp_path / "config")
    assert file.stat().st_mode & 0o777 == 0o600
    assert json.loads(file.read_text()) == cluster.kubeconfig()


async def test_registered_resources_behave_like_custom_ones(cluster: SandboxCluster, api: Api) -> None:
    cluster.register(
        Resource(
            group="cert-manager.io",
            version="v1",
            plural="certificaterequests",
            kind="CertificateRequest",
            subresources=frozenset({"status"}),
            strategic=False,
        )
    )
    path = "/apis/cert-manager.io/v1/namespaces/default/certificaterequests"
    made = await api.make(path, {"metadata": {"generateName": "csr-"}, "spec": {"request": "x"}})
    name = made["metadata"]["name"]
    assert made["metadata"]["generation"] == 1
    done = await api.patch(f"{path}/{name}/status", {"status": {"certificate": "y"}})
    assert done.json["status"] == {"certificate": "y"}
    changed = await api.patch(f"{path}/{name}", {"spec": {"request": "z"}})
    assert changed.meta["generation"] == 2
    strategic = "application/strategic-merge-patch+json"
    assert (await api.patch(f"{path}/{name}", {"spec": {}}, strategic)).status == 415


async def test_requests_are_counted(cluster: SandboxCluster, api: Api) -> None:
    path = f"/api/v1/namespaces/default/configmaps/{BUNDLE}"
    await api.apply(path, config_map(BUNDLE, {"k": "v"}))
    await api.apply(path, config_map(BUNDLE, {"k": "v"}))
    await api.get(path)
    await api.review("nonsense")
    assert cluster.requests.count(verb="patch", resource="configmaps") == 2
    assert cluster.requests.count(resource="configmaps", status=201) == 1
    assert cluster.requests.writes == 2
    revision = cluster.store.revision
    cluster.requests.reset()
    await api.apply(path, config_map(BUNDLE, {"k": "v"}))
    assert (cluster.store.revision, cluster.requests.count()) == (revision, 1)


async def test_time_is_the_injected_clocks() -> None:
    async with SandboxCluster("later", clock=FixedClock(), signing_algorithm="ES256") as cluster:
        token = jwt.decode(cluster.token("default", "default"), options={"verify_signature": False})
        assert token["iat"] == FixedClock().now().timestamp()
        async with Api.open(cluster.kubeconfig()) as api:
            answer = await api.get("/api/v1/namespaces/default")
    assert answer.headers["Date"] == "Tue, 06 May 2031 07:08:09 GMT"
    assert answer.meta["creationTimestamp"] == "2031-05-06T07:08:09Z"


async def test_five_hundred_namespaces_are_patched_and_watched(cluster: SandboxCluster, api: Api) -> None:
    names = [f"ns-{index:03}" for index in range(500)]
    for name in names:
        cluster.create_namespace(name)
    body = config_map(BUNDLE, {"root-cert.pem": "x" * 5120})
    limit = asyncio.Semaphore(32)

    async def publish(name: str) -> int:
        async with limit:
            return (await api.apply(f"/api/v1/namespaces/{name}/configmaps/{BUNDLE}", body)).status

    async def hear() -> int:
        seen = 0
        async with api.watch("/api/v1/configmaps", fieldSelector=f"metadata.name={BUNDLE}") as watch:
            while seen < len(names):
                seen += (await watch.next())[0] == "ADDED"
        return seen

    async with asyncio.TaskGroup() as group:
        watchers = [group.create_task(hear()) for _ in range(4)]
        began = time.process_time()
        statuses = await asyncio.gather(*(publish(name) for name in names))
        took = time.process_time() - began
    assert set(statuses) == {201}
    assert [task.result() for task in watchers] == [500] * 4
    assert took < 20
