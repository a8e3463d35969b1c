"""The world as the gates see it, put together from documents and from what was read back.

It reads what signers and earlier leaders have persisted, and what members were read back to hold. Whatever cannot be
used counts as the worst case. A store that is down raises StateUnavailable, and nothing is decided. One document that
is damaged must not stop that, or no operator could act on the rotation: a signer whose report is damaged is ready with
nothing, and where it is not known how far a signer's leaves reach, every gate that waits for leaves is shut.

The clusters that join are put together here for ``core/trust/joining`` from what members and signers report.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from federation.clusters.istio_inventory import IstioFound
from federation.controller.generations import bundle_of
from federation.controller.publication.joining import MemberFacts
from federation.controller.rotation.store import Arrivals
from federation.core.config.clusters import LONGEST_TTL
from federation.core.config.hub import HubConfig
from federation.core.documents.controller import (
    ListenerReport,
    Matrix,
    SignerListenerReport,
)
from federation.core.documents.encoding import decode
from federation.core.documents.keys import EXPIRY_BOUNDS, GENERATIONS, SIGNERS, StateDamaged, damaged
from federation.core.documents.signer import AuthorityReport, ExpiryBound, ExpiryBoundTable, SignerReport
from federation.core.documents.trust import Generation
from federation.core.errors import InvalidValue, StateUnavailable
from federation.core.identity import ClusterName
from federation.core.pki.certificate import Certificate
from federation.core.pki.pem import parse_certificates
from federation.core.rotation.gates import MemberCa, Verdict
from federation.core.rotation.record import RotationRecord
from federation.core.rotation.world import Capacity, ClusterFacts, PairFacts, SignerFacts, World
from federation.core.trust.expiry_bounds import ANY_REMOVED, LONGEST_STEP, UNKNOWN_ISSUER, Delivered, merged
from federation.core.trust.joining import (
    Arrival,
    IstiodSeen,
    IstioSeen,
    JoinStep,
    Position,
    SidecarsSeen,
    concerns,
    position,
    serves,
)
from federation.state.liveness import is_live, signs_of_life, workloads_of
from federation.state.store import StateStore, Stored, read_many

_logger = logging.getLogger(__name__)

UNKNOWN_GENERATION: Final = 0
LAST_GENERATION: Final = 10**12 - 1  # what their keys have room for

LAST_INSTANT: Final = (
    253_370_764_800.0  # the year 9999 begins: later ones no calendar holds, with some skew added
)

MOST_COUNTED: Final = 2**53  # certificates: up to here a float can represent one more
MOST_SIGNER_TEXT: Final = 500  # characters of what a signer says of itself
SHORTEST_LIFE: Final = 1.0  # seconds that a leaf counts for which a CA that goes on issuing has just issued
DEFAULT_TRUST_DOMAIN: Final = "cluster.local"  # of Istio, where none is set


Table = Mapping[Delivered, float]


class UnreadableReport(SignerReport, frozen=True, kw_only=True):
    """The report of a signer whose own is damaged: it may be alive, and what it can sign with is not known."""

    why: str


class Observer:
    """Reads it all. ``problem`` is why the last reading of the expiry bounds is not whole; empty where it is."""

    def __init__(self, store: StateStore) -> None:
        self._store = store
        self._anchors: dict[int, frozenset[str]] = {}
        self._tables: dict[str, tuple[str, Table]] = {}  # with the version of each
        self.problem = ""

    async def signers(self, now: float, *, skew: float = 0.0) -> dict[str, SignerReport]:
        """Those that are live, and those of which it is not known whether they should be."""
        found: dict[str, SignerReport] = {}
        for key, stored in (await read_many(self._store, await self._store.keys(SIGNERS))).items():
            if stored is None:
                continue  # it has ended in good order
            replica = key.removeprefix(SIGNERS)
            try:
                report = report_of(key, stored)
            except StateDamaged as error:
                found[replica] = _unreadable(replica, now, error)
            else:
                if is_live(report, now, skew=skew):
                    found[replica] = report
        return found

    async def expiry_bounds(self, worst: Table) -> Table:
        """How far the leaves of every signer reach, of those that are gone as well.

        Where one cannot be determined, ``worst`` is counted for it (:func:`worst_of`).
        """
        stored = await read_many(self._store, await self._store.keys(EXPIRY_BOUNDS))
        tables: dict[str, tuple[str, Table]] = {}
        problems: list[StateDamaged] = []
        for key, document in stored.items():
            try:
                tables[key] = self._table(key, document)
            except StateDamaged as error:
                problems.append(error)
        self._tables = tables
        self._report(problems)
        counted = [table for _, table in tables.values()]
        return merged([*counted, worst] if problems else counted)

    def _table(self, key: str, document: Stored | StateDamaged | None) -> tuple[str, Table]:
        if document is None:  # the leader alone removes one, and does so between two readings
            raise StateUnavailable(
                "it was listed and then was not there", where=key, remedy="the next reading lists them anew"
            )
        known = self._tables.get(key)
        if known is not None and isinstance(document, Stored) and known[0] == document.version:
            return known
        if isinstance(document, StateDamaged):
            raise document
        return document.version, table_of(key, document)

    def _report(self, problems: list[StateDamaged]) -> None:
        problem = ""
        if problems:
            first = problems[0]
            more = f" (and {len(problems) - 1} more)" if problems[1:] else ""
            problem = (
                f"how far leaves reach is not known, so every gate that waits for leaves is shut: {first}{more}; "
                f"{first.remedy}"
            )
        if problem and problem != self.problem:
            _logger.error("%s", problem, extra={"reason": problems[0].reason})
        self.problem = problem

    async def generations(self, numbers: frozenset[int]) -> dict[int, frozenset[str]]:
        """The anchors of each; one that cannot be read is left out, which counts as holding none."""
        for number in sorted(numbers - self._anchors.keys() - {UNKNOWN_GENERATION}):
            await self.anchors(number)
        self._anchors = {number: anchors for number, anchors in self._anchors.items() if number in numbers}
        return dict(self._anchors)

    async def anchors(self, number: int) -> frozenset[str]:
        """The anchors of that generation; none where it cannot be read."""
        if number not in self._anchors:
            anchors = await self._generation(number)
            if anchors is None:
                return frozenset()
            self._anchors[number] = anchors  # a generation never changes once written
        return self._anchors[number]

    async def _generation(self, number: int) -> frozenset[str] | None:
        key = f"{GENERATIONS}{number:012d}"
        try:
            stored = await self._store.read(key)
            if stored is None:
                return None
            bundle = bundle_of(decode(stored.data, Generation, key=key))
        except (InvalidValue, StateDamaged):
            return None
        return frozenset(anchor.sha256 for anchor in bundle.certificates)


def report_of(key: str, stored: Stored | StateDamaged) -> SignerReport:
    """The report of a signer; raises StateDamaged for what cannot be one."""
    if isinstance(stored, StateDamaged):
        raise stored
    report = decode(stored.data, SignerReport, key=key)
    if f"{SIGNERS}{report.replica}" != key:
        raise damaged(f"it says that it is of {report.replica[:80]!r}", key=key, where=key)
    if not 0 <= report.issued <= MOST_COUNTED:
        raise damaged("it counts more certificates than can have been issued", key=key, where=key)
    return report


def table_of(key: str, stored: Stored) -> dict[Delivered, float]:
    """How far one signer's leaves reach; raises StateDamaged for what cannot be that."""
    table: dict[Delivered, float] = {}
    for row in decode(stored.data, ExpiryBoundTable, key=key).rows:
        _check(row, key)
        delivered = Delivered(row.cluster, row.issuer, row.generation)
        table[delivered] = max(row.until, table.get(delivered, row.until))
    return table


