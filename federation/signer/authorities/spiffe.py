"""The hub's own SVIDs, from the SPIFFE Workload API on the agent's Unix socket.

The agent is SPIRE's, or anything else that speaks it. **No stream is kept open,** although the specification suggests
it (SPIFFE Workload API, 4.2) so that clients learn of changes. FetchX509SVID answers at once with all that is valid
now (4.3), so the first message of a fresh call is taken whenever a caller asks and the last call is
:data:`LOOK_AGAIN` seconds old: a change is seen that soon after the agent knows it, and nothing runs in the
background that something would have to own, restart and watch. A call costs milliseconds on this machine. For the
same reason each call has a channel of its own: an agent that comes back is found at once, without gRPC's backoff, and
nothing is left open. While the agent is away, what it gave last is used until it ends. Where it says that there is no
identity for us any more, that holds at once.

**SVIDs** are judged by their specifications before they are used (SPIFFE X509-SVID and JWT-SVID), pure. The agent is
trusted: its socket is this machine's, and it decides what the hub is. What is checked is that the SVID is one that a
peer can accept, so that a mistake is reported here and not by a failed login.

**Messages** (``SpiffeWorkloadAPI``, ``workload.proto``), as far as the hub uses them, are described here at run time
instead of in generated code, in a descriptor pool of their own so that they cannot clash with another definition of
the same names in one process. They have no package. Fields that the hub has no use for (CRLs, bundles of other trust
domains, hints) are left out, and ignored.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Generic, TypeVar
from urllib.parse import urlsplit

import grpc
import jwt
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

from federation.core.clock import Clock
from federation.core.config.authorities.settings import SpiffeConfig
from federation.core.errors import AuthorityError, AuthorityMisconfigured, AuthorityUnavailable, InvalidValue
from federation.core.pki.certificate import Certificate
from federation.core.pki.der import elements
from federation.core.pki.keys import MAX_KEY_FILE_BYTES
from federation.core.pki.pem import encode_certificates
from federation.kubernetes.answers import harmless
from federation.signer.authorities.credentials import ClientPair

_logger = logging.getLogger(__name__)

SERVICE: Final = "SpiffeWorkloadAPI"
FETCH_X509: Final = f"/{SERVICE}/FetchX509SVID"
FETCH_JWT: Final = f"/{SERVICE}/FetchJWTSVID"

SECURITY_HEADER: Final = ("workload.spiffe.io", "true")
"""Metadata that every call carries, so that no server can make the hub ask for another
(SPIFFE Workload Endpoint, 3)."""

_Field = descriptor_pb2.FieldDescriptorProto
_FIELDS: Final[dict[str, tuple[tuple[str, int, int, int, str], ...]]] = {
    "X509SVIDRequest": (),
    "X509SVIDResponse": (("svids", 1, _Field.TYPE_MESSAGE, _Field.LABEL_REPEATED, ".X509SVID"),),
    "X509SVID": (
        ("spiffe_id", 1, _Field.TYPE_STRING, _Field.LABEL_OPTIONAL, ""),
        ("x509_svid", 2, _Field.TYPE_BYTES, _Field.LABEL_OPTIONAL, ""),
        ("x509_svid_key", 3, _Field.TYPE_BYTES, _Field.LABEL_OPTIONAL, ""),
        ("bundle", 4, _Field.TYPE_BYTES, _Field.LABEL_OPTIONAL, ""),
    ),
    "JWTSVIDRequest": (
        ("audience", 1, _Field.TYPE_STRING, _Field.LABEL_REPEATED, ""),
        ("spiffe_id", 2, _Field.TYPE_STRING, _Field.LABEL_OPTIONAL, ""),
    ),
    "JWTSVIDResponse": (("svids", 1, _Field.TYPE_MESSAGE, _Field.LABEL_REPEATED, ".JWTSVID"),),
    "JWTSVID": (
        ("spiffe_id", 1, _Field.TYPE_STRING, _Field.LABEL_OPTIONAL, ""),
        ("svid", 2, _Field.TYPE_STRING, _Field.LABEL_OPTIONAL, ""),
    ),
}


def _describe() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="workload.proto", syntax="proto3")
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        for field_name, number, kind, label, type_name in fields:
            described = message.field.add(name=field_name, number=number, type=kind, label=label)
            if type_name:
                described.type_name = type_name
    return file


_POOL: Final = descriptor_pool.DescriptorPool()
_POOL.AddSerializedFile(_describe().SerializeToString())


def _message(name: str) -> Any:
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(name))


X509SvidResponseMessage: Final = _message("X509SVIDResponse")
JwtSvidRequestMessage: Final = _message("JWTSVIDRequest")
JwtSvidResponseMessage: Final = _message("JWTSVIDResponse")

X509_REQUEST: Final = b""
"""An ``X509SVIDRequest``, which has no fields."""


@dataclass(frozen=True, slots=True)
class X509Svid:
    """An X.509-SVID as it came, nothing of it checked: DER one after another, the key as PKCS#8."""

    spiffe_id: str
    chain_der: bytes
    key_der: bytes = field(repr=False)
    bundle_der: bytes = b""


