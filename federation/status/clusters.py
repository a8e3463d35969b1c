"""One cluster: connection, signing, publication, proof, Istio's parts and workloads, merged into one health. Pure.

Everything is what its controller reports, as far as that is recent, and what to do:

- **Istio's webhooks,** as far as what is reported of them still holds.
- **Its ClusterTrustBundle.**
- **istiod's certificates.** Without a certificate istiod answers neither agents nor the injection webhook, and says
  that it is ready: a cluster in which one is wanted and not provided is not healthy, however many workloads still
  have certificates.
- **Joining with a CA of its own:** its steps as the leader sees them, and what to do about the present one. The steps
  and their conditions are those of ``core/trust/joining``.
- **Workloads:** counts, verdict, refused callers. A matrix of the hub's own probes is green over a mesh in which no
  workload has a certificate, so the cluster is not healthy, and `federation verify` fails, unless its workloads hold
  what they were issued.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

from msgspec.structs import replace

from federation.core.config.clusters import ClusterConfig
from federation.core.documents.controller import (
    ControllerClusterReport,
    ControlPlaneReport,
    ControlPlaneState,
    PublicationReport,
    TrustBundleReport,
    TrustBundleState,
    WebhookReport,
)
from federation.core.documents.credential import CredentialReport
from federation.core.documents.signer import RefusalsReport, WorkloadsReport
from federation.core.documents.trust import Generation
from federation.core.problem import Problem
from federation.core.trust.joining import JoinStep
from federation.core.trust.liveness import Vitality, assess
from federation.state.liveness import refusals_of, signs_of_life, together, unproven_of, workloads_of
from federation.status.findings.proof import names
from federation.status.matrix import PairTable, proof_view
from federation.status.model import (
    ClusterVerdict,
    ClusterView,
    ConnectionView,
    CredentialView,
    JoiningView,
    JoinStepView,
    PublicationState,
    PublicationView,
    RefusedView,
    SigningView,
    WebhooksState,
    WebhooksView,
    WorkloadsView,
)
from federation.status.rotation import (
    quarantine_summary,
    quarantine_views,
    rotation_report,
)
from federation.status.signing import known_state, signing_view
from federation.status.snapshot import Snapshot, finite
from federation.status.trust import undeclared

WEBHOOK_STATES: Final[tuple[WebhooksState, ...]] = get_args(WebhooksState)
NOT_VERIFIED: Final[tuple[tuple[str, WebhooksState, str], ...]] = (
    ("other_ca", "other_ca", "does not verify the certificate that the hub provides to"),
    ("empty", "not_served", "has no caBundle, so nothing was served yet by"),
)


def webhooks_view(snapshot: Snapshot, cluster: ClusterConfig) -> WebhooksView:
    """What was read recently; unknown where nothing was."""
    seen, unread = snapshot.seen(cluster.name.value), snapshot.not_read_back(cluster)
    if seen is None or unread is not None:
        return WebhooksView(
            state="unknown", detail=unread.detail if unread else "the controller does not report them"
        )
    if seen.webhooks_detail:
        return WebhooksView(state="unknown", detail=seen.webhooks_detail)
    if not seen.webhooks:
        return WebhooksView(state="none")
    others = sum(webhook.state == "not_provided" for webhook in seen.webhooks)
    state, detail = _judged(seen.webhooks)
    return WebhooksView(state=state, found=len(seen.webhooks), others=others, detail=detail)


def _judged(webhooks: Iterable[WebhookReport]) -> tuple[WebhooksState, str]:
    webhooks = list(webhooks)
    for reported, state, what in NOT_VERIFIED:
        first = next((webhook for webhook in webhooks if webhook.state == reported), None)
        if first is not None:
            return state, f"{first.name} {what} {first.istiod}"
    if any(webhook.state not in {"verifies", "not_provided"} for webhook in webhooks):
        return "unknown", "the controller reports a state that this version does not know"
    return "verified", ""


def webhooks_line(clusters: Iterable[ClusterView]) -> str:
    """One line for a terminal: in which clusters kube-apiserver verifies istiod; empty where none has a webhook."""
    found: dict[WebhooksState, list[str]] = {}
    for view in clusters:
        found.setdefault(view.webhooks.state, []).append(view.name)
    if not found.keys() - {"none"}:
        return ""
    parts = [f"{state} in {names(found[state])}" for state in WEBHOOK_STATES if state in found]
    return f"Istio's webhooks: {'; '.join(parts)}"


TRUST_BUNDLE_STATES: Final[tuple[TrustBundleState, ...]] = get_args(TrustBundleState)
ABSENT: Final = frozenset({"off", "not_served"})
"""Where there is nothing to say: it is not wanted, or the cluster has no such API."""


def trust_bundle_view(snapshot: Snapshot, cluster: ClusterConfig) -> TrustBundleReport:
    """What the leader reports, unknown where nothing was read back recently."""
    if cluster.istio.cluster_trust_bundle == "off":
        return TrustBundleReport(state="off")
    seen, unread = snapshot.seen(cluster.name.value), snapshot.not_read_back(cluster)
    if seen is None or unread is not None:
        return TrustBundleReport(state="unknown", detail=unread.detail if unread else "")
    report = seen.trust_bundle
    if report.state not in TRUST_BUNDLE_STATES:
        return TrustBundleReport(state="unknown", detail="the controller does not report it")
    return report


def trust_bundle_problem(bundle: TrustBundleReport) -> Problem | None:
    """Why a cluster is not in order for it: pods may trust something else. None where none of them can."""
    return Problem.unless(
        not bundle.counted or bundle.state == "current",
        code=f"cluster_trust_bundle_{bundle.state}",
        detail=f"ClusterTrustBundle {bundle.name}: {bundle.detail or bundle.state}",
        remedy=bundle.remedy,
    )


def trust_bundle_line(clusters: Iterable[ClusterView]) -> str:
    """One line for a terminal: which clusters are in which state; empty where no cluster serves the API."""
    found: dict[str, list[str]] = {}
    for view in clusters:
        if view.cluster_trust_bundle.state not in ABSENT:
            found.setdefault(view.cluster_trust_bundle.state, []).append(view.name)
    if not any(state != "unknown" for state in found):
        return ""
    parts = [f"{state} in {names(found[state])}" for state in TRUST_BUNDLE_STATES if state in found]
    return f"ClusterTrustBundle: {'; '.join(parts)}"


REASON: Final = "control_plane"
"""The reason of a cluster that is degraded for nothing else, as its controller reports it."""

CONTROL_PLANE_STATES: Final[tuple[ControlPlaneState, ...]] = get_args(ControlPlaneState)
_KNOWN: Final[dict[str, ControlPlaneState]] = {state: state for state in CONTROL_PLANE_STATES}


def control_plane_views(snapshot: Snapshot, cluster: ClusterConfig) -> list[ControlPlaneReport]:
    """Each Secret that the configuration wants, unknown where nothing was read back recently."""
    istio, name = cluster.istio, cluster.name.value
    if not istio.provide_certificate:
        return [ControlPlaneReport(namespace=n, secret=istio.secret, state="off") for n in istio.namespaces]
    seen, unread = snapshot.seen(name), snapshot.not_read_back(cluster)
    reports = {} if seen is None or unread is not None else {r.namespace: r for r in seen.control_planes}
    missing = unread.detail if unread is not None else "the controller does not report it"
    return [
        _view(reports[namespace], snapshot.now)
        if namespace in reports
        else ControlPlaneReport(
            namespace=namespace,
            secret=istio.secret,
            state="unknown",
            detail=missing,
            attention=unread is None,
        )
        for namespace in istio.namespaces
    ]


def _view(report: ControlPlaneReport, now: float) -> ControlPlaneReport:
    state, detail, attention = _KNOWN.get(report.state, "unknown"), report.detail, report.attention
    if state == "provided" and report.not_after <= now:
        state, detail, attention = "failed", "the certificate has expired", True
    return replace(report, state=state, detail=detail, attention=attention or state == "unknown")


def control_plane_problem(planes: Iterable[ControlPlaneReport]) -> ControlPlaneReport | None:
    """The worst of those that need attention; None where there is none."""
    return min((p for p in planes if p.attention), key=lambda p: p.state != "failed", default=None)


def described(plane: ControlPlaneReport) -> str:
    """What is wrong with it, in a sentence."""
    return f"istiod's certificate {plane.namespace}/{plane.secret}: {plane.detail or plane.state}"


def control_plane_line(clusters: Iterable[ClusterView]) -> str:
    """One line for a terminal: in which clusters istiod's certificate is in which state; empty without clusters."""
    found: dict[str, list[str]] = {}
    for view in clusters:
        for state in dict.fromkeys(plane.state for plane in view.control_planes):
            found.setdefault(state, []).append(view.name)
    parts = [f"{state} in {names(found[state])}" for state in CONTROL_PLANE_STATES if state in found]
    return f"istiod's certificate: {'; '.join(parts)}" if parts else ""


