"""The bundle, its anchors and the generations before it, as status shows them. Pure.

With anchors that are published although their pin is gone, clusters that were removed, and what left; the accepted
CAs of clusters that joined, and what each waits for before it leaves the bundle; and wishes: what the configuration
asks for, or a file or back end holds, and the hub does not follow without a rotation. An edit is a wish. While one is
open everything may validate, and all the same the next restart may change it: so nothing is called well, and
``federation verify`` fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from federation.core.documents.controller import ConditionReport
from federation.core.documents.trust import AnchorRecord, Generation, Proposal
from federation.core.rotation.effects import NOT_IN_FORCE
from federation.status.findings.causes import Finding, Need, damage_facts, finding
from federation.status.findings.proof import names
from federation.status.model import AnchorView, Attention, BundleView, GenerationView, ProposalView
from federation.status.rotation import condition_views, gate_stale_reason, loss_view
from federation.status.rotation_model import (
    ConditionView,
    DepartureView,
    LossView,
    MemberCaView,
    RemovedClusterView,
    SetbackView,
    UnpinnedView,
)
from federation.status.signing import authority_views
from federation.status.snapshot import Snapshot, days_left, expiry, instant

ORDER: Final = {"root": 0, "accepted": 1, "intermediate": 2}


def anchor_view(anchor: AnchorRecord, now: float) -> AnchorView:
    """One anchor with the days it has left."""
    return AnchorView(
        sha256=anchor.sha256,
        subject=anchor.subject,
        kind=anchor.kind,
        origin=anchor.origin,
        trust_domain=anchor.trust_domain,
        cluster=anchor.cluster,
        not_before=instant(anchor.not_before),
        not_after=instant(anchor.not_after),
        days_left=days_left(anchor.not_after, now),
        expiry=expiry(anchor.not_after, now, not_before=anchor.not_before),
        foreign_override=anchor.foreign_override,
    )


def bundle_view(snapshot: Snapshot) -> BundleView | None:
    """The bundle in force; None where none can be vouched for."""
    generation = snapshot.in_force
    if generation is None:
        return None
    anchors = [anchor_view(anchor, snapshot.now) for anchor in generation.anchors]
    return BundleView(
        generation=generation.number,
        sha256=generation.sha256,
        created=instant(generation.created),
        reason=generation.reason,
        author=generation.author,
        trust_domain=generation.trust_domain,
        size=len(generation.bundle_pem.encode()),
        anchors=sorted(anchors, key=lambda a: (ORDER.get(a.kind, len(ORDER)), a.subject, a.sha256)),
    )


def generation_view(generation: Generation, *, in_force: bool) -> GenerationView:
    """One generation without its bytes."""
    return GenerationView(
        number=generation.number,
        sha256=generation.sha256,
        created=instant(generation.created),
        reason=generation.reason,
        author=generation.author,
        in_force=in_force,
        anchors=[anchor.sha256 for anchor in generation.anchors],
        evidence=generation.evidence,
    )


def generation_views(snapshot: Snapshot) -> list[GenerationView]:
    """The generations that were read, newest first."""
    newest_first = sorted(snapshot.documents.generations.items(), reverse=True)
    return [generation_view(g, in_force=g is snapshot.in_force) for _, g in newest_first]


def open_proposals(snapshot: Snapshot) -> list[Proposal]:
    """Anchors that the leader found in clusters or an authority names, and nobody pinned; each once."""
    found = list(snapshot.leader.proposals) if snapshot.leader else []
    dismissed = frozenset(snapshot.leader.dismissed if snapshot.leader else ())
    for _, signer in sorted(snapshot.signers.items()):
        named = [p for a in (signer.authority, signer.successor) if a is not None for p in a.proposals]
        found += [proposal for proposal in named if proposal.sha256 not in dismissed]
    each = {(proposal.sha256, proposal.cluster, proposal.origin): proposal for proposal in reversed(found)}
    pins = snapshot.config.trust.pins
    return [proposal for proposal in reversed(each.values()) if proposal.sha256 not in pins]


def proposal_views(snapshot: Snapshot) -> list[ProposalView]:
    """Anchors that were found and that nobody pinned."""
    return [
        ProposalView(
            sha256=p.sha256,
            subject=p.subject,
            cluster=p.cluster,
            origin=p.origin,
            not_after=instant(p.not_after),
            first_seen=instant(p.first_seen),
            pem=p.pem,
        )
        for p in open_proposals(snapshot)
    ]


TOLD_FOR: Final = 86400.0  # seconds that a setback needs attention; the list keeps it


def unpinned_views(snapshot: Snapshot) -> list[UnpinnedView]:
    """Each by the record; what it waits for, and what fails without it, where a leader that has just looked tells."""
    record = snapshot.documents.record
    if record is None:
        return []
    told = (
        snapshot.leader.rotation.unpinned
        if snapshot.leader is not None and not gate_stale_reason(snapshot)
        else {}
    )
    found: list[UnpinnedView] = []
    for sha256, known in sorted(record.unpinned.items()):
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


def removed_cluster_views(snapshot: Snapshot) -> list[RemovedClusterView]:
    """Clusters that are registered no more and whose certificates live on, where a leader that looked lately tells."""
    if snapshot.leader is None or gate_stale_reason(snapshot):
        return []
    registered = {str(cluster.name) for cluster in snapshot.config.clusters}
    return [
        RemovedClusterView(cluster=name, until=instant(until))
        for name, until in sorted(snapshot.leader.rotation.removed.items())
        if name not in registered
    ]


def departure_views(snapshot: Snapshot) -> list[DepartureView]:
    """Anchors that left without a rotation, newest first."""
    record = snapshot.documents.record
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
        for left in reversed(record.departures if record is not None else [])
    ]


def setback_views(snapshot: Snapshot) -> list[SetbackView]:
    """The times that state was found to be set back, newest first."""
    record = snapshot.documents.record
    return [
        SetbackView(at=instant(found.at), what=found.what, done=found.done)
        for found in reversed(record.setbacks if record is not None else [])
    ]


def edit_attention(snapshot: Snapshot) -> Iterator[Attention]:
    """What an edit of the configuration asked for and is not done yet."""
    for view in unpinned_views(snapshot):
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
    for found in setback_views(snapshot):
        if found.at is not None and snapshot.now - found.at.timestamp() < TOLD_FOR:
            yield Attention(
                severity="warning",
                code="state_set_back",
                what=f"{found.what}; {found.done}",
                where="the state store",
                remedy="find out who restored or rolled back the state; what was done in between is not in it",
                since=found.at,
            )
    for removed in removed_cluster_views(snapshot):
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


def member_ca_views(snapshot: Snapshot) -> list[MemberCaView]:
    """Those of the bundle in force; what they wait for only where a leader that has just looked tells it."""
    if snapshot.leader is None or snapshot.in_force is None or gate_stale_reason(snapshot):
        return []
    subjects = {anchor.sha256: anchor.subject for anchor in snapshot.in_force.anchors}
    return [
        MemberCaView(
            sha256=sha256,
            subject=subjects[sha256],
            undeclared=sorted({c.cluster for c in waits if _is_undeclared(snapshot, c)}),
            waits_for=condition_views(waits),
        )
        for sha256, waits in sorted(snapshot.leader.rotation.dropping.items())
        if sha256 in subjects
    ]


def undeclared(snapshot: Snapshot) -> set[str]:
    """Clusters whose takeover a person has yet to declare, whichever root their own CA issues under.

    Empty where no leader that has just looked tells it; a quarantined one has to be let back first.
    """
    if snapshot.leader is None or gate_stale_reason(snapshot):
        return set()
    return set(snapshot.leader.rotation.undeclared) - set(snapshot.quarantined)


def _is_undeclared(snapshot: Snapshot, condition: ConditionReport) -> bool:
    """Time alone does not bring it, and it is no quarantine: a person has to speak."""
    return (
        condition.name == "own_earlier"
        and not condition.met
        and condition.until <= 0
        and condition.cluster not in snapshot.quarantined
    )


UNSETTLED: Final = "authority_unsettled"
NOT_APPLIED: Final = "signer_not_applied"
PENDING_CHANGES: Final = frozenset({NOT_IN_FORCE, UNSETTLED, NOT_APPLIED, "another_mesh", "config_problem"})
"""The codes of what is asked for and not followed."""


def is_pending_change(item: Attention) -> bool:
    """Whether something is asked for that is not followed."""
    return item.code in PENDING_CHANGES


def pending_change_attention(snapshot: Snapshot) -> Iterator[Finding]:
    """Each open wish with what was done instead and what to do."""
    for view in authority_views(snapshot):
        if view.reason != NOT_IN_FORCE:
            continue
        goes_on = view.state != "unavailable"
        stopped = not goes_on and not any(signer.ready for signer in snapshot.signers.values())
        item = Attention(
            severity="critical" if stopped else "warning",
            code=NOT_IN_FORCE,
            what=view.detail if goes_on else f"nothing is signed there: {view.detail}",
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
                    what=f"it goes on by what it read before: {found}",
                    where=replica,
                    remedy="mend the state store or the document that is named; where the state was restored or set"
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
                what=f"it is not recorded which authority is in force: {unsettled}",
                where="signers",
                remedy="give every signer the same [signer.authority]; it is recorded as soon as all sign with one, and"
                " no certificate of another is valid any more",
            )
        )
