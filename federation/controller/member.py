"""What the leader does for one member cluster: publication, istiod's certificate, a probe leaf, and its report."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final

from federation.clusters.health import ClusterHealth
from federation.clusters.istio_inventory import read_istio
from federation.controller.cluster_report import STARTING, derive_health, publication_report
from federation.controller.in_force import TrustState
from federation.controller.own_certificates import OwnAccount
from federation.controller.proof.listener_check import SignerListener
from federation.controller.proof.matrix import Absent, BundleContent, ContentReader, Participant
from federation.controller.proof.probe import Probe
from federation.controller.publication import istiod_certificate
from federation.controller.publication.cluster_trust_bundle import (
    BundleTarget,
    ObservedTrustBundle,
    TrustBundlePublisher,
    with_bundle,
)
from federation.controller.publication.config_map import ConfigMapDecoder, Contents, ObservedConfigMap, Target
from federation.controller.publication.istio_webhooks import IstioWebhooks, webhook_health
from federation.controller.publication.istiod_certificate import IstiodCertificates
from federation.controller.publication.joining import (
    Joining,
    JoiningMemory,
    MemberFacts,
    named,
    no_memory,
    other_hub_wrote,
)
from federation.controller.publication.namespace_count import (
    EXAMPLES,
    JOINS,
    LEFT,
    NamespaceCount,
    ReadBack,
    Shown,
)
from federation.controller.publication.observed import (
    MOST_READ,
    ClusterWatch,
    ForeignContents,
    HealthCheck,
    ReadContent,
)
from federation.controller.publication.publisher import Lag, Publisher
from federation.controller.publication.turns import Turns
from federation.controller.rotation.observer import IstiodWait, istio_seen, not_joining
from federation.core.clock import Clock
from federation.core.config.clusters import ClusterConfig
from federation.core.config.hub import PublicationConfig
from federation.core.documents.controller import (
    ControllerClusterReport,
    ControlPlaneReport,
    PublicationReport,
    WebhookReport,
)
from federation.core.identity import NO_HUB, HubIdentity, TrustDomain
from federation.core.rotation.effects import SigningDirectives
from federation.core.trust.joining import IstioSeen
from federation.kubernetes.budget import Budgets
from federation.kubernetes.objects import ObjectKey
from federation.kubernetes.session import MEMBER_ANSWER_BYTES, ClusterSession
from federation.kubernetes.token_places import KubeconfigSecret
from federation.kubernetes.token_renewal import TokenRenewal

COUNT_SPACING: Final = 1000.0
"""Times what a count of a cluster's namespaces took that pass at least between two, while some lack the bundle."""

LONGEST_COUNT_AGE: Final = 2.0
"""Seconds that such a count is used for at the most."""

ISTIO_INTERVAL: Final = 10.0
"""Seconds between readings of Istio's settings in a cluster that joins."""

HEALTH_CHECK_INTERVAL: Final = 1.0
"""Seconds between checks whether a cluster that was away is back."""

CLAIM_POLL: Final = 0.25  # seconds
NOT_READ: Final = "what another writer put there is not read yet"

MOST_OURS: Final = 8
"""Generations that namespaces of one cluster may hold at a time while one follows the other."""

CLUSTER_SCOPED: Final = ""
"""The namespace of objects that are in none."""

SPARE_CONNECTIONS: Final = 4
"""Beside the writers: lists, token requests and the pulse must not wait for a fan-out."""