COUNT: Final = len(JoinStep)

_DOES: Final[Mapping[str, str]] = {
    "accept": "the root of its own CA is accepted",
    "serve": "its own CA delivers the hub's bundle",
    "renew": "every certificate without that bundle has ended",
    "control_plane": "istiod has a certificate of the hub",
    "move": "every pod asks the hub",
    "switch_off": "its own CA is off",
    "takeover": "it is declared that nothing but the hub issues there",
    "drop": "its own root has left the bundle",
}

_BEFORE_THE_MOVE: Final = frozenset({"accept", "serve", "renew", "control_plane", "move"})
PATIENCE: Final = "nothing: time has to pass"


def _remedy(step: str, name: str) -> str:
    join = f"federation clusters join {name}"
    match step:
        case "accept":
            return f"compare the fingerprint with the CA's owner, then `{join} --accept FINGERPRINT`"
        case "serve" | "control_plane" | "move" | "switch_off":
            return f"`{join}` writes what has to be applied there"
        case "takeover":
            return f"`{join}` declares it"
        case _:
            return PATIENCE


def joining_view(snapshot: Snapshot, name: str) -> JoiningView | None:
    """Which step the cluster is at; None where it has no CA of its own, or no leader reports it now."""
    report = rotation_report(snapshot)
    steps = report.joining.get(name) if report is not None else None
    if not steps:
        return None
    present = next((step for step in steps if not step.done), None)
    if present is None:
        return None
    waits = [condition for condition in present.conditions if not condition.met]
    until = max((condition.until for condition in waits), default=0.0)
    timed = bool(waits) and all(condition.until > 0 for condition in waits)
    return JoiningView(
        step=present.step,
        number=steps.index(present) + 1,
        of=len(steps),
        detail="; ".join(
            f"{c.cluster}: {c.detail}" if c.cluster not in {"", name} else c.detail for c in waits[:3]
        ),
        remedy=_remedy(present.step, name),
        until=until if timed else 0.0,
        steps=[
            JoinStepView(
                step=step.step,
                what=_DOES.get(step.step, step.step),
                done=step.done,
                conditions=step.conditions,
            )
            for step in steps
        ],
    )


