"""The signer role: a certificate's way put together, kept running, and reported on.

Everything slow (clusters, files, the state store) is kept up to date beside the requests, so that a request only
looks up. The role is ready when it has a bundle that it accepts, directives, an authority that can sign by them, a
store that takes how far its leaves reach, and a certificate for its listener; it says which of these is missing. It
listens only once it has shown a certificate, and drains before it ends.

Its report, with how it sees each member cluster, is written to the state store again and again; its part of each
quota follows from what the others report.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Final

from msgspec import structs

from federation.clusters.health import ClusterHealth
from federation.clusters.members import Members
from federation.core.clock import Clock
from federation.core.config.clusters import ClusterConfig, ClusterPolicy, IstioConfig
from federation.core.config.hub import HubConfig, ListenerConfig, SignerConfig
from federation.core.config.types import Address
from federation.core.documents.credential import NO_CREDENTIAL
from federation.core.documents.encoding import decode, encode
from federation.core.documents.keys import SIGNERS
from federation.core.documents.signer import (
    RefusalsReport,
    SignerClusterReport,
    SignerReport,
    WorkloadsReport,
)
from federation.core.errors import FederationError, NotReady, StateUnavailable
from federation.kubernetes.budget import Budgets
from federation.runtime.config_source import ConfigSource
from federation.runtime.processes import OpenFiles
from federation.signer.accounting import NO_CLUSTER, Accounting, Renewals
from federation.signer.attestation.attestor import AUTO, REVIEW, ClusterAttestor
from federation.signer.attestation.token_keys import KeyClaims
from federation.signer.authorities.authority import AuthoritySettings, BackEndContext
from federation.signer.authorities.authority_set import (
    AuthoritySet,
    AuthoritySlot,
    MakeAuthority,
    SlotContext,
)
from federation.signer.authorities.back_ends import make_authority
from federation.signer.authorities.limiter import ReplicaShare
from federation.signer.authorities.selection import choose
from federation.signer.callers import Callers, SharedCallers, Workloads
from federation.signer.expiry_bounds import PersistedExpiryBounds
from federation.signer.generations import (
    PinHistory,
    PinnedRoots,
    TrustInForce,
    TrustPoller,
)
from federation.signer.issuance import Issuance
from federation.signer.listeners.istio_ca import IstioCaService
from federation.signer.listeners.rejected_calls import RefusalLog, RejectedCalls
from federation.signer.listeners.serving_certificate import ITSELF, RunningListener
from federation.signer.registry import Connect, Registry, Routing, connect
from federation.signer.tracing import TracedIssuance, TracedService, Tracing
from federation.state.store import StateStore

_logger = logging.getLogger(__name__)


def cluster_report(
    config: ClusterConfig,
    attestor: ClusterAttestor | None,
    problem: FederationError | None,
    accounting: Accounting,
    workloads: WorkloadsReport,
    *,
    stopped: NotReady | None = None,
) -> SignerClusterReport:
    """The cluster's part of the report.

    ``attestor`` is None while it is not connected, ``problem`` says why, or that older credentials are in
    use. ``stopped`` says why nothing is issued there to any caller.
    """
    issued, refused, last_issued = accounting.of(str(config.name))
    own_issued, own_refused = accounting.own(str(config.name))
    health = _health(attestor, problem)
    if stopped is not None:
        health = ClusterHealth("unavailable", stopped.reason, stopped.what, stopped.remedy)
    return SignerClusterReport(
        state=health.state,
        reason=health.reason,
        detail=health.detail,
        remedy=health.remedy,
        issuer=attestor.issuer if attestor is not None else "",
        keys=len(attestor.keys.keys) if attestor is not None else 0,
        attestation=attestor.method if attestor is not None else "",
        issued=issued,
        refused=dict(refused),
        last_issued=last_issued,
        own_issued=own_issued,
        own_refused=dict(own_refused),
        workload_issued_at=accounting.workload_issued_at(str(config.name)),
        refusals=accounting.refusals(str(config.name)),
        unproven=accounting.unproven(str(config.name)),
        workloads=workloads,
        credential=attestor.renewal.report
        if attestor is not None and attestor.renewal is not None
        else NO_CREDENTIAL,
    )


def _health(attestor: ClusterAttestor | None, problem: FederationError | None) -> ClusterHealth:
    """Ready while callers can be attested as configured, degraded while only in another way, else unavailable."""
    if attestor is None:
        failure = ClusterHealth.of_error(problem) if problem is not None else _STARTING
        return structs.replace(failure, state="unavailable")
    keys, objects, review = attestor.keys, attestor.objects, attestor.reviewer.problem
    nodes, over = attestor.node_pods.problem, attestor.over_budget
    if attestor.config.attestation == REVIEW:
        health = ClusterHealth.derive((review, problem, over), clock_skew=keys.clock_skew)
        if health.state == "ready" and nodes is not None:
            return structs.replace(ClusterHealth.of_error(nodes), state="degraded")  # for node proxies alone
        return health
    if attestor.config.attestation == AUTO and not keys.usable and keys.problem is not None and keys.withheld:
        health = ClusterHealth.derive((objects.problem, review, nodes, problem), clock_skew=keys.clock_skew)
        if health.state != "unavailable":
            failure = ClusterHealth.of_error(keys.problem)
            return structs.replace(
                failure, state="degraded", detail=f"{failure.detail}, so every token is reviewed"
            )
    health = ClusterHealth.derive(
        (objects.problem, keys.problem, nodes, problem, over), clock_skew=keys.clock_skew
    )
    if keys.usable and objects.fresh:
        return structs.replace(health, state="degraded") if health.state == "unavailable" else health
    if health.state == "ready":
        health = _STARTING
    if attestor.config.attestation != "auto":  # nothing else may decide
        return structs.replace(health, state="unavailable")
    return health


_STARTING: Final = ClusterHealth(
    "degraded", "starting", "its token keys, pods and service accounts are being fetched"
)


HEARTBEAT: Final = 2.0  # seconds between reports; three missed ones mean that this signer is gone
STORE_TIMEOUT: Final = 5.0


class Heartbeat:
    """Writes what ``report`` says under ``signers/<replica>``.

    A report that is there already is of a process of this name that was killed: ``recall`` gets it before the first
    one takes its place.
    """

    def __init__(
        self,
        store: StateStore,
        *,
        replica: str,
        clock: Clock,
        report: Callable[[], SignerReport],
        recall: Callable[[SignerReport], None],
    ) -> None:
        self._recall = recall
        self._store = store
        self._key = f"{SIGNERS}{replica}"
        self._clock = clock
        self._report = report

    async def run(self, share_quotas: Callable[[], Awaitable[None]]) -> None:
        """Write until cancelled, more often while it is not ready; share quotas as often."""
        ready = False
        await self._look_back()
        while True:
            await self.write()
            await share_quotas()
            report = self._report()
            if report.ready != ready:
                ready = report.ready
                _logger.info(
                    "the signer is %s", "ready" if ready else "not ready: " + "; ".join(report.reasons)
                )
            await self._clock.sleep(HEARTBEAT if ready else HEARTBEAT / 4)

    async def _look_back(self) -> None:
        try:
            async with asyncio.timeout(STORE_TIMEOUT):
                stored = await self._store.read(self._key)
            if stored is not None:
                self._recall(decode(stored.data, SignerReport, key=self._key))
        except (StateUnavailable, TimeoutError) as error:
            _logger.warning("the signer's last report cannot be read: %s", str(error) or "no answer")

    async def write(self) -> None:
        """A report that cannot be written is missed by those who wait for it; signing goes on."""
        try:
            async with asyncio.timeout(STORE_TIMEOUT):
                await self._store.write(self._key, encode(self._report()))
        except (StateUnavailable, TimeoutError) as error:
            _logger.warning("the signer's report cannot be written: %s", str(error) or "no answer")

    async def withdraw(self) -> None:
        """A signer that ended in good order leaves no report behind that would look like one that died."""
        try:
            async with asyncio.timeout(STORE_TIMEOUT):
                await self._store.delete(self._key)
        except (StateUnavailable, TimeoutError) as error:
            _logger.warning("the signer's report cannot be withdrawn: %s", str(error) or "no answer")


class Quotas:
    """Takes the part of each back end's quota that the other signers leave."""

    def __init__(self, replicas: ReplicaShare, authorities: AuthoritySet) -> None:
        self._replicas = replicas
        self._authorities = authorities

    async def share(self) -> None:
        """Count the others where something in use has a quota; where that fails the last count stays."""
        names = self._authorities.quotas
        if names:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STORE_TIMEOUT):
                    await self._replicas.count(names)
        self._authorities.take_share(self._replicas.share)


