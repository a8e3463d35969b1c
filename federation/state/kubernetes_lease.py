"""Leadership by a Lease (coordination.k8s.io/v1): client-go's rules, stricter where those trust a task to be on time.

- No two clocks are compared. A process that waits takes a Lease over once it has seen it unchanged for the duration
  written in it, by its own monotonic clock. The holder counts from *before* the renewal was sent, so its count is
  always ahead.
- ``leading`` is computed from the clock and is no flag that some task has to clear in time: it is false from the
  deadline on, which comes well before the duration is over, also where the API server hangs or the event loop was
  blocked. As the monotonic clock may stop while a machine sleeps, the wall clock has to agree.
- A leader that was late once leads no more, even where no other process took its place.
- Every write (read, create and replace are all there is) is a compare-and-swap on the resourceVersion that was last
  seen. The holder's name ends in random digits, so that two processes of one name are distinguished.

Every write of a leader asks for ``leading`` again where it is sent (docs/decisions/0067). Two leaders for a moment
remain possible where a person removes or edits the Lease by hand, or a write is delayed on its way: then the
documents' compare-and-swap protects them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from federation.core.clock import Clock
from federation.core.errors import ClusterConflict, ClusterGone, ClusterNotFound, StateUnavailable
from federation.state.kubernetes_documents import MISSING, NOT_KUBERNETES, StateThrottled, StoreCalls

_logger = logging.getLogger(__name__)

MAX_IDENTITY: Final = 200

_LABELS: Final = {
    "app.kubernetes.io/managed-by": "federation-hub",
    "app.kubernetes.io/part-of": "federation-hub",
}

_OTHERS = (ClusterConflict, ClusterNotFound, ClusterGone)  # another process wrote or removed it meanwhile


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTimings:
    """In seconds; client-go's defaults. A killed one is replaced after ``duration`` and two readings: at most 20 s."""

    duration: int = 15  # unchanged for so long, a Lease is free for any process
    deadline: float = 10.0  # unrenewed for so long, its holder leads no more
    every: float = 2.0  # between renewals, and between readings by those that wait


@contextlib.asynccontextmanager
async def leading(
    calls: StoreCalls,
    clock: Clock,
    *,
    namespace: str,
    name: str,
    identity: str,
    timings: LeaseTimings,
    jitter: random.Random,
    random_bytes: Callable[[int], bytes],
) -> AsyncIterator[LeaseLeadership]:
    """Wait for the Lease, renew it, and release it at the end."""
    holder = f"{identity[:MAX_IDENTITY]}_{random_bytes(8).hex()}"
    lease = LeadershipLease(calls, namespace=namespace, name=name)
    election = Election(lease, clock, holder=holder, timings=timings, jitter=jitter)
    try:
        leadership = await election.acquire()
        renewing = asyncio.create_task(election.keep(leadership))
        try:
            yield leadership
        finally:
            leadership.lose()
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
    finally:
        await election.release()


class LeaseLeadership:
    """A :class:`~federation.state.store.Leadership` that is true for as long as the clock says."""

    def __init__(self, clock: Clock, *, deadline: float) -> None:
        self._clock = clock
        self._deadline = deadline
        self._monotonic, self._wall = clock.monotonic(), clock.now()
        self._lost = False

    @property
    def leading(self) -> bool:
        """True while no other process can have taken the Lease; once false, it stays false."""
        elapsed = self._clock.monotonic() - self._monotonic
        by_wall_clock = (self._clock.now() - self._wall).total_seconds()
        if max(elapsed, by_wall_clock) >= self._deadline:
            self._lost = True
        return not self._lost

    def renewed(self, monotonic: float, wall: datetime) -> None:
        """A renewal that was sent at that instant was confirmed; no use where leadership has ended."""
        if self.leading:
            self._monotonic, self._wall = monotonic, wall

    def lose(self) -> None:
        """It cannot be relied on any more."""
        self._lost = True


