"""Documents, configuration and an instant in; the whole status out. Pure.

All callers of one moment share one reading, one composition and one encoding.

The verdict follows from ``attention`` alone: failing with anything critical, degraded with a warning, else healthy.
As a second line of defence it is never healthy unless each registered cluster is and the matrix is proven: a state
that no rule of attention thought of can be amber, not green.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Protocol

import msgspec

from federation.core.clock import Clock
from federation.core.config.hub import HubConfig
from federation.core.errors import StateUnavailable
from federation.state.liveness import is_live
from federation.status.clusters import cluster_view
from federation.status.findings.roles import attention, config_problems, insecure_options
from federation.status.matrix import PairTable, matrix_view
from federation.status.model import (
    Attention,
    ClusterView,
    ControllerView,
    FederationStatus,
    MatrixView,
    Verdict,
)
from federation.status.rotation import directives_view, plan_view, quarantine_views, rotation_view
from federation.status.signing import authority_views, refusals, signer_view
from federation.status.snapshot import DocumentSet, Snapshot, SnapshotReader, finite
from federation.status.trust import (
    bundle_view,
    departures,
    generation_views,
    member_ca_views,
    open_proposals,
    removed_cluster_views,
    setbacks,
    unpinned_views,
)

_logger = logging.getLogger(__name__)


def compose(
    documents: DocumentSet, config: HubConfig, now: datetime, config_problems_here: tuple[str, ...] = ()
) -> FederationStatus:
    """The status at ``now``; ``config_problems_here`` are those of this process' own last reload."""
    snapshot = Snapshot.of(documents, config, now.timestamp(), config_problems_here)
    matrix = matrix_view(snapshot)
    pairs = PairTable(matrix)
    clusters = [cluster_view(snapshot, cluster, pairs) for cluster in config.clusters]
    items = attention(snapshot, clusters, matrix)
    verdict = _verdict(items, clusters, matrix)
    signers = documents.signers.values()
    return FederationStatus(
        verdict=verdict,
        summary=_summary(verdict, snapshot, items, clusters, matrix),
        generated=now.astimezone(UTC),
        trust_domain=config.trust_domain.name,
        attention=items,
        clusters=clusters,
        matrix=matrix,
        bundle=bundle_view(snapshot),
        generations=generation_views(snapshot),
        authorities=authority_views(snapshot),
        signers=[
            signer_view(snapshot, replica, report) for replica, report in sorted(documents.signers.items())
        ],
        controllers=_controllers(snapshot),
        proposals=open_proposals(snapshot),
        rotation=rotation_view(snapshot),
        rotation_problem=unknown.detail if (unknown := snapshot.rotation_unknown) else "",
        rotation_plan=plan_view(snapshot),
        directives=directives_view(documents.directives),
        quarantined=quarantine_views(snapshot),
        member_cas=member_ca_views(snapshot),
        unpinned=unpinned_views(snapshot),
        removed_clusters=removed_cluster_views(snapshot),
        departures=departures(snapshot),
        setbacks=setbacks(snapshot),
        insecure_options=insecure_options(snapshot),
        open_policies=list(config.open_policies),
        config_problems=config_problems(snapshot),
        certificates_issued=sum(signer.issued for signer in signers),
        refusals=refusals(cluster for signer in signers for cluster in signer.clusters.values()),
    )


def _verdict(items: list[Attention], clusters: list[ClusterView], matrix: MatrixView) -> Verdict:
    severities = {item.severity for item in items}
    if "critical" in severities:
        return "failing"
    green = matrix.proven and all(cluster.health == "healthy" for cluster in clusters)
    return "healthy" if green and "warning" not in severities else "degraded"


