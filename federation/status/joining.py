"""A cluster that joins with a CA of its own: its steps as the leader sees them, and what to do about the present one.

Pure. The steps and their conditions are those of ``core/trust/joining``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from federation.core.trust.joining import JoinStep
from federation.status.freshness import instant
from federation.status.model import Attention, ClusterView, JoiningView, JoinStepView
from federation.status.quarantine import condition_views
from federation.status.rotation import gate_doubt
from federation.status.scene import Scene

COUNT: Final = len(JoinStep)

_DOES: Final[Mapping[str, str]] = {
    "accept": "the root of its own CA is accepted",
    "serve": "its own CA delivers the hub's bundle",
    "renew": "every certificate without that bundle has ended",
    "control_plane": "istiod has a certificate of the hub",
    "move": "every pod asks the hub",
    "switch_off": "its own CA is off",
    "takeover": "it is declared that nothing but the hub issues there",
    "drop": "its own root has left the bundle",
}

_BEFORE_THE_MOVE: Final = frozenset({"accept", "serve", "renew", "control_plane", "move"})
_PATIENCE: Final = "nothing: time has to pass"


def _remedy(step: str, name: str) -> str:
    join = f"federation clusters join {name}"
    match step:
        case "accept":
            return f"compare the fingerprint with the CA's owner, then `{join} --accept FINGERPRINT`"
        case "serve" | "control_plane" | "move" | "switch_off":
            return f"`{join}` writes what has to be applied there"
        case "takeover":
            return f"`{join}` declares it"
        case _:
            return _PATIENCE


def joining_view(scene: Scene, name: str) -> JoiningView | None:
    """Which step the cluster is at; None where it has no CA of its own, or no leader reports it now."""
    if scene.leader is None or gate_doubt(scene):
        return None
    steps = scene.leader.rotation.joining.get(name)
    if not steps:
        return None
    present = next((step for step in steps if not step.done), None)
    if present is None:
        return None
    waits = [condition for condition in present.conditions if not condition.met]
    until = max((condition.until for condition in waits), default=0.0)
    timed = bool(waits) and all(condition.until > 0 for condition in waits)
    return JoiningView(
        step=present.step,
        number=steps.index(present) + 1,
        of=len(steps),
        detail="; ".join(
            f"{c.cluster}: {c.detail}" if c.cluster not in {"", name} else c.detail for c in waits[:3]
        ),
        remedy=_remedy(present.step, name),
        until=instant(until) if timed else None,
        steps=[
            JoinStepView(
                step=step.step,
                what=_DOES.get(step.step, step.step),
                done=step.done,
                conditions=condition_views(step.conditions),
            )
            for step in steps
        ],
    )


def is_moving(view: JoiningView | None) -> bool:
    """Whether pods may still have certificates of the cluster's own CA, which the step then says."""
    return view is not None and view.step in _BEFORE_THE_MOVE


def joining_text(name: str, view: JoiningView) -> str:
    """One sentence about it."""
    return f"{name} joins, step {view.number} of {view.of}, {view.step}: {view.detail}"


def joining_attention(views: list[ClusterView]) -> Iterator[Attention]:
    """What has to be done so that each goes on; where only time has to pass it is a notice."""
    for view in views:
        joins = view.joining
        if joins is None or view.quarantine is not None:
            continue
        waits = joins.until is not None or joins.step in {"renew", "drop"}
        yield Attention(
            severity="notice" if waits else "warning",
            code="cluster_joins",
            what=f"it joins, step {joins.number} of {joins.of} ({joins.step}): {joins.detail}",
            where=view.name,
            remedy=_PATIENCE if waits else joins.remedy,
        )