@dataclass(frozen=True, slots=True)
class JwtSvid:
    """A JWT-SVID as it came, nothing of it checked."""

    spiffe_id: str
    token: str = field(repr=False)


def encode_jwt_request(audience: str) -> bytes:
    """Asks for a JWT-SVID of every identity the caller has, for one audience."""
    message: Message = JwtSvidRequestMessage(audience=[audience])
    return message.SerializeToString(deterministic=True)


def decode_x509_response(data: bytes) -> tuple[X509Svid, ...]:
    """The SVIDs of an answer, the default one first. Raises InvalidValue where it is not one."""
    return tuple(
        X509Svid(svid.spiffe_id, svid.x509_svid, svid.x509_svid_key, svid.bundle)
        for svid in _decode(X509SvidResponseMessage, data).svids
    )


def decode_jwt_response(data: bytes) -> tuple[JwtSvid, ...]:
    """The SVIDs of an answer, the default one first. Raises InvalidValue where it is not one."""
    return tuple(JwtSvid(svid.spiffe_id, svid.svid) for svid in _decode(JwtSvidResponseMessage, data).svids)


def _decode(kind: Any, data: bytes) -> Any:
    try:
        return kind.FromString(data)
    except (DecodeError, ValueError, RecursionError):
        raise InvalidValue(f"the answer is not a {kind.DESCRIPTOR.name}") from None


MOST_CERTIFICATES: Final = 64
"""In a chain or a bundle; SPIRE's bundles hold a handful."""

MAX_JWT_BYTES: Final = 16 * 1024
"""More than any header field that would have to carry it."""

LATEST: Final = 1e11
"""Seconds since the epoch; JSON can hold numbers that arithmetic with dates does not survive."""

MAX_SPIFFE_ID_BYTES: Final = 2048  # SPIFFE-ID, 2.3


@dataclass(frozen=True, slots=True)
class OwnX509:
    """An X.509-SVID fit for use: as PEM, and when it ends."""

    spiffe_id: str
    pair: ClientPair
    not_after: datetime


@dataclass(frozen=True, slots=True)
class OwnJwt:
    """A JWT-SVID fit for use, and when it ends in seconds since the epoch."""

    spiffe_id: str
    token: str = field(repr=False)
    expires: float


def read_x509(svid: X509Svid, *, at: datetime) -> OwnX509:
    """The SVID as PEM.

    Raises InvalidValue where certificate and key do not belong together, or the leaf is none by X509-SVID,
    sections 2 to 4: one URI, which is the SPIFFE ID; not a CA; for digital signatures and client
    authentication; not expired.
    """
    chain, bundle = _certificates(svid.chain_der, "the chain"), _certificates(svid.bundle_der, "the bundle")
    leaf = chain[0]
    _check_leaf(leaf, svid.spiffe_id, at)
    key = _private_key(svid.key_der)
    if _spki(key.public_key()) != _spki(leaf.public_key):
        raise InvalidValue("the private key is not the certificate's")
    pair = ClientPair(
        chain_pem=encode_certificates(chain),
        key_pem=key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
        bundle_pem=encode_certificates(bundle),
    )
    return OwnX509(svid.spiffe_id, pair, leaf.not_after)