def is_moving(view: JoiningView | None) -> bool:
    """Whether pods may still have certificates of the cluster's own CA, which the step then says."""
    return view is not None and view.step in _BEFORE_THE_MOVE


def joining_text(name: str, view: JoiningView) -> str:
    """One sentence about it."""
    return f"{name} joins, step {view.number} of {view.of}, {view.step}: {view.detail}"


RECENT: Final = 900.0
"""Seconds for which a refusal is shown: ztunnel waits up to 150 s between its attempts."""

SHORTEST_RUN: Final = 60.0  # seconds for which all have to be refused before that counts
UNKNOWN_LIFE: Final = 86400.0  # where nothing was issued recently: Istio's SECRET_TTL


def workloads_view(snapshot: Snapshot, name: str) -> WorkloadsView:
    """The workloads of one registered cluster."""
    signers = tuple(snapshot.signers.values())
    report = workloads_of(signers, name) or WorkloadsReport()
    found = assess(signs_of_life(signers, name), snapshot.now)
    refused = refused_view(snapshot, refusals_of(signers, name), report)
    # Until the takeover they may all hold certificates of the cluster's own CA, whose root is in the bundle.
    moving = found.vitality is Vitality.NEVER_REQUESTED and name in undeclared(snapshot)
    return WorkloadsView(
        state=found.vitality.value,
        fine=moving or (found.fine and not refused.all),
        detail=found.detail,
        remedy=found.remedy,
        until=found.until,
        workloads=report.workloads,
        with_certificate=report.with_certificate,
        ended=report.lapsed,
        ambient=report.ambient,
        sidecars=report.sidecars,
        asked=report.asked,
        never_requested=report.never_requested,
        ended_pods=report.ended,
        lifetime=finite(report.lifetime),
        first_end=finite(report.first_end),
        last_end=finite(report.last_end),
        refused=refused,
    )


