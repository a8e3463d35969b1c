"""The ClusterTrustBundle of one cluster: what it should be, what it is, what that means, and its publisher.

Pods mount it in the place of the ConfigMap where ``ENABLE_CLUSTER_TRUST_BUNDLE_API`` is set, and others as they like,
so what it holds is trusted there. It is published where the cluster serves the API and the hub may write it; where it
exists it counts in every gate, even if the hub did not write it. One that was seen once and cannot be read now counts
as unknown: pods may still have mounted its content. The operator's way out is ``cluster_trust_bundle = "off"``. What
it means to status and gates is pure.

The publisher finds the served version, watches the object, and writes it. The version is negotiated anew in every
resync period, when the cluster runs another release, when it comes back after it was away, and when the API answers
that it is not there. A cluster that does not serve it is queried no more often. What is forbidden is tried again every
few minutes, so that applying the manifests needs no restart.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypeAlias

import msgspec

from federation.clusters.trust_bundles import (
    GROUP,
    KIND,
    MANIFESTS,
    SIGNER,
    collection,
    served_version,
    trust_bundle_name,
)
from federation.controller.publication.config_map import (
    APPLY,
    MOST_WRITERS,
    Contents,
    ObservedConfigMap,
    is_marked,
)
from federation.controller.publication.joining import MemberFacts
from federation.controller.publication.namespace_count import JOINS, YIELDED
from federation.controller.publication.publisher import Contention, Relists
from federation.core.clock import Clock
from federation.core.config.clusters import ClusterConfig
from federation.core.config.hub import PublicationConfig
from federation.core.documents.controller import TrustBundleReport
from federation.core.documents.trust import Generation
from federation.core.errors import ClusterError, ClusterForbidden, ClusterNotFound, ClusterThrottled
from federation.core.identity import NO_HUB, HubIdentity, mark_in
from federation.kubernetes.backoff import Backoff
from federation.kubernetes.objects import (
    FIELD_MANAGER,
    METADATA_ONLY,
    METADATA_ONLY_LIST,
    Item,
    ManagedMeta,
    ObjectKey,
    Payload,
    annotations_of,
    is_written_by,
    key_of,
    managed_fields_of,
    owners_of,
    stop_writers,
)
from federation.kubernetes.reflector import Change, Reflector
from federation.kubernetes.session import ClusterSession

_logger = logging.getLogger(__name__)

State: TypeAlias = Literal["off", "not_served", "forbidden", "pending", "current", "contested", "unknown"]

APPLY_MANIFESTS: Final = f"apply {MANIFESTS} to that cluster"
JOIN: Final = "`federation clusters join` shows the next step for this cluster"
OFF: Final = 'set cluster_trust_bundle = "off" in its [clusters.istio]'


@dataclass(frozen=True, slots=True)
class BundleTarget:
    """What the object should hold."""

    name: str
    sha256: str
    pem: str = field(repr=False)
    hub: HubIdentity = NO_HUB

    @classmethod
    def of(cls, generation: Generation, config: PublicationConfig, hub: HubIdentity = NO_HUB) -> BundleTarget:
        """The target of that generation, written by that hub."""
        return cls(trust_bundle_name(config.config_map), generation.sha256, generation.bundle_pem, hub)

    def is_met_by(self, observed: ObservedTrustBundle | None) -> bool:
        """True where nothing would have to be written. The signer cannot differ: the name begins with it."""
        return (
            observed is not None
            and observed.sha256 == self.sha256
            and is_marked(self.hub, observed.hub, ours=observed.ours)
        )

    def path(self, version: str) -> str:
        """Where the object is, in that version of the API."""
        return f"{collection(version)}/{self.name}"

    def body(self, version: str) -> bytes:
        """The configuration to apply, in that version of the API."""
        return msgspec.json.encode(
            {
                "apiVersion": f"{GROUP}/{version}",
                "kind": KIND,
                "metadata": {
                    "name": self.name,
                    **({"annotations": self.hub.annotations} if self.hub.annotations else {}),
                },
                "spec": {"signerName": SIGNER, "trustBundle": self.pem},
            }
        )


class ObservedTrustBundle(msgspec.Struct, frozen=True, gc=False):
    """What the object holds: the digest of its certificates, who else owns them, and whether a hub wrote it, which."""

    sha256: str
    writers: tuple[str, ...] = ()
    ours: bool = False
    hub: str = ""

    def as_config_map(self) -> ObservedConfigMap:
        """The same as of a namespace's ConfigMap."""
        return ObservedConfigMap(
            self.sha256, labelled=True, writers=self.writers, ours=self.ours, hub=self.hub
        )


