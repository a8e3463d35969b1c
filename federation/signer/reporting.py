"""How one signer sees one member cluster, in the words of its report."""

from __future__ import annotations

from federation.core.config.model import ClusterConfig
from federation.core.errors import ClusterError
from federation.signer.accounting import Accounting
from federation.signer.attestation.attestor import ClusterAttestor
from federation.signer.attestation.caller import REVIEW
from federation.state.documents import SignerClusterReport


def cluster_report(
    config: ClusterConfig, attestor: ClusterAttestor | None, accounting: Accounting
) -> SignerClusterReport:
    """The cluster's part of the report; ``attestor`` is None while it is not connected."""
    issued, refused, last_issued = accounting.of(str(config.name))
    state, problem = _state(attestor)
    return SignerClusterReport(
        state=state,
        reason=problem.reason if problem is not None else ("" if state == "ready" else "starting"),
        detail=str(problem) if problem is not None else "",
        remedy=problem.remedy if problem is not None else "",
        issuer=attestor.issuer if attestor is not None else "",
        keys=len(attestor.keys.keys) if attestor is not None else 0,
        attestation=attestor.method if attestor is not None else "",
        issued=issued,
        refused=dict(refused),
        last_issued=last_issued,
    )


def _state(attestor: ClusterAttestor | None) -> tuple[str, ClusterError | None]:
    """Ready while it can attest as configured, degraded while only by the other way, else unavailable."""
    if attestor is None:
        return "unavailable", None
    review = attestor.reviewer.problem
    if attestor.config.attestation == REVIEW:
        return ("ready", None) if review is None else ("unavailable", review)
    problem = attestor.objects.problem or attestor.keys.problem
    if attestor.keys.usable and attestor.objects.fresh:
        return ("ready", None) if problem is None else ("degraded", problem)
    alone = attestor.config.attestation != "auto"  # nothing else may decide
    return ("unavailable" if alone or review is not None else "degraded"), problem
