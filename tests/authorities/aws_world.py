"""An AWS for one test: moto's server behind a front that records every call, and can spoil any of them."""

from __future__ import annotations

import json
import ssl
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import aiohttp
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_der_public_key

from federation.core.config.authorities.settings import (
    AwsConfig,
    AwsKmsAuthorityConfig,
    AwsPcaAuthorityConfig,
)
from federation.core.pki.certificate import Certificate
from federation.runtime.clock import SystemClock
from tests.authorities.moto_server import moto_url
from tests.support import pki

UNHURRIED = 60.0
"""Seconds for an answer, unless a test is about the timeout: moto shares the cores with the suite."""

REGION = "eu-central-1"
ACCESS_KEY, SECRET_KEY, SESSION_TOKEN = (
    "AKIDDUMMYDUMMYDUMMY0",
    "dummy/secret/key/of/tests",
    "dummySessionTokenOfTests",
)
_HOP_BY_HOP = {"host", "content-length"}
_CA_EXTENSIONS = ((x509.BasicConstraints(ca=True, path_length=0), True), (pki.CA_KEY_USAGE, True))


@dataclass
class Seen:
    """One call: its operation (``IssueCertificate``), its parameters, and the access key it was signed with."""

    operation: str
    parameters: dict[str, Any]
    key: str
    region: str
    request: web.Request = field(repr=False)


Spoiler = Callable[[Seen], Awaitable[web.StreamResponse | None]]
"""Answers instead of AWS, or returns None."""


