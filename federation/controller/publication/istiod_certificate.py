"""Keeps istiod's certificate in a member cluster: the Secret ``istiod-tls`` in each namespace that has an istiod.

istiod reads its files when it starts and makes none of its own without a CA server, so the Secret is written as soon
as the namespace is there. A namespace that does not exist has no istiod and is no error.

As everywhere in publication: what is done follows from what the watch shows, nothing is written where nothing would
change, what others keep changing is restored less and less often, and only what was read back counts. Certificate and
key that are there and good stay, so that neither a restart nor another leader makes istiod reload anything.

The Secret is watched by its name, in a namespace that need not exist. The right to it is granted in its own namespace
(a Role there), so nothing is watched before the namespace exists, and what is forbidden at one moment may be granted
at the next: it is tried again every few seconds.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256
from math import inf
from typing import Final, Generic, TypeVar

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from federation.clusters.health import ClusterHealth
from federation.controller.generations import bundle_of
from federation.controller.own_certificates import OwnAccount, Reply
from federation.controller.publication.config_map import APPLY
from federation.controller.publication.istiod_secret import (
    MOST_CHARACTERS,
    MOST_NAMES,
    Examined,
    ObservedSecret,
    SecretStep,
    Sight,
    WantedSecret,
    apply_body,
    decode_secret,
    dns_names,
    examine,
    is_of_another_issuer,
    istiod_certificate_state,
    next_step,
    renewal_of,
)
from federation.controller.publication.observed import NAMESPACES
from federation.controller.publication.publisher import Contention, Relists
from federation.core.clock import Clock
from federation.core.config.clusters import ClusterConfig, ClusterTimeouts
from federation.core.documents.controller import ControlPlaneReport
from federation.core.documents.trust import Generation
from federation.core.errors import ClusterError, ClusterThrottled, FederationError, InvalidValue, NotReady
from federation.core.identity import NO_HUB, HubIdentity
from federation.core.istio.istiod import istiod_names
from federation.core.pki.chain import verify_chain
from federation.core.pki.keys import private_key_pem
from federation.core.pki.path_rules import Purpose
from federation.core.pki.pem import encode_certificates
from federation.core.rotation.world import ControlPlane
from federation.kubernetes.backoff import Backoff
from federation.kubernetes.objects import FIELD_MANAGER, METADATA_ONLY, ObjectKey, ObjectMeta, decode_metadata
from federation.kubernetes.reflector import Change, Reflector
from federation.kubernetes.session import ClusterSession

_logger = logging.getLogger(__name__)

TICK: Final = 0.25
"""Seconds between two looks at a Secret that is not as it should be."""

TICK_SETTLED: Final = 1.0
"""The same for one that is, and between two looks whether its namespace is still there. Every wait that ends takes some
ten microseconds, which at rest are most of what 200 clusters cost."""

LONGEST_WATCH_BACKOFF: Final = 5.0
"""Seconds between attempts at a Secret that may not be watched: istiod may be waiting for it."""

T = TypeVar("T")


class _Running(Generic[T]):
    """A reflector with its task."""

    def __init__(self, reflector: Reflector[T]) -> None:
        self.reflector = reflector
        self._task = asyncio.create_task(reflector.run())

    def check(self) -> None:
        """A reflector survives every failure of its cluster; what ends it is a bug, which is raised here."""
        if self._task.done():
            self._task.result()

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


class SecretWatch:
    """The Secret ``name`` in ``namespace``; ``on_change`` gets the Secret before and after a change."""

    def __init__(
        self,
        session: ClusterSession,
        *,
        namespace: str,
        name: str,
        timeouts: ClusterTimeouts,
        clock: Clock,
        jitter: random.Random,
        on_change: Callable[[ObservedSecret | None, ObservedSecret | None], None],
        namespaces: Callable[[], Reflector[ObjectMeta]] | None = None,
    ) -> None:
        """``namespaces`` is the watch of all of them, where there is one: it spares a connection of its own."""
        self._session = session
        self._shared = namespaces
        self._namespace = namespace
        self._name = name
        longest = min(LONGEST_WATCH_BACKOFF, timeouts.backoff_longest)
        self._timeouts = replace(timeouts, backoff_longest=max(longest, timeouts.backoff_first))
        self._clock = clock
        self._jitter = jitter
        self._on_change = on_change
        self._kicked = False
        self._places: _Running[ObjectMeta] | None = None
        self._secrets: _Running[ObservedSecret] | None = None

    @property
    def path(self) -> str:
        """Where the Secret is."""
        return f"{self._collection}/{self._name}"

    @property
    def _place(self) -> Reflector[ObjectMeta] | None:
        if self._shared is not None:
            return self._shared()
        return self._places.reflector if self._places is not None else None

    @property
    def present(self) -> bool | None:
        """Whether the namespace exists and is not being deleted; None while that is not known."""
        place = self._place
        if place is None or not place.synced:
            return None
        meta = place.items.get(ObjectKey("", self._namespace))
        return meta is not None and meta.deletion is None

    @property
    def secret(self) -> ObservedSecret | None:
        """The Secret as last read; None where there is none, or nothing was read."""
        if self._secrets is None:
            return None
        return self._secrets.reflector.items.get(ObjectKey(self._namespace, self._name))

    @property
    def fresh(self) -> bool:
        """True while what :attr:`present` and :attr:`secret` say is read back."""
        place = self._place
        if place is None or not place.synced or not place.fresh:
            return False
        if not self.present:
            return True
        watch = self._secrets.reflector if self._secrets is not None else None
        return watch is not None and watch.synced and watch.fresh

    @property
    def last_seen(self) -> float:
        """When the cluster was last seen on the watch that was silent longer, by the monotonic clock."""
        return min((watch.last_seen for watch in self._watches), default=float("-inf"))

    @property
    def problem(self) -> ClusterError | None:
        """Why it is not watched at present."""
        problems = (watch.problem for watch in self._watches)
        return next((problem for problem in problems if problem is not None), None)

    @property
    def _watches(self) -> Iterator[Reflector[ObjectMeta] | Reflector[ObservedSecret]]:
        place = self._place
        if place is not None:
            yield place
        if self._secrets is not None:
            yield self._secrets.reflector

    def renew(self) -> None:
        """Begin anew at once: the cluster has come back."""
        self._kicked = True

    async def run(self) -> None:
        """Watch until cancelled."""
        try:
            while True:
                await self._adjust()
                await self._clock.sleep(TICK if self._secrets is None else TICK_SETTLED)
        finally:
            await self._stop_all()

    async def _adjust(self) -> None:
        """Watch what there is to watch."""
        if self._kicked:
            self._kicked = False
            await self._stop_all()
        if self._shared is None and self._places is None:
            self._places = _Running(self._watch_namespace())
        if self._places is not None:
            self._places.check()
        secrets = self._secrets
        if secrets is not None:
            secrets.check()
            if self.present is False:
                self._secrets = None
                await secrets.stop()
        if self.present and self._secrets is None:
            self._secrets = _Running(self._watch_secret())

    async def _stop_all(self) -> None:
        running = [w for w in (self._places, self._secrets) if w is not None]
        self._places = self._secrets = None
        for watch in running:
            await watch.stop()

    @property
    def _collection(self) -> str:
        return f"/api/v1/namespaces/{self._namespace}/secrets"

    def _watch_namespace(self) -> Reflector[ObjectMeta]:
        return Reflector(
            self._session,
            NAMESPACES,
            decode=decode_metadata,
            accept=METADATA_ONLY,
            field_selector=f"metadata.name={self._namespace}",
            timeouts=self._timeouts,
            clock=self._clock,
            jitter=self._jitter,
        )

    def _watch_secret(self) -> Reflector[ObservedSecret]:
        def changed(change: Change[ObservedSecret]) -> None:
            if self._secrets is not None and self._secrets.reflector is watch:
                self._on_change(change.old, change.new)

        watch: Reflector[ObservedSecret] = Reflector(
            self._session,
            self._collection,
            decode=decode_secret,
            field_selector=f"metadata.name={self._name}",
            timeouts=self._timeouts,
            clock=self._clock,
            jitter=self._jitter,
            on_change=changed,
        )
        return watch


CONFIRM: Final = 10.0
"""Seconds within which the watch should show a write; then it is checked again."""

LONGEST_BACKOFF: Final = 15.0
JUDGE_AGAIN: Final = 10.0
"""Seconds after which a Secret that is not good is judged anew: time alone may have made it so."""

REASON: Final = "control_plane"

_APPLY_PARAMS: Final = {"fieldManager": FIELD_MANAGER, "force": "true"}


@dataclass(frozen=True, slots=True)
class Around:
    """What the Secrets' publishers need of their member. The callables are called each time, so they follow a reload.

    ``generation`` is the one that the cluster is to hold, ``issuer`` the intermediate (SHA-256) that signs for it by
    order (empty: no order says). ``another_ca`` says why istiod's callers may not trust the hub yet (None: they do).
    ``revisions`` are those found in a namespace, beside those configured. ``hub`` is this hub, and ``published`` says
    whether it has published a bundle of that SHA-256.
    """

    generation: Callable[[], Generation | None]
    issuer: Callable[[], str]
    another_ca: Callable[[], str | None]
    revisions: Callable[[str], tuple[str, ...]]
    allowed: Callable[[], bool]
    clock: Clock
    jitter: random.Random
    hub: HubIdentity = NO_HUB
    published: Callable[[str], bool] = lambda _: False
    namespaces: Callable[[], Reflector[ObjectMeta]] | None = None
    """The watch of all namespaces of the cluster; None where not all are watched."""


class IstiodCertificates:
    """The Secrets of one cluster."""

    def __init__(
        self, session: ClusterSession, cluster: ClusterConfig, account: OwnAccount, around: Around
    ) -> None:
        self._istio = cluster.istio
        wanted = self._istio.namespaces if self._istio.provide_certificate else ()
        self._slots = [_SecretPublisher(session, cluster, namespace, account, around) for namespace in wanted]

    async def run(self) -> None:
        """Keep every Secret until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for slot in self._slots:
                tasks.create_task(slot.run())
            await asyncio.get_running_loop().create_future()

    def renew(self) -> None:
        """The cluster is back: watch anew at once, and wait no longer."""
        for slot in self._slots:
            slot.renew()

    def recall(self, former: Iterable[ControlPlaneReport]) -> None:
        """Go on from where others kept changing a Secret when the last controller was killed."""
        reports = {(report.namespace, report.secret): report for report in former if report.contested}
        for slot in self._slots:
            if report := reports.get((slot.namespace, self._istio.secret)):
                slot.recall(report.writers)

    def report(self) -> list[ControlPlaneReport]:
        """How each Secret fares."""
        if not self._istio.provide_certificate:
            detail = "provide_certificate = false: another issuer provides it"
            return [
                ControlPlaneReport(namespace=n, secret=self._istio.secret, state="off", detail=detail)
                for n in self._istio.namespaces
            ]
        return [slot.report() for slot in self._slots]

    def health(self, reports: Iterable[ControlPlaneReport] | None = None) -> ClusterHealth | None:
        """What is wrong with the first control plane that is not served as it should be, by :meth:`report`."""
        for report in self.report() if reports is None else reports:
            if report.attention:
                detail = f"{report.namespace}/{report.secret}: {report.detail}"
                return ClusterHealth("degraded", REASON, detail, report.remedy)
        return None

    def facts(self) -> tuple[ControlPlane, ...]:
        """The Secrets of namespaces that exist, or of which nothing is known, for the gates of a rotation."""
        return tuple(slot.facts() for slot in self._slots if slot.present is not False)


