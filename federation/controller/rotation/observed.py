"""The world as the gates see it, put together from documents and from what members were read back to hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from federation.controller.publication.joining import MemberFacts
from federation.controller.rotation.books import Arrivals
from federation.controller.rotation.observer import UnreadableReport
from federation.core.config.model import HubConfig
from federation.core.errors import InvalidValue
from federation.core.pki.certificate import Certificate
from federation.core.pki.pem import parse_certificates
from federation.core.trust.horizons import UNKNOWN_ISSUER, Delivered
from federation.core.trust.rotation.own_anchors import OwnAnchor
from federation.core.trust.rotation.record import RotationBook
from federation.core.trust.rotation.world import Capacity, ClusterFacts, PairFacts, SignerFacts, World
from federation.state.documents import AuthorityReport, DoorReport, Matrix, SignerDoorReport, SignerReport
from federation.state.workloads import signs_of_life

MOST_TEXT: Final = 500  # characters of what a signer says of itself
SHORTEST_LIFE: Final = 1.0  # seconds that a leaf counts for which a CA that goes on issuing has just issued


@dataclass(frozen=True, slots=True)
class Proved:
    """A matrix with the issuer of each cluster's leaf that it was made with.

    ``held`` is the generation that each cluster held everywhere meanwhile, 0 where it did not.
    """

    matrix: Matrix
    issuers: Mapping[str, str]
    held: Mapping[str, int] = field(default_factory=dict)

    def pairs(self) -> dict[tuple[str, str], PairFacts]:
        """Each ordered pair that was tried; one that is unknown was not proved."""
        found: dict[tuple[str, str], PairFacts] = {}
        names = self.matrix.clusters
        for client, row in zip(names, self.matrix.rows, strict=False):
            for server, cell in zip(names, row, strict=False):
                if client != server and cell in {"v", "x"}:
                    found[client, server] = PairFacts(
                        valid=cell == "v",
                        computed=self.matrix.computed,
                        client_issuer=self.issuers.get(client, ""),
                        server_issuer=self.issuers.get(server, ""),
                        client_held=self.held.get(client, 0),
                        server_held=self.held.get(server, 0),
                        reason=self.matrix.reasons.get(f"{client}>{server}", ""),
                    )
        return found


def signer_facts(report: SignerReport, door: SignerDoorReport) -> SignerFacts:
    """What a signer's report says to the gates, and what new connections met at its door.

    One that cannot be read is ready with something that nobody knows: no gate that wants it ready with what is
    new opens, and none that wants nothing in use of what is to be dropped.
    """
    if isinstance(report, UnreadableReport):
        return SignerFacts(
            ready_with=frozenset({UNKNOWN_ISSUER}), generation=0, detail=report.why[:MOST_TEXT]
        )
    both = [authority for authority in (report.authority, report.successor) if authority is not None]
    successor = report.successor
    return SignerFacts(
        ready_with=frozenset(a.sha256 for a in both if a.sha256 and a.state != "unavailable"),
        kept=frozenset(a.sha256 for a in both if a.kept) - frozenset(a.sha256 for a in both if not a.kept),
        generation=report.generation,
        rotation=report.rotation,
        state=report.orders,
        door=report.serving_issuer,
        detail=successor.detail[:MOST_TEXT] if successor is not None else "it has no [signer.successor]",
        door_proved_at=door.proved_at if _is_proof(report, door) else 0.0,
        door_generation=door.generation,
        door_detail=door.detail[:MOST_TEXT] or "no new connection has met it yet",
    )


def refusals(own: Sequence[str], signers: Mapping[str, SignerReport]) -> tuple[str, ...]:
    """Why processes do not run their newest configuration, one text each; ``own`` are the leader's problems."""
    found = [("the leading controller", own)]
    found += [(replica, report.config_problems) for replica, report in sorted(signers.items())]
    return tuple(
        f"{who} refuses its newest configuration: {problems[0][:MOST_TEXT]}"
        + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else "")
        for who, problems in found
        if problems
    )


