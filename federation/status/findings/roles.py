"""What needs an operator's attention, each with its remedy. Pure.

Critical: workloads get no certificates, a pair does not validate, trust runs out within days, or the hub
cannot determine it. Warning: something is not as configured, and workloads do not suffer from it yet. Notice: for
information. A cause is reported once, with what follows from it (:mod:`federation.status.findings.causes`), and of a
quarantined cluster nothing is reported but that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Final

from msgspec.structs import replace

from federation.core.documents.controller import ControllerReport
from federation.core.documents.keys import remedy_for
from federation.core.documents.signer import SignerReport
from federation.core.errors import MORE_FILES
from federation.core.problem import Problem
from federation.kubernetes.objects import stop_writers
from federation.state.liveness import is_live
from federation.status.clusters import REASON as CONTROL_PLANE
from federation.status.findings.causes import (
    ORDER,
    WITHHELD,
    Causes,
    Fact,
    Finding,
    Need,
    damage_facts,
    document_fact,
    finding,
    with_consequences,
)
from federation.status.findings.clusters import (
    control_plane_attention,
    joining_attention,
    trust_bundle_attention,
)
from federation.status.findings.credentials import credential_attention
from federation.status.findings.discovery import discovery_attention
from federation.status.findings.edits import edit_attention, pending_change_attention
from federation.status.findings.proof import arrival_attention, names, pair_attention
from federation.status.findings.rotation import rotation_attention
from federation.status.findings.trust import left_behind, member_ca_attention, trust_attention
from federation.status.findings.workloads import (
    listener_attention,
    shared_key_attention,
    unattributed_attention,
    workload_attention,
)
from federation.status.model import Attention, ClusterView, ConnectionView, MatrixView, Severity
from federation.status.signing import connection_words
from federation.status.snapshot import LEAD, Snapshot, clock_time, elapsed
from federation.status.trust import open_proposals

FORGOTTEN: Final = 600.0  # a signer gone this long was scaled down or replaced, if others serve
MOST_SKEW: Final = 30.0  # leaves start two minutes back; past this the margin is worth mending
MOST_ALIKE: Final = 4

FILES_WORTH_REPORTING: Final = 0.5
"""Of the files that a process may have open: a cluster that connects anew has twice as many watches for a moment."""

FILES_FULL: Final = 0.9

LISTENER: Final[Mapping[str, Severity]] = {
    "listener_certificate": "critical",
    "listener_unavailable": "warning",
}
"""Reasons for which a probe gets no certificate that lie with the listener itself, and so concern every cluster."""

REPORTED_BY_ITSELF: Final = frozenset({CONTROL_PLANE, "publication", "forbidden_writes"})
"""Reasons of a degraded cluster that are reported with their own counts below."""

WRITE_REMEDY: Final = (
    "correct what the API server's answer names: a right, a quota, an admission policy or webhook"
)

UNEXPLAINED: Final = "the log of the process that reports it says more"
"""Where an error has no remedy of its own."""

BUNDLE: Final = "bundle"
"""The source under which a controller reports why the bundle is not made of the others."""

WITHOUT: Final = ("has never been read", "cannot be used")
"""How a controller says that a pinned anchor is in no bundle."""

INTERMEDIATES: Final = " (intermediates)"
"""How the source of an authority's chain ends, which goes with its root."""

SERVER_PROBLEM: Final = frozenset(
    {
        "unreachable",
        "timeout",
        "silence",
        "tls",
        "server_error",
        "garbage",
        "throttled",
        "starting",
        "over_budget",
    }
)
"""Reasons that lie with the API server or the way to it, so that both roles suffer from the same cause."""

UNREAD: Final = "cluster_unread"  # no controller has looked into it yet: nothing is issued until then

OF_WRITING: Final = frozenset(
    {"forbidden", "denied", "quota", "admission", "webhook", "conflict", "invalid", "not_found"}
    | {"other_writers", "other_hub", "state_older"}
)
"""Reasons for which the bundle is not written there."""


