"""The merged status as Prometheus metrics. Pure: structs in, bytes out.

The roles' processes come from their own reports, the rotation from its record and its leader's. One vocabulary for
the hub's endpoint and each signer's own: scrape either. Every series of a process has its ``replica`` label, so both
may be scraped where queries take ``max by (replica, ...)`` first. What is not known has no series; in particular an
expiry is never shown as 0. At rest the rotation's gate counts as closed.

Names follow Prometheus' conventions: base units in the name, ``_total`` for counters, ``_info`` for what is 1 and says
something by its labels. Label values are bounded whatever a process reports: registered clusters, and at most 64
reasons.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from prometheus_client.core import Metric

from federation.core.documents.controller import ControllerReport
from federation.core.documents.signer import AuthorityReport, SignerReport
from federation.core.rotation.record import State
from federation.state.kubernetes_events import EventCounts
from federation.state.liveness import is_live
from federation.status.clusters import CONTROL_PLANE_STATES as CONTROL_PLANE
from federation.status.clusters import TRUST_BUNDLE_STATES as TRUST_BUNDLE
from federation.status.exposition import by_reason, counter, gauge, histogram, render
from federation.status.model import FederationStatus
from federation.status.snapshot import DocumentSet


def role_metrics(report: SignerReport | ControllerReport, now: float, *, version: str = "") -> bytes:
    """What a role's own endpoint says of that role, which runs this version of the hub."""
    if isinstance(report, SignerReport):
        return render([*_build(version), *signer_families({report.replica: report}, now)])
    return render([*_build(version), *controller_families({report.replica: report}, now)])


def _build(version: str) -> list[Metric]:
    return [
        gauge(
            "federation_build_info",
            "1, with the version of the process that answers.",
            ("version",),
            [((version,), 1)] if version else [],
        )
    ]


def signer_families(
    signers: Mapping[str, SignerReport], now: float, registered: Collection[str] | None = None
) -> list[Metric]:
    """Signers by replica: certificates, refusals, latency, readiness, expiries.

    Of no clusters but those that are ``registered``, where that is known: a report is another process' word.
    """
    each = sorted(signers.items())
    authorities = [(replica, report.authority) for replica, report in each if report.authority]
    on_cluster = [
        (r, name, seen)
        for r, s in each
        for name, seen in sorted(s.clusters.items())
        if registered is None or name in registered
    ]
    return [
        counter(
            "federation_certificates_issued",
            "Workload certificates issued.",
            ("replica", "cluster"),
            [((r, name), seen.issued) for r, name, seen in on_cluster],
        ),
        counter(
            "federation_requests_refused",
            "Requests that got no certificate.",
            ("replica", "cluster", "reason"),
            [((r, name, why), n) for r, name, seen in on_cluster for why, n in by_reason(seen.refused)],
        ),
        counter(
            "federation_calls_rejected",
            "Calls that ended before their caller was known to be of any cluster.",
            ("replica", "reason"),
            [((r, why), n) for r, s in each for why, n in by_reason(s.rejected_calls.total)],
        ),
        counter(
            "federation_connections_refused",
            "Connections to the listener that its transport ended, or did not take.",
            ("replica", "reason"),
            [((r, why), n) for r, s in each for why, n in by_reason(s.connections_refused.total)],
        ),
        histogram(
            "federation_issuance_seconds",
            "From a request's arrival until its answer.",
            ("replica",),
            [((r,), s.latency) for r, s in each],
        ),
        gauge(
            "federation_signer_ready",
            "1 where the signer is live and can issue.",
            ("replica",),
            [((r,), s.ready and is_live(s, now)) for r, s in each],
        ),
        gauge(
            "federation_signer_report_age_seconds",
            "Since the signer last reported.",
            ("replica",),
            [((r,), now - s.updated) for r, s in each],
        ),
        gauge(
            "federation_signer_started_timestamp_seconds",
            "When the signer started.",
            ("replica",),
            [((r,), s.started) for r, s in each],
        ),
        gauge(
            "federation_signer_open_files",
            "Files and connections that the signer has open.",
            ("replica",),
            [((r,), s.open_files) for r, s in each if s.open_files],
        ),
        gauge(
            "federation_signer_open_files_limit",
            "How many files and connections the signer's process may have open.",
            ("replica",),
            [((r,), s.open_files_limit) for r, s in each if s.open_files_limit],
        ),
        gauge(
            "federation_signer_generation",
            "The generation the signer hands out.",
            ("replica",),
            [((r,), s.generation) for r, s in each],
        ),
        gauge(
            "federation_signer_cluster_ready",
            "1 where the signer is live and attests workloads of the cluster without restriction.",
            ("replica", "cluster"),
            [
                ((r, name), seen.state == "ready" and signers[r].ready and is_live(signers[r], now))
                for r, name, seen in on_cluster
            ],
        ),
        gauge(
            "federation_intermediate_not_after_timestamp_seconds",
            "When the intermediate that the signer signs with expires.",
            ("replica", "authority"),
            [((r, a.name), a.not_after) for r, a in authorities if a.not_after > 0],
        ),
        gauge(
            "federation_serving_not_after_timestamp_seconds",
            "When the serving certificate of the signer's listener expires.",
            ("replica",),
            [((r,), s.serving_not_after) for r, s in each if s.serving_not_after > 0],
        ),
        *_authority_families(authorities),
    ]


