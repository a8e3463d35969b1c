"""What is read back of one member cluster: its report, its facts for the gates, and its part in the proof."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final

from federation.clusters.health import ClusterHealth
from federation.controller.cluster_report import STARTING, derive_health, publication_report
from federation.controller.in_force import TrustState
from federation.controller.proof.listener_check import SignerListener
from federation.controller.proof.matrix import Absent, BundleContent, ContentReader, Participant
from federation.controller.proof.probe import Probe
from federation.controller.publication.cluster_trust_bundle import (
    ObservedTrustBundle,
    TrustBundlePublisher,
    with_bundle,
)
from federation.controller.publication.config_map import Contents
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
    LatestCount,
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
from federation.controller.rotation.observer import IstiodWait, not_joining
from federation.core.clock import Clock
from federation.core.config.clusters import ClusterConfig
from federation.core.config.hub import PublicationConfig
from federation.core.documents.controller import (
    ControllerClusterReport,
    ControlPlaneReport,
    PublicationReport,
    WebhookReport,
)
from federation.core.documents.trust import Generation
from federation.core.identity import NO_HUB, HubIdentity, TrustDomain
from federation.core.rotation.effects import SigningDirectives
from federation.core.trust.joining import IstioSeen
from federation.kubernetes.budget import Budgets
from federation.kubernetes.objects import ObjectKey
from federation.kubernetes.session import ClusterSession
from federation.kubernetes.token_renewal import TokenRenewal

NOT_READ: Final = "what another writer put there is not read yet"

MOST_OURS: Final = 8
"""Generations that namespaces of one cluster may hold at a time while one follows the other."""

CLUSTER_SCOPED: Final = ""
"""The namespace of objects that are in none."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberParts:
    """What works for one member cluster while this controller leads."""

    session: ClusterSession
    watch: ClusterWatch
    publisher: Publisher
    bundle: TrustBundlePublisher
    probe: Probe
    webhooks: IstioWebhooks
    istiod: IstiodCertificates
    joining: Joining
    contents: Contents
    reading: ForeignContents
    renewal: TokenRenewal
    health_check: HealthCheck