def _summary(
    verdict: Verdict,
    snapshot: Snapshot,
    items: list[Attention],
    clusters: list[ClusterView],
    matrix: MatrixView,
) -> str:
    if verdict == "healthy":
        number = snapshot.in_force.number if snapshot.in_force else 0
        if matrix.pairs == 0:
            return f"The one registered cluster holds generation {number}; there is no pair to prove."
        return (
            f"All {matrix.pairs:,} ordered pairs of {len(clusters)} clusters validate, "
            f"and every selected namespace holds generation {number}."
        )
    parts = [f"{matrix.valid:,} of {matrix.pairs:,} ordered pairs validate"]
    if matrix.failed:
        parts.append(f"{matrix.failed:,} fail")
    if matrix.unknown:
        parts.append(f"{matrix.unknown:,} are unknown")
    if matrix.quarantined:
        parts.append(f"{matrix.quarantined:,} are with quarantined clusters")
    return f"{_headline(items)}{', '.join(parts)}."


def _headline(items: list[Attention]) -> str:
    """The plain fact of the severest cause, and how many others there are."""
    causes = [item for item in items if item.severity != "notice"]
    if not causes:
        return ""
    fact = causes[0].fact or causes[0].sentence
    others = len(causes) - 1
    more = f" ({others} more {'cause needs' if others == 1 else 'causes need'} attention)" if others else ""
    return f"{fact[:1].upper()}{fact[1:]}{more}. "


def _controllers(snapshot: Snapshot) -> list[ControllerView]:
    views: list[ControllerView] = []
    for replica, report in sorted(snapshot.documents.controllers.items()):
        age = snapshot.now - report.updated
        fresh = is_live(report, snapshot.now)
        views.append(
            ControllerView(
                replica=replica,
                leader=fresh and report.leader,
                ready=fresh and report.ready,
                stale=not fresh,
                reasons=report.reasons,
                started=report.started,
                updated=report.updated,
                age=finite(age),
                generation=report.generation,
                runs_current_configuration=fresh and report.config_digest == snapshot.config.digest,
                sources=report.sources,
                hub=report.hub,
            )
        )
    return views


class ConfigStatus(Protocol):
    """The configuration that runs, and what was wrong with one that was refused since."""

    @property
    def current(self) -> HubConfig:
        """The configuration in force."""
        ...

    @property
    def problems(self) -> tuple[str, ...]:
        """Problems of the last reload; empty where it was taken up."""
        ...


class StatusSource:
    """Composes the status when asked, and remembers since when each thing has needed attention.

    Where no document says since when, it is the time at which this process first saw it.
    """

    def __init__(self, reader: SnapshotReader, config: ConfigStatus, clock: Clock) -> None:
        self._reader = reader
        self._config = config
        self._clock = clock
        self._first_seen: dict[tuple[str, str], float] = {}
        self._composed: tuple[DocumentSet, HubConfig, FederationStatus] | None = None
        self._readable = True

    async def read(self) -> tuple[DocumentSet, FederationStatus]:
        """The snapshot and its status. Raises StateUnavailable where the store cannot be read."""
        try:
            documents = await self._reader.read()
        except StateUnavailable as error:
            if self._readable:
                _logger.warning("status cannot read the state store: %s", error.diagnostics())
            self._readable = False
            raise
        self._readable = True
        config = self._config.current
        if self._composed is not None and self._composed[0] is documents and self._composed[1] is config:
            return documents, self._composed[2]
        status = self._dated(compose(documents, config, self._clock.now(), self._config.problems))
        self._composed = (documents, config, status)
        return documents, status

    async def snapshot(self) -> tuple[Snapshot, FederationStatus]:
        """The same as a snapshot, at the instant that the status was composed. Raises StateUnavailable."""
        documents, status = await self.read()
        return Snapshot.of(documents, self._config.current, status.generated.timestamp()), status

    def _dated(self, status: FederationStatus) -> FederationStatus:
        seen = {
            (item.code, item.where): self._first_seen.get(
                (item.code, item.where), status.generated.timestamp()
            )
            for item in status.attention
        }
        self._first_seen = seen
        dated = [
            item if item.since else msgspec.structs.replace(item, since=seen[item.code, item.where])
            for item in status.attention
        ]
        return msgspec.structs.replace(status, attention=dated)