def attention(snapshot: Snapshot, clusters: Iterable[ClusterView], matrix: MatrixView) -> list[Attention]:
    """Every cause that needs attention with what follows from it, the most severe first, alike ones condensed."""
    clusters = list(clusters)
    found = [
        *_state(snapshot),
        *_controllers(snapshot),
        *_signers(snapshot),
        *_open_files(snapshot),
        *arrival_attention(snapshot),
        *_listener(clusters),
        *shared_key_attention(snapshot),
        *(each for view in clusters if view.quarantine is None for each in _cluster(snapshot, view)),
        *(
            item
            for view in clusters
            if view.quarantine is None
            for item in workload_attention(snapshot, view)
        ),
        *unattributed_attention(snapshot),
        *listener_attention(snapshot),
        *pending_change_attention(snapshot),
        *trust_attention(snapshot),
        *rotation_attention(snapshot),
        *joining_attention(clusters),
        *member_ca_attention(snapshot, joining={view.name for view in clusters if view.joining is not None}),
        *edit_attention(snapshot),
        *discovery_attention(snapshot),
        *_configuration(snapshot),
    ]
    registered = {view.name for view in clusters}
    causes = Causes(_as_finding(each, registered) for each in found)
    pairs = list(pair_attention(matrix, causes))
    items = [(frozenset({index}), item) for index, item in causes.items()]
    items += [(frozenset[int](), item) for item in pairs]
    items_with_pairs = [causes.with_pairs(item, of, pairs=matrix.pairs) for of, item in _condensed(items)]
    return sorted(items_with_pairs, key=lambda item: ORDER[item.severity])


def _as_finding(each: Finding | Attention, registered: Collection[str]) -> Finding:
    """A finding as it is; an item with what its code declares, about the cluster that its place names."""
    if isinstance(each, Finding):
        return each
    if not each.remedy:
        each = replace(each, remedy=UNEXPLAINED)
    if not each.clusters and each.where in registered:
        each = replace(each, clusters=[each.where])
    return finding(each)


def _state(snapshot: Snapshot) -> Iterator[Finding]:
    for key, problem in sorted(snapshot.documents.damaged.items()):
        item = Attention(
            severity="critical",
            code="state_damaged",
            detail=f"a state document cannot be used: {problem}",
            where=key,
            remedy=remedy_for(key),
        )
        yield finding(item, takes=[document_fact(key)])


def _controllers(snapshot: Snapshot) -> Iterator[Finding | Attention]:
    absent = snapshot.no_leader
    if absent is not None:
        yield Attention(
            severity="critical",
            code="no_leader",
            detail=f"trust is neither published nor proved: {absent.detail}; what every cluster holds is not "
            "known",
            where=absent.where,
            remedy=LEAD,
            since=absent.since,
        )
    elif len(snapshot.leaders) > 1:
        yield Attention(
            severity="warning",
            code="two_leaders",
            detail=f"{len(snapshot.leaders)} controllers say that they lead",
            where=", ".join(sorted(snapshot.leaders)),
            remedy="passes after a change of leader; otherwise check that they share one state store",
        )
    if snapshot.leader is not None and not snapshot.leader.ready:
        item = Attention(
            severity="warning",
            code="controller_not_ready",
            detail="; ".join(snapshot.leader.reasons) or "the leading controller is not ready",
            where=snapshot.leader.replica,
            remedy="correct what is named there; its log says more",
        )
        rests_on = damage_facts(sorted(snapshot.documents.damaged), *snapshot.leader.reasons)
        if snapshot.leader.generation == 0:
            rests_on.append((Need.SOURCES, ""))
        yield finding(item, rests_on=rests_on)
    yield from _sources(snapshot)


