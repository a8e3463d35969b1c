"""What the leader does for one member cluster: publication, istiod's certificate, a probe leaf, and its report."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from federation.clusters.istio_inventory import read_istio
from federation.controller.member_readings import (
    CLUSTER_SCOPED,
    MemberDependencies,
    MemberParts,
    MemberReadings,
)
from federation.controller.own_certificates import OwnAccount
from federation.controller.proof.probe import Probe
from federation.controller.publication import istiod_certificate
from federation.controller.publication.cluster_trust_bundle import (
    BundleTarget,
    ObservedTrustBundle,
    TrustBundlePublisher,
)
from federation.controller.publication.config_map import ConfigMapDecoder, Contents, ObservedConfigMap, Target
from federation.controller.publication.istio_webhooks import IstioWebhooks
from federation.controller.publication.istiod_certificate import IstiodCertificates
from federation.controller.publication.joining import (
    Joining,
)
from federation.controller.publication.observed import (
    ClusterWatch,
    ForeignContents,
    HealthCheck,
)
from federation.controller.publication.publisher import Publisher
from federation.controller.rotation.observer import istio_seen
from federation.core.config.clusters import ClusterConfig
from federation.core.documents.controller import (
    ControllerClusterReport,
)
from federation.kubernetes.objects import ObjectKey
from federation.kubernetes.session import MEMBER_ANSWER_BYTES, ClusterSession
from federation.kubernetes.token_places import KubeconfigSecret
from federation.kubernetes.token_renewal import TokenRenewal

ISTIO_INTERVAL: Final = 10.0
"""Seconds between readings of Istio's settings in a cluster that joins."""

HEALTH_CHECK_INTERVAL: Final = 1.0
"""Seconds between checks whether a cluster that was away is back."""

CLAIM_POLL: Final = 0.25  # seconds

SPARE_CONNECTIONS: Final = 4
"""Beside the writers: lists, token requests and the pulse must not wait for a fan-out."""


OpensMember = Callable[[ClusterConfig, MemberDependencies], contextlib.AbstractAsyncContextManager["Member"]]
"""As :meth:`Member.open`."""


async def _for_good(work: Callable[[], Awaitable[None]]) -> None:
    """Work until this task is cancelled: an end of its own would go unnoticed, and is a crash."""
    try:
        await work()
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
    raise RuntimeError(f"{work!r} has ended, and was not cancelled")