@dataclass(frozen=True, slots=True)
class MemberDependencies:
    """What the members share with the leader. The callables are called each time, so they follow a reload."""

    publication: PublicationConfig
    trust_domain: TrustDomain
    trust: TrustState
    directives: Callable[[], SigningDirectives]
    listener: SignerListener
    allowed: Callable[[], bool]
    leaf_ttl: Callable[[], float]
    found: Callable[[str, ReadContent, str, str], frozenset[str] | None]
    """Cluster, what another writer published there, where (in words), its namespace; the anchors (SHA-256) in it."""
    changed: Callable[[], None]
    clock: Clock
    jitter: random.Random
    reader: ContentReader
    budgets: Budgets
    turns: Turns
    """Of all clusters together, at writing the bundle."""
    hub: HubIdentity = NO_HUB
    former: Callable[[str], ControllerClusterReport | None] = lambda _: None
    """How that cluster fared when it was reported last, by the leader of then."""
    settled: Callable[[str, frozenset[str], Callable[[str], bool]], None] = lambda *_: None
    """Cluster, all anchors that others' content holds there, and whether a namespace holds the hub's own instead."""
    remembered: Callable[[str], JoiningMemory | None] = no_memory  # how a cluster joined
    awaited: Callable[[str], IstiodWait | None] = (
        not_joining  # whether a cluster that joins gets no certificate for istiod yet
    )


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
        self._state = STARTING.state
        self._since = around.clock.now().timestamp()
        self._lag = Lag(self._since)
        self.recounts = 0
        """How often its namespaces were counted: once for each change, however often they are asked for."""
        self._counted: ReadBack | None = None
        self._count_again_at = 0.0
        self._counted_fresh = False  # whether the watch was, then
        self._changed: set[str] = set()  # namespaces, since then
        self._dirty = True
        self._settled: ReadBack | None = None
        self._istio: IstioSeen | None = None
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
        self._count = NamespaceCount(
            config_map=publication.config_map,
            excluded=publication.excluded_namespaces,
            keeps=self._joining.keeps,
            yields=self._joining.yields,
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
                another_ca=self._another_ca,
                hub=around.hub,
                published=around.trust.is_ours,
                namespaces=None if config.namespace_selector else lambda: self._watch.namespaces_watch,
                revisions=self._webhooks.revisions,
                allowed=around.allowed,
                clock=around.clock,
                jitter=around.jitter,
            ),
        )

        self._former = around.former(str(config.name))
        if self._former is not None:
            self._recall(self._former)

    def _recall(self, former: ControllerClusterReport) -> None:
        """What needed attention before a restart does so still, and since then."""
        publication, now = former.publication, self._clock.monotonic()
        self._publisher.contention.recall(
            publication.contested, publication.other_writers, publication.rival, now
        )
        if former.trust_bundle.state == "contested":
            self._bundle.recall()
        self._istiod.recall(former.control_planes)
        if former.state == self._state and former.since:
            self._since = min(self._since, former.since)

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
                member._read_istio_again,
                member._claim,
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
            self._dirty, self._count_again_at = True, 0.0

    def _noticed(self, namespace: str, old: ObservedConfigMap | None, new: ObservedConfigMap | None) -> None:
        self._changed.add(namespace)
        self._around.changed()
        self._joining.notice(namespace, new)
        if ObjectKey("", namespace) not in self._watch.namespaces:
            self._joining.forget(namespace)
        self._publisher.notice(namespace, old, new)
        if new is not None:
            self._find(
                new.sha256, f"{self._around.publication.config_map} in namespace {namespace}", namespace
            )

    def _bundle_was_seen(self) -> bool:
        remembered = self._around.remembered(str(self.config.name))
        return remembered is not None and remembered.trust_bundle

    def _bundle_noticed(self, observed: ObservedTrustBundle | None) -> None:
        """The watch shows what the ClusterTrustBundle holds."""
        self._dirty = True
        self._around.changed()
        if observed is not None:
            self._joining.notice(CLUSTER_SCOPED, observed.as_config_map())
            self._find(observed.sha256, f"ClusterTrustBundle {self._bundle.name}", CLUSTER_SCOPED)

    def _find(self, digest: str, where: str, place: str) -> frozenset[str] | None:
        """Have what another writer published there read; the anchors in it, None where these are not known."""
        if not digest or self._around.trust.is_ours(digest):
            return frozenset()
        read = self._reading.of(digest, seen=(where, place))
        return None if read is None else self._around.found(str(self.config.name), read, where, place)

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
            self._find(digest, where, place)
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
        self._dirty = True
        self._around.changed()

    def _settle(self, counted: ReadBack) -> None:
        """Say which anchors of others the cluster holds, where it was read completely."""
        bundle = self._bundle.bundle
        if self._settled is counted or not self._watch.fresh or counted.forbidden:
            return
        found = [
            self._find(digest, f"{self._around.publication.config_map} in {counted.where(digest)}", name)
            for digest in counted.contents
            for name in counted.examples[digest][:1]
        ]
        if bundle is not None:
            found.append(self._find(bundle.sha256, f"ClusterTrustBundle {self._bundle.name}", CLUSTER_SCOPED))
        known = [anchors for anchors in found if anchors is not None]
        if len(known) == len(found):
            self._around.settled(str(self.config.name), frozenset().union(*known), self._hides)
            self._settled = counted

    def _hides(self, namespace: str) -> bool:
        """Whether what another writer put there may be away only because the hub wrote over it, or did not read it."""
        if namespace == CLUSTER_SCOPED:
            observed = self._bundle.bundle.as_config_map() if self._bundle.bundle is not None else None
        elif ObjectKey("", namespace) not in self._watch.namespaces:
            return False
        else:
            observed = self._watch.config_maps.get(ObjectKey(namespace, self._around.publication.config_map))
        return observed is None or self._around.trust.is_ours(observed.sha256)

    async def _beat(self) -> None:
        """Follow whether the cluster is there, and be quick when it comes back."""
        while True:
            fresh = self._watch.fresh
            if fresh and not self._was_fresh:
                self._publisher.resume()
                self._dirty = True
            if fresh != self._was_fresh:
                self._around.changed()
            if self._joining.memory_changed():
                self._publisher.notice_all()
                self._dirty = True
            if late := self._joining.overdue():
                self._publisher.check_again(late)
                self._dirty = True
            self._was_fresh = fresh
            # A watch may be back before the next pulse: what the pulse said last must not outlive that.
            troubled = not fresh or self._publisher.tally.cluster_problem
            if (troubled or self._health_check.due) and await self._health_check.check():
                self._watch.renew()
                self._publisher.resume()
                self._bundle.renew()
                self._istiod.renew()
            self._bundle.note_release(self._health_check.version)
            await self._clock.sleep(HEALTH_CHECK_INTERVAL)

    async def _claim(self) -> None:
        """Publish to all namespaces once this hub's mark has been in the first one for a moment."""
        while True:
            other = self._joining.left
            await self._clock.sleep(CLAIM_POLL if self._joining.awaits_claim else HEALTH_CHECK_INTERVAL)
            if self._joining.released() or (other and not self._joining.left):
                self._publisher.notice_all()
                self._dirty = True

    async def _read_istio_again(self) -> None:
        """Read what a cluster that joins has set in its Istio."""
        while True:
            joins = self._joining.under_way
            self._istio = istio_seen(await read_istio(self._session, self.config)) if joins else None
            await self._clock.sleep(ISTIO_INTERVAL if joins else HEALTH_CHECK_INTERVAL)

    def _read_back(self) -> ReadBack:
        """Counted again only after something has changed: reports come every few seconds, changes seldom."""
        tally, fresh = self._publisher.tally, self._watch.fresh
        news = self._dirty or self._counted_fresh != fresh or bool(self._changed) or bool(tally.changed)
        if self._counted is None or (news and not self._may_wait(fresh)):
            self.recounts += 1
            began = self._clock.monotonic()
            left = self._joining.left
            shown = Shown(
                namespaces=self._watch.namespaces,
                config_maps=self._watch.config_maps,
                target=self._publisher.target if fresh else None,
                terminating=tally.terminating,
                forbidden=tally.forbidden,
                failed=tally.failed,
                why_joining=LEFT if left else JOINS,
                basis=self._joining.basis,
            )
            self._counted = self._count.count(shown, None if self._dirty else self._changed | tally.changed)
            self._dirty, self._counted_fresh = False, fresh
            self._changed.clear()
            tally.changed.clear()
            ended = self._clock.monotonic()
            self._count_again_at = ended + min(LONGEST_COUNT_AGE, COUNT_SPACING * (ended - began))
        incomplete = fresh and not self._joining.is_complete and not self._bundle.joining
        if incomplete and self._bundle.status().state != "unknown":
            self._joining.complete(self._counted)
        return self._counted

    def _may_wait(self, fresh: bool) -> bool:
        """Whether the last count will do for a moment, though something has changed since.

        While a bundle is written everywhere each answer is a change, and counting 200 clusters again for each
        evaluation of the gates took half of a core. Only a count that lacks something is used again: what is done
        meanwhile can only be waited for, while one that lacked nothing may be wrong now.
        """
        counted = self._counted
        return (
            counted is not None
            and counted.current + counted.forbidden + counted.failed < counted.selected
            and self._counted_fresh == fresh
            and self._clock.monotonic() < self._count_again_at
        )

    def report(self) -> ControllerClusterReport:
        """How this cluster fares now, by what was read back."""
        planes = self._istiod.report()
        webhooks = self._webhooks.report(self._istiod.facts())
        health, counted = self._derive_health(planes, webhooks), self._read_back()
        proposed = islice(counted.contents, MOST_READ) if counted.joining else ()
        for digest in proposed:  # proposed while it is there
            where = f"{self._around.publication.config_map} in {counted.where(digest)}"
            self._find(digest, where, counted.examples[digest][0])
        if self._bundle.joining and self._bundle.bundle is not None:
            self._find(self._bundle.bundle.sha256, f"ClusterTrustBundle {self._bundle.name}", CLUSTER_SCOPED)
        self._settle(counted)
        leaf, problem = self._probe.leaf, self._probe.problem
        return ControllerClusterReport(
            state=health.state,
            reason=health.reason,
            detail=health.detail,
            remedy=health.remedy,
            since=self._since,
            version=self._health_check.version,
            clock_skew=self._session.clock_skew,
            publication=self._publication_report(),
            probe_not_after=leaf.chain[0].not_after.timestamp() if leaf else 0.0,
            probe_detail=self._no_leaf() if problem or leaf is None else "",
            probe_reason=problem.reason if problem is not None else "",
            probe_remedy=problem.remedy if problem is not None else "",
            probe_chain=[certificate.sha256 for certificate in leaf.chain] if leaf else [],
            trust_bundle=self._bundle.report(),
            control_planes=planes,
            webhooks=webhooks,
            webhooks_detail=self._webhooks.problem or "",
            credential=self._renewal.report,
        )

    def _derive_health(
        self,
        planes: Sequence[ControlPlaneReport] | None = None,
        webhooks: Sequence[WebhookReport] | None = None,
    ) -> ClusterHealth:
        """``planes`` and ``webhooks`` are what is reported of them, where that was put together already."""
        tally, now, counted = self._publisher.tally, self._clock.monotonic(), self._read_back()
        health = derive_health(
            (
                *self._watch.problems,
                tally.cluster_problem,
                self._health_check.problem,
                self._session.budget.problem,
                self._reading.problem,
            ),
            clock_skew=self._session.clock_skew,
            synced=self._watch.synced,
            fresh=self._watch.fresh,
            counted=counted,
            contested=self._publisher.contention.contested(now),
            writers=self._publisher.contention.writers(now),
            config_map=self._around.publication.config_map,
            remedy=tally.remedy,
        )
        rival = self._publisher.contention.rival(now)
        if health.state == "ready" and rival:
            health = other_hub_wrote(rival)
        if health.state == "ready" or health.reason == "other_writers":
            if self._keeps_its_own(counted):
                health = self._joining_health(counted)
            elif counted.yielded:
                health = self._joining.yielding(counted.contents, counted.yielded_to, counted.yielded)
        if health.state == "ready":
            if webhooks is None:
                webhooks = self._webhooks.report(self._istiod.facts())
            health = self._istiod.health(planes) or webhook_health(webhooks, self._webhooks.unread) or health
        if health.state != self._state:
            self._state, self._since = health.state, self._clock.now().timestamp()
            former, self._former = self._former, None
            if former is not None and former.state == health.state:
                self._since = min(self._since, former.since or self._since)
        return health

    def _publication_report(self) -> PublicationReport:
        counted, now = self._read_back(), self._clock.now().timestamp()
        complete = 0 < counted.selected == counted.current
        silent = self._clock.monotonic() - self._watch.last_seen
        return publication_report(
            counted,
            self._publisher.tally,
            self._around.trust,
            fresh=self._watch.fresh,
            lag=self._lag.of(
                self._around.trust.for_cluster(str(self.config.name)), complete=complete, now=now
            ),
            read_back=now - silent if self._watch.synced else 0.0,
            writers=sorted(
                {*self._publisher.contention.writers(self._clock.monotonic()), *counted.yielded_to}
            ),
            contested=self._publisher.contention.contested(self._clock.monotonic()),
            rival=self._publisher.contention.rival(self._clock.monotonic()),
        )

    def _another_ca(self) -> str | None:
        """Why istiod's callers may not trust the hub yet: it joins, or another's roots are there; None if they may."""
        if not self._watch.fresh:
            return "its namespaces are not read back"
        if other := self._joining.other_hub:
            return f"another hub publishes there, of the identity {other}"
        if self._joining.claims:
            return "its bundle does not bear this hub's mark yet, and may be another hub's"
        if self._joining.ahead:
            return "the state is older than what was published there"
        awaited = self._around.awaited(str(self.config.name))
        if awaited is not None:
            return awaited.reason
        contents = self._read_back().contents
        others = sum(count for digest, count in contents.items() if not self._around.trust.is_ours(digest))
        return f"{others} namespaces hold roots that are not the hub's" if others else None

    def _keeps_its_own(self, counted: ReadBack) -> bool:
        return bool(counted.joining) or self._bundle.joining or self._joining.left

    def _joining_health(self, counted: ReadBack) -> ClusterHealth:
        observed = self._bundle.bundle if self._bundle.joining else None
        return self._joining.health({*counted.contents, *([observed.sha256] if observed is not None else ())})

    @property
    def is_read(self) -> bool:
        """Whether it is known now what its namespaces have."""
        return self._watch.fresh

    def facts(self) -> MemberFacts:
        """What it was read back to have, for the gates of a rotation and for how it joins."""
        observed, silent = self._bundle.bundle, self._clock.monotonic() - self._bundle.last_seen
        anchors = None
        if observed is not None:
            anchors = frozenset(c.sha256 for c in self._bundle_content(observed).certificates)
        facts = with_bundle(
            self._namespace_facts(),
            self._bundle.name,
            self._bundle.status(),
            met=self._bundle.met,
            anchors=anchors,
            read_back_at=self._clock.now().timestamp() - silent,
        )
        counted = self._read_back()
        joins = counted.joining and not self._joining.left
        certificates, unreadable = self._joining.missing(counted.contents) if joins else ([], False)
        unaccepted = [named([certificate]) for certificate in certificates]
        return replace(
            facts,
            trust_bundle=self._bundle.existed,
            control_planes=self._istiod.facts(),
            webhooks=self._webhooks.found,
            webhooks_detail=self._webhooks.problem or "",
            webhooks_read_at=self._webhooks.read_at,
            unaccepted=(*unaccepted, *(["a CA that cannot be read"] if unreadable else [])),
            distributors=counted.writers,
            istio=self._istio,
            ahead=self._joining.ahead if self._watch.fresh else None,
            other=self._joining.other_hub if self._watch.fresh else None,
        )

    def _namespace_facts(self) -> MemberFacts:
        counted, now, own = self._read_back(), self._clock.now().timestamp(), self._joining.own
        if not self._watch.fresh:
            why = self._derive_health()
            detail = why.detail or why.reason or "its watches are silent"
            return MemberFacts(anchors=None, detail=detail, own=own)
        if self._keeps_its_own(counted):
            detail = self._joining_health(counted).detail
            return MemberFacts(anchors=None, detail=detail, own=own, joining=not self._joining.left)
        if counted.forbidden:
            names = ", ".join(sorted(self._publisher.tally.forbidden)[:EXAMPLES])
            detail = f"{counted.forbidden} namespaces refuse the hub, such as {names}"
            return MemberFacts(anchors=None, detail=detail, own=own)
        common = None
        for digest in counted.contents:
            content = self._content(digest, counted)
            anchors = frozenset(c.sha256 for c in content.certificates)
            common = anchors if common is None else common & anchors
        if sum(counted.contents.values()) < counted.selected:
            common = frozenset()
        return MemberFacts(
            own=own,
            anchors=frozenset() if common is None else common,
            current=counted.selected == counted.current,
            read_back_at=now - (self._clock.monotonic() - self._watch.last_seen),
            detail=f"{counted.current} of {counted.selected} namespaces hold what is meant for them{counted.others}",
        )

    def party(self) -> Participant | Absent:
        """What it brings to the proof, or why it brings nothing."""
        name = str(self.config.name)
        if not self._watch.fresh:
            health = self._derive_health()
            return Absent(
                name, f"not read back: {health.detail or health.reason or 'its watches are silent'}"
            )
        counted = self._read_back()
        if self._keeps_its_own(counted):
            return Absent(name, self._joining_health(counted).detail)
        if counted.yielded:
            return Absent(name, self._derive_health().detail)
        bundle = self._bundle.status()
        if bundle.state == "unknown" or self._bundle.yielded:
            return Absent(name, f"ClusterTrustBundle {self._bundle.name}: {bundle.detail}")
        leaf = self._probe.current(self._clock.now())
        if leaf is None:
            return Absent(name, f"no probe leaf: {self._no_leaf()}")
        if not counted.contents:
            return Absent(name, "no namespace holds a bundle yet")
        if (unread := self._unread(counted)) is not None:
            return Absent(name, unread)
        contents = {digest: self._content(digest, counted) for digest in counted.contents}
        in_bundle = self._bundle.bundle
        if in_bundle is not None and in_bundle.sha256 not in contents:
            contents[in_bundle.sha256] = self._bundle_content(in_bundle)
        delivered = self._contents.note(leaf.delivered.decode("ascii"))
        if delivered not in contents:
            contents[delivered] = self._around.reader.read(
                leaf.delivered,
                sha256=delivered,
                where="what the signer delivers with its leaves",
                generation=self._around.trust.numbers.get(delivered, 0),
            )
        ordered = tuple(contents[digest] for digest in sorted(contents))
        target = self._publisher.target
        everywhere = counted.selected == counted.current and (not bundle.counted or self._bundle.met)
        generation = target.generation if target is not None and everywhere else 0
        return Participant(name, leaf.chain, leaf.key_pem, leaf.identity, ordered, generation)

    def unproved(self, proved: frozenset[str]) -> str | None:
        """Why a proof with these contents (SHA-256) says nothing of what is there by now; None where it does."""
        if not self._watch.fresh:
            health = self._derive_health()
            return f"not read back: {health.detail or health.reason or 'its watches are silent'}"
        counted, bundle = self._read_back(), self._bundle.bundle
        lacking = counted.selected - sum(counted.contents.values())
        if lacking > 0:
            return f"{lacking} of {counted.selected} namespaces hold no bundle{counted.others}"
        if other := sorted(counted.contents.keys() - proved):
            return f"not proved again since {counted.where(other[0])} got another content"
        if bundle is not None and bundle.sha256 not in proved:
            return f"not proved again since ClusterTrustBundle {self._bundle.name} got another content"
        return None

    def _unread(self, counted: ReadBack) -> str | None:
        """Why not all that is there is known; None where it is."""
        if len(counted.contents) > MOST_READ + MOST_OURS:
            return (
                f"{len(counted.contents)} different contents are there, and no more than {MOST_READ} are read"
            )
        contents = (self._content(digest, counted) for digest in counted.contents)
        return next(
            (f"{content.where}: {NOT_READ}" for content in contents if content.problem == NOT_READ), None
        )

    def _content(self, digest: str, counted: ReadBack) -> BundleContent:
        return self._read(digest, counted.where(digest))

    def _bundle_content(self, observed: ObservedTrustBundle) -> BundleContent:
        return self._read(observed.sha256, f"ClusterTrustBundle {self._bundle.name}")

    def _read(self, digest: str, where: str) -> BundleContent:
        if digest not in self._contents:
            return BundleContent(
                digest, (), where, problem="more different contents are there than the hub remembers"
            )
        if self._around.trust.is_ours(digest):
            pem = self._contents.get(digest) or b""
            number = self._around.trust.numbers.get(digest, 0)
            return self._around.reader.read(pem, sha256=digest, where=where, generation=number)
        read = self._reading.of(digest)
        if read is None:
            return BundleContent(digest, (), where, problem=NOT_READ)
        return BundleContent(digest, read.certificates, where, 0, read.problem)

    def _no_leaf(self) -> str:
        if self._probe.problem is not None:
            return str(self._probe.problem)
        return "it has expired" if self._probe.leaf else "none was requested yet"
