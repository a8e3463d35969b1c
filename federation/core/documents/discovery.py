"""What the leader found when it looked for clusters: sightings, what they say together, and how each source is read.

None of it is trusted, and none of it is a credential: a kubeconfig that was found is reduced to the address of an API
server and the fingerprints of its CA.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

import msgspec

from federation.core.clock import Instant
from federation.core.problem import Problem

DiscoverySource = Literal["istio_secret", "labelled_secret", "cluster_profile"]
DiscoveryState = Literal["open", "registered", "ignored"]

# A document of another version may hold words that this one does not know: the documents take any, status shows these.
_Source = Annotated[str, msgspec.Meta(extra_json_schema={"enum": sorted(get_args(DiscoverySource))})]
_State = Annotated[str, msgspec.Meta(extra_json_schema={"enum": sorted(get_args(DiscoveryState))})]


class Sighting(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """One object that names a cluster, and what it says of it.

    ``entry`` is the key of a Secret, or the access provider of a ClusterProfile. ``ca`` are SHA-256 fingerprints in
    order, none where the API server is verified by the system's CAs. ``cluster_id`` is what Istio calls the cluster,
    where the source says so. A sighting that cannot be used has a ``problem``, as a sentence, and no server.
    """

    source: _Source
    namespace: str
    object: str
    entry: str = ""
    name: str
    cluster_id: str = ""
    server: str = ""
    ca: list[str] = []
    problem: str = ""

    @property
    def place(self) -> str:
        """Where it was seen, in words."""
        kind = "ClusterProfile" if self.source == "cluster_profile" else "Secret"
        entry = f" ({self.entry})" if self.entry else ""
        return f"{kind} {self.namespace}/{self.object}{entry}"


class DiscoveredCluster(msgspec.Struct, frozen=True, kw_only=True):
    """A cluster under the name that its sources give it: a proposal, until a person registers it.

    ``cluster`` is the name that it can be registered by, empty where the one that was found is no name of a cluster.
    ``server`` and ``ca`` are what all usable sightings say; they are empty where these disagree, and where none is
    usable. An ``ignored`` one is left out by the configuration.
    """

    name: str
    state: _State
    cluster: str = ""
    cluster_id: str = ""
    server: str = ""
    ca: list[str] = []
    disagreements: list[str] = []
    sightings: list[Sighting] = []
    first_seen: Instant = 0.0

    @property
    def usable(self) -> list[Sighting]:
        """The sightings that name an API server."""
        return [sighting for sighting in self.sightings if not sighting.problem]


class SourceReading(msgspec.Struct, frozen=True, kw_only=True):
    """One source in one namespace: when it was last read as a whole, and why it was not since."""

    source: _Source
    namespace: str
    read: Instant = 0.0  # 0: never
    objects: int = 0
    problem: Problem | None = None


class Discovery(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was found. A source that cannot be read keeps what it showed last."""

    updated: Instant = 0.0
    sources: list[SourceReading] = []
    clusters: list[DiscoveredCluster] = []
