"""A Conjur of one account over real HTTPS, as far as the hub meets it: authn-jwt and the batch of secrets.

It answers as Conjur 1.24 does, in status, headers and bodies: refused logins and forbidden reads have no body,
"not there" and "no value" are one 404, values asked for in base64 come with line ends every 60 characters and
with ``Content-Encoding: base64``, a variable that is asked for twice is not found, and permissions are asked
before existence. Its time is the test's.
"""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import jwt
from aiohttp import web

from federation.core.clock import Clock
from federation.core.config.authorities.settings import ConjurConfig, JwtRef
from federation.core.pki.keys import KeyKind
from federation.runtime.clock import SystemClock
from federation_sandbox.apiserver.authentication import ClusterCa, server_context
from federation_sandbox.ports import free_port
from tests.support import pki

ACCOUNT = "acme"
SERVICE = "federation-hub"
SUBJECT = "system:serviceaccount:federation-system:signer"
AUDIENCE = "conjur"
ISSUER = "https://kubernetes.default.svc"
ISSUER_KEY: Any = pki.key("issuer of JWTs", KeyKind.RSA_2048)
HOST = f"host/clusters/{SUBJECT}"

Intercept = Callable[[web.Request], Awaitable[web.StreamResponse | None]]


@dataclass
class ConjurServer:
    """The server; everything about it may be changed while it runs.

    ``variables`` maps an identifier to its value, None for a variable that was never given one. ``readers``
    are the hosts that may read them all, ``loggers_in`` those that may use the authenticator. ``intercept`` may
    answer in Conjur's place. ``identity_from_url`` is an authenticator without ``token-app-property``.
    """

    variables: dict[str, bytes | None] = field(default_factory=dict)
    clock: Clock = field(default_factory=SystemClock)
    hosts: set[str] = field(default_factory=lambda: {HOST})
    loggers_in: set[str] = field(default_factory=lambda: {HOST})
    readers: set[str] = field(default_factory=lambda: {HOST})
    token_ttl: float = 480.0
    identity_from_url: bool = False
    intercept: Intercept | None = None
    base64_understood: bool = True  # False: a gateway takes Accept-Encoding out of requests
    logins: int = 0
    reads: int = 0
    seen: list[str] = field(default_factory=list)
    tls: bool = True
    port: int = field(default_factory=free_port)
    ca: ClusterCa = field(default_factory=lambda: ClusterCa("conjur"))
    _generation: int = 0
    _runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def config(self, directory: Path, **changes: Any) -> ConjurConfig:
        """Settings that reach it, with its CA and a good JWT as files of ``directory``."""
        ca, token = directory / "conjur-ca.pem", directory / "conjur.jwt"
        ca.write_bytes(self.ca.pem)
        token.write_text(self.jwt(), "ascii")
        values: dict[str, Any] = {
            "url": self.url,
            "account": ACCOUNT,
            "authenticator": SERVICE,
            "jwt": JwtRef("file", str(token)),
            "ca_file": ca if self.tls else None,
        }
        return ConjurConfig(**(values | changes))

    def jwt(self, *, life: float = 3600.0, **claims: object) -> str:
        """A service account's token as the cluster projects it."""
        now = self.clock.now()
        values = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": SUBJECT,
            "iat": now,
            "exp": now + timedelta(seconds=life),
        }
        return jwt.encode(values | claims, ISSUER_KEY, algorithm="RS256")

    def revoke_tokens(self) -> None:
        """Let no access token given so far be good any more."""
        self._generation += 1

    async def start(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
        await self._runner.setup()
        context = server_context(self.ca) if self.tls else None
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=context, reuse_address=True)
        await site.start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    @asynccontextmanager
    async def down(self) -> AsyncIterator[None]:
        """Its address is not listened at while the block runs."""
        await self.stop()
        try:
            yield
        finally:
            await self.start()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(f"{request.method} {request.rel_url.raw_path}")
        if self.intercept is not None and (answer := await self.intercept(request)) is not None:
            return answer
        parts = [unquote(part) for part in request.rel_url.raw_path.split("/")[1:]]
        match (request.method, *parts):
            case ("POST", "authn-jwt", service, account, "authenticate"):
                return await self._log_in(request, service, account, None)
            case ("POST", "authn-jwt", service, account, host, "authenticate"):
                return await self._log_in(request, service, account, host)
            case ("GET", "secrets"):
                return self._batch(request)
        return web.Response(status=404)

    async def _log_in(
        self, request: web.Request, service: str, account: str, url_host: str | None
    ) -> web.Response:
        self.logins += 1
        form = await request.post()
        if (service, account) != (SERVICE, ACCOUNT):
            return web.Response(status=401)
        if not form.get("jwt"):
            return web.Response(status=400)
        try:
            claims = jwt.decode(
                str(form["jwt"]),
                ISSUER_KEY.public_key(),
                algorithms=["RS256", "RS384", "RS512"],  # authn-jwt takes no others
                audience=AUDIENCE,
                issuer=ISSUER,
                options={"verify_exp": False, "verify_iat": False},
            )
        except jwt.InvalidTokenError:
            return web.Response(status=401)
        if claims["exp"] <= self.clock.now().timestamp():
            return _failure(401, "unauthorized", "CONJ00016E Token expired")
        host = url_host if self.identity_from_url else f"host/clusters/{claims['sub']}"
        if host is None or (url_host is not None and not self.identity_from_url) or host not in self.hosts:
            return web.Response(status=401)
        if host not in self.loggers_in:
            return web.Response(status=403)
        token = self._token(host)
        if not self._wants_base64(request):
            return web.json_response(text=token)
        return web.Response(
            text=base64.b64encode(token.encode()).decode(), headers={"Content-Encoding": "base64"}
        )

    def _batch(self, request: web.Request) -> web.Response:
        self.reads += 1
        host, refusal = self._host_of(request.headers.get("Authorization", ""))
        if refusal:
            return web.Response(status=401, text=refusal)
        ids = [each for each in request.query.get("variable_ids", "").split(",") if each]
        if not ids or len(ids) != len(request.query["variable_ids"].split(",")):
            return _failure(422, "argument_error", "variable_ids")
        found = {each: self._value(each) for each in dict.fromkeys(ids) if self._exists(each)}
        if found and host not in self.readers:
            return web.Response(status=403)
        if len(found) != len(ids):
            missing = next((each for each in ids if each not in found), "")
            return _failure(404, "not_found", f"CONJ00076E Variable {missing} is empty or not found.")
        values: dict[str, str] = {}
        for each, value in found.items():
            if value is None:
                return _failure(404, "not_found", f"CONJ00076E Variable {each} is empty or not found.")
            if self._wants_base64(request):
                values[each] = _lines_of_60(base64.b64encode(value).decode())
                continue
            try:
                values[each] = value.decode()
            except UnicodeDecodeError:
                return _failure(406, "not_acceptable", "CONJ00074E Issue encoding secret into JSON format")
        headers = {"Content-Encoding": "base64"} if self._wants_base64(request) else {}
        return web.json_response(values, headers=headers)

    def _wants_base64(self, request: web.Request) -> bool:
        wanted = request.headers.get("Accept-Encoding", "").strip()
        return self.base64_understood and wanted.lower() == "base64"

    def _exists(self, resource: str) -> bool:
        return resource.removeprefix(f"{ACCOUNT}:variable:") in self.variables and resource.count(":") >= 2

    def _value(self, resource: str) -> bytes | None:
        return self.variables[resource.removeprefix(f"{ACCOUNT}:variable:")]

    def _token(self, host: str) -> str:
        """An access token: a JWS in flattened JSON form, whose payload says who and for how long."""
        now = self.clock.now().timestamp()
        protected = _base64url({"alg": "conjur.org/slosilo/v2", "kid": "test"})
        payload = _base64url({"sub": host, "iat": now, "exp": now + self.token_ttl})
        signature = base64.urlsafe_b64encode(self._mac(protected, payload)).decode()
        return json.dumps({"protected": protected, "payload": payload, "signature": signature})

    def _host_of(self, authorization: str) -> tuple[str, str]:
        """The host of an Authorization header, or what Conjur says against it."""
        token = authorization.removeprefix('Token token="').removesuffix('"')
        if token == authorization:
            return "", "Authorization missing"
        try:
            parts: Mapping[str, str] = json.loads(base64.b64decode(token, validate=True))
        except ValueError:
            return "", "Malformed authorization token"
        payload = json.loads(base64.urlsafe_b64decode(parts["payload"]))
        expected = base64.urlsafe_b64encode(self._mac(parts["protected"], parts["payload"])).decode()
        if parts["signature"] != expected or payload["exp"] <= self.clock.now().timestamp():
            return "", "Unauthorized: Invalid token"
        return str(payload["sub"]), ""

    def _mac(self, protected: str, payload: str) -> bytes:
        return hmac.digest(b"conjur %d" % self._generation, f"{protected}.{payload}".encode(), "sha256")


@asynccontextmanager
async def conjur_server(**options: Any) -> AsyncIterator[ConjurServer]:
    """A server that runs for the length of a block."""
    server = ConjurServer(**options)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def _failure(status: int, code: str, message: str) -> web.Response:
    return web.json_response({"error": {"code": code, "message": message}}, status=status)


def _base64url(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()


def _lines_of_60(text: str) -> str:
    return "".join(f"{text[i : i + 60]}\n" for i in range(0, len(text), 60))