def _authority_families(each: Sequence[tuple[str, AuthorityReport]]) -> list[Metric]:
    """How each signer fares with its authority's back end."""
    labels = ("replica", "authority")
    remote = [(r, a) for r, a in each if a.circuit]
    return [
        gauge(
            "federation_authority_quota_per_second",
            "Certificates per second that the back end allows all signers together, where a limit is known.",
            labels,
            [((r, a.name), a.quota) for r, a in remote if a.quota > 0],
        ),
        gauge(
            "federation_authority_rate_per_second",
            "Certificates per second asked of the back end recently.",
            labels,
            [((r, a.name), a.rate) for r, a in remote],
        ),
        gauge(
            "federation_authority_queued",
            "Requests that wait for their turn.",
            labels,
            [((r, a.name), a.queued) for r, a in remote],
        ),
        gauge(
            "federation_authority_capacity_workloads",
            "Workloads that the quota can carry at the lifetime issued recently, where a limit is known.",
            labels,
            [((r, a.name), a.capacity) for r, a in remote if a.capacity > 0],
        ),
        gauge(
            "federation_authority_circuit_open",
            "1 where the back end is left alone after repeated failures.",
            labels,
            [((r, a.name), a.circuit == "open") for r, a in remote],
        ),
        counter(
            "federation_authority_refused_early",
            "Requests refused because their turn would have come too late.",
            labels,
            [((r, a.name), a.refused_early) for r, a in remote],
        ),
        counter(
            "federation_authority_uncertain",
            "Requests whose answer was lost and that may have issued.",
            labels,
            [((r, a.name), a.uncertain) for r, a in each],
        ),
        counter(
            "federation_authority_violations",
            "Answers of the back end that were not what was asked for: an alarm.",
            labels,
            [((r, a.name), a.violations) for r, a in each],
        ),
    ]


def controller_families(controllers: Mapping[str, ControllerReport], now: float) -> list[Metric]:
    """Controllers by replica: who leads, how old what they say is, what they refused to write."""
    each = sorted(controllers.items())
    return [
        gauge(
            "federation_controller_leader",
            "1 where the controller is live and leads.",
            ("replica",),
            [((r,), c.leader and is_live(c, now)) for r, c in each],
        ),
        gauge(
            "federation_controller_ready",
            "1 where the controller is live and ready.",
            ("replica",),
            [((r,), c.ready and is_live(c, now)) for r, c in each],
        ),
        gauge(
            "federation_controller_report_age_seconds",
            "Since the controller last reported.",
            ("replica",),
            [((r,), now - c.updated) for r, c in each],
        ),
        gauge(
            "federation_controller_open_files",
            "Files and connections that the controller has open.",
            ("replica",),
            [((r,), c.open_files) for r, c in each if c.open_files],
        ),
        gauge(
            "federation_controller_open_files_limit",
            "How many files and connections the controller's process may have open.",
            ("replica",),
            [((r,), c.open_files_limit) for r, c in each if c.open_files_limit],
        ),
        gauge(
            "federation_controller_generation",
            "The generation the controller publishes.",
            ("replica",),
            [((r,), c.generation) for r, c in each],
        ),
        gauge(
            "federation_source_ok",
            "1 where a source of anchors answers; 0 where its last known good is used.",
            ("replica", "source"),
            [((r, source), said == "ok") for r, c in each for source, said in sorted(c.sources.items())],
        ),
        counter(
            "federation_write_refusals",
            "Writes that were withheld to protect what is published.",
            ("replica",),
            [((r,), c.write_refusals) for r, c in each],
        ),
    ]


