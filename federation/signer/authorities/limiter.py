"""What protects one back end and its callers: fair turns within a quota, and a circuit breaker.

**Admission** (:class:`Limiter`): only as many requests at once, and only as many a second, as the back end allows.
Requests beyond that wait for their turn. One whose turn would come too late is refused at once with a code that agents
retry, so that no caller waits in vain. What becomes of each request is learned from what it raises. There is no task
beside the requests: the one that waits first keeps the time for all.

**Turns** (:class:`RequestQueue`; pure: no clock, no waiting): clusters take turns, so that a storm in one costs the
others nothing. Within a cluster the next is the caller whose certificate ends first; one of which no certificate is
known comes before all. Where there is no room, the least urgent of the cluster with most requests has to go.

**The circuit** (:class:`Circuit`; pure but for clock and jitter): after some failures in a row a back end gets no
requests any more, and is probed with backoff. While the circuit is open, requests are answered at once with the cause,
in place of waiting for a timeout each. A probe is a health poll first; when that succeeds, one request is let through,
and its outcome decides.

**The share of this replica** (:class:`ReplicaShare`): signers that share a back end each take their part of its quota.
They are counted from the reports in the state store, as every signer writes one. Where the store cannot be read, the
last count stays; a signer that has just started counts those that the configuration starts beside it, so that a
restart of all of them does not begin with a multiple of the quota.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count
from typing import Final, Generic, Literal, TypeVar

import msgspec

from federation.core.clock import Clock
from federation.core.config.authorities.settings import RemoteAuthorityConfig
from federation.core.documents.encoding import decode
from federation.core.documents.keys import SIGNERS
from federation.core.documents.signer import AuthorityReport, SignerReport
from federation.core.errors import (
    AuthorityMisconfigured,
    AuthorityRefused,
    AuthorityThrottled,
    AuthorityUnavailable,
    AuthorityViolation,
    FederationError,
    Overloaded,
    StateUnavailable,
)
from federation.kubernetes.backoff import Backoff
from federation.signer.authorities.reports import with_problem
from federation.state.liveness import is_live
from federation.state.store import StateStore

NO_CERTIFICATE: Final = 0.0
"""The urgency of a caller of which no certificate is known."""

SPARE: Final = 64
"""So many requests that are gone stay in a line, beside as many as wait, before they are cleared away."""


@dataclass(slots=True, eq=False)
class QueueEntry:
    """One request that waits. ``urgency`` is when what it replaces ends, in seconds since the epoch."""

    cluster: str
    urgency: float
    gone: bool = False


Entry = TypeVar("Entry", bound=QueueEntry)


@dataclass(slots=True)
class _Line(Generic[Entry]):
    """The requests of one cluster. ``served`` is a virtual time: the cluster with the least is next."""

    served: float
    heap: list[tuple[float, int, Entry]] = field(default_factory=list)
    waiting: int = 0


class RequestQueue(Generic[Entry]):
    """The requests that wait, at most ``room`` of them."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._lines: dict[str, _Line[Entry]] = {}
        self._order = count()
        self._now = 0.0
        self.waiting = 0

    def ahead(self, cluster: str, urgency: float) -> int:
        """How many would be served before a request that joined now, if no more came."""
        own = self._lines.get(cluster)
        before = sum(u <= urgency and not entry.gone for u, _, entry in own.heap) if own else 0
        others = (line.waiting for name, line in self._lines.items() if name != cluster)
        return before + sum(min(waiting, before + 1) for waiting in others)

    def join(self, entry: Entry) -> Entry | None:
        """Have it wait; the one that must go instead where there is no room, which may be itself."""
        line = self._lines.get(entry.cluster)
        if line is None:
            # A cluster that was idle starts level with the others: it can save up no turns.
            line = self._lines[entry.cluster] = _Line(self._now)
        heapq.heappush(line.heap, (entry.urgency, next(self._order), entry))
        line.waiting += 1
        self.waiting += 1
        if self.waiting <= self._room:
            return None
        # Of clusters that wait equally the newcomer's gives way, or one at the limit could push out another.
        longest = max(self._lines.values(), key=lambda each: (each.waiting, each is line))
        victim = max(waiting for waiting in longest.heap if not waiting[2].gone)[2]
        self.leave(victim)
        return victim

    def leave(self, entry: Entry) -> None:
        """It waits no more; nothing where it waits no more already."""
        if entry.gone:
            return
        entry.gone = True
        line = self._lines[entry.cluster]
        line.waiting -= 1
        self.waiting -= 1
        if not line.waiting:
            del self._lines[entry.cluster]
        elif len(line.heap) > 2 * line.waiting + SPARE:
            line.heap = [waiting for waiting in line.heap if not waiting[2].gone]
            heapq.heapify(line.heap)

    def take(self) -> Entry | None:
        """The next one, which waits no more; None where none waits."""
        if not self.waiting:
            return None
        line = min(self._lines.values(), key=lambda each: each.served)
        while True:
            _, _, entry = heapq.heappop(line.heap)
            if not entry.gone:
                break
        self._now = line.served
        line.served += 1
        self.leave(entry)
        return entry


