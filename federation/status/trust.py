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
from federation.status.rotation import condition_views, gate_doubt, loss_view
from federation.status.rotation_model import (
    ConditionView,
    DepartureView,
    LossView,
    OwnAnchorView,
    RemovedClusterView,
    SetbackView,
    UnpinnedView,
)
from federation.status.signing import authority_views
from federation.status.snapshot import Scene, days_left, expiry, instant

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


def bundle_view(scene: Scene) -> BundleView | None:
    """The bundle in force; None where none can be vouched for."""
    generation = scene.in_force
    if generation is None:
        return None
    anchors = [anchor_view(anchor, scene.now) for anchor in generation.anchors]
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


def generation_views(scene: Scene) -> list[GenerationView]:
    """The generations that were read, newest first."""
    newest_first = sorted(scene.snapshot.generations.items(), reverse=True)
    return [generation_view(g, in_force=g is scene.in_force) for _, g in newest_first]


def open_proposals(scene: Scene) -> list[Proposal]:
    """Anchors that the leader found in clusters or an authority names, and nobody pinned; each once."""
    found = list(scene.leader.proposals) if scene.leader else []
    dismissed = frozenset(scene.leader.dismissed if scene.leader else ())
    for _, signer in sorted(scene.signers.items()):
        named = [p for a in (signer.authority, signer.successor) if a is not None for p in a.proposals]
        found += [proposal for proposal in named if proposal.sha256 not in dismissed]
    each = {(proposal.sha256, proposal.cluster, proposal.origin): proposal for proposal in reversed(found)}
    pins = scene.config.trust.pins
    return [proposal for proposal in reversed(each.values()) if proposal.sha256 not in pins]


def proposal_views(scene: Scene) -> list[ProposalView]:
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
        for p in open_proposals(scene)
    ]


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


UNSETTLED: Final = "authority_unsettled"
UNFOLLOWED: Final = "signer_unfollowed"
WISHES: Final = frozenset({NOT_IN_FORCE, UNSETTLED, UNFOLLOWED, "another_mesh", "config_problem"})
"""The codes of what is asked for and not followed."""


def is_wish(item: Attention) -> bool:
    """Whether something is asked for that is not followed."""
    return item.code in WISHES


def wish_attention(scene: Scene) -> Iterator[Finding]:
    """Each open wish with what was done instead and what to do."""
    for view in authority_views(scene):
        if view.reason != NOT_IN_FORCE:
            continue
        goes_on = view.state != "unavailable"
        stopped = not goes_on and not any(signer.ready for signer in scene.signers.values())
        item = Attention(
            severity="critical" if stopped else "warning",
            code=NOT_IN_FORCE,
            what=view.detail if goes_on else f"nothing is signed there: {view.detail}",
            where=f"{view.name} on {names(view.signers)}",
            remedy=view.remedy,
        )
        yield finding(item, takes=[(Need.AUTHORITY, "")] if stopped else [])
    for replica, signer in sorted(scene.signers.items()):
        for found in signer.unfollowed:
            yield finding(
                Attention(
                    severity="warning",
                    code=UNFOLLOWED,
                    what=f"it goes on by what it read before: {found}",
                    where=replica,
                    remedy="mend the state store or the document that is named; where the state was restored or set"
                    " back, find out by whom, and restore the newest",
                ),
                rests_on=damage_facts(sorted(scene.snapshot.damaged), found),
            )
    unsettled = scene.leader.rotation.unsettled if scene.leader is not None else ""
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
