"""The bundle, its anchors and the generations before it, as status shows them. Pure.

With anchors that are published although their pin is gone, clusters that were removed, and what left; and the accepted
CAs of clusters that joined, with what each waits for before it leaves the bundle.
"""

from __future__ import annotations

from typing import Final

from federation.core.documents.trust import AnchorRecord, Generation, Proposal
from federation.core.rotation.record import Condition, Departure, Setback
from federation.status.model import AnchorView, BundleView, GenerationView
from federation.status.rotation import loss_view, rotation_report
from federation.status.rotation_model import ClusterUntil, LossView, MemberCaView, UnpinnedView
from federation.status.snapshot import Snapshot, days_left, expiry

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
        not_before=anchor.not_before,
        not_after=anchor.not_after,
        days_left=days_left(anchor.not_after, now),
        expiry=expiry(anchor.not_after, now, not_before=anchor.not_before),
        foreign_override=anchor.foreign_override,
    )


def bundle_view(snapshot: Snapshot) -> BundleView | None:
    """The bundle in force; None where none can be verified."""
    generation = snapshot.in_force
    if generation is None:
        return None
    anchors = [anchor_view(anchor, snapshot.now) for anchor in generation.anchors]
    return BundleView(
        generation=generation.number,
        sha256=generation.sha256,
        created=generation.created,
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
        created=generation.created,
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
    """Anchors that the leader found in clusters or an authority names, and that are not pinned; each once."""
    found = list(snapshot.leader.proposals) if snapshot.leader else []
    dismissed = frozenset(snapshot.leader.dismissed if snapshot.leader else ())
    for _, signer in sorted(snapshot.signers.items()):
        named = [p for a in (signer.authority, signer.successor) if a is not None for p in a.proposals]
        found += [proposal for proposal in named if proposal.sha256 not in dismissed]
    each = {(proposal.sha256, proposal.cluster, proposal.origin): proposal for proposal in reversed(found)}
    pins = snapshot.config.trust.pins
    return [proposal for proposal in reversed(each.values()) if proposal.sha256 not in pins]


def unpinned_views(snapshot: Snapshot) -> list[UnpinnedView]:
    """Each by the record; what it waits for, and what fails without it, where a leader has just looked."""
    record = snapshot.documents.record
    if record is None:
        return []
    now = rotation_report(snapshot)
    found: list[UnpinnedView] = []
    for sha256, known in sorted(record.unpinned.items()):
        report = now.unpinned.get(sha256) if now is not None else None
        waits: list[Condition] = report.conditions if report else []
        losses: list[LossView] = [loss_view(loss) for loss in report.losses] if report else []
        found.append(
            UnpinnedView(
                sha256=sha256,
                subject=known.subject,
                clusters=known.clusters,
                since=known.since,
                known=report is not None,
                leaves_at=report.opens_at if report else 0.0,
                waits_for=waits,
                losses=losses,
            )
        )
    return found


def removed_cluster_views(snapshot: Snapshot) -> list[ClusterUntil]:
    """Clusters that are registered no more and whose certificates live on, where a leader has just looked."""
    report = rotation_report(snapshot)
    if report is None:
        return []
    registered = {str(cluster.name) for cluster in snapshot.config.clusters}
    return [
        ClusterUntil(cluster=name, until=until)
        for name, until in sorted(report.removed.items())
        if name not in registered
    ]


def departures(snapshot: Snapshot) -> list[Departure]:
    """Anchors that left without a rotation, newest first."""
    record = snapshot.documents.record
    return record.departures[::-1] if record is not None else []


def setbacks(snapshot: Snapshot) -> list[Setback]:
    """The times that state was found to be set back, newest first."""
    record = snapshot.documents.record
    return record.setbacks[::-1] if record is not None else []


def member_ca_views(snapshot: Snapshot) -> list[MemberCaView]:
    """Those of the bundle in force; what they wait for only where a leader that has just looked reports it."""
    report = rotation_report(snapshot)
    if report is None or snapshot.in_force is None:
        return []
    subjects = {anchor.sha256: anchor.subject for anchor in snapshot.in_force.anchors}
    return [
        MemberCaView(
            sha256=sha256,
            subject=subjects[sha256],
            undeclared=sorted({c.cluster for c in waits if _is_undeclared(snapshot, c)}),
            waits_for=waits,
        )
        for sha256, waits in sorted(report.dropping.items())
        if sha256 in subjects
    ]


def undeclared(snapshot: Snapshot) -> set[str]:
    """Clusters whose takeover a person has yet to declare, whichever root their own CA issues under.

    Empty where no leader that has just looked reports it; a quarantined one has to be let back first.
    """
    report = rotation_report(snapshot)
    return set(report.undeclared) - set(snapshot.quarantined) if report is not None else set()


def _is_undeclared(snapshot: Snapshot, condition: Condition) -> bool:
    """Time alone does not bring it, and it is no quarantine: a person has to speak."""
    return (
        condition.name == "own_earlier"
        and not condition.met
        and condition.until <= 0
        and condition.cluster not in snapshot.quarantined
    )
