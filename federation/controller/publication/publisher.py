"""Brings every selected namespace of one cluster to the target, and keeps it there.

Level-triggered: a namespace that may differ is queued by name, and what is done about it is decided from what the
watch shows when its turn comes. Nothing is written where nothing would change. Failures that concern the cluster
(unreachable, 429, 5xx) pause its whole queue; those that concern one namespace wait for that one only. How long a
generation took to reach the last namespace of a cluster is measured here.

**An edit or a conflict:** a writer that keeps rewriting our object gets fewer answers, not more. The first few
restorations are immediate. Where the same object is changed again and again (an istiod that still distributes roots,
a GitOps controller), each further one waits twice as long: two writers that always answer at once would keep an API
server and every proxy of a cluster busy for nothing. Another hub is a process that answers at once, in every
namespace. What bears its mark is restored once; from then on the whole cluster waits, longer each time.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

from federation.controller.publication.config_map import APPLY, MERGE, ObservedConfigMap, Target, wipe_body
from federation.controller.publication.observed import ClusterWatch
from federation.controller.publication.turns import Turns
from federation.core.clock import Clock
from federation.core.config.clusters import ClusterTimeouts
from federation.core.documents.trust import Generation
from federation.core.errors import (
    ClusterConflict,
    ClusterDenied,
    ClusterError,
    ClusterForbidden,
    ClusterInvalid,
    ClusterNotFound,
    ClusterOverBudget,
    ClusterServerError,
    ClusterThrottled,
    ClusterTimeout,
    ClusterWithheld,
)
from federation.kubernetes.answers import TERMINATING, WEBHOOK
from federation.kubernetes.backoff import Backoff
from federation.kubernetes.objects import FIELD_MANAGER, METADATA_ONLY, ObjectKey
from federation.kubernetes.session import OWN_DELAY, SMALL_ANSWER_BYTES, TOO_LARGE, ClusterSession

_logger = logging.getLogger(__name__)

IMMEDIATE: Final = 3
"""Restorations without a wait: an operator who edits by hand tries it twice."""

FIRST_WAIT: Final = 2.0
LONGEST_WAIT: Final = 300.0
QUIET: Final = 600.0
"""Seconds without a change by others after which all is forgotten. Longer than the longest wait, or a conflict
would look settled while it waits."""

MOST_WRITERS: Final = 16

ROUND: Final = 10.0
"""Seconds within which changes by one other hub are one and the same."""

RIVAL_WAIT: Final = 30.0
"""The first wait after another hub has answered a restoration; each further one is twice as long."""


@dataclass(slots=True)
class _Strikes:
    count: int
    last: float
    next_at: float


class Contention:
    """What other writers did to the objects of one cluster. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._strikes: dict[str, _Strikes] = {}
        self._writers: dict[str, float] = {}
        self._rival = ""
        self._rounds: _Strikes | None = None
        self._theirs: set[str] = set()

    def strike(self, namespace: str, now: float, *, rival: str = "") -> None:
        """What was already as it should be was changed or deleted: by the hub ``rival``, where one left its mark."""
        if rival:
            self._strike_by(rival, namespace, now)
            return
        self._theirs.discard(namespace)
        strikes = self._strikes.get(namespace)
        if strikes is None or now - strikes.last > QUIET:
            strikes = self._strikes[namespace] = _Strikes(0, now, now)
        strikes.count += 1
        strikes.last = now
        if strikes.count > IMMEDIATE:
            doublings = min(strikes.count - IMMEDIATE - 1, 20)
            strikes.next_at = now + min(LONGEST_WAIT, FIRST_WAIT * 2.0**doublings)

    def recall(self, contested: Iterable[str], writers: Iterable[str], rival: str, now: float) -> None:
        """Go on with what was known when the last controller was killed, as if it had happened now."""
        for namespace in contested:
            self._strikes.setdefault(namespace, _Strikes(IMMEDIATE + 1, now, now + FIRST_WAIT))
        self.seen(writers, now)
        if rival and self._rounds is None:
            self._rival, self._rounds = rival, _Strikes(1, now, now)

    def wait(self, namespace: str, now: float) -> float:
        """Seconds before the object may be written again."""
        strikes = self._rounds if namespace in self._theirs else self._strikes.get(namespace)
        return max(0.0, strikes.next_at - now) if strikes else 0.0

    def rival(self, now: float) -> str:
        """The identity of another hub that wrote over this one's objects not long ago; empty where none did."""
        if self._rounds is not None and now - self._rounds.last > QUIET:
            self._rival, self._rounds = "", None
            self._theirs.clear()
        return self._rival

    def _strike_by(self, rival: str, namespace: str, now: float) -> None:
        self.rival(now)
        if self._rounds is None:
            self._rounds = _Strikes(1, now, now)
        elif now >= self._rounds.next_at and (now - self._rounds.last > ROUND or namespace in self._theirs):
            self._rounds.count += 1
            doublings = min(self._rounds.count - 2, 20)
            self._rounds.next_at = now + min(LONGEST_WAIT, RIVAL_WAIT * 2.0**doublings)
            self._theirs.clear()
        self._rounds.last = now
        self._rival = rival
        self._theirs.add(namespace)

    def seen(self, writers: Iterable[str], now: float) -> None:
        """These field managers were seen to own the key."""
        for writer in writers:
            if writer in self._writers or len(self._writers) < MOST_WRITERS:
                self._writers[writer] = now

    def forget(self, namespace: str) -> None:
        """The namespace is gone."""
        self._strikes.pop(namespace, None)
        self._theirs.discard(namespace)

    def writers(self, now: float) -> list[str]:
        """Which others wrote the key in the last QUIET seconds."""
        if not self._writers:
            return []
        self._writers = {name: at for name, at in self._writers.items() if now - at <= QUIET}
        return sorted(self._writers)

    def contested(self, now: float) -> list[str]:
        """The namespaces that others keep changing now."""
        if not self._strikes:
            return []
        self._strikes = {n: s for n, s in self._strikes.items() if now - s.last <= QUIET}
        return sorted(n for n, s in self._strikes.items() if s.count > IMMEDIATE)


