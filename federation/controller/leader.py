"""What the one controller that leads does: generations, publication, read-back, proof."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Final

from federation.clusters.discovery import RegisteredCluster, fingerprints
from federation.clusters.health import ClusterHealth
from federation.clusters.members import Members
from federation.controller.discovery import ClusterDiscovery
from federation.controller.generations import Ledger, require_mesh
from federation.controller.in_force import TrustState
from federation.controller.member import Member, OpensMember
from federation.controller.member_readings import MemberDependencies
from federation.controller.proof.listener_check import Aim, ListenerCheck, SignerListener, listener_address
from federation.controller.proof.matrix import Absent, ContentReader, KnownMatrix, Participant, prove
from federation.controller.publication.observed import ReadContent
from federation.controller.publication.turns import Turns
from federation.controller.reporting import MANY_CLUSTERS, rotation_without_times
from federation.controller.rotation.cleanup import Leftovers
from federation.controller.rotation.driver import RotationDriver, Seen
from federation.controller.rotation.observer import Proved, awaited
from federation.controller.rotation.operations import OperationMac
from federation.controller.sources.bundle import TrustSources
from federation.controller.sources.found_anchors import Proposals, StoredProposals
from federation.core.clock import Clock
from federation.core.config.clusters import ClusterConfig
from federation.core.config.hub import HubConfig
from federation.core.config.types import Address
from federation.core.documents.controller import (
    ControllerClusterReport,
    ControllerReport,
    ListenerReport,
    Matrix,
    Operation,
    RotationReport,
)
from federation.core.documents.encoding import decode
from federation.core.documents.keys import CONTROLLERS, StateDamaged
from federation.core.documents.trust import Dismissal, Proposal
from federation.core.errors import FederationError, StateUnavailable
from federation.core.identity import ClusterName, HubIdentity
from federation.core.rotation.effects import SigningDirectives, signing_directives
from federation.core.rotation.record import RotationRecord
from federation.core.rotation.world import ClusterFacts
from federation.kubernetes.budget import Budgets
from federation.runtime.config_source import ConfigSource
from federation.state.hub_identity import own_identity
from federation.state.store import Leadership, StateStore, Stored, read_many

_logger = logging.getLogger(__name__)

SOURCES_EVERY: Final = 2.0
LEADERSHIP_EVERY: Final = 0.5  # seconds between checks whether this process still leads
PROOF_TICK: Final = 0.1
LOOK_BACK: Final = 600.0  # seconds: while a fight over an object is remembered
PROPOSALS_EVERY: Final = 0.5  # seconds between checks whether something was found
ROTATION_EVERY: Final = 1.0  # seconds between two evaluations of the gates, where they cost little
ROTATION_AT_THE_LATEST: Final = 2.5  # seconds, where they cost more
ROTATION_OF_MANY: Final = 4.0  # the same with more than MANY_CLUSTERS
ROTATION_SHARE: Final = 0.02
"""Of the time that they may take: to look at 200 clusters takes some hundredths of a second."""

FIRST_POLL: Final = 0.2  # seconds between checks whether there is a new cluster
UNREAD_POLL: Final = 0.05  # seconds between checks whether a new cluster was read
PROOF_SPACING: Final = 1.0
"""Seconds at least between proofs that a change caused; a fan-out changes something all the time."""


class LeadershipLostError(FederationError):
    """Another controller may lead now: whatever this one was doing as leader has to end."""

    default_reason = "leadership_lost"


class Leader:
    """The leader's state and tasks, from taking leadership to losing it."""

    def __init__(
        self,
        *,
        config: ConfigSource,
        store: StateStore,
        leadership: Leadership,
        clock: Clock,
        replica: str,
        jitter: random.Random,
        signer_address: Address | None,
        changed: Callable[[], None],
        mac: OperationMac,
        former: ControllerReport | None = None,
        random_bytes: Callable[[int], bytes] = os.urandom,
        open_member: OpensMember = Member.open,
    ) -> None:
        self._open_member = open_member
        self._random_bytes = random_bytes
        self._former = former
        self._last_reports: dict[str, ControllerClusterReport] = {}
        self.hub = HubIdentity()
        self._config = config
        self._store = store
        self._leadership = leadership
        self._clock = clock
        self._jitter = jitter
        self._signer_address = signer_address
        self._changed = changed
        self._listener = SignerListener(clock)
        self._arrival = ListenerCheck(clock)
        self._shown: frozenset[str] = frozenset()
        self._proposals = Proposals()
        self._kept = StoredProposals(store, self._proposals)
        self._reader = ContentReader()
        self._budgets = Budgets(clock)
        self._turns = Turns(config.current.controller.publication.max_concurrent)
        self._seen_first: set[ClusterName] = set()
        self.loaded = False
        """Whether what earlier leaders left was read: a report before that would lack what they found."""
        self._proof_due = True
        self._applied: HubConfig | None = None
        self.trust = TrustState()
        self._proved = Proved(Matrix(), {})
        self._proved_with: dict[str, frozenset[str]] = {}  # the contents of each cluster, by SHA-256
        self._known_matrix = KnownMatrix()
        self._updating = asyncio.Lock()
        self._given: tuple[RotationRecord, SigningDirectives] | None = None
        self.rotation = RotationDriver(store, clock, lambda: leadership.leading, mac, dismiss=self._dismiss)
        self._leftovers = Leftovers(store, clock, lambda: leadership.leading)
        self.sources = TrustSources(
            ledger=Ledger(store),
            store=store,
            trust=self.trust,
            author=f"controller {replica}",
            clock=clock,
            allowed=lambda: leadership.leading,
        )
        self._members = Members(
            self._open, credentials=lambda cluster: cluster.controller, clock=clock, jitter=jitter
        )

        self._discovery = ClusterDiscovery(
            config=config,
            store=store,
            clock=clock,
            jitter=jitter,
            allowed=lambda: leadership.leading,
            registered=self._registered,
            changed=changed,
        )

    async def run(self) -> None:
        """Lead until cancelled. Raises LeadershipLostError (in a group) the moment that this process does not lead."""
        await self._require_own_state()
        await self._kept.load()
        await self._look_back()
        self.hub = await own_identity(self._store, clock=self._clock, random_bytes=self._random_bytes)
        self.loaded = True
        try:
            async with asyncio.TaskGroup() as tasks, self._members:
                tasks.create_task(self._watch_leadership())
                await self._update()
                tasks.create_task(self._keep_sources())
                tasks.create_task(self._keep_proof())
                tasks.create_task(self._keep_rotation())
                tasks.create_task(self._keep_proposals())
                tasks.create_task(self._discovery.run())
                await asyncio.get_running_loop().create_future()
        finally:
            await self._listener.close()

    @property
    def leads(self) -> bool:
        """Whether no other process can lead at this moment."""
        return self._leadership.leading

    def _registered(self) -> list[RegisteredCluster]:
        """The clusters of the configuration, as they are reached now."""
        found = []
        for cluster in self._config.current.clusters:
            member = self._members.current.get(cluster.name)
            server, ca = member.api_server if member is not None else ("", None)
            found.append(
                RegisteredCluster(str(cluster.name), str(cluster.cluster_id), server, fingerprints(ca))
            )
        return found

    async def _require_own_state(self) -> None:
        """Raise StateUnavailable where the state is of another mesh: no part of it may be changed or published."""
        try:
            in_force = await Ledger(self._store).read()
        except StateUnavailable:
            return  # what prevents reading it is reported where generations are written
        require_mesh(in_force, self._config.current.trust_domain)

    def _open(self, cluster: ClusterConfig) -> AbstractAsyncContextManager[Member]:
        config = self._config.current
        around = MemberDependencies(
            publication=config.controller.publication,
            trust_domain=config.trust_domain,
            trust=self.trust,
            directives=self._directives,
            listener=self._listener,
            allowed=lambda: self._leadership.leading,
            leaf_ttl=lambda: self._config.current.controller.proof.leaf_ttl,
            found=self._found,
            former=self._last_reports.get,
            hub=replace(self.hub, adopts=config.controller.adopt_hubs),
            settled=self._settle,
            changed=self._prove_soon,
            clock=self._clock,
            jitter=self._jitter,
            reader=self._reader,
            budgets=self._budgets,
            turns=self._turns,
            remembered=self.rotation.rotation_store.remembered,
            awaited=lambda name: awaited(self.rotation.joining, name),
        )
        return self._open_member(cluster, around)

    def _directives(self) -> SigningDirectives:
        """What follows from the record, put together once for each: all members look at it every second."""
        record = self.rotation.record
        if self._given is None or self._given[0] is not record:
            self._given = record, signing_directives(record)
        return self._given[1]

    async def _watch_leadership(self) -> None:
        while self._leadership.leading:
            await self._clock.sleep(LEADERSHIP_EVERY)
        raise LeadershipLostError("this process does not lead any more")

    async def _keep_sources(self) -> None:
        """Follow the sources and the configuration; a change of the latter is taken up at once."""
        while True:
            due = self._clock.monotonic() + SOURCES_EVERY
            while self._clock.monotonic() < due and self._config.current is self._applied:
                await self._clock.sleep(0.1)
            await self._update()

    async def _keep_rotation(self) -> None:
        """Check whether the rotation may go on, and carry out operations."""
        known: RotationReport | None = None
        while True:
            began = self._clock.monotonic()
            stepped = await self.rotation.step(self._config.current, self._see, self._update)
            took = self._clock.monotonic() - began
            self.trust.delivered = self.rotation.delivered
            if stepped:
                self._prove_soon()
            shown = frozenset(signer.serving_pem for signer in self.rotation.signers)
            if shown != self._shown:
                self._shown = shown
                self._prove_soon()
            found = rotation_without_times(self.rotation.report)
            if stepped or found != known:
                self._changed()
            known = found
            await self._leftovers.remove(self._config.current)
            await self._until_next_look(took)

    async def _until_next_look(self, took: float) -> None:
        """A moment, less where a cluster was read for the first time: until that is recorded it gets nothing.

        ``took`` is how many seconds the last look did.
        """
        many = len(self._config.current.clusters) > MANY_CLUSTERS
        latest = ROTATION_OF_MANY if many else ROTATION_AT_THE_LATEST
        pause = min(max(ROTATION_EVERY, took / ROTATION_SHARE), latest)
        due = self._clock.monotonic() + pause
        while True:
            met = frozenset(self.rotation.rotation_store.met or ())
            unread = [
                (name, member) for name, member in self._members.current.items() if str(name) not in met
            ]
            await self._clock.sleep(UNREAD_POLL if unread else FIRST_POLL)
            if self._clock.monotonic() >= due:
                self._seen_first.clear()  # what could not be recorded is tried again
                return
            first = {name for name, member in unread if member.readings.is_read} - self._seen_first
            if first:
                self._seen_first |= first
                return

    def _see(self) -> Seen:
        """The clusters as the gates of a rotation see them now."""
        clusters: dict[str, ClusterFacts] = {}
        for cluster in self._config.current.clusters:
            member = self._members.current.get(cluster.name)
            problem = self._members.problems.get(cluster.name)
            why = problem.diagnostics() if problem else "its connection is being set up"
            clusters[str(cluster.name)] = (
                member.readings.facts() if member is not None else ClusterFacts(anchors=None, detail=why)
            )
        return Seen(
            clusters=clusters,
            proved=replace(self._proved, matrix=self.matrix),
            roots=self.sources.roots,
            current=self.trust.current,
            unwritten=self.sources.unwritten,
            published=self.trust.roots(self._clock.now().timestamp()),
            refused=self._config.problems,
            listener=self._arrival.report,
            setbacks=self.sources.setbacks,
        )

    async def _update(self) -> None:
        async with self._updating:
            await self._update_now()

    async def _update_now(self) -> None:
        config = self._config.current
        changed = await self.sources.update(config, await self._record())
        generation = self.trust.generation
        if generation is not None:
            aim = self._aim(config, generation.number)
            await self._listener.aim(
                str(aim.address),
                server_name=aim.server_name,
                trust_pem=generation.bundle_pem.encode("ascii"),
                shown=self._shown,
            )
        if changed:
            for member in self._members.current.values():
                member.aim()
        if config is not self._applied:
            before, self._applied = self._applied, config
            if before is not None and _shared(before) != _shared(config):
                self._turns.allow(config.controller.publication.max_concurrent)
                await self._members.apply(())  # what all members depend on has changed
            await self._members.apply(config.clusters)
            changed = True
        if changed:
            self._prove_soon()
            self._changed()

    def _aim(self, config: HubConfig, generation: int) -> Aim:
        """The listener as agents verify it, by the bundle in force."""
        return Aim(
            listener_address(config, self._signer_address),
            config.controller.proof.signer_server_name or config.listener.server_names[0],
            tuple(self.trust.anchors),
            generation,
        )

    async def _record(self) -> RotationRecord | None:
        """The record of the rotation; None, and said in the report, where it cannot be read."""
        try:
            await self.rotation.withhold(_names(self._config.current))
        except StateUnavailable as error:
            self.rotation.report = RotationReport(problem=str(error))
            return None
        return self.rotation.record

    def _prove_soon(self) -> None:
        self._proof_due = True

    async def _keep_proof(self) -> None:
        while True:
            began = self._clock.monotonic()
            self._proof_due = False
            await self._prove()
            spacing = max(PROOF_SPACING, 3 * (self._clock.monotonic() - began))
            await self._prove_listener()  # which mostly waits: for signers that are not there yet at a start
            self._changed()
            interval = max(self._config.current.controller.proof.interval, PROOF_TICK)
            while not self._is_proof_due(self._clock.monotonic() - began, spacing, interval):
                await self._clock.sleep(PROOF_TICK)

    def _is_proof_due(self, elapsed: float, spacing: float, interval: float) -> bool:
        return elapsed >= interval or (self._proof_due and elapsed >= min(spacing, interval))

    async def _prove_listener(self) -> None:
        """Meet every signer by new connections; before a generation is in force there is nothing to verify by."""
        config, generation = self._config.current, self.trust.generation
        if generation is not None:
            await self._arrival.prove(
                self._aim(config, generation.number),
                self.rotation.signers,
                interval=config.controller.proof.interval,
            )

    @property
    def listener(self) -> ListenerReport:
        """What new connections to the signers' listener met."""
        return self._arrival.report

    async def _prove(self) -> None:
        parties: list[Participant | Absent] = []
        at = self._clock.now()  # before anything is read: it is proved as of then, or later
        for cluster in self._config.current.clusters:
            member = self._members.current.get(cluster.name)
            if member is not None:
                parties.append(member.readings.party())
            else:
                problem = self._members.problems.get(cluster.name)
                words = problem.diagnostics() if problem else "its connection is being set up"
                parties.append(Absent(str(cluster.name), f"not read back: {words}"))
            await asyncio.sleep(0)
        issuers = {
            party.cluster: party.chain[1].sha256 if len(party.chain) > 1 else ""
            for party in parties
            if isinstance(party, Participant)
        }
        matrix = await prove(parties, generation=self.trust.generation, anchors=self.trust.anchors, at=at)
        present = [party for party in parties if isinstance(party, Participant)]
        self._proved = Proved(matrix, issuers, {party.cluster: party.generation for party in present})
        self._proved_with = {
            party.cluster: frozenset(content.sha256 for content in party.contents) for party in present
        }

    @property
    def matrix(self) -> Matrix:
        """What was proved last, as far as each cluster still holds what it was proved with."""
        stale_reasons: dict[str, str] = {}
        members = {str(name): member for name, member in self._members.current.items()}
        for cluster, contents in self._proved_with.items():
            member = members.get(cluster)
            why = (
                member.readings.unproved(contents)
                if member is not None
                else "not read back: it is set up anew"
            )
            if why is not None:
                stale_reasons[cluster] = why
        return self._known_matrix.of(self._proved.matrix, stale_reasons)

    @property
    def proves_in_force(self) -> bool:
        """Whether the last proof was made since the generation in force is."""
        generation = self.trust.generation
        return generation is not None and self._proved.matrix.computed >= generation.created

    def clusters(self) -> dict[str, ControllerClusterReport]:
        """How every registered cluster fares."""
        reports: dict[str, ControllerClusterReport] = {}
        for cluster in self._config.current.clusters:
            member, problem = (
                self._members.current.get(cluster.name),
                self._members.problems.get(cluster.name),
            )
            if member is not None:
                reports[str(cluster.name)] = self._last_reports[str(cluster.name)] = member.readings.report()
            else:
                health = (
                    ClusterHealth.of_error(problem)
                    if problem
                    else ClusterHealth("unavailable", "starting", "its connection is being set up")
                )
                reports[str(cluster.name)] = ControllerClusterReport(
                    state="unavailable", reason=health.reason, detail=health.detail, remedy=health.remedy
                )
        return reports

    async def _look_back(self) -> None:
        """How clusters fared when they were reported last: a restart answers nothing of what was wrong."""
        now = self._clock.now().timestamp()
        reports = [self._former] if self._former is not None else []
        for key, stored in (await read_many(self._store, await self._store.keys(CONTROLLERS))).items():
            if isinstance(stored, Stored):
                with contextlib.suppress(StateDamaged):
                    reports.append(decode(stored.data, ControllerReport, key=key))
        led = [report for report in reports if report.leader and now - report.updated < LOOK_BACK]
        if led:
            self._last_reports = dict(max(led, key=lambda report: report.updated).clusters)

    def not_ready(self) -> list[str]:
        """Why nothing can be published; empty where it can. What is merely degraded is in the sources."""
        reasons = []
        if self.sources.problem is not None:
            reasons.append(self.sources.problem.diagnostics())
        if self.trust.generation is None:
            why = f": {self.sources.withheld}" if self.sources.withheld is not None else ""
            reasons.append(f"no generation of trust is in force{why}")
        return reasons

    def source_states(self) -> dict[str, str]:
        """Each source, and under ``bundle`` why it is not made of them where it is not."""
        withheld = {"bundle": self.sources.withheld} if self.sources.withheld is not None else {}
        return self.sources.states | withheld

    def proposals(self) -> list[Proposal]:
        """Anchors found in clusters or named by back ends that no configuration pins, as far as they are persisted."""
        config = self._config.current
        return self._kept.shown(clusters=_names(config), pins=config.trust.pins)

    @property
    def dismissed(self) -> list[str]:
        """Roots (SHA-256) that back ends name and an operator has dismissed."""
        return self._kept.dismissed()

    @property
    def proposals_stored(self) -> bool:
        """Whether all that was found is persisted in documents of its own."""
        return self._kept.complete

    @property
    def proposals_problems(self) -> list[str]:
        """Why these may not be all, or may not survive a restart."""
        return self._kept.problems(clusters=_names(self._config.current))

    def _found(self, cluster: str, read: ReadContent, where: str, place: str) -> frozenset[str] | None:
        now = self._clock.now().timestamp()
        return self._proposals.note(
            cluster, read.readable, not read.problem, where=where, now=now, place=place
        )

    def _settle(self, cluster: str, anchors: frozenset[str], hides: Callable[[str], bool]) -> None:
        self._proposals.settle(cluster, anchors, hides=hides)

    async def _keep_proposals(self) -> None:
        while True:
            self._proposals.remember(self.rotation.named_by_authorities())
            await self._persist_proposals()
            await self._clock.sleep(PROPOSALS_EVERY)

    async def _persist_proposals(self) -> None:
        config = self._config.current
        if self._leadership.leading and await self._kept.keep(
            clusters=_names(config), pins=config.trust.pins
        ):
            self._changed()

    async def _dismiss(self, operation: Operation) -> None:
        """Take a proposal off the list for an operator; raises OperationRefused, StateUnavailable."""
        arguments = operation.arguments
        names = self._proposals.dismiss(
            Dismissal(
                sha256=arguments.get("anchor", "").replace(":", "").lower(),
                author=operation.author,
                at=self._clock.now().timestamp(),
                reason=arguments.get("reason", ""),
                operation=operation.id,
            ),
            cluster=arguments.get("cluster") or None,
        )
        await self._persist_proposals()
        self._kept.require(names)


def _names(config: HubConfig) -> list[str]:
    return [str(cluster.name) for cluster in config.clusters]


def _shared(config: HubConfig) -> tuple[object, ...]:
    return config.controller.publication, config.controller.adopt_hubs, config.trust_domain
