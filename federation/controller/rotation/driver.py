"""One step of the rotation at a time: effects first, then what is observed, then at most one transition.

That order is what makes the gates sound. Orders and generations that follow from the record are in the store
before the signers' horizons are read; a signer that extends its horizon reads the orders after it has. So one
of the two always sees the other, and no leaf escapes a gate.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

import msgspec

from federation.controller.rotation.books import Books, and_heard, with_setback
from federation.controller.rotation.candidate import offered_by, problem_of, side_of, signing_of
from federation.controller.rotation.commands import Commands, Proposed, taken_over
from federation.controller.rotation.joining import hub_roots, positions, provided, served, sidecars_of
from federation.controller.rotation.observed import (
    Proved,
    ahead_of,
    joined,
    met_of,
    others_of,
    own_anchors,
    own_of,
    path_of,
    refusals,
    roots_above,
    trust_bundles,
    with_life,
    with_unknown,
    world_of,
)
from federation.controller.rotation.observer import Observer, worst_of
from federation.controller.rotation.operations import OperationQueue
from federation.controller.rotation.rate import IssuingRate
from federation.controller.rotation.seal import Seal
from federation.controller.rotation.telling import told
from federation.core.clock import Clock
from federation.core.config.model import ClusterConfig, HubConfig
from federation.core.errors import FederationError, InvalidValue, StateUnavailable
from federation.core.istiod import istiods_of
from federation.core.pki.certificate import Certificate
from federation.core.trust.horizons import alive
from federation.core.trust.joining import Position
from federation.core.trust.rotation.gates import Verdict
from federation.core.trust.rotation.machine import advance, interrupted
from federation.core.trust.rotation.own_anchors import drop, drop_gates
from federation.core.trust.rotation.record import RotationBook, Setback, Side, Unpinned
from federation.core.trust.rotation.signing import note_renewal, note_signing, signing_side
from federation.core.trust.rotation.steps import OperationRefused
from federation.core.trust.rotation.unpinned import drop_unpinned, settle, unpinned_anchors
from federation.core.trust.rotation.world import ClusterFacts, World
from federation.state.documents import (
    AuthorityReport,
    Current,
    DoorReport,
    Operation,
    Proposal,
    RotationReport,
    SignerReport,
)
from federation.state.store import StateConflict, StateStore

MOST_AHEAD: Final = 1000  # generations that a signer may have seen before the state was set back

_log = logging.getLogger(__name__)


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
    unwritten: str = ""
    published: Mapping[str, Unpinned] = field(default_factory=dict)
    refused: Sequence[str] = ()
    door: DoorReport = field(default_factory=DoorReport)
    setbacks: Sequence[Setback] = ()


async def _nothing_to_dismiss(_: Operation) -> None:
    raise OperationRefused("no proposal is known here", remedy="see `federation trust list`")


@dataclass(slots=True)
class RotationDriver:
    """Only the leader may run it. ``enact`` makes generations follow from a record that has just changed.

    ``dismiss`` carries out the one operation that is no rotation's: an anchor that was found is listed no longer.
    """

    store: StateStore
    clock: Clock
    allowed: Callable[[], bool]
    seal: Seal
    dismiss: Callable[[Operation], Awaitable[None]] = _nothing_to_dismiss
    books: Books = field(init=False)
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
    _looked: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self.books = Books(self.store, now=lambda: self.clock.now().timestamp())
        self._observer = Observer(self.store)
        self._queue = OperationQueue(self.store, clock=self.clock, seal=self.seal)

    @property
    def book(self) -> RotationBook:
        """The record as it is persisted."""
        return self.books.book

    def named_by_authorities(self) -> list[Proposal]:
        """Roots that the signers' back ends name and nobody has pinned, as last observed."""
        authorities = [a for report in self._signers for a in (report.authority, report.successor)]
        return [proposal for a in authorities if a is not None for proposal in a.proposals]

    @property
    def signers(self) -> Sequence[SignerReport]:
        """The reports of those that were heard of, as last observed."""
        return self._signers

    async def load(self) -> None:
        """Read the record; what held without a break may have had one while nobody led."""
        if self._loaded:
            return
        await self.books.load()
        await self.books.meet()
        if self.allowed():
            await self._save(interrupted(self.books.book))
        self._loaded = True

    async def hold_back(self, clusters: Collection[str]) -> None:
        """Have signers wait for clusters that no controller has looked into: they may be another hub's.

        Before anything is published for them: a signer without a generation signs nothing. Those that a record of an
        earlier release knows do not wait. Raises StateUnavailable.
        """
        await self.load()
        books, arrivals = self.books, self.books.arrivals
        if not self.allowed() or books.met is not None or arrivals is None:
            return
        books.met = sorted(arrivals.since.keys() & set(clusters))
        try:
            await books.give_orders()
        except StateUnavailable:
            self._loaded, books.met = False, None
            raise

    async def step(
        self, config: HubConfig, see: Callable[[], Seen], enact: Callable[[], Awaitable[None]]
    ) -> bool:
        """Write effects, observe, hear operators, advance; True where the record has changed.

        What goes wrong is told in :attr:`report` and changes nothing.
        """
        try:
            await self.load()
            if not self.allowed():
                return False
            if self.clock.monotonic() - self._looked > config.controller.rotation.fresh:
                await self._save(interrupted(self.books.book))  # nobody has watched for a while
            await self.books.check()
            await self._settle(config, see())
            await self._note_setbacks(see())
            before = self.books.book
            clusters = see().clusters
            self.books.ahead = ahead_of(clusters, self.books.ahead)
            self.books.others = others_of(clusters, self.books.others)
            if self.books.met is not None:
                self.books.met = met_of(clusters, self.books.met)
            await self.books.give_orders()
            await enact()
            world = await self._observe(config, see())
            self._looked = self.clock.monotonic()
            await self._hear(config, world)
            if self.books.book == before:
                await self._note_signing(world)
                await self._note_renewal(world)
            if self.books.book == before:  # else what was observed is not yet what follows from the record
                await self._advance(world)
                await self._drop(config, world)
            changed = self.books.book != before
            if changed:
                await self.books.give_orders()
                await enact()
            self._place(config, world)
            report = told(
                self.books.book,
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
            _log.info("another controller wrote first: %s", error)
            return False
        except (StateUnavailable, InvalidValue) as error:
            if self.report.problem != str(error):
                _log.error("the rotation cannot be worked on: %s", error.diagnostics())
            self.report = RotationReport(computed=self.clock.now().timestamp(), problem=str(error))
            return False
        return changed

    async def _settle(self, config: HubConfig, seen: Seen) -> None:
        """Note in the record what the configuration has changed about anchors that are published."""
        if self.books.arrivals is None or not seen.published:
            return
        own = self.books.arrivals.own
        found = {
            sha256: msgspec.structs.replace(
                root, clusters=sorted(name for name, shas in own.items() if sha256 in shas)
            )
            if root.clusters
            else root
            for sha256, root in seen.published.items()
        }
        before = self.books.book
        await self._save(settle(before, pins=config.trust.pins, staged=config.trust.staged, found=found))
        for sha256 in sorted(self.books.book.unpinned.keys() - before.unpinned.keys()):
            _log.warning(
                "the anchor %s is not pinned any more and stays in the bundle until nothing needs it: "
                "`federation trust list` says until when and why",
                sha256,
            )
        for sha256 in sorted(before.unpinned.keys() - self.books.book.unpinned.keys()):
            if sha256 in config.trust.pins:
                _log.info("the anchor %s is pinned again", sha256)

    def _names_gone(self) -> dict[str, float]:
        """Names that the door had, and when each was taken away."""
        arrivals = self.books.arrivals
        return {name: at for name, at in arrivals.names.items() if at} if arrivals is not None else {}

    def _place(self, config: HubConfig, world: World) -> None:
        """Determine the step of each cluster that joins."""
        if self.books.arrivals is not None:
            sidecars = sidecars_of(self._signers, world.clusters)
            self.joining = positions(config, world, self.books.arrivals, sidecars, self.dropping)

    async def _observe(self, config: HubConfig, seen: Seen) -> World:
        now = self.clock.now()
        signers = await self._observer.signers(now.timestamp(), skew=config.controller.rotation.skew)
        roots = hub_roots(config, await self._observer.anchors(seen.current.number))
        self._signers = list(signers.values())
        self._note_delivered(seen.current.number)
        arrivals = await self.books.arrive(
            seen.clusters,
            now.timestamp(),
            joined=joined(seen.clusters),
            own=own_of(config, seen.clusters, kept=frozenset(self.books.book.unpinned)),
            trust_bundles=trust_bundles(seen.clusters),
            served=served(seen.clusters, roots),
            provided=provided(seen.clusters),
            longest={str(c.name): _earlier_life(c) for c in config.clusters},
            names=config.door.server_names,
        )
        horizons = await self._observer.horizons(worst_of(config, now.timestamp(), gone=arrivals.gone))
        numbers = {delivered.generation for delivered in horizons}
        numbers |= {seen.current.number, *seen.current.behind.values()}
        generations = await self._observer.generations(frozenset(numbers))
        clusters = with_unknown(
            config,
            with_life(seen.clusters, signers),
            arrivals,
            now.timestamp(),
            kept=frozenset(sha for sha, known in self.books.book.unpinned.items() if known.clusters),
        )
        self._issuers = roots_above(signers, seen.roots, self.books.book)
        rate = self._rate.note(now.timestamp(), sum(report.issued for report in signers.values()))
        istiods = istiods_of(config, {n for n, facts in seen.clusters.items() if facts.control_planes})
        hosts = (*config.door.server_names, *istiods)
        self._signing = signing_of(signers, seen.roots, now)
        self._offered = offered_by(signers, seen.roots, now)
        self._commands.aim(_proposed(config, signers, seen.roots, now, self.books.book, hosts=hosts))
        world = world_of(
            now=now.timestamp(),
            config=config,
            clusters=clusters,
            horizons=horizons,
            generations=generations,
            in_force=seen.current.number,
            signers=signers,
            proved=seen.proved,
            door=seen.door,
            rate=rate,
            validated=self._commands.problem,
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

    async def _hear(self, config: HubConfig, world: World) -> None:
        """Decide what operators ask for, up to the first that changes the record: the next needs a new look."""
        before = self.books.book
        applied = self.books.heard
        for operation, version in await self._queue.pending(skew=world.skew, applied=applied):
            refused: FederationError | None = None
            if operation.id not in applied:  # else it was done, and nobody could be told
                try:
                    await self._apply(operation, world, config)
                except StateUnavailable:
                    raise
                except FederationError as error:
                    refused = error
            await self._queue.decide(operation, version, refused)
            if self.books.book != before:
                return

    async def _apply(self, operation: Operation, world: World, config: HubConfig) -> None:
        """What it asks for, and that it was heard, in one write: whatever fails after that, it is not done twice."""
        if operation.verb == "takeover":
            cluster = taken_over(operation, world, quarantined=self.books.book.quarantined)
            await self.books.declare(cluster, world.now, heard=operation.id)
            return
        if operation.verb == "dismiss":
            await self.dismiss(operation)
            return
        book = self._commands.apply(operation, self.books.book, world, config)
        await self._save(msgspec.structs.replace(book, heard=and_heard(book.heard, operation.id)))

    async def _save(self, book: RotationBook) -> None:
        try:
            await self.books.save(book)
        except StateUnavailable:
            self._loaded = False  # it may have been written all the same
            raise

    def _note_delivered(self, in_force: int) -> None:
        """The highest generation that some signer uses, if it is above the one in force at two looks.

        At one look it may have been put in force meanwhile. A signer is believed within bounds: one that lies could
        otherwise use up all numbers.
        """
        used = max((report.generation for report in self._signers), default=0)
        ahead = used if in_force < used <= in_force + MOST_AHEAD else 0
        self.delivered, self._ahead = min(ahead, self._ahead), ahead

    async def _note_setbacks(self, seen: Seen) -> None:
        """Record what was found to be set back; each once."""
        book = self.books.book
        for found in seen.setbacks:
            if found not in book.setbacks and (not book.setbacks or found.at > book.setbacks[-1].at):
                book = with_setback(book, found)
        await self._save(book)

    async def _note_signing(self, world: World) -> None:
        """Record what signers are seen to sign with at rest, as far as that needs no rotation."""
        issuers = {delivered.issuer for delivered in alive(world.horizons, world.now, skew=world.skew)}
        book, unsettled = note_signing(self.books.book, self._signing, issuers)
        if unsettled and unsettled != self._unsettled:
            _log.warning("it is not recorded which authority is in force: %s", unsettled)
        self._unsettled = unsettled
        if book == self.books.book or not self.allowed():
            return
        await self._save(book)
        if book.signing is not None:
            _log.warning(
                "the authority in force is %s",
                book.signing.subject or book.signing.intermediate,
                extra={"intermediate": book.signing.intermediate, "root": book.signing.root},
            )

    async def _note_renewal(self, world: World) -> None:
        """Record that the intermediate which is ordered was renewed, where no signer has the former one any more."""
        ready = {sha256 for facts in world.signers.values() for sha256 in facts.ready_with}
        book = note_renewal(self.books.book, self._offered, ready)
        if book == self.books.book or not self.allowed():
            return
        await self._save(book)
        _log.warning(
            "the intermediate %s was renewed during the rotation, and its successor signs in its place",
            book.left[-1],
            extra={"intermediate": book.left[-1]},
        )

    async def _advance(self, world: World) -> None:
        book = advance(self.books.book, world)
        if book != self.books.book and self.allowed():
            await self._save(book)

    async def _drop(self, config: HubConfig, world: World) -> None:
        """Take own anchors out of the bundle that nothing depends on any more."""
        if self.books.arrivals is None or not self.allowed():
            return
        book = self.books.book
        pinned = own_anchors(config, self.books.arrivals.own)
        own = drop_gates(pinned, book, world, roots=self._issuers)
        unpinned = drop_gates(
            unpinned_anchors(book, self.books.arrivals.own), book, world, roots=self._issuers
        )
        self.dropping = own | unpinned
        await self._save(drop_unpinned(drop(book, own), unpinned, at=world.now))
        for sha256, verdict in self.dropping.items():
            if verdict.open:
                and_now = (
                    "its pin is gone"
                    if sha256 in unpinned
                    else "its pin can be taken out of the configuration"
                )
                _log.warning(
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
    book: RotationBook,
    *,
    hosts: Sequence[str],
) -> Proposed:
    """Both sides as the signers report them, and whether the new one may take over.

    What is left is the authority in force, where that is recorded, whatever is configured by now.
    While a rotation is under way what is reported has to be what it is to: nothing else was judged for it.
    """
    under_way, leaving = book.under_way, signing_side(book)
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
            f"the signers hold another [signer.successor] than rotation {under_way.number} is to, which is"
            f" {under_way.new.subject or under_way.new.intermediate[:16]}: configure that one again, or abort"
        )
    return Proposed(leaving or side_of(old, roots, now), side, problem)


def _that_says_most(reported: Sequence[AuthorityReport | None]) -> AuthorityReport | None:
    """The first with a chain, else the first: one that may not sign has none, and says why."""
    each = [authority for authority in reported if authority is not None]
    return next((authority for authority in each if authority.chain_pem), each[0] if each else None)
