"""What needs attention in the workloads of clusters, and in token keys that members share. Pure.

Of workloads: none renews, none has asked, all are refused. Where more than one member publishes a token key, one of
them may be after the other's tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

from federation.core.documents.signer import RejectedCallsReport, SharedTokenKey
from federation.status.clusters import is_moving, removed_view, unattributed_view, unproven_view
from federation.status.findings.proof import names
from federation.status.model import Attention, ClusterView, RefusedView
from federation.status.snapshot import Snapshot, clock_time, elapsed
from federation.status.trust import undeclared

MANY: Final = 100
"""Calls or connections in ten minutes; some are always rejected, as where a network cuts connections."""


def workload_attention(snapshot: Snapshot, view: ClusterView) -> Iterator[Attention]:
    """Of one cluster; where no signer serves it that is the cause, which is reported elsewhere."""
    if not snapshot.signers or view.signing.state in {"unavailable", "unknown"}:
        return
    of, refused = view.workloads, view.workloads.refused
    if of.state == "stopped":
        yield Attention(
            severity="critical",
            code="renewals_stopped",
            detail=f"its workloads do not renew their certificates: {of.detail}{_named(of.ended_pods)}",
            where=view.name,
            remedy=refused.remedy if refused.all and refused.remedy else of.remedy,
        )
    elif of.state == "never_requested" and not is_moving(view.joining):
        yield Attention(
            severity="notice" if view.name in undeclared(snapshot) else "warning",
            code="workloads_without_certificate",
            detail=f"most of its workloads have no certificate of the hub: {of.detail}",
            where=view.name,
            remedy=of.remedy,
        )
    elif of.state == "unknown":
        until = f", until {clock_time(of.until, snapshot.now)}" if of.until else ""
        yield Attention(
            severity="warning",
            code="workloads_unknown",
            detail=f"whether its workloads hold certificates is not known{until}: {of.detail}",
            where=view.name,
            remedy=of.remedy or "check its watch of pods: `federation clusters check` names a missing right",
        )
    elif of.ended:
        yield Attention(
            severity="warning",
            code="certificates_ended",
            detail=f"{of.ended} pods did not renew their certificates{_named(of.ended_pods)}",
            where=view.name,
            remedy=f"read their proxies' logs; restart what owns them, in {view.name}: "
            "`kubectl -n NAMESPACE rollout restart deployment NAME`, or daemonset, or statefulset",
        )
    if refused.all:
        yield Attention(
            severity="critical",
            code="callers_refused",
            detail=f"every caller is refused, {refused.count} since the last certificate: {_why(refused)}",
            where=view.name,
            remedy=refused.remedy or "the signer's log names the callers",
            since=refused.since,
        )
    elif refused.recent:
        yield Attention(
            severity="notice",
            code="some_callers_refused",
            detail=f"a caller was refused {_ago(snapshot, refused)}: {_why(refused)}",
            where=view.name,
            remedy=refused.remedy or "the signer's log names the caller",
        )
    yield from _unproven(snapshot, view)
    if of.never_requested and of.sidecars and not is_moving(view.joining):
        count = of.sidecars - of.asked
        yield Attention(
            severity="notice",
            code="sidecars_never_requested",
            detail=f"{count} of {of.sidecars} pods with a sidecar have not asked the hub{_named(of.never_requested)}",
            where=view.name,
            remedy="the CA's address is written into a pod at injection: restart what owns them, "
            f"in {view.name}: `kubectl -n NAMESPACE rollout restart deployment NAME`, or daemonset, or statefulset",
        )


def _unproven(snapshot: Snapshot, view: ClusterView) -> Iterator[Attention]:
    """Anyone can name a cluster: what such a caller is refused for is no finding about the cluster itself."""
    callers = unproven_view(snapshot, view.name)
    if callers.recent:
        yield Attention(
            severity="warning" if callers.all else "notice",
            code="unproven_callers_refused",
            detail=f"callers that name {view.name} and are not known to be of it were refused, the last one "
            f"{_ago(snapshot, callers)}: {_why(callers)}",
            where="signer",
            remedy=f"if they are its workloads, see that its kubeconfig is the one of {view.name}; else find who "
            "calls: the signer's log names the addresses",
            since=callers.since,
        )


def unattributed_attention(snapshot: Snapshot) -> Iterator[Attention]:
    """Callers whose cluster is not registered: a mesh whose clusterName is wrong looks so."""
    refused = unattributed_view(snapshot)
    if refused.recent:
        yield Attention(
            severity="warning",
            code="callers_of_no_cluster",
            detail=f"callers of no registered cluster are refused, the last one {_ago(snapshot, refused)}: "
            f"{_why(refused)}",
            where="signer",
            remedy=refused.remedy or "set global.multiCluster.clusterName to the registered cluster_id",
        )
    removed = removed_view(snapshot)
    if removed.recent:
        # Its workloads ask until they are stopped, and the hub's own probe for a moment.
        yield Attention(
            severity="notice",
            code="callers_of_removed_cluster",
            detail=f"callers of a cluster that was removed are refused, the last one {_ago(snapshot, removed)}: "
            f"{_why(removed)}",
            where="signer",
            remedy=removed.remedy,
        )


def listener_attention(snapshot: Snapshot) -> Iterator[Attention]:
    """What was rejected in number before its callers were known: a flood, or limits that are too low."""
    count, why = _in_number([signer.rejected_calls for signer in snapshot.signers.values()])
    if count >= MANY:
        yield Attention(
            severity="warning",
            code="calls_rejected",
            detail=f"{count} calls were rejected in the last ten minutes before their caller was known: {why}",
            where="signer",
            remedy="keep that address from the listener where it is none of your meshes'; if these are honest callers, "
            "raise listener.max_concurrent and listener.receive_deadline, or add signers",
        )
    count, why = _in_number([signer.connections_refused for signer in snapshot.signers.values()])
    if count >= MANY:
        yield Attention(
            severity="warning",
            code="connections_refused",
            detail=f"{count} connections to the listener were refused or ended by it in the last ten minutes: {why}",
            where="signer",
            remedy="keep that address from the listener where it is none of your meshes'; if these are honest callers: "
            "for handshake_failed see that they trust the bundle and ask for a name in listener.server_names, for "
            "too_many_connections and connections_of_address raise listener.max_connections or add signers",
        )


def _in_number(reports: Iterable[RejectedCallsReport]) -> tuple[int, str]:
    """How many of late, and their reasons with the address that most came from."""
    why: Counter[str] = Counter()
    addresses: Counter[str] = Counter()
    for report in reports:
        why.update({reason: max(0, n) for reason, n in report.recent.items()})
        addresses.update({address: max(0, n) for address, n in report.addresses.items()})
    reasons = ", ".join(f"{reason} {n}" for reason, n in why.most_common())
    most = "".join(
        f", most of them from {address or 'unknown'} ({n})" for address, n in addresses.most_common(1)
    )
    return why.total(), f"{reasons}{most}"


def _why(refused: RefusedView) -> str:
    return f"{refused.reason}: {refused.detail}" if refused.detail else refused.reason


def _ago(snapshot: Snapshot, refused: RefusedView) -> str:
    return f"{elapsed(snapshot.now - refused.last)} ago" if refused.last else "recently"


def _named(pods: list[str]) -> str:
    return f": {names(pods)}" if pods else ""


MOST_FINDINGS: Final = 8  # one for each set of members; a member could publish the keys of all others


def shared_key_attention(snapshot: Snapshot) -> Iterator[Attention]:
    """One for the members that publish the same keys, by what any signer says of them."""
    found: dict[tuple[str, ...], list[SharedTokenKey]] = {}
    for signer in snapshot.signers.values():
        for shared in signer.shared_keys:
            found.setdefault(tuple(sorted(shared.clusters)), []).append(shared)
    for members, shared_keys in sorted(found.items())[:MOST_FINDINGS]:
        shared = max(shared_keys, key=lambda one: (one.proved, bool(one.holder)))
        yield Attention(
            severity="critical",
            code="token_key_shared",
            detail=f"{names(list(members))} publish the same token key (SHA-256 {shared.key[:16]}…): {_whose(shared)}",
            where=", ".join(members),
            remedy=_remedy(shared, members),
        )


def _whose(shared: SharedTokenKey) -> str:
    if not shared.holder:
        return (
            "which of them signs with it is not known yet, so that callers which send no clusterid, or "
            "Istio's default, are refused"
        )
    why = "signs the probe's tokens with it" if shared.proved else "published it first"
    return f"it counts as the key of {shared.holder}, which {why}, and nothing changes for callers there"


def _remedy(shared: SharedTokenKey, members: tuple[str, ...]) -> str:
    others = [name for name in members if name != shared.holder]
    return (
        f"find out who put that key among those of {names(others)} (`kubectl get --raw /openid/v1/jwks` there): give a "
        "control plane that was cloned a key of its own, and take one that was broken into out of the configuration"
    )
