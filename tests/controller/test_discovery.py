"""The leader looks for clusters, in sources on an API server, with the rights that the chart grants and no others."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from federation.clusters.discovery import MOST_SIGHTINGS, RegisteredCluster
from federation.core.documents.discovery import Discovery, SourceReading
from federation.core.documents.keys import DISCOVERED
from federation_sandbox.cluster import SandboxCluster
from tests.controller.discovering import DiscoveringLeader, named
from tests.support.found_clusters import (
    ISTIO_SYSTEM,
    PROFILES,
    cluster_api_secret,
    cluster_profile,
    grants,
    kubeconfig,
    remote_secret,
    secret,
    text_of,
)
from tests.support.patience import PATIENCE

FLEET = "fleet"
EVERY = (
    f'istio_secrets = ["{ISTIO_SYSTEM}"]\nlabelled_secrets = ["{FLEET}"]\ncluster_profiles = ["{FLEET}"]\n'
    'selector = "cluster.x-k8s.io/cluster-name"\n'
)
ISTIO = f'istio_secrets = ["{ISTIO_SYSTEM}"]\n'


class Hub(DiscoveringLeader):
    """The hub's own cluster, and a leader of its own on a store."""

    def __init__(self, box: SandboxCluster, directory: Path) -> None:
        super().__init__(directory)
        self.box = box

    def add(self, *items: dict[str, Any]) -> None:
        for item in items:
            plural = "secrets" if item["kind"] == "Secret" else PROFILES.group_resource
            self.box.create(plural, item)


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[Hub]:
    async with SandboxCluster("hub", signing_algorithm="ES256") as box:
        box.register(PROFILES)
        for namespace in (ISTIO_SYSTEM, FLEET, "federation-system"):
            box.create_namespace(namespace)
        box.create_service_account("federation-system", "federation-controller")
        box.apply_manifest(grants(ISTIO_SYSTEM, "", "secrets"))
        box.apply_manifest(grants(FLEET, "", "secrets"))
        box.apply_manifest(grants(FLEET, PROFILES.group, PROFILES.plural))
        config = box.service_account_kubeconfig("federation-system", "federation-controller")
        file = tmp_path / "hub"
        file.touch(mode=0o600)
        file.write_text(json.dumps(config), "utf-8")
        yield Hub(box, tmp_path)


def reading(found: Discovery, source: str) -> SourceReading:
    return next(each for each in found.sources if each.source == source)


async def test_every_source_is_read_and_no_credential_is_kept(hub: Hub) -> None:
    hub.add(
        remote_secret("east", "https://east:6443"),
        cluster_api_secret("west", "https://west:6443", namespace=FLEET),
        cluster_profile("east", "https://proxy/east", namespace=FLEET),
        secret("of-another", {"east": b"x"}),
        secret("west-kubeconfig", {"value": text_of(kubeconfig("https://not-labelled"))}),
    )
    hub.registered = [RegisteredCluster("west", "west", "https://west:6443")]
    hub.configure(EVERY)
    await hub.source.load()
    async with hub.looking():
        found = await hub.until(lambda found: len(found.clusters) == 2)
        east, west = named(found)["east"], named(found)["west"]
        assert [sighting.source for sighting in east.sightings] == ["cluster_profile", "istio_secret"]
        assert "different API servers" in east.disagreements[0]
        assert (east.state, west.state, west.server) == ("open", "registered", "https://west:6443")
        assert east.first_seen == found.updated
        assert [(each.source, each.objects, each.problem) for each in found.sources] == [
            ("istio_secret", 1, None),
            ("labelled_secret", 1, None),
            ("cluster_profile", 1, None),
        ]
        stored = await hub.store.read(DISCOVERED)
        assert stored is not None
        for credential in (b"the-reader", b"client-key", b"current-context"):
            assert credential not in stored.data

        fetched = hub.box.requests.count(verb="get", resource="secrets")
        assert fetched == 2
        later = await hub.again()
        assert named(later)["east"].first_seen == east.first_seen
        assert hub.box.requests.count(verb="get", resource="secrets") == fetched, "what did not change"
        hub.box.delete("secrets", ISTIO_SYSTEM, "istio-remote-secret-east")
        found = await hub.until(lambda found: len(named(found)["east"].sightings) == 1)
        assert (named(found)["east"].server, named(found)["east"].disagreements) == ("https://proxy/east", [])
        hub.add(remote_secret("east", "https://proxy/east"))
        await hub.until(lambda found: len(named(found)["east"].sightings) == 2)
    assert hub.box.requests.writes == 0
    assert hub.box.requests.count(verb="watch") == 0