def read_jwt(svid: JwtSvid, audience: str, *, at: datetime) -> OwnJwt:
    """The SVID and its end; its signature is verified where the token is sent.

    Raises InvalidValue where it is no JWS in compact form, or its claims are not those of JWT-SVID, section 3:
    ``sub`` the SPIFFE ID, ``aud`` the audience, ``exp`` in the future.
    """
    if len(svid.token) > MAX_JWT_BYTES:
        raise InvalidValue(f"a JWT of {len(svid.token)} bytes; at most {MAX_JWT_BYTES} are read")
    if not svid.token.isascii():
        raise InvalidValue("the JWT is not ASCII")
    _check_id(svid.spiffe_id)
    try:
        claims = jwt.decode(svid.token, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, RecursionError):
        raise InvalidValue("it is not a JWT in compact form") from None
    if claims.get("sub") != svid.spiffe_id:
        raise InvalidValue("the JWT's subject is not the SPIFFE ID")
    audiences = claims.get("aud")
    if audience not in (audiences if isinstance(audiences, list) else [audiences]):
        raise InvalidValue("the JWT is for another audience")
    expires = claims.get("exp")
    if not isinstance(expires, int | float) or isinstance(expires, bool) or not 0 < expires < LATEST:
        raise InvalidValue("the JWT does not say when it ends")
    if expires <= at.timestamp():
        raise InvalidValue("the JWT has expired already")
    return OwnJwt(svid.spiffe_id, svid.token, float(expires))


def _check_leaf(leaf: Certificate, spiffe_id: str, at: datetime) -> None:
    if leaf.uris != (spiffe_id,):
        raise InvalidValue("the certificate's one URI is not the SPIFFE ID")
    _check_id(spiffe_id)
    usage = leaf.extension(x509.KeyUsage)
    if leaf.is_ca or usage is None or usage.key_cert_sign or usage.crl_sign:
        raise InvalidValue("the certificate may sign others: it is not a leaf")
    if not usage.digital_signature:
        raise InvalidValue("the certificate is not for digital signatures")
    purposes = leaf.extension(x509.ExtendedKeyUsage)
    if purposes is not None and ExtendedKeyUsageOID.CLIENT_AUTH not in purposes:
        raise InvalidValue("the certificate is not for client authentication")
    if leaf.not_after <= at:
        raise InvalidValue(f"the certificate ended at {leaf.not_after:%Y-%m-%d %H:%M:%S} UTC")


def _check_id(spiffe_id: str) -> None:
    """Refuse what is no SPIFFE ID of a workload (SPIFFE-ID, section 2): scheme, trust domain and path."""
    if len(spiffe_id.encode()) > MAX_SPIFFE_ID_BYTES or not spiffe_id.isprintable():
        raise InvalidValue("the SPIFFE ID is too long, or not printable")
    try:
        uri = urlsplit(spiffe_id)
    except ValueError:
        raise InvalidValue("the SPIFFE ID is not a URI") from None
    if uri.scheme != "spiffe" or not uri.netloc or len(uri.path) < 2 or uri.query or uri.fragment:
        raise InvalidValue("the SPIFFE ID is not of the form spiffe://<trust domain>/<path>")


def _certificates(der: bytes, what: str) -> tuple[Certificate, ...]:
    """Certificates in DER, one after another."""
    parts = elements(der, 0, len(der))
    if not 1 <= len(parts) <= MOST_CERTIFICATES:
        raise InvalidValue(f"{what} has {len(parts)} certificates; 1 to {MOST_CERTIFICATES} are read")
    return tuple(Certificate.from_der(der[start:stop], where=what) for _, start, _, stop in parts)


