"""The publisher of ClusterTrustBundles alone, in the sandbox and on the real API servers of the contract's tests.

It has the rights of ``manifests/member/cluster-trust-bundle`` for an object of its own name, and for no other.
"""

from __future__ import annotations

import asyncio
import copy
import json
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from federation.clusters.trust_bundles import SIGNER, trust_bundle_name
from federation.controller.publication.cluster_trust_bundle import (
    BundleTarget,
    ObservedTrustBundle,
    TrustBundlePublisher,
)
from federation.controller.publication.config_map import Contents
from federation.core.config.clusters import ClusterConfig, ClusterTimeouts, Credentials
from federation.core.config.hub import PublicationConfig
from federation.core.identity import ClusterId, ClusterName
from federation.kubernetes.session import ClusterSession
from federation.runtime.clock import SystemClock
from federation_sandbox.cluster import read_kustomization
from tests.contract.client import Api, unique
from tests.contract.conftest import api, box, config, namespace  # noqa: F401  the targets
from tests.controller.test_publication import generation
from tests.controller.world import MANIFESTS
from tests.support import pki
from tests.support.patience import PATIENCE

RBAC = "/apis/rbac.authorization.k8s.io/v1"
BUNDLES = "/apis/certificates.k8s.io/v1beta1/clustertrustbundles"
ONE, TWO, OTHER = (pki.root(f"publisher {name}").pem.decode() for name in ("one", "two", "other"))


@dataclass
class Place:
    """One cluster, a publisher with its rights, and what a test decides."""

    admin: Api
    publication: PublicationConfig
    publisher: TrustBundlePublisher
    decided: dict[str, bool]
    seen: list[ObservedTrustBundle | None] = field(default_factory=list)

    @property
    def path(self) -> str:
        return f"{BUNDLES}/{self.publisher.name}"

    def aim(self, pem: str, number: int = 1) -> None:
        self.publisher.aim(BundleTarget.of(generation(number, pem), self.publication))

    async def holds(self) -> str | None:
        found = await self.admin.get(self.path)
        return None if found.status == 404 else str(found.json["spec"]["trustBundle"])

    async def until_published(self, pem: str | None, limit: float = PATIENCE) -> None:
        async with asyncio.timeout(limit):
            while await self.holds() != pem or (pem is not None and not self.publisher.met):
                await asyncio.sleep(0.1)

    async def put(self, pem: str) -> None:
        """What istiod does: create the object, or replace what it holds."""
        found = await self.admin.get(self.path)
        spec = {"signerName": SIGNER, "trustBundle": pem}
        body = {"metadata": {"name": self.publisher.name}, "spec": spec}
        if found.status == 404:
            await self.admin.make(BUNDLES, body, fieldManager="pilot-discovery")
        else:
            answer = await self.admin.put(
                self.path, found.json | {"spec": spec}, fieldManager="pilot-discovery"
            )
            assert answer.status == 200, answer.raw


