"""What a start of a rotation would do now, as the leader tells it. Pure."""

from __future__ import annotations

from federation.status.freshness import finite
from federation.status.quarantine import condition_views
from federation.status.rotation import gate_doubt, side_view
from federation.status.rotation_model import HolderView, PlanView
from federation.status.scene import Scene


def plan_view(scene: Scene) -> PlanView | None:
    """What a start would do now; None while a rotation is under way, or where nobody tells."""
    plan = scene.leader.rotation.plan if scene.leader is not None and not gate_doubt(scene) else None
    if plan is None:
        return None
    changes_root = plan.old is not None and plan.new is not None and plan.old.root != plan.new.root
    longest, soak = finite(plan.longest_leaf), finite(plan.soak)
    return PlanView(
        ready=not plan.problem and all(condition.met for condition in plan.conditions),
        kind=None if plan.old is None or plan.new is None else "root" if changes_root else "intermediate",
        old=side_view(plan.old) if plan.old is not None else None,
        new=side_view(plan.new) if plan.new is not None else None,
        problem=plan.problem,
        remedy=plan.remedy,
        canary=plan.canary,
        waves=plan.waves,
        automatic=plan.automatic,
        soak=soak,
        longest_leaf=longest,
        takes=2 * longest + soak if changes_root else longest,
        rate=finite(plan.rate),
        quota=finite(plan.quota),
        conditions=condition_views(plan.conditions),
        holders=[
            HolderView(
                cluster=h.cluster, what=h.what, detail=h.detail, anchors=h.anchors, obstacle=h.obstacle
            )
            for h in plan.holders
        ],
    )