TICK: Final = 0.25
CONFIRM: Final = 10.0
"""Seconds within which the watch should show a write; then it is made again, and all is listed anew."""

RELIST_SPACING: Final = 60.0
"""Seconds at least between two lists for that reason: events that are only late must not cause more work."""

PATIENCE: Final = 5.0
"""Seconds after which a namespace that refuses the bundle is tried again, where few do."""

MOST_ATTEMPTS: Final = 10.0
"""Attempts a second at namespaces that refuse the bundle: of 1,000 each is tried every 100 s."""

CLAIM_AGAIN: Final = 1.0
"""Seconds after which a mark that another hub has won is tried again, unless the watch has shown it by then."""

CATCH_UP: Final = 1.0
"""Seconds after which a write is tried again that this process was too late for: it has too much to do as it is."""

_APPLY_PARAMS: Final = {"fieldManager": FIELD_MANAGER, "force": "true"}


class Relists:
    """When all is listed anew because a write was answered and its event did not come: it may be lost, as others may.

    For one cluster's watch of one kind; ``fields`` are of its log lines.
    """

    def __init__(self, clock: Clock, fields: Mapping[str, str]) -> None:
        self._clock = clock
        self._fields = fields
        self._next = float("-inf")

    def allow(self, namespace: str = "") -> bool:
        """Whether to list now, which is said in the log; not again for :data:`RELIST_SPACING` seconds."""
        now = self._clock.monotonic()
        if now < self._next:
            return False
        self._next = now + RELIST_SPACING
        _logger.warning(
            "the watch does not show what was written %g s ago: listing again",
            CONFIRM,
            extra={**self._fields, **({"namespace": namespace} if namespace else {})},
        )
        return True


class _ClaimLost(Exception):
    """Another hub's mark is there already."""


