"""The signer role: a certificate's way put together, kept running, and reported on.

Everything slow (clusters, files, the state store) is kept up to date beside the requests, so that a request
only looks up. The role is ready when it has a bundle that it believes, an authority that can sign under it,
and a certificate for its door; it says which of these is missing. It listens only once it has shown a
certificate, and drains before it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Final

import msgspec

from federation.clusters.members import Members
from federation.core.clock import Clock
from federation.core.config.authority_model import RemoteAuthorityConfig
from federation.core.config.model import Address, ClusterConfig, ClusterPolicy, DoorConfig, HubConfig
from federation.core.errors import NotReady, StateUnavailable
from federation.runtime.config_source import ConfigSource
from federation.signer.accounting import Accounting
from federation.signer.attestation.attestor import ClusterAttestor
from federation.signer.authorities.catalogue import AuthoritySettings, Surroundings
from federation.signer.authorities.checked import Alarms
from federation.signer.authorities.interface import KeptAuthority
from federation.signer.authorities.keeper import AuthorityKeeper
from federation.signer.doors.grpc_server import GrpcServer, ServingCredentials, ServingPair
from federation.signer.doors.istio_ca import IstioCaDoor
from federation.signer.doors.refusal_log import RefusalLog
from federation.signer.fellows import Fellows
from federation.signer.issuance import Issuance
from federation.signer.member import connect
from federation.signer.registry import Registry
from federation.signer.renewals import Renewals
from federation.signer.reporting import cluster_report
from federation.signer.serving import POLL as SERVING_POLL
from federation.signer.serving import ServingCertificate
from federation.signer.trust import AcceptedTrust, TrustFollower
from federation.state.documents import AuthorityReport, SignerReport, encode
from federation.state.store import StateStore

HEARTBEAT: Final = 2.0  # seconds between reports; three missed ones mean that this signer is gone
STORE_TIMEOUT: Final = 5.0

_logger = logging.getLogger(__name__)


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
    ) -> None:
        """``listen`` overrides the configuration's; ``random_bytes`` must be fit for serial numbers."""
        self._config = config
        self._store = store
        self._clock = clock
        self._replica = replica
        self._jitter = jitter
        self._begun = self._running = running = config.current
        self._listen = listen or running.door.listen
        self._started = clock.now().timestamp()
        self._draining = False
        self._warnings: tuple[str, ...] = ()
        self._listen_problem: NotReady | None = None
        self.address: Address | None = None

        self._accounting = Accounting()
        self._members: Members[ClusterAttestor] = Members(
            partial(connect, clock=clock, jitter=jitter),
            credentials=lambda cluster: cluster.signer,
            clock=clock,
            jitter=jitter,
        )
        self._registry = Registry(lambda: self._members.current)
        self._trust = TrustFollower(
            store,
            clock=clock,
            trust_domain=running.trust_domain,
            pins=running.trust.pins,
            on_change=self._take_up_trust,
        )
        self._alarms = Alarms(clock)
        self._renewals = Renewals(timedelta(seconds=_usual_ttl(running)))
        self._fellows = Fellows(store, replica=replica, clock=clock, expected=_processes(running))
        self._authority = AuthorityKeeper(
            AuthoritySettings.of(running.signer),
            Surroundings(running.trust_domain, clock, random_bytes, jitter),
            deadline=running.door.deadline,
            lifetime=lambda: self._renewals.lifetime,
            hosts=lambda: self._running.door.server_names,
            on_change=self._take_up_authority,
        )
        self._issuance = Issuance(
            registry=self._registry,
            authority=self._authority.current,
            trust=lambda: self._trust.accepted,
            trust_domain=running.trust_domain,
            accounting=self._accounting,
            alarms=self._alarms,
            renewals=self._renewals,
            clock=clock,
            random_bytes=random_bytes,
        )
        self._door = IstioCaDoor(self._issuance, RefusalLog(clock))
        self._serving = ServingCertificate(
            clock=clock, random_bytes=random_bytes, alarms=self._alarms, on_renewal=self._show
        )
        self._credentials: ServingCredentials | None = None
        self._server: GrpcServer | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until ``stop`` is set, then drain. Raises what no part of it could handle."""
        async with self._members:
            await self._configure(self._running)
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(work, name=name)
                    for name, work in (
                        ("configuration", self._follow_configuration()),
                        ("trust", self._trust.run()),
                        ("authority", self._authority.run()),
                        ("door", self._keep_door()),
                        ("report", self._keep_reporting()),
                    )
                ]
                try:
                    await stop.wait()
                    await self._drain()
                finally:
                    for task in tasks:
                        task.cancel()
                    if self._server is not None:
                        await self._server.stop(0)
        await self._withdraw_report()

    def report(self) -> SignerReport:
        """What this signer uses and how it fares, now."""
        accepted = self._trust.accepted
        reasons = self._reasons()
        serving = self._serving.certificate
        warnings = [*self._running.warnings, *self._warnings]
        if accepted is not None and self._trust.problem is not None:
            warnings.append(f"generation {accepted.number} stays in force here: {self._trust.problem}")
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
            authority=self._describe_authority(),
            serving_not_after=serving.not_after.timestamp() if serving is not None else 0.0,
            issued=self._accounting.issued,
            clusters={
                str(config.name): cluster_report(
                    config,
                    self._members.current.get(config.name),
                    self._members.problems.get(config.name),
                    self._accounting,
                )
                for config in self._registry.clusters
            },
            latency=self._accounting.latency,
        )

    def _describe_authority(self) -> AuthorityReport:
        """The authority, with the alarms that its answers have raised."""
        alarms = self._alarms
        return msgspec.structs.replace(
            self._authority.describe(),
            uncertain=alarms.uncertain,
            violations=alarms.violations,
            last_violation=alarms.last_violation,
            last_violation_at=alarms.last_violation_at,
        )

    def _reasons(self) -> list[str]:
        """Why this signer is not ready, in words; empty where it is."""
        reasons: list[str] = []
        if self._draining:
            reasons.append("it is draining before it ends")
        if self._trust.accepted is None:
            why = self._trust.problem or "the controller has not written a generation yet"
            reasons.append(f"there is no bundle: {why}")
        authority = self._authority.describe()
        if authority.state == "unavailable":
            reasons.append(f"the authority {authority.name} cannot sign: {authority.detail}")
        if not self._serving.valid:
            reasons.append(f"the door has no certificate: {self._serving.problem or 'not issued yet'}")
        elif self.address is None:
            reasons.append(f"the door does not listen: {self._listen_problem or 'not bound yet'}")
        return reasons

    def _take_up_trust(self, accepted: AcceptedTrust) -> None:
        self._authority.trust(accepted.anchors)

    def _take_up_authority(self, authority: KeptAuthority) -> None:
        self._issuance.use(authority)

    def _show(self, pair: ServingPair) -> None:
        if self._credentials is None:
            self._credentials = ServingCredentials(pair)
        else:
            self._credentials.replace(pair)

    async def _follow_configuration(self) -> None:
        while True:
            await self._configure(await self._config.changed(self._running.digest))

    async def _configure(self, config: HubConfig) -> None:
        """Take up what can be taken up while running, and say what cannot."""
        self._warnings = tuple(_needs_restart(self._begun, config))
        self._trust.configure(pins=config.trust.pins)
        self._authority.configure(AuthoritySettings.of(config.signer))
        self._registry.configure(config.clusters, concurrent=config.door.max_concurrent_per_cluster)
        self._accounting.keep(str(cluster.name) for cluster in config.clusters)
        self._running = config
        await self._members.apply([_connection_of(cluster) for cluster in config.clusters])

    async def _keep_door(self) -> None:
        """Renew the door's certificate when it is due, and listen from the first one on."""
        while True:
            await self._serving.ensure(self._running.door, self._authority.current, self._trust.accepted)
            if self.address is None and self._credentials is not None:
                await self._open_door(self._credentials)
            await self._clock.sleep(SERVING_POLL if self.address is not None else SERVING_POLL / 5)

    async def _open_door(self, credentials: ServingCredentials) -> None:
        server = GrpcServer(
            self._door, config=self._running.door, listen=self._listen, credentials=credentials
        )
        try:
            self.address = await server.start()
        except NotReady as problem:
            if self._listen_problem is None:
                _logger.warning("the door cannot open: %s", problem.diagnostics())
            self._listen_problem = problem
            return
        self._server, self._listen_problem = server, None
        _logger.info("the door is open at %s", self.address)

    async def _drain(self) -> None:
        self._draining = True
        await self._write_report()
        if self._server is not None:
            await self._server.stop(self._running.door.drain)
        self._server = None

    async def _keep_reporting(self) -> None:
        ready = False
        while True:
            await self._write_report()
            await self._share_quota()
            now_ready = not self._reasons()
            if now_ready != ready:
                _logger.info(
                    "the signer is %s", "ready" if now_ready else "not ready: " + "; ".join(self._reasons())
                )
                ready = now_ready
            await self._clock.sleep(HEARTBEAT if ready else HEARTBEAT / 4)

    async def _share_quota(self) -> None:
        """Take the part of the back end's quota that the other signers leave."""
        config = self._running.signer.authority
        if isinstance(config, RemoteAuthorityConfig) and config.quota:
            with contextlib.suppress(TimeoutError):  # the last count stays
                async with asyncio.timeout(STORE_TIMEOUT):
                    await self._fellows.count(config.name)
        self._authority.take_share(self._fellows.share)

    async def _write_report(self) -> None:
        """A report that cannot be written is missed by those who wait for it; signing goes on."""
        try:
            async with asyncio.timeout(STORE_TIMEOUT):
                await self._store.write(f"signers/{self._replica}", encode(self.report()))
        except (StateUnavailable, TimeoutError) as error:
            _logger.warning("the signer's report cannot be written: %s", str(error) or "no answer")

    async def _withdraw_report(self) -> None:
        """A signer that ended in good order leaves no report behind that would look like one that died."""
        try:
            async with asyncio.timeout(STORE_TIMEOUT):
                await self._store.delete(f"signers/{self._replica}")
        except (StateUnavailable, TimeoutError) as error:
            _logger.warning("the signer's report cannot be withdrawn: %s", str(error) or "no answer")


