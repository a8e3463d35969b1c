"""A SPIFFE agent on a Unix socket: the Workload API as its specification says and SPIRE's agent does it.

A call without the security header is refused with InvalidArgument, a caller without an identity with
PermissionDenied. FetchX509SVID answers at once with everything and again whenever something changes;
FetchJWTSVID gives one JWT for each identity. Its time is the test's.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import jwt
from cryptography.hazmat.primitives import serialization
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from federation.core.clock import Clock
from federation.core.config.authorities.settings import SpiffeConfig
from federation.core.pki.keys import PrivateKey
from tests.support import pki

HUB = "spiffe://cluster.local/ns/federation-system/sa/signer"
SECOND = "spiffe://cluster.local/ns/federation-system/sa/second"

_Field = descriptor_pb2.FieldDescriptorProto


def _messages() -> tuple[Any, Any, Any]:
    """The messages as the specification has them, in full, and not by the code under test."""
    file = descriptor_pb2.FileDescriptorProto(name="agent.proto", syntax="proto3")

    def message(name: str, *fields: tuple[str, int, int, int, str]) -> None:
        described = file.message_type.add(name=name)
        for field_name, number, kind, label, type_name in fields:
            added = described.field.add(name=field_name, number=number, type=kind, label=label)
            if type_name:
                added.type_name = type_name

    one, many = _Field.LABEL_OPTIONAL, _Field.LABEL_REPEATED
    text, data, other = _Field.TYPE_STRING, _Field.TYPE_BYTES, _Field.TYPE_MESSAGE
    message(
        "X509SVID",
        ("spiffe_id", 1, text, one, ""),
        ("x509_svid", 2, data, one, ""),
        ("x509_svid_key", 3, data, one, ""),
        ("bundle", 4, data, one, ""),
        ("hint", 5, text, one, ""),
    )
    message(
        "Federated", ("key", 1, text, one, ""), ("value", 2, data, one, "")
    )  # a map, as it is on the wire
    message(
        "X509SVIDResponse",
        ("svids", 1, other, many, ".X509SVID"),
        ("crl", 2, data, many, ""),
        ("federated_bundles", 3, other, many, ".Federated"),
    )
    message(
        "JWTSVID", ("spiffe_id", 1, text, one, ""), ("svid", 2, text, one, ""), ("hint", 3, text, one, "")
    )
    message("JWTSVIDResponse", ("svids", 1, other, many, ".JWTSVID"))
    message("JWTSVIDRequest", ("audience", 1, text, many, ""), ("spiffe_id", 2, text, one, ""))
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    x509_response, jwt_response, jwt_request = (
        message_factory.GetMessageClass(pool.FindMessageTypeByName(name))
        for name in ("X509SVIDResponse", "JWTSVIDResponse", "JWTSVIDRequest")
    )
    return x509_response, jwt_response, jwt_request


X509Response, JwtResponse, JwtRequest = _messages()


@dataclass
class SpiffeAgent:
    """The agent; everything about it may be changed while it runs.

    ``identities`` are what the caller is entitled to, the default one first. ``x509_answer`` and
    ``jwt_answer`` are given as they are, where set; ``status`` is the error that every call gets. ``hang``
    lets no call end, ``say_nothing`` ends FetchX509SVID without an answer.
    """

    socket: Path
    clock: Clock
    identities: list[str] = field(default_factory=lambda: [HUB])
    issuer: pki.Authority = field(default_factory=pki.intermediate)
    life: timedelta = timedelta(hours=1)
    jwt_life: timedelta = timedelta(minutes=5)
    x509_answer: bytes | None = None
    jwt_answer: bytes | None = None
    status: tuple[grpc.StatusCode, str] | None = None
    hang: bool = False
    say_nothing: bool = False
    calls: list[str] = field(default_factory=list)
    serial: int = 0
    _server: Any = None
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _streams: int = 0

    def config(self, **changes: Any) -> SpiffeConfig:
        """Settings that reach it."""
        return SpiffeConfig(**({"socket": self.socket} | changes))

    @property
    def key(self) -> PrivateKey:
        """The key of the SVIDs of now."""
        return pki.key(f"svid {self.serial}")

    @property
    def open_streams(self) -> int:
        """How many calls of FetchX509SVID are open."""
        return self._streams

    def rotate(self) -> None:
        """Give other SVIDs from now on, with another key."""
        self.serial += 1
        self._changed.set()
        self._changed = asyncio.Event()

    def x509_response(self, **changes: Any) -> bytes:
        """What FetchX509SVID answers; ``changes`` are fields of the first SVID."""
        response = X509Response(crl=[b"any"])
        response.federated_bundles.add(key="spiffe://elsewhere", value=b"any")
        for number, identity in enumerate(self.identities):
            now = self.clock.now()
            leaf = pki.leaf(
                self.issuer,
                identity,
                private_key=self.key,
                not_before=now - timedelta(seconds=10),
                not_after=now + self.life,
            )
            values = {
                "spiffe_id": identity,
                "x509_svid": leaf.der + b"".join(above.der for above in self.issuer.chain),
                "x509_svid_key": pkcs8(self.key),
                "bundle": self.issuer.root.der,
                "hint": f"number {number}",
            }
            response.svids.add(**(values | (changes if number == 0 else {})))
        data: bytes = response.SerializeToString()
        return data

    def token(self, identity: str = HUB, audience: object = "vault", **claims: object) -> str:
        """A JWT-SVID; a claim that is None is left out."""
        now = self.clock.now()
        values = {
            "sub": identity,
            "aud": audience,
            "iat": now,
            "exp": now + self.jwt_life,
            "jti": self.serial,
        }
        kept = {name: value for name, value in (values | claims).items() if value is not None}
        return jwt.encode(kept, pki.key("jwt authority"), algorithm="ES256", headers={"kid": "1"})

    def jwt_response(self, *tokens: tuple[str, str]) -> bytes:
        """What FetchJWTSVID answers with these pairs of SPIFFE ID and JWT."""
        response = JwtResponse()
        for identity, token in tokens:
            response.svids.add(spiffe_id=identity, svid=token, hint="a hint")
        data: bytes = response.SerializeToString()
        return data

    async def start(self) -> None:
        self._server = grpc.aio.server()
        handlers = {
            "FetchX509SVID": grpc.unary_stream_rpc_method_handler(self._fetch_x509),
            "FetchJWTSVID": grpc.unary_unary_rpc_method_handler(self._fetch_jwt),
        }
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("SpiffeWorkloadAPI", handlers),)
        )
        self._server.add_insecure_port(f"unix:{self.socket}")
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(None)

    @asynccontextmanager
    async def down(self) -> AsyncIterator[None]:
        """Its socket is not listened at while the block runs."""
        await self.stop()
        try:
            yield
        finally:
            await self.start()

    async def _fetch_x509(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        await self._admit("x509", context)
        self._streams += 1
        try:
            while not self.say_nothing:
                changed = self._changed
                if self.x509_answer is not None:
                    yield self.x509_answer
                elif not self.identities:
                    await context.abort(grpc.StatusCode.PERMISSION_DENIED, "no identity issued")
                else:
                    yield self.x509_response()
                await changed.wait()
        finally:
            self._streams -= 1

    async def _fetch_jwt(self, request: bytes, context: Any) -> bytes:
        await self._admit("jwt", context)
        asked = JwtRequest.FromString(request)
        if not asked.audience:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "audience must be specified")
        if self.jwt_answer is not None:
            return self.jwt_answer
        if not self.identities:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "no identity issued")
        return self.jwt_response(
            *((identity, self.token(identity, list(asked.audience))) for identity in self.identities)
        )

    async def _admit(self, what: str, context: Any) -> None:
        self.calls.append(what)
        if ("workload.spiffe.io", "true") not in [tuple(each) for each in context.invocation_metadata()]:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "security header missing from request")
        if self.hang:
            await asyncio.Event().wait()
        if self.status is not None:
            await context.abort(*self.status)


@asynccontextmanager
async def spiffe_agent(clock: Clock, **options: Any) -> AsyncIterator[SpiffeAgent]:
    """An agent that runs for the length of a block, at a path short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="agent-") as directory:
        agent = SpiffeAgent(Path(directory, "a.sock"), clock, **options)
        await agent.start()
        try:
            yield agent
        finally:
            await agent.stop()


def pkcs8(key: Any) -> bytes:
    """A private key as the Workload API carries it."""
    data: bytes = key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return data