def unattributed_view(snapshot: Snapshot) -> RefusedView:
    """Callers that no registered cluster can be found for."""
    reports = (signer.unattributed for signer in snapshot.signers.values())
    return refused_view(snapshot, together(reports), WorkloadsReport())


def removed_view(snapshot: Snapshot) -> RefusedView:
    """Callers that name a cluster which was removed."""
    return refused_view(
        snapshot, together(signer.removed for signer in snapshot.signers.values()), WorkloadsReport()
    )


def unproven_view(snapshot: Snapshot, name: str) -> RefusedView:
    """Callers that named this cluster, got nothing, and for whom nothing shows that they are of it."""
    signers = tuple(snapshot.signers.values())
    report = workloads_of(signers, name) or WorkloadsReport()
    return refused_view(snapshot, unproven_of(signers, name), report)


def refused_view(snapshot: Snapshot, refused: RefusalsReport, report: WorkloadsReport) -> RefusedView:
    """Recent refusals. All are refused where none has a valid certificate, or after half a lifetime of it."""
    recent = refused.last > 0 and -RECENT < snapshot.now - refused.last < RECENT
    run = max(SHORTEST_RUN, (report.lifetime or UNKNOWN_LIFE) / 2)
    long_enough = report.with_certificate == 0 or snapshot.now - refused.since > run
    return RefusedView(
        recent=recent,
        all=recent and refused.count > 0 and long_enough,
        count=refused.count,
        since=refused.since,
        last=refused.last,
        reason=refused.reason,
        detail=refused.detail,
        remedy=refused.remedy,
    )


JOINING_REMEDY: Final = "`federation trust list` names the CA: accept it, or set member_cas for this cluster"


def connection_view(snapshot: Snapshot, name: str) -> ConnectionView:
    """How the controller reaches the cluster; unknown where no leader reports it."""
    seen = snapshot.seen(name)
    if seen is None:
        absent = snapshot.no_leader
        detail = absent.detail if absent is not None else "the controller does not report this cluster yet"
        return ConnectionView(state="unknown", reason="not_reported", detail=detail)
    return ConnectionView(
        state=known_state(seen.state),
        reason=seen.reason,
        detail=seen.detail,
        remedy=seen.remedy,
        since=seen.since,
        version=seen.version,
        clock_skew=round(finite(seen.clock_skew), 3),
    )


def publication_state(snapshot: Snapshot, cluster: ClusterConfig) -> tuple[PublicationState, str]:
    """Whether every selected namespace was read back with the bundle meant for it, and if not, why not."""
    name = cluster.name.value
    seen, in_force = snapshot.seen(name), snapshot.in_force
    unknown = snapshot.not_read_back(cluster) or snapshot.nothing_in_force
    if unknown is not None or seen is None or in_force is None:
        return "unknown", unknown.detail if unknown is not None else ""
    report = seen.publication
    meant = snapshot.meant_for(name)
    if meant is None:
        return "unknown", "the document of the generation that it is to hold cannot be read"
    if refused := max(0, report.failed) + max(0, report.forbidden):
        first = f": {report.problems[0]}" if report.problems else ""
        return "failed", f"{refused} of {report.selected} namespaces refuse the bundle{first}"
    if report.joining > 0:
        return (
            "joining",
            f"{report.joining} of {report.selected} namespaces keep a CA of the cluster's own for now",
        )
    waits = _waits_for(snapshot, report, meant, in_force.number)
    return ("pending", waits) if waits is not None else ("current", "")