def rotation_families(status: FederationStatus) -> list[Metric]:
    """The state of the rotation, its gate, who is left out, and what can sign next."""
    return [*_successors(status), *([] if status.rotation_problem else _recorded(status))]


def _successors(status: FederationStatus) -> list[Metric]:
    return [
        gauge(
            "federation_successor_ready",
            "1 where every signer that has the authority to rotate to finds it ready.",
            ("authority", "sha256"),
            [((a.name, a.sha256), a.state == "ready") for a in status.authorities if a.use == "successor"],
        ),
        gauge(
            "federation_signer_follows_directives",
            "1 where the signer is live and works by the directives that are given now.",
            ("replica",),
            [((s.replica,), s.follows_directives and not s.stale) for s in status.signers],
        ),
    ]


def _recorded(status: FederationStatus) -> list[Metric]:
    """What follows from the record."""
    rotation = status.rotation
    here = rotation.state if rotation else State.STABLE.value
    quarantined = {view.cluster for view in status.quarantined}
    families = [
        gauge(
            "federation_rotation_state",
            "1 for the state that the rotation is in; STABLE where none ever was.",
            ("state",),
            [((state.value,), state.value == here) for state in State],
        ),
        gauge(
            "federation_rotation_paused",
            "1 where a rotation does not go on by itself.",
            (),
            [((), bool(rotation and rotation.under_way and rotation.paused))],
        ),
        gauge(
            "federation_cluster_quarantined",
            "1 where the cluster is quarantined: nothing is issued there.",
            ("cluster",),
            [((c.name,), c.name in quarantined) for c in status.clusters],
        ),
    ]
    gate = rotation.gate if rotation else None
    if rotation is not None and rotation.since > 0:
        families.append(
            gauge(
                "federation_rotation_since_timestamp_seconds",
                "Since when the rotation has been in its state.",
                (),
                [((), rotation.since)],
            )
        )
    families.append(
        gauge(
            "federation_rotation_gate_open",
            "1 where the gate out of the present state is known to be open.",
            (),
            [((), gate is not None and gate.open)],
        )
    )
    if gate is not None and gate.opens_at > 0:
        families.append(
            gauge(
                "federation_rotation_gate_opens_timestamp_seconds",
                "When the gate opens at the earliest, where that can be determined.",
                (),
                [((), gate.opens_at)],
            )
        )
    if gate is not None and gate.known:
        unmet = Counter(c.name for c in gate.conditions if not c.met)
        families.append(
            gauge(
                "federation_rotation_unmet_conditions",
                "Conditions of the gate that are not met, by name; each cluster or signer counts once.",
                ("condition",),
                [((name,), unmet[name]) for name in sorted({c.name for c in gate.conditions})],
            )
        )
    return families


NO_CLUSTER: Final = "-"
"""Under which signers count what no cluster is answerable for."""

STATES: Final = ("ready", "degraded", "unavailable", "unknown")
PUBLICATION: Final = ("selected", "current", "pending", "failed", "terminating", "forbidden", "excluded")


def hub_metrics(
    status: FederationStatus,
    documents: DocumentSet,
    now: float,
    *,
    version: str = "",
    events: EventCounts | None = None,
) -> bytes:
    """What the hub's endpoint says: the merged status and each process' own counters.

    ``version`` is that of the process that answers, ``events`` what became of the Events that it had to write.
    """
    registered = {NO_CLUSTER, *(cluster.name for cluster in status.clusters)}
    return render(
        [
            *_build(version),
            *_overall(status),
            *_matrix(status),
            *_clusters(status),
            *_workloads(status),
            *_control_planes(status),
            *_trust(status),
            *rotation_families(status),
            *signer_families(documents.signers, now, registered),
            *controller_families(documents.controllers, now),
            *_events(events),
        ]
    )


def _events(events: EventCounts | None) -> list[Metric]:
    counts = {} if events is None else dataclasses.asdict(events)
    return [
        counter(
            "federation_kubernetes_events",
            "Kubernetes Events that the process that answers had to write while it led, by what became of them.",
            ("result",),
            [((result,), count) for result, count in counts.items()],
        )
    ]