def _check(row: ExpiryBound, key: str) -> None:
    try:
        ClusterName(row.cluster)
    except InvalidValue as error:
        raise damaged(error.what, key=key, where=key) from None
    if not 0 <= row.generation <= LAST_GENERATION or len(row.issuer) > 64 or not row.issuer.isprintable():
        raise damaged("a row names no generation, or no issuer, that there can be", key=key, where=key)
    if not 0 <= row.until <= LAST_INSTANT:
        raise damaged(f"a leaf is to live until {row.until:g}, which is no instant", key=key, where=key)


def worst_of(config: HubConfig, now: float, *, gone: Iterable[str] = ()) -> dict[Delivered, float]:
    """The leaves of a signer of whom nothing is known: of any issuer, delivered with nothing, and while any.

    Like those of a CA that goes on issuing: their end moves on with the time. Its leaves may as well be of clusters
    that are registered no more: of those in ``gone``, and of others whose name is not known any more
    (:data:`ANY_REMOVED`). What their policy allowed is not known either, so they live while any policy allows.
    """
    longest = {ANY_REMOVED: LONGEST_TTL} | dict.fromkeys(gone, LONGEST_TTL)
    longest |= {str(cluster.name): cluster.policy.longest_ttl for cluster in config.clusters}
    return {
        Delivered(name, UNKNOWN_ISSUER, UNKNOWN_GENERATION): now + ttl + LONGEST_STEP
        for name, ttl in longest.items()
    }


