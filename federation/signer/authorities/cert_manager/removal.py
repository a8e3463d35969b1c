"""Removing requests: each after its outcome, and what a crash left behind.

A CertificateRequest serves once and cert-manager keeps it for ever, so whoever makes them by the thousand has
to tidy up. What cannot be removed at once is left to the sweep, which every replica does: it takes any request
of the hub's that is so old that nobody can be waiting for it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Annotated, Final, TypeAlias

import msgspec
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt

from federation.clusters.answers import harmless
from federation.clusters.backoff import Backoff
from federation.clusters.objects import METADATA_ONLY_LIST, decode_page
from federation.clusters.session import ClusterSession
from federation.core.clock import Clock
from federation.core.errors import (
    ClusterConflict,
    ClusterDenied,
    ClusterError,
    ClusterForbidden,
    ClusterGarbage,
    ClusterInvalid,
    ClusterNotFound,
)
from federation.signer.authorities.cert_manager.failures import authority_error, may_exist
from federation.signer.authorities.cert_manager.request import MANAGED_BY, MANAGER

Creation: TypeAlias = asyncio.Task[ClusterError | None]
"""A creation under way; it ends with why it failed, and outlives the caller who gives up."""

ATTEMPTS: Final = 3
MOST_PENDING: Final = 1024
"""Removals under way; past it they are left to the sweep."""

LEFTOVER_AGE: Final = timedelta(minutes=10)
"""Nobody waits so long: a request lives as long as the authority's timeout, which is seconds."""

SWEEP_SECONDS: Final = 300.0
MOST_SWEPT: Final = 500
"""Removed in one sweep, one after another, so that tidying up never crowds out signing."""

PAGE: Final = 500
MOST_PAGES: Final = 20

_OF_ONE_OBJECT: Final = (ClusterForbidden, ClusterDenied, ClusterInvalid, ClusterConflict)
"""What the API server may say of one and not of the next; anything else it would say of each."""

_log = logging.getLogger(__name__)


class _Meta(msgspec.Struct, rename="camel", gc=False):
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=253)]
    creation_timestamp: Annotated[datetime, msgspec.Meta(tz=True)]


class _Object(msgspec.Struct, gc=False):
    metadata: _Meta


_decode_object: Final = msgspec.json.Decoder(_Object).decode


class Removals:
    """Removes requests in the background; every task is its own, and :meth:`close` waits for them."""

    def __init__(self, session: ClusterSession, path: str, *, clock: Clock, jitter: random.Random) -> None:
        self._session = session
        self._path = path
        self._clock = clock
        self._jitter = jitter
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self.problem: ClusterError | None = None
        """Why the last removal failed; None after one that went well."""

    def remove(self, name: str, creation: Creation) -> None:
        """Remove a request once its creation has ended, unless it never came to be."""
        if self._closed or len(self._tasks) >= MOST_PENDING:
            return
        task = asyncio.create_task(self._remove(name, creation))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def delete(self, name: str) -> None:
        """One attempt; that it is gone already is as good. Raises ClusterError."""
        try:
            await self._session.request("DELETE", f"{self._path}/{name}")
        except ClusterNotFound:
            pass
        except ClusterError as error:
            if self.problem is None:
                _log.warning(
                    "a CertificateRequest cannot be removed: %s",
                    authority_error(error).diagnostics(),
                    extra={"cluster": str(self._session.name), "reason": error.reason},
                )
            self.problem = error
            raise
        self.problem = None

    async def close(self, timeout: float) -> None:
        """Wait for what is under way, at most ``timeout`` seconds; the sweep of others does the rest."""
        self._closed = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout)
        left = list(self._tasks)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _remove(self, name: str, creation: Creation) -> None:
        error = await creation
        if error is not None and not may_exist(error):
            return
        backoff = Backoff(first=0.2, longest=2.0, jitter=self._jitter)
        attempts = AsyncRetrying(
            sleep=self._clock.sleep,
            stop=stop_after_attempt(ATTEMPTS),
            wait=lambda _: backoff.next(),
            retry=retry_if_exception_type(ClusterError),
            reraise=True,
        )
        try:
            await attempts(self.delete, name)
        except ClusterError:
            return  # noted by delete(); the sweep tries again


class Sweep:
    """Looks for leftovers at start and every few minutes."""

    def __init__(
        self,
        session: ClusterSession,
        path: str,
        removals: Removals,
        *,
        awaited: Callable[[str], bool],
        clock: Clock,
        jitter: random.Random,
    ) -> None:
        self._session = session
        self._path = path
        self._removals = removals
        self._awaited = awaited
        self._clock = clock
        self._jitter = jitter
        self._where = str(session.name)

    async def run(self) -> None:
        """Sweep until cancelled; a sweep that fails is noted, and the next one comes in its time."""
        while True:
            try:
                await self.sweep()
            except ClusterError as error:
                fields = {"cluster": self._where, "reason": error.reason}
                _log.info("no sweep this time: %s", authority_error(error).diagnostics(), extra=fields)
            await self._clock.sleep(SWEEP_SECONDS * self._jitter.uniform(0.8, 1.2))

    async def sweep(self) -> int:
        """Remove what is left over; how many that were. Raises ClusterError.

        One that cannot be removed (a finalizer's webhook, a policy) does not keep the others.
        """
        removed = 0
        for name in await self._leftovers():
            try:
                await self._removals.delete(name)
            except _OF_ONE_OBJECT:
                continue  # noted by delete()
            removed += 1
        if removed:
            _log.info("removed %d leftover CertificateRequests", removed, extra={"cluster": self._where})
        return removed

    async def _leftovers(self) -> list[str]:
        """Old ones by the server's own clock, which dated them; whichever replica they are of."""
        found: list[str] = []
        params = {"labelSelector": f"{MANAGED_BY}={MANAGER}", "limit": str(PAGE)}
        for _ in range(MOST_PAGES):
            answer = await self._session.get(self._path, params=params, accept=METADATA_ONLY_LIST)
            server_now = self._clock.now() - timedelta(seconds=self._session.clock_skew)
            try:
                page = decode_page(answer)
                metas = [_decode_object(raw).metadata for raw in page.items or ()]
            except (msgspec.MsgspecError, UnicodeError) as error:
                problem = f"list {self._path}: not what the API promises: {harmless(str(error))}"
                raise ClusterGarbage(problem, where=self._where) from None
            found += (
                meta.name
                for meta in metas
                if server_now - meta.creation_timestamp > LEFTOVER_AGE and not self._awaited(meta.name)
            )
            if len(found) >= MOST_SWEPT or not page.metadata.continue_:
                break
            params["continue"] = page.metadata.continue_
        return found[:MOST_SWEPT]