class Election:
    """One candidate for one Lease."""

    def __init__(
        self,
        lease: LeadershipLease,
        clock: Clock,
        *,
        holder: str,
        timings: LeaseTimings,
        jitter: random.Random,
    ) -> None:
        self._lease = lease
        self._clock = clock
        self._holder = holder
        self._timings = timings
        self._jitter = jitter
        self._attempted = False
        self._logged = ""

    async def acquire(self) -> LeaseLeadership:
        """Wait until the Lease is ours.

        Raises StateUnavailable where it cannot be read at first, or not be read and taken for the whole of its
        duration; in between, what was seen of it stays: an API server that stumbles must not start the wait anew.
        """
        seen: LeaseSpec | None = None
        since = went_well = self._clock.monotonic()
        while True:
            wait = self._timings.every
            try:
                found = await self._lease.read()
                now = self._clock.monotonic()
                if found is not None and found != seen:
                    seen, since = found, now
                if self._is_free(found, seen, unchanged=now - since):
                    return await self._take(found)
                went_well = now
                self._log_once(logging.INFO, f"{_holder(seen)} leads now")
            except _OTHERS:
                pass  # another process was quicker: read again
            except StateUnavailable as error:
                if seen is None or self._clock.monotonic() - went_well >= self._timings.duration:
                    raise
                self._log_once(logging.WARNING, error.diagnostics())
                wait = max(wait, _patience(error))
            await self._clock.sleep(wait * (0.75 + 0.5 * self._jitter.random()))

    async def keep(self, leadership: LeaseLeadership) -> None:
        """Renew until it is lost; whatever ends this loses it as well."""
        wait: float | None = self._timings.every
        try:
            while leadership.leading and wait is not None:
                await self._clock.sleep(wait)
                wait = await self._renew(leadership)
            if wait is not None:
                _logger.warning("leadership is lost: the lease was not renewed in time", extra=self._extra)
        except Exception:  # a mistake of ours must not appear as leadership
            _logger.exception("leadership is given up", extra=self._extra)
        finally:
            leadership.lose()

    async def release(self) -> None:
        """Let another process lead at once, if the Lease is ours. Raises nothing: it runs out by itself."""
        if not self._attempted:
            return
        try:
            found = await self._lease.read()
            if found is not None and found.holder_identity == self._holder:
                await self._lease.replace(
                    LeaseSpec(lease_duration_seconds=1, lease_transitions=found.lease_transitions)
                )
        except (StateUnavailable, *_OTHERS) as error:
            _logger.warning("the lease was not released and runs out by itself: %s", error, extra=self._extra)

    def _is_free(self, found: LeaseSpec | None, seen: LeaseSpec | None, *, unchanged: float) -> bool:
        if found is not None and found.holder_identity in {None, "", self._holder}:
            return True  # our own name: an earlier attempt landed whose answer was lost
        if seen is None:
            return True  # there never was one: the first leader makes it
        duration = max(self._timings.duration, seen.lease_duration_seconds or 0)
        return unchanged >= duration  # also where it has vanished: its holder may not know yet

    async def _take(self, found: LeaseSpec | None) -> LeaseLeadership:
        leadership = LeaseLeadership(
            self._clock, deadline=self._timings.deadline
        )  # counts from before the write
        now = micro_time(self._clock.now())
        transitions = 0 if found is None else (found.lease_transitions or 0) + 1
        self._attempted = True
        spec = LeaseSpec(self._holder, self._timings.duration, now, now, transitions)
        await (self._lease.create(spec) if found is None else self._lease.replace(spec))
        _logger.info("leading from now on", extra=self._extra)
        return leadership

    async def _renew(self, leadership: LeaseLeadership) -> float | None:
        """Seconds until the next attempt; None where another process has it."""
        for _ in range(2):
            monotonic, wall = self._clock.monotonic(), self._clock.now()
            try:
                await self._lease.replace(replace(self._lease.spec, renew_time=micro_time(wall)))
            except StateUnavailable as error:
                _logger.warning("the lease cannot be renewed: %s", error.diagnostics(), extra=self._extra)
                return max(self._timings.every / 2, _patience(error))
            except _OTHERS:
                if await self._is_still_ours():
                    continue  # an earlier renewal whose answer was lost, or an edit of its labels
                _logger.warning("leadership is lost: another process has the lease now", extra=self._extra)
                return None
            else:
                leadership.renewed(monotonic, wall)
            break
        return self._timings.every

    async def _is_still_ours(self) -> bool:
        """Whether the Lease names us; True where it cannot be read as well: the deadline applies anyway."""
        try:
            found = await self._lease.read()
        except (StateUnavailable, *_OTHERS):
            return True
        return found is not None and found.holder_identity == self._holder

    def _log_once(self, level: int, what: str) -> None:
        """Log what is waited for, once until it changes."""
        if what != self._logged:
            _logger.log(level, "waiting to lead: %s", what, extra=self._extra)
            self._logged = what

    @property
    def _extra(self) -> dict[str, str]:
        return {"lease": self._lease.name, "identity": self._holder}