def _unreadable(replica: str, now: float, error: StateDamaged) -> UnreadableReport:
    return UnreadableReport(
        replica=replica,
        started=now,
        updated=now,
        heartbeat=1.0,
        ready=False,
        why=f"its report cannot be used: {error}; {error.remedy}",
    )


@dataclass(frozen=True, slots=True)
class Proved:
    """A matrix with the issuer of each cluster's leaf that it was made with.

    ``generations`` is what each cluster had everywhere meanwhile, 0 where it did not.
    """

    matrix: Matrix
    issuers: Mapping[str, str]
    generations: Mapping[str, int] = field(default_factory=dict)

    def pairs(self) -> ProvedPairs:
        """Each ordered pair that was tried; one that is unknown was not proved."""
        return ProvedPairs(self)


class ProvedPairs(Mapping[tuple[str, str], PairFacts]):
    """A proof by ordered pairs of clusters, read from the matrix where a gate asks for one.

    The world is put together every second, and while no rotation is under way no gate asks: 200 clusters have 39,800
    pairs. Pairs of which the same is known share their facts, as most do: there are as many as differ.
    """

    def __init__(self, proved: Proved) -> None:
        self._proved = proved
        self._rows = dict(zip(proved.matrix.clusters, proved.matrix.rows, strict=False))
        self._columns = {name: column for column, name in enumerate(proved.matrix.clusters)}
        self._facts: dict[tuple[object, ...], PairFacts] = {}

    def __getitem__(self, pair: tuple[str, str]) -> PairFacts:
        client, server = pair
        row, column = self._rows[client], self._columns[server]
        cell = row[column] if column < len(row) else "?"
        if client == server or cell not in "vx":
            raise KeyError(pair)
        issuers, generations = self._proved.issuers, self._proved.generations
        reasons = self._proved.matrix.reasons
        reason = reasons.get(f"{client}>{server}", "") if reasons else ""
        known = (
            cell,
            issuers.get(client, ""),
            issuers.get(server, ""),
            generations.get(client, 0),
            generations.get(server, 0),
            reason,
        )
        facts = self._facts.get(known)
        if facts is None:
            facts = self._facts[known] = PairFacts(
                valid=cell == "v",
                computed=self._proved.matrix.computed,
                client_issuer=known[1],
                server_issuer=known[2],
                client_generation=known[3],
                server_generation=known[4],
                reason=reason,
            )
        return facts

    def __iter__(self) -> Iterator[tuple[str, str]]:
        for client, row in self._rows.items():
            for server, cell in zip(self._columns, row, strict=False):
                if client != server and cell in "vx":
                    yield client, server

    def __len__(self) -> int:
        return sum(1 for _ in self)


