"""What needs attention of edits: what the configuration or a file asks for and the hub does not follow. Pure.

An edit changes nothing by itself. While one is pending everything may validate, and the next restart may still change
that: so nothing is called well, and ``federation verify`` fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from federation.core.rotation.effects import NOT_IN_FORCE
from federation.core.rotation.record import Condition
from federation.status.findings.causes import Finding, Need, damage_facts, finding
from federation.status.findings.proof import names
from federation.status.model import Attention
from federation.status.signing import authority_views
from federation.status.snapshot import Snapshot, instant_text
from federation.status.trust import removed_cluster_views, setbacks, unpinned_views

SETBACK_SHOWN_FOR: Final = 86400.0  # seconds that a setback needs attention; the list keeps it longer
UNSETTLED: Final = "authority_unsettled"
NOT_APPLIED: Final = "signer_not_applied"
PENDING_CHANGES: Final = frozenset({NOT_IN_FORCE, UNSETTLED, NOT_APPLIED, "another_mesh", "config_problem"})
"""The codes of what is asked for and not followed."""


def edit_attention(snapshot: Snapshot) -> Iterator[Attention]:
    """What an edit of the configuration asked for and is not done yet."""
    for view in unpinned_views(snapshot):
        until = f", until {instant_text(view.leaves_at)} at the earliest" if view.leaves_at else ""
        why = f": {_in_words(view.waits_for[0])}" if view.waits_for else ""
        if not view.known:
            why = ": no leading controller reports what needs it"
        yield Attention(
            severity="notice" if view.leaves_at else "warning",  # time alone brings it
            code="pin_gone",
            detail=f"the configuration no longer pins {view.subject or view.sha256[:16]}, and it stays in the bundle"
            f"{until}{why}",
            where=f"bundle: {view.sha256[:16]}",
            remedy="nothing, where it is to go: it leaves by itself. Pin it again where it is to stay. "
            f"`federation trust remove {view.sha256} --now` removes it at once, and says beforehand what breaks",
            since=view.since,
        )
    for found in setbacks(snapshot):
        if snapshot.now - found.at < SETBACK_SHOWN_FOR:
            yield Attention(
                severity="warning",
                code="state_set_back",
                detail=f"{found.what}; {found.done}",
                where="the state store",
                remedy="find out who restored or rolled back the state; what was done in between is not in it",
                since=found.at,
            )
    for removed in removed_cluster_views(snapshot):
        until = instant_text(removed.until) if removed.until else "a time that is not known"
        yield Attention(
            severity="notice",
            code="cluster_removed",
            detail=f"it is not registered any more; its certificates may live until {until}, and rotations wait for "
            "them",
            where=removed.cluster,
            remedy="nothing; register it again where it was removed by mistake",
        )


def _in_words(condition: Condition) -> str:
    return f"{condition.cluster}: {condition.detail}" if condition.cluster else condition.detail


def is_pending_change(item: Attention) -> bool:
    """Whether something is asked for that is not followed."""
    return item.code in PENDING_CHANGES


def pending_change_attention(snapshot: Snapshot) -> Iterator[Finding]:
    """Each pending change with what was done instead and what to do."""
    for view in authority_views(snapshot):
        if view.reason != NOT_IN_FORCE:
            continue
        goes_on = view.state != "unavailable"
        stopped = not goes_on and not any(signer.ready for signer in snapshot.signers.values())
        item = Attention(
            severity="critical" if stopped else "warning",
            code=NOT_IN_FORCE,
            detail=view.detail if goes_on else f"nothing is signed there: {view.detail}",
            where=f"{view.name} on {names(view.signers)}",
            remedy=view.remedy,
        )
        yield finding(item, takes=[(Need.AUTHORITY, "")] if stopped else [])
    for replica, signer in sorted(snapshot.signers.items()):
        for found in signer.not_applied:
            yield finding(
                Attention(
                    severity="warning",
                    code=NOT_APPLIED,
                    detail=f"it goes on by what it read before: {found}",
                    where=replica,
                    remedy="repair the state store or the document that is named; where the state was restored or set"
                    " back, find out by whom, and restore the newest",
                ),
                rests_on=damage_facts(sorted(snapshot.documents.damaged), found),
            )
    unsettled = snapshot.leader.rotation.unsettled if snapshot.leader is not None else ""
    if unsettled:
        yield finding(
            Attention(
                severity="warning",
                code=UNSETTLED,
                detail=f"it is not recorded which authority is in force: {unsettled}",
                where="signers",
                remedy="give every signer the same [signer.authority]; it is recorded as soon as all sign with one, and"
                " no certificate of another is valid any more",
            )
        )