def _holder(seen: LeaseSpec | None) -> str:
    return ascii((seen.holder_identity or "")[:MAX_IDENTITY]) if seen is not None else "no process"


def _patience(error: StateUnavailable) -> float:
    return error.retry_after if isinstance(error, StateThrottled) else 0.0


def micro_time(when: datetime) -> str:
    """``meta/v1.MicroTime``: RFC 3339 in UTC with exactly six digits."""
    return when.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class LeaseSpec(msgspec.Struct, frozen=True, rename="camel"):
    """Who has it and since when; an empty one is free for any process."""

    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int | None = None


class _Metadata(msgspec.Struct, rename="camel"):
    name: str
    resource_version: str


class _Lease(msgspec.Struct):
    kind: str
    metadata: _Metadata
    spec: LeaseSpec | None = None


_lease = msgspec.json.Decoder(_Lease)


class LeadershipLease:
    """The object, and its content when it was last seen.

    Everything raises StateUnavailable; the writes raise ClusterConflict where another process wrote to it.
    """

    def __init__(self, calls: StoreCalls, *, namespace: str, name: str) -> None:
        self.name: Final = name
        self.spec = LeaseSpec()
        self._calls = calls
        self._collection = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._path = f"{self._collection}/{name}"
        self._where = f"Lease {namespace}/{name}"
        self._version = ""

    async def read(self) -> LeaseSpec | None:
        """Its content now, None where there is none."""
        try:
            return self._opened(await self._calls.call("GET", self._path, where=self._where))
        except ClusterNotFound:
            return None

    async def create(self, spec: LeaseSpec) -> None:
        """Make it; ClusterConflict where it is there."""
        try:
            answer = await self._calls.call(
                "POST", self._collection, where=self._where, body=self._body(spec, version="")
            )
        except ClusterNotFound as error:
            raise StateUnavailable("its namespace is not there", where=self._where, remedy=MISSING) from error
        self._opened(answer)

    async def replace(self, spec: LeaseSpec) -> None:
        """Write over the version last seen, and over no other; where it has vanished, it is made again."""
        body = self._body(spec, version=self._version)
        self._opened(await self._calls.call("PUT", self._path, where=self._where, body=body))

    def _body(self, spec: LeaseSpec, *, version: str) -> bytes:
        metadata: dict[str, Any] = {"name": self.name, "labels": _LABELS}
        if version:
            metadata["resourceVersion"] = version
        fields = {name: value for name, value in msgspec.to_builtins(spec).items() if value is not None}
        return msgspec.json.encode(
            {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": metadata,
                "spec": fields,
            }
        )

    def _opened(self, answer: bytes) -> LeaseSpec:
        try:
            found = _lease.decode(answer)
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise self._garbage(str(error)[:200]) from None
        if found.kind != "Lease" or found.metadata.name != self.name or not found.metadata.resource_version:
            raise self._garbage("it is another object")
        self._version, self.spec = found.metadata.resource_version, found.spec or LeaseSpec()
        return self.spec

    def _garbage(self, what: str) -> StateUnavailable:
        return StateUnavailable(
            f"the answer is not the Lease that was requested: {what}",
            where=self._where,
            remedy=NOT_KUBERNETES,
        )
