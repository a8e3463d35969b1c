"""The certificate's way and the authorities as status shows them: all signers' views of each merged. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from federation.core.documents.controller import SignerListenerReport
from federation.core.documents.signer import AuthorityReport, SignerClusterReport, SignerReport
from federation.status.model import (
    AuthorityUse,
    AuthorityView,
    SignerOnCluster,
    SignerView,
    SigningView,
    State,
)
from federation.status.snapshot import Snapshot, days_left, elapsed, expiry, finite

WORST_FIRST: Final[tuple[State, ...]] = ("unavailable", "unknown", "degraded", "ready")


def known_state(state: str) -> State:
    """The state as a word of the API; anything a document may hold besides is ``unknown``."""
    match state:
        case "ready":
            return "ready"
        case "degraded":
            return "degraded"
        case "unavailable":
            return "unavailable"
    return "unknown"


_CONNECTION: Final[Mapping[str, str]] = {
    "unreachable": "is unreachable",
    "tls": "shows a certificate that does not verify",
    "timeout": "does not answer in time",
    "silence": "does not answer in time",
    "unauthorized": "does not accept the controller's credentials",
    "forbidden": "refuses what the controller asks for",
    "throttled": "asks the controller to slow down",
    "server_error": "answers with errors",
    "garbage": "gives answers that are not those of a Kubernetes API server",
    "over_budget": "sends more than one cluster may",
    "webhook": "has an admission webhook that cannot be called",
    "webhooks_unread": "does not show by which CA istiod is verified",
    "istiod_other_ca": "verifies istiod by another CA than the hub's",
    "istiod_not_served": "has an istiod that serves nothing",
    "other_hub": "holds objects of another hub",
    "state_older": "holds a later bundle of this hub than the state knows",
    "exec_plugin": "cannot be asked: the plugin that gives its credentials fails",
    "configuration": "cannot be asked: its credentials cannot be used",
    "starting": "is being listed for the first time",
    "clock_skew": "has another time than the hub",
    "publication": "does not hold the bundle everywhere",
    "other_writers": "has another writer of the bundle",
    "joining": "joins with a CA of its own",
    "not_reported": "is not reported by the controller",
}


def connection_words(reason: str, state: State) -> str:
    """What a cluster does, seen from the controller, as the rest of a sentence that begins with its name."""
    if reason in _CONNECTION:
        return _CONNECTION[reason]
    return "is served in part" if state == "degraded" else "cannot be used"


def _on_cluster(replica: str, signer: SignerReport, name: str) -> SignerOnCluster:
    seen = signer.clusters.get(name)
    if not signer.ready:
        return SignerOnCluster(
            replica=replica,
            state="unavailable",
            reason="not_ready",
            detail="; ".join(signer.reasons) or "the signer is not ready",
        )
    if seen is None:
        return SignerOnCluster(
            replica=replica,
            state="unknown",
            reason="not_reported",
            detail="this signer does not report the cluster yet",
        )
    return SignerOnCluster(
        replica=replica,
        state=known_state(seen.state),
        reason=seen.reason,
        detail=seen.detail,
        remedy=seen.remedy,
        attestation=seen.attestation,
    )


def signing_view(snapshot: Snapshot, name: str) -> SigningView:
    """Whether workloads of the cluster ``name`` get certificates. Counts include signers that are gone."""
    every = [s.clusters[name] for s in snapshot.documents.signers.values() if name in s.clusters]
    views = [_on_cluster(replica, signer, name) for replica, signer in sorted(snapshot.signers.items())]
    state, worst = _merged(views)
    return SigningView(
        state=state,
        reason=worst.reason,
        detail=worst.detail,
        remedy=worst.remedy,
        attestation=sorted({view.attestation for view in views} - {""}),
        issuers=sorted(
            {s.clusters[name].issuer for s in snapshot.signers.values() if name in s.clusters} - {""}
        ),
        issued=sum(report.issued for report in every),
        refused=refusals(every),
        last_issued=max((finite(report.last_issued) for report in every), default=0.0),
        signers=views,
    )


def _merged(views: list[SignerOnCluster]) -> tuple[State, SignerOnCluster]:
    """One state for all signers, and the view that explains it.

    Callers reach any of them: one that serves makes it degraded at worst, and ready takes all of them.
    """
    if not views:
        missing = SignerOnCluster(replica="", state="unknown", reason="no_signer", detail="no signer is live")
        return "unknown", missing
    worst = min(views, key=lambda view: WORST_FIRST.index(view.state))
    serving = [view for view in views if view.state in {"ready", "degraded"}]
    if serving and len(serving) < len(views):
        why = worst.detail or worst.reason
        detail = f"{len(serving)} of {len(views)} signers serve it; {worst.replica}: {why}"
        return "degraded", msgspec.structs.replace(worst, detail=detail)
    return worst.state, worst


def refusals(reports: Iterable[SignerClusterReport]) -> dict[str, int]:
    """Refused requests by reason, summed."""
    total: Counter[str] = Counter()
    for report in reports:
        total.update(report.refused)
    return dict(sorted(total.items()))


def follows_directives(snapshot: Snapshot, report: SignerReport) -> bool:
    """Whether a signer works by the directives that are given now; none were given while no rotation ever was."""
    directives = snapshot.documents.directives
    return directives is None or (report.rotation, report.directives) == (
        directives.rotation,
        directives.state,
    )


def signer_view(snapshot: Snapshot, replica: str, report: SignerReport) -> SignerView:
    """One signer, current or gone."""
    fresh = replica in snapshot.signers
    age = finite(snapshot.now - report.updated)
    in_force = snapshot.in_force
    newest = in_force.number if in_force else 0
    reasons = list(report.reasons)
    if not fresh:
        reasons.insert(
            0, f"last seen {elapsed(age)} ago" if age >= 0 else f"its clock is {elapsed(age)} ahead"
        )
    listeners = snapshot.leader.listener.signers if snapshot.leader is not None else []
    listener = next(
        (found for found in listeners if found.replica == replica), SignerListenerReport(replica=replica)
    )
    return SignerView(
        replica=replica,
        ready=fresh and report.ready,
        stale=not fresh,
        reasons=reasons,
        address=report.address,
        started=report.started,
        updated=report.updated,
        age=age,
        generation=report.generation,
        generations_behind=max(0, newest - report.generation),
        holds_bundle_in_force=fresh and in_force is not None and report.bundle_sha256 == in_force.sha256,
        runs_current_configuration=fresh and report.config_digest == snapshot.config.digest,
        authority=report.authority.name if report.authority else "",
        successor=report.successor.name if report.successor else "",
        successor_state=known_state(report.successor.state) if report.successor else None,
        rotation=report.rotation,
        directives=report.directives,
        follows_directives=follows_directives(snapshot, report),
        serving_not_after=report.serving_not_after,
        issued=report.issued,
        refused=sum(sum(cluster.refused.values()) for cluster in report.clusters.values()),
        listener=listener.state,
        listener_detail=listener.detail,
        listener_proved_at=listener.proved_at,
    )


LEFT: Final = 86400.0
"""Seconds for which the report of a signer that was killed stays in the state store at the least."""


def authority_views(snapshot: Snapshot) -> list[AuthorityView]:
    """Every authority that a signer which is live has; the worst state of those that share one.

    Those of ``[signer.authority]`` come first.
    """
    found: dict[tuple[AuthorityUse, str, str], list[tuple[str, AuthorityReport]]] = {}
    for replica, signer in sorted(snapshot.signers.items()):
        each: tuple[tuple[AuthorityUse, AuthorityReport | None], ...] = (
            ("authority", signer.authority),
            ("successor", signer.successor),
        )
        for use, report in each:
            if report is not None:
                found.setdefault((use, report.name, report.sha256), []).append((replica, report))
    ordered = sorted(found.items(), key=lambda item: item[0][0] != "authority")
    alarms = _left_alarms(snapshot)
    return [_view(snapshot, use, each, alarms.pop(name, [])) for (use, name, _), each in ordered]


def _left_alarms(snapshot: Snapshot) -> dict[str, list[AuthorityReport]]:
    """By name, the authorities of signers that were killed in the last day, where these had raised an alarm.

    One that ends in good order takes its report back, and one that is started again under its name goes on with it. In
    a cluster a pod that takes the place of a killed one has a name of its own, and no operator has answered the alarm.
    """
    found: dict[str, list[AuthorityReport]] = {}
    for replica, signer in sorted(snapshot.documents.signers.items()):
        if replica in snapshot.signers or abs(snapshot.now - finite(signer.updated)) > LEFT:
            continue
        for report in (signer.authority, signer.successor):
            if report is not None and report.violations > 0:
                found.setdefault(report.name, []).append(report)
    return found


def signs_now(snapshot: Snapshot, use: AuthorityUse, sha256: str) -> bool:
    """Whether an authority signs for some cluster: the one that the directives name, else ``[signer.authority]``.

    Without a rotation under way directives are a preference: where no authority is the one they name, the first
    one signs.
    """
    directives = snapshot.documents.directives
    ordered = {directives.issuer, *directives.clusters.values()} - {""} if directives else set()
    loaded = {
        a.sha256 for s in snapshot.signers.values() for a in (s.authority, s.successor) if a is not None
    }
    if ordered and (ordered & loaded or (directives is not None and directives.strict)):
        return sha256 in ordered
    return use == "authority"


def _view(
    snapshot: Snapshot,
    use: AuthorityUse,
    reports: Sequence[tuple[str, AuthorityReport]],
    left: Sequence[AuthorityReport],
) -> AuthorityView:
    """``left`` are reports by signers that were killed: their alarms count, and nothing else of them."""
    each = [report for _, report in reports]
    alarmed = [*each, *left]
    worst = min(each, key=lambda report: WORST_FIRST.index(known_state(report.state)))
    latest = max(alarmed, key=lambda report: finite(report.last_violation_at))
    return AuthorityView(
        name=worst.name,
        kind=worst.kind,
        use=use,
        signs=signs_now(snapshot, use, worst.sha256),
        state=known_state(worst.state),
        subject=worst.subject,
        sha256=worst.sha256,
        not_after=worst.not_after,
        days_left=days_left(worst.not_after, snapshot.now),
        expiry=expiry(worst.not_after, snapshot.now),
        reason=worst.reason,
        detail=worst.detail,
        remedy=worst.remedy,
        signers=[replica for replica, _ in reports],
        quota=max(finite(report.quota) for report in each),
        rate=round(sum(finite(report.rate) for report in each), 2),
        queued=sum(report.queued for report in each),
        refused_early=sum(report.refused_early for report in each),
        capacity=min((report.capacity for report in each if report.capacity > 0), default=0),
        circuit=next((r.circuit for r in (worst, *each) if r.circuit not in {"", "closed"}), worst.circuit),
        retry_at=min((r.retry_at for r in each if finite(r.retry_at) > 0), default=0.0),
        uncertain=sum(report.uncertain for report in each),
        violations=sum(report.violations for report in alarmed),
        last_violation=latest.last_violation,
        last_violation_at=latest.last_violation_at,
        crl_next_update=max(finite(report.crl_next_update) for report in each),
        crl_revoked=max(report.crl_revoked for report in each),
    )
