"""``federation clusters discovered`` and what ``admit`` goes by; the whole of it is in e2e/test_registration.py."""

from __future__ import annotations

import json
from dataclasses import replace as changed

import pytest
from msgspec.structs import replace

from federation.cli.discovered import confirmed_sighting, proposal_named
from federation.clusters.discovery import fingerprints, proposals
from federation.core.config.discovery import DiscoveryConfig
from federation.core.documents.discovery import DiscoveredCluster, Discovery, Sighting, SourceReading
from federation.core.errors import FederationError
from federation.core.problem import Problem
from federation.kubernetes.role_kubeconfig import ServerConnection
from federation.status.model import DiscoveryView
from tests.cli.running import federation
from tests.status.conftest import Start, start
from tests.support.found_clusters import ca_pem

__all__ = ["start"]

SERVER, OTHER = "https://south:6443", "https://south.internal:6443"
OWN = ServerConnection(SERVER, ca_pem())
SEEN = Sighting(
    source="istio_secret", namespace="istio-system", object="remote", entry="south", name="south",
    cluster_id="south", server=SERVER, ca=list(fingerprints(ca_pem())),
)  # fmt: skip
ELSEWHERE = replace(SEEN, source="cluster_profile", server=OTHER)
STRANGE = replace(SEEN, object="strange", ca=list(fingerprints(ca_pem("another API server"))))
REFUSED = replace(SEEN, server="", ca=[], problem="its kubeconfig has an exec plugin, which is refused")


def found(*sightings: Sighting, ignore: tuple[str, ...] = ()) -> DiscoveredCluster:
    (cluster,) = proposals(sightings, ignore=ignore)
    return cluster


def confirmed(
    cluster: DiscoveredCluster, own: ServerConnection = OWN, server: str = ""
) -> tuple[Sighting, list[str]]:
    said: list[str] = []
    return confirmed_sighting(cluster, own, server=server, say=said.append), said


def test_a_sighting_with_the_ca_of_the_administrators_kubeconfig_is_confirmed() -> None:
    assert confirmed(found(SEEN))[0] == SEEN
    assert confirmed(found(ELSEWHERE))[0] == ELSEWHERE, "another address of a server with that CA"
    assert confirmed(found(replace(SEEN, ca=[])), ServerConnection(SERVER, None))[0].ca == []
    assert confirmed(found(SEEN), server="https://SOUTH:6443/")[0] == SEEN


def test_another_ca_confirms_nothing() -> None:
    for cluster, own in (
        (found(STRANGE), OWN),
        (found(replace(SEEN, ca=[])), OWN),
        (found(SEEN), ServerConnection(SERVER, None)),
    ):
        with pytest.raises(FederationError, match="by another CA than was found"):
            confirmed(cluster, own)


def test_where_sources_disagree_a_person_chooses_and_sees_it() -> None:
    both = found(SEEN, ELSEWHERE)
    with pytest.raises(FederationError, match="different API servers") as error:
        confirmed(both)
    assert "--server" in error.value.remedy
    sighting, said = confirmed(both, server=OTHER)
    assert sighting == ELSEWHERE
    assert any("different API servers" in line for line in said)
    with pytest.raises(FederationError, match="was not found at https://elsewhere"):
        confirmed(both, server="https://elsewhere")
    assert confirmed(found(STRANGE, SEEN))[0] == SEEN, "of two CAs the administrator's own decides"


@pytest.mark.parametrize(
    ("view", "why"),
    [
        (DiscoveryView(enabled=False), "looks for no clusters"),
        (
            DiscoveryView(enabled=True, clusters=[replace(found(SEEN), name="sout")]),
            "no cluster was discovered",
        ),
        (DiscoveryView(enabled=True, clusters=[found(SEEN, ignore=("s*",))]), "is ignored"),
        (DiscoveryView(enabled=True, clusters=[found(REFUSED)]), "an exec plugin"),
    ],
)
def test_what_cannot_be_admitted_says_why(view: DiscoveryView, why: str) -> None:
    with pytest.raises(FederationError, match=why) as error:
        proposal_named("south", view)
    assert error.value.remedy


async def test_the_list_is_a_table_or_json_and_says_what_cannot_be_read(start: Start) -> None:
    async with start() as hub:
        code, printed, error = await federation("clusters", "discovered", "--url", hub.url)
        assert (code, printed) == (1, "no cluster was found\n")
        assert "names no source" in error

        discovery = DiscoveryConfig(in_cluster=True, istio_secrets=("istio-system",))
        hub.config.current = changed(hub.config.current, discovery=discovery)
        reading = SourceReading(source="istio_secret", namespace="istio-system", read=1.0)
        clusters = [found(SEEN, ELSEWHERE), replace(found(SEEN), name="west", state="registered")]
        hub.world.discovery = Discovery(updated=1.0, sources=[reading], clusters=clusters)
        await hub.settle()
        code, printed, error = await federation("clusters", "discovered", "--url", hub.url)
        assert (code, error) == (0, "")
        head, south, west = printed.splitlines()
        assert head.split() == ["NAME", "STATE", "SERVER", "CA", "FOUND_IN", "NOTE"]
        assert "2 differ" in south
        assert "sources name different API servers" in south
        assert f"{SERVER}  {SEEN.ca[0][:16]}" in west
        filtered = await federation(
            "clusters", "discovered", "--url", hub.url, "--filter", "state=open", "--json"
        )
        document = json.loads(filtered[1])
        assert [cluster["name"] for cluster in document["clusters"]] == ["south"]
        assert document["enabled"] is True
        assert document["sources"][0]["namespace"] == "istio-system"

        problem = Problem(code="forbidden", detail="Secrets cannot be read", remedy="grant it")
        hub.world.discovery = replace(hub.world.discovery, sources=[replace(reading, problem=problem)])
        await hub.settle()
        code, _, error = await federation("clusters", "discovered", "--url", hub.url)
        assert code == 1
        assert "Secrets cannot be read (grant it)" in error