FAILURES: Final = 5  # in a row: one lost connection of many is no outage
FIRST_PROBE: Final = 1.0
LONGEST_PROBE: Final = 30.0  # seconds; half of the shortest useful life of a certificate

State = Literal["closed", "open", "half-open"]


class Circuit:
    """Counts failures in a row, opens, and lets one request through after a good probe.

    ``on_open`` is called when it opens: the next health poll has to come sooner.
    """

    def __init__(
        self, *, clock: Clock, jitter: random.Random, where: str, on_open: Callable[[], None] = lambda: None
    ) -> None:
        self._clock = clock
        self._where = where
        self._on_open = on_open
        self._backoff = Backoff(first=FIRST_PROBE, longest=LONGEST_PROBE, jitter=jitter)
        self._failures = 0
        self._probing = False
        self._retry_at = 0.0
        self.state: State = "closed"
        self.cause: FederationError | None = None

    @property
    def until_probe(self) -> float:
        """Seconds until the next probe; 0 where it is due, or where there is nothing to probe."""
        return max(0.0, self._retry_at - self._clock.monotonic()) if self.state == "open" else 0.0

    def enter(self) -> None:
        """Let one request through; its outcome has to be reported. Raises as :meth:`check` does."""
        self.check()
        self._probing = self.state == "half-open"

    def check(self) -> None:
        """Raise AuthorityUnavailable where no request may pass now. After a good probe, one may."""
        if self.state == "closed" or (self.state == "half-open" and not self._probing):
            return
        cause = self.cause
        raise AuthorityUnavailable(
            f"left alone after {self._failures} failures in a row: {cause.what if cause else 'no answer'}",
            where=self._where,
            reason=cause.reason if cause else "",
            remedy=cause.remedy if cause else "",
        )

    def succeeded(self) -> None:
        """A request was answered as it should be."""
        self._failures = 0
        self._probing = False
        self.state, self.cause = "closed", None
        self._backoff.reset()

    def failed(self, cause: FederationError) -> None:
        """A request, or a probe, has failed."""
        self._failures += 1
        self.cause = cause.without_frames()
        if self.state == "closed" and self._failures < FAILURES:
            return
        if self.state != "open" or not self.until_probe:
            self._retry_at = self._clock.monotonic() + self._backoff.next()
        opens, self.state, self._probing = self.state != "open", "open", False
        if opens:
            self._on_open()

    def abandoned(self) -> None:
        """The request that was let through ended without an outcome: another may try."""
        self._probing = False

    def probed(self) -> None:
        """A health poll succeeded: the next request shows whether the back end signs."""
        if self.state == "open":
            self.state, self._probing = "half-open", False


BURST_SECONDS: Final = 1.0
"""Requests that may go out together after a pause: what a second allows, as the back ends' own buckets do."""

SMOOTHING: Final = 16.0  # requests that the mean time of one is taken over
RATE_WINDOW: Final = 60.0  # seconds that the shown rate is smoothed over
SLOWEST: Final = 0.1  # of the quota: how far a back end that keeps throttling slows us down
RECOVERY: Final = 1.05  # the pace grows by so much with each second that nothing was throttled
SHORTEST_PAUSE: Final = 0.05  # seconds between two polls, however soon a probe is due

LEAST_PATIENCE: Final = 1.0
"""Seconds a request may wait for its turn, however short the listener's deadline is."""

RENEWED_AT: Final = 0.5
"""Of its life: when Istio's agents and ztunnel renew a certificate."""


