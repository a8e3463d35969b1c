"""Anchors that are published although their pin is gone, clusters that were removed, and what left. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from federation.status.freshness import instant
from federation.status.model import Attention
from federation.status.quarantine import condition_views
from federation.status.rotation import gate_doubt, loss_view
from federation.status.rotation_model import (
    ConditionView,
    DepartureView,
    LossView,
    RemovedClusterView,
    SetbackView,
    UnpinnedView,
)
from federation.status.scene import Scene

TOLD_FOR: Final = 86400.0  # seconds that a setback needs attention; the list keeps it


def unpinned_views(scene: Scene) -> list[UnpinnedView]:
    """Each by the record; what it waits for, and what fails without it, where a leader that has just looked tells."""
    book = scene.snapshot.book
    if book is None:
        return []
    told = scene.leader.rotation.unpinned if scene.leader is not None and not gate_doubt(scene) else {}
    found: list[UnpinnedView] = []
    for sha256, known in sorted(book.unpinned.items()):
        report = told.get(sha256)
        waits: list[ConditionView] = condition_views(report.conditions) if report else []
        losses: list[LossView] = [loss_view(loss) for loss in report.losses] if report else []
        found.append(
            UnpinnedView(
                sha256=sha256,
                subject=known.subject,
                clusters=known.clusters,
                since=instant(known.since),
                known=report is not None,
                leaves_at=instant(report.opens_at) if report else None,
                waits_for=waits,
                losses=losses,
            )
        )
    return found


def removed_cluster_views(scene: Scene) -> list[RemovedClusterView]:
    """Clusters that are registered no more and whose certificates live on, where a leader that looked lately tells."""
    if scene.leader is None or gate_doubt(scene):
        return []
    registered = {str(cluster.name) for cluster in scene.config.clusters}
    return [
        RemovedClusterView(cluster=name, until=instant(until))
        for name, until in sorted(scene.leader.rotation.removed.items())
        if name not in registered
    ]


def departure_views(scene: Scene) -> list[DepartureView]:
    """Anchors that left without a rotation, newest first."""
    book = scene.snapshot.book
    return [
        DepartureView(
            sha256=left.sha256,
            subject=left.subject,
            at=instant(left.at),
            author=left.author,
            reason=left.reason,
            evidence=[
                ConditionView(
                    name=c.name, met=c.met, detail=c.detail, cluster=c.cluster, until=instant(c.until)
                )
                for c in left.evidence
            ],
        )
        for left in reversed(book.departures if book is not None else [])
    ]


def setback_views(scene: Scene) -> list[SetbackView]:
    """The times that state was found to be set back, newest first."""
    book = scene.snapshot.book
    return [
        SetbackView(at=instant(found.at), what=found.what, done=found.done)
        for found in reversed(book.setbacks if book is not None else [])
    ]


def edit_attention(scene: Scene) -> Iterator[Attention]:
    """What an edit of the configuration asked for and is not done yet."""
    for view in unpinned_views(scene):
        until = f", until {view.leaves_at:%Y-%m-%d %H:%M:%S} UTC at the earliest" if view.leaves_at else ""
        why = f": {_in_words(view.waits_for[0])}" if view.waits_for else ""
        if not view.known:
            why = ": no controller that leads tells what needs it"
        yield Attention(
            severity="notice" if view.leaves_at else "warning",  # time alone brings it
            code="pin_gone",
            what=f"the configuration no longer pins {view.subject or view.sha256[:16]}, and it stays in the bundle"
            f"{until}{why}",
            where=f"bundle: {view.sha256[:16]}",
            remedy="nothing, where it is to go: it leaves by itself. Pin it again where it is to stay. "
            f"`federation trust remove {view.sha256} --now` removes it at once, and says beforehand what breaks",
            since=view.since,
        )
    for found in setback_views(scene):
        if found.at is not None and scene.now - found.at.timestamp() < TOLD_FOR:
            yield Attention(
                severity="warning",
                code="state_set_back",
                what=f"{found.what}; {found.done}",
                where="the state store",
                remedy="find out who restored or rolled back the state; what was done in between is not in it",
                since=found.at,
            )
    for removed in removed_cluster_views(scene):
        until = f"{removed.until:%Y-%m-%d %H:%M:%S} UTC" if removed.until else "a time that is not known"
        yield Attention(
            severity="notice",
            code="cluster_removed",
            what=f"it is not registered any more; its certificates may live until {until}, and rotations wait for them",
            where=removed.cluster,
            remedy="nothing; register it again where it was removed by mistake",
        )


def _in_words(condition: ConditionView) -> str:
    return f"{condition.cluster}: {condition.detail}" if condition.cluster else condition.detail
