"""One step of the rotation at a time: effects first, then what is observed, then at most one transition.

That order is what makes the gates sound. Directives and generations that follow from the record are in the store before
the signers' expiry bounds are read; a signer that extends its expiry bound reads the directives after it has. So one of
the two always sees the other, and no leaf escapes a gate.

Whether a proposed authority may take over is judged before anything of it is published (pure), and so is what it will
have to carry: how many certificates a second all signers issue, from their counters.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

import msgspec

from federation.controller.rotation.observer import (
    Observer,
    Proved,
    ahead_of,
    hub_roots,
    joined,
    member_cas,
    met_of,
    others_of,
    own_of,
    path_of,
    positions,
    provided,
    refusals,
    roots_above,
    served,
    sidecars_of,
    trust_bundles,
    with_life,
    with_unknown,
    world_of,
    worst_of,
)
from federation.controller.rotation.operations import (
    Commands,
    OperationMac,
    OperationQueue,
    Proposed,
    taken_over,
)
from federation.controller.rotation.report import report_of_rotation
from federation.controller.rotation.store import RotationStore, and_applied, summary_of, with_setback
from federation.core.clock import Clock
from federation.core.config.clusters import ClusterConfig
from federation.core.config.hub import HubConfig
from federation.core.documents.controller import ListenerReport, Operation, RotationReport
from federation.core.documents.signer import AuthorityReport, SignerReport
from federation.core.documents.trust import Current, Proposal
from federation.core.errors import AuthorityMisconfigured, FederationError, InvalidValue, StateUnavailable
from federation.core.identity import TrustDomain
from federation.core.istio.istiod import istiods_of
from federation.core.pki.certificate import Certificate
from federation.core.pki.pem import parse_certificates
from federation.core.pki.verification import check_intermediate
from federation.core.rotation.effects import note_renewal, note_signing, signing_side
from federation.core.rotation.gates import Verdict, drop, drop_gates, drop_unpinned, settle, unpinned_anchors
from federation.core.rotation.record import OperationRefused, RotationRecord, Setback, Side, Unpinned
from federation.core.rotation.transitions import advance, interrupted
from federation.core.rotation.world import ClusterFacts, World
from federation.core.trust.expiry_bounds import alive
from federation.core.trust.joining import Position
from federation.state.store import StateConflict, StateStore

_logger = logging.getLogger(__name__)

SMOOTHING: Final = 30.0  # seconds over which the rate is averaged

MEASURED: Final = 2 * SMOOTHING
"""Seconds after which the average says something: it begins at nothing."""

REMEMBERED: Final = 3600.0
"""Seconds for which the largest average counts: a lull is not what a rotation will ask for."""

MOST_AHEAD: Final = 1000  # generations that a signer may have seen before the state was set back


@dataclass(slots=True)
class IssuingRate:
    """Gets the sum of the counters at each observation; times are in seconds since the epoch."""

    _since: float = 0.0
    _at: float = 0.0
    _total: int = 0
    _average: float = 0.0
    _peaks: deque[tuple[float, float]] = field(default_factory=deque)

    def note(self, now: float, total: int) -> float:
        """The largest average of the last hour. Counters that went back (a signer ended) count from there."""
        elapsed = now - self._at
        if not self._at:
            self._since = now
        elif elapsed > 0 and total >= self._total:
            weight = min(1.0, elapsed / SMOOTHING)
            self._average += ((total - self._total) / elapsed - self._average) * weight
        self._at, self._total = now, total
        while self._peaks and self._peaks[-1][1] <= self._average:
            self._peaks.pop()
        self._peaks.append((now, self._average))
        while self._peaks[0][0] < now - REMEMBERED:
            self._peaks.popleft()
        return self._peaks[0][1]

    @property
    def known_from(self) -> float:
        """From when on the rate is known."""
        return self._since + MEASURED


@dataclass(frozen=True, slots=True)
class Seen:
    """What the leader sees of the clusters at this moment.

    ``roots`` are those that could be read and are pinned, or published still; ``unwritten`` is why what the record asks
    for may not be in force. ``published`` are the roots (SHA-256) of the generations in force, and ``refused`` why this
    process does not run its newest configuration. ``setbacks`` are times that what is in force was set back.
    """

    clusters: Mapping[str, ClusterFacts]
    proved: Proved
    roots: Sequence[Certificate]
    current: Current
    unwritten: str | None = None
    published: Mapping[str, Unpinned] = field(default_factory=dict)
    refused: Sequence[str] = ()
    listener: ListenerReport = field(default_factory=ListenerReport)
    setbacks: Sequence[Setback] = ()


async def _nothing_to_dismiss(_: Operation) -> None:
    raise OperationRefused("no proposal is known here", remedy="see `federation trust list`")


@dataclass(slots=True)
class RotationDriver:
    """Only the leader may run it. ``enact`` makes generations follow from a record that has just changed.

    ``dismiss`` carries out the one operation that is not about a rotation: an anchor that was found is listed no
    longer.
    """

    store: StateStore
    clock: Clock
    allowed: Callable[[], bool]
    mac: OperationMac
    dismiss: Callable[[Operation], Awaitable[None]] = _nothing_to_dismiss
    rotation_store: RotationStore = field(init=False)
    report: RotationReport = field(init=False, default_factory=RotationReport)
    dropping: Mapping[str, Verdict] = field(init=False, default_factory=dict)
    """For each own anchor (SHA-256) that is still in use, what it waits for before it leaves the bundle."""

    joining: Mapping[str, Position] | None = field(init=False, default=None)
    """The step of each cluster that has a CA of its own; None before anything was observed."""
    _observer: Observer = field(init=False)
    _queue: OperationQueue = field(init=False)
    _commands: Commands = field(init=False, default_factory=Commands)
    _rate: IssuingRate = field(init=False, default_factory=IssuingRate)
    delivered: int = field(init=False, default=0)
    """The highest generation that signers use, where the one in force was set back; 0 where it was not."""
    _ahead: int = field(init=False, default=0)
    _issuers: Mapping[str, str] = field(init=False, default_factory=dict)
    _signers: Sequence[SignerReport] = field(init=False, default=())
    _signing: Mapping[str, Side] = field(init=False, default_factory=dict)
    _offered: Mapping[str, Sequence[Side]] = field(init=False, default_factory=dict)
    _unsettled: str = field(init=False, default="")
    _loaded: bool = field(init=False, default=False)
    _observed_at: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self.rotation_store = RotationStore(self.store, now=lambda: self.clock.now().timestamp())
        self._observer = Observer(self.store)
        self._queue = OperationQueue(self.store, clock=self.clock, mac=self.mac)

    @property
    def record(self) -> RotationRecord:
        """The record as it is persisted."""
        return self.rotation_store.record

    def named_by_authorities(self) -> list[Proposal]:
        """Roots that the signers' back ends name and no configuration pins, as last observed."""
        authorities = [a for report in self._signers for a in (report.authority, report.successor)]
        return [proposal for a in authorities if a is not None for proposal in a.proposals]

    @property
    def signers(self) -> Sequence[SignerReport]:
        """The reports of those that were seen, as last observed."""
        return self._signers

    async def load(self) -> None:
        """Read the record; conditions that were met without a break may have had one while no controller led."""
        if self._loaded:
            return
        await self.rotation_store.load()
        await self.rotation_store.meet()
        if self.allowed():
            await self._save(interrupted(self.rotation_store.record))
        self._loaded = True

    async def withhold(self, clusters: Collection[str]) -> None:
        """Have signers wait for clusters that no controller has read yet: they may be another hub's.

        Before anything is published for them: a signer without a generation signs nothing. Those that a record of an
        earlier release knows do not wait. Raises StateUnavailable.
        """
        await self.load()
        rotation_store, arrivals = self.rotation_store, self.rotation_store.arrivals
        if not self.allowed() or rotation_store.met is not None or arrivals is None:
            return
        rotation_store.met = sorted(arrivals.since.keys() & set(clusters))
        try:
            await rotation_store.issue_directives()
        except StateUnavailable:
            self._loaded, rotation_store.met = False, None
            raise

    async def step(
        self, config: HubConfig, see: Callable[[], Seen], enact: Callable[[], Awaitable[None]]
    ) -> bool:
        """Write effects, observe, carry out operations, advance; True where the record has changed.

        What fails is reported in :attr:`report` and changes nothing.
        """
        try:
            await self.load()
            if not self.allowed():
                return False
            if self.clock.monotonic() - self._observed_at > config.controller.rotation.fresh:
                await self._save(interrupted(self.rotation_store.record))  # nothing was observed for a while
            await self.rotation_store.check()
            seen, loaded = see(), self.rotation_store.record
            await self._settle(config, seen)
            await self._note_setbacks(seen)
            before = self.rotation_store.record
            clusters = seen.clusters if before is loaded else see().clusters  # a write takes its time
            self.rotation_store.ahead = ahead_of(clusters, self.rotation_store.ahead)
            self.rotation_store.others = others_of(clusters, self.rotation_store.others)
            if self.rotation_store.met is not None:
                self.rotation_store.met = met_of(clusters, self.rotation_store.met)
            await self.rotation_store.issue_directives()
            await enact()
            world = await self._observe(config, see())
            self._observed_at = self.clock.monotonic()
            await self._carry_out(config, world)
            if self.rotation_store.record == before:
                await self._note_signing(world)
                await self._note_renewal(world)
            if (
                self.rotation_store.record == before
            ):  # else what was observed is not yet what follows from the record
                await self._advance(world)
                await self._drop(config, world)
            changed = self.rotation_store.record != before
            if changed:
                await self.rotation_store.issue_directives()
                await enact()
            self._determine_steps(config, world)
            report = report_of_rotation(
                self.rotation_store.record,
                world,
                self._commands,
                config,
                self.dropping,
                joining=self.joining or {},
                issuers=self._issuers,
            )
            self.report = msgspec.structs.replace(
                report,
                problem=self._observer.problem,
                unsettled=self._unsettled,
                names_gone=self._names_gone(),
            )
        except StateConflict as error:
            self._loaded = False
            _logger.info("another controller wrote first: %s", error)
            return False
        except (StateUnavailable, InvalidValue) as error:
            if self.report.problem != str(error):
                _logger.error("the rotation cannot proceed: %s", error.diagnostics())
            self.report = RotationReport(computed=self.clock.now().timestamp(), problem=str(error))
            return False
        return changed

    async def _settle(self, config: HubConfig, seen: Seen) -> None:
        """Note in the record what the configuration has changed about anchors that are published."""
        if self.rotation_store.arrivals is None or not seen.published:
            return
        own = self.rotation_store.arrivals.own
        found = {
            sha256: msgspec.structs.replace(
                root, clusters=sorted(name for name, shas in own.items() if sha256 in shas)
            )
            if root.clusters
            else root
            for sha256, root in seen.published.items()
        }
        before = self.rotation_store.record
        await self._save(settle(before, pins=config.trust.pins, staged=config.trust.staged, found=found))
        for sha256 in sorted(self.rotation_store.record.unpinned.keys() - before.unpinned.keys()):
            _logger.warning(
                "the anchor %s is not pinned any more and stays in the bundle until nothing needs it: "
                "`federation trust list` says until when and why",
                sha256,
            )
        for sha256 in sorted(before.unpinned.keys() - self.rotation_store.record.unpinned.keys()):
            if sha256 in config.trust.pins:
                _logger.info("the anchor %s is pinned again", sha256)

    def _names_gone(self) -> dict[str, float]:
        """Names that the listener had, and when each was taken away."""
        arrivals = self.rotation_store.arrivals
        return {name: at for name, at in arrivals.names.items() if at} if arrivals is not None else {}

    def _determine_steps(self, config: HubConfig, world: World) -> None:
        """Determine the step of each cluster that joins."""
        if self.rotation_store.arrivals is not None:
            sidecars = sidecars_of(self._signers, world.clusters)
            self.joining = positions(config, world, self.rotation_store.arrivals, sidecars, self.dropping)

    async def _observe(self, config: HubConfig, seen: Seen) -> World:
        now = self.clock.now()
        signers = await self._observer.signers(now.timestamp(), skew=config.controller.rotation.skew)
        roots = hub_roots(config, await self._observer.anchors(seen.current.number))
        self._signers = list(signers.values())
        self._note_delivered(seen.current.number)
        arrivals = await self.rotation_store.arrive(
            seen.clusters,
            now.timestamp(),
            joined=joined(seen.clusters),
            own=own_of(config, seen.clusters, unpinned=frozenset(self.rotation_store.record.unpinned)),
            trust_bundles=trust_bundles(seen.clusters),
            served=served(seen.clusters, roots),
            provided=provided(seen.clusters),
            longest={str(c.name): _earlier_life(c) for c in config.clusters},
            names=config.listener.server_names,
        )
        expiry_bounds = await self._observer.expiry_bounds(
            worst_of(config, now.timestamp(), gone=arrivals.gone)
        )
        numbers = {delivered.generation for delivered in expiry_bounds}
        numbers |= {seen.current.number, *seen.current.behind.values()}
        generations = await self._observer.generations(frozenset(numbers))
        clusters = with_unknown(
            config,
            with_life(seen.clusters, signers),
            arrivals,
            now.timestamp(),
            unpinned=frozenset(
                sha for sha, known in self.rotation_store.record.unpinned.items() if known.clusters
            ),
        )
        self._issuers = roots_above(signers, seen.roots, self.rotation_store.record)
        rate = self._rate.note(now.timestamp(), sum(report.issued for report in signers.values()))
        istiods = istiods_of(config, {n for n, facts in seen.clusters.items() if facts.control_planes})
        hosts = (*config.listener.server_names, *istiods)
        self._signing = signing_of(signers, seen.roots, now)
        self._offered = offered_by(signers, seen.roots, now)
        self._commands.proposed = _proposed(
            config, signers, seen.roots, now, self.rotation_store.record, hosts=hosts
        )
        world = world_of(
            now=now.timestamp(),
            config=config,
            clusters=clusters,
            expiry_bounds=expiry_bounds,
            generations=generations,
            in_force=seen.current.number,
            signers=signers,
            proved=seen.proved,
            listener=seen.listener,
            rate=rate,
            validated=self._commands.proposed.problem,
        )
        return replace(
            world,
            behind=seen.current.behind,
            pins=config.trust.pins,
            staged=config.trust.staged,
            unwritten=seen.unwritten,
            refused=refusals(seen.refused, signers),
            gone=arrivals.gone,
            capacity=replace(world.capacity, known_from=self._rate.known_from),
        )

    async def _carry_out(self, config: HubConfig, world: World) -> None:
        """Decide what operators requested, up to the first that changes the record: others need a new observation."""
        before = self.rotation_store.record
        applied = self.rotation_store.applied_ids
        for operation, version in await self._queue.pending(skew=world.skew, applied=applied):
            refused: FederationError | None = None
            if operation.id not in applied:  # else it was done, and that could not be reported
                try:
                    await self._apply(operation, world, config)
                except StateUnavailable:
                    raise
                except FederationError as error:
                    refused = error
            after = self.rotation_store.record
            await self._queue.decide(
                operation, version, refused, before=summary_of(before), after=summary_of(after)
            )
            if self.rotation_store.record != before:
                return

    async def _apply(self, operation: Operation, world: World, config: HubConfig) -> None:
        """Do it, and record that it was applied, in one write: whatever fails after that, it is not done twice."""
        if operation.verb == "takeover":
            cluster = taken_over(operation, world, quarantined=self.rotation_store.record.quarantined)
            await self.rotation_store.declare(cluster, world.now, applied_ids=operation.id)
            return
        if operation.verb == "dismiss":
            await self.dismiss(operation)
            return
        record = self._commands.apply(operation, self.rotation_store.record, world, config)
        await self._save(
            msgspec.structs.replace(record, applied_ids=and_applied(record.applied_ids, operation.id))
        )

    async def _save(self, record: RotationRecord) -> None:
        try:
            await self.rotation_store.save(record)
        except StateUnavailable:
            self._loaded = False  # it may have been written all the same
            raise

    def _note_delivered(self, in_force: int) -> None:
        """The highest generation that some signer uses, if it is above the one in force at two observations.

        At the first it may have been put in force meanwhile. A signer's number counts within bounds: a lying one could
        otherwise use up all numbers.
        """
        used = max((report.generation for report in self._signers), default=0)
        ahead = used if in_force < used <= in_force + MOST_AHEAD else 0
        self.delivered, self._ahead = min(ahead, self._ahead), ahead

    async def _note_setbacks(self, seen: Seen) -> None:
        """Record what was found to be set back; each once."""
        record = self.rotation_store.record
        for found in seen.setbacks:
            if found not in record.setbacks and (not record.setbacks or found.at > record.setbacks[-1].at):
                record = with_setback(record, found)
        await self._save(record)

    async def _note_signing(self, world: World) -> None:
        """Record what signers are seen to sign with at rest, as far as that needs no rotation."""
        issuers = {delivered.issuer for delivered in alive(world.expiry_bounds, world.now, skew=world.skew)}
        record, unsettled = note_signing(self.rotation_store.record, self._signing, issuers)
        if unsettled and unsettled != self._unsettled:
            _logger.warning("it is not recorded which authority is in force: %s", unsettled)
        self._unsettled = unsettled
        if record == self.rotation_store.record or not self.allowed():
            return
        await self._save(record)
        if record.signing is not None:
            _logger.warning(
                "the authority in force is %s",
                record.signing.subject or record.signing.intermediate,
                extra={"intermediate": record.signing.intermediate, "root": record.signing.root},
            )

    async def _note_renewal(self, world: World) -> None:
        """Record that the intermediate which is to sign was renewed, where no signer has the former one any more."""
        ready = {sha256 for facts in world.signers.values() for sha256 in facts.ready_with}
        record = note_renewal(self.rotation_store.record, self._offered, ready)
        if record == self.rotation_store.record or not self.allowed():
            return
        await self._save(record)
        _logger.warning(
            "the intermediate %s was renewed during the rotation, and its successor signs in its place",
            record.left[-1],
            extra={"intermediate": record.left[-1]},
        )

    async def _advance(self, world: World) -> None:
        record = advance(self.rotation_store.record, world)
        if record != self.rotation_store.record and self.allowed():
            await self._save(record)

    async def _drop(self, config: HubConfig, world: World) -> None:
        """Take member CAs out of the bundle that nothing depends on any more."""
        if self.rotation_store.arrivals is None or not self.allowed():
            return
        record = self.rotation_store.record
        pinned = member_cas(config, self.rotation_store.arrivals.own)
        own = drop_gates(pinned, record, world, roots=self._issuers)
        unpinned = drop_gates(
            unpinned_anchors(record, self.rotation_store.arrivals.own), record, world, roots=self._issuers
        )
        self.dropping = own | unpinned
        await self._save(drop_unpinned(drop(record, own), unpinned, at=world.now))
        for sha256, verdict in self.dropping.items():
            if verdict.open:
                and_now = (
                    "its pin is gone"
                    if sha256 in unpinned
                    else "its pin can be taken out of the configuration"
                )
                _logger.warning(
                    "the anchor %s leaves the bundle: nothing depends on it any more, and %s",
                    sha256,
                    and_now,
                    extra={"evidence": [c.detail for c in verdict.conditions]},
                )