def _private_key(der: bytes) -> PrivateKeyTypes:
    if len(der) > MAX_KEY_FILE_BYTES:
        raise InvalidValue(f"the private key is larger than {MAX_KEY_FILE_BYTES} bytes")
    try:
        return serialization.load_der_private_key(der, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise InvalidValue("the private key is not an unencrypted PKCS#8 key") from None


def _spki(key: object) -> bytes:
    """The DER of a public key; every kind that a certificate can hold has it."""
    encoded: bytes = key.public_bytes(  # type: ignore[attr-defined]
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return encoded


LOOK_AGAIN: Final = 10.0
"""Seconds for which an X.509-SVID is used without asking for a newer one."""

USED_LIFE: Final = 0.5
"""How much of an SVID's life is used before a newer one is wanted; SPIRE's agent renews by then, too."""

LEAST_LEFT: Final = 5.0
"""Seconds that an older SVID must still have, so that it does not end on its way to the back end."""

_GRACE: Final = 1.0  # seconds beyond gRPC's own deadline, for callers that wait for another's call
_OPTIONS: Final = (
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),  # else channels share connections, and their backoff
)
_Svid = TypeVar("_Svid", OwnX509, OwnJwt)


@dataclass(frozen=True, slots=True)
class _CachedSvid(Generic[_Svid]):
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
        self._x509: _CachedSvid[OwnX509] | None = None
        self._jwts: dict[str, _CachedSvid[OwnJwt]] = {}
        self._asking = asyncio.Lock()

    async def x509(self) -> ClientPair:
        """The X.509-SVID of now, as PEM; the same object while it is the same SVID.

        Bounded in time. Raises AuthorityUnavailable with the reason ``spiffe_agent_unreachable``,
        ``spiffe_timeout``, ``spiffe_garbage`` or ``spiffe_error``; AuthorityMisconfigured with
        ``spiffe_no_identity``, ``spiffe_bad_svid`` or ``spiffe_refused``.
        """
        async with self._turn():
            cached = self._x509
            if cached is None or self._clock.monotonic() >= cached.fresh_until:
                try:
                    cached = await self._ask_x509(cached)
                except AuthorityUnavailable as error:
                    cached = self._still_good(cached, error)
                except AuthorityError:
                    self._x509 = None
                    raise
                self._x509 = cached
            return cached.svid.pair

    async def jwt(self, audience: str) -> str:
        """A JWT-SVID for that audience that is valid now. Raises as :meth:`x509` does."""
        async with self._turn():
            cached = self._jwts.get(audience)
            if cached is None or self._clock.monotonic() >= cached.fresh_until:
                try:
                    cached = await self._ask_jwt(audience)
                except AuthorityUnavailable as error:
                    cached = self._still_good(cached, error)
                except AuthorityError:
                    self._jwts.pop(audience, None)
                    raise
                self._jwts[audience] = cached
            return cached.svid.token

    async def close(self) -> None:
        """Forget every SVID; no connection is open."""
        self._x509 = None
        self._jwts.clear()

    async def _ask_x509(self, cached: _CachedSvid[OwnX509] | None) -> _CachedSvid[OwnX509]:
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
        if cached is not None and cached.svid == svid:
            svid = cached.svid
        left = (svid.not_after - now).total_seconds()
        return _CachedSvid(svid, asked + min(left * USED_LIFE, LOOK_AGAIN), asked + left - LEAST_LEFT)

    async def _ask_jwt(self, audience: str) -> _CachedSvid[OwnJwt]:
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
        return _CachedSvid(svid, asked + left * USED_LIFE, asked + left - LEAST_LEFT)

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """One call at a time; bounded as a whole, so that no caller waits for the timeouts of others in a row."""
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

    def _still_good(
        self, cached: _CachedSvid[_Svid] | None, error: AuthorityUnavailable
    ) -> _CachedSvid[_Svid]:
        """What the agent gave last, where that has not ended; else the error."""
        now = self._clock.monotonic()
        if cached is None or now >= cached.good_until:
            raise error
        _logger.warning(
            "the SVID that the agent gave last stays in use for at most %.0f s: %s",
            cached.good_until - now,
            error.diagnostics(),
            extra={"reason": error.reason},
        )
        until = min(now + LOOK_AGAIN, cached.good_until)
        return _CachedSvid(cached.svid, until, cached.good_until)

    def _failure(self, error: grpc.aio.AioRpcError) -> AuthorityError | AuthorityUnavailable:
        """What a status means, as an error (SPIFFE Workload Endpoint, 6)."""
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