class Member:
    """One member cluster while this controller leads. Made by :meth:`open`."""

    def __init__(
        self,
        session: ClusterSession,
        config: ClusterConfig,
        around: MemberDependencies,
        secret: KubeconfigSecret | None = None,
    ) -> None:
        self.config: Final = config
        self._session = session
        self._around = around
        self._clock = around.clock
        self._renewal = TokenRenewal(session, clock=around.clock, jitter=around.jitter, secret=secret)
        self._contents = Contents(ours=around.trust.is_ours)
        self._reading = ForeignContents(
            self._contents,
            where=str(config.name),
            budget=session.budget,
            present=self._other_contents,
            on_read=self._was_read,
        )
        self._health_check = HealthCheck(session, timeout=config.timeouts.request, clock=around.clock)
        self._was_fresh = False
        self._joins = asyncio.Event()
        publication = around.publication
        self._joining = Joining(
            str(config.name),
            replaces=config.member_cas == "replace",
            nothing_earlier=config.earlier_longest_ttl == 0,
            contents=self._contents,
            trust=around.trust,
            remembered=around.remembered,
            clock=around.clock,
            hub=around.hub,
            first=[n for n in config.istio.namespaces if n not in publication.excluded_namespaces],
            exists=lambda name: ObjectKey("", name) in self._watch.namespaces,
            config_map=publication.config_map,
            read=self._reading.of,
        )
        self._watch = ClusterWatch(
            session,
            config,
            publication,
            decode=ConfigMapDecoder(publication.key, self._contents),
            clock=around.clock,
            jitter=around.jitter,
            on_change=self._noticed,
        )
        self._publisher = Publisher(
            session,
            self._watch,
            excluded=publication.excluded_namespaces,
            concurrency=publication.max_concurrent_per_cluster,
            timeouts=config.timeouts,
            clock=around.clock,
            jitter=around.jitter,
            allowed=around.allowed,
            turns=around.turns,
            stays=self._joining.stays,
            joins=lambda: self._joining.under_way,
            must_claim=self._joining.must_claim,
            on_claim_lost=self._joining.claim_lost,
        )
        self._bundle = TrustBundlePublisher(
            session,
            config,
            publication,
            contents=self._contents,
            clock=around.clock,
            jitter=around.jitter,
            allowed=around.allowed,
            keeps=lambda observed: self._joining.keeps(
                CLUSTER_SCOPED, observed.as_config_map() if observed else None
            ),
            yields=lambda observed: self._joining.yields(
                CLUSTER_SCOPED, observed.as_config_map() if observed else None
            ),
            remembered=self._bundle_was_seen,
            on_change=self._bundle_noticed,
        )
        self._probe = Probe(
            session,
            config,
            trust_domain=around.trust_domain,
            listener=around.listener,
            generation=self._generation_number,
            issuer=lambda: around.directives().issuer_for(str(config.name)),
            leaf_ttl=around.leaf_ttl,
            clock=around.clock,
            jitter=around.jitter,
            on_change=around.changed,
        )
        self._webhooks = IstioWebhooks(
            session,
            config,
            clock=around.clock,
            jitter=around.jitter,
            on_change=around.changed,
            awaited=lambda: around.directives().strict or self._joining.under_way,
        )
        self._istiod = IstiodCertificates(
            session,
            config,
            OwnAccount(session, config, config.istio.account, around.listener),
            istiod_certificate.Around(
                generation=lambda: around.trust.for_cluster(str(config.name)),
                issuer=lambda: around.directives().issuer_for(str(config.name)),
                another_ca=lambda: self.readings.another_ca(),  # noqa: PLW0108  they are made after it
                hub=around.hub,
                published=around.trust.is_ours,
                namespaces=None if config.namespace_selector else lambda: self._watch.namespaces_watch,
                revisions=self._webhooks.revisions,
                allowed=around.allowed,
                clock=around.clock,
                jitter=around.jitter,
            ),
        )
        self.readings: Final = MemberReadings(
            config,
            around,
            MemberParts(
                session=session,
                watch=self._watch,
                publisher=self._publisher,
                bundle=self._bundle,
                probe=self._probe,
                webhooks=self._webhooks,
                istiod=self._istiod,
                joining=self._joining,
                contents=self._contents,
                reading=self._reading,
                renewal=self._renewal,
                health_check=self._health_check,
            ),
        )
        former = around.former(str(config.name))
        if former is not None:
            self._recall(former)

    def _recall(self, former: ControllerClusterReport) -> None:
        """What needed attention before a restart does so still, and since then."""
        publication, now = former.publication, self._clock.monotonic()
        self._publisher.contention.recall(
            publication.contested, publication.other_writers, publication.rival, now
        )
        if former.trust_bundle.state == "contested":
            self._bundle.recall()
        self._istiod.recall(former.control_planes)
        self.readings.recall(former)

    @property
    def api_server(self) -> tuple[str, bytes | None]:
        """The address of its API server, and the CA that this is verified by, as PEM; None for the system's."""
        return self._session.server, self._session.authority

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls, config: ClusterConfig, around: MemberDependencies, *, secret: KubeconfigSecret | None = None
    ) -> AsyncIterator[Member]:
        """The member with its tasks running. Raises what its session or tasks raise.

        ``secret`` is what the controllers' kubeconfigs are mounted from.
        """
        session = await ClusterSession.open(
            config.controller,
            cluster=config.name,
            timeouts=config.timeouts,
            clock=around.clock,
            connections=around.publication.max_concurrent_per_cluster + SPARE_CONNECTIONS,
            budget=around.budgets.of(config.name),
            most_bytes=MEMBER_ANSWER_BYTES,
            permitted=around.allowed,
        )
        async with session, asyncio.TaskGroup() as group:
            member = cls(session, config, around, secret)
            await member._renewal.catch_up()
            works = [
                member._watch.run,
                member._renewal.run,
                member._reading.run,
                member._publisher.run,
                member._probe.run,
                member._istiod.run,
                member._webhooks.run,
                member._beat,
                member._read_istio,
            ]
            if member._bundle.enabled:
                works.append(member._bundle.run)
            tasks = [group.create_task(_for_good(work)) for work in works]
            try:
                member.aim()
                yield member
            finally:
                for task in tasks:
                    task.cancel()

    def _generation_number(self) -> int:
        generation = self._around.trust.for_cluster(str(self.config.name))
        return generation.number if generation is not None else 0

    def aim(self) -> None:
        """Publish the generation that this cluster is to hold."""
        generation = self._around.trust.for_cluster(str(self.config.name))
        if generation is not None:
            self._publisher.aim(Target.of(generation, self._around.publication, self._around.hub))
            self._bundle.aim(BundleTarget.of(generation, self._around.publication, self._around.hub))
            self.readings.count.count_all(at_once=True)

    def _noticed(self, namespace: str, old: ObservedConfigMap | None, new: ObservedConfigMap | None) -> None:
        self.readings.count.note(namespace)
        self._around.changed()
        self._joining.notice(namespace, new)
        if ObjectKey("", namespace) not in self._watch.namespaces:
            self._joining.forget(namespace)
        self._publisher.notice(namespace, old, new)
        if new is not None:
            self.readings.find(
                new.sha256, f"{self._around.publication.config_map} in namespace {namespace}", namespace
            )

    def _bundle_was_seen(self) -> bool:
        remembered = self._around.remembered(str(self.config.name))
        return remembered is not None and remembered.trust_bundle

    def _bundle_noticed(self, observed: ObservedTrustBundle | None) -> None:
        """The watch shows what the ClusterTrustBundle holds."""
        self.readings.count.count_all()
        self._around.changed()
        if observed is not None:
            self._joining.notice(CLUSTER_SCOPED, observed.as_config_map())
            self.readings.find(observed.sha256, f"ClusterTrustBundle {self._bundle.name}", CLUSTER_SCOPED)

    def _other_contents(self) -> frozenset[str]:
        """The digests of what is there now that is not the hub's."""
        digests = {observed.sha256 for observed in self._watch.config_maps.values()}
        if self._bundle.bundle is not None:
            digests.add(self._bundle.bundle.sha256)
        return frozenset(digest for digest in digests if digest and not self._around.trust.is_ours(digest))

    def _was_read(self, digest: str, seen: tuple[str, str]) -> None:
        """Another writer's content is read now: what depends on it is decided anew."""
        where, place = seen
        if where:
            self.readings.find(digest, where, place)
        present = {
            key.namespace: observed
            for key, observed in self._watch.config_maps.items()
            if observed.sha256 == digest
        }
        for namespace, observed in present.items():
            self._joining.notice(namespace, observed)
        self._publisher.check_again(present)
        if self._bundle.bundle is not None and self._bundle.bundle.sha256 == digest:
            self._joining.notice(CLUSTER_SCOPED, self._bundle.bundle.as_config_map())
        self.readings.count.count_all()
        self._around.changed()

    async def _beat(self) -> None:
        """Look every second, and four times a second whether namespaces need not wait for the hub's mark any more."""
        while True:
            await self._look()
            due = self._clock.monotonic() + HEALTH_CHECK_INTERVAL
            while self._clock.monotonic() < due:
                left = self._joining.left
                await self._clock.sleep(CLAIM_POLL if self._joining.awaits_claim else HEALTH_CHECK_INTERVAL)
                if self._joining.released() or (left and not self._joining.left):
                    self._publisher.notice_all()
                    self.readings.count.count_all()

    async def _look(self) -> None:
        """Follow whether the cluster is there, and be quick when it comes back."""
        fresh = self._watch.fresh
        if fresh and not self._was_fresh:
            self._publisher.resume()
            self.readings.count.count_all()
        if fresh != self._was_fresh:
            self._around.changed()
        if self._joining.memory_changed():
            self._publisher.notice_all()
            self.readings.count.count_all()
        if late := self._joining.overdue():
            self._publisher.check_again(late)
            self.readings.count.count_all()
        if self._joining.under_way:
            self._joins.set()
        self._was_fresh = fresh
        # A watch may be back before the next pulse: what the pulse said last must not outlive that.
        troubled = not fresh or self._publisher.tally.cluster_problem
        if (troubled or self._health_check.due) and await self._health_check.check():
            self._watch.renew()
            self._publisher.resume()
            self._bundle.renew()
            self._istiod.renew()
        self._bundle.note_release(self._health_check.version)

    async def _read_istio(self) -> None:
        """Read what a cluster has set in its Istio, again and again while it joins."""
        while True:
            await self._joins.wait()
            while self._joining.under_way:
                self.readings.istio = istio_seen(await read_istio(self._session, self.config))
                await self._clock.sleep(ISTIO_INTERVAL)
            self._joins.clear()
            self.readings.istio = None
