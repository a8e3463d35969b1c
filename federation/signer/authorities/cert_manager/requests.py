"""CertificateRequests: made for one leaf, awaited, and removed.

Source of their form: cert-manager's ``pkg/apis/certmanager/v1`` (types_certificaterequest.go) and the checks of its
webhook (``internal/apis/certmanager/validation``). The webhook sets no least ``duration`` here: the hour of
``MinimumCertificateDuration`` holds for Certificate objects only.

One watch serves all requests that a caller waits for. Only what is awaited is taken apart and kept; of anything else
that the watch brings nothing stays but its name.

A CertificateRequest serves once and cert-manager keeps it for ever, so a client that makes them by the thousand has
to tidy up: each is removed after its outcome. What cannot be removed at once, and what a crash left behind, is left
to the sweep, which every replica does: it takes any request of the hub's that is so old that no caller can be waiting
for it.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Annotated, Final, TypeAlias

import msgspec
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt

from federation.core.clock import Clock
from federation.core.config.authorities.settings import CertManagerAuthorityConfig
from federation.core.errors import (
    AuthorityError,
    AuthorityUnavailable,
    ClusterConflict,
    ClusterDenied,
    ClusterError,
    ClusterForbidden,
    ClusterGarbage,
    ClusterInvalid,
    ClusterNotFound,
)
from federation.core.pki.leaf import LeafProfile
from federation.kubernetes.answers import harmless
from federation.kubernetes.backoff import Backoff
from federation.kubernetes.objects import METADATA_ONLY_LIST, Item, Payload, decode_page, key_of
from federation.kubernetes.reflector import Change
from federation.kubernetes.session import ClusterSession
from federation.signer.authorities.authority import LeafRequest
from federation.signer.authorities.cert_manager.failures import authority_error, may_exist
from federation.signer.authorities.cert_manager.verdict import (
    Deleted,
    Pending,
    Verdict,
    decode_request,
    verdict_of,
)

_logger = logging.getLogger(__name__)

GROUP: Final = "cert-manager.io"
API: Final = f"/apis/{GROUP}/v1"

MANAGED_BY: Final = "app.kubernetes.io/managed-by"
MANAGER: Final = "federation-hub"
INSTANCE: Final = "federation-hub/instance"
"""The label that distinguishes the requests of one process from those of its replicas."""

IDENTITY: Final = "federation-hub/identity"
CLUSTER: Final = "federation-hub/cluster"
"""Annotations for people and for approvers: for whom it is, and for a workload of which member cluster."""

_USAGES: Final = {
    LeafProfile.WORKLOAD: ("digital signature", "key encipherment", "server auth", "client auth"),
    LeafProfile.SERVING: ("digital signature", "key encipherment", "server auth"),
}


def collection(namespace: str) -> str:
    """The path of the CertificateRequests of a namespace."""
    return f"{API}/namespaces/{namespace}/certificaterequests"


def duration(not_after: datetime, now: datetime, margin: float) -> int:
    """For how many whole seconds to ask, at least one.

    An issuer counts from when it signs (its CA issuer: ``NotBefore`` now, ``NotAfter`` now plus duration), and
    that may be ``margin`` seconds from now. So much is left out: a leaf must not outlive what was requested, nor
    the issuer that the request was cut to.
    """
    return max(1, int((not_after - now - timedelta(seconds=margin)).total_seconds()))


def certificate_request(
    config: CertManagerAuthorityConfig, wanted: LeafRequest, *, name: str, instance: str, seconds: int
) -> bytes:
    """The object to create, as JSON.

    Its name is drawn here and not by the server (``generateName``): where the answer to the creation is lost,
    the request can still be awaited and removed, and sending it twice makes one request.
    """
    annotations = {IDENTITY: ", ".join(wanted.names)} | ({CLUSTER: wanted.cluster} if wanted.cluster else {})
    return msgspec.json.encode(
        {
            "apiVersion": f"{GROUP}/v1",
            "kind": "CertificateRequest",
            "metadata": {
                "name": name,
                "namespace": config.namespace,
                "labels": {MANAGED_BY: MANAGER, INSTANCE: instance},
                "annotations": annotations,
            },
            "spec": {
                "request": base64.b64encode(wanted.csr_pem.encode("ascii")).decode("ascii"),
                "isCA": False,
                "usages": _USAGES[wanted.profile],
                "duration": f"{seconds}s",
                "issuerRef": {
                    "name": config.issuer_name,
                    "kind": config.issuer_kind,
                    "group": config.issuer_group,
                },
            },
        }
    )


Creation: TypeAlias = asyncio.Task[ClusterError | None]
"""A creation under way; it ends with why it failed, and outlives the caller who gives up."""

ATTEMPTS: Final = 3
MOST_PENDING: Final = 1024
"""Removals under way; past it they are left to the sweep."""

LEFTOVER_AGE: Final = timedelta(minutes=10)
"""No caller waits so long: a request lives while the authority's timeout, which is seconds."""

SWEEP_SECONDS: Final = 300.0
MOST_SWEPT: Final = 500
"""Removed in one sweep, one after another, so that tidying up never crowds out signing."""

PAGE: Final = 500
MOST_PAGES: Final = 20

_OF_ONE_OBJECT: Final = (ClusterForbidden, ClusterDenied, ClusterInvalid, ClusterConflict)
"""What the API server may say of one and not of the next; anything else it would say of each."""


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
                _logger.warning(
                    "a CertificateRequest cannot be removed: %s",
                    authority_error(error).diagnostics(),
                    extra={"cluster": str(self._session.name), "reason": error.reason},
                )
            self.problem = error.without_frames()
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
                _logger.info("no sweep this time: %s", authority_error(error).diagnostics(), extra=fields)
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
            _logger.info("removed %d leftover CertificateRequests", removed, extra={"cluster": self._where})
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


NO_CALLER_WAITS: Final = Pending()


@dataclass(frozen=True, slots=True)
class NotCreated:
    """There will be no verdict, for there is no request."""

    error: AuthorityError | AuthorityUnavailable


@dataclass(slots=True)
class Waiting:
    """One request that a caller waits for. ``last`` is what was last seen of it, None before the first time."""

    decided: asyncio.Future[Verdict | NotCreated] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    last: Pending | None = None

    def decide(self, verdict: Verdict | NotCreated) -> None:
        """Wake the one that waits; the first verdict counts."""
        if not self.decided.done():
            self.decided.set_result(verdict)


class Outstanding:
    """By name, from before a request is sent until its outcome was read."""

    def __init__(self) -> None:
        self._waiting: dict[str, Waiting] = {}

    def __contains__(self, name: object) -> bool:
        return name in self._waiting

    def expect(self, name: str) -> Waiting:
        """A caller waits for this request from now on."""
        waiting = self._waiting[name] = Waiting()
        return waiting

    def forget(self, name: str) -> None:
        """No caller waits for it any more."""
        self._waiting.pop(name, None)

    def decode(self, payload: Payload) -> Item[Verdict]:
        """A watched object as its verdict: the reflector's decoder."""
        request = decode_request(payload)
        key = key_of(request.metadata)
        verdict = verdict_of(request.status) if key.name in self._waiting else NO_CALLER_WAITS
        return Item(key, request.metadata.resource_version, verdict)

    def changed(self, change: Change[Verdict]) -> None:
        """Give the caller that waits its outcome; called for every change, however it was noticed."""
        waiting = self._waiting.get(change.key.name)
        if waiting is None:
            return
        match change.new:
            case None:
                waiting.decide(Deleted())
            case Pending() as pending:
                waiting.last = pending
            case verdict:
                waiting.decide(verdict)