class _Spec(msgspec.Struct, rename="camel", gc=False):
    trust_bundle: str = ""


class _Bundle(msgspec.Struct, gc=False):
    metadata: ManagedMeta
    spec: _Spec = msgspec.field(default_factory=_Spec)


class BundleDecoder:
    """Takes a ClusterTrustBundle apart for a reflector; contents go to ``contents``."""

    def __init__(self, contents: Contents) -> None:
        self._contents = contents
        self._decode = msgspec.json.Decoder(_Bundle).decode

    def __call__(self, payload: Payload) -> Item[ObservedTrustBundle]:
        """The object as an item. Raises msgspec.MsgspecError where it is none."""
        found = self._decode(payload)
        meta = found.metadata
        managed = managed_fields_of(meta)
        observed = ObservedTrustBundle(
            self._contents.note(found.spec.trust_bundle),
            tuple(sorted(owners_of(managed, "spec", ["trustBundle"]))[:MOST_WRITERS]),
            is_written_by(managed),
            mark_in(annotations_of(meta)),
        )
        return Item(key_of(meta), meta.resource_version, observed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What is known of the object now.

    ``version`` is the served version, "" for none, None where that was not learned yet; ``problem`` is why the API was
    not requested or the object not read. ``readable``: it was listed, and its watch is open and not silent. ``refusal``
    is why the last write failed. ``joining`` and ``yielded``: what is in it stays for now, because it is a CA of the
    cluster's own that is not accepted, or because its writer would restore it. ``known``: it was seen there once, by
    this controller or by an earlier one.
    """

    version: str | None = None
    problem: ClusterError | None = None
    readable: bool = False
    bundle: ObservedTrustBundle | None = None
    met: bool = False
    refusal: ClusterError | None = None
    joining: bool = False
    yielded: bool = False
    contested: bool = False
    writers: tuple[str, ...] = ()
    known: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleStatus:
    """What is reported of it; ``counted`` where gates have to count it."""

    state: State
    counted: bool = False
    detail: str = ""
    remedy: str = ""


SWITCHED_OFF: Final = BundleStatus(state="off", detail="the configuration says so")


def assess(seen: Observed) -> BundleStatus:
    """The state of the object."""
    if isinstance(seen.problem, ClusterForbidden) and not seen.readable:
        return _unreadable(seen.problem, known=seen.known)
    if seen.version is None:
        why = seen.problem.what if seen.problem is not None else "the cluster was not queried yet"
        remedy = seen.problem.remedy if seen.problem is not None else ""
        return _unknown(f"whether it serves ClusterTrustBundles is not known: {why}", remedy)
    if not seen.version:
        if not seen.known:
            return BundleStatus(state="not_served", detail="the cluster serves no ClusterTrustBundles")
        why = "it was there, and the cluster does not serve the API any more: pods may still trust what was in it"
        return _unknown(why, f"serve the API again; or, once no pod mounts it, {OFF}")
    if not seen.readable:
        why = seen.problem.what if seen.problem is not None else "it is being listed, or its watch is silent"
        return _unknown(f"it is not read back: {why}", seen.problem.remedy if seen.problem else "")
    return _missing(seen) if seen.bundle is None else _there(seen)


def _unknown(detail: str, remedy: str) -> BundleStatus:
    return BundleStatus(state="unknown", counted=True, detail=detail, remedy=remedy)


def _unreadable(problem: ClusterError, *, known: bool) -> BundleStatus:
    if known:
        return _unknown(
            f"it was there, and the hub may not read it any more: {problem.what}",
            f"{APPLY_MANIFESTS}, or {OFF}",
        )
    return BundleStatus(
        state="forbidden",
        detail=f"the hub may not read it: {problem.what}",
        remedy=f"{APPLY_MANIFESTS}, or {OFF}",
    )


def _missing(seen: Observed) -> BundleStatus:
    if isinstance(seen.refusal, ClusterForbidden):
        return BundleStatus(
            state="forbidden",
            counted=seen.known,
            detail=f"the cluster serves ClusterTrustBundles, and the hub may not make it: {seen.refusal.what}",
            remedy=f"{APPLY_MANIFESTS}, or {OFF}",
        )
    return _pending(seen, "it is not there yet", counted=seen.known)


def _there(seen: Observed) -> BundleStatus:
    others = ", ".join(seen.writers) or "another writer"
    if seen.contested:
        return BundleStatus(
            state="contested",
            counted=True,
            detail=f"{others} keeps rewriting it",
            remedy=stop_writers(seen.writers),
        )
    if seen.met:
        return BundleStatus(state="current", counted=True)
    if seen.joining:
        return BundleStatus(
            state="pending",
            counted=True,
            detail=JOINS,
            remedy="`federation trust list` names the CA: accept it, or set member_cas for this cluster",
        )
    if seen.yielded:
        return BundleStatus(state="pending", counted=True, detail=f"{YIELDED}: {others}", remedy=JOIN)
    if isinstance(seen.refusal, ClusterForbidden):
        return BundleStatus(
            state="forbidden",
            counted=True,
            detail=f"it holds another bundle than the one in force, and the hub may not write it: {seen.refusal.what}",
            remedy=f"{APPLY_MANIFESTS}; or, once no pod mounts it, {OFF}",
        )
    return _pending(seen, "it holds another bundle than the one in force", counted=True)


def _pending(seen: Observed, what: str, *, counted: bool) -> BundleStatus:
    refusal = seen.refusal
    detail = f"{what}: {refusal.what}" if refusal is not None else what
    remedy = refusal.remedy if refusal is not None else ""
    return BundleStatus(state="pending", counted=counted, detail=detail, remedy=remedy)


def with_bundle(
    facts: MemberFacts,
    name: str,
    status: BundleStatus,
    *,
    met: bool,
    anchors: frozenset[str] | None,
    read_back_at: float,
) -> MemberFacts:
    """What a cluster holds, the object counted as one more place where its trust comes from.

    ``anchors`` are those in the object, None where it is not there; ``met`` is as in :class:`Observed`.
    """
    if not status.counted or facts.anchors is None:
        return facts
    if status.state == "unknown":
        detail = f"ClusterTrustBundle {name}: {status.detail}"
        return replace(facts, anchors=None, current=False, detail=detail)
    if met:
        detail = f"{facts.detail}; so does ClusterTrustBundle {name}"
    else:
        detail = f"{facts.detail}; ClusterTrustBundle {name} does not: {status.detail}"
    return replace(
        facts,
        anchors=facts.anchors & (anchors or frozenset()),
        current=facts.current and met,
        read_back_at=min(facts.read_back_at, read_back_at),
        detail=detail,
    )


TICK: Final = 0.5
"""Seconds between two looks whether there is anything to do, where something is not as it should be; else LOOK."""

LOOK: Final = 1.0
"""Seconds between two looks at the state, where the watch shows no change: time and other things may change it."""

CONFIRM: Final = 10.0
"""Seconds within which the watch should show a write; then it is written again."""

FORBIDDEN_EVERY: Final = 300.0
"""Seconds between attempts at what RBAC refused."""

LOST_EVERY: Final = 5.0
"""Seconds at least between negotiations that a missing API asks for."""

SYNC_LIMIT: Final = 60.0
SYNC_POLL: Final = 0.05

_OBJECT: Final = ""
"""The one object's key in :class:`Contention`."""

_PARAMS: Final = {"fieldManager": FIELD_MANAGER, "force": "true"}


class TrustBundlePublisher:
    """One cluster's. ``allowed`` says whether this process may write (it leads).

    ``keeps`` and ``yields`` say whether what the object holds is to stay for now (:class:`Joining`), ``remembered``
    whether an earlier controller saw it; ``on_change`` is called with what it holds as often as that or the state of
    its publication changes.
    """

    def __init__(
        self,
        session: ClusterSession,
        cluster: ClusterConfig,
        publication: PublicationConfig,
        *,
        contents: Contents,
        clock: Clock,
        jitter: random.Random,
        allowed: Callable[[], bool],
        keeps: Callable[[ObservedTrustBundle | None], bool],
        yields: Callable[[ObservedTrustBundle | None], bool],
        remembered: Callable[[], bool],
        on_change: Callable[[ObservedTrustBundle | None], None],
    ) -> None:
        self._session = session
        self._timeouts = cluster.timeouts
        self._resync = publication.resync
        self._decode = BundleDecoder(contents)
        self._clock = clock
        self._jitter = jitter
        self._allowed = allowed
        self._keeps = keeps
        self._yields = yields
        self._remembered = remembered
        self._on_change = on_change
        self._where = {"cluster": str(cluster.name)}
        self._version: str | None = None
        self._problem: ClusterError | None = None
        self._reflector: Reflector[ObservedTrustBundle] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._asked = float("-inf")
        self._ask_at = float("-inf")
        self._write_at = float("-inf")
        self._target: BundleTarget | None = None
        self._refusal: ClusterError | None = None
        self._contention = Contention()
        self._seen = False
        self._to_restore = False
        self._look_at = float("-inf")
        self._news = False
        self._unconfirmed: BundleTarget | None = None  # what was written, and not shown by the watch since
        self._relists = Relists(clock, self._where)
        self._backoff = self._new_backoff()
        self._asking = self._new_backoff()
        self._release = ""
        self._reported_state = ""
        self.enabled: Final = cluster.istio.cluster_trust_bundle != "off"
        self.name: Final = trust_bundle_name(publication.config_map)
        self.writes = 0
        self.restored = 0

    def aim(self, target: BundleTarget) -> None:
        """Publish that from now on."""
        if target != self._target:
            self._target = target
            self._write_at = float("-inf")
            self._backoff.reset()

    def recall(self) -> None:
        """Go on from where others kept changing the object when the last controller was killed."""
        self._contention.recall([_OBJECT], [], "", self._clock.monotonic())

    def renew(self) -> None:
        """Find out at once which version is served: the cluster has come back, or runs another release."""
        self._ask_at = float("-inf")
        if not isinstance(self._refusal, ClusterThrottled):
            self._write_at = float("-inf")

    def note_release(self, release: str) -> None:
        """The cluster says that it runs that release of Kubernetes."""
        if release and release != self._release:
            if self._release:
                self.renew()
            self._release = release

    @property
    def bundle(self) -> ObservedTrustBundle | None:
        """The object as it was when the cluster last answered."""
        items = self._reflector.items if self._reflector is not None else {}
        return items.get(ObjectKey("", self.name))

    @property
    def last_seen(self) -> float:
        """When the object's watch last received something, by the monotonic clock."""
        return self._reflector.last_seen if self._reflector is not None else float("-inf")

    @property
    def met(self) -> bool:
        """True where the object was read back to be the target."""
        return self._readable and self._target is not None and self._target.is_met_by(self.bundle)

    @property
    def joining(self) -> bool:
        """True where the object is left as it is because it holds a CA of the cluster's own that is not accepted."""
        return self._readable and not self.met and self._keeps(self.bundle)

    @property
    def yielded(self) -> bool:
        """True where the object is left to another writer, which would put its own bytes back."""
        return self._readable and not self.met and self._yields(self.bundle)

    @property
    def existed(self) -> bool | None:
        """Whether the object is to be remembered: None where this controller has not seen it."""
        if not self.enabled:
            return False
        return True if self._seen else None

    def status(self) -> BundleStatus:
        """The state of the object now."""
        if not self.enabled:
            return SWITCHED_OFF
        now = self._clock.monotonic()
        watching = self._reflector.problem if self._reflector is not None else None
        return assess(
            Observed(
                version=self._version,
                problem=self._problem or watching,
                readable=self._readable,
                bundle=self.bundle,
                met=self.met,
                refusal=self._refusal,
                joining=self.joining,
                yielded=self.yielded,
                contested=bool(self._contention.contested(now)),
                writers=tuple(self._contention.writers(now)),
                known=self._seen or self._remembered(),
            )
        )

    def report(self) -> TrustBundleReport:
        """The same, for the state store."""
        status = self.status()
        return TrustBundleReport(
            state=status.state,
            counted=status.counted,
            name=self.name,
            version=self._version or "",
            detail=status.detail,
            remedy=status.remedy,
            writes=self.writes,
            restored=self.restored,
        )

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            while True:
                await self._step()
                await self._clock.sleep(LOOK if self._is_settled else TICK)
        finally:
            await self._stop()

    @property
    def _is_settled(self) -> bool:
        watched = self._reflector is None or self._readable
        return watched and self._target is not None and self._unconfirmed is None and not self._news

    @property
    def _readable(self) -> bool:
        reflector = self._reflector
        return reflector is not None and reflector.synced and reflector.fresh

    async def _step(self) -> None:
        if self._watching is not None and self._watching.done():
            self._watching.result()  # a reflector survives its cluster's failures: what ends it is a bug
        now = self._clock.monotonic()
        gone = self._reflector is not None and isinstance(self._reflector.problem, ClusterNotFound)
        if now >= self._ask_at or (gone and now - self._asked >= LOST_EVERY):
            await self._ask()
        target = self._target
        if target is not None and self._version and self._is_due(target):
            if self._unconfirmed is target and self._relists.allow():
                self._ask_at = float("-inf")
            await self._write(target, self._version)
        if now < self._look_at and not self._news:
            return
        self._look_at, self._news = now + LOOK, False
        state = self.status().state
        if state != self._reported_state:
            self._reported_state = state
            self._on_change(self.bundle)

    async def _ask(self) -> None:
        """Negotiate, and begin to watch the object where that is possible."""
        self._asked = self._clock.monotonic()
        self._ask_at = self._asked + self._resync * self._jitter.uniform(0.9, 1.1)
        try:
            version = await served_version(self._session)
            if version:
                await self._try_to_read(version)
        except ClusterForbidden as error:
            self._fail(error, min(FORBIDDEN_EVERY, self._resync))
        except ClusterError as error:
            requested = error.retry_after if isinstance(error, ClusterThrottled) else 0.0
            self._fail(error, self._asking.next(at_least=requested))
        else:
            self._problem = None
            self._asking.reset()
            if version != self._version:
                _logger.info("ClusterTrustBundles: %s", version or "not served", extra=self._where)
            changed, self._version = version != self._version, version
            await self._watch(version, anew=changed)

    def _fail(self, error: ClusterError, wait: float) -> None:
        if self._problem is None or self._problem.reason != error.reason:
            extra = self._where | {"reason": error.reason}
            _logger.info("the ClusterTrustBundle is not read: %s", error.diagnostics(), extra=extra)
        self._problem = error.without_frames()
        self._ask_at = self._clock.monotonic() + wait

    async def _try_to_read(self, version: str) -> None:
        """Raises ClusterForbidden where a watch could only fail, again and again."""
        params = {"fieldSelector": f"metadata.name={self.name}", "limit": "1"}
        await self._session.get(collection(version), params=params, accept=METADATA_ONLY_LIST)

    async def _watch(self, version: str, *, anew: bool) -> None:
        """Put a fresh watch in the place of the one that runs, once it has listed the object and watches it."""
        if not version:
            await self._stop()
            return
        before = self.bundle
        if anew:
            await self._stop()
        newer = self._new_reflector(version)
        task = asyncio.create_task(newer.run())
        try:
            await self._until_fresh(newer)
        except asyncio.CancelledError:
            task.cancel()
            raise
        if not newer.fresh and self._reflector is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return
        await self._stop()
        self._reflector, self._watching = newer, task
        if before != self.bundle:
            self._notice(before, self.bundle)

    async def _until_fresh(self, reflector: Reflector[ObservedTrustBundle]) -> None:
        deadline = self._clock.monotonic() + SYNC_LIMIT
        while not reflector.fresh and reflector.problem is None and self._clock.monotonic() < deadline:
            await self._clock.sleep(SYNC_POLL)

    async def _stop(self) -> None:
        task, self._watching, self._reflector = self._watching, None, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _new_reflector(self, version: str) -> Reflector[ObservedTrustBundle]:
        made: list[Reflector[ObservedTrustBundle]] = []

        def changed(change: Change[ObservedTrustBundle]) -> None:
            if made and made[0] is self._reflector:
                self._notice(change.old, change.new)

        made.append(
            Reflector(
                self._session,
                collection(version),
                decode=self._decode,
                field_selector=f"metadata.name={self.name}",
                timeouts=self._timeouts,
                clock=self._clock,
                jitter=self._jitter,
                on_change=changed,
            )
        )
        return made[0]

    def _new_backoff(self) -> Backoff:
        first, longest = self._timeouts.backoff_first, self._timeouts.backoff_longest
        return Backoff(first=first, longest=longest, jitter=self._jitter)

    def _notice(self, old: ObservedTrustBundle | None, new: ObservedTrustBundle | None) -> None:
        """The watch shows a change of the object."""
        now, target = self._clock.monotonic(), self._target
        self._unconfirmed = None
        self._news = True
        self._seen = self._seen or new is not None
        if new is not None:
            self._contention.seen(new.writers, now)
        if target is not None and target.is_met_by(old) and not target.is_met_by(new):
            rival = new.hub if new is not None and new.hub != target.hub.id else ""
            self._contention.strike(_OBJECT, now, rival=rival if target.hub.id else "")
            self._to_restore, self._write_at = True, float("-inf")
        self._on_change(new)

    def _is_due(self, target: BundleTarget) -> bool:
        now, observed = self._clock.monotonic(), self.bundle
        if not self._readable or now < self._write_at or not self._allowed():
            return False
        if target.is_met_by(observed):
            self._refusal, self._to_restore = None, False
            return False
        if self._keeps(observed) or self._yields(observed):
            return False
        return self._contention.wait(_OBJECT, now) <= 0

    async def _write(self, target: BundleTarget, version: str) -> None:
        try:
            await self._session.request(
                "PATCH",
                target.path(version),
                params=_PARAMS,
                body=target.body(version),
                content_type=APPLY,
                accept=METADATA_ONLY,
            )
        except ClusterForbidden as error:
            self._refuse(error, min(FORBIDDEN_EVERY, self._resync))
        except ClusterError as error:
            requested = error.retry_after if isinstance(error, ClusterThrottled) else 0.0
            self._refuse(error, self._backoff.next(at_least=requested))
        else:
            self.writes += 1
            self._seen = True
            self._refusal = None
            self._backoff.reset()
            self._unconfirmed = target
            self._write_at = self._clock.monotonic() + CONFIRM
            if self._to_restore:
                self.restored += 1
                self._to_restore = False
                _logger.info("the ClusterTrustBundle was put back", extra=self._where)

    def _refuse(self, error: ClusterError, wait: float) -> None:
        if self._refusal is None or self._refusal.reason != error.reason:
            extra = self._where | {"reason": error.reason}
            level = logging.INFO if isinstance(error, ClusterForbidden) else logging.WARNING
            _logger.log(level, "the ClusterTrustBundle is not written: %s", error.what, extra=extra)
        self._refusal = error.without_frames()
        self._write_at = self._clock.monotonic() + wait
