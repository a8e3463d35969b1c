"""The connection to the management cluster: one session, one watch, what tidies up, and whether the issuer is ready.

::

    issue() -> create ---------------------> API server
                                                 |  approver, issuer
    Outstanding <- Reflector <- one watch <------+
    Removals, Sweep -> delete -------------> API server

The watch has the label of this process, so that a replica does not read what the others are sent.

The issuer is read where it is one of cert-manager's own and we may read it. That right is optional: without it a
request that waits for its issuer says the same, only later.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final, Self

import msgspec

from federation.core.config.authorities.settings import CertManagerAuthorityConfig
from federation.core.config.clusters import ClusterTimeouts
from federation.core.errors import (
    AuthorityMisconfigured,
    AuthorityUnavailable,
    ClusterError,
    ClusterForbidden,
    ClusterGarbage,
    ClusterNotFound,
    ClusterTimeout,
)
from federation.core.identity import ClusterName
from federation.kubernetes.answers import harmless
from federation.kubernetes.objects import METADATA_ONLY_LIST
from federation.kubernetes.reflector import Reflector
from federation.kubernetes.session import LONG_IDLE_SECONDS, ClusterSession
from federation.signer.authorities.authority import BackEndContext
from federation.signer.authorities.cert_manager.requests import (
    API,
    GROUP,
    INSTANCE,
    Creation,
    Outstanding,
    Removals,
    Sweep,
    collection,
)
from federation.signer.authorities.cert_manager.verdict import MAX_TEXT, Verdict

_logger = logging.getLogger(__name__)

CLUSTER: Final = ClusterName("management")
CLOSING: Final = 2.0
"""Seconds that closing waits for requests to be removed; what is left then is another replica's leftover."""

SILENCE: Final = 30.0
"""Seconds until a watch that says nothing is listed anew. A list of our own requests costs little, and a watch
that is delayed on its way would let every request time out."""

_POLL: Final = 0.05


def timeouts(config: CertManagerAuthorityConfig) -> ClusterTimeouts:
    """Those of one watch that requests wait for: it is taken up again within seconds."""
    return ClusterTimeouts(
        connect=min(3.0, config.timeout),
        request=config.timeout,
        watch_silence=SILENCE,
        backoff_first=0.2,
        backoff_longest=2.0,
    )