def _waits_for(snapshot: Snapshot, report: PublicationReport, meant: Generation, in_force: int) -> str | None:
    """What publication still waits for; None where every selected namespace holds what is meant for it."""
    if report.selected <= 0:
        return "the selector selects no namespace"
    if not snapshot.leader_follows:
        return f"the controller does not work with generation {in_force} yet"
    current = min(report.current, report.contents.get(meant.sha256, 0))
    if current < report.selected or report.pending > 0:
        return f"{max(current, 0)} of {report.selected} namespaces hold generation {meant.number}"
    if report.generation != meant.number:
        return f"generation {meant.number} is not confirmed in every namespace"
    return None


def publication_view(snapshot: Snapshot, cluster: ClusterConfig) -> PublicationView:
    """The counts of the last report with a state that holds now."""
    state, detail = publication_state(snapshot, cluster)
    name = cluster.name.value
    seen = snapshot.seen(name)
    if seen is None and snapshot.last_leader is not None:
        seen = snapshot.last_leader.clusters.get(name)
    report = (seen or ControllerClusterReport(state="unknown")).publication
    joins = seen is not None and seen.reason == "joining"
    return PublicationView(
        state=state,
        detail=detail,
        remedy="" if report.joining <= 0 else seen.remedy if seen and joins else JOINING_REMEDY,
        selected=report.selected,
        current=report.current,
        pending=report.pending,
        failed=report.failed,
        terminating=report.terminating,
        forbidden=report.forbidden,
        excluded=report.excluded,
        joining=report.joining,
        writes=report.writes,
        restored=report.restored,
        generation=report.generation,
        lag=round(finite(report.lag), 3),
        read_back=report.read_back,
        problems=report.problems,
        other_writers=report.other_writers,
    )


def cluster_view(snapshot: Snapshot, cluster: ClusterConfig, pairs: PairTable) -> ClusterView:
    """Everything about one registered cluster."""
    name = cluster.name.value
    connection = connection_view(snapshot, name)
    signing = signing_view(snapshot, name)
    publication = publication_view(snapshot, cluster)
    seen = snapshot.seen(name)
    proof = proof_view(pairs, name, seen)
    quarantine = next((view for view in quarantine_views(snapshot) if view.cluster == name), None)
    bundle, workloads = trust_bundle_view(snapshot, cluster), workloads_view(snapshot, name)
    planes = control_plane_views(snapshot, cluster)
    joins = joining_view(snapshot, name)
    health, summary = _health(
        connection=connection,
        signing=signing,
        publication=publication,
        bundle=bundle,
        workloads=workloads,
        plane=control_plane_problem(planes),
        joins=joins,
        pairs=blame(snapshot, name, pairs),
    )
    if quarantine is not None:
        health, summary = "quarantined", quarantine_summary(quarantine)
    return ClusterView(
        name=name,
        cluster_id=cluster.cluster_id.value,
        network=cluster.network,
        health=health,
        summary=summary,
        connection=connection,
        signing=signing,
        publication=publication,
        proof=proof,
        workloads=workloads,
        quarantine=quarantine,
        cluster_trust_bundle=bundle,
        control_planes=planes,
        webhooks=webhooks_view(snapshot, cluster),
        trusted_node_accounts=[str(account) for account in cluster.policy.trusted_node_accounts],
        joining=joins,
        credentials=credential_views(snapshot, name),
    )


def credential_views(snapshot: Snapshot, name: str) -> list[CredentialView]:
    """The credentials of both roles, as far as they are reported."""
    seen = snapshot.seen(name)
    of_signers = [s.clusters[name].credential for s in snapshot.signers.values() if name in s.clusters]
    # One that fails first, then the one that ends first; one without an end last.
    of_signers.sort(key=lambda report: (not report.problem, report.expires or float("inf")))
    reports: list[tuple[Literal["signer", "controller"], CredentialReport]] = [
        ("signer", report) for report in of_signers[:1]
    ]
    reports += [("controller", seen.credential)] if seen is not None else []
    return [
        CredentialView(
            role=role,
            issued=finite(report.issued),
            expires=finite(report.expires),
            renews=report.renews,
            stored=report.stored,
            renewed=finite(report.renewed),
            failed=finite(report.failed),
            problem=report.problem,
            remedy=report.remedy,
        )
        for role, report in reports
    ]


