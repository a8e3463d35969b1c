"""How one signer sees one member cluster, in the words of its report."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from federation.clusters.health import ClusterHealth
from federation.core.config.model import ClusterConfig
from federation.core.errors import FederationError, NotReady
from federation.signer.accounting import Accounting
from federation.signer.attestation.attestor import ClusterAttestor
from federation.signer.attestation.caller import AUTO, REVIEW
from federation.state.documents import SignerClusterReport, WorkloadsReport


def cluster_report(
    config: ClusterConfig,
    attestor: ClusterAttestor | None,
    problem: FederationError | None,
    accounting: Accounting,
    workloads: WorkloadsReport,
    *,
    stopped: NotReady | None = None,
) -> SignerClusterReport:
    """The cluster's part of the report.

    ``attestor`` is None while it is not connected, ``problem`` says why, or that older credentials are in
    use. ``stopped`` says why nothing is issued there whoever asks.
    """
    issued, refused, last_issued = accounting.of(str(config.name))
    own_issued, own_refused = accounting.own(str(config.name))
    health = _health(attestor, problem)
    if stopped is not None:
        health = ClusterHealth("unavailable", stopped.reason, stopped.what, stopped.remedy)
    return SignerClusterReport(
        state=health.state,
        reason=health.reason,
        detail=health.detail,
        remedy=health.remedy,
        issuer=attestor.issuer if attestor is not None else "",
        keys=len(attestor.keys.keys) if attestor is not None else 0,
        attestation=attestor.method if attestor is not None else "",
        issued=issued,
        refused=dict(refused),
        last_issued=last_issued,
        own_issued=own_issued,
        own_refused=dict(own_refused),
        workload_issued_at=accounting.workload_issued_at(str(config.name)),
        refusals=accounting.refusals(str(config.name)),
        unproven=accounting.unproven(str(config.name)),
        workloads=workloads,
    )


def _health(attestor: ClusterAttestor | None, problem: FederationError | None) -> ClusterHealth:
    """Ready while callers can be attested as configured, degraded while only in another way, else unavailable."""
    if attestor is None:
        held = ClusterHealth.of_error(problem) if problem is not None else _STARTING
        return replace(held, state="unavailable")
    keys, objects, review = attestor.keys, attestor.objects, attestor.reviewer.problem
    nodes, over = attestor.node_pods.problem, attestor.over_budget
    if attestor.config.attestation == REVIEW:
        health = ClusterHealth.derive((review, problem, over), clock_skew=keys.clock_skew)
        if health.state == "ready" and nodes is not None:
            return replace(ClusterHealth.of_error(nodes), state="degraded")  # for node proxies alone
        return health
    if attestor.config.attestation == AUTO and not keys.usable and keys.problem is not None and keys.withheld:
        health = ClusterHealth.derive((objects.problem, review, nodes, problem), clock_skew=keys.clock_skew)
        if health.state != "unavailable":
            held = ClusterHealth.of_error(keys.problem)
            return replace(held, state="degraded", detail=f"{held.detail}, so every token is reviewed")
    health = ClusterHealth.derive(
        (objects.problem, keys.problem, nodes, problem, over), clock_skew=keys.clock_skew
    )
    if keys.usable and objects.fresh:
        return replace(health, state="degraded") if health.state == "unavailable" else health
    if health.state == "ready":
        health = _STARTING
    if attestor.config.attestation != "auto":  # nothing else may decide
        return replace(health, state="unavailable")
    return health


_STARTING: Final = ClusterHealth(
    "degraded", "starting", "its token keys, pods and service accounts are being fetched"
)