def world_of(
    *,
    now: float,
    config: HubConfig,
    clusters: Mapping[str, ClusterFacts],
    expiry_bounds: Mapping[Delivered, float],
    generations: Mapping[int, frozenset[str]],
    in_force: int,
    signers: Mapping[str, SignerReport],
    proved: Proved,
    listener: ListenerReport,
    rate: float,
    validated: str | None,
) -> World:
    """Everything that the gates consider."""
    settings = config.controller.rotation
    listeners = {found.replica: found for found in listener.signers}
    return World(
        now=now,
        clusters=clusters,
        expiry_bounds=expiry_bounds,
        generations=generations,
        in_force=in_force,
        signers={
            replica: signer_facts(report, listeners.get(replica, SignerListenerReport(replica=replica)))
            for replica, report in signers.items()
        },
        pairs=proved.pairs(),
        capacity=_capacity(signers, rate),
        validated=validated,
        fresh=settings.fresh,
        skew=settings.skew,
    )


def _capacity(signers: Mapping[str, SignerReport], rate: float) -> Capacity:
    """What all signers issue now has to fit into the successor's quota, whether or not they all know that."""
    successors = (report.successor for report in signers.values())
    quotas = [successor.quota for successor in successors if successor is not None and successor.quota > 0]
    return Capacity(rate=rate, quota=min(quotas, default=0.0))


def signer_facts(report: SignerReport, listener: SignerListenerReport) -> SignerFacts:
    """What a signer's report says to the gates, and what new connections met at its listener.

    One that cannot be read is ready with something unknown: no gate that wants it ready with what is
    new opens, and none that wants nothing in use of what is to be dropped.
    """
    if isinstance(report, UnreadableReport):
        return SignerFacts(
            ready_with=frozenset({UNKNOWN_ISSUER}), generation=0, detail=report.why[:MOST_SIGNER_TEXT]
        )
    both = [authority for authority in (report.authority, report.successor) if authority is not None]
    successor = report.successor
    return SignerFacts(
        ready_with=frozenset(a.sha256 for a in both if a.sha256 and a.state != "unavailable"),
        until_restart=frozenset(a.sha256 for a in both if a.kept)
        - frozenset(a.sha256 for a in both if not a.kept),
        generation=report.generation,
        rotation=report.rotation,
        state=report.directives,
        listener=report.serving_issuer,
        detail=successor.detail[:MOST_SIGNER_TEXT]
        if successor is not None
        else "it has no [signer.successor]",
        listener_proved_at=listener.proved_at if _is_proof(report, listener) else 0.0,
        listener_generation=listener.generation,
        listener_detail=listener.detail[:MOST_SIGNER_TEXT] or "no new connection has met it yet",
    )


def _is_proof(report: SignerReport, listener: SignerListenerReport) -> bool:
    """Whether it is of the very certificate that the signer shows by now."""
    try:
        shown = parse_certificates(report.serving_pem.encode(), where=report.replica)
    except InvalidValue:
        return False
    return listener.state == "proved" and listener.sha256 == shown[0].sha256


def refusals(own: Sequence[str], signers: Mapping[str, SignerReport]) -> tuple[str, ...]:
    """Why processes do not run their newest configuration, one text each; ``own`` are the leader's problems."""
    found = [("the leading controller", own)]
    found += [(replica, report.config_problems) for replica, report in sorted(signers.items())]
    return tuple(
        f"{who} refuses its newest configuration: {problems[0][:MOST_SIGNER_TEXT]}"
        + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else "")
        for who, problems in found
        if problems
    )


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
    unpinned: frozenset[str] = frozenset(),
) -> dict[str, ClusterFacts]:
    """Until when leaves from before the hub may live in each cluster: the longest life they may have.

    Where its own CA goes on issuing that end moves on with the time. A cluster that came with pinned roots of the
    hub alone has none that does where the configuration says that there is no leaf from before the hub. ``unpinned``
    are accepted CAs (SHA-256) whose pin is gone and that are published still.
    """
    accepted = _accepted(config).keys() | unpinned
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