@dataclass(slots=True, eq=False)
class _Waiting(QueueEntry):
    """A request and the caller that waits for its turn."""

    woken: asyncio.Event = field(default_factory=asyncio.Event)
    granted: bool = False


class Limiter:
    """Admits requests to one back end, and learns from what becomes of them.

    ``quota`` is in requests a second for all signers together, of which this one takes :attr:`share`; 0 means no
    limit. ``patience`` is for how many seconds a request may wait at most. ``lifetime`` says how long leaves live at
    present, in seconds: how many workloads the quota can carry depends on it.
    """

    def __init__(
        self,
        *,
        quota: float,
        max_in_flight: int,
        max_queued: int,
        patience: float,
        lifetime: Callable[[], float],
        clock: Clock,
        jitter: random.Random,
        where: str,
        on_open: Callable[[], None] = lambda: None,
    ) -> None:
        self.quota: Final = quota
        self._max_in_flight = max_in_flight
        self._patience = patience
        self._lifetime = lifetime
        self._clock = clock
        self._where = where
        self._circuit = Circuit(clock=clock, jitter=jitter, where=where, on_open=on_open)
        self._throttled: AuthorityThrottled | None = None
        self._queue = RequestQueue[_Waiting](max_queued)
        self._waiting: dict[_Waiting, None] = {}
        self._in_flight = 0
        self._share = 1.0
        self._pace = 1.0  # below 1 while the back end throttles
        self._paced_at = clock.monotonic()
        self._paused_until = 0.0
        self._tokens = self._burst
        self._filled_at = clock.monotonic()
        self._timekeeper: _Waiting | None = None
        self._took = 0.0
        self._rate = 0.0
        self._rated_at = clock.monotonic()
        self.refused = 0

    @classmethod
    def of(
        cls,
        config: RemoteAuthorityConfig,
        *,
        deadline: float,
        lifetime: Callable[[], float],
        clock: Clock,
        jitter: random.Random,
        on_open: Callable[[], None],
    ) -> Limiter:
        """That of a remote authority by its settings; ``deadline`` is the listener's, in seconds."""
        return cls(
            quota=config.quota,
            max_in_flight=config.max_in_flight,
            max_queued=config.max_queued,
            patience=max(LEAST_PATIENCE, deadline - config.timeout),
            lifetime=lifetime,
            clock=clock,
            jitter=jitter,
            where=config.name,
            on_open=on_open,
        )

    @property
    def share(self) -> float:
        """The part of the quota that this process takes."""
        return self._share

    @share.setter
    def share(self, share: float) -> None:
        self._fill()
        self._share = share

    @property
    def queued(self) -> int:
        """Requests that wait."""
        return self._queue.waiting

    @property
    def busy(self) -> bool:
        """True while any request waits or is under way."""
        return bool(self._in_flight or self._queue.waiting)

    @property
    def rate(self) -> float:
        """Requests a second that went through recently."""
        decay: float = 0.5 ** ((self._clock.monotonic() - self._rated_at) / RATE_WINDOW)
        return self._rate * decay

    # --- the circuit -----------------------------------------------------------------------------------------------

    @property
    def open(self) -> bool:
        """True while no request is let through because too many in a row have failed."""
        return self._circuit.state == "open"

    @property
    def probe_due(self) -> bool:
        """False where the circuit is open and the back end is to be left alone for some time yet."""
        return not self._circuit.until_probe

    def pause(self, regular: float) -> float:
        """Seconds until the next health poll: the regular ones, or until the next probe of an open circuit."""
        return max(SHORTEST_PAUSE, self._circuit.until_probe) if self.open else regular

    def polled(self, *, good: bool, report: AuthorityReport) -> None:
        """A health poll has ended; a good one lets one request try an open circuit, another one delays the next."""
        if not self.open:
            return
        if good:
            self._circuit.probed()
        else:
            self._circuit.failed(
                AuthorityUnavailable(report.detail, reason=report.reason, remedy=report.remedy)
            )

    def report(self, report: AuthorityReport) -> AuthorityReport:
        """The authority's report with the circuit, the quota and its use."""
        circuit = self._circuit
        report = msgspec.structs.replace(
            report,
            quota=self.quota,
            share=self.quota * self.share,
            rate=self.rate,
            queued=self.queued,
            refused_early=self.refused,
            capacity=int(self.quota * self._lifetime() * RENEWED_AT),
            circuit=circuit.state,
            retry_at=self._clock.now().timestamp() + circuit.until_probe if self.open else 0.0,
        )
        cause, throttled = circuit.cause, self._throttled
        if self.open and report.state != "unavailable" and cause is not None:
            detail = f"left alone after repeated failures, the last: {cause}"
            return with_problem(report, "unavailable", cause, detail)
        if report.state != "ready":
            return report
        if circuit.state == "half-open":
            detail = "it answers again; the next request shows whether it signs"
            return msgspec.structs.replace(report, state="degraded", reason="recovering", detail=detail)
        if throttled is not None:
            detail = f"the last request was throttled: {throttled}"
            return with_problem(report, "degraded", throttled, detail)
        return report

    # --- admission -------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def admitted(self, cluster: str, replaces: datetime | None = None) -> AsyncIterator[None]:
        """The context in which the back end may be asked; what it raises there is the request's outcome.

        ``replaces`` is when the caller's certificate ends, None where none is known. Raises AuthorityUnavailable at
        once where the circuit is open, and Overloaded where the turn would come too late.
        """
        self._circuit.check()  # before it waits: no caller queues for a back end that is left alone
        await self._enter(cluster, replaces.timestamp() if replaces is not None else NO_CERTIFICATE)
        began = self._clock.monotonic()
        try:
            self._circuit.enter()
            try:
                yield
            except BaseException as error:
                self._failed(error)
                raise
            self._circuit.succeeded()
            self._throttled = None
        finally:
            self._took += (self._clock.monotonic() - began - self._took) / SMOOTHING
            self._in_flight -= 1
            self._grant()
            self._wake_timekeeper()

    def _failed(self, error: BaseException) -> None:
        """What a request that raised this says of the back end."""
        match error:
            case AuthorityRefused() | AuthorityViolation():
                self._circuit.succeeded()  # it answers; that its answer is no is another matter
            case AuthorityThrottled():
                self._circuit.abandoned()
                self._slow_down(error.retry_after)
                self._throttled = error.without_frames()
            case AuthorityUnavailable() | AuthorityMisconfigured():
                self._circuit.failed(error)
            case _:
                self._circuit.abandoned()

    def _slow_down(self, retry_after: float) -> None:
        """The back end asked for fewer requests: pause for ``retry_after`` seconds, then go on at half the pace."""
        now = self._clock.monotonic()
        self._fill()
        if now >= self._paused_until:  # one answer of a burst that was throttled as a whole counts once
            self._pace = max(SLOWEST, self._pace / 2)
        self._paced_at = now
        self._paused_until = max(self._paused_until, now + min(retry_after or 1.0, self._patience))
        self._tokens = min(self._tokens, 0.0)
        self._filled_at = self._paused_until  # nothing is saved up meanwhile: the pause would end in a burst

    async def _enter(self, cluster: str, urgency: float) -> None:
        if not self._queue.waiting and self._room() == 0.0:
            self._admit()
            return
        wait = self._estimate(self._queue.ahead(cluster, urgency))
        if wait > self._patience:
            self.refused += 1
            raise self._overloaded(f"its turn would come after {wait:.0f} s")
        own = _Waiting(cluster, urgency)
        victim = self._queue.join(own)
        if victim is own:
            self.refused += 1
            raise self._overloaded("the queue is full")
        if victim is not None:
            victim.woken.set()
        self._waiting[own] = None
        try:
            await self._wait(own)
        except BaseException:
            if own.granted:  # cancelled in the very moment of its turn
                self._in_flight -= 1
            raise
        finally:
            self._waiting.pop(own, None)
            self._queue.leave(own)
            self._wake_timekeeper()

    async def _wait(self, own: _Waiting) -> None:
        """Return with the turn granted. The first that waits keeps the time until its own turn has come."""
        try:
            async with asyncio.timeout(self._patience * 2):
                while True:
                    delay = self._grant()
                    if own.granted:
                        return
                    if own.gone:
                        self.refused += 1
                        raise self._overloaded("the queue is full of what is more urgent")
                    own.woken.clear()
                    if delay is None or self._timekeeper not in {None, own}:
                        await own.woken.wait()
                        continue
                    self._timekeeper = own
                    try:
                        await self._clock.sleep(delay)
                    finally:
                        self._timekeeper = None
        except TimeoutError:
            self.refused += 1
            raise self._overloaded("its turn did not come in time") from None

    def _grant(self) -> float | None:
        """Give turns to as many as there is room for; seconds until the next, None where a slot must come free."""
        while self._queue.waiting:
            delay = self._room()
            if delay != 0.0:
                return delay
            following = self._queue.take()
            if following is None:
                return None
            self._admit()
            following.granted = True
            following.woken.set()
        return None

    def _wake_timekeeper(self) -> None:
        """One has to keep the time while any wait."""
        if self._timekeeper is None and self._waiting:
            next(iter(self._waiting)).woken.set()

    def _room(self) -> float | None:
        """0 where a request may go out now, else seconds until the quota allows it; None where no slot is free."""
        if self._in_flight >= self._max_in_flight:
            return None
        now = self._clock.monotonic()
        if now < self._paused_until:
            return self._paused_until - now
        if not self.quota:
            return 0.0
        self._fill()
        return 0.0 if self._tokens >= 1.0 else (1.0 - self._tokens) / self._speed + 1e-6

    def _admit(self) -> None:
        self._in_flight += 1
        if self.quota:
            self._tokens -= 1.0
        now = self._clock.monotonic()
        decay = 0.5 ** ((now - self._rated_at) / RATE_WINDOW)
        self._rate = self._rate * decay + 0.693 / RATE_WINDOW  # ln 2: the steady state is the true rate
        self._rated_at = now

    def _fill(self) -> None:
        now = self._clock.monotonic()
        if self._pace < 1.0 and now > self._paced_at:
            self._pace = min(1.0, self._pace * RECOVERY ** (now - self._paced_at))
            self._paced_at = now
        if now > self._filled_at:
            self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._speed)
            self._filled_at = now

    def _estimate(self, ahead: int) -> float:
        """Seconds until a request with ``ahead`` before it has its turn, by the quota or by how long others took."""
        wait = self._took * (ahead + 1.0) / self._max_in_flight
        if self.quota:
            self._fill()
            wait = max(wait, (ahead + 1.0 - self._tokens) / self._speed)
        return max(0.0, self._paused_until - self._clock.monotonic()) + wait

    @property
    def _speed(self) -> float:
        return self.quota * self._share * self._pace

    @property
    def _burst(self) -> float:
        return max(1.0, self.quota * self._share * BURST_SECONDS)

    def _overloaded(self, why: str) -> Overloaded:
        return Overloaded(
            f"{why}; {self._queue.waiting} requests wait for the back end",
            where=self._where,
            reason="authority_quota",
            remedy="have the back end's limit raised, set quota to it, or let certificates live longer",
        )


