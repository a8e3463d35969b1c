"""What signers report of a cluster's workloads and refused callers, put together for the gates and for status. Pure.

Every signer reads what the others have issued, so each report is of the whole; one that knows of more certificates
has read later. Where they know of as many, the one with more workloads counts: that a cluster has none any more has to
be seen by all of them. A report that contradicts itself is no better than none.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite
from typing import Final

from msgspec.structs import replace

from federation.core.trust.life import SignsOfLife
from federation.state.documents import RefusalsReport, SignerClusterReport, SignerReport, WorkloadsReport

MOST_TEXT: Final = 300


def workloads_of(signers: Iterable[SignerReport], cluster: str) -> WorkloadsReport | None:
    """What is known of a cluster's workloads by signers that report; None where none reports the cluster."""
    found = [seen.workloads for seen in _seen(signers, cluster)]
    sound = [report for report in found if report.workloads is not None and _adds_up(report)]
    if sound:
        return max(sound, key=lambda report: (report.holding, report.workloads or 0, -report.lapsed))
    unwatched = [report for report in found if not report.watched and _adds_up(report)]
    if unwatched:
        return max(unwatched, key=lambda report: report.holding)
    if not found:
        return None
    why = next((r.detail for r in found if r.workloads is None), "what a signer reports does not add up")
    first, last = _ends(found)
    return WorkloadsReport(detail=why, first_end=first, last_end=last)


def signs_of_life(signers: Iterable[SignerReport], cluster: str) -> SignsOfLife | None:
    """The same, as it is judged (:func:`federation.core.trust.life.judge`)."""
    signers = list(signers)
    report = workloads_of(signers, cluster)
    if report is None:
        return None
    refused = refusals_of(signers, cluster)
    return SignsOfLife(
        workloads=report.workloads,
        holding=report.holding,
        lapsed=report.lapsed,
        ambient=report.ambient,
        known_from=report.known_from,
        watched=report.watched,
        refusal=f"{refused.reason} ({refused.detail})"[:MOST_TEXT] if refused.count else "",
        detail=report.detail[:MOST_TEXT],
    )


def refusals_of(signers: Iterable[SignerReport], cluster: str) -> RefusalsReport:
    """Callers of a cluster that were refused; ``count`` is of those after the last certificate by any signer."""
    seen = _seen(signers, cluster)
    return together(
        (each.refusals for each in seen), issued=max((each.workload_issued_at for each in seen), default=0.0)
    )


def unproven_of(signers: Iterable[SignerReport], cluster: str) -> RefusalsReport:
    """The same of callers that only named the cluster: anyone may do that, so it says nothing about the cluster."""
    seen = _seen(signers, cluster)
    return together(
        (each.unproven for each in seen), issued=max((each.workload_issued_at for each in seen), default=0.0)
    )


def together(reports: Iterable[RefusalsReport], *, issued: float = 0.0) -> RefusalsReport:
    """Refusals of several signers; ``issued`` is when any of them issued last (seconds since the epoch)."""
    each = [report for report in reports if isfinite(report.last) and isfinite(report.since)]
    if not each:
        return RefusalsReport()
    after = [report for report in each if report.count > 0 and report.last > issued]
    return replace(
        max(each, key=lambda report: report.last),
        count=sum(report.count for report in after),
        since=max(min(report.since for report in after), issued) if after else 0.0,
    )


def _seen(signers: Iterable[SignerReport], cluster: str) -> list[SignerClusterReport]:
    return [signer.clusters[cluster] for signer in signers if cluster in signer.clusters]


def _ends(reports: Iterable[WorkloadsReport]) -> tuple[float, float]:
    """When the first and the last of the certificates end that any signer knows of."""
    known = [r for r in reports if isfinite(r.first_end) and isfinite(r.last_end) and r.last_end > 0]
    return min((r.first_end for r in known), default=0.0), max((r.last_end for r in known), default=0.0)


def _adds_up(report: WorkloadsReport) -> bool:
    counts = (report.holding, report.lapsed, report.ambient, report.asked)
    if min(counts) < 0 or not (isfinite(report.known_from) and isfinite(report.lifetime)):
        return False
    if report.sidecars is not None and report.asked > report.sidecars:
        return False
    return report.workloads is None or report.holding + report.lapsed <= report.workloads