def _sources(snapshot: Snapshot) -> Iterator[Finding | Attention]:
    """Where anchors come from. One that was never read has no last known good: what needs it waits for it."""
    sources = snapshot.leader.sources if snapshot.leader else {}
    for source, said in sorted(sources.items()):
        if said == "ok":
            continue
        if source == BUNDLE:
            item = Attention(
                severity="warning",
                code="bundle_withheld",
                detail=f"the bundle in force is not changed: {said}"
                if snapshot.in_force
                else f"no bundle is made: {said}",
                where="bundle",
                remedy="correct what is named there; the controller makes the bundle by itself then",
            )
            yield finding(item)
        elif source.endswith(INTERMEDIATES) and left_behind(snapshot) is not None:
            continue  # its root leaves, or has left: that is reported
        elif said.endswith(WITHOUT):
            item = Attention(
                severity="warning",
                code="source_unread",
                detail=f"a pinned anchor is not in the bundle: {said}",
                where=source,
                remedy="put the certificate that is pinned into this file where the controller runs, or take its pin "
                "out of the configuration; the file is read again by itself",
                fact=f"the pinned anchor of {source} is not in the bundle",
            )
            yield finding(item)
        else:
            yield Attention(
                severity="warning",
                code="source_degraded",
                detail=f"it gives nothing new: {said}",
                where=source,
                remedy="put back what is named there, where the controller runs; the bundle does not shrink meanwhile",
            )


def _signers(snapshot: Snapshot) -> Iterator[Attention]:
    serving = [replica for replica, signer in snapshot.signers.items() if signer.ready]
    if not serving:
        yield Attention(
            severity="critical",
            code="no_signer",
            detail="no signer is ready: workloads get no certificates",
            where="signer",
            remedy="correct what those that run give as reason" if snapshot.signers else "start a signer",
        )
    for replica, signer in sorted(snapshot.documents.signers.items()):
        if replica not in snapshot.signers:
            gone = snapshot.now - signer.updated
            yield Attention(
                severity="notice" if gone > FORGOTTEN and serving else "warning",
                code="signer_stale",
                detail=f"the signer was last seen {elapsed(gone)} ago",
                where=replica,
                remedy="look whether it still runs; nothing is to be done if it was scaled down",
                since=signer.updated,
            )
        elif not signer.ready:
            yield Attention(
                severity="warning",
                code="signer_not_ready",
                detail="; ".join(signer.reasons) or "the signer is not ready",
                where=replica,
                remedy="correct what it gives as reason; its log says more",
            )


def _open_files(snapshot: Snapshot) -> Iterator[Attention]:
    """Each connection takes one, and more clusters take more: reported while there is room for as many again."""
    controllers = {r: c for r, c in snapshot.documents.controllers.items() if is_live(c, snapshot.now)}
    counted = [(r, s.open_files, s.open_files_limit) for r, s in sorted(snapshot.signers.items())]
    counted += [(r, c.open_files, c.open_files_limit) for r, c in sorted(controllers.items())]
    for replica, count, most in counted:
        if not 0 < most <= count / FILES_WORTH_REPORTING:
            continue
        full = count >= most * FILES_FULL
        what = (
            "connections fail by now, or will soon"
            if full
            else "beyond that connections fail, to every cluster"
        )
        yield Attention(
            severity="critical" if full else "warning",
            code="open_files",
            detail=f"it has {count:,} of {most:,} files and connections open that its process may have: {what}",
            where=replica,
            remedy=MORE_FILES,
        )