def roots_above(
    signers: Mapping[str, SignerReport], roots: Sequence[Certificate], record: RotationRecord
) -> dict[str, str]:
    """For each intermediate that signers report or a rotation was between, the root above it, by SHA-256."""
    found: dict[str, str] = {}
    if record.rotation is not None:
        found = {side.intermediate: side.root for side in (record.rotation.old, record.rotation.new)}
    for report in signers.values():
        for path in (path_of(report.authority, roots), path_of(report.successor, roots)):
            if path:
                found[path[0].sha256] = path[-1].sha256
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


def member_cas(config: HubConfig, own: Mapping[str, Iterable[str]]) -> list[MemberCa]:
    """The pins that are the own CAs of clusters; ``own`` is what is remembered of :func:`own_of`."""
    return [
        MemberCa(sha256=sha256, clusters=pinned | {name for name, shas in own.items() if sha256 in shas})
        for sha256, pinned in sorted(_accepted(config).items())
    ]


def own_of(
    config: HubConfig, clusters: Mapping[str, ClusterFacts], *, unpinned: frozenset[str] = frozenset()
) -> dict[str, frozenset[str]]:
    """The pinned CAs that clusters came with: those pinned for them, and those that they were found with.

    The hub's own root is one as well where a cluster had it before the hub came: what put it there has an
    intermediate under it (``cacerts``, istio-csr), and goes on issuing leaves that trust nothing else. ``unpinned`` are
    anchors that are published although their pin is gone.
    """
    accepted = _accepted(config)
    found: dict[str, frozenset[str]] = {}
    for name, facts in clusters.items():
        pinned = frozenset(sha256 for sha256, clusters in accepted.items() if name in clusters)
        found_there = (
            facts.own & (config.trust.pins | unpinned) if isinstance(facts, MemberFacts) else frozenset()
        )
        found[name] = pinned | found_there
    return found


def _accepted(config: HubConfig) -> dict[str, frozenset[str]]:
    return {pin.sha256: frozenset(map(str, pin.clusters)) for pin in config.trust.anchors if pin.clusters}


def joined(clusters: Mapping[str, ClusterFacts]) -> frozenset[str]:
    """Those whose every namespace was read back with what is meant for it: they have joined."""
    return frozenset(name for name, facts in clusters.items() if facts.current and facts.anchors)


def ahead_of(clusters: Mapping[str, ClusterFacts], before: Mapping[str, int]) -> dict[str, int]:
    """Those that have a later generation (its number) than the state knows; what is not known stays as it was."""
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
    """Those that some controller has read since they were registered."""
    read = {
        name
        for name, facts in clusters.items()
        if isinstance(facts, MemberFacts) and facts.other is not None and facts.ahead is not None
    }
    return sorted(clusters.keys() & {*before, *read})


def trust_bundles(clusters: Mapping[str, ClusterFacts]) -> dict[str, bool]:
    """Of which clusters it is known now whether their ClusterTrustBundle counts."""
    return {
        name: facts.trust_bundle
        for name, facts in clusters.items()
        if isinstance(facts, MemberFacts) and facts.trust_bundle is not None
    }


def hub_roots(config: HubConfig, in_force: frozenset[str]) -> frozenset[str]:
    """The anchors in force that are not merely a cluster's own: what the hub signs under."""
    accepted = {pin.sha256 for pin in config.trust.anchors if pin.clusters}
    return in_force & config.trust.pins - accepted


def served(clusters: Mapping[str, ClusterFacts], roots: frozenset[str]) -> dict[str, bool | None]:
    """Whether each cluster distributes the hub's roots now."""
    return {name: serves(facts, roots) if roots else None for name, facts in clusters.items()}