async def test_hostile_objects_cost_themselves_alone(hub: Hub) -> None:
    plugin = kubeconfig("https://plugin:6443")
    plugin["users"][0]["user"] = {
        "exec": {"command": "/bin/sh", "apiVersion": "client.authentication.k8s.io/v1"}
    }
    label = {"istio/multiCluster": "true"}
    bomb = b"a: &a [x]\n" + b"".join(b"b%d: &b%d [*%s, *%s]\n" % (i, i, p, p) for i, p in enumerate(
        [b"a", *(b"b%d" % i for i in range(30))]
    ))  # fmt: skip
    hub.add(
        remote_secret("good", "https://good:6443"),
        secret("large", {"large": b"x" * 700_000}, labels=label),
        secret("bomb", {"bomb": bomb}, labels=label),
        secret("plugin", {"plugin": text_of(plugin)}, labels=label),
        secret("deep", {"deep": b"[" * 60_000}, labels=label),
    )
    hub.configure(ISTIO)
    await hub.source.load()
    async with hub.looking():
        found = named(await hub.until(lambda found: len(found.clusters) == 5))
    assert found.pop("good").usable
    assert "too large" in found["large"].sightings[0].problem
    assert "an exec plugin" in found["plugin"].sightings[0].problem
    assert not any(cluster.usable for cluster in found.values())


async def test_a_source_of_too_many_objects_is_cut_and_says_so(hub: Hub) -> None:
    share = MOST_SIGHTINGS // 3
    for number in range(share + 5):
        hub.add(cluster_profile(f"c{number:03}", f"https://c{number}", namespace=FLEET))
    hub.add(remote_secret("east", "https://east:6443"))
    hub.configure(EVERY)
    await hub.source.load()
    async with hub.looking():
        found = await hub.again()
    assert len(found.clusters) == share + 1
    assert "east" in named(found), "one source leaves the others their part"
    crowded = reading(found, "cluster_profile")
    assert crowded.problem is not None
    assert crowded.problem.code == "discovery_crowded"


async def test_a_right_that_is_refused_is_said_and_what_was_found_stays(hub: Hub) -> None:
    hub.add(remote_secret("east", "https://east:6443"))
    hub.configure(EVERY)
    await hub.source.load()
    async with hub.looking():
        await hub.until(lambda found: bool(found.clusters))
        binding = hub.box.get("rolebindings", ISTIO_SYSTEM, "federation-discovery-secrets")
        assert binding is not None
        hub.box.delete("rolebindings", ISTIO_SYSTEM, "federation-discovery-secrets")
        found = await hub.until(lambda found: reading(found, "istio_secret").problem is not None)
        problem = reading(found, "istio_secret").problem
        assert problem is not None
        assert (problem.code, problem.since) == ("forbidden", found.updated)
        assert "Istio's remote secrets in istio-system cannot be read" in problem.detail
        assert "get and list secrets in namespace istio-system" in problem.remedy
        assert named(found)["east"].usable
        assert reading(found, "istio_secret").read < found.updated
        later = reading(await hub.again(), "istio_secret").problem
        assert later is not None
        assert later.since == problem.since
        hub.box.apply_manifest(grants(ISTIO_SYSTEM, "", "secrets"))
        await hub.until(lambda found: reading(found, "istio_secret").problem is None)