def _cluster(snapshot: Snapshot, view: ClusterView) -> Iterator[Finding | Attention]:
    connection, signing, publication = view.connection, view.signing, view.publication
    unreached, unsigned = connection.problem, signing.problem
    yield from credential_attention(view, snapshot.now)
    if snapshot.leader is not None and unreached is not None and connection.reason not in REPORTED_BY_ITSELF:
        yield _connection(snapshot, view, unreached)
    if unsigned is not None and snapshot.signers:
        yield _signing(view, unsigned)
    if snapshot.leader is None:
        return
    yield from control_plane_attention(view)
    if connection.state not in {"ready", "degraded"}:
        return
    if publication.joining > 0 and connection.reason not in {"joining", *WITHHELD}:  # else that says so
        yield Attention(
            severity="warning",
            code="publication_joining",
            detail=f"it joins: {publication.joining} of {publication.selected} namespaces keep a CA of the cluster's "
            "own for now",
            where=view.name,
            remedy=publication.remedy,
        )
    if publication.state not in {"current", "joining"}:
        refused = publication.state == "failed"
        yield Attention(
            severity="warning",
            code="publication_forbidden" if publication.forbidden else f"publication_{publication.state}",
            detail=f"{publication.detail}; pods there trust what their namespace had before, or nothing"
            if refused
            else f"publication of the bundle: {publication.detail}",
            where=view.name,
            remedy=_publication_remedy(view),
            fact=f"{publication.failed + publication.forbidden} of {publication.selected} namespaces of {view.name} "
            "refuse the bundle"
            if refused
            else "",
        )
    if (
        publication.other_writers and publication.state != "joining" and view.joining is None
    ):  # else it needs its CA
        yield Attention(
            severity="warning",
            code="other_writers",
            detail=f"others write the bundle's ConfigMap, too: {names(publication.other_writers)}",
            where=view.name,
            remedy=stop_writers(publication.other_writers),
        )
    yield from trust_bundle_attention(view)
    if view.proof.probe_detail and view.proof.probe_reason not in LISTENER:
        yield Attention(
            severity="warning",
            code="probe_failed",
            detail=f"its probe got no certificate: {view.proof.probe_detail}{_own_refused(snapshot, view.name)}",
            where=view.name,
            remedy=view.proof.probe_remedy or "the leading controller's log says at which step it failed",
        )
    if abs(connection.clock_skew) > MOST_SKEW:
        yield Attention(
            severity="warning",
            code="clock_skew",
            detail=f"its clock and the hub's differ by {elapsed(connection.clock_skew)}",
            where=view.name,
            remedy="synchronise both clocks: certificates start two minutes back, there is no more room",
        )


def _connection(snapshot: Snapshot, view: ClusterView, problem: Problem) -> Finding:
    """How the controller reaches it: the cause of most that is wrong there."""
    connection, name = view.connection, view.name
    words = connection_words(connection.reason, connection.state)
    since = f" since {clock_time(connection.since, snapshot.now)}" if connection.since else ""
    fact = f"{name} {words}{since}"
    if connection.state != "degraded":
        fact = f"{fact}; {_certificates(view, snapshot.now)}"
    item = Attention(
        severity="critical" if _withholds(view) else "warning",
        code=f"cluster_{connection.state}",
        detail=f"{fact}: {problem.detail}",
        where=name,
        remedy=problem.remedy or _CONNECTION_REMEDIES.get(connection.reason, _CHECK.format(name=name)),
        since=connection.since,
        fact=fact,
        clusters=[name],
    )
    return finding(item, takes=_taken(connection, name))


def _withholds(view: ClusterView) -> bool:
    """Whether nothing is issued there because of what it holds; where another hub wrote over this one's, it is."""
    reasons = {view.connection.reason, view.signing.reason}
    return view.connection.reason == "state_older" or reasons == {"other_hub"}


_CHECK: Final = "run `federation clusters check {name}` where the controller's kubeconfig is"
_CONNECTION_REMEDIES: Final[Mapping[str, str]] = {
    "starting": "nothing: it has just been connected, and is being listed",
    "not_reported": "nothing, if it was just registered; else see that the leading controller runs this configuration",
}


def _publication_remedy(view: ClusterView) -> str:
    """What to do where not every selected namespace holds the bundle."""
    if view.publication.state == "failed":
        return view.connection.remedy or WRITE_REMEDY
    if view.publication.selected <= 0 and view.publication.read_back > 0:
        return (
            "correct namespace_selector of this cluster, or give its namespaces the labels that it asks for"
        )
    return "nothing, if it just changed; otherwise read the leading controller's log for this cluster"


def _taken(connection: ConnectionView, name: str) -> list[Fact]:
    """What a cluster's connection takes away: everything where there is none, else what its reason is about."""
    if connection.state != "degraded" or connection.reason in SERVER_PROBLEM:
        return [(Need.CONNECTION, name), (Need.WRITING, name)]
    if connection.reason == "clock_skew":
        return [(Need.CLOCK, name)]
    return [(Need.WRITING, name)] if connection.reason in OF_WRITING else []


