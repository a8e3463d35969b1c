"""Quarantined clusters as status tells them: since when, why, by whom, and what a return still needs. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from federation.state.documents import ConditionReport
from federation.status.freshness import instant
from federation.status.rotation_model import ConditionView, QuarantineView
from federation.status.scene import Scene


def condition_views(conditions: Iterable[ConditionReport]) -> list[ConditionView]:
    """Conditions with their evidence."""
    return [
        ConditionView(name=c.name, met=c.met, detail=c.detail, cluster=c.cluster, until=instant(c.until))
        for c in conditions
    ]


def quarantine_views(scene: Scene) -> list[QuarantineView]:
    """Every cluster that a person took out, by name; what it waits for only where a leader tells it now."""
    waiting = scene.leader.rotation.returning if scene.leader is not None else {}
    return [
        QuarantineView(
            cluster=name,
            reason=held.reason,
            author=held.author,
            since=instant(held.since),
            returning=held.returning,
            waits_for=condition_views(waiting.get(name, [])) if held.returning else [],
        )
        for name, held in sorted(scene.quarantined.items())
    ]


def quarantine_summary(view: QuarantineView) -> str:
    """One sentence about it."""
    if not view.returning:
        return f"quarantined, nothing is issued there: {view.reason}"
    waits = view.waits_for[0].detail if view.waits_for else "it is being looked at"
    return f"returning from quarantine, nothing is issued there yet: {waits}"