def rights(name: str, account_namespace: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The role and the binding of the manifests, for an object and an account of the test's own."""
    role, binding = copy.deepcopy(read_kustomization(MANIFESTS / "cluster-trust-bundle"))
    for rule in role["rules"]:
        if "clustertrustbundles" in rule.get("resources", ()):
            rule["resourceNames"] = [name]
    role["metadata"]["name"] = binding["metadata"]["name"] = binding["roleRef"]["name"] = unique("contract")
    binding["subjects"] = [{"kind": "ServiceAccount", "name": "app", "namespace": account_namespace}]
    return role, binding


@pytest.fixture
async def place(
    api: Api,  # noqa: F811
    config: dict[str, Any],  # noqa: F811
    namespace: str,  # noqa: F811
    tmp_path: Path,
) -> AsyncIterator[Place]:
    publication = PublicationConfig(config_map=unique("contract"))
    name = trust_bundle_name(publication.config_map)
    role, binding = rights(name, namespace)
    await api.make_global(f"{RBAC}/clusterroles", role)
    await api.make_global(f"{RBAC}/clusterrolebindings", binding)
    file = tmp_path / "kubeconfig"
    file.touch(mode=0o600)
    user = {"name": config["users"][0]["name"], "user": {"token": await api.token(namespace, "app")}}
    file.write_text(json.dumps(config | {"users": [user]}))
    credentials = Credentials(kubeconfig=file)
    registered = ClusterConfig(
        name=ClusterName("place"), cluster_id=ClusterId("place"), signer=credentials, controller=credentials
    )
    session = await ClusterSession.open(
        credentials, cluster=registered.name, timeouts=ClusterTimeouts(), clock=SystemClock()
    )
    decided = {"allowed": True, "keeps": False, "remembered": False}
    seen: list[ObservedTrustBundle | None] = []
    publisher = TrustBundlePublisher(
        session,
        registered,
        publication,
        contents=Contents(),
        clock=SystemClock(),
        jitter=random.Random(1),
        allowed=lambda: decided["allowed"],
        keeps=lambda _: decided["keeps"],
        yields=lambda _: False,
        remembered=lambda: decided["remembered"],
        on_change=seen.append,
    )
    async with session:
        running = asyncio.create_task(publisher.run())
        yield Place(api, publication, publisher, decided, seen)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    await api.delete(f"{BUNDLES}/{name}")


async def test_it_is_made_followed_and_put_back(place: Place) -> None:
    place.aim(ONE)
    await place.until_published(ONE)
    obj = (await place.admin.get(place.path)).json
    assert [entry["manager"] for entry in obj["metadata"]["managedFields"]] == ["federation-hub"]
    place.aim(ONE + TWO, 2)
    await place.until_published(ONE + TWO)
    await place.put(OTHER)
    await place.until_published(ONE + TWO)
    await place.admin.delete(place.path)
    await place.until_published(ONE + TWO)
    report = place.publisher.report()
    assert (report.state, report.writes, report.restored, report.version) == ("current", 4, 2, "v1beta1")
    assert "pilot-discovery" in {writer for observed in place.seen if observed for writer in observed.writers}


async def test_who_does_not_lead_reads_and_does_not_write(place: Place) -> None:
    place.decided["allowed"] = False
    place.aim(ONE)
    await place.put(OTHER)
    async with asyncio.timeout(PATIENCE):
        while place.publisher.bundle is None:
            await asyncio.sleep(0.1)
    await asyncio.sleep(1)
    assert (await place.holds(), place.publisher.writes) == (OTHER, 0)
    assert place.publisher.status().state == "pending"
    place.decided["allowed"] = True
    await place.until_published(ONE)


async def test_what_another_writer_put_there_to_the_byte_is_left_alone(place: Place) -> None:
    await place.put(ONE)
    place.aim(ONE)
    await place.until_published(ONE)
    await asyncio.sleep(1)
    assert (place.publisher.writes, place.publisher.existed) == (0, True)
    assert place.publisher.status().state == "current"


async def test_what_is_kept_is_not_written_over(place: Place) -> None:
    place.decided["keeps"] = True
    await place.put(OTHER)
    place.aim(ONE)
    async with asyncio.timeout(PATIENCE):
        while not place.publisher.joining:
            await asyncio.sleep(0.1)
    await asyncio.sleep(1)
    assert await place.holds() == OTHER
    place.decided["keeps"] = False
    await place.until_published(ONE)


async def test_a_bundle_that_the_server_refuses_is_reported_with_the_reason(place: Place) -> None:
    place.aim("not a certificate")
    async with asyncio.timeout(PATIENCE):
        while "at least one trust anchor" not in place.publisher.status().detail:
            await asyncio.sleep(0.1)
    status = place.publisher.status()
    assert (status.state, status.counted) == ("pending", False), "it was never there"
    place.aim(ONE)
    await place.until_published(ONE)