def _certificates(view: ClusterView, now: float) -> str:
    """What becomes of the certificates there meanwhile."""
    workloads = view.workloads
    if view.signing.state in {"ready", "degraded"}:
        return "workloads there still get certificates"
    if workloads.last_end <= 0:
        return "it is not known until when certificates there last"
    first = workloads.first_end
    sooner = f", the first ends at {clock_time(first, now)}" if first and first < workloads.last_end else ""
    return f"certificates there last until {clock_time(workloads.last_end, now)}{sooner}"


def _signing(view: ClusterView, problem: Problem) -> Finding:
    """Why its workloads get no certificates; the same problem of its API server is not a cause of its own."""
    signing, name = view.signing, view.name
    fact = {
        "unavailable": f"no certificates are issued for {name}",
        "degraded": f"certificates for {name} are issued with restrictions",
    }.get(signing.state, f"whether certificates are issued for {name} is not known")
    item = Attention(
        severity="critical" if signing.state == "unavailable" and signing.reason != UNREAD else "warning",
        code=f"signing_{signing.state}",
        detail=f"{fact}: {problem.detail}",
        where=name,
        remedy=problem.remedy or f"run `federation clusters check {name}` where the signer's kubeconfig is",
        fact=fact,
        clusters=[name],
    )
    rests_on: list[Fact] = []
    if signing.reason in SERVER_PROBLEM:
        rests_on = [(Need.CONNECTION, name)]
    if signing.reason == "clock_skew":
        rests_on = [(Need.CLOCK, name)]
    if signing.reason in WITHHELD or signing.reason == UNREAD:
        rests_on = [(Need.WRITING, name), (Need.CONNECTION, name)]
    return finding(item, rests_on=rests_on)


def _own_refused(snapshot: Snapshot, name: str) -> str:
    """What signers gave as reason for refusing the hub's own accounts; a caller learns nothing from the listener."""
    reasons = {
        reason
        for signer in snapshot.signers.values()
        if name in signer.clusters
        for reason, count in signer.clusters[name].own_refused.items()
        if count > 0
    }
    return (
        f" (signers have refused the hub's own accounts there for: {', '.join(sorted(reasons))})"
        if reasons
        else ""
    )


def _listener(clusters: list[ClusterView]) -> Iterator[Finding]:
    """The signers' listener, where the probes of clusters do not get past it: one cause for all of them."""
    for reason, severity in LISTENER.items():
        stopped = [view for view in clusters if view.quarantine is None and view.proof.probe_reason == reason]
        if stopped:
            first = stopped[0]
            item = Attention(
                severity=severity,
                code=reason,
                detail=f"{first.proof.probe_detail}; so asked for {names([view.name for view in stopped])}",
                where="listener",
                remedy=first.proof.probe_remedy,
                fact=first.proof.probe_detail,
                clusters=[view.name for view in stopped],
            )
            yield finding(item)


