"""Brings every selected namespace of one cluster to the target, and keeps it there.

Level-triggered: a namespace that may differ is queued by name, and what is done about it is decided from what
the watch shows when its turn comes. Nothing is written where nothing would change. Failures that concern the
cluster (unreachable, 429, 5xx) pause its whole queue; those that concern one namespace wait for that one only.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Final

from federation.clusters.answers import TERMINATING, WEBHOOK
from federation.clusters.backoff import Backoff
from federation.clusters.objects import METADATA_ONLY, ObjectKey
from federation.clusters.session import ClusterSession
from federation.clusters.writers import FIELD_MANAGER
from federation.controller.publication.cluster_watch import ClusterWatch
from federation.controller.publication.config_map import APPLY, MERGE, Held, Target, wipe_body
from federation.controller.publication.contention import Contention
from federation.core.clock import Clock
from federation.core.config.access import ClusterTimeouts
from federation.core.errors import (
    ClusterConflict,
    ClusterDenied,
    ClusterError,
    ClusterForbidden,
    ClusterInvalid,
    ClusterNotFound,
    ClusterServerError,
    ClusterThrottled,
)

TICK: Final = 0.25
CONFIRM: Final = 10.0
"""Seconds within which the watch should show a write; then it is looked at again."""

PATIENCE: Final = 5.0
"""Seconds after which a namespace that refuses the bundle is tried again, where few do."""

MOST_ATTEMPTS: Final = 10.0
"""Attempts a second at namespaces that refuse the bundle: of 1,000 each is tried every 100 s."""

_APPLY_PARAMS: Final = {"fieldManager": FIELD_MANAGER, "force": "true"}

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Tally:
    """What the publisher did and could not do in one cluster."""

    writes: int = 0
    restored: int = 0
    terminating: set[str] = field(default_factory=set)
    forbidden: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    remedies: dict[str, str] = field(default_factory=dict)
    cluster_problem: ClusterError | None = None

    @property
    def refusing(self) -> set[str]:
        """The namespaces that refuse the bundle."""
        return self.forbidden.keys() | self.failed.keys()

    @property
    def remedy(self) -> str:
        """What to do about the first namespace that refuses the bundle, in the order in which they are told."""
        told = next((each for each in (self.failed, self.forbidden) if each), {})
        return self.remedies.get(min(told, default=""), "")


class Publisher:
    """Writes the target into one cluster; ``allowed`` says whether this process may still write (it leads).

    ``joins`` says whether other writers are as it should be: a cluster with a CA of its own joins.
    ``stays`` says whether what a namespace holds is to stay for now; after a change of it all have to be judged anew.
    """

    def __init__(
        self,
        session: ClusterSession,
        watch: ClusterWatch,
        *,
        excluded: Collection[str],
        concurrency: int,
        timeouts: ClusterTimeouts,
        clock: Clock,
        jitter: random.Random,
        allowed: Callable[[], bool],
        stays: Callable[[str, Held | None], bool],
        joins: Callable[[], bool],
    ) -> None:
        self._session = session
        self._watch = watch
        self._excluded = frozenset(excluded)
        self._concurrency = concurrency
        self._clock = clock
        self._jitter = jitter
        self._allowed = allowed
        self._stays = stays
        self._joins = joins
        self._timeouts = timeouts
        self._where = {"cluster": str(session.name)}
        self._target: Target | None = None
        self._ready: deque[str] = deque()
        self._queued: set[str] = set()
        self._work = asyncio.Semaphore(0)
        self._later: dict[str, float] = {}
        self._resume_at = 0.0
        self._backoff = Backoff(first=timeouts.backoff_first, longest=timeouts.backoff_longest, jitter=jitter)
        self._retries: dict[str, Backoff] = {}
        self._to_restore: set[str] = set()
        self._again_at = 0.0
        self._refusing: deque[str] = deque()
        self.contention: Final = Contention()
        self.tally: Final = Tally()

    @property
    def target(self) -> Target | None:
        """What is being published."""
        return self._target

    def aim(self, target: Target) -> None:
        """Publish that from now on."""
        if target != self._target:
            self._target = target
            self._retries.clear()
            self.tally.failed.clear()
            self.notice_all()

    def notice(self, namespace: str, old: Held | None, new: Held | None) -> None:
        """The watch shows a change of that namespace or of what it holds."""
        now = self._clock.monotonic()
        target = self._target
        if new is not None and not self._joins() and not (target is not None and target.is_met_by(new)):
            self.contention.seen(new.writers, now)
        if (
            target is not None
            and target.is_met_by(old)
            and not target.is_met_by(new)
            and ObjectKey("", namespace) in self._watch.namespaces
        ):
            rival = new.hub if new is not None and new.hub != target.hub.id else ""
            self.contention.strike(namespace, now, rival=rival if target.hub.id else "")
            self._to_restore.add(namespace)
        self._enqueue(namespace)

    def look_again(self, namespaces: Iterable[str]) -> None:
        """Decide anew about these: they do not stay as they are any longer."""
        for namespace in namespaces:
            self._enqueue(namespace)

    def notice_all(self) -> None:
        """Look at every namespace: a new target, or a cluster that was away."""
        if self._watch.synced:
            for key in self._watch.namespaces:
                self._enqueue(key.name)

    def resume(self) -> None:
        """The cluster is back: do not wait any longer, unless it asked for it itself."""
        if not isinstance(self.tally.cluster_problem, ClusterThrottled):
            self._resume_at = 0.0
            self._backoff.reset()
            self.tally.cluster_problem = None
        for key in self._watch.namespaces:
            if key.name not in self.tally.forbidden:  # these are tried again at a pace of their own
                self._enqueue(key.name)

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._timer())
            for _ in range(self._concurrency):
                tasks.create_task(self._worker())

    def _enqueue(self, namespace: str) -> None:
        self._later.pop(namespace, None)
        if namespace not in self._queued:
            self._queued.add(namespace)
            self._ready.append(namespace)
            self._work.release()

    def _postpone(self, namespace: str, seconds: float) -> None:
        if namespace not in self._queued:
            self._later[namespace] = self._clock.monotonic() + seconds

    async def _timer(self) -> None:
        while True:
            await self._clock.sleep(TICK)
            now = self._clock.monotonic()
            if self._later:
                for namespace in [n for n, due in self._later.items() if due <= now]:
                    self._enqueue(namespace)
            self._try_refusing_again(now)

    def _try_refusing_again(self, now: float) -> None:
        """Those that refuse the bundle, one after the other: whoever frees one does not wait long for it."""
        refusing = self.tally.refusing if now >= self._again_at else set()
        while refusing and now >= self._again_at:
            self._again_at = max(self._again_at, now - TICK) + max(
                PATIENCE / len(refusing), 1 / MOST_ATTEMPTS
            )
            if not self._refusing:
                self._refusing.extend(sorted(refusing))
            namespace = self._refusing.popleft()
            if namespace in refusing:
                self._enqueue(namespace)

    async def _worker(self) -> None:
        while True:
            await self._work.acquire()
            while (wait := self._resume_at - self._clock.monotonic()) > 0:
                await self._clock.sleep(min(wait, TICK))
            namespace = self._ready.popleft()
            self._queued.discard(namespace)
            target = self._target
            if target is None or not self._watch.synced or not self._allowed():
                continue
            if self._is_wanted(namespace, target):
                await self._write(namespace, target)

    def _is_wanted(self, namespace: str, target: Target) -> bool:
        """Whether to write there now, by what the watch shows."""
        meta = self._watch.namespaces.get(ObjectKey("", namespace))
        if meta is None:
            self._forget(namespace)
            return False
        if namespace in self._excluded:
            return False
        if meta.deletion is not None:
            self.tally.terminating.add(namespace)
            return False
        self.tally.terminating.discard(namespace)
        held = self._watch.held_in(namespace)
        if target.is_met_by(held):
            self._settled(namespace)
            return False
        if self._stays(namespace, held):
            return False
        if (wait := self.contention.wait(namespace, self._clock.monotonic())) > 0:
            self._postpone(namespace, wait)
            return False
        return True

    async def _write(self, namespace: str, target: Target) -> None:
        held = self._watch.held_in(namespace)
        path = target.path(namespace)
        try:
            await self._patch(path, target.body, APPLY, _APPLY_PARAMS)
            self.tally.writes += 1
            if held is not None and held.extra:
                await self._patch(path, wipe_body(held.extra), MERGE, {"fieldManager": FIELD_MANAGER})
                self.tally.writes += 1
        except ClusterError as error:
            self._failed(namespace, error)
            return
        self._backoff.reset()
        self.tally.cluster_problem = None
        if namespace in self._to_restore:
            self._to_restore.discard(namespace)
            self.tally.restored += 1
            _log.info("the bundle was put back", extra=self._where | {"namespace": namespace})
        if self.tally.forbidden.pop(namespace, None) is not None:
            for other in self.tally.forbidden:
                self._enqueue(other)
        self.tally.failed.pop(namespace, None)
        self.tally.remedies.pop(namespace, None)
        self._postpone(namespace, CONFIRM)

    async def _patch(self, path: str, body: bytes, content_type: str, params: dict[str, str]) -> None:
        await self._session.request(
            "PATCH", path, params=params, body=body, content_type=content_type, accept=METADATA_ONLY
        )

    def _failed(self, namespace: str, error: ClusterError) -> None:
        match error:
            case ClusterDenied() if error.reason == TERMINATING:
                self.tally.terminating.add(namespace)
            case ClusterForbidden():
                self._refused(namespace, error, self.tally.forbidden)
            case ClusterDenied():
                self._refused(namespace, error, self.tally.failed)
            case ClusterServerError() if error.reason == WEBHOOK:
                self._refused(namespace, error, self.tally.failed)  # of other namespaces it may not be asked
            case ClusterNotFound():
                self._postpone(namespace, 1.0)  # it is being deleted; the watch will say so
            case ClusterConflict() | ClusterInvalid():
                self._refused(namespace, error, self.tally.failed)
                backoff = self._retries.setdefault(
                    namespace,
                    Backoff(
                        first=self._timeouts.backoff_first,
                        longest=self._timeouts.backoff_longest,
                        jitter=self._jitter,
                    ),
                )
                self._postpone(namespace, backoff.next())
            case _:
                self._pause(error)
                self._enqueue(namespace)

    def _refused(self, namespace: str, error: ClusterError, among: dict[str, str]) -> None:
        """Note a namespace that refuses the bundle; logged once for a cluster, not for each of its namespaces."""
        if not among:
            fields = self._where | {"namespace": namespace, "reason": error.reason}
            _log.warning("a namespace refuses the bundle: %s", error.diagnostics(), extra=fields)
        if not self.tally.refusing:
            self._again_at = self._clock.monotonic() + PATIENCE
        self.tally.forbidden.pop(namespace, None)
        self.tally.failed.pop(namespace, None)
        among[namespace] = error.what
        self.tally.remedies[namespace] = error.remedy

    def _pause(self, error: ClusterError) -> None:
        """Let the whole cluster rest; calls that failed together count once."""
        now = self._clock.monotonic()
        if now >= self._resume_at:
            asked = error.retry_after if isinstance(error, ClusterThrottled) else 0.0
            self._resume_at = now + self._backoff.next(at_least=asked)
        if self.tally.cluster_problem is None or self.tally.cluster_problem.reason != error.reason:
            fields = self._where | {"reason": error.reason}
            _log.warning("publication pauses: %s", error.diagnostics(), extra=fields)
        self.tally.cluster_problem = error

    def _settled(self, namespace: str) -> None:
        """The watch shows the target there."""
        self._retries.pop(namespace, None)
        self._to_restore.discard(namespace)
        self.tally.failed.pop(namespace, None)
        self.tally.forbidden.pop(namespace, None)
        self.tally.remedies.pop(namespace, None)

    def _forget(self, namespace: str) -> None:
        self._settled(namespace)
        self.tally.terminating.discard(namespace)
        self.contention.forget(namespace)