class ManagementConnection:
    """Made by :meth:`open`; ``session`` is its session."""

    def __init__(
        self,
        session: ClusterSession,
        config: CertManagerAuthorityConfig,
        outstanding: Outstanding,
        *,
        instance: str,
        context: BackEndContext,
    ) -> None:
        self.session: Final = session
        self._timeout = config.timeout
        self._clock = context.clock
        self._path = collection(config.namespace)
        self._own = f"{INSTANCE}={instance}"
        self._reflector = Reflector[Verdict](
            session,
            self._path,
            decode=outstanding.decode,
            label_selector=self._own,
            timeouts=timeouts(config),
            clock=context.clock,
            jitter=context.jitter,
            on_change=outstanding.changed,
        )
        self._removals = Removals(session, self._path, clock=context.clock, jitter=context.jitter)
        self._sweep = Sweep(
            session,
            self._path,
            self._removals,
            awaited=lambda name: name in outstanding,
            clock=context.clock,
            jitter=context.jitter,
        )
        self._creations: set[Creation] = set()
        self._running = asyncio.create_task(self._run())

    @classmethod
    async def open(
        cls,
        config: CertManagerAuthorityConfig,
        outstanding: Outstanding,
        *,
        instance: str,
        context: BackEndContext,
    ) -> Self:
        """Read the credentials and start to watch. Raises ConfigurationError or ClusterUnauthorized."""
        session = await ClusterSession.open(
            config.credentials,
            cluster=CLUSTER,
            timeouts=timeouts(config),
            clock=context.clock,
            connections=config.max_in_flight,
            idle=LONG_IDLE_SECONDS,
        )
        return cls(session, config, outstanding, instance=instance, context=context)

    @property
    def ended(self) -> bool:
        """True where watch and sweep run no more."""
        return self._running.done()

    @property
    def watching(self) -> bool:
        """True while what is known of the requests is fresh."""
        return self._reflector.fresh

    @property
    def unremovable(self) -> ClusterError | None:
        """Why requests cannot be removed at present, or None."""
        return self._removals.problem

    def create(self, name: str, body: bytes) -> Creation:
        """Start to create a request; it is removed by :meth:`remove`, which has to be called."""
        creation = asyncio.create_task(self._create(body), name=f"create {name}")
        self._creations.add(creation)
        creation.add_done_callback(self._creations.discard)
        return creation

    def remove(self, name: str, creation: Creation) -> None:
        """Remove a request in the background."""
        self._removals.remove(name, creation)

    async def synced(self) -> None:
        """Return once the watch has begun. Raises what prevents it as a ClusterError."""
        await self._reflector.wait_synced(self._timeout)

    async def check(self) -> None:
        """Ask the API server, then wait until the watch is established as well. Raises ClusterError."""
        params = {"labelSelector": self._own, "limit": "1"}
        await self.session.get(self._path, params=params, accept=METADATA_ONLY_LIST)
        try:
            async with asyncio.timeout(self._timeout):
                while not self._reflector.fresh:
                    await self._clock.sleep(_POLL)
        except TimeoutError:
            unknown = ClusterTimeout(f"watch {self._path}: it is not established", where=str(CLUSTER))
            raise self._reflector.problem or unknown from None

    async def close(self) -> None:
        """Remove what there is to remove, at most :data:`CLOSING` seconds; then close everything."""
        try:
            await self._removals.close(CLOSING)
        finally:
            tasks = [self._running, *self._creations]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.session.close()

    async def _run(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._reflector.run())
                tasks.create_task(self._sweep.run())
        except ExceptionGroup:  # neither is to end; the next health poll opens another connection
            _logger.exception("watching CertificateRequests ended", extra={"cluster": str(CLUSTER)})

    async def _create(self, body: bytes) -> ClusterError | None:
        try:
            await self.session.request("POST", self._path, body=body)
        except ClusterError as error:
            return error
        return None


NOT_FOUND: Final = "create it, or correct issuer_name, issuer_kind and issuer_group"


class _Condition(msgspec.Struct):
    type: str = ""
    status: str = ""
    message: str = ""


class _Status(msgspec.Struct):
    conditions: list[_Condition] | None = None


class _Issuer(msgspec.Struct):
    status: _Status | None = None


def not_ready(config: CertManagerAuthorityConfig) -> str:
    """What to do about an issuer that is not ready."""
    kind, group = config.issuer_kind.lower(), config.issuer_group
    return (
        "look at its conditions in the management cluster, "
        f"`kubectl -n {config.namespace} describe {kind}.{group}/{config.issuer_name}`: its secret or the service "
        "behind it is wrong"
    )


_decode: Final = msgspec.json.Decoder(_Issuer).decode


async def check_issuer(session: ClusterSession, config: CertManagerAuthorityConfig) -> None:
    """Raises AuthorityMisconfigured or AuthorityUnavailable for a bad issuer, ClusterError without an answer."""
    path = _path(config)
    if path is None:
        return
    named = f"the {config.issuer_kind} {config.issuer_name}"
    try:
        answer = await session.get(path)
    except ClusterForbidden:
        return
    except ClusterNotFound:
        raise AuthorityMisconfigured(
            f"{named} is not there", reason="issuer_not_found", remedy=NOT_FOUND
        ) from None
    try:
        status = _decode(answer).status or _Status()
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise ClusterGarbage(f"GET {path}: not what the API promises: {harmless(str(error))}") from None
    ready = next((c for c in status.conditions or () if c.type == "Ready"), _Condition())
    if ready.status != "True":
        raise AuthorityUnavailable(
            f"{named} is not ready: {harmless(ready.message)[:MAX_TEXT] or 'it has no Ready condition'}",
            reason="issuer_not_ready",
            remedy=not_ready(config),
        )


def _path(config: CertManagerAuthorityConfig) -> str | None:
    if config.issuer_group != GROUP:
        return None
    match config.issuer_kind:
        case "ClusterIssuer":
            return f"{API}/clusterissuers/{config.issuer_name}"
        case "Issuer":
            return f"{API}/namespaces/{config.namespace}/issuers/{config.issuer_name}"
    return None
