"""What status says of clusters that were discovered: a place of their own, and findings that no verdict rests on."""

from __future__ import annotations

from dataclasses import replace as changed

from msgspec.structs import replace

from federation.core.config.discovery import DiscoveryConfig
from federation.core.documents.discovery import DiscoveredCluster, Discovery, Sighting, SourceReading
from federation.core.problem import Problem
from tests.status.conftest import Start
from tests.status.test_rotation import NAMES, T, codes, finding, seen
from tests.status.worlds import World

SEEN = Sighting(
    source="istio_secret", namespace="istio-system", object="remote", entry="south", name="south",
    cluster_id="south", server="https://south:6443", ca=["a" * 64],
)  # fmt: skip
SOUTH = DiscoveredCluster(
    name="south",
    state="open",
    cluster="south",
    server=SEEN.server,
    ca=SEEN.ca,
    sightings=[SEEN],
    first_seen=T - 60,
)
READ = SourceReading(source="istio_secret", namespace="istio-system", read=T - 5, objects=1)
OF_DISCOVERY = {"clusters_discovered", "discovery_disagrees", "discovery_unread", "discovery_unusable"}


def world(*clusters: DiscoveredCluster, sources: tuple[SourceReading, ...] = (READ,)) -> World:
    made = World(NAMES, T)
    made.config = changed(
        made.config, discovery=DiscoveryConfig(in_cluster=True, istio_secrets=("istio-system",))
    )
    made.discovery = Discovery(updated=T - 5, sources=list(sources), clusters=list(clusters))
    return made


def found(made: World) -> set[str]:
    return set(codes(seen(made))) & OF_DISCOVERY


def test_proposals_are_one_notice_and_the_mesh_stays_healthy() -> None:
    made = world(SOUTH, replace(SOUTH, name="north"), replace(SOUTH, name="dev", state="ignored"))
    status = seen(made)
    assert status.verdict == "healthy"
    item = finding(status, "clusters_discovered")
    assert (item.severity, item.where, item.since) == ("notice", "south, north", T - 60)
    assert "federation clusters admit" in item.remedy
    assert found(made) == {"clusters_discovered"}
    assert found(world(replace(SOUTH, state="registered"))) == set()
    assert found(world()) == set()


def test_nothing_is_said_where_no_clusters_are_looked_for() -> None:
    made = world(replace(SOUTH, disagreements=["x"]))
    made.config = changed(made.config, discovery=None)
    assert found(made) == set()


def test_sources_that_disagree_are_a_notice_of_each_cluster_also_of_a_registered_one() -> None:
    made = world(replace(SOUTH, disagreements=["one", "two"]))
    item = finding(seen(made), "discovery_disagrees")
    assert (item.severity, item.where) == ("notice", "south")
    assert "one (and 1 more)" in item.detail
    assert found(world(replace(SOUTH, state="registered", disagreements=["one"]))) == {"discovery_disagrees"}
    assert found(world(replace(SOUTH, state="ignored", disagreements=["one"]))) == set()


def test_what_cannot_be_registered_says_where_and_why() -> None:
    refused = replace(SEEN, server="", ca=[], problem="its kubeconfig has an exec plugin, which is refused")
    made = world(replace(SOUTH, server="", ca=[], sightings=[refused]))
    item = finding(seen(made), "discovery_unusable")
    assert "Secret istio-system/remote (south): its kubeconfig has an exec plugin" in item.detail
    assert found(made) == {"discovery_unusable"}


def test_a_source_that_cannot_be_read_is_a_warning_with_its_remedy() -> None:
    problem = Problem(
        code="forbidden", detail="it cannot be read", where="secrets", remedy="grant it", since=T - 9
    )
    made = world(sources=(replace(READ, problem=problem),))
    status = seen(made)
    item = finding(status, "discovery_unread")
    assert (item.severity, item.detail, item.where) == ("warning", "it cannot be read", "secrets")
    assert (item.remedy, item.since, status.verdict) == ("grant it", T - 9, "degraded")


async def test_they_are_served_in_pages_with_their_sources(start: Start) -> None:
    async with start() as hub:
        status, body, _ = await hub.get("/api/v1/discovered")
        assert (status, body["enabled"], body["clusters"], body["updated"]) == (200, False, [], None)
        many = [replace(SOUTH, name=f"c{number}") for number in range(5)]
        hub.world.discovery = Discovery(updated=T, sources=[READ], clusters=many)
        discovery = DiscoveryConfig(in_cluster=True, istio_secrets=("istio-system",))
        hub.config.current = changed(hub.config.current, discovery=discovery)
        await hub.store.put(hub.world.document_set())
        await hub.clock.advance(1)
        _, body, response = await hub.get("/api/v1/discovered?limit=3")
        assert [cluster["name"] for cluster in body["clusters"]] == ["c0", "c1", "c2"]
        assert (body["enabled"], body["remaining"], len(body["sources"])) == (True, 2, 1)
        assert body["clusters"][0]["sightings"][0]["server"] == SEEN.server
        assert response.headers["ETag"]
        _, rest, _ = await hub.get(f"/api/v1/discovered?limit=3&continue={body['continue_token']}")
        assert [cluster["name"] for cluster in rest["clusters"]] == ["c3", "c4"]
        assert (rest["continue_token"], rest["remaining"]) == ("", 0)