def _configuration(snapshot: Snapshot) -> Iterator[Attention]:
    config = snapshot.config
    if not config.clusters:
        yield Attention(
            severity="warning",
            code="no_clusters",
            detail="no cluster is registered",
            where=config.file,
            remedy="add a [[clusters]] table to it",
        )
    for problem in config_problems(snapshot):
        yield Attention(
            severity="warning",
            code="config_problem",
            detail=f"the configuration was refused and the last good one is running: {problem}",
            where=config.file,
            remedy="correct it; it is read again by itself",
        )
    others = [r for r, s in sorted(snapshot.signers.items()) if s.config_digest != config.digest]
    if snapshot.leader is not None and snapshot.leader.config_digest != config.digest:
        others.append(snapshot.leader.replica)
    if others:
        yield Attention(
            severity="warning",
            code="config_differs",
            detail="does not run the configuration that this process runs",
            where=names(others),
            remedy="right after a change this passes; otherwise see that every process reads the same file",
        )
    for option in insecure_options(snapshot):
        yield Attention(
            severity="notice",
            code="insecure_option",
            detail=option,
            where=config.file,
            remedy="remove the option where it is not needed",
        )
    for proposal in open_proposals(snapshot):
        yield Attention(
            severity="notice",
            code="anchor_proposed",
            detail=f"an anchor that is not pinned was found: {proposal.subject} ({proposal.sha256})",
            where=proposal.cluster or proposal.origin,
            remedy="if it is yours, run `federation trust accept` with its fingerprint, which pins it as the own CA of "
            "every cluster that it was found in; if it is not, find out who put it there, then run "
            "`federation trust dismiss`",
            since=proposal.first_seen,
        )
    unsealed = [operation for operation in snapshot.documents.operations if operation.reason == "unsealed"]
    if unsealed:
        yield Attention(
            severity="critical",
            code="operation_unsealed",
            detail=f"{len(unsealed)} operations that no controller has taken in were put into the state store, the "
            f"last one {unsealed[0].verb} as {unsealed[0].author[:80]!r}: nothing was done",
            where="operations",
            remedy="if a controller was restarted or its operate token exchanged while an operator waited, ask again; "
            "if not, find out who can write the state store. It is shown until newer operations take its place",
            since=unsealed[-1].asked,
        )
    for problem in snapshot.leader.proposals_problems if snapshot.leader is not None else ():
        yield Attention(
            severity="warning",
            code="anchors_unlisted",
            detail=problem,
            where="proposals",
            remedy="accept or dismiss those that are listed (`federation trust list`); where the state store is named, "
            "correct that first",
        )


def config_problems(snapshot: Snapshot) -> list[str]:
    """What this process and every process that is live found wrong with the configuration, each once."""
    theirs = [problem for report in _reports(snapshot) for problem in report.config_problems]
    return list(dict.fromkeys([*snapshot.config_problems, *theirs]))


def insecure_options(snapshot: Snapshot) -> list[str]:
    """Options in force that weaken the hub, each once; foreign anchors merged by override are among them."""
    theirs = [warning for report in _reports(snapshot) for warning in report.warnings]
    anchors = [
        f"the anchor {anchor.subject} of trust domain {anchor.trust_domain} is merged by override: "
        f"it can speak for {snapshot.config.trust_domain} as well"
        for anchor in (snapshot.in_force.anchors if snapshot.in_force else [])
        if anchor.foreign_override
    ]
    return list(dict.fromkeys([*snapshot.config.warnings, *theirs, *anchors]))


def _reports(snapshot: Snapshot) -> list[SignerReport | ControllerReport]:
    reports: list[SignerReport | ControllerReport] = [*snapshot.signers.values()]
    return [*reports, snapshot.leader] if snapshot.leader else reports


_Entry = tuple[frozenset[int], Attention]
"""An entry with the causes that it reports."""


def _condensed(items: list[_Entry]) -> Iterator[_Entry]:
    """Many items of one kind become one that names the places, so that 200 clusters stay readable."""
    kinds: dict[tuple[str, str, str], list[_Entry]] = {}
    for entry in items:
        item = entry[1]
        kinds.setdefault((item.severity, item.code, _anywhere(item)), []).append(entry)
    for every in kinds.values():
        if len(every) <= MOST_ALIKE:
            yield from every
            continue
        alike = [item for _, item in every]
        first = alike[0]
        known = [item.since for item in alike if item.since]
        merged = replace(
            first,
            detail=f"{first.detail} (and {len(alike) - 1} more of this kind)",
            fact=f"{first.fact} (and {len(alike) - 1} more of this kind)" if first.fact else "",
            where=names(list(dict.fromkeys(item.where for item in alike))),
            since=min(known, default=0.0),
            clusters=list(dict.fromkeys(name for item in alike for name in item.clusters)),
            remedy=first.remedy if all(item.remedy == first.remedy for item in alike) else _anywhere(first),
            consequences=[],
        )
        causes = frozenset(index for of, _ in every for index in of)
        yield causes, with_consequences(merged, [each for item in alike for each in item.consequences])


def _anywhere(item: Attention) -> str:
    """What to do, without the name of the cluster that it is about."""
    return item.remedy.replace(item.where, "NAME") if item.where in item.clusters else item.remedy
