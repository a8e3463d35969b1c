"""What one status says that another one does not: the tag by which a caller that asks again is answered in short. Pure.

A hub that is well writes signs of life every few seconds, and the clock goes on. A page that polls should not be sent
everything again for that alone. So two statuses that differ in nothing else have one revision, for some seconds: what a
caller shows of the signs of life is no older than that. Whether one of them is too old is decided before, and is part
of what is compared.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Final

import msgspec
from msgspec.structs import replace

from federation.status.model import ClusterView, FederationStatus
from federation.status.rotation_model import RotationView

SHOWN_AGAIN: Final = 10.0
"""Seconds after which a status is sent again although it says nothing new."""

_ANY_TIME: Final = datetime.fromtimestamp(0, UTC)


def revision(status: FederationStatus) -> str:
    """The tag of that status (RFC 9110, section 8.8.3), a weak one."""
    content = hashlib.sha256(msgspec.json.encode(without_signs_of_life(status)))
    content.update(str(status.generated.timestamp() // SHOWN_AGAIN).encode())
    return content.hexdigest()[:32]


def without_signs_of_life(status: FederationStatus) -> FederationStatus:
    """The status without what changes in a hub and a mesh in which nothing happens."""
    bundle = status.bundle
    return replace(
        status,
        generated=_ANY_TIME,
        clusters=[_cluster(cluster) for cluster in status.clusters],
        matrix=replace(status.matrix, computed=0.0),
        bundle=bundle
        and replace(bundle, anchors=[replace(anchor, days_left=0.0) for anchor in bundle.anchors]),
        authorities=[replace(authority, days_left=0.0, rate=0.0) for authority in status.authorities],
        signers=[replace(signer, updated=0.0, age=0.0, listener_proved_at=0.0) for signer in status.signers],
        controllers=[replace(controller, updated=0.0, age=0.0) for controller in status.controllers],
        rotation=status.rotation and _rotation(status.rotation),
        rotation_plan=status.rotation_plan
        and replace(status.rotation_plan, takes=0.0, longest_leaf=0.0, rate=0.0),
    )


def _cluster(cluster: ClusterView) -> ClusterView:
    return replace(
        cluster,
        connection=replace(cluster.connection, clock_skew=0.0),
        publication=replace(cluster.publication, read_back=0.0),
        control_planes=[replace(plane, read_back=0.0) for plane in cluster.control_planes],
    )


def _rotation(rotation: RotationView) -> RotationView:
    return replace(rotation, gate=rotation.gate and replace(rotation.gate, computed=0.0))
