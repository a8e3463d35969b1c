"""The istiod of the tests behaves as a real one was seen to: each line of its module's docstring."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import grpc.aio
import pytest

from federation.core.identity import ClusterId, ServiceAccountRef, SpiffeId, TrustDomain
from federation.core.pki.certificate import Certificate
from federation_sandbox.cluster import SandboxCluster
from federation_sandbox.mesh import Workload
from tests.support.istiod import (
    MANAGER,
    ROOTS,
    ROOTS_KEY,
    CannotReach,
    Istiod,
    IstiodCa,
    IstiodExited,
    encoded,
)
from tests.support.patience import PATIENCE
from tests.support.pki import intermediate, root

OLD, NEW = intermediate("istiod old", root("a")), intermediate("istiod new", root("b"))
BOTH = IstiodCa.of(OLD, NEW.root), IstiodCa.of(NEW, OLD.root)


@pytest.fixture
async def east() -> AsyncIterator[SandboxCluster]:
    async with SandboxCluster("east") as cluster:
        cluster.create_namespace("istio-system")
        cluster.create_namespace("shop")
        yield cluster


async def eventually(wanted: Callable[[], object], within: float = PATIENCE) -> None:
    async with asyncio.timeout(within):
        while not wanted():
            await asyncio.sleep(0.01)


def publish(cluster: SandboxCluster, roots_pem: bytes, namespace: str = "shop") -> None:
    """What the hub writes."""
    if cluster.config_map(namespace, ROOTS) is None:
        cluster.create("configmaps", {"metadata": {"name": ROOTS}}, namespace=namespace)
    cluster.patch("configmaps", namespace, ROOTS, {"data": {ROOTS_KEY: roots_pem.decode()}})


def roots_in(cluster: SandboxCluster, namespace: str = "shop") -> str:
    found = cluster.config_map(namespace, ROOTS)
    return "" if found is None else str(found["data"][ROOTS_KEY])


async def test_without_its_files_at_the_start_it_never_serves(east: SandboxCluster) -> None:
    publish(east, OLD.root.pem)
    async with Istiod(east) as istiod:
        assert not istiod.serves
        istiod.provide(istiod.files_of(IstiodCa.of(OLD)))
        await asyncio.sleep(0.2)
        webhook, agent = await istiod.problems("shop")
        assert "failed calling webhook" in webhook
        assert "agent in east/shop" in agent
        await istiod.restart()
        await eventually(lambda: istiod.patched == 2)
        assert await istiod.problems("shop") == []
        assert await istiod.call_webhooks() == 5


async def test_istiod_reloads_changed_files_that_it_found_at_its_start(east: SandboxCluster) -> None:
    publish(east, BOTH[0].roots_pem)
    async with Istiod(east) as istiod:
        istiod.provide(istiod.files_of(IstiodCa.of(OLD)))
        await istiod.restart()
        await eventually(lambda: istiod.patched == 2)
        for ca, patched in ((BOTH[0], 4), (BOTH[1], 4), (IstiodCa.of(NEW), 6)):
            files = istiod.files_of(ca)
            istiod.provide(files)
            issuer = ca.certificate
            await eventually(lambda issuer=issuer: signed_by(istiod, issuer))  # type: ignore[misc]
            await eventually(lambda patched=patched: istiod.patched == patched)  # type: ignore[misc]
            assert await istiod.problems("shop") == []
        publish(east, OLD.root.pem)
        (agent,) = await istiod.problems("shop")
        assert "certificate verify failed" in agent


def signed_by(istiod: Istiod, issuer: Certificate) -> bool:
    found = istiod.certificate
    return found is not None and found.is_signed_by(issuer)


async def test_a_certificate_of_a_root_that_is_not_in_the_ca_bundle_fails_the_webhook(
    east: SandboxCluster,
) -> None:
    """What a rotation left behind that did not count the control plane."""
    async with Istiod(east) as istiod:
        istiod.provide(istiod.files_of(BOTH[0]))
        await istiod.restart()
        await eventually(lambda: istiod.patched == 2)
        stale = istiod.files_of(BOTH[0])
        istiod.provide(type(stale)(stale.chain_pem, stale.key_pem, NEW.root.pem))
        await eventually(lambda: istiod.patched == 4)
        with pytest.raises(CannotReach, match="certificate verify failed"):
            await istiod.call_webhooks()


async def test_it_restores_the_ca_bundle_of_its_own_revision_only(east: SandboxCluster) -> None:
    async with Istiod(east) as istiod, Istiod(east, revision="canary") as canary:
        istiod.provide(istiod.files_of(IstiodCa.of(OLD), canary.service))
        await istiod.restart()
        await canary.restart()
        await eventually(lambda: istiod.patched == canary.patched == 2)
        mine, other = "istio-sidecar-injector", "istio-sidecar-injector-canary"
        for name in (mine, other):
            hooks = east.get("mutatingwebhookconfigurations", "", name)
            assert hooks is not None
            for hook in hooks["webhooks"]:
                hook["clientConfig"]["caBundle"] = ""
            east.patch("mutatingwebhookconfigurations", "", name, {"webhooks": hooks["webhooks"]})
        await eventually(lambda: istiod.patched == canary.patched == 3)
        assert await istiod.call_webhooks() == await canary.call_webhooks() == 5
        await canary.kill()
        with pytest.raises(CannotReach):
            await canary.call_webhooks()
        assert await istiod.problems() == []


@pytest.mark.parametrize("plugged_in", [False, True])
async def test_with_its_ca_on_it_writes_the_roots_and_restores_them(
    east: SandboxCluster, plugged_in: bool
) -> None:
    if plugged_in:
        east.create(
            "secrets",
            {"metadata": {"name": "cacerts"}, "data": cacerts(OLD.root.pem)},
            namespace="istio-system",
        )
    async with Istiod(east, ca=True) as istiod:
        await eventually(lambda: roots_in(east))
        own = istiod.own_ca.roots_pem.decode()
        assert (own == OLD.root.pem.decode()) is plugged_in
        await eventually(lambda: istiod.patched == 2)
        assert await istiod.problems("shop", "default") == []
        before = istiod.writes["shop"]
        publish(east, own.encode())
        await asyncio.sleep(0.1)
        assert istiod.writes["shop"] == before, "equal bytes are not written again"
        publish(east, NEW.root.pem)
        await eventually(lambda: roots_in(east) == own)
        found = east.config_map("shop", ROOTS)
        assert found is not None
        assert MANAGER in {entry["manager"] for entry in found["metadata"]["managedFields"]}
        assert await istiod.problems("shop") == []
        assert roots_in(east, "kube-public") == ""


async def test_with_its_ca_on_and_its_files_there_it_distributes_their_roots(east: SandboxCluster) -> None:
    async with Istiod(east, ca=True) as istiod:
        istiod.provide(istiod.files_of(BOTH[1]))
        await istiod.restart()
        await eventually(lambda: roots_in(east) == BOTH[1].roots_pem.decode())
        await eventually(lambda: istiod.patched >= 2)
        assert await istiod.problems("shop") == []


def cacerts(roots_pem: bytes, authority: object = OLD) -> dict[str, str]:
    assert isinstance(authority, type(OLD))
    return encoded(
        {
            "ca-cert.pem": authority.pem,
            "ca-key.pem": authority.key_pem,
            "cert-chain.pem": authority.chain_pem,
            "root-cert.pem": roots_pem,
        }
    )


async def test_a_part_of_cacerts_makes_it_exit(east: SandboxCluster) -> None:
    data = encoded({"root-cert.pem": OLD.root.pem})
    east.create("secrets", {"metadata": {"name": "cacerts"}, "data": data}, namespace="istio-system")
    with pytest.raises(IstiodExited, match="incomplete signing CA bundle detected"):
        async with Istiod(east, ca=True):
            pass
    async with Istiod(east, ca=False) as istiod:
        assert not istiod.serves


async def test_cacerts_made_of_its_own_key_with_merged_roots_are_taken_at_a_restart(
    east: SandboxCluster,
) -> None:
    async with Istiod(east, ca=True) as istiod:
        await eventually(lambda: roots_in(east))
        own = east.get("secrets", "istio-system", "istio-ca-secret")
        assert own is not None
        merged = istiod.own_ca.roots_pem + NEW.root.pem
        data = {name: own["data"][name] for name in ("ca-cert.pem", "ca-key.pem")}
        data |= {"cert-chain.pem": own["data"]["ca-cert.pem"]} | encoded({"root-cert.pem": merged})
        east.create("secrets", {"metadata": {"name": "cacerts"}, "data": data}, namespace="istio-system")
        await asyncio.sleep(0.1)
        assert roots_in(east) != merged.decode()
        await istiod.restart()
        await eventually(lambda: roots_in(east) == merged.decode())
        await eventually(lambda: istiod.patched >= 4)
        assert await istiod.problems("shop") == []
        east.patch("secrets", "istio-system", "cacerts", {"data": encoded({"root-cert.pem": NEW.root.pem})})
        await asyncio.sleep(0.1)
        assert roots_in(east) == merged.decode(), "another root is taken up at a restart only"


async def test_its_ca_answers_until_it_is_switched_off(east: SandboxCluster) -> None:
    async with Istiod(east, ca=True) as istiod:
        await eventually(lambda: roots_in(east))
        workload = Workload(
            cluster_id=ClusterId("east"),
            identity=SpiffeId(TrustDomain("mesh.example"), ServiceAccountRef("shop", "cart")),
            listener=istiod.xds_address,
            server_name=istiod.host,
            token=lambda: "token",
            listener_trust=lambda: roots_in(east).encode(),
        )
        given = await workload.renew()
        assert given.leaf.is_signed_by(istiod.own_ca.certificate)
        assert given.trust_pem == istiod.own_ca.roots_pem
        istiod.provide(istiod.files_of(istiod.own_ca))
        istiod.ca = False
        await istiod.restart()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await workload.renew()
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert istiod.issued == 1
        publish(east, NEW.root.pem)
        await asyncio.sleep(0.1)
        assert roots_in(east) == NEW.root.pem.decode(), "it writes no roots any more"