def _earlier_life(cluster: ClusterConfig) -> float:
    """How long a leaf from before the hub may live in that cluster, in seconds."""
    longest = cluster.earlier_longest_ttl
    return cluster.policy.longest_ttl if longest is None else longest


def _proposed(
    config: HubConfig,
    signers: Mapping[str, SignerReport],
    roots: Sequence[Certificate],
    now: datetime,
    record: RotationRecord,
    *,
    hosts: Sequence[str],
) -> Proposed:
    """Both sides as the signers report them, and whether the new one may take over.

    The side to leave is the authority in force, where that is recorded, whatever is configured by now.
    While a rotation is under way, what is reported as new has to be what it leads to: nothing else was validated for
    it.
    """
    under_way, leaving = record.under_way, signing_side(record)
    reports = [signers[replica] for replica in sorted(signers)]
    old = next(
        (
            authority
            for report in reports
            for authority in (report.authority, report.successor)
            if authority is not None and authority.chain_pem
            if leaving is None or authority.sha256 == leaving.intermediate
        ),
        None,
    )
    new = _that_says_most([report.successor for report in reports])
    longest = max((c.policy.longest_ttl for c in config.clusters), default=0.0)
    problem = problem_of(
        path_of(old, roots),
        path_of(new, roots),
        signers=signers,
        trust_domain=config.trust_domain,
        hosts=hosts,
        ztunnel=config.has_ztunnel,
        longest_ttl=timedelta(seconds=longest),
        soak=timedelta(seconds=config.controller.rotation.soak),
        at=now,
    )
    side = side_of(new, roots, now)
    if under_way is not None and isinstance(side, Side) and side.intermediate != under_way.new.intermediate:
        problem = (
            f"the signers have another [signer.successor] than rotation {under_way.number} leads to, which is"
            f" {under_way.new.subject or under_way.new.intermediate[:16]}: configure that one again, or abort"
        )
    return Proposed(leaving or side_of(old, roots, now), side, problem)


