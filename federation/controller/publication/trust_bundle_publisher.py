"""Keeps one cluster's ClusterTrustBundle at the target: finds the served version, watches the object, and writes it.

The version is negotiated anew in every resync period, when the cluster runs another release, when it comes back after
it was away, and when the API answers that it is not there. A cluster that does not serve it is asked no more often.
What is forbidden is tried again every few minutes, so that applying the manifests needs no restart.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Final

from federation.clusters.backoff import Backoff
from federation.clusters.objects import METADATA_ONLY, METADATA_ONLY_LIST, ObjectKey
from federation.clusters.reflector import Change, Reflector
from federation.clusters.session import ClusterSession
from federation.clusters.trust_bundles import collection, served_version, trust_bundle_name
from federation.clusters.writers import FIELD_MANAGER
from federation.controller.publication.config_map import APPLY, Contents
from federation.controller.publication.contention import Contention
from federation.controller.publication.trust_bundle import (
    SWITCHED_OFF,
    BundleDecoder,
    BundleStatus,
    BundleTarget,
    HeldBundle,
    Observed,
    judge,
)
from federation.core.clock import Clock
from federation.core.config.model import ClusterConfig, PublicationConfig
from federation.core.errors import ClusterError, ClusterForbidden, ClusterNotFound, ClusterThrottled
from federation.state.documents import TrustBundleReport

TICK: Final = 0.25
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

_log = logging.getLogger(__name__)


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
        keeps: Callable[[HeldBundle | None], bool],
        yields: Callable[[HeldBundle | None], bool],
        remembered: Callable[[], bool],
        on_change: Callable[[HeldBundle | None], None],
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
        self._reflector: Reflector[HeldBundle] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._asked = float("-inf")
        self._ask_at = float("-inf")
        self._write_at = float("-inf")
        self._target: BundleTarget | None = None
        self._refusal: ClusterError | None = None
        self._contention = Contention()
        self._seen = False
        self._to_restore = False
        self._backoff = self._new_backoff()
        self._asking = self._new_backoff()
        self._release = ""
        self._told = ""
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
    def held(self) -> HeldBundle | None:
        """What the object held when the cluster last answered."""
        items = self._reflector.items if self._reflector is not None else {}
        return items.get(ObjectKey("", self.name))

    @property
    def heard(self) -> float:
        """When the object's watch last received something, by the monotonic clock."""
        return self._reflector.heard if self._reflector is not None else float("-inf")

    @property
    def met(self) -> bool:
        """True where the object was read back to be the target."""
        return self._readable and self._target is not None and self._target.is_met_by(self.held)

    @property
    def kept(self) -> bool:
        """True where the object is left as it is because it holds a CA of the cluster's own that is not accepted."""
        return self._readable and not self.met and self._keeps(self.held)

    @property
    def yielded(self) -> bool:
        """True where the object is left to another writer, which would put its own bytes back."""
        return self._readable and not self.met and self._yields(self.held)

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
        return judge(
            Observed(
                version=self._version,
                problem=self._problem or watching,
                readable=self._readable,
                held=self.held,
                met=self.met,
                refusal=self._refusal,
                kept=self.kept,
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
                await self._clock.sleep(TICK)
        finally:
            await self._stop()

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
            await self._write(target, self._version)
        state = self.status().state
        if state != self._told:
            self._told = state
            self._on_change(self.held)

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
            asked = error.retry_after if isinstance(error, ClusterThrottled) else 0.0
            self._fail(error, self._asking.next(at_least=asked))
        else:
            self._problem = None
            self._asking.reset()
            if version != self._version:
                _log.info("ClusterTrustBundles: %s", version or "not served", extra=self._where)
            changed, self._version = version != self._version, version
            await self._watch(version, anew=changed)

    def _fail(self, error: ClusterError, wait: float) -> None:
        if self._problem is None or self._problem.reason != error.reason:
            extra = self._where | {"reason": error.reason}
            _log.info("the ClusterTrustBundle is not read: %s", error.diagnostics(), extra=extra)
        self._problem = error
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
        before = self.held
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
        if before != self.held:
            self._notice(before, self.held)

    async def _until_fresh(self, reflector: Reflector[HeldBundle]) -> None:
        deadline = self._clock.monotonic() + SYNC_LIMIT
        while not reflector.fresh and reflector.problem is None and self._clock.monotonic() < deadline:
            await self._clock.sleep(SYNC_POLL)

    async def _stop(self) -> None:
        task, self._watching, self._reflector = self._watching, None, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _new_reflector(self, version: str) -> Reflector[HeldBundle]:
        made: list[Reflector[HeldBundle]] = []

        def changed(change: Change[HeldBundle]) -> None:
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

    def _notice(self, old: HeldBundle | None, new: HeldBundle | None) -> None:
        """The watch shows a change of the object."""
        now, target = self._clock.monotonic(), self._target
        self._seen = self._seen or new is not None
        if new is not None:
            self._contention.seen(new.writers, now)
        if target is not None and target.is_met_by(old) and not target.is_met_by(new):
            rival = new.hub if new is not None and new.hub != target.hub.id else ""
            self._contention.strike(_OBJECT, now, rival=rival if target.hub.id else "")
            self._to_restore, self._write_at = True, float("-inf")
        self._on_change(new)

    def _is_due(self, target: BundleTarget) -> bool:
        now, held = self._clock.monotonic(), self.held
        if not self._readable or now < self._write_at or not self._allowed():
            return False
        if target.is_met_by(held):
            self._refusal, self._to_restore = None, False
            return False
        if self._keeps(held) or self._yields(held):
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
            asked = error.retry_after if isinstance(error, ClusterThrottled) else 0.0
            self._refuse(error, self._backoff.next(at_least=asked))
        else:
            self.writes += 1
            self._seen = True
            self._refusal = None
            self._backoff.reset()
            self._write_at = self._clock.monotonic() + CONFIRM
            if self._to_restore:
                self.restored += 1
                self._to_restore = False
                _log.info("the ClusterTrustBundle was put back", extra=self._where)

    def _refuse(self, error: ClusterError, wait: float) -> None:
        if self._refusal is None or self._refusal.reason != error.reason:
            extra = self._where | {"reason": error.reason}
            level = logging.INFO if isinstance(error, ClusterForbidden) else logging.WARNING
            _log.log(level, "the ClusterTrustBundle is not written: %s", error.what, extra=extra)
        self._refusal = error
        self._write_at = self._clock.monotonic() + wait
