"""One supervised task for each registered cluster; what happens in one touches no other.

A role says with ``start`` what it does for a cluster: an async context manager that opens its session, runs its tasks
in a separate TaskGroup and yields what the role uses. It is entered in the cluster's own task. Where it fails or
crashes it is logged, kept under ``problems`` and entered again after a jittered delay. A cluster whose configuration
or kubeconfig changes is restarted alone; a kubeconfig that cannot be used is reported and changes nothing, the last
good one stays in force.

The session of the state is different, since it stays with one API server. A member is restarted for another
kubeconfig, since that may be another cluster. The state must not move under a running role, which has learned
versions and leads by a Lease there: only the credentials are followed, in a session that is opened anew, and a
kubeconfig that names another server is not taken up before a restart.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from types import MappingProxyType, TracebackType
from typing import Final, Generic, Self, TypeVar

from federation.core.clock import Clock
from federation.core.config.clusters import ClusterConfig, ClusterTimeouts, Credentials
from federation.core.errors import ClusterUnauthorized, ConfigurationError, FederationError
from federation.core.identity import ClusterName
from federation.kubernetes.backoff import Backoff
from federation.kubernetes.credentials import fingerprint, load_credentials
from federation.kubernetes.session import ClusterSession

_logger = logging.getLogger(__name__)

RECHECK_SECONDS: Final = 10.0
"""How often a kubeconfig is checked for changes; mounted Secrets take a minute or two to change anyway."""

STAGGER_SECONDS: Final = 0.02
"""Between the starts of clusters that begin together: TLS handshakes and lists of hundreds come one by one."""

STEADY_SECONDS: Final = 60.0
"""A member that ran this long went well: its next failure is the first again."""

T = TypeVar("T")


class MemberCrashedError(FederationError):
    """The work for one cluster ended by an unforeseen error; it is started again."""

    default_reason = "crashed"
    default_remedy = "the log has the traceback: report it; the cluster is tried again by itself"


@dataclass(slots=True)
class _Running:
    config: ClusterConfig
    task: asyncio.Task[None]


class Members(Generic[T]):
    """The registered clusters of one role. Use as an async context manager; leaving it stops them all.

    ``credentials`` picks the role's credentials out of a cluster's configuration.
    """

    def __init__(
        self,
        start: Callable[[ClusterConfig], AbstractAsyncContextManager[T]],
        *,
        credentials: Callable[[ClusterConfig], Credentials],
        clock: Clock,
        jitter: random.Random,
        recheck: float = RECHECK_SECONDS,
    ) -> None:
        self._start = start
        self._credentials = credentials
        self._clock = clock
        self._jitter = jitter
        self._recheck = recheck
        self._tasks = asyncio.TaskGroup()
        self._running: dict[ClusterName, _Running] = {}
        self._ending: dict[ClusterName, frozenset[asyncio.Task[None]]] = {}
        self._current: dict[ClusterName, T] = {}
        self._problems: dict[ClusterName, FederationError] = {}
        self._ended = False
        self.current: Mapping[ClusterName, T] = MappingProxyType(self._current)
        """What ``start`` yielded for each cluster that runs now; a live view."""

    @property
    def problems(self) -> Mapping[ClusterName, FederationError]:
        """Why a registered cluster does not run, or runs on older credentials; a live view."""
        return MappingProxyType(self._problems)

    @property
    def configs(self) -> Mapping[ClusterName, ClusterConfig]:
        """Every registered cluster, whether it runs or not."""
        return {name: running.config for name, running in self._running.items()}

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = True
        for name in list(self._running):
            self._stop(name)
        await self._tasks.__aexit__(kind, error, trace)

    async def apply(self, configs: Iterable[ClusterConfig]) -> None:
        """Start what is new, stop what is gone, restart what changed; the others are not touched.

        Returns at once: a cluster that takes long to end or to start delays no other. Within one cluster
        the old member has ended before the new one starts. Nothing is started any more once all of them are stopped.
        """
        if self._ended:
            return  # what applies a configuration may end later than the clusters do
        wanted = {config.name: config for config in configs}
        for name in [name for name in self._running if name not in wanted]:
            self._stop(name)
            _logger.info("cluster removed", extra={"cluster": str(name)})
        delay = 0.0
        for name, config in wanted.items():
            running = self._running.get(name)
            if running is not None and running.config == config:
                continue
            if running is not None:
                self._stop(name)
            before = self._ending.get(name, frozenset())
            task = self._tasks.create_task(self._keep(config, before, delay), name=f"cluster {name}")
            self._running[name] = _Running(config, task)
            delay += STAGGER_SECONDS

    def _stop(self, name: ClusterName) -> None:
        task = self._running.pop(name).task
        task.cancel()
        self._current.pop(name, None)
        self._problems.pop(name, None)
        ending = {before for before in self._ending.get(name, ()) if not before.done()}
        self._ending[name] = frozenset(ending | {task})

    async def _keep(self, config: ClusterConfig, before: frozenset[asyncio.Task[None]], delay: float) -> None:
        """Run one cluster until cancelled, over every failure."""
        if before:
            await asyncio.wait(before)
        await self._clock.sleep(delay)
        task = asyncio.current_task()
        timeouts = config.timeouts
        backoff = Backoff(first=timeouts.backoff_first, longest=timeouts.backoff_longest, jitter=self._jitter)
        while True:
            began = self._clock.monotonic()
            try:
                await self._run(config)
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  a bug in one stops no other
                if task is not None and task.cancelling():
                    return  # it was cancelled: an error on the way to its end changes nothing
                self._note(config.name, _foreseen(error) or MemberCrashedError(repr(error)[:200]), error)
            else:
                continue  # its kubeconfig changed
            if self._clock.monotonic() - began >= STEADY_SECONDS:
                backoff.reset()
            await self._clock.sleep(backoff.next())

    async def _run(self, config: ClusterConfig) -> None:
        """Enter ``start`` and stay until the kubeconfig on disk is another one that can be used."""
        credentials = self._credentials(config)
        begun_with = await fingerprint(credentials)
        member: T | None = None
        try:
            async with self._start(config) as member:
                self._current[config.name] = member
                if self._problems.pop(config.name, None) is not None:
                    _logger.info("cluster runs again", extra={"cluster": str(config.name)})
                await self._until_changed(config.name, credentials, begun_with)
                _logger.info("its kubeconfig changed: connecting anew", extra={"cluster": str(config.name)})
        finally:
            # A successor may have begun where this member was replaced.
            if member is not None and self._current.get(config.name) is member:
                del self._current[config.name]

    async def _until_changed(self, name: ClusterName, credentials: Credentials, begun_with: str) -> None:
        while True:
            await self._clock.sleep(self._recheck)
            try:
                if await fingerprint(credentials) == begun_with:
                    self._problems.pop(name, None)
                    continue
                await load_credentials(credentials, cluster=name, clock=self._clock)
            except (ConfigurationError, ClusterUnauthorized) as error:
                self._note(name, error)
                continue
            return

    def _note(self, name: ClusterName, error: FederationError, cause: BaseException | None = None) -> None:
        before = self._problems.get(name)
        if name in self._running:
            self._problems[name] = error.without_frames()
        if before is None or str(before) != str(error):
            crashed = cause if isinstance(error, MemberCrashedError) else None
            fields = {"cluster": str(name), "reason": error.reason}
            _logger.warning("cluster does not run: %s", error.diagnostics(), extra=fields, exc_info=crashed)


def _foreseen(error: BaseException) -> FederationError | None:
    """The one foreseen failure in a group that a TaskGroup raised; None where there is anything else in it."""
    while isinstance(error, ExceptionGroup):
        if any(not isinstance(e, FederationError | ExceptionGroup) for e in error.exceptions):
            return None
        error = error.exceptions[0]
    return error if isinstance(error, FederationError) else None


RESTART: Final = "restart the role to have it keep its state there, or name the server that it began with"


class FollowedSession:
    """Requests over the newest session that could be opened. Made by :func:`followed`; it is the caller's to close."""

    def __init__(
        self,
        session: ClusterSession,
        open_session: Callable[[], Awaitable[ClusterSession]],
        *,
        credentials: Credentials,
        begun_with: str,
        grace: float,
        clock: Clock,
    ) -> None:
        self._session = session
        self._open_session = open_session
        self._credentials = credentials
        self._begun_with = begun_with
        self._grace = grace
        self._clock = clock
        self._problem = ""

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
        timeout: float | None = None,
        most_bytes: int | None = None,
        permitted: Callable[[], bool] | None = None,
    ) -> bytes:
        """As :meth:`ClusterSession.request`."""
        return await self._session.request(
            method,
            path,
            params=params,
            body=body,
            content_type=content_type,
            accept=accept,
            timeout=timeout,
            most_bytes=most_bytes,
            permitted=permitted,
        )

    async def close(self) -> None:
        """Close it."""
        await self._session.close()

    async def follow(self) -> None:
        """Check the kubeconfig for changes until cancelled. In-cluster credentials follow their own files."""
        while self._begun_with:
            await self._clock.sleep(RECHECK_SECONDS)
            try:
                await self._look()
            except (ConfigurationError, ClusterUnauthorized) as error:
                self._report(error)
            except Exception:
                _logger.exception(
                    "a kubeconfig cannot be followed", extra={"cluster": str(self._session.name)}
                )

    async def _look(self) -> None:
        found = await fingerprint(
            self._credentials
        )  # before it is read: what changes in between is seen next time
        if found == self._begun_with:
            self._problem = ""
            return
        session, before = await self._open_session(), self._session
        if session.server != before.server:
            await session.close()
            raise ClusterUnauthorized(
                "the kubeconfig names another API server", where=str(before.name), remedy=RESTART
            )
        self._begun_with, self._session, self._problem = found, session, ""
        _logger.info("the kubeconfig changed: a new session is used", extra={"cluster": str(session.name)})
        try:
            await self._clock.sleep(self._grace)  # what is under way has ended by then
        finally:
            await before.close()

    def _report(self, error: FederationError) -> None:
        problem = error.diagnostics()
        if problem != self._problem:
            fields = {"cluster": str(self._session.name), "reason": error.reason}
            _logger.warning("the changed kubeconfig is not used: %s", problem, extra=fields)
        self._problem = problem


@asynccontextmanager
async def followed(
    credentials: Credentials,
    *,
    cluster: ClusterName,
    timeouts: ClusterTimeouts,
    clock: Clock,
    connections: int,
) -> AsyncIterator[FollowedSession]:
    """A session while the block runs; the arguments are those of :meth:`ClusterSession.open`."""

    async def open_session() -> ClusterSession:
        return await ClusterSession.open(
            credentials, cluster=cluster, timeouts=timeouts, clock=clock, connections=connections
        )

    begun_with = await fingerprint(credentials)
    session = FollowedSession(
        await open_session(),
        open_session,
        credentials=credentials,
        begun_with=begun_with,
        grace=timeouts.request,
        clock=clock,
    )
    following = asyncio.create_task(session.follow(), name=f"kubeconfig of {cluster}")
    try:
        yield session
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await session.close()