def _connection_of(cluster: ClusterConfig) -> ClusterConfig:
    """The cluster without its policy: a change of policy alone must not cost it its caches."""
    return replace(cluster, policy=ClusterPolicy())


def _processes(config: HubConfig) -> int:
    """How many signers start beside each other on this machine."""
    return config.signer.processes or os.cpu_count() or 1


def _usual_ttl(config: HubConfig) -> float:
    """What most leaves live by policy, until some were issued."""
    return min((c.policy.default_ttl for c in config.clusters), default=ClusterPolicy().default_ttl)


def _needs_restart(begun: HubConfig, config: HubConfig) -> list[str]:
    """What differs from the configuration that this process began with and is not taken up."""
    fixed: tuple[tuple[str, Callable[[HubConfig], object]], ...] = (
        ("trust_domain", lambda c: c.trust_domain),
        ("state.directory", lambda c: c.state.directory),
        ("door", lambda c: _fixed(c.door)),
    )
    return [
        f"{name} was changed and takes effect after a restart"
        for name, of in fixed
        if of(begun) != of(config)
    ]


def _fixed(door: DoorConfig) -> DoorConfig:
    """The door's configuration as far as it is fixed once the door is open."""
    return replace(door, server_names=(), serving_lifetime=0.0, max_concurrent_per_cluster=0, drain=0.0)
