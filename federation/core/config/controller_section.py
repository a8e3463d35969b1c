"""``[controller]``: how trust gets out, how it is proved, and how rotations go on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from federation.core.config.model import (
    Address,
    ClusterConfig,
    ControllerConfig,
    DoorConfig,
    ProofConfig,
    PublicationConfig,
    RotationConfig,
)
from federation.core.config.tables import Findings, Table
from federation.core.config.values import (
    address,
    boolean,
    config_map_key,
    dns_name_or_empty,
    integer,
    label,
    made_by,
    object_name,
    seconds,
)
from federation.core.hub_identity import check_id

DAY: Final = 86400.0
MOST_WAVES: Final = 100

_PUBLICATION: Final = PublicationConfig()  # these stand for the model's defaults, and nothing else
_PROOF: Final = ProofConfig()
_ROTATION: Final = RotationConfig()


def read_controller(table: Table, door: DoorConfig) -> ControllerConfig:
    """``[controller]`` with publication, proof and rotation."""
    with table:
        published = _publication(table.table("publication"))
        proved = _proof(table.table("proof"), door)
        rotated = _rotation(table.table("rotation"), proved)
        adopted = table.list_of("adopt_hubs", made_by(check_id), ())
    return ControllerConfig(
        publication=published, proof=proved, rotation=rotated, adopt_hubs=frozenset(adopted)
    )


def _publication(table: Table) -> PublicationConfig:
    with table:
        return PublicationConfig(
            config_map=table.get("config_map", object_name, _PUBLICATION.config_map),
            key=table.get("key", config_map_key, _PUBLICATION.key),
            excluded_namespaces=table.list_of(
                "excluded_namespaces", label("a namespace name"), _PUBLICATION.excluded_namespaces
            ),
            max_concurrent_per_cluster=table.get(
                "max_concurrent_per_cluster", integer(1, 1000), _PUBLICATION.max_concurrent_per_cluster
            ),
            resync=table.get("resync", seconds(1, DAY), _PUBLICATION.resync),
        )


def _proof(table: Table, door: DoorConfig) -> ProofConfig:
    with table:
        name = table.get("signer_server_name", dns_name_or_empty, _PROOF.signer_server_name)
        if name and door.server_names and name not in door.server_names:
            table.mistake(
                "signer_server_name",
                "is not one of door.server_names, so the probe could never verify the door",
                "use one of them, or leave it out",
            )
        return ProofConfig(
            interval=table.get("interval", seconds(0.1, DAY), _PROOF.interval),
            leaf_ttl=table.get("leaf_ttl", seconds(10, 30 * DAY), _PROOF.leaf_ttl),
            signer_address=_reachable(table, "signer_address"),
            signer_server_name=name,
        )


def _reachable(table: Table, name: str) -> Address | None:
    """An address to connect to, where port 0 means nothing."""
    found = table.get(name, address, None)
    if found is not None and found.port == 0:
        table.mistake(name, "has port 0, which nothing can connect to", "name the port that is listened on")
    return found


def _rotation(table: Table, proof: ProofConfig) -> RotationConfig:
    """The gates of a rotation stand on these, so what weakens or starves them is warned about."""
    with table:
        found = RotationConfig(
            automatic=table.get("automatic", boolean, _ROTATION.automatic),
            soak=table.get("soak", seconds(0, 30 * DAY), _ROTATION.soak),
            waves=table.get("waves", integer(1, MOST_WAVES), _ROTATION.waves),
            skew=table.get("skew", seconds(0, 3600), _ROTATION.skew),
            fresh=table.get("fresh", seconds(1, 3600), _ROTATION.fresh),
        )
        if found.soak == 0:
            table.warning(
                "soak",
                "0 leaves no time between the moment that everybody trusts both roots and the first "
                "certificate under the new one, so nobody can notice what read-back and proof do not see",
            )
        if found.fresh < proof.interval:
            table.warning(
                "fresh",
                f"{found.fresh:g} s is shorter than controller.proof.interval ({proof.interval:g} s), so a gate "
                "can be open only for that long after each proof: raise it, or prove more often",
            )
        return found


def check_freshness(
    controller: ControllerConfig, clusters: Iterable[ClusterConfig], findings: Findings
) -> None:
    """A quiet watch says nothing for ``watch_silence``: what it showed must not count as old before that."""
    fresh = controller.rotation.fresh
    quiet = [str(cluster.name) for cluster in clusters if cluster.timeouts.watch_silence > fresh]
    if quiet:
        findings.warning(
            "controller.rotation.fresh",
            f"{fresh:g} s is shorter than watch_silence of {', '.join(quiet)}: a rotation would wait for what"
            " nobody has changed",
        )