MOST_SIGNERS: Final = 512  # whose reports are read


class ReplicaShare:
    """Counts the signers of one state store that use the same authorities as this one."""

    def __init__(self, store: StateStore, *, replica: str, clock: Clock, expected: int) -> None:
        self._store = store
        self._replica = replica
        self._clock = clock
        self._expected = max(1, expected)
        self._counts: dict[str, int] = {}

    def share(self, authority: str) -> float:
        """The part of that authority's quota that this signer may take."""
        return 1.0 / self._counts.get(authority, self._expected)

    async def count(self, authorities: Collection[str]) -> None:
        """Count who uses them; damaged reports count as using all, because their writers may well sign."""
        now = self._clock.now().timestamp()
        counts = Counter(authorities)
        try:
            for key in (await self._store.keys(SIGNERS))[:MOST_SIGNERS]:
                if key != f"{SIGNERS}{self._replica}":
                    used = await self._used(key, now)
                    counts.update(name for name in authorities if used is None or name in used)
        except StateUnavailable:
            return
        self._counts = dict(counts)

    async def _used(self, key: str, now: float) -> frozenset[str] | None:
        """The authorities that the signer of this report uses; None where that is not known."""
        try:
            stored = await self._store.read(key)
            report = decode(stored.data, SignerReport, key=key) if stored is not None else None
        except StateUnavailable:
            return None
        if report is None or not is_live(report, now):
            return frozenset()
        if report.authority is None:
            return None
        both = (report.authority, report.successor)
        return frozenset(authority.name for authority in both if authority is not None)