def _that_says_most(reported: Sequence[AuthorityReport | None]) -> AuthorityReport | None:
    """The first with a chain, else the first: one that may not sign has none, and says why."""
    each = [authority for authority in reported if authority is not None]
    return next((authority for authority in each if authority.chain_pem), each[0] if each else None)


def side_of(report: AuthorityReport | None, roots: Sequence[Certificate], at: datetime) -> Side | str:
    """The authority of a signer's report as a side of a rotation; in words why it cannot be one."""
    if report is None:
        return "no signer reports it"
    if not report.chain_pem:
        words = "; ".join(filter(None, (report.detail, report.remedy)))
        return words or f"{report.name} does not say what its chain is yet"
    try:
        chain = parse_certificates(report.chain_pem.encode(), where=f"the chain of {report.name}")
        path = check_intermediate(chain, chain[0].public_key, roots, at)
    except (InvalidValue, AuthorityMisconfigured) as error:
        return str(error)
    return Side(
        intermediate=path[0].sha256,
        root=path[-1].sha256,
        subject=path[0].subject,
        root_subject=path[-1].subject,
    )


def signing_of(
    signers: Mapping[str, SignerReport], roots: Sequence[Certificate], at: datetime
) -> dict[str, Side]:
    """What each signer signs with now, by its report; one that signs with nothing that is known is left out."""
    found: dict[str, Side] = {}
    for replica, report in signers.items():
        for authority in (report.authority, report.successor):
            if authority is None or not report.signs or authority.sha256 != report.signs:
                continue
            side = side_of(authority, roots, at)
            if isinstance(side, Side):
                found[replica] = side
                break
    return found