class MemberReadings:
    """Of one member, at the moment in which they are asked for. Nothing here writes to the cluster."""

    def __init__(self, config: ClusterConfig, around: MemberDependencies, parts: MemberParts) -> None:
        self._config = config
        self._around = around
        self._clock = around.clock
        self._of = parts
        self._state = STARTING.state
        self._since = around.clock.now().timestamp()
        self._lag = Lag(self._since)
        self._settled: ReadBack | None = None
        self._former: ControllerClusterReport | None = None
        self.istio: IstioSeen | None = None
        """What a cluster that joins has set in its Istio, as it was read last."""
        self.count: Final = LatestCount(
            NamespaceCount(
                config_map=around.publication.config_map,
                excluded=around.publication.excluded_namespaces,
                keeps=parts.joining.keeps,
                yields=parts.joining.yields,
            ),
            around.clock,
        )

    def recall(self, former: ControllerClusterReport) -> None:
        """It was reported so before a restart: what is as it was then is so since then."""
        self._former = former
        if former.state == self._state and former.since:
            self._since = min(self._since, former.since)

    def _generation(self) -> Generation | None:
        return self._around.trust.for_cluster(str(self._config.name))

    @property
    def is_read(self) -> bool:
        """Whether it is known now what its namespaces have."""
        return self._of.watch.fresh

    def find(self, digest: str, where: str, place: str) -> frozenset[str] | None:
        """Have what another writer published there read; the anchors in it, None where these are not known."""
        if not digest or self._around.trust.is_ours(digest):
            return frozenset()
        read = self._of.reading.of(digest, seen=(where, place))
        return None if read is None else self._around.found(str(self._config.name), read, where, place)

    def _settle(self, counted: ReadBack) -> None:
        """Say which anchors of others the cluster holds, where it was read completely."""
        bundle = self._of.bundle.bundle
        if self._settled is counted or not self._of.watch.fresh or counted.forbidden:
            return
        found = [
            self.find(digest, f"{self._around.publication.config_map} in {counted.where(digest)}", name)
            for digest in counted.contents
            for name in counted.examples[digest][:1]
        ]
        if bundle is not None:
            found.append(
                self.find(bundle.sha256, f"ClusterTrustBundle {self._of.bundle.name}", CLUSTER_SCOPED)
            )
        known = [anchors for anchors in found if anchors is not None]
        if len(known) == len(found):
            self._around.settled(str(self._config.name), frozenset().union(*known), self._hides)
            self._settled = counted

    def _hides(self, namespace: str) -> bool:
        """Whether what another writer put there may be away only because the hub wrote over it, or did not read it."""
        if namespace == CLUSTER_SCOPED:
            observed = self._of.bundle.bundle.as_config_map() if self._of.bundle.bundle is not None else None
        elif ObjectKey("", namespace) not in self._of.watch.namespaces:
            return False
        else:
            observed = self._of.watch.config_maps.get(
                ObjectKey(namespace, self._around.publication.config_map)
            )
        return observed is None or self._around.trust.is_ours(observed.sha256)

    def _read_back(self) -> ReadBack:
        tally, fresh, bundle = self._of.publisher.tally, self._of.watch.fresh, self._of.bundle
        counted = self.count.read(self._shown, changed=tally.changed, fresh=fresh)
        incomplete = fresh and not self._of.joining.is_complete and not bundle.joining
        if incomplete and bundle.status().state != "unknown":
            self._of.joining.complete(counted)
        return counted

    def _shown(self) -> Shown:
        watch, publisher, joining = self._of.watch, self._of.publisher, self._of.joining
        return Shown(
            namespaces=watch.namespaces,
            config_maps=watch.config_maps,
            target=publisher.target if watch.fresh else None,
            terminating=publisher.tally.terminating,
            forbidden=publisher.tally.forbidden,
            failed=publisher.tally.failed,
            why_joining=LEFT if joining.left else JOINS,
            basis=joining.basis,
        )

    def report(self) -> ControllerClusterReport:
        """How this cluster fares now, by what was read back."""
        planes = self._of.istiod.report()
        webhooks = self._of.webhooks.report(self._of.istiod.facts())
        health, counted = self._derive_health(planes, webhooks), self._read_back()
        proposed = islice(counted.contents, MOST_READ) if counted.joining else ()
        for digest in proposed:  # proposed while it is there
            where = f"{self._around.publication.config_map} in {counted.where(digest)}"
            self.find(digest, where, counted.examples[digest][0])
        if self._of.bundle.joining and self._of.bundle.bundle is not None:
            self.find(
                self._of.bundle.bundle.sha256, f"ClusterTrustBundle {self._of.bundle.name}", CLUSTER_SCOPED
            )
        self._settle(counted)
        leaf, problem = self._of.probe.leaf, self._of.probe.problem
        return ControllerClusterReport(
            state=health.state,
            reason=health.reason,
            detail=health.detail,
            remedy=health.remedy,
            since=self._since,
            version=self._of.health_check.version,
            clock_skew=self._of.session.clock_skew,
            publication=self._publication_report(),
            probe_not_after=leaf.chain[0].not_after.timestamp() if leaf else 0.0,
            probe_detail=self._no_leaf() if problem or leaf is None else "",
            probe_reason=problem.reason if problem is not None else "",
            probe_remedy=problem.remedy if problem is not None else "",
            probe_chain=[certificate.sha256 for certificate in leaf.chain] if leaf else [],
            trust_bundle=self._of.bundle.report(),
            control_planes=planes,
            webhooks=webhooks,
            webhooks_detail=self._of.webhooks.problem or "",
            credential=self._of.renewal.report,
        )

    def _derive_health(
        self,
        planes: Sequence[ControlPlaneReport] | None = None,
        webhooks: Sequence[WebhookReport] | None = None,
    ) -> ClusterHealth:
        """``planes`` and ``webhooks`` are what is reported of them, where that was put together already."""
        tally, now, counted = self._of.publisher.tally, self._clock.monotonic(), self._read_back()
        health = derive_health(
            (
                *self._of.watch.problems,
                tally.cluster_problem,
                self._of.health_check.problem,
                self._of.session.budget.problem,
                self._of.reading.problem,
            ),
            clock_skew=self._of.session.clock_skew,
            synced=self._of.watch.synced,
            fresh=self._of.watch.fresh,
            counted=counted,
            contested=self._of.publisher.contention.contested(now),
            writers=self._of.publisher.contention.writers(now),
            config_map=self._around.publication.config_map,
            remedy=tally.remedy,
        )
        rival = self._of.publisher.contention.rival(now)
        if health.state == "ready" and rival:
            health = other_hub_wrote(rival)
        if health.state == "ready" or health.reason == "other_writers":
            if self._keeps_its_own(counted):
                health = self._joining_health(counted)
            elif counted.yielded:
                health = self._of.joining.yielding(counted.contents, counted.yielded_to, counted.yielded)
        if health.state == "ready":
            if webhooks is None:
                webhooks = self._of.webhooks.report(self._of.istiod.facts())
            health = (
                self._of.istiod.health(planes) or webhook_health(webhooks, self._of.webhooks.unread) or health
            )
        if health.state != self._state:
            self._state, self._since = health.state, self._clock.now().timestamp()
            former, self._former = self._former, None
            if former is not None and former.state == health.state:
                self._since = min(self._since, former.since or self._since)
        return health

    def _publication_report(self) -> PublicationReport:
        counted, now = self._read_back(), self._clock.now().timestamp()
        complete = 0 < counted.selected == counted.current
        silent = self._clock.monotonic() - self._of.watch.last_seen
        return publication_report(
            counted,
            self._of.publisher.tally,
            self._around.trust,
            fresh=self._of.watch.fresh,
            lag=self._lag.of(self._generation(), complete=complete, now=now),
            read_back=now - silent if self._of.watch.synced else 0.0,
            writers=sorted(
                {*self._of.publisher.contention.writers(self._clock.monotonic()), *counted.yielded_to}
            ),
            contested=self._of.publisher.contention.contested(self._clock.monotonic()),
            rival=self._of.publisher.contention.rival(self._clock.monotonic()),
        )

    def another_ca(self) -> str | None:
        """Why istiod's callers may not trust the hub yet: it joins, or another's roots are there; None if they may."""
        if not self._of.watch.fresh:
            return "its namespaces are not read back"
        if other := self._of.joining.other_hub:
            return f"another hub publishes there, of the identity {other}"
        if self._of.joining.claims:
            return "its bundle does not bear this hub's mark yet, and may be another hub's"
        if self._of.joining.ahead:
            return "the state is older than what was published there"
        awaited = self._around.awaited(str(self._config.name))
        if awaited is not None:
            return awaited.reason
        contents = self._read_back().contents
        others = sum(count for digest, count in contents.items() if not self._around.trust.is_ours(digest))
        return f"{others} namespaces hold roots that are not the hub's" if others else None

    def _keeps_its_own(self, counted: ReadBack) -> bool:
        return bool(counted.joining) or self._of.bundle.joining or self._of.joining.left

    def _joining_health(self, counted: ReadBack) -> ClusterHealth:
        observed = self._of.bundle.bundle if self._of.bundle.joining else None
        return self._of.joining.health(
            {*counted.contents, *([observed.sha256] if observed is not None else ())}
        )

    def facts(self) -> MemberFacts:
        """What it was read back to have, for the gates of a rotation and for how it joins."""
        observed, silent = self._of.bundle.bundle, self._clock.monotonic() - self._of.bundle.last_seen
        anchors = None
        if observed is not None:
            anchors = frozenset(c.sha256 for c in self._bundle_content(observed).certificates)
        facts = with_bundle(
            self._namespace_facts(),
            self._of.bundle.name,
            self._of.bundle.status(),
            met=self._of.bundle.met,
            anchors=anchors,
            read_back_at=self._clock.now().timestamp() - silent,
        )
        counted = self._read_back()
        joins = counted.joining and not self._of.joining.left
        certificates, unreadable = self._of.joining.missing(counted.contents) if joins else ([], False)
        unaccepted = [named([certificate]) for certificate in certificates]
        return replace(
            facts,
            trust_bundle=self._of.bundle.existed,
            control_planes=self._of.istiod.facts(),
            webhooks=self._of.webhooks.found,
            webhooks_detail=self._of.webhooks.problem or "",
            webhooks_read_at=self._of.webhooks.read_at,
            unaccepted=(*unaccepted, *(["a CA that cannot be read"] if unreadable else [])),
            distributors=counted.writers,
            istio=self.istio,
            ahead=self._of.joining.ahead if self._of.watch.fresh else None,
            other=self._of.joining.other_hub if self._of.watch.fresh else None,
        )

    def _namespace_facts(self) -> MemberFacts:
        counted, now, own = self._read_back(), self._clock.now().timestamp(), self._of.joining.own
        if not self._of.watch.fresh:
            why = self._derive_health()
            detail = why.detail or why.reason or "its watches are silent"
            return MemberFacts(anchors=None, detail=detail, own=own)
        if self._keeps_its_own(counted):
            detail = self._joining_health(counted).detail
            return MemberFacts(anchors=None, detail=detail, own=own, joining=not self._of.joining.left)
        if counted.forbidden:
            names = ", ".join(sorted(self._of.publisher.tally.forbidden)[:EXAMPLES])
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
            read_back_at=now - (self._clock.monotonic() - self._of.watch.last_seen),
            detail=f"{counted.current} of {counted.selected} namespaces hold what is meant for them{counted.others}",
        )

    def party(self) -> Participant | Absent:
        """What it brings to the proof, or why it brings nothing."""
        name = str(self._config.name)
        if not self._of.watch.fresh:
            health = self._derive_health()
            return Absent(
                name, f"not read back: {health.detail or health.reason or 'its watches are silent'}"
            )
        counted = self._read_back()
        if self._keeps_its_own(counted):
            return Absent(name, self._joining_health(counted).detail)
        if counted.yielded:
            return Absent(name, self._derive_health().detail)
        bundle = self._of.bundle.status()
        if bundle.state == "unknown" or self._of.bundle.yielded:
            return Absent(name, f"ClusterTrustBundle {self._of.bundle.name}: {bundle.detail}")
        leaf = self._of.probe.current(self._clock.now())
        if leaf is None:
            return Absent(name, f"no probe leaf: {self._no_leaf()}")
        if not counted.contents:
            return Absent(name, "no namespace holds a bundle yet")
        if (unread := self._unread(counted)) is not None:
            return Absent(name, unread)
        contents = {digest: self._content(digest, counted) for digest in counted.contents}
        in_bundle = self._of.bundle.bundle
        if in_bundle is not None and in_bundle.sha256 not in contents:
            contents[in_bundle.sha256] = self._bundle_content(in_bundle)
        delivered = self._of.contents.note(leaf.delivered.decode("ascii"))
        if delivered not in contents:
            contents[delivered] = self._around.reader.read(
                leaf.delivered,
                sha256=delivered,
                where="what the signer delivers with its leaves",
                generation=self._around.trust.numbers.get(delivered, 0),
            )
        ordered = tuple(contents[digest] for digest in sorted(contents))
        target = self._of.publisher.target
        everywhere = counted.selected == counted.current and (not bundle.counted or self._of.bundle.met)
        generation = target.generation if target is not None and everywhere else 0
        return Participant(name, leaf.chain, leaf.key_pem, leaf.identity, ordered, generation)

    def unproved(self, proved: frozenset[str]) -> str | None:
        """Why a proof with these contents (SHA-256) says nothing of what is there by now; None where it does."""
        if not self._of.watch.fresh:
            health = self._derive_health()
            return f"not read back: {health.detail or health.reason or 'its watches are silent'}"
        counted, bundle = self._read_back(), self._of.bundle.bundle
        lacking = counted.selected - sum(counted.contents.values())
        if lacking > 0:
            return f"{lacking} of {counted.selected} namespaces hold no bundle{counted.others}"
        if other := sorted(counted.contents.keys() - proved):
            return f"not proved again since {counted.where(other[0])} got another content"
        if bundle is not None and bundle.sha256 not in proved:
            return f"not proved again since ClusterTrustBundle {self._of.bundle.name} got another content"
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
        return self._read(observed.sha256, f"ClusterTrustBundle {self._of.bundle.name}")

    def _read(self, digest: str, where: str) -> BundleContent:
        if digest not in self._of.contents:
            return BundleContent(
                digest, (), where, problem="more different contents are there than the hub remembers"
            )
        if self._around.trust.is_ours(digest):
            pem = self._of.contents.get(digest) or b""
            number = self._around.trust.numbers.get(digest, 0)
            return self._around.reader.read(pem, sha256=digest, where=where, generation=number)
        read = self._of.reading.of(digest)
        if read is None:
            return BundleContent(digest, (), where, problem=NOT_READ)
        return BundleContent(digest, read.certificates, where, 0, read.problem)

    def _no_leaf(self) -> str:
        if self._of.probe.problem is not None:
            return str(self._of.probe.problem)
        return "it has expired" if self._of.probe.leaf else "none was requested yet"