class Tally:
    """What the publisher did and could not do in one cluster.

    ``changed`` names the namespaces of which something else is known since they were last counted, for who counts them
    to clear. A namespace that refuses the bundle again for the same reason changes nothing.
    """

    def __init__(self) -> None:
        self.writes = 0
        self.restored = 0
        self.cluster_problem: ClusterError | None = None
        self.changed: set[str] = set()
        self._terminating: set[str] = set()
        self._forbidden: dict[str, str] = {}
        self._failed: dict[str, str] = {}
        self._remedies: dict[str, str] = {}

    @property
    def terminating(self) -> AbstractSet[str]:
        """The namespaces that are being deleted."""
        return self._terminating

    @property
    def forbidden(self) -> Mapping[str, str]:
        """The namespaces in which the hub may not write, and what was answered."""
        return self._forbidden

    @property
    def failed(self) -> Mapping[str, str]:
        """The namespaces in which admission or the API server refuses the object, and what was answered."""
        return self._failed

    @property
    def refusing(self) -> set[str]:
        """The namespaces that refuse the bundle."""
        return self._forbidden.keys() | self._failed.keys()

    @property
    def remedy(self) -> str:
        """What to do about the first namespace that refuses the bundle, in the order in which they are reported."""
        first = next((each for each in (self._failed, self._forbidden) if each), {})
        return self._remedies.get(min(first, default=""), "")

    def refused(self, namespace: str, error: ClusterError, *, forbidden: bool) -> None:
        """The namespace refuses the bundle: the hub may not write there at all (``forbidden``), or not this object."""
        among, other = (self._forbidden, self._failed) if forbidden else (self._failed, self._forbidden)
        if other.pop(namespace, None) is not None or among.get(namespace) != error.what:
            self.changed.add(namespace)
        among[namespace] = error.what
        self._remedies[namespace] = error.remedy

    def accepted(self, namespace: str) -> bool:
        """The namespace does not refuse the bundle, or there is no such one; True where it was forbidden before."""
        was_forbidden = self._forbidden.pop(namespace, None) is not None
        if self._failed.pop(namespace, None) is not None or was_forbidden:
            self.changed.add(namespace)
        self._remedies.pop(namespace, None)
        return was_forbidden

    def retry_failed(self) -> None:
        """Another bundle is to be written: whether that is refused as well is not known."""
        self.changed.update(self._failed)
        self._failed.clear()

    def note_terminating(self, namespace: str, *, terminating: bool) -> None:
        """Whether the namespace is being deleted."""
        if terminating == (namespace in self._terminating):
            return
        self.changed.add(namespace)
        if terminating:
            self._terminating.add(namespace)
        else:
            self._terminating.discard(namespace)


