"""What needs attention in a rotation, in quarantines and in pins that a rotation has outlived. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from federation.core.rotation.record import ABORTABLE, RotationRecord, State
from federation.status.findings.proof import names
from federation.status.model import Attention
from federation.status.rotation import quarantine_summary, quarantine_views, rotation_view
from federation.status.rotation_model import GateView, RotationView
from federation.status.signing import authority_views
from federation.status.snapshot import RESTORE_RECORD, Snapshot, elapsed, instant_text

OF_LEAVES: Final = frozenset({"drained", "new_drained", "earlier"})
"""Conditions that wait for the end of leaves which are out there: a quarantine does not shorten that."""
_INSTEAD_OF_ADVANCING: Final = {
    **{state.value: "; or `federation rotate abort`" for state in ABORTABLE},
    State.UNPUBLISHING.value: "; or `federation rotate restore`",
}
LONGEST_OVERLOOKED: Final = 120.0  # seconds; the leader looks every second, and a store that stalls delays it
PATIENCE: Final = 2.0  # times what a state takes as a rule, before standing in it is worth a look


def rotation_attention(snapshot: Snapshot) -> Iterator[Attention]:
    """Everything about the rotation, who is left out of it, and what it left behind."""
    if snapshot.leader is not None and snapshot.leader.rotation.problem:
        yield Attention(
            severity="warning",
            code="rotation_problem",
            detail=f"rotations and operations cannot be worked on: {snapshot.leader.rotation.problem}",
            where=snapshot.leader.replica,
            remedy="repair the document that is named, or what keeps the state store from answering",
        )
    view = rotation_view(snapshot)
    yield from _successors(snapshot, view)
    unknown = snapshot.rotation_unknown
    if unknown is not None:
        yield Attention(
            severity="critical",
            code="rotation_unknown",
            detail=f"neither the rotation nor quarantines are known: {unknown.detail}",
            where=unknown.where,
            remedy=RESTORE_RECORD,
        )
        return
    if view is not None and view.under_way:
        yield from _under_way(snapshot, view)
    yield from _quarantines(snapshot)
    if snapshot.documents.record is not None or snapshot.config.trust.staged:
        yield from _pins(snapshot, snapshot.documents.record or RotationRecord(), view)


def _under_way(snapshot: Snapshot, view: RotationView) -> Iterator[Attention]:
    where = f"rotation {view.number}"
    if view.state == "EMERGENCY" or view.deadline > 0:
        yield _emergency(view, where)
    elif view.state == "ABORTING":
        yield Attention(
            severity="warning",
            code="rotation_aborting",
            detail=f"it is being aborted: {_last_reason(view)}",
            where=where,
            remedy="let it end; another rotation can be started then",
            since=view.since,
        )
    if view.paused:
        yield Attention(
            severity="warning",
            code="rotation_paused",
            detail=f"it does not go on by itself from {view.state}: {view.paused}",
            where=where,
            remedy=f"correct that, then `federation rotate advance`{_INSTEAD_OF_ADVANCING.get(view.state, '')}",
            since=view.since,
        )
    if view.gate is None or not view.gate.known:
        yield from _overlooked(snapshot, view, where)
        return
    if view.gate.open:
        if not view.automatic and not view.paused:
            yield Attention(
                severity="notice",
                code="rotation_advance_due",
                detail=f"its gate out of {view.state} is open, and it goes on step by step",
                where=where,
                remedy="`federation rotate advance`",
            )
        return
    yield from _waiting(snapshot, view, view.gate, where)


def _overlooked(snapshot: Snapshot, view: RotationView, where: str) -> Iterator[Attention]:
    """A leader that reports, and has not looked at the gate for long: nothing else would say that it stands still."""
    if snapshot.leader is None or snapshot.leader.rotation.problem or snapshot.leader.rotation.computed <= 0:
        return
    age = snapshot.now - snapshot.leader.rotation.computed
    if age > LONGEST_OVERLOOKED:
        yield Attention(
            severity="warning",
            code="rotation_overlooked",
            detail=f"in {view.state} the leading controller {snapshot.leader.replica} last looked at its gate "
            f"{elapsed(age)} ago, and it does not go on until it does",
            where=where,
            remedy="read that controller's log; if it names no cause, restart it",
            since=snapshot.leader.rotation.computed,
        )


def _waiting(snapshot: Snapshot, view: RotationView, gate: GateView, where: str) -> Iterator[Attention]:
    waits = {c.cluster for c in gate.conditions if not c.met and c.name not in OF_LEAVES}
    unreachable = [
        name
        for name in gate.waits_for
        if name in waits
        if (seen := snapshot.seen(name)) is None or seen.state not in {"ready", "degraded"}
    ]
    if unreachable:
        yield Attention(
            severity="warning",
            code="rotation_waits_for_cluster",
            detail=f"in {view.state} it waits for clusters that the controller cannot reach: {names(unreachable)}",
            where=where,
            remedy="restore their connection, or take them out: `federation rotate quarantine NAME --reason ...`",
            clusters=unreachable,
        )
    stood = snapshot.now - view.since if view.since else 0.0
    if view.expected and stood > PATIENCE * view.expected:
        yield Attention(
            severity="warning",
            code="rotation_stuck",
            detail=f"it has stood in {view.state} for {elapsed(stood)}, which takes {elapsed(view.expected)} as a rule:"
            f" {gate.detail}",
            where=where,
            remedy="`federation rotate status` names everything that it waits for",
            since=view.since,
            clusters=unreachable if waits <= {*unreachable} else [],
        )


def _emergency(view: RotationView, where: str) -> Attention:
    at = instant_text(view.deadline) if view.deadline else "a time that is not set"
    side = "new" if view.state == "ABORTING" else "old"
    lost = {c.cluster for loss in view.losses if loss.side == side for c in loss.clusters}
    suffers = f", with what still needs it in {names(sorted(lost))}" if lost else ""
    left = f"the compromised side is left by {at}{suffers}"
    done = view.state not in {"EMERGENCY", "ABORTING"}
    return Attention(
        severity="critical",
        code="rotation_emergency",
        detail="the compromised side is being removed" if done else f"EMERGENCY: {left}",
        where=where,
        remedy="`federation rotate status` shows what will fail and the progress; restart workloads that hold"
        " old certificates",
        since=view.since,
    )


def _last_reason(view: RotationView) -> str:
    aborted = next((step for step in view.history if step.before != "ABORTING"), None)
    return aborted.reason if aborted else "no reason is recorded"


def _quarantines(snapshot: Snapshot) -> Iterator[Attention]:
    registered = {cluster.name.value for cluster in snapshot.config.clusters}
    for view in quarantine_views(snapshot):
        yield Attention(
            severity="warning" if view.cluster in registered else "notice",
            code="quarantined",
            detail=quarantine_summary(view),
            where=view.cluster,
            remedy="nothing: it returns by itself once it is caught up"
            if view.returning
            else f"once it is well again: `federation rotate release {view.cluster}`",
            since=view.since,
        )


def _successors(snapshot: Snapshot, rotation: RotationView | None) -> Iterator[Attention]:
    """An authority that is to sign next: worth mending before it is needed."""
    for view in authority_views(snapshot):
        if view.use != "successor" or view.signs:
            continue  # one that signs is reported like any other
        if (problem := view.problem) is not None:
            yield Attention(
                severity="warning",
                code="successor_not_ready",
                detail=f"the authority to rotate to cannot sign: {problem.detail}",
                where=view.name,
                remedy=problem.remedy or "look in the signers' logs; no rotation to it begins meanwhile",
            )
    at_rest = snapshot.rotation_unknown is None and (rotation is None or not rotation.under_way)
    signing = [v for v in authority_views(snapshot) if v.use == "successor" and v.signs]
    if at_rest and signing:
        yield Attention(
            severity="notice",
            code="successor_signs",
            detail="[signer.successor] signs since the last rotation",
            where=signing[0].name,
            remedy="make it [signer.authority], and remove [signer.successor] or name the next one there",
        )
    for replica, signer in sorted(snapshot.signers.items()):
        directives = snapshot.documents.directives
        if (
            directives is not None
            and signer.ready
            and (signer.rotation, signer.directives)
            != (
                directives.rotation,
                directives.state,
            )
        ):
            yield Attention(
                severity="warning",
                code="signer_directives",
                detail=f"it follows the directives of {signer.directives or 'no rotation'},"
                f" {directives.state or 'none'} is directed",
                where=replica,
                remedy="passes after a change; otherwise its log says why it cannot read the directives",
            )


def _pins(snapshot: Snapshot, record: RotationRecord, rotation: RotationView | None) -> Iterator[Attention]:
    coming = rotation.new.root if rotation is not None and rotation.under_way else ""
    for sha256 in sorted(snapshot.config.trust.pins & frozenset(record.retired)):
        yield Attention(
            severity="notice",
            code="pin_retired",
            detail=f"the root {_subject(rotation, sha256)} is retired: nothing depends on it any more",
            where=f"pin {sha256[:16]}",
            remedy="take its pin out of the configuration of every replica",
        )
    for sha256 in sorted(snapshot.config.trust.staged - frozenset(record.retired)):
        if sha256 in record.admitted and rotation is not None and not rotation.under_way:
            yield Attention(
                severity="notice",
                code="pin_admitted",
                detail=f"the root {_subject(rotation, sha256)} is pinned as staged and is published by now",
                where=f"pin {sha256[:16]}",
                remedy="remove `staged = true` from its pin",
            )
        elif sha256 not in record.admitted and sha256 != coming:
            yield Attention(
                severity="notice",
                code="pin_staged",
                detail=f"the root {_subject(rotation, sha256)} is pinned as staged, and no rotation brings it",
                where=f"pin {sha256[:16]}",
                remedy="`federation rotate plan` says what a rotation to it needs; otherwise take the pin out",
            )


def _subject(rotation: RotationView | None, sha256: str) -> str:
    sides = (rotation.old, rotation.new) if rotation is not None else ()
    return next((s.root_subject for s in sides if s.root == sha256 and s.root_subject), sha256)
