"""The accepted CAs of clusters that joined: what each waits for before it leaves the bundle. Pure."""

from __future__ import annotations

from federation.state.documents import ConditionReport
from federation.status.quarantine import condition_views
from federation.status.rotation import gate_doubt
from federation.status.rotation_model import OwnAnchorView
from federation.status.scene import Scene


def own_anchor_views(scene: Scene) -> list[OwnAnchorView]:
    """Those of the bundle in force; what they wait for only where a leader that has just looked tells it."""
    if scene.leader is None or scene.in_force is None or gate_doubt(scene):
        return []
    subjects = {anchor.sha256: anchor.subject for anchor in scene.in_force.anchors}
    return [
        OwnAnchorView(
            sha256=sha256,
            subject=subjects[sha256],
            undeclared=sorted({c.cluster for c in waits if _is_undeclared(scene, c)}),
            waits_for=condition_views(waits),
        )
        for sha256, waits in sorted(scene.leader.rotation.dropping.items())
        if sha256 in subjects
    ]


def undeclared(scene: Scene) -> set[str]:
    """Clusters whose takeover a person has yet to declare, whichever root their own CA issues under.

    Empty where no leader that has just looked tells it; a quarantined one has to be let back first.
    """
    if scene.leader is None or gate_doubt(scene):
        return set()
    return set(scene.leader.rotation.undeclared) - set(scene.quarantined)


def _is_undeclared(scene: Scene, condition: ConditionReport) -> bool:
    """Time alone does not bring it, and it is no quarantine: a person has to speak."""
    return (
        condition.name == "own_earlier"
        and not condition.met
        and condition.until <= 0
        and condition.cluster not in scene.quarantined
    )
