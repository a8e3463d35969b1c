"""Whether a report still counts, and what signers' reports say together of a cluster's workloads. Pure.

The writer of a report is taken to be alive by what the report itself says, within bounds. A report older than three
heartbeats is stale: its writer is gone, so nothing in it is current. One from the future counts as stale as well,
because it would otherwise stay young for as long as its clock runs ahead.

Of workloads and refused callers every signer reads what the others have issued, so each report is of the whole; one
that knows of more certificates has read later. Where they know of as many, the one with more workloads counts: that a
cluster has none any more has to be seen by all of them. A report that contradicts itself is no better than none.
Gates and status both take what is put together here.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite
from typing import Final, Protocol

from msgspec.structs import replace

from federation.core.documents.signer import (
    RefusalsReport,
    SignerClusterReport,
    SignerReport,
    WorkloadsReport,
)
from federation.core.trust.liveness import SignsOfLife

HEARTBEATS: Final = 3  # that may be missed
SHORTEST_HEARTBEAT: Final = 1.0
LONGEST_HEARTBEAT: Final = 60.0  # a report may not grant itself a longer life than this
MOST_AHEAD: Final = 15.0  # seconds that a writer's clock may run ahead, whatever heartbeat its report claims


class Report(Protocol):
    """What reports of both roles have in common. Both in seconds, ``updated`` since the epoch."""

    @property
    def updated(self) -> float:
        """When it was written."""
        ...

    @property
    def heartbeat(self) -> float:
        """How often its writer promises to write it."""
        ...


def is_live(report: Report, now: float, *, skew: float = 0.0) -> bool:
    """True where the report is fresh, and not from the future, where it would stay fresh for who knows how long.

    ``skew`` is how far ahead clocks may be where that is more than is allowed anyway.
    """
    heartbeat = min(max(report.heartbeat, SHORTEST_HEARTBEAT), LONGEST_HEARTBEAT)
    ahead = max(min(HEARTBEATS * heartbeat, MOST_AHEAD), skew)
    return -ahead <= now - report.updated <= HEARTBEATS * heartbeat


MOST_TEXT: Final = 300


def workloads_of(signers: Iterable[SignerReport], cluster: str) -> WorkloadsReport | None:
    """What is known of a cluster's workloads by signers that report; None where none reports the cluster."""
    found = [seen.workloads for seen in _seen(signers, cluster)]
    sound = [report for report in found if report.workloads is not None and _adds_up(report)]
    if sound:
        return max(sound, key=lambda report: (report.with_certificate, report.workloads or 0, -report.lapsed))
    unwatched = [report for report in found if not report.watched and _adds_up(report)]
    if unwatched:
        return max(unwatched, key=lambda report: report.with_certificate)
    if not found:
        return None
    why = next((r.detail for r in found if r.workloads is None), "what a signer reports does not add up")
    first, last = _ends(found)
    return WorkloadsReport(detail=why, first_end=first, last_end=last)


def signs_of_life(signers: Iterable[SignerReport], cluster: str) -> SignsOfLife | None:
    """The same, as it is judged (:func:`federation.core.trust.liveness.judge`)."""
    signers = list(signers)
    report = workloads_of(signers, cluster)
    if report is None:
        return None
    refused = refusals_of(signers, cluster)
    return SignsOfLife(
        workloads=report.workloads,
        with_certificate=report.with_certificate,
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
    counts = (report.with_certificate, report.lapsed, report.ambient, report.asked)
    if min(counts) < 0 or not (isfinite(report.known_from) and isfinite(report.lifetime)):
        return False
    if report.sidecars is not None and report.asked > report.sidecars:
        return False
    return report.workloads is None or report.with_certificate + report.lapsed <= report.workloads