class Publisher:
    """Writes the target into one cluster; ``allowed`` says whether this process may still write (it leads).

    ``joins`` says whether other writers are as it should be: a cluster with a CA of its own joins.
    ``stays`` says whether what a namespace holds is to stay for now; after a change of that all have to be judged anew.
    ``turns`` are those of all clusters together (default: of this one alone).
    ``must_claim`` says whether the hub's mark has to be won there before anything is written.
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
        stays: Callable[[str, ObservedConfigMap | None], bool],
        joins: Callable[[], bool],
        turns: Turns | None = None,
        must_claim: Callable[[str, ObservedConfigMap | None], bool] = lambda _namespace, _observed: False,
        on_claim_lost: Callable[[], None] = lambda: None,
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
        self._turns = turns or Turns(concurrency)
        self._must_claim = must_claim
        self._on_claim_lost = on_claim_lost
        self._timeouts = timeouts
        self._where = {"cluster": str(session.name)}
        self._target: Target | None = None
        self._ready: deque[str] = deque()
        self._queued: set[str] = set()
        self._work = asyncio.Semaphore(0)
        self._later: dict[str, float] = {}
        self._timed = asyncio.Event()  # something waits for its time
        self._resume_at = 0.0
        self._backoff = Backoff(first=timeouts.backoff_first, longest=timeouts.backoff_longest, jitter=jitter)
        self._retries: dict[str, Backoff] = {}
        self._to_restore: set[str] = set()
        self._unanswered: set[str] = set()  # where the last write failed for a reason of the whole cluster
        self._unconfirmed: dict[
            str, tuple[Target, float]
        ] = {}  # what was written, not shown since, and until when
        self._relists = Relists(clock, self._where)
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
            self._unconfirmed.clear()
            self.tally.retry_failed()
            self.notice_all()

    def notice(self, namespace: str, old: ObservedConfigMap | None, new: ObservedConfigMap | None) -> None:
        """The watch shows a change of that namespace or of what it holds."""
        self._unconfirmed.pop(namespace, None)
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

    def check_again(self, namespaces: Iterable[str]) -> None:
        """Decide anew about these: they do not stay as they are any longer."""
        for namespace in namespaces:
            self._enqueue(namespace)

    def notice_all(self) -> None:
        """Check every namespace: a new target, or a cluster that was away."""
        if self._watch.synced:
            for key in self._watch.namespaces:
                self._enqueue(key.name)

    def resume(self) -> None:
        """The cluster is back: do not wait any longer, unless it requested that itself."""
        if not isinstance(self.tally.cluster_problem, ClusterThrottled):
            self._resume_at = 0.0
            self._backoff.reset()
            self._recovered()
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
            self._timed.set()

    async def _timer(self) -> None:
        while True:
            if not self._later and not self.tally.refusing:
                self._timed.clear()
                await self._timed.wait()
            await self._clock.sleep(TICK)
            now = self._clock.monotonic()
            if self._later:
                for namespace in [n for n, due in self._later.items() if due <= now]:
                    self._enqueue(namespace)
            self._try_refusing_again(now)

    def _try_refusing_again(self, now: float) -> None:
        """Those that refuse the bundle, one after the other, so that one which is freed does not wait long."""
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
                self._queued.add(namespace)  # what is noticed while it waits is decided with it
                async with self._turns.turn(self._where["cluster"]):
                    await self._write_in_turn(namespace)

    async def _write_in_turn(self, namespace: str) -> None:
        """Write there, where that is still wanted: it may have waited for others."""
        self._queued.discard(namespace)
        target = self._target
        if target is None or not self._watch.synced or not self._allowed():
            return
        if self._resume_at > self._clock.monotonic():
            self._enqueue(namespace)
        elif self._is_wanted(namespace, target):
            if self._awaited(namespace, target) is not None and self._relists.allow(namespace):
                self._watch.renew()
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
            self.tally.note_terminating(namespace, terminating=True)
            return False
        self.tally.note_terminating(namespace, terminating=False)
        observed = self._watch.observed_in(namespace)
        if target.is_met_by(observed):
            self._settled(namespace)
            return False
        if self._stays(namespace, observed):
            return False
        now = self._clock.monotonic()
        wait = max(self.contention.wait(namespace, now), (self._awaited(namespace, target) or now) - now)
        if wait > 0:
            self._postpone(namespace, wait)
            return False
        return True

    def _awaited(self, namespace: str, target: Target) -> float | None:
        """Until when the watch may take to show what was written there; None where it has shown something since.

        To make the write again before then, because all namespaces are checked for another reason, would be in vain.
        """
        written, until = self._unconfirmed.get(namespace, (None, 0.0))
        return until if written is target else None

    async def _write(self, namespace: str, target: Target) -> None:
        observed = self._watch.observed_in(namespace)
        path = target.path(namespace)
        try:
            if self._must_claim(namespace, observed):
                await self._claim(path, target)
            await self._patch(path, target.body, APPLY, _APPLY_PARAMS)
            self.tally.writes += 1
            if observed is not None and observed.extra:
                await self._patch(path, wipe_body(observed.extra), MERGE, {"fieldManager": FIELD_MANAGER})
                self.tally.writes += 1
        except _ClaimLost:
            self._on_claim_lost()
            self._postpone(namespace, CLAIM_AGAIN)  # the watch will show whose it is
            return
        except ClusterError as error:
            self._failed(namespace, error)
            return
        self._backoff.reset()
        self._recovered()
        if namespace in self._to_restore:
            self._to_restore.discard(namespace)
            self.tally.restored += 1
            _logger.info("the bundle was put back", extra=self._where | {"namespace": namespace})
        if self.tally.accepted(namespace):
            for other in self.tally.forbidden:
                self._enqueue(other)
        self._unconfirmed[namespace] = target, self._clock.monotonic() + CONFIRM
        self._postpone(namespace, CONFIRM)

    async def _claim(self, path: str, target: Target) -> None:
        """Win the mark: of two hubs that see none at the same time, the API server takes the first one's alone."""
        try:
            await self._patch(path, target.claim, APPLY, {"fieldManager": target.claimant})
        except ClusterConflict as error:
            raise _ClaimLost from error

    async def _patch(self, path: str, body: bytes, content_type: str, params: dict[str, str]) -> None:
        try:
            await self._session.request(
                "PATCH",
                path,
                params=params,
                body=body,
                content_type=content_type,
                accept=METADATA_ONLY,
                most_bytes=SMALL_ANSWER_BYTES,
            )
        except ClusterOverBudget as error:
            # Others' annotations may make it as large as they like. What is there the watch shows: the answer says
            # that it was written, which is all that is wanted of it.
            if error.reason != TOO_LARGE:
                raise

    def _failed(self, namespace: str, error: ClusterError) -> None:
        match error:
            case ClusterDenied() if error.reason == TERMINATING:
                self.tally.note_terminating(namespace, terminating=True)
            case ClusterForbidden():
                self._refused(namespace, error, forbidden=True)
            case ClusterDenied():
                self._refused(namespace, error)
            case ClusterServerError() if error.reason == WEBHOOK:
                self._refused(namespace, error)  # for other namespaces it may not be called
            case ClusterWithheld():
                self._postpone(namespace, CATCH_UP)
            case ClusterTimeout() if error.reason == OWN_DELAY:
                self._postpone(namespace, CATCH_UP)  # that this process is late says nothing of the cluster
            case ClusterNotFound():
                self._postpone(namespace, 1.0)  # it is being deleted; the watch will say so
            case ClusterConflict() | ClusterInvalid():
                self._refused(namespace, error)
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
                self._unanswered.add(namespace)
                self._pause(error)
                self._enqueue(namespace)

    def _refused(self, namespace: str, error: ClusterError, *, forbidden: bool = False) -> None:
        """Note a namespace that refuses the bundle; logged once for a cluster, not for each of its namespaces."""
        if not (self.tally.forbidden if forbidden else self.tally.failed):
            fields = self._where | {"namespace": namespace, "reason": error.reason}
            _logger.warning("a namespace refuses the bundle: %s", error.diagnostics(), extra=fields)
        if not self.tally.refusing:
            self._again_at = self._clock.monotonic() + PATIENCE
        self.tally.refused(namespace, error, forbidden=forbidden)
        self._timed.set()

    def _pause(self, error: ClusterError) -> None:
        """Let the whole cluster rest; calls that failed together count once."""
        now = self._clock.monotonic()
        if now >= self._resume_at:
            requested = error.retry_after if isinstance(error, ClusterThrottled) else 0.0
            self._resume_at = now + self._backoff.next(at_least=requested)
        if self.tally.cluster_problem is None or self.tally.cluster_problem.reason != error.reason:
            fields = self._where | {"reason": error.reason}
            _logger.warning("publication pauses: %s", error.diagnostics(), extra=fields)
        self.tally.cluster_problem = error.without_frames()

    def _recovered(self) -> None:
        """Nothing is known any more that keeps the whole cluster from being written to."""
        self._unanswered.clear()
        self.tally.cluster_problem = None

    def _settled(self, namespace: str) -> None:
        """The watch shows the target there.

        A write whose answer was lost may have been done. Where the last of those is seen there is none left to make,
        and no answer would ever show that the cluster is well again.
        """
        self._retries.pop(namespace, None)
        self._unconfirmed.pop(namespace, None)
        self._to_restore.discard(namespace)
        self.tally.accepted(namespace)
        if namespace in self._unanswered:
            self._unanswered.discard(namespace)
            if not self._unanswered:
                self._recovered()

    def _forget(self, namespace: str) -> None:
        self._settled(namespace)
        self.tally.note_terminating(namespace, terminating=False)
        self.contention.forget(namespace)


class Lag:
    """The lag of one cluster, which was registered at ``since`` (seconds since the epoch)."""

    def __init__(self, since: float) -> None:
        self._since = since
        self._reached: tuple[int, float] = (0, 0.0)

    def of(self, generation: Generation | None, *, complete: bool, now: float) -> float:
        """Seconds from the generation's creation until every namespace had it; still growing until then.

        A cluster that was registered later is measured from then, and a namespace that comes after all others
        were reached once does not count again.
        """
        if generation is None:
            return 0.0
        number, lag = self._reached
        if number == generation.number:
            return lag
        waiting = max(0.0, now - max(generation.created, self._since))
        if complete:
            self._reached = generation.number, waiting
        return waiting
