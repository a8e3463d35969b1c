"""What somebody should look at, each with its remedy. Pure.

Critical: workloads get no certificates, a pair does not validate, trust runs out within days, or the hub
cannot tell. Warning: something is not as configured, and workloads do not suffer from it yet. Notice: for
information. A cause is told once: what follows from a missing leader or an unreachable cluster is not told
again for each cluster, and of a quarantined cluster nothing is told but that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from federation.state.damage import remedy_for
from federation.state.documents import ControllerReport, SignerReport
from federation.status.attention_keys import shared_key_attention
from federation.status.attention_own import own_anchor_attention
from federation.status.attention_pairs import names, pair_attention
from federation.status.attention_rotation import rotation_attention
from federation.status.attention_trust import trust_attention
from federation.status.attention_workloads import unplaced_attention, workload_attention
from federation.status.control_planes import REASON as CONTROL_PLANE
from federation.status.control_planes import control_plane_attention
from federation.status.freshness import elapsed, instant
from federation.status.joining import joining_attention
from federation.status.model import Attention, ClusterView, MatrixView, Severity
from federation.status.scene import Scene
from federation.status.trust import open_proposals
from federation.status.trust_bundle import trust_bundle_attention

ORDER: Final[dict[Severity, int]] = {"critical": 0, "warning": 1, "notice": 2}
FORGOTTEN: Final = 600.0  # a signer gone this long was scaled down or replaced, if others serve
MOST_SKEW: Final = 30.0  # leaves start two minutes back; past this the margin is worth mending
MOST_ALIKE: Final = 4


def attention(scene: Scene, clusters: Iterable[ClusterView], matrix: MatrixView) -> list[Attention]:
    """Everything that needs attention, the most severe first, alike things condensed."""
    clusters = list(clusters)
    found = [
        *_state(scene),
        *_controllers(scene),
        *_signers(scene),
        *shared_key_attention(scene),
        *(item for view in clusters if view.quarantine is None for item in _cluster(scene, view)),
        *(item for view in clusters if view.quarantine is None for item in workload_attention(scene, view)),
        *unplaced_attention(scene),
        *pair_attention(scene, clusters, matrix),
        *trust_attention(scene),
        *rotation_attention(scene),
        *joining_attention(clusters),
        *own_anchor_attention(scene, joining={view.name for view in clusters if view.joining is not None}),
        *_configuration(scene),
    ]
    return sorted(_condensed(found), key=lambda item: ORDER[item.severity])


def _state(scene: Scene) -> Iterator[Attention]:
    for key, problem in sorted(scene.snapshot.damaged.items()):
        yield Attention(
            severity="critical",
            code="state_damaged",
            what=f"a state document cannot be used: {problem}",
            where=key,
            remedy=remedy_for(key),
        )


def _controllers(scene: Scene) -> Iterator[Attention]:
    if scene.leader is None:
        yield Attention(
            severity="critical",
            code="no_leader",
            what=f"nobody publishes and proves trust: {scene.no_leader}; every cluster's trust is unknown",
            where="controller",
            remedy="start a controller, or look in its log for why it does not lead",
            since=instant(scene.last_leader.updated) if scene.last_leader else None,
        )
    elif len(scene.leaders) > 1:
        yield Attention(
            severity="warning",
            code="two_leaders",
            what=f"{len(scene.leaders)} controllers say that they lead",
            where=", ".join(sorted(scene.leaders)),
            remedy="passes after a change of leader; otherwise check that they share one state store",
        )
    if scene.leader is not None and not scene.leader.ready:
        yield Attention(
            severity="warning",
            code="controller_not_ready",
            what="; ".join(scene.leader.reasons) or "the leading controller is not ready",
            where=scene.leader.replica,
            remedy="look in its log",
        )
    sources = scene.leader.sources if scene.leader else {}
    for source, said in sorted(sources.items()):
        if said != "ok":
            yield Attention(
                severity="warning",
                code="source_degraded",
                what=f"its last known good anchors are used: {said}",
                where=source,
                remedy="mend the source; the bundle does not shrink meanwhile",
            )


def _signers(scene: Scene) -> Iterator[Attention]:
    serving = [replica for replica, signer in scene.signers.items() if signer.ready]
    if not serving:
        yield Attention(
            severity="critical",
            code="no_signer",
            what="no signer is ready: workloads get no certificates",
            where="signer",
            remedy="start a signer, or mend what the signers below give as reason",
        )
    for replica, signer in sorted(scene.snapshot.signers.items()):
        if replica not in scene.signers:
            gone = scene.now - signer.updated
            yield Attention(
                severity="notice" if gone > FORGOTTEN and serving else "warning",
                code="signer_stale",
                what=f"the signer was last heard of {elapsed(gone)} ago",
                where=replica,
                remedy="look whether it still runs; nothing is to be done if it was scaled down",
                since=instant(signer.updated),
            )
        elif not signer.ready:
            yield Attention(
                severity="warning",
                code="signer_not_ready",
                what="; ".join(signer.reasons) or "the signer is not ready",
                where=replica,
                remedy="look in its log",
            )


def _cluster(scene: Scene, view: ClusterView) -> Iterator[Attention]:
    connection, signing, publication = view.connection, view.signing, view.publication
    if signing.state != "ready" and scene.signers:
        yield Attention(
            severity="critical" if signing.state == "unavailable" else "warning",
            code=f"signing_{signing.state}",
            what=f"certificates for its workloads: {signing.detail or signing.reason or signing.state}",
            where=view.name,
            remedy=signing.remedy or "run `federation clusters check` for this cluster",
        )
    if scene.leader is None:
        return
    yield from control_plane_attention(view)
    if connection.state != "ready" and connection.reason != CONTROL_PLANE:  # that one is reported above
        yield Attention(
            severity="warning",
            code=f"cluster_{connection.state}",
            what=f"the controller's connection: {connection.detail or connection.reason or connection.state}",
            where=view.name,
            remedy=connection.remedy or "run `federation clusters check` for this cluster",
            since=connection.since,
        )
        if connection.state != "degraded":
            return
    if publication.state == "joining":
        if connection.reason != "joining":  # else that has told it
            yield Attention(
                severity="warning",
                code="publication_joining",
                what=f"it joins: {publication.detail}",
                where=view.name,
                remedy=publication.remedy,
            )
    elif publication.state != "current":
        yield Attention(
            severity="warning",
            code=f"publication_{publication.state}",
            what=f"publication of the bundle: {publication.detail}",
            where=view.name,
            remedy="nothing, if it just changed; otherwise run `federation clusters check` for this cluster",
        )
    if publication.forbidden > 0:
        yield Attention(
            severity="warning",
            code="publication_forbidden",
            what=f"{publication.forbidden} namespaces refuse the hub: they may hold an older bundle",
            where=view.name,
            remedy="apply manifests/member to that cluster, or exclude these namespaces",
        )
    if (
        publication.other_writers and publication.state != "joining" and view.joining is None
    ):  # else it needs its CA
        yield Attention(
            severity="warning",
            code="other_writers",
            what=f"somebody else writes the bundle's ConfigMap: {names(publication.other_writers)}",
            where=view.name,
            remedy="set ENABLE_CA_SERVER=false in istiod, or stop the other writer",
        )
    yield from trust_bundle_attention(view)
    if view.proof.probe_detail:
        yield Attention(
            severity="warning",
            code="probe_failed",
            what=f"its probe got no certificate: {view.proof.probe_detail}",
            where=view.name,
            remedy="create the probe's service account and allow it in this cluster's policy",
        )
    if abs(connection.clock_skew) > MOST_SKEW:
        yield Attention(
            severity="warning",
            code="clock_skew",
            what=f"its clock and the hub's differ by {elapsed(connection.clock_skew)}",
            where=view.name,
            remedy="synchronise both clocks: certificates start two minutes back, there is no more room",
        )


def _configuration(scene: Scene) -> Iterator[Attention]:
    config = scene.config
    if not config.clusters:
        yield Attention(
            severity="warning",
            code="no_clusters",
            what="no cluster is registered",
            where=config.file,
            remedy="add a [[cluster]] to it",
        )
    for problem in config_problems(scene):
        yield Attention(
            severity="warning",
            code="config_problem",
            what=f"the configuration was refused and the last good one is running: {problem}",
            where=config.file,
            remedy="mend it; it is read again by itself",
        )
    others = [r for r, s in sorted(scene.signers.items()) if s.config_digest != config.digest]
    if scene.leader is not None and scene.leader.config_digest != config.digest:
        others.append(scene.leader.replica)
    if others:
        yield Attention(
            severity="warning",
            code="config_differs",
            what="does not run the configuration that this process runs",
            where=names(others),
            remedy="right after a change this passes; otherwise see that every process reads the same file",
        )
    for option in insecure_options(scene):
        yield Attention(
            severity="notice",
            code="insecure_option",
            what=option,
            where=config.file,
            remedy="remove the option where it is not needed",
        )
    for proposal in open_proposals(scene):
        yield Attention(
            severity="notice",
            code="anchor_proposed",
            what=f"an anchor that nobody pinned was found: {proposal.subject} ({proposal.sha256})",
            where=proposal.cluster or proposal.origin,
            remedy="`federation trust accept` its fingerprint if it is yours, which pins it as the own CA of every "
            "cluster that it was found in; if it is not, find out who put it there, then `federation trust dismiss` it",
            since=instant(proposal.first_seen),
        )
    for problem in scene.leader.proposals_problems if scene.leader is not None else ():
        yield Attention(
            severity="warning",
            code="anchors_unlisted",
            what=problem,
            where="proposals",
            remedy="accept or dismiss those that are listed (`federation trust list`); where the state store is named, "
            "mend that first",
        )


def config_problems(scene: Scene) -> list[str]:
    """What this process and every process that is heard of found wrong with the configuration, each once."""
    theirs = [problem for report in _reports(scene) for problem in report.config_problems]
    return list(dict.fromkeys([*scene.config_problems, *theirs]))


def insecure_options(scene: Scene) -> list[str]:
    """Options in force that weaken the hub, each once; foreign anchors merged by override are among them."""
    theirs = [warning for report in _reports(scene) for warning in report.warnings]
    anchors = [
        f"the anchor {anchor.subject} of trust domain {anchor.trust_domain} is merged by override: "
        f"it can speak for {scene.config.trust_domain} as well"
        for anchor in (scene.in_force.anchors if scene.in_force else [])
        if anchor.foreign_override
    ]
    return list(dict.fromkeys([*scene.config.warnings, *theirs, *anchors]))


def _reports(scene: Scene) -> list[SignerReport | ControllerReport]:
    reports: list[SignerReport | ControllerReport] = [*scene.signers.values()]
    return [*reports, scene.leader] if scene.leader else reports


def _condensed(items: list[Attention]) -> Iterator[Attention]:
    """Many items of one kind become one that names the places, so that 200 clusters stay readable."""
    kinds: dict[tuple[str, str, str], list[Attention]] = {}
    for item in items:
        kinds.setdefault((item.severity, item.code, item.remedy), []).append(item)
    for alike in kinds.values():
        if len(alike) <= MOST_ALIKE:
            yield from alike
            continue
        first = alike[0]
        known = [item.since for item in alike if item.since]
        yield Attention(
            severity=first.severity,
            code=first.code,
            what=f"{first.what} (and {len(alike) - 1} more of this kind)",
            where=names(list(dict.fromkeys(item.where for item in alike))),
            remedy=first.remedy,
            since=min(known, default=None),
        )