def _overall(status: FederationStatus) -> list[Metric]:
    severities = [item.severity for item in status.attention]
    verdicts = ("healthy", "degraded", "failing")
    return [
        gauge(
            "federation_verdict",
            "1 for the overall verdict that holds.",
            ("verdict",),
            [((v,), v == status.verdict) for v in verdicts],
        ),
        gauge(
            "federation_attention",
            "Things that need attention.",
            ("severity",),
            [((s,), severities.count(s)) for s in ("critical", "warning", "notice")],
        ),
        gauge("federation_clusters", "Registered clusters.", (), [((), len(status.clusters))]),
        gauge(
            "federation_config_problems",
            "Problems of a configuration that was refused.",
            (),
            [((), len(status.config_problems))],
        ),
        gauge("federation_proposals", "Anchors found and not pinned.", (), [((), len(status.proposals))]),
    ]


def _matrix(status: FederationStatus) -> list[Metric]:
    matrix = status.matrix
    results = ("valid", "failed", "unknown", "quarantined")
    counts = (matrix.valid, matrix.failed, matrix.unknown, matrix.quarantined)
    families: list[Metric] = [
        gauge("federation_matrix_pairs", "Ordered pairs of clusters.", (), [((), matrix.pairs)]),
        gauge("federation_matrix_valid", "Ordered pairs that validate.", (), [((), matrix.valid)]),
        gauge(
            "federation_matrix_result",
            "Ordered pairs by result.",
            ("result",),
            [((r,), n) for r, n in zip(results, counts, strict=True)],
        ),
        gauge(
            "federation_matrix_proven",
            "1 where every ordered pair validates and nothing is unknown.",
            (),
            [((), matrix.proven)],
        ),
        gauge(
            "federation_cluster_pairs",
            "Ordered pairs that a cluster is part of, by result.",
            ("cluster", "result"),
            [
                ((c.name, r), n)
                for c in status.clusters
                for r, n in zip(
                    results,
                    (c.proof.valid, c.proof.failed, c.proof.unknown, c.proof.quarantined),
                    strict=True,
                )
            ],
        ),
    ]
    if matrix.computed > 0:
        families.append(
            gauge(
                "federation_matrix_computed_timestamp_seconds",
                "When the matrix was last computed.",
                (),
                [((), matrix.computed)],
            )
        )
    return families


def _workloads(status: FederationStatus) -> list[Metric]:
    """Of each cluster's workloads; a number that is not known has no sample."""
    each = [(c.name, c.workloads) for c in status.clusters]
    return [
        gauge(
            "federation_workloads_served",
            "1 where the workloads of the cluster are known to get certificates, or it has none.",
            ("cluster",),
            [((name,), w.fine) for name, w in each],
        ),
        gauge(
            "federation_workloads",
            "Live pods that need a certificate of the hub.",
            ("cluster",),
            [((name,), w.workloads) for name, w in each if w.workloads is not None],
        ),
        gauge(
            "federation_workloads_with_certificate",
            "Workloads that hold a certificate which has not ended.",
            ("cluster",),
            [((name,), w.with_certificate) for name, w in each if w.state != "unknown"],
        ),
        gauge(
            "federation_workloads_ended",
            "Workloads whose certificate has ended without a renewal.",
            ("cluster",),
            [((name,), w.ended) for name, w in each if w.workloads is not None],
        ),
        gauge(
            "federation_sidecars",
            "Live pods with a sidecar.",
            ("cluster",),
            [((name,), w.sidecars) for name, w in each if w.sidecars is not None],
        ),
        gauge(
            "federation_sidecars_requested",
            "Live pods with a sidecar that have got a certificate of the hub.",
            ("cluster",),
            [((name,), w.asked) for name, w in each if w.sidecars is not None],
        ),
        gauge(
            "federation_callers_all_refused",
            "1 where every caller of the cluster is refused.",
            ("cluster",),
            [((name,), w.refused.all) for name, w in each],
        ),
    ]


def _control_planes(status: FederationStatus) -> list[Metric]:
    planes = [(c.name, plane) for c in status.clusters for plane in c.control_planes]
    return [
        gauge(
            "federation_control_plane_certificate",
            "1 for the state of istiod's certificate in that namespace that holds.",
            ("cluster", "namespace", "state"),
            [((c, p.namespace, s), s == p.state) for c, p in planes for s in CONTROL_PLANE],
        ),
        gauge(
            "federation_control_plane_certificate_not_after_timestamp_seconds",
            "When istiod's certificate in that namespace expires.",
            ("cluster", "namespace"),
            [((c, p.namespace), p.not_after) for c, p in planes if p.not_after > 0],
        ),
    ]