class _SecretPublisher:
    """One Secret."""

    def __init__(
        self,
        session: ClusterSession,
        cluster: ClusterConfig,
        namespace: str,
        account: OwnAccount,
        around: Around,
    ) -> None:
        self._session = session
        self._cluster = cluster
        self.namespace = namespace
        self._name = cluster.istio.secret
        self._account = account
        self._around = around
        self._clock = around.clock
        self._fields = {"cluster": str(cluster.name), "namespace": namespace}
        self._watch = SecretWatch(
            session,
            namespace=namespace,
            name=self._name,
            timeouts=cluster.timeouts,
            clock=around.clock,
            jitter=around.jitter,
            on_change=self._noticed,
            namespaces=around.namespaces,
        )
        self._revisions: tuple[str, ...] = ()
        self._names = istiod_names(cluster.istio, namespace, ())
        self._wanted: tuple[tuple[str, tuple[str, ...], str], WantedSecret] | None = None
        self._judged: tuple[ObservedSecret, WantedSecret, datetime, Examined] | None = None
        self._issued: tuple[str, datetime] | None = (
            None  # SHA-256 of the last one that was got here, and when
        )
        self._sent: tuple[bytes, bytes, bytes] | None = None
        self._confirm_by = inf  # when the watch should have shown what was written
        self._relists = Relists(self._clock, {"cluster": str(cluster.name)})
        self._retry_at = 0.0
        self._backoff = Backoff(first=0.5, longest=LONGEST_BACKOFF, jitter=around.jitter)
        self._contention = Contention()
        self._restoring = False
        self._is_settled = False  # at the last look
        self._problem: FederationError | None = None
        self._restored = 0

    @property
    def present(self) -> bool | None:
        """Whether its namespace exists; None while that is not known."""
        return self._watch.present

    def recall(self, writers: Iterable[str]) -> None:
        """These kept changing it."""
        self._contention.recall([self.namespace], writers, "", self._clock.monotonic())

    def renew(self) -> None:
        """Watch anew at once, and wait no longer."""
        self._watch.renew()
        self._retry_at = 0.0
        self._backoff.reset()

    async def run(self) -> None:
        """Keep the Secret until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch.run())
            while True:
                await self._check()
                await self._clock.sleep(TICK_SETTLED if self._is_settled else TICK)

    # What there is to do

    def _noticed(self, old: ObservedSecret | None, new: ObservedSecret | None) -> None:
        """The watch shows a change."""
        now = self._clock.monotonic()
        if new is not None:
            self._contention.seen(new.writers, now)
        self._confirm_by = inf
        if new is not None and self._sent == (new.certificate, new.key, new.ca):
            self._sent, self._retry_at = None, 0.0
        elif self._is_good(old) and not self._is_good(new):
            self._contention.strike(self.namespace, now)
            self._restoring = True

    def _want(self) -> WantedSecret | None:
        """What the Secret is to hold now, the same object while that does not change; None without a bundle."""
        generation = self._around.generation()
        if generation is None:
            return None
        revisions = self._around.revisions(self.namespace)
        if revisions != self._revisions:
            self._revisions = revisions
            self._names = istiod_names(self._cluster.istio, self.namespace, revisions)
        key = generation.sha256, self._names, self._around.issuer()
        if self._wanted is None or self._wanted[0] != key:
            if self._wanted is not None:
                self._retry_at = 0.0  # what was in the way may be gone
            bundle = bundle_of(generation)
            self._wanted = key, WantedSecret(self._names, key[2], bundle.pem, bundle.certificates)
        return self._wanted[1]

    def _examine(self, observed: ObservedSecret, wanted: WantedSecret) -> Examined:
        """The Secret judged, again only where it, what is wanted or the time has changed that much."""
        now = self._clock.now()
        if self._judged is not None:
            of, by, at, examined = self._judged
            until = min((c.not_after for c in examined.chain), default=now)
            lasting = now < until if examined.problem is None else (now - at).total_seconds() < JUDGE_AGAIN
            if of is observed and by is wanted and at <= now and lasting:
                return examined
        examined = examine(msgspec.structs.replace(observed, ours=self._is_ours(observed)), wanted, now)
        self._judged = observed, wanted, now, examined
        return examined

    def _is_good(self, observed: ObservedSecret | None) -> bool:
        """Whether nothing would be done about it now."""
        wanted = self._want()
        if observed is None or wanted is None:
            return False
        examined = self._examine(observed, wanted)
        renew_at = self._renew_at(examined)
        return next_step(examined, wanted, renew_at=renew_at, now=self._clock.now()) is SecretStep.KEEP

    def _renew_at(self, examined: Examined | None) -> datetime | None:
        if examined is None or not examined.chain:
            return None
        leaf = examined.chain[0]
        issued = self._issued[1] if self._issued and self._issued[0] == leaf.sha256 else None
        return renewal_of(leaf, issued)

    def _withheld(self, observed: ObservedSecret | None) -> str | None:
        """Why the hub must not put its certificate there; None where it may, or has written what is there itself."""
        return None if observed is not None and self._is_ours(observed) else self._around.another_ca()

    def _is_ours(self, observed: ObservedSecret) -> bool:
        """Whether this hub wrote it: by its mark, or, where an earlier release left none, by the bundle in it."""
        hub = self._around.hub
        if not hub.id:
            return observed.ours
        if observed.hub:
            return observed.hub == hub.id
        return observed.ours and self._around.published(sha256(observed.ca).hexdigest())

    async def _check(self) -> None:
        wanted, watch = self._want(), self._watch
        self._is_settled = False
        if wanted is None or not watch.fresh or not watch.present:
            return
        observed = watch.secret
        examined = self._examine(observed, wanted) if observed is not None else None
        step = next_step(examined, wanted, renew_at=self._renew_at(examined), now=self._clock.now())
        if step in {SecretStep.KEEP, SecretStep.LEAVE}:
            self._settle()
            return
        now = self._clock.monotonic()
        if self._withheld(observed) is not None or now < self._retry_at or not self._around.allowed():
            return
        if self._contention.wait(self.namespace, now) > 0:
            return
        if now >= self._confirm_by and self._relists.allow(self.namespace):
            self._confirm_by, self._retry_at = inf, now + CONFIRM
            self._watch.renew()  # rather than have another certificate made for what may be there already
            return
        try:
            await self._write(observed, examined, wanted, step)
        except FederationError as error:
            self._failed(error)
        else:
            self._problem = None
            self._backoff.reset()

    def _settle(self) -> None:
        """The watch shows what is wanted, or what is not to be touched."""
        self._is_settled = True
        self._problem, self._retry_at, self._restoring = None, 0.0, False
        self._backoff.reset()

    def _failed(self, error: FederationError) -> None:
        if self._problem is None or str(self._problem) != str(error):
            fields = self._fields | {"reason": error.reason}
            _logger.warning("istiod's certificate cannot be provided: %s", error.diagnostics(), extra=fields)
        self._problem = error.without_frames()
        requested = error.retry_after if isinstance(error, ClusterThrottled) else 0.0
        self._retry_at = self._clock.monotonic() + self._backoff.next(at_least=requested)

    # Doing it

    async def _write(
        self,
        observed: ObservedSecret | None,
        examined: Examined | None,
        wanted: WantedSecret,
        step: SecretStep,
    ) -> None:
        """Write the Secret with what it has, or with a certificate that is got for it. Raises FederationError."""
        if step is SecretStep.REWRITE and observed is not None:
            certificate, key = observed.certificate, observed.key
        else:
            private = ec.generate_private_key(ec.SECP256R1())
            reply = await self._get(private, examined, wanted)
            below_root = [c for c in reply.chain if not c.is_self_signed]
            certificate, key = encode_certificates(below_root), private_key_pem(private)
            self._issued = reply.chain[0].sha256, self._clock.now()
        if self._watch.secret is not observed or not self._around.allowed():
            return  # what was decided no longer holds
        body = apply_body(
            self.namespace,
            self._name,
            certificate=certificate,
            key=key,
            ca=wanted.bundle,
            observed=observed,
            hub=self._around.hub,
        )
        self._sent = certificate, key, wanted.bundle
        self._retry_at = self._clock.monotonic() + CONFIRM
        await self._session.request(
            "PATCH",
            self._watch.path,
            params=_APPLY_PARAMS,
            body=body,
            content_type=APPLY,
            accept=METADATA_ONLY,
        )
        if self._sent is not None:  # the watch may have shown it before the answer came
            self._confirm_by = self._retry_at
        if self._restoring:
            self._restoring = False
            self._restored += 1
        what = "only ca.crt is new" if step is SecretStep.REWRITE else f"for {', '.join(wanted.names)}"
        _logger.info("istiod's certificate is written to %s: %s", self._name, what, extra=self._fields)

    async def _get(
        self, key: ec.EllipticCurvePrivateKey, examined: Examined | None, wanted: WantedSecret
    ) -> Reply:
        """A certificate for that key, which the bundle verifies."""
        names = x509.SubjectAlternativeName([x509.DNSName(name) for name in wanted.names])
        reply = await self._account.request(names, key, lifetime=0)
        leaf = reply.chain[0]
        if dns_names(leaf) != wanted.names or leaf.uris:
            raise InvalidValue("the certificate is not for the names that were requested")
        path = verify_chain(reply.chain, wanted.anchors, self._clock.now(), purpose=Purpose.SERVER)
        if examined is not None and self._would_wait(examined, wanted) and path[1].sha256 != wanted.issuer:
            raise NotReady(
                "the signer does not follow the directives yet: its certificate is of another intermediate",
                remedy="nothing, if it lasts for seconds; otherwise check the signers' state",
            )
        return reply

    def _would_wait(self, examined: Examined, wanted: WantedSecret) -> bool:
        """Whether nothing but the issuer is wrong with what is there: then another one of it would be no gain."""
        renew_at = self._renew_at(examined)
        if not examined.serves or renew_at is None or self._clock.now() >= renew_at:
            return False
        return is_of_another_issuer(examined, wanted)

    # What is reported of it

    def report(self) -> ControlPlaneReport:
        """How it fares now, by what was read back."""
        sight = self._see()
        found, examined = istiod_certificate_state(sight), sight.examined or Examined()
        now = self._clock.monotonic()
        return ControlPlaneReport(
            namespace=self.namespace,
            secret=self._name,
            state=found.state,
            detail=found.detail,
            remedy=found.remedy,
            attention=found.attention,
            names=[name[:MOST_CHARACTERS] for name in examined.names[:MOST_NAMES]],
            issuer=examined.issuer,
            not_after=examined.not_after,
            renew_at=sight.renew_at.timestamp() if sight.renew_at else 0.0,
            current=sight.fresh and examined.current,
            read_back=self._read_back_at(),
            restored=self._restored,
            contested=bool(self._contention.contested(now)),
            writers=[writer[:MOST_CHARACTERS] for writer in self._contention.writers(now)],
        )

    def facts(self) -> ControlPlane:
        """What was read back, for the gates; nothing of what is not known now, or cannot serve."""
        sight = self._see()
        found, examined = istiod_certificate_state(sight), sight.examined
        name, read_back_at = f"{self.namespace}/{self._name}", self._read_back_at()
        if not sight.fresh or examined is None or not examined.serves:
            return ControlPlane(name=name, detail=found.detail or found.state, read_back_at=read_back_at)
        return ControlPlane(
            name=name,
            issuer=examined.issuer,
            root=examined.root,
            anchors=examined.anchors,
            current=examined.current,
            not_after=examined.not_after,
            read_back_at=read_back_at,
            detail=found.detail,
        )

    def _see(self) -> Sight:
        watch, wanted = self._watch, self._want()
        observed, now = watch.secret, self._clock.monotonic()
        examined = self._examine(observed, wanted) if observed is not None and wanted is not None else None
        contested = bool(self._contention.contested(now))
        return Sight(
            namespace=self.namespace,
            secret=self._name,
            now=self._clock.now(),
            present=watch.present,
            unwatched=watch.problem,
            fresh=watch.fresh,
            wanted=wanted,
            examined=examined,
            renew_at=self._renew_at(examined),
            withheld=self._withheld(observed),
            problem=self._problem,
            writers=(", ".join(self._contention.writers(now)) or "another writer") if contested else "",
        )

    def _read_back_at(self) -> float:
        if not self._watch.fresh:
            return 0.0
        return self._clock.now().timestamp() - (self._clock.monotonic() - self._watch.last_seen)
