"""The rotation as metrics. Pure. What is not known has no series; at rest the gate counts as closed."""

from __future__ import annotations

from collections import Counter

from prometheus_client.core import Metric

from federation.core.trust.rotation.record import State
from federation.status.exposition import gauge
from federation.status.model import FederationStatus


def rotation_families(status: FederationStatus) -> list[Metric]:
    """Where the rotation stands, its gate, who is left out, and what can sign next."""
    return [*_successors(status), *([] if status.rotation_problem else _recorded(status))]


def _successors(status: FederationStatus) -> list[Metric]:
    return [
        gauge(
            "federation_successor_ready",
            "1 where every signer that has the authority to rotate to finds it ready.",
            ("authority", "sha256"),
            [((a.name, a.sha256), a.state == "ready") for a in status.authorities if a.use == "successor"],
        ),
        gauge(
            "federation_signer_follows_orders",
            "1 where the signer is heard of and works by the orders that are given now.",
            ("replica",),
            [((s.replica,), s.follows_orders and not s.stale) for s in status.signers],
        ),
    ]


def _recorded(status: FederationStatus) -> list[Metric]:
    """What the record tells."""
    rotation = status.rotation
    here = rotation.state if rotation else State.STABLE.value
    quarantined = {view.cluster for view in status.quarantined}
    families = [
        gauge(
            "federation_rotation_state",
            "1 for the state that the rotation is in; STABLE where none ever was.",
            ("state",),
            [((state.value,), state.value == here) for state in State],
        ),
        gauge(
            "federation_rotation_paused",
            "1 where a rotation does not go on by itself.",
            (),
            [((), bool(rotation and rotation.under_way and rotation.paused))],
        ),
        gauge(
            "federation_cluster_quarantined",
            "1 where the cluster is quarantined: nothing is issued there.",
            ("cluster",),
            [((c.name,), c.name in quarantined) for c in status.clusters],
        ),
    ]
    gate = rotation.gate if rotation else None
    if rotation is not None and rotation.since is not None:
        families.append(
            gauge(
                "federation_rotation_since_timestamp_seconds",
                "Since when the rotation has been in its state.",
                (),
                [((), rotation.since.timestamp())],
            )
        )
    families.append(
        gauge(
            "federation_rotation_gate_open",
            "1 where the gate out of the present state is known to be open.",
            (),
            [((), gate is not None and gate.open)],
        )
    )
    if gate is not None and gate.opens_at is not None:
        families.append(
            gauge(
                "federation_rotation_gate_opens_timestamp_seconds",
                "When the gate opens at the earliest, where that can be told.",
                (),
                [((), gate.opens_at.timestamp())],
            )
        )
    if gate is not None and gate.known:
        unmet = Counter(c.name for c in gate.conditions if not c.met)
        families.append(
            gauge(
                "federation_rotation_unmet_conditions",
                "Conditions of the gate that are not met, by name; each cluster or signer counts once.",
                ("condition",),
                [((name,), unmet[name]) for name in sorted({c.name for c in gate.conditions})],
            )
        )
    return families