def _clusters(status: FederationStatus) -> list[Metric]:
    clusters = status.clusters
    return [
        gauge(
            "federation_cluster_up",
            "1 where the controller reaches the cluster's API server.",
            ("cluster",),
            [((c.name,), c.connection.state in {"ready", "degraded"}) for c in clusters],
        ),
        gauge(
            "federation_cluster_healthy",
            "1 where signing, publication, proof and workloads of the cluster are all in order.",
            ("cluster",),
            [((c.name,), c.health == "healthy") for c in clusters],
        ),
        gauge(
            "federation_cluster_signing_state",
            "1 for the merged state of signing that holds.",
            ("cluster", "state"),
            [((c.name, s), s == c.signing.state) for c in clusters for s in STATES],
        ),
        gauge(
            "federation_cluster_clock_skew_seconds",
            "How far the hub's clock is ahead of the cluster's.",
            ("cluster",),
            [((c.name,), c.connection.clock_skew) for c in clusters if c.connection.state != "unknown"],
        ),
        gauge(
            "federation_publication_namespaces",
            "Namespaces by what was last read back from them.",
            ("cluster", "state"),
            [((c.name, s), getattr(c.publication, s)) for c in clusters for s in PUBLICATION],
        ),
        gauge(
            "federation_publication_current",
            "1 where every selected namespace was read back with the bundle in force.",
            ("cluster",),
            [((c.name,), c.publication.state == "current") for c in clusters],
        ),
        gauge(
            "federation_publication_generation",
            "The newest generation that every selected namespace holds.",
            ("cluster",),
            [((c.name,), c.publication.generation) for c in clusters],
        ),
        gauge(
            "federation_cluster_trust_bundle",
            "1 for the state of the cluster's ClusterTrustBundle that holds.",
            ("cluster", "state"),
            [((c.name, s), s == c.cluster_trust_bundle.state) for c in clusters for s in TRUST_BUNDLE],
        ),
        gauge(
            "federation_publication_lag_seconds",
            "From that generation's creation until the last namespace had it.",
            ("cluster",),
            [((c.name,), c.publication.lag) for c in clusters],
        ),
        gauge(
            "federation_publication_read_back_timestamp_seconds",
            "When the cluster was last seen.",
            ("cluster",),
            [((c.name,), c.publication.read_back) for c in clusters if c.publication.read_back],
        ),
        counter(
            "federation_publication_writes",
            "Writes of the bundle.",
            ("cluster",),
            [((c.name,), c.publication.writes) for c in clusters],
        ),
        counter(
            "federation_publication_restored",
            "Bundles put back after an edit or a deletion.",
            ("cluster",),
            [((c.name,), c.publication.restored) for c in clusters],
        ),
        gauge(
            "federation_probe_not_after_timestamp_seconds",
            "When the probe's leaf expires.",
            ("cluster",),
            [((c.name,), c.proof.probe_not_after) for c in clusters if c.proof.probe_not_after],
        ),
    ]


def _trust(status: FederationStatus) -> list[Metric]:
    families: list[Metric] = []
    if (bundle := status.bundle) is not None:
        families += [
            gauge("federation_generation", "The generation in force.", (), [((), bundle.generation)]),
            gauge("federation_bundle_bytes", "Size of the bundle in force.", (), [((), bundle.size)]),
            gauge(
                "federation_anchor_not_after_timestamp_seconds",
                "When an anchor of the bundle in force expires.",
                ("sha256", "kind", "subject", "cluster"),
                [
                    ((a.sha256, a.kind, a.subject, a.cluster), a.not_after)
                    for a in bundle.anchors
                    if a.not_after
                ],
            ),
        ]
        if bundle.created:
            families.append(
                gauge(
                    "federation_generation_created_timestamp_seconds",
                    "When the generation in force was created.",
                    (),
                    [((), bundle.created)],
                )
            )
    families += [
        gauge(
            "federation_authority_ready",
            "1 where every signer that uses the authority finds it ready.",
            ("authority", "sha256"),
            [((a.name, a.sha256), a.state == "ready") for a in status.authorities if a.use == "authority"],
        ),
    ]
    return families
