"""The metrics of the roles' processes, each from its own report. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prometheus_client.core import Metric

from federation.state.documents import AuthorityReport, ControllerReport, SignerReport
from federation.state.liveness import is_heard_of
from federation.status.exposition import counter, gauge, histogram, render


def role_metrics(report: SignerReport | ControllerReport, now: float) -> bytes:
    """What a role's own endpoint tells of itself."""
    if isinstance(report, SignerReport):
        return render(signer_families({report.replica: report}, now))
    return render(controller_families({report.replica: report}, now))


def signer_families(signers: Mapping[str, SignerReport], now: float) -> list[Metric]:
    """Signers by replica: certificates, refusals, latency, readiness, expiries."""
    each = sorted(signers.items())
    authorities = [(replica, report.authority) for replica, report in each if report.authority]
    on_cluster = [(r, name, seen) for r, s in each for name, seen in sorted(s.clusters.items())]
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
            [((r, name, why), n) for r, name, seen in on_cluster for why, n in sorted(seen.refused.items())],
        ),
        counter(
            "federation_calls_turned_away",
            "Calls that ended before their caller was known to be of any cluster.",
            ("replica", "reason"),
            [((r, why), n) for r, s in each for why, n in sorted(s.turned_away.total.items())],
        ),
        counter(
            "federation_connections_refused",
            "Connections to the door that its transport ended, or did not take.",
            ("replica", "reason"),
            [((r, why), n) for r, s in each for why, n in sorted(s.connections_refused.total.items())],
        ),
        histogram(
            "federation_issuance_seconds",
            "From a request's arrival until its answer.",
            ("replica",),
            [((r,), s.latency) for r, s in each],
        ),
        gauge(
            "federation_signer_ready",
            "1 where the signer is heard of and can issue.",
            ("replica",),
            [((r,), s.ready and is_heard_of(s, now)) for r, s in each],
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
            "federation_signer_generation",
            "The generation the signer hands out.",
            ("replica",),
            [((r,), s.generation) for r, s in each],
        ),
        gauge(
            "federation_signer_cluster_ready",
            "1 where the signer is heard of and attests workloads of the cluster without restriction.",
            ("replica", "cluster"),
            [
                ((r, name), seen.state == "ready" and signers[r].ready and is_heard_of(signers[r], now))
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
            "When the serving certificate of the signer's door expires.",
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
            "federation_authority_quota",
            "Certificates per second that the back end allows all signers together; 0: no limit known.",
            labels,
            [((r, a.name), a.quota) for r, a in remote],
        ),
        gauge(
            "federation_authority_rate",
            "Certificates per second asked of the back end lately.",
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
            "Workloads that the quota can carry at the lifetime issued lately; 0: no limit known.",
            labels,
            [((r, a.name), a.capacity) for r, a in remote],
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
            "1 where the controller is heard of and leads.",
            ("replica",),
            [((r,), c.leader and is_heard_of(c, now)) for r, c in each],
        ),
        gauge(
            "federation_controller_ready",
            "1 where the controller is heard of and ready.",
            ("replica",),
            [((r,), c.ready and is_heard_of(c, now)) for r, c in each],
        ),
        gauge(
            "federation_controller_report_age_seconds",
            "Since the controller last reported.",
            ("replica",),
            [((r,), now - c.updated) for r, c in each],
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
            "Writes that were held back to protect what is published.",
            ("replica",),
            [((r,), c.write_refusals) for r, c in each],
        ),
    ]