class SignerRole:
    """One signer process."""

    def __init__(
        self,
        *,
        config: ConfigSource,
        store: StateStore,
        clock: Clock,
        replica: str,
        random_bytes: Callable[[int], bytes],
        jitter: random.Random,
        listen: Address | None = None,
        connect: Connect = connect,
        make_authority: MakeAuthority = make_authority,
        tracing: Tracing | None = None,
    ) -> None:
        """``listen`` overrides the configuration's; ``random_bytes`` must be fit for serial numbers.

        ``connect`` opens the connection to one member cluster, and ``make_authority`` makes an authority from its
        settings, as the functions of these names do. ``tracing`` makes a trace of each call, where one is wanted.
        """
        self._config = config
        self._clock = clock
        self._replica = replica
        self._begun = self._running = running = config.current
        self._started = clock.now().timestamp()
        self._draining = False
        self._warnings: tuple[str, ...] = ()

        self._claims = KeyClaims()
        self._members: Members[ClusterAttestor] = Members(
            partial(connect, clock=clock, jitter=jitter, claims=self._claims, budgets=Budgets(clock)),
            credentials=lambda cluster: cluster.signer,
            clock=clock,
            jitter=jitter,
        )
        self._registry = Registry(self._members.current, self._claims)
        self._routing = Routing(self._registry)
        self._poller = TrustPoller(
            store,
            clock=clock,
            trust_domain=running.trust_domain,
            pins=running.trust.pins,
            history=PinHistory(store, replica=replica),
            on_trust=self._take_up_trust,
            on_directives=self._take_up_directives,
        )
        self._renewals = Renewals(timedelta(seconds=_usual_ttl(running)))
        back_ends = BackEndContext(
            running.trust_domain,
            clock,
            random_bytes,
            jitter,
            hosts=lambda: self._running.listener.server_names,
            ztunnel=lambda: self._running.has_ztunnel,
        )
        self._authorities = AuthoritySet(
            SlotContext(
                back_ends=back_ends,
                deadline=running.listener.deadline,
                lifetime=lambda: self._renewals.lifetime,
                directives=lambda: self._poller.directives.in_force,
                make=make_authority,
            ),
            *_settings(running.signer),
        )
        self._roots = PinnedRoots(
            trust_domain=running.trust_domain, clock=clock, on_change=self._authorities.pin
        )
        self._expiry_bounds = PersistedExpiryBounds(
            store, replica=replica, clock=clock, read_in_force=self._poller.catch_up
        )
        self._accounting = Accounting()
        self._callers = Callers()
        self._shared = SharedCallers(
            store,
            replica=replica,
            clock=clock,
            callers=self._callers,
            usual_life=lambda: _shortest_ttl(self._running),
            claims=self._claims,
        )
        self._workloads = Workloads(
            self._callers,
            clusters=lambda: self._registry.clusters,
            attestors=lambda: self._members.current,
            problem=lambda: self._shared.problem,
            clock=clock,
        )
        issuance = partial(TracedIssuance, tracing) if tracing else Issuance
        service = partial(TracedService, tracing) if tracing else IstioCaService
        self._issuance = issuance(
            registry=self._registry,
            routing=self._routing,
            poller=self._poller,
            authorities=self._authorities,
            expiry_bounds=self._expiry_bounds,
            trust_domain=running.trust_domain,
            accounting=self._accounting,
            renewals=self._renewals,
            callers=self._callers,
            clock=clock,
            random_bytes=random_bytes,
        )
        self._rejected_calls = RejectedCalls(clock)
        self._connections_refused = RejectedCalls(clock)
        self._open_files = OpenFiles(clock)
        self._listener = RunningListener(
            service(self._issuance, RefusalLog(clock), self._rejected_calls, self._connections_refused),
            listen=listen or running.listener.listen,
            poller=self._poller,
            authorities=self._authorities,
            clock=clock,
            random_bytes=random_bytes,
            config=lambda: self._running.listener,
        )
        self._heartbeat = Heartbeat(
            store, replica=replica, clock=clock, report=self.report, recall=self._recall
        )
        replicas = ReplicaShare(store, replica=replica, clock=clock, expected=_processes(running))
        self._quotas = Quotas(replicas, self._authorities)

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until ``stop`` is set, then drain. Raises what no part of it could handle."""
        async with self._members:
            await self._configure(self._running)
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(work, name=name)
                    for name, work in (
                        ("configuration", self._follow_configuration()),
                        ("trust", self._poller.run()),
                        ("expiry bounds", self._expiry_bounds.run()),
                        ("callers", self._shared.run()),
                        ("workloads", self._workloads.run()),
                        ("pinned roots", self._roots.run()),
                        ("authorities", self._authorities.run()),
                        ("listener", self._listener.run()),
                        ("report", self._heartbeat.run(self._quotas.share)),
                    )
                ]
                try:
                    await stop.wait()
                    await self._drain()
                finally:
                    for task in tasks:
                        task.cancel()
                    await self._listener.close(0)
                    await self._routing.close()
        await self._shared.close()
        await self._heartbeat.withdraw()

    @property
    def address(self) -> Address | None:
        """Where the listener listens; None while it does not."""
        return self._listener.address

    def _recall(self, before: SignerReport) -> None:
        """What needed attention when this signer was killed does so still."""
        self._authorities.recall(a for a in (before.authority, before.successor) if a is not None)
        for name, cluster in before.clusters.items():
            self._accounting.recall(name, refusals=cluster.refusals, unproven=cluster.unproven)
        self._accounting.recall(NO_CLUSTER, refusals=RefusalsReport(), unproven=before.unattributed)
        self._accounting.keep(str(cluster.name) for cluster in self._running.clusters)

    def report(self) -> SignerReport:
        """What this signer uses and how it fares, now."""
        accepted = self._poller.generations.newest
        reasons = list(self._reasons())
        serving, follows = self._listener.serving, self._listener.follows
        warnings = [*self._running.warnings, *self._warnings]
        if serving.valid and serving.problem is not None:
            warnings.append(f"the listener's certificate cannot be renewed: {serving.problem}")
        return SignerReport(
            replica=self._replica,
            started=self._started,
            updated=self._clock.now().timestamp(),
            heartbeat=HEARTBEAT,
            ready=not reasons,
            reasons=reasons,
            address=str(self.address) if self.address is not None else "",
            config_digest=self._running.digest,
            config_problems=list(self._config.problems),
            warnings=warnings,
            generation=accepted.number if accepted is not None else 0,
            bundle_sha256=accepted.sha256 if accepted is not None else "",
            authority=self._authorities.describe_authority(),
            successor=self._authorities.describe_successor(),
            signs=self._signs(),
            not_applied=list(self._not_applied()),
            rotation=follows.rotation,
            directives=follows.state,
            serving_not_after=serving.certificate.not_after.timestamp() if serving.certificate else 0.0,
            serving_issuer=serving.issuer if serving.valid else "",
            serving_pem=serving.chain_pem,
            issued=self._accounting.issued,
            clusters={
                str(config.name): cluster_report(
                    config,
                    self._members.current.get(config.name),
                    self._members.problems.get(config.name),
                    self._accounting,
                    self._workloads.report(str(config.name)),
                    stopped=self._stopped(str(config.name)),
                )
                for config in self._registry.clusters
            },
            unattributed=self._accounting.unproven(NO_CLUSTER),
            removed=self._accounting.removed,
            shared_keys=self._routing.shared_keys(),
            rejected_calls=self._rejected_calls.report(),
            connections_refused=self._connections_refused.report(),
            open_files=self._open_files.count,
            open_files_limit=self._open_files.limit,
            latency=self._accounting.latency,
        )

    def _not_applied(self) -> Iterator[str]:
        """What the state holds by now and is not followed here, with the reason; what was read before goes on."""
        generations, directives = self._poller.generations, self._poller.directives
        if generations.newest is not None and generations.problem is not None:
            number, why = generations.newest.number, generations.problem.diagnostics()
            yield f"generation {number} stays in force here: {why}"
        if directives.in_force is not None and directives.problem is not None:
            why = directives.problem.diagnostics()
            yield f"the directives that were read last stay in force here: {why}"

    def _signs(self) -> str:
        """The intermediate (SHA-256) that is signed with where no cluster is an exception; empty where none is."""
        try:
            authority = self._authority_for(ITSELF)
        except NotReady:
            return ""
        return authority.issuers[0].sha256 if authority.usable and authority.issuers else ""

    def _authority_for(self, cluster: str) -> AuthoritySlot:
        """Which authority signs there now; raises NotReady where nothing is issued there."""
        context = self._poller.context(cluster)
        return choose(context.directives, cluster, self._authorities.in_order, context.trust.anchors)

    @property
    def _has_context(self) -> bool:
        """True once a generation was accepted and the directives were read."""
        return self._poller.generations.in_force is not None and self._poller.directives.in_force is not None

    def _stopped(self, cluster: str) -> NotReady | None:
        """Why no caller of that cluster gets anything; None also where no caller of any cluster does yet."""
        if not self._has_context:
            return None
        try:
            self._authority_for(cluster)
        except NotReady as problem:
            return problem
        return None

    def _reasons(self) -> Iterator[str]:
        """Why this signer is not ready, in words; none where it is."""
        if self._draining:
            yield "it is draining before it ends"
        generations, directives = self._poller.generations, self._poller.directives
        if generations.newest is None:
            why = generations.problem or "the controller has not written a generation yet"
            yield f"there is no bundle: {why}"
        if directives.in_force is None:
            yield f"the directives were not read yet: {directives.problem or 'starting'}"
        if self._expiry_bounds.problem is not None:
            yield f"how far leaves reach cannot be persisted: {self._expiry_bounds.problem}"
        if not self._callers.open:
            yield f"which pods hold certificates was not read yet: {self._shared.problem or 'starting'}"
        yield from self._cannot_sign()
        yield from self._listener.reasons()

    def _cannot_sign(self) -> Iterator[str]:
        """Why the authority that signs where no cluster is an exception cannot."""
        if not self._has_context:
            return  # that is said already
        try:
            authority = self._authority_for(ITSELF)
        except NotReady as problem:
            reports = [slot.describe() for slot in self._authorities.in_order]
            why = [f"{report.name}: {report.detail}" for report in reports if report.state == "unavailable"]
            yield "; ".join([f"no authority may sign: {problem}", *why])
            return
        report = authority.describe()
        if report.state == "unavailable":
            yield f"the authority {report.name} cannot sign: {report.detail}"

    def _take_up_directives(self) -> None:
        self._authorities.arrange()

    def _take_up_trust(self, in_force: TrustInForce) -> None:
        self._authorities.trust(in_force.anchors)

    async def _follow_configuration(self) -> None:
        while True:
            await self._configure(await self._config.changed(self._running.digest))

    async def _configure(self, config: HubConfig) -> None:
        """Take up what can be taken up while running, and say what cannot."""
        self._warnings = tuple(_needs_restart(self._begun, config))
        self._poller.generations.configure(pins=config.trust.pins)
        self._roots.configure(config.trust.anchors if config.signer.successor is not None else ())
        self._authorities.configure(*_settings(config.signer))
        self._registry.configure(config.clusters, concurrent=config.listener.max_concurrent_per_cluster)
        self._registry.reserved = config.reserved
        self._accounting.keep(str(cluster.name) for cluster in config.clusters)
        self._running = config
        await self._members.apply([_connection_of(cluster) for cluster in config.clusters])

    async def _drain(self) -> None:
        self._draining = True
        await self._heartbeat.write()
        await self._listener.close(self._running.listener.drain)


def _settings(signer: SignerConfig) -> tuple[AuthoritySettings, AuthoritySettings | None]:
    """Those of ``[signer.authority]`` and of ``[signer.successor]``."""
    successor = signer.successor
    later = AuthoritySettings(successor, signer.conjur, signer.spiffe) if successor is not None else None
    return AuthoritySettings.of(signer), later


def _connection_of(cluster: ClusterConfig) -> ClusterConfig:
    """The cluster without what only decides who gets what: a change of that must not cost it its caches."""
    return replace(cluster, policy=ClusterPolicy(), istio=IstioConfig())


def _processes(config: HubConfig) -> int:
    """How many signers start beside each other on this machine."""
    return config.signer.processes or os.cpu_count() or 1


def _usual_ttl(config: HubConfig) -> float:
    """What most leaves live by policy, until some were issued."""
    return min((c.policy.default_ttl for c in config.clusters), default=ClusterPolicy().default_ttl)


def _shortest_ttl(config: HubConfig) -> float:
    """What the shortest certificates live by policy."""
    return min(
        (min(c.policy.default_ttl, c.policy.longest_ttl) for c in config.clusters),
        default=ClusterPolicy().default_ttl,
    )


def _needs_restart(begun: HubConfig, config: HubConfig) -> list[str]:
    """What differs from the configuration that this process began with and is not taken up."""
    fixed: tuple[tuple[str, Callable[[HubConfig], object]], ...] = (
        ("state", lambda c: c.state),
        ("kubeconfig_secrets", lambda c: c.kubeconfig_secrets),
        ("listener", lambda c: _fixed(c.listener)),
    )
    return [
        f"{name} was changed and takes effect after a restart"
        for name, of in fixed
        if of(begun) != of(config)
    ]


def _fixed(listener: ListenerConfig) -> ListenerConfig:
    """The listener's configuration as far as it is fixed once the listener is open."""
    return replace(listener, server_names=(), serving_lifetime=0.0, max_concurrent_per_cluster=0, drain=0.0)