@dataclass(frozen=True, slots=True)
class Blame:
    """The pairs of a cluster that are not valid: how many, and whether it is their likely cause."""

    pairs: int
    failed: int
    unknown: int  # without those whose peer is not read back: these are reported with that peer
    waiting: tuple[str, ...]  # peers that are not read back
    culprit: bool  # most pairs of one direction fail: the cause is here, not at the peers


def blame(snapshot: Snapshot, name: str, pairs: PairTable) -> Blame:
    """What of the matrix speaks about this cluster rather than about its peers."""
    calls, answers = pairs.calls(name), pairs.answers(name)
    peers = []
    if "?" in calls or "?" in answers:
        both = zip(pairs.clusters, calls, answers, strict=True)
        peers = [peer for peer, called, answered in both if peer != name and "?" in (called, answered)]
    return Blame(
        pairs=2 * (len(calls) - 1),
        failed=calls.count("x") + answers.count("x"),
        unknown=sum(peer not in snapshot.unread for peer in peers),
        waiting=tuple(peer for peer in peers if peer in snapshot.unread),
        culprit=max(calls.count("x"), answers.count("x")) * 2 > len(calls) - 1,
    )


def _health(
    *,
    connection: ConnectionView,
    signing: SigningView,
    publication: PublicationView,
    bundle: TrustBundleReport,
    workloads: WorkloadsView,
    plane: ControlPlaneReport | None,
    joins: JoiningView | None,
    pairs: Blame,
) -> tuple[ClusterVerdict, str]:
    """The worst of them with the sentence that explains it; green only where each is in order."""
    reached = connection.detail or connection.reason or "the controller's view of it is not clear"
    signed = signing.detail or signing.reason or "the signers' view of it is not clear"
    behind = trust_bundle_problem(bundle)
    refused = workloads.refused.detail or workloads.refused.reason
    served = described(plane) if plane is not None else ""
    fail = f"{pairs.failed} of {pairs.pairs} pairs fail"
    rules: tuple[tuple[bool, ClusterVerdict, str], ...] = (
        (connection.state == "unavailable", "failing", f"not reachable: {reached}"),
        (signing.state == "unavailable", "failing", f"no certificates: {signed}"),
        (pairs.culprit, "failing", fail),
        (publication.state == "failed", "failing", publication.detail),
        (workloads.state == "stopped", "failing", f"its workloads do not renew: {workloads.detail}"),
        (workloads.refused.all and not workloads.fine, "failing", f"every caller is refused: {refused}"),
        (plane is not None and plane.state == "failed", "failing", served),
        (connection.state == "unknown", "unknown", reached),
        (signing.state == "unknown", "unknown", signed),
        (publication.state == "unknown", "unknown", publication.detail),
        (workloads.state == "unknown", "unknown", f"certificates of its workloads: {workloads.detail}"),
        (pairs.failed > 0, "degraded", fail),
        (not workloads.fine, "degraded", f"certificates of its workloads: {workloads.detail}"),
        (joins is not None and joins.step != "drop", "degraded", joining_text("it", joins) if joins else ""),
        (publication.state == "joining", "degraded", f"it joins: {publication.detail}"),
        (publication.state == "pending", "degraded", publication.detail),
        (behind is not None, "degraded", behind.detail if behind is not None else ""),
        (plane is not None, "degraded", served),
        (pairs.unknown > 0, "degraded", f"pairs with {pairs.unknown} clusters are not proved"),
        (signing.state == "degraded", "degraded", f"signing: {signed}"),
        (connection.state == "degraded", "degraded", reached),
    )
    for applies, health, summary in rules:
        if applies:
            return health, summary
    if pairs.waiting:
        more = f" and {len(pairs.waiting) - 3} more" if len(pairs.waiting) > 3 else ""
        return "healthy", f"in order itself; not proved with {', '.join(pairs.waiting[:3])}{more}"
    return "healthy", "every namespace holds the bundle in force and every pair validates"
