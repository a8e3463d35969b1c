"""A session that is opened anew where its kubeconfig changes, for what stays with one API server: the state.

A member is restarted for it (``members.py``), since another cluster may stand behind the new kubeconfig. The state
must not move under a running role, which has learned versions and leads by a Lease there: only the credentials are
followed, and a kubeconfig that names another server is not taken up before a restart.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final

from federation.clusters.credentials import fingerprint
from federation.clusters.members import RECHECK_SECONDS
from federation.clusters.session import ClusterSession
from federation.core.clock import Clock
from federation.core.config.access import ClusterTimeouts, Credentials
from federation.core.errors import ClusterUnauthorized, ConfigurationError, FederationError
from federation.core.identity import ClusterName

RESTART: Final = "restart the role to have it keep its state there, or name the server that it began with"

_log = logging.getLogger(__name__)


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
        )

    async def close(self) -> None:
        """Close it."""
        await self._session.close()

    async def follow(self) -> None:
        """Look at the kubeconfig again and again until cancelled. In-cluster credentials follow their own files."""
        while self._begun_with:
            await self._clock.sleep(RECHECK_SECONDS)
            try:
                await self._look()
            except (ConfigurationError, ClusterUnauthorized) as error:
                self._tell(error)
            except Exception:  # noqa: BLE001  requests go on with what there is
                _log.exception("a kubeconfig cannot be followed", extra={"cluster": str(self._session.name)})

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
        _log.info("the kubeconfig changed: a new session is used", extra={"cluster": str(session.name)})
        try:
            await self._clock.sleep(self._grace)  # what is under way has ended by then
        finally:
            await before.close()

    def _tell(self, error: FederationError) -> None:
        problem = error.diagnostics()
        if problem != self._problem:
            fields = {"cluster": str(self._session.name), "reason": error.reason}
            _log.warning("the changed kubeconfig is not used: %s", problem, extra=fields)
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
    """A session for as long as the block runs; the arguments are those of :meth:`ClusterSession.open`."""

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
