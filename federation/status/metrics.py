"""The merged status as Prometheus metrics. Pure: structs in, bytes out.

One vocabulary for the hub's endpoint and each signer's own: scrape either. Every series of a process has its
``replica`` label, so both may be scraped where queries take ``max by (replica, ...)`` first. What is not
known has no series; in particular an expiry is never told as 0.
"""

from __future__ import annotations

from typing import Final

from prometheus_client.core import Metric

from federation.status.control_planes import STATES as CONTROL_PLANE
from federation.status.exposition import counter, gauge, render
from federation.status.metrics_roles import controller_families, signer_families
from federation.status.metrics_rotation import rotation_families
from federation.status.model import FederationStatus
from federation.status.scene import Snapshot
from federation.status.trust_bundle import STATES as TRUST_BUNDLE

STATES: Final = ("ready", "degraded", "unavailable", "unknown")
PUBLICATION: Final = ("selected", "current", "pending", "failed", "terminating", "forbidden", "excluded")


def hub_metrics(status: FederationStatus, snapshot: Snapshot, now: float) -> bytes:
    """What the hub's endpoint tells: the merged status and each process' own counters."""
    return render(
        [
            *_overall(status),
            *_matrix(status),
            *_clusters(status),
            *_workloads(status),
            *_control_planes(status),
            *_trust(status),
            *rotation_families(status),
            *signer_families(snapshot.signers, now),
            *controller_families(snapshot.controllers, now),
        ]
    )


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
    if matrix.computed is not None:
        families.append(
            gauge(
                "federation_matrix_computed_timestamp_seconds",
                "When the matrix was last computed.",
                (),
                [((), matrix.computed.timestamp())],
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
            "federation_workloads_holding",
            "Workloads that hold a certificate which has not ended.",
            ("cluster",),
            [((name,), w.holding) for name, w in each if w.state != "unknown"],
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
            "federation_sidecars_asked",
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
            [((c, p.namespace), p.not_after.timestamp()) for c, p in planes if p.not_after],
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
            "From that generation's creation until the last namespace held it.",
            ("cluster",),
            [((c.name,), c.publication.lag) for c in clusters],
        ),
        gauge(
            "federation_publication_read_back_timestamp_seconds",
            "When the cluster was last heard of.",
            ("cluster",),
            [((c.name,), c.publication.read_back.timestamp()) for c in clusters if c.publication.read_back],
        ),
        counter(
            "federation_publication_writes",
            "Writes of the bundle.",
            ("cluster",),
            [((c.name,), c.publication.writes) for c in clusters],
        ),
        counter(
            "federation_publication_restored",
            "Bundles put back after somebody's edit or deletion.",
            ("cluster",),
            [((c.name,), c.publication.restored) for c in clusters],
        ),
        gauge(
            "federation_probe_not_after_timestamp_seconds",
            "When the probe's leaf expires.",
            ("cluster",),
            [((c.name,), c.proof.probe_not_after.timestamp()) for c in clusters if c.proof.probe_not_after],
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
                    ((a.sha256, a.kind, a.subject, a.cluster), a.not_after.timestamp())
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
                    [((), bundle.created.timestamp())],
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