@dataclass
class Front:
    """What the hub takes for AWS."""

    upstream: str
    port: int = 0
    seen: list[Seen] = field(default_factory=list)
    before: Spoiler | None = None
    rewrite: Callable[[Seen], None] | None = None  # changes the parameters that AWS gets
    lose: Callable[[Seen], bool] | None = None  # True: AWS has done it, the answer never arrives
    tls: ssl.SSLContext | None = None
    after: Callable[[Seen, dict[str, Any]], dict[str, Any]] | None = None
    _site: web.TCPSite | None = None
    _runner: web.AppRunner | None = None
    _http: aiohttp.ClientSession | None = None

    @property
    def url(self) -> str:
        return f"http{'s' if self.tls else ''}://127.0.0.1:{self.port}"

    def calls(self, operation: str) -> list[Seen]:
        """Those of that operation, in their order."""
        return [call for call in self.seen if call.operation == operation]

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Front]:
        async with aiohttp.ClientSession(auto_decompress=False) as self._http:
            await self._listen()
            try:
                yield self
            finally:
                await self._stop()

    @asynccontextmanager
    async def cut_off(self) -> AsyncIterator[None]:
        """Its ports are not listened at while this lasts."""
        await self._stop()
        try:
            yield
        finally:
            await self._listen()

    async def administer(self, target: str, **parameters: Any) -> Any:
        """A call of AWS JSON 1.1 past the front."""
        assert self._http is not None
        service = {"ACMPrivateCA": "acm-pca", "TrentService": "kms"}[target.partition(".")[0]]
        headers = {
            "X-Amz-Target": target,
            "Content-Type": "application/x-amz-json-1.1",
            "Authorization": f"AWS4-HMAC-SHA256 Credential=ADMIN/20260101/{REGION}/{service}/aws4_request",
        }
        async with self._http.post(self.upstream, data=json.dumps(parameters), headers=headers) as answer:
            assert answer.status == 200, await answer.text()
            return json.loads(await answer.read() or b"{}")

    async def _listen(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=self.tls)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _stop(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        call = _seen(request, body)
        self.seen.append(call)
        if self.before is not None and (answer := await self.before(call)) is not None:
            return answer
        if self.rewrite is not None:
            self.rewrite(call)
            body = json.dumps(call.parameters).encode()
        assert self._http is not None
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
        async with self._http.request(
            request.method, self.upstream + request.path_qs, data=body, headers=headers
        ) as upstream:
            data, status, kind = await upstream.read(), upstream.status, upstream.content_type
        if self.lose is not None and self.lose(call):
            return cut(request)
        if self.after is not None and status == 200 and data.startswith(b"{"):
            data = json.dumps(self.after(call, json.loads(data))).encode()
        return web.Response(status=status, body=data, content_type=kind)


def _seen(request: web.Request, body: bytes) -> Seen:
    scope = request.headers.get("Authorization", "").partition("Credential=")[2].split("/")
    key, region = (scope[0], scope[2]) if len(scope) > 2 else ("", "")
    target = request.headers.get("X-Amz-Target", "")
    if target:
        return Seen(target.rpartition(".")[2], json.loads(body or b"{}"), key, region, request)
    form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
    return Seen(form.get("Action", ""), form, key, region, request)


def cut(request: web.Request) -> web.StreamResponse:
    """The connection ends without an answer."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def refuse(code: str, message: str = "", status: int = 400) -> web.Response:
    """An error in the form of AWS JSON 1.1."""
    return web.json_response({"__type": code, "message": message}, status=status)


def with_keys(patch: pytest.MonkeyPatch) -> None:
    """Dummy credentials in the environment, and nothing else of AWS: neither files nor metadata."""
    for name in ("AWS_PROFILE", "AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ENDPOINT_URL"):
        patch.delenv(name, raising=False)
    for name, value in {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_SESSION_TOKEN": SESSION_TOKEN,
        "AWS_CONFIG_FILE": "/nonexistent",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        patch.setenv(name, value)


def without_keys(patch: pytest.MonkeyPatch) -> None:
    """The chain of credentials is empty."""
    with_keys(patch)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        patch.delenv(name)


@dataclass
class World:
    """A front, and a root of the moment."""

    front: Front
    root: pki.Authority

    @property
    def aws(self) -> AwsConfig:
        return AwsConfig(region=REGION, endpoint=self.front.url)

    async def private_ca(
        self, key_algorithm: str = "EC_prime256v1", **settings: Any
    ) -> AwsPcaAuthorityConfig:
        """An active subordinate CA below the root, as ``docs/authorities.md`` sets it up."""
        arn = await self.pending_ca(key_algorithm)
        named = {"CertificateAuthorityArn": arn}
        answer = await self.front.administer("ACMPrivateCA.GetCertificateAuthorityCsr", **named)
        csr = x509.load_pem_x509_csr(answer["Csr"].encode())
        await self.front.administer(
            "ACMPrivateCA.ImportCertificateAuthorityCertificate",
            **named,
            Certificate=_base64(self._sign(csr.public_key(), csr.subject).pem),
            CertificateChain=_base64(self.root.certificate.pem),
        )
        return AwsPcaAuthorityConfig(
            name="pca", aws=self.aws, ca_arn=arn, **({"timeout": UNHURRIED} | settings)
        )

    async def pending_ca(self, key_algorithm: str = "EC_prime256v1") -> str:
        """The ARN of a CA whose certificate is still missing."""
        created = await self.front.administer(
            "ACMPrivateCA.CreateCertificateAuthority",
            CertificateAuthorityType="SUBORDINATE",
            CertificateAuthorityConfiguration={
                "KeyAlgorithm": key_algorithm,
                "SigningAlgorithm": "SHA256WITHRSA" if "RSA" in key_algorithm else "SHA256WITHECDSA",
                "Subject": {"CommonName": "mesh intermediate", "Organization": "tests"},
            },
        )
        return str(created["CertificateAuthorityArn"])

    async def set_status(self, arn: str, status: str) -> None:
        await self.front.administer(
            "ACMPrivateCA.UpdateCertificateAuthority", CertificateAuthorityArn=arn, Status=status
        )

    async def kms_key(
        self, directory: Path, spec: str = "ECC_NIST_P256", **settings: Any
    ) -> AwsKmsAuthorityConfig:
        """A key behind the alias ``alias/mesh``-something, and its intermediate's certificate as a file."""
        key_id, certificate = await self.key_below_root(spec)
        directory.mkdir(parents=True, exist_ok=True)
        file = directory / "chain.pem"
        file.write_bytes(certificate.pem)
        settings = {"timeout": UNHURRIED} | settings
        return AwsKmsAuthorityConfig(
            name="kms", aws=self.aws, key_id=key_id, certificate_file=file, **settings
        )

    async def key_below_root(self, spec: str = "ECC_NIST_P256") -> tuple[str, Certificate]:
        made = await self.kms("CreateKey", KeySpec=spec, KeyUsage="SIGN_VERIFY")
        key_id = made["KeyMetadata"]["KeyId"]
        public = load_der_public_key(b64decode((await self.kms("GetPublicKey", KeyId=key_id))["PublicKey"]))
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"mesh intermediate {key_id}")])
        return key_id, self._sign(public, name)

    async def kms(self, operation: str, **parameters: Any) -> Any:
        """A call that an administrator makes."""
        return await self.front.administer(f"TrentService.{operation}", **parameters)

    def _sign(self, public_key: Any, subject: x509.Name) -> Certificate:
        now = SystemClock().now().replace(microsecond=0)
        return pki.certificate(
            self.root,
            (*_CA_EXTENSIONS, (x509.SubjectKeyIdentifier.from_public_key(public_key), False)),
            public_key=public_key,
            subject=subject,
            not_before=now - pki.DAY,
            not_after=now + 7 * pki.DAY,
            serial_number=x509.random_serial_number(),
        )


@asynccontextmanager
async def open_world(*, corrected: bool = True, tls: ssl.SSLContext | None = None) -> AsyncIterator[World]:
    """Its front, whose upstream is moto with AWS's documented behaviour, or as it is."""
    now = SystemClock().now().replace(microsecond=0)
    root = pki.root("of AWS", not_before=now - pki.DAY, not_after=now + 30 * pki.DAY)
    async with Front(moto_url(corrected=corrected), tls=tls).open() as front:
        yield World(front, root)


def _base64(data: bytes) -> str:
    return b64encode(data).decode()
