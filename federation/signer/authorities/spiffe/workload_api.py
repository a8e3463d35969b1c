"""The SPIFFE Workload API on the agent's Unix socket (SPIRE's agent, or anything else that speaks it).

No stream is kept open, although the specification suggests it (SPIFFE Workload API, 4.2) so that clients
learn of changes. FetchX509SVID answers at once with all that is valid now (4.3), so the first message of a
fresh call is taken whenever somebody asks and the last look is :data:`LOOK_AGAIN` seconds old: a change is
seen that soon after the agent knows it, and nothing runs in the background that somebody would have to own,
restart and watch. A call costs milliseconds on this machine. For the same reason each call has a channel of
its own: an agent that comes back is found at once, without gRPC's backoff, and nothing is left open.

While the agent is away, what it gave last is used until it ends. Where it says that there is no identity for
us any more, that holds at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

import grpc
import grpc.aio

from federation.clusters.answers import harmless
from federation.core.clock import Clock
from federation.core.config.authority_model import SpiffeConfig
from federation.core.errors import (
    AuthorityError,
    AuthorityMisconfigured,
    AuthorityUnavailable,
    InvalidValue,
)
from federation.signer.authorities.own_credentials import ClientPair
from federation.signer.authorities.spiffe.messages import (
    FETCH_JWT,
    FETCH_X509,
    SECURITY_HEADER,
    X509_REQUEST,
    decode_jwt_response,
    decode_x509_response,
    encode_jwt_request,
)
from federation.signer.authorities.spiffe.svids import OwnJwt, OwnX509, read_jwt, read_x509

LOOK_AGAIN: Final = 10.0
"""Seconds for which an X.509-SVID is used without asking for a newer one."""

USED_LIFE: Final = 0.5
"""How much of an SVID's life is used before a newer one is wanted; SPIRE's agent renews by then, too."""

LEAST_LEFT: Final = 5.0
"""Seconds that an older SVID must still have, so that it does not end on its way to whoever wants it."""

_GRACE: Final = 1.0  # seconds beyond gRPC's own deadline, for whoever waits for another's call
_OPTIONS: Final = (
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),  # else channels share connections, and their backoff
)

_logger = logging.getLogger(__name__)
_Svid = TypeVar("_Svid", OwnX509, OwnJwt)


@dataclass(frozen=True, slots=True)
class _Held(Generic[_Svid]):
    """An SVID, and until when (by the monotonic clock) it is used without asking, and at all."""

    svid: _Svid = field(repr=False)
    fresh_until: float
    good_until: float


class WorkloadApi:
    """Implements SpiffeIdentity."""

    def __init__(self, config: SpiffeConfig, *, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._where = f"the SPIFFE agent at {config.socket}"
        self._x509: _Held[OwnX509] | None = None
        self._jwts: dict[str, _Held[OwnJwt]] = {}
        self._asking = asyncio.Lock()

    async def x509(self) -> ClientPair:
        """The X.509-SVID of now, as PEM; the same object while it is the same SVID.

        Bounded in time. Raises AuthorityUnavailable with the reason ``spiffe_agent_unreachable``,
        ``spiffe_timeout``, ``spiffe_garbage`` or ``spiffe_error``; AuthorityMisconfigured with
        ``spiffe_no_identity``, ``spiffe_bad_svid`` or ``spiffe_refused``.
        """
        async with self._turn():
            held = self._x509
            if held is None or self._clock.monotonic() >= held.fresh_until:
                try:
                    held = await self._ask_x509(held)
                except AuthorityUnavailable as error:
                    held = self._still_good(held, error)
                except AuthorityError:
                    self._x509 = None
                    raise
                self._x509 = held
            return held.svid.pair

    async def jwt(self, audience: str) -> str:
        """A JWT-SVID for that audience that is valid now. Raises as :meth:`x509` does."""
        async with self._turn():
            held = self._jwts.get(audience)
            if held is None or self._clock.monotonic() >= held.fresh_until:
                try:
                    held = await self._ask_jwt(audience)
                except AuthorityUnavailable as error:
                    held = self._still_good(held, error)
                except AuthorityError:
                    self._jwts.pop(audience, None)
                    raise
                self._jwts[audience] = held
            return held.svid.token

    async def close(self) -> None:
        """Forget every SVID; no connection is open."""
        self._x509 = None
        self._jwts.clear()

    async def _ask_x509(self, held: _Held[OwnX509] | None) -> _Held[OwnX509]:
        asked, now = self._clock.monotonic(), self._clock.now()
        async with self._channel() as channel:
            call = channel.unary_stream(FETCH_X509)(
                X509_REQUEST, metadata=(SECURITY_HEADER,), timeout=self._config.timeout
            )
            data = await call.read()
            call.cancel()
        if data is grpc.aio.EOF:
            raise self._garbage("the agent ended the call without an answer")
        try:
            svids = decode_x509_response(data)
        except InvalidValue as error:
            raise self._garbage(str(error)) from None
        if not svids:
            raise self._no_identity("")
        try:
            svid = await asyncio.to_thread(read_x509, svids[0], at=now)  # checking an RSA key takes long
        except InvalidValue as error:
            raise self._bad(error) from None
        if held is not None and held.svid == svid:
            svid = held.svid
        left = (svid.not_after - now).total_seconds()
        return _Held(svid, asked + min(left * USED_LIFE, LOOK_AGAIN), asked + left - LEAST_LEFT)

    async def _ask_jwt(self, audience: str) -> _Held[OwnJwt]:
        asked, now = self._clock.monotonic(), self._clock.now()
        async with self._channel() as channel:
            data = await channel.unary_unary(FETCH_JWT)(
                encode_jwt_request(audience), metadata=(SECURITY_HEADER,), timeout=self._config.timeout
            )
        try:
            svids = decode_jwt_response(data)
        except InvalidValue as error:
            raise self._garbage(str(error)) from None
        if not svids:
            raise self._no_identity("")
        try:
            svid = read_jwt(svids[0], audience, at=now)
        except InvalidValue as error:
            raise self._bad(error) from None
        left = svid.expires - now.timestamp()
        return _Held(svid, asked + left * USED_LIFE, asked + left - LEAST_LEFT)

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """One call at a time; bounded as a whole, so that nobody waits for the timeouts of others in a row."""
        try:
            async with asyncio.timeout(self._config.timeout + _GRACE), self._asking:
                yield
        except TimeoutError:
            raise self._late() from None

    @asynccontextmanager
    async def _channel(self) -> AsyncIterator[Any]:
        """A channel for one call, whose failures become typed errors."""
        target = f"unix:{self._config.socket}"
        try:
            async with grpc.aio.insecure_channel(target, options=_OPTIONS) as channel:
                yield channel
        except grpc.aio.AioRpcError as error:
            raise self._failure(error) from None

    def _still_good(self, held: _Held[_Svid] | None, error: AuthorityUnavailable) -> _Held[_Svid]:
        """What the agent gave last, where that has not ended; else the error."""
        now = self._clock.monotonic()
        if held is None or now >= held.good_until:
            raise error
        _logger.warning(
            "the SVID that the agent gave last stays in use for at most %.0f s: %s",
            held.good_until - now,
            error.diagnostics(),
            extra={"reason": error.reason},
        )
        until = min(now + LOOK_AGAIN, held.good_until)
        return _Held(held.svid, until, held.good_until)

    def _failure(self, error: grpc.aio.AioRpcError) -> AuthorityError | AuthorityUnavailable:
        """The error that a status stands for (SPIFFE Workload Endpoint, 6)."""
        said = f": {harmless(error.details())}" if error.details() else ""
        match error.code():
            case grpc.StatusCode.PERMISSION_DENIED:
                return self._no_identity(said)
            case grpc.StatusCode.UNAVAILABLE:
                return AuthorityUnavailable(
                    f"the agent cannot be reached, or cannot answer now{said}",
                    where=self._where,
                    reason="spiffe_agent_unreachable",
                    remedy="check that the agent runs on this node, and that its socket is mounted at"
                    " signer.spiffe.socket and may be used by the signer's user",
                )
            case grpc.StatusCode.DEADLINE_EXCEEDED:
                return self._late()
            case grpc.StatusCode.INVALID_ARGUMENT | grpc.StatusCode.UNIMPLEMENTED:
                return AuthorityMisconfigured(
                    f"the agent does not take the request{said}",
                    where=self._where,
                    reason="spiffe_refused",
                    remedy="check the audience of the spiffe: JWT that is configured, and that the agent gives"
                    " SVIDs of this kind",
                )
            case code:
                return AuthorityUnavailable(
                    f"the agent failed with {code.name}{said}",
                    where=self._where,
                    reason="spiffe_error",
                    remedy="look at the agent's log; is it a Workload API that listens at that socket?",
                )

    def _late(self) -> AuthorityUnavailable:
        return AuthorityUnavailable(
            f"no answer from the agent within {self._config.timeout:g} s",
            where=self._where,
            reason="spiffe_timeout",
            remedy="look at the agent's log and its connection to the SPIFFE server, or raise"
            " signer.spiffe.timeout",
        )

    def _no_identity(self, said: str) -> AuthorityMisconfigured:
        return AuthorityMisconfigured(
            f"the agent has no identity for the hub{said}",
            where=self._where,
            reason="spiffe_no_identity",
            remedy="register an entry whose selectors are the signer's, below this agent; a new one takes"
            " some seconds to arrive",
        )

    def _bad(self, error: InvalidValue) -> AuthorityMisconfigured:
        return AuthorityMisconfigured(
            f"the agent gave an SVID that cannot be used: {error}",
            where=self._where,
            reason="spiffe_bad_svid",
            remedy="look at the entry and the SPIFFE server's CA; is this machine's clock right?",
        )

    def _garbage(self, what: str) -> AuthorityUnavailable:
        return AuthorityUnavailable(
            what,
            where=self._where,
            reason="spiffe_garbage",
            remedy="something other than a Workload API listens at signer.spiffe.socket: check it",
        )
