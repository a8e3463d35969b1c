"""What needs attention in trust: the generation in force, who lags, what runs out, CAs that clusters brought. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Final

from federation.core.identity import another_mesh
from federation.core.rotation.effects import NOT_IN_FORCE
from federation.core.rotation.record import State
from federation.status.findings.causes import Fact, Finding, Need, finding
from federation.status.model import Attention, AuthorityView, Expiry, Severity
from federation.status.signing import authority_views
from federation.status.snapshot import MAKE_ONE, Snapshot, days_left, expiry
from federation.status.trust import member_ca_views, undeclared

QUOTA_NEARLY_USED: Final = 0.9

SEVERITY: Final[dict[Expiry, Severity]] = {
    "expired": "critical",
    "critical": "critical",
    "warning": "warning",
    "unknown": "warning",
    "notice": "notice",
}


def trust_attention(snapshot: Snapshot) -> Iterator[Finding | Attention]:
    """Everything about generations, anchors, authorities and serving certificates."""
    yield from _generation(snapshot)
    yield from _anchors(snapshot)
    yield from _authorities(snapshot)
    yield from _serving(snapshot)


def _generation(snapshot: Snapshot) -> Iterator[Attention]:
    generation, missing = snapshot.in_force, snapshot.nothing_in_force
    if missing is not None:
        yield Attention(
            severity="critical",
            code="no_generation",
            detail=missing.detail,
            where=missing.where,
            remedy="start a controller" if snapshot.leader is None else MAKE_ONE,
        )
    if generation is None:
        return
    if generation.trust_domain != str(snapshot.config.trust_domain):
        yield Attention(
            severity="critical",
            code="another_mesh",
            detail=f"the state was made for the trust domain {generation.trust_domain}, and the configuration names"
            f" {snapshot.config.trust_domain}: nothing is issued, and nothing is published or changed",
            where=f"generation {generation.number}",
            remedy=another_mesh(generation.trust_domain),
        )
    if not generation.anchors:
        yield Attention(
            severity="critical",
            code="no_anchor",
            detail=f"generation {generation.number} holds no anchor: nothing validates",
            where=f"generation {generation.number}",
            remedy="pin at least one root in [[trust.anchors]]",
        )
    for replica, signer in sorted(snapshot.signers.items()):
        if signer.ready and (signer.generation, signer.bundle_sha256) != (
            generation.number,
            generation.sha256,
        ):
            yield Attention(
                severity="warning",
                code="signer_behind",
                detail=f"it hands out generation {signer.generation}, {generation.number} is in force",
                where=replica,
                remedy="passes after a change; otherwise its log says why it refuses the generation",
                since=generation.created,
            )
    if snapshot.leader is not None and snapshot.leader.generation != generation.number:
        yield Attention(
            severity="warning",
            code="controller_behind",
            detail=f"it publishes generation {snapshot.leader.generation}, {generation.number} is in force",
            where=snapshot.leader.replica,
            remedy="right after a change this passes; otherwise its log says why",
        )


_ANCHOR_REMEDIES: Final[Mapping[str, str]] = {
    "root": "rotate to its successor: `federation rotate plan` says what that needs",
    "intermediate": "have the authority sign with its successor: `federation rotate plan` says what that needs",
    "accepted": "move the clusters that came with it to the hub (`federation clusters join NAME`): it leaves then",
}


def _anchors(snapshot: Snapshot) -> Iterator[Finding | Attention]:
    # The end of an intermediate that signs is reported once, with its authority: that says what to do.
    reported = {view.sha256 for view in authority_views(snapshot) if view.signs and view.expiry != "ok"}
    for anchor in snapshot.in_force.anchors if snapshot.in_force else []:
        state = expiry(anchor.not_after, snapshot.now, not_before=anchor.not_before)
        if state != "ok" and (anchor.sha256 not in reported or _has_no_valid_root(snapshot)):
            item = Attention(
                severity=SEVERITY[state],
                code=f"anchor_expiry_{state}",
                detail=f"the {anchor.kind} {anchor.subject} {_when(anchor.not_after, snapshot.now)}",
                where=f"bundle: {anchor.sha256[:16]}",
                remedy=_ANCHOR_REMEDIES.get(anchor.kind, _ANCHOR_REMEDIES["root"]),
            )
            yield finding(item, takes=[(Need.ROOT, "")] if _has_no_valid_root(snapshot) else [])
        if anchor.odd:
            yield Attention(
                severity="notice",
                code="anchor_odd",
                detail=f"it is an anchor like any other, but {anchor.odd}",
                where=f"bundle: {anchor.sha256[:16]}",
                remedy="nothing has to be done now; have the next root made with a positive serial number",
            )
        if anchor.refused:
            yield Attention(
                severity="warning",
                code="anchor_refused",
                detail=f"{anchor.subject} is published, and not all verifiers of a mesh trust what is signed below it:"
                f" {anchor.refused}",
                where=f"bundle: {anchor.sha256[:16]}",
                remedy="take its pin out once nothing is signed below it; give the hub an authority under a root of"
                " P-256, P-384 or RSA",
            )
        if anchor.not_before > snapshot.now:
            yield Attention(
                severity="warning",
                code="anchor_not_yet_valid",
                detail=f"the {anchor.kind} {anchor.subject} is not valid yet",
                where=f"bundle: {anchor.sha256[:16]}",
                remedy="check the hub's clock, or wait",
            )


def _has_no_valid_root(snapshot: Snapshot) -> bool:
    """Whether nothing validates any more because every root has expired."""
    anchors = snapshot.in_force.anchors if snapshot.in_force else []
    roots = [anchor for anchor in anchors if anchor.kind != "intermediate"]
    return bool(roots) and all(0 < root.not_after <= snapshot.now for root in roots)


def _authorities(snapshot: Snapshot) -> Iterator[Finding | Attention]:
    views = [
        view
        for view in authority_views(snapshot)
        if (view.signs or view.use == "authority")
        and view.reason != NOT_IN_FORCE  # a pending change, reported as such
    ]
    left = left_behind(snapshot)
    if left is not None and any(view.signs for view in views):
        # What [signer.authority] says of a root that leaves needs no attention, and its remedy would undo the rotation.
        for view in (view for view in views if not view.signs and view.state == "unavailable"):
            done = left is State.RETIRED
            yield Attention(
                severity="notice",
                code="authority_retired" if done else "authority_leaves",
                detail="a rotation has retired its root: it signs nothing any more"
                if done
                else "a rotation is removing its root: it signs nothing any more",
                where=view.name,
                remedy="make [signer.successor] the [signer.authority], and destroy the old key"
                if done
                else "nothing: once the rotation is RETIRED, make [signer.successor] the [signer.authority]",
            )
        views = [view for view in views if view.signs or view.state != "unavailable"]
    for view in views:
        if view.state != "ready":
            alone = view.signs and all(v.state in {"unavailable", "unknown"} for v in views if v.signs)
            item = Attention(
                severity="critical" if alone else "warning",
                code=f"authority_{view.state}",
                detail=f"the authority: {view.detail.removeprefix(f'{view.name}: ') or view.state}",
                where=view.name,
                remedy=view.remedy or "the signers' logs say more",
            )
            rests_on: list[Fact] = [(Need.ROOT, ""), (Need.INTERMEDIATE, view.name)]
            stops = alone and view.state == "unavailable"
            chain: Fact = (Need.CHAIN, view.name)
            yield finding(item, takes=[(Need.AUTHORITY, ""), chain] if stops else [chain], rests_on=rests_on)
        if view.violations:
            yield Attention(
                severity="critical",
                code="authority_violation",
                detail=f"ALARM: it returned {view.violations} times something else than was asked for,"
                f" last: {view.last_violation}",
                where=view.name,
                remedy="treat the back end as compromised until its answer is explained; restart the signers then",
                since=view.last_violation_at,
            )
        if view.queued or view.refused_early:
            yield from _quota(view)
        if view.expiry != "ok" and view.signs:
            not_after = view.not_after
            item = Attention(
                severity=SEVERITY[view.expiry],
                code=f"authority_expiry_{view.expiry}",
                detail=f"the intermediate {view.subject or view.name} {_when(not_after, snapshot.now)}",
                where=view.name,
                remedy="see in the signers' logs why the chain of this authority is not known"
                if view.expiry == "unknown"
                else "issue its successor, configure that as [signer.successor], and rotate to it: "
                "`federation rotate plan`",
            )
            yield finding(
                item,
                takes=[(Need.INTERMEDIATE, view.name)] if view.expiry == "expired" else [],
                rests_on=[(Need.CHAIN, view.name)] if view.expiry == "unknown" else [],
            )
    for replica, signer in sorted(snapshot.signers.items()):
        if signer.authority is None and signer.ready:
            yield Attention(
                severity="warning",
                code="authority_unknown",
                detail="the signer does not say what it signs with",
                where=replica,
                remedy="nothing, if it has just started; otherwise its log says more",
            )


def left_behind(snapshot: Snapshot) -> State | None:
    """The state of a rotation that has left, or removes, the old side; None where the old one may still be needed."""
    rotation = snapshot.documents.record.rotation if snapshot.documents.record else None
    leaves = {State.UNPUBLISHING, State.EMERGENCY, State.RETIRED}
    return rotation.state if rotation is not None and rotation.state in leaves else None


def _quota(view: AuthorityView) -> Iterator[Attention]:
    """More is asked of the back end than it allows: callers wait, and some are refused early."""
    full = view.quota and view.rate >= QUOTA_NEARLY_USED * view.quota
    if not full and not view.queued:
        return
    yield Attention(
        severity="warning",
        code="authority_quota",
        detail=f"{view.rate:g} certificates a second are asked of it, {view.quota:g} are allowed;"
        f" {view.queued} requests wait, {view.refused_early} were refused early",
        where=view.name,
        remedy=f"the quota carries {view.capacity:,} workloads at the present lifetime: raise it, or let"
        " certificates live longer"
        if view.capacity
        else "look at how quickly the back end answers, or raise signer.authority.max_in_flight",
    )


def _serving(snapshot: Snapshot) -> Iterator[Attention]:
    """The listener's certificate is replaced at two thirds of its life: with a sixth left, that has failed."""
    for replica, signer in sorted(snapshot.signers.items()):
        if not signer.ready:
            continue
        left = signer.serving_not_after - snapshot.now
        if left <= snapshot.config.listener.serving_lifetime / 6:
            yield Attention(
                severity="critical" if left <= 0 else "warning",
                code="serving_expiry",
                detail="the listener's serving certificate "
                + ("has expired" if left <= 0 else f"has {left / 60:.0f} min left and was not replaced"),
                where=replica,
                remedy="look in its log for why the authority does not issue it",
            )