def provided(clusters: Mapping[str, ClusterFacts]) -> dict[str, bool | None]:
    """Whether the hub provides the certificate of every istiod of each cluster now, read back."""
    found: dict[str, bool | None] = {}
    for name, facts in clusters.items():
        planes = facts.control_planes
        found[name] = bool(planes) if not planes or all(p.current and p.issuer for p in planes) else None
    return found


def sidecars_of(signers: Collection[SignerReport], clusters: Iterable[str]) -> dict[str, SidecarsSeen]:
    """Of each cluster whose pods are watched, which of those with a sidecar have a certificate of the hub."""
    found: dict[str, SidecarsSeen] = {}
    for name in clusters:
        report = workloads_of(signers, name)
        if report is not None and report.sidecars is not None and report.watched:
            found[name] = SidecarsSeen(
                pods=report.sidecars,
                with_certificate=report.asked,
                never_requested=tuple(report.never_requested),
            )
    return found


def istio_seen(found: IstioFound) -> IstioSeen:
    """What of a cluster's Istio matters to how it joins."""
    addresses = {str(injection): injection.ca_address for injection in found.injections}
    addresses |= {str(z): z.environment.get("CA_ADDRESS") or "" for z in found.ztunnels}
    return IstioSeen(
        istiods=tuple(
            IstiodSeen(
                name=str(istiod),
                ca_server=istiod.ca_server,
                settled=istiod.settled,
                rolled_out=istiod.rolled_out,
            )
            for istiod in found.istiods
        ),
        addresses=addresses,
        trust_domains={
            str(mesh): mesh.trust_domain or DEFAULT_TRUST_DOMAIN for mesh in found.meshes if not mesh.problem
        },
        unread=tuple(f"{unread.what}: {unread.why}" for unread in found.unread),
    )


def positions(
    config: HubConfig,
    world: World,
    arrivals: Arrivals,
    sidecars: Mapping[str, SidecarsSeen],
    dropping: Mapping[str, Verdict],
) -> dict[str, Position]:
    """The step of each cluster that has a CA of its own."""
    accepted = {pin.sha256 for pin in config.trust.anchors if pin.clusters}
    listeners = frozenset(config.listener.server_names)
    roots = hub_roots(config, world.generations.get(world.in_force, frozenset()))
    found: dict[str, Position] = {}
    for cluster in config.clusters:
        name = str(cluster.name)
        facts = world.clusters.get(name)
        if not isinstance(facts, MemberFacts):
            continue
        own = frozenset(arrivals.own.get(name, ()))
        longest = cluster.earlier_longest_ttl
        arrival = Arrival(
            name=name,
            facts=facts,
            own=own,
            accepted=own & accepted,
            unaccepted=facts.unaccepted,
            issuing=facts.own_issues or bool(facts.unaccepted),
            served_since=arrivals.served.get(name),
            provided_since=arrivals.provided.get(name),
            longest=cluster.policy.longest_ttl if longest is None else longest,
            distributors=facts.distributors,
            listeners=listeners,
            trust_domain=str(config.trust_domain),
            istio=facts.istio,
            sidecars=sidecars.get(name),
            dropping=tuple(c for sha in sorted(own) if sha in dropping for c in dropping[sha].conditions),
        )
        if concerns(arrival, world):
            found[name] = position(arrival, world, roots)
    return found


@dataclass(frozen=True, slots=True)
class IstiodWait:
    """Whether istiod's certificate waits in a cluster that joins: ``reason`` is why; None where it may be provided."""

    reason: str | None


def awaited(found: Mapping[str, Position] | None, cluster: str) -> IstiodWait | None:
    """Whether istiod's certificate waits there because the cluster joins; None where it does not join."""
    if found is None:
        return IstiodWait("it is not known yet whether the cluster joins")
    if cluster not in found:
        return None
    if found[cluster].past(JoinStep.RENEW):
        return IstiodWait(None)
    return IstiodWait(f"the cluster joins: {next((c.detail for c in found[cluster].waits_for), '')}")


def not_joining(_: str) -> IstiodWait | None:
    """For where it is known that no cluster joins."""
    return None