def offered_by(
    signers: Mapping[str, SignerReport], roots: Sequence[Certificate], at: datetime
) -> dict[str, list[Side]]:
    """What each signer could sign with, whether it may or not; what is not ready or not below a root is left out."""
    found: dict[str, list[Side]] = {}
    for replica, report in signers.items():
        ready = (a for a in (report.authority, report.successor) if a is not None and a.state == "ready")
        sides = (side_of(authority, roots, at) for authority in ready)
        found[replica] = [side for side in sides if isinstance(side, Side)]
    return found


def problem_of(
    old: Sequence[Certificate],
    new: Sequence[Certificate],
    *,
    signers: Mapping[str, SignerReport],
    trust_domain: TrustDomain,
    hosts: Sequence[str],
    ztunnel: bool,
    longest_ttl: timedelta,
    soak: timedelta,
    at: datetime,
) -> str | None:
    """Why the authority whose chain is ``new`` (intermediate first, root last) must not be used; None where it may.

    ``old`` is the chain in use and ``hosts`` are the servers that it is to sign for; ``ztunnel``: it is verified by
    ztunnels as well. Judged are what verifiers of a mesh ask of an issuer and that its name constraints permit all
    names, that it lives long enough to be worth it, that nothing of it can be mistaken for the old one (equal names
    make verifiers try the wrong key), and that every signer has had it sign.
    """
    if not new:
        return "its chain is not known"
    try:
        check_intermediate(
            tuple(new[:-1]),
            new[0].public_key,
            new[-1:],
            at,
            trust_domain=trust_domain,
            hosts=hosts,
            ztunnel=ztunnel,
        )
    except (InvalidValue, AuthorityMisconfigured) as error:
        return str(error)
    ends = min(certificate.not_after for certificate in new)
    needed = 2 * longest_ttl + soak
    if at + needed > ends:
        return f"it ends at {ends:%Y-%m-%d %H:%M} UTC: soaking and draining alone take up to {needed}"
    for theirs in old:
        for own in new:
            clash = _clash(theirs, own)
            if clash is not None:
                return clash
    unsigned = (_unsigned(new[0], replica, signer) for replica, signer in sorted(signers.items()))
    return next((why for why in unsigned if why is not None), None)


def _clash(old: Certificate, new: Certificate) -> str | None:
    """By what verifiers could mistake the new certificate for the old one; None where by nothing."""
    if old == new:
        return None  # the same root above two intermediates
    if old.public_key == new.public_key:
        return f"{new.subject} has the key of {old.subject}: a rotation needs a new key"
    if old.x509.subject == new.x509.subject:
        return f"{new.subject} bears the name of the certificate it is to replace: give it a name of its own"
    if old.key_id == new.key_id:
        return f"{new.subject} has the key identifier of {old.subject}: give it one of its own"
    return None


def _unsigned(intermediate: Certificate, replica: str, signer: SignerReport) -> str | None:
    """Why that signer has not signed with the intermediate; None where it has."""
    successor = signer.successor
    if successor is None:
        return f"{replica} has no [signer.successor]: give every signer the same configuration"
    if successor.sha256 != intermediate.sha256:
        return f"{replica} has another one: {successor.subject or successor.detail or 'none'}"
    if successor.state != "ready":
        return f"{replica} has not signed with it: {successor.detail or successor.state}"
    return None