def _when(not_after: float, now: float) -> str:
    if not_after <= 0:
        return "does not say when it expires"
    left = days_left(not_after, now)
    if left < 0 or not_after <= now:
        return f"expired {-left:g} days ago" if left < -1 else "has expired"
    return f"expires in {left:g} days" if left >= 2 else f"expires in {left * 24:.0f} hours"


def member_ca_attention(snapshot: Snapshot, *, joining: Collection[str] = ()) -> Iterator[Attention]:
    """Takeovers to declare, once each; else what an anchor waits for before it leaves by itself.

    Clusters that are ``joining`` are left to :mod:`federation.status.clusters`.
    """
    views = member_ca_views(snapshot)
    anchored = {name for view in views for name in view.undeclared}
    for name in sorted((anchored | undeclared(snapshot)) - {*joining}):
        stays = ", and its anchor stays in the bundle" if name in anchored else ""
        yield Attention(
            severity="warning",
            code="takeover_undeclared",
            detail=f"a CA other than the hub's counts as issuing there still: rotations wait for it{stays}",
            where=name,
            remedy="once nothing but the hub issues there, declare the takeover: "
            f"`federation rotate takeover {name}`",
        )
    for view in views:
        if view.waits_for and not view.undeclared and not {*joining} & {c.cluster for c in view.waits_for}:
            yield Attention(
                severity="notice",
                code="member_ca_waits",
                detail=f"the CA {view.subject}, which a cluster came with, leaves the bundle by itself; "
                f"it waits: {view.waits_for[0].detail}",
                where=f"bundle: {view.sha256[:16]}",
                remedy="nothing; take its pin out of the configuration once it is gone",
            )