async def test_without_the_crd_the_others_are_read(hub: Hub) -> None:
    hub.box.resources.remove(PROFILES)
    hub.add(remote_secret("east", "https://east:6443"))
    hub.configure(EVERY)
    await hub.source.load()
    async with hub.looking():
        found = await hub.again()
    assert list(named(found)) == ["east"]
    missing = reading(found, "cluster_profile")
    assert missing.problem is not None
    assert (missing.problem.code, missing.read) == ("not_found", 0.0)
    assert "CRD" in missing.problem.remedy


async def test_the_next_leader_begins_with_what_this_one_found(hub: Hub) -> None:
    hub.add(remote_secret("east", "https://east:6443"))
    hub.configure(ISTIO)
    await hub.source.load()
    async with hub.looking():
        before = await hub.until(lambda found: bool(found.clusters))
    await hub.box.down()
    await hub.clock.advance(3600.0)
    async with hub.looking():
        found = await hub.until(lambda found: found.sources[0].problem is not None)
        assert found.clusters == before.clusters
        assert found.sources[0].read == before.sources[0].read
        await hub.box.up()
        found = await hub.until(lambda found: found.sources[0].problem is None)
        assert found.clusters == before.clusters


async def test_a_kubeconfig_that_cannot_be_used_is_said_and_taken_up_once_it_can(hub: Hub) -> None:
    hub.add(remote_secret("east", "https://east:6443"))
    hub.configure(ISTIO)
    await hub.source.load()
    good = (hub.directory / "hub").read_bytes()
    (hub.directory / "hub").write_bytes(b"no kubeconfig")
    async with hub.looking():
        found = await hub.again()
        assert found.sources[0].problem is not None
        assert found.sources[0].problem.code == "configuration"
        (hub.directory / "hub").write_bytes(good)
        await hub.until(lambda found: bool(found.clusters))


async def test_switched_off_nothing_is_shown_and_switched_on_it_is_found_again(hub: Hub) -> None:
    hub.add(remote_secret("east", "https://east:6443"))
    hub.configure(ISTIO)
    await hub.source.load()
    async with hub.looking():
        await hub.until(lambda found: bool(found.clusters))
        hub.configure("")
        assert await hub.source.reload()
        async with asyncio.timeout(PATIENCE):
            while await hub.document() is not None:
                await hub.clock.advance(1.0)
                await asyncio.sleep(0.01)
        asked = hub.box.requests.count()
        await hub.clock.advance(3600.0)
        assert hub.box.requests.count() == asked
        hub.configure(f'{ISTIO}ignore = ["e*"]\n')
        assert await hub.source.reload()
        assert named(await hub.until(lambda found: bool(found.clusters)))["east"].state == "ignored"


async def test_who_does_not_lead_writes_nothing(hub: Hub) -> None:
    hub.leads = False
    hub.add(remote_secret("east", "https://east:6443"))
    hub.configure(ISTIO)
    await hub.source.load()
    async with hub.looking(), asyncio.timeout(PATIENCE):
        while hub.box.requests.count(verb="list", resource="secrets") < 3:
            await hub.clock.advance(1.0)
            await asyncio.sleep(0.01)
        assert await hub.document() is None


async def test_a_store_that_fails_and_a_damaged_document_are_survived(hub: Hub) -> None:
    hub.add(remote_secret("east", "https://east:6443"))
    hub.configure(ISTIO)
    await hub.source.load()
    await hub.store.write(DISCOVERED, b"no document")
    hub.store.failing = DISCOVERED
    async with hub.looking():
        async with asyncio.timeout(PATIENCE):
            while hub.box.requests.count(verb="list", resource="secrets") < 3:
                await hub.clock.advance(1.0)
                await asyncio.sleep(0.01)
        hub.store.failing = "nothing"
        async with asyncio.timeout(PATIENCE):
            while (stored := await hub.store.read(DISCOVERED)) is None or stored.data == b"no document":
                await hub.clock.advance(1.0)
                await asyncio.sleep(0.01)
        assert list(named(await hub.again())) == ["east"]