def _is_proof(report: SignerReport, door: SignerDoorReport) -> bool:
    """Whether it is of the very certificate that the signer shows by now."""
    try:
        shown = parse_certificates(report.serving_pem.encode(), where=report.replica)
    except InvalidValue:
        return False
    return door.state == "proved" and door.sha256 == shown[0].sha256


def joined(clusters: Mapping[str, ClusterFacts]) -> frozenset[str]:
    """Those whose every namespace holds what is meant for it: they have joined."""
    return frozenset(name for name, facts in clusters.items() if facts.current and facts.held)


def ahead_of(clusters: Mapping[str, ClusterFacts], before: Mapping[str, int]) -> dict[str, int]:
    """Those that hold a later generation (its number) than the state knows; what is not known stays as it was."""
    found = {
        name: before.get(name, 0)
        if not isinstance(facts, MemberFacts) or facts.ahead is None
        else facts.ahead
        for name, facts in sorted(clusters.items())
    }
    return {name: number for name, number in found.items() if number}


def others_of(clusters: Mapping[str, ClusterFacts], before: Mapping[str, str]) -> dict[str, str]:
    """Those that are left to another hub (its identity); what is not known stays as it was."""
    found = {
        name: before.get(name, "")
        if not isinstance(facts, MemberFacts) or facts.other is None
        else facts.other
        for name, facts in sorted(clusters.items())
    }
    return {name: hub for name, hub in found.items() if hub}


def met_of(clusters: Mapping[str, ClusterFacts], before: Iterable[str]) -> list[str]:
    """Those that some controller has looked into since they were registered."""
    read = {
        name
        for name, facts in clusters.items()
        if isinstance(facts, MemberFacts) and facts.other is not None and facts.ahead is not None
    }
    return sorted(clusters.keys() & {*before, *read})


def own_of(
    config: HubConfig, clusters: Mapping[str, ClusterFacts], *, kept: frozenset[str] = frozenset()
) -> dict[str, frozenset[str]]:
    """The pinned CAs that clusters came with: those pinned for them, and those that they were found to hold.

    The hub's own root is one as well where a cluster held it before the hub came: whoever put it there has an
    intermediate under it (``cacerts``, istio-csr), and goes on issuing leaves that trust nothing else. ``kept`` are
    anchors that are published although their pin is gone.
    """
    accepted = _accepted(config)
    found: dict[str, frozenset[str]] = {}
    for name, facts in clusters.items():
        pinned = frozenset(sha256 for sha256, clusters in accepted.items() if name in clusters)
        held = facts.own & (config.trust.pins | kept) if isinstance(facts, MemberFacts) else frozenset()
        found[name] = pinned | held
    return found


def trust_bundles(clusters: Mapping[str, ClusterFacts]) -> dict[str, bool]:
    """Of which clusters it is known now whether their ClusterTrustBundle counts."""
    return {
        name: facts.trust_bundle
        for name, facts in clusters.items()
        if isinstance(facts, MemberFacts) and facts.trust_bundle is not None
    }


def own_anchors(config: HubConfig, own: Mapping[str, Iterable[str]]) -> list[OwnAnchor]:
    """The pins that are the own CAs of clusters; ``own`` is what is remembered of :func:`own_of`."""
    return [
        OwnAnchor(sha256=sha256, clusters=pinned | {name for name, shas in own.items() if sha256 in shas})
        for sha256, pinned in sorted(_accepted(config).items())
    ]


def _accepted(config: HubConfig) -> dict[str, frozenset[str]]:
    return {pin.sha256: frozenset(map(str, pin.clusters)) for pin in config.trust.anchors if pin.clusters}


def with_life(
    clusters: Mapping[str, ClusterFacts], signers: Mapping[str, SignerReport]
) -> dict[str, ClusterFacts]:
    """Whether each cluster's workloads get certificates, as the signers report it."""
    reports = tuple(signers.values())
    return {name: replace(facts, life=signs_of_life(reports, name)) for name, facts in clusters.items()}


