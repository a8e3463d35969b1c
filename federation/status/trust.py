"""The bundle, its anchors and the generations before it, as status shows them. Pure.

With anchors that are published although their pin is gone, clusters that were removed, and what left; the accepted
CAs of clusters that joined, and what each waits for before it leaves the bundle; and pending changes: what the
configuration asks for, or a file or back end holds, and the hub does not follow without a rotation. An edit changes
nothing by itself. While one is pending everything may validate, and the next restart may still change that: so nothing
is called well, and ``federation verify`` fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from federation.core.documents.trust import AnchorRecord, Generation, Proposal
from federation.core.rotation.effects import NOT_IN_FORCE
from federation.core.rotation.record import Condition, Departure, Setback
from federation.status.findings.causes import Finding, Need, damage_facts, finding
from federation.status.findings.proof import names
from federation.status.model import AnchorView, Attention, BundleView, GenerationView
from federation.status.rotation import loss_view, rotation_report
from federation.status.rotation_model import ClusterUntil, LossView, MemberCaView, UnpinnedView
from federation.status.signing import authority_views
from federation.status.snapshot import Snapshot, days_left, expiry, instant_text

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


SETBACK_SHOWN_FOR: Final = 86400.0  # seconds that a setback needs attention; the list keeps it longer


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


UNSETTLED: Final = "authority_unsettled"
NOT_APPLIED: Final = "signer_not_applied"
PENDING_CHANGES: Final = frozenset({NOT_IN_FORCE, UNSETTLED, NOT_APPLIED, "another_mesh", "config_problem"})
"""The codes of what is asked for and not followed."""


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
