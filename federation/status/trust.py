"""The bundle, its anchors and the generations before it, as status tells them. Pure."""

from __future__ import annotations

from typing import Final

from federation.state.documents import AnchorRecord, Generation, Proposal
from federation.status.freshness import days_left, expiry, instant
from federation.status.model import AnchorView, BundleView, GenerationView, ProposalView
from federation.status.scene import Scene

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
