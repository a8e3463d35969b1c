"""Whether the workloads of a cluster get certificates, for status: counts, verdict, refused callers. Pure.

A matrix of the hub's own probes is green over a mesh in which no workload has a certificate, so the cluster is not
healthy, and `federation verify` fails, unless its workloads hold what they were issued.
"""

from __future__ import annotations

from typing import Final

from federation.core.trust.life import Vitality, judge
from federation.state.documents import RefusalsReport, WorkloadsReport
from federation.state.workloads import refusals_of, signs_of_life, together, unproven_of, workloads_of
from federation.status.freshness import finite, instant
from federation.status.model import RefusedView, WorkloadsView
from federation.status.own_anchors import undeclared
from federation.status.scene import Scene

LATELY: Final = 900.0
"""Seconds for which a refusal is shown: ztunnel waits up to 150 s between its attempts."""

SHORTEST_RUN: Final = 60.0  # seconds for which all have to be refused before that counts
UNKNOWN_LIFE: Final = 86400.0  # where nothing was issued lately: Istio's SECRET_TTL


def workloads_view(scene: Scene, name: str) -> WorkloadsView:
    """The workloads of one registered cluster."""
    signers = tuple(scene.signers.values())
    report = workloads_of(signers, name) or WorkloadsReport()
    found = judge(signs_of_life(signers, name), scene.now)
    refused = refused_view(scene, refusals_of(signers, name), report)
    # Until the takeover they may all hold certificates of the cluster's own CA, whose root is in the bundle.
    moving = found.vitality is Vitality.NEVER_ASKED and name in undeclared(scene)
    return WorkloadsView(
        state=found.vitality.value,
        fine=moving or (found.fine and not refused.all),
        detail=found.detail,
        remedy=found.remedy,
        until=instant(found.until),
        workloads=report.workloads,
        holding=report.holding,
        ended=report.lapsed,
        ambient=report.ambient,
        sidecars=report.sidecars,
        asked=report.asked,
        never_asked=report.never_asked,
        ended_pods=report.ended,
        lifetime=finite(report.lifetime),
        first_end=instant(finite(report.first_end)),
        last_end=instant(finite(report.last_end)),
        refused=refused,
    )


def unplaced_view(scene: Scene) -> RefusedView:
    """Callers that no registered cluster can be found for."""
    reports = (signer.unplaced for signer in scene.signers.values())
    return refused_view(scene, together(reports), WorkloadsReport())


def unproven_view(scene: Scene, name: str) -> RefusedView:
    """Callers that named this cluster, got nothing, and for whom nothing shows that they are of it."""
    signers = tuple(scene.signers.values())
    report = workloads_of(signers, name) or WorkloadsReport()
    return refused_view(scene, unproven_of(signers, name), report)


def refused_view(scene: Scene, refused: RefusalsReport, report: WorkloadsReport) -> RefusedView:
    """Refusals of late. All are refused where none has a valid certificate, or after half a lifetime of it."""
    lately = refused.last > 0 and -LATELY < scene.now - refused.last < LATELY
    run = max(SHORTEST_RUN, (report.lifetime or UNKNOWN_LIFE) / 2)
    long_enough = report.holding == 0 or scene.now - refused.since > run
    return RefusedView(
        lately=lately,
        all=lately and refused.count > 0 and long_enough,
        count=refused.count,
        since=instant(refused.since),
        last=instant(refused.last),
        reason=refused.reason,
        detail=refused.detail,
        remedy=refused.remedy,
    )