def with_unknown(
    config: HubConfig,
    clusters: Mapping[str, ClusterFacts],
    arrivals: Arrivals,
    now: float,
    *,
    kept: frozenset[str] = frozenset(),
) -> dict[str, ClusterFacts]:
    """Until when leaves from before the hub may live in each cluster: the longest life they may have.

    Where its own CA goes on issuing that end moves on with the time. A cluster that came with pinned roots of the
    hub alone has none that does where the configuration says that there is no leaf from before the hub. ``kept`` are
    accepted CAs (SHA-256) whose pin is gone and that are published still.
    """
    accepted = _accepted(config).keys() | kept
    configs = {str(cluster.name): cluster for cluster in config.clusters}
    found: dict[str, ClusterFacts] = {}
    for name, facts in clusters.items():
        cluster = configs.get(name)
        if cluster is None:
            found[name] = facts
            continue
        longest = cluster.earlier_longest_ttl
        longest = cluster.policy.longest_ttl if longest is None else longest
        taken = arrivals.taken_over(name)
        if taken is None and cluster.earlier_longest_ttl == 0 and not accepted & {*arrivals.own[name]}:
            taken = arrivals.since[name]
        end = now + max(longest, SHORTEST_LIFE) if taken is None else taken + longest
        found[name] = replace(
            facts,
            unknown_until=end if taken is None or longest else 0.0,
            own_issues=taken is None,
        )
    return found


def path_of(report: AuthorityReport | None, roots: Sequence[Certificate]) -> tuple[Certificate, ...]:
    """The chain of a report with its root; empty where it has none that is pinned."""
    if report is None or not report.chain_pem:
        return ()
    try:
        chain = parse_certificates(report.chain_pem.encode(), where=report.name)
    except InvalidValue:
        return ()
    root = next((root for root in roots if chain[-1].is_signed_by(root)), None)
    return (*chain, root) if root is not None else ()


def roots_above(
    signers: Mapping[str, SignerReport], roots: Sequence[Certificate], book: RotationBook
) -> dict[str, str]:
    """For each intermediate that signers report or a rotation was between, the root above it, by SHA-256."""
    found: dict[str, str] = {}
    if book.rotation is not None:
        found = {side.intermediate: side.root for side in (book.rotation.old, book.rotation.new)}
    for report in signers.values():
        for path in (path_of(report.authority, roots), path_of(report.successor, roots)):
            if path:
                found[path[0].sha256] = path[-1].sha256
    return found


def world_of(
    *,
    now: float,
    config: HubConfig,
    clusters: Mapping[str, ClusterFacts],
    horizons: Mapping[Delivered, float],
    generations: Mapping[int, frozenset[str]],
    in_force: int,
    signers: Mapping[str, SignerReport],
    proved: Proved,
    door: DoorReport,
    rate: float,
    validated: str,
) -> World:
    """Everything the gates look at."""
    settings = config.controller.rotation
    doors = {found.replica: found for found in door.signers}
    return World(
        now=now,
        clusters=clusters,
        horizons=horizons,
        generations=generations,
        in_force=in_force,
        signers={
            replica: signer_facts(report, doors.get(replica, SignerDoorReport(replica=replica)))
            for replica, report in signers.items()
        },
        pairs=proved.pairs(),
        capacity=_capacity(signers, rate),
        validated=validated,
        fresh=settings.fresh,
        skew=settings.skew,
    )


def _capacity(signers: Mapping[str, SignerReport], rate: float) -> Capacity:
    """What all signers issue now has to fit into the successor's quota, whichever of them know it."""
    successors = (report.successor for report in signers.values())
    quotas = [successor.quota for successor in successors if successor is not None and successor.quota > 0]
    return Capacity(rate=rate, quota=min(quotas, default=0.0))
