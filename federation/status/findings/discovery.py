"""What needs attention of discovery: sources that cannot be read or that disagree, and clusters to register. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from federation.core.documents.discovery import DiscoveredCluster
from federation.status.findings.proof import names
from federation.status.model import Attention
from federation.status.snapshot import Snapshot


def discovery_attention(snapshot: Snapshot) -> Iterator[Attention]:
    """Nothing where no clusters are looked for. What was discovered makes no part of the mesh unhealthy."""
    found = snapshot.discovery
    if found is None:
        return
    for reading in found.sources:
        if reading.problem is not None:
            yield Attention(
                severity="warning",
                code="discovery_unread",
                detail=reading.problem.detail,
                where=reading.problem.where,
                remedy=reading.problem.remedy,
                since=reading.problem.since,
            )
    listed = [cluster for cluster in found.clusters if cluster.state != "ignored"]
    for cluster in listed:
        if cluster.disagreements:
            yield Attention(
                severity="notice",
                code="discovery_disagrees",
                detail=f"its sources disagree: {_first_of(cluster)}",
                where=cluster.name,
                remedy="correct what is wrong in `federation clusters discovered`, or name the cluster in "
                "discovery.ignore",
                since=cluster.first_seen,
            )
    unproposed = [cluster for cluster in listed if cluster.state == "open"]
    for cluster in unproposed:
        if not cluster.usable:
            yield Attention(
                severity="notice",
                code="discovery_unusable",
                detail=f"a cluster was discovered that cannot be registered by what its source says: "
                f"{cluster.sightings[0].place}: {cluster.sightings[0].problem}",
                where=cluster.name,
                remedy="correct the object; register the cluster with `federation clusters add`; or name it in "
                "discovery.ignore",
                since=cluster.first_seen,
            )
    open_ones = [cluster for cluster in unproposed if cluster.usable]
    if open_ones:
        yield Attention(
            severity="notice",
            code="clusters_discovered",
            detail=f"clusters were discovered and are not registered: {len(open_ones)}",
            where=names([cluster.name for cluster in open_ones]),
            remedy="register those that belong to the mesh with `federation clusters admit`, and name the others in "
            "discovery.ignore",
            since=min(cluster.first_seen for cluster in open_ones),
        )


def _first_of(cluster: DiscoveredCluster) -> str:
    more = len(cluster.disagreements) - 1
    return cluster.disagreements[0] + (f" (and {more} more)" if more else "")
