"""A Vault over real HTTP(S), as far as the hub calls it; ``test_vault_server.py`` holds it to a real one's answers.

Status codes and texts are those of the HTTP API documentation and of OpenBao 2.6. Everything about it can be changed
while it runs: its health, its engines, its tokens, and the faults of the requests to come.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Final

from aiohttp import web

from tests.authorities.shifted_clock import ShiftedClock
from tests.authorities.vault_auth import Auth, Token
from tests.authorities.vault_engines import Pki, Transit
from tests.authorities.vault_refusal import Refusal, denied, no_route

HEALTHY: Final = {"initialized": True, "sealed": False, "standby": False, "version": "2.0.0"}
STATES: Final[Mapping[str, tuple[int, dict[str, Any]]]] = {
    "active": (200, HEALTHY),
    "standby": (429, {**HEALTHY, "standby": True}),
    "dr": (472, {**HEALTHY, "standby": True, "replication_dr_mode": "secondary"}),
    "performance": (473, {**HEALTHY, "standby": True, "performance_standby": True}),
    "cut off": (474, {**HEALTHY, "standby": True, "ha_connection_healthy": False}),
    "removed": (530, {**HEALTHY, "standby": True, "removed_from_cluster": True}),
    "uninitialised": (501, {**HEALTHY, "initialized": False, "sealed": True, "standby": True}),
    "sealed": (503, {**HEALTHY, "sealed": True, "standby": True}),
}


@dataclass
class Fault:
    """What happens to the next ``times`` requests whose path matches, in place of or with their answer.

    ``cut`` ends the connection within the body, ``hang`` sends nothing; in both the request was carried out.
    """

    path: str
    status: int = 0
    errors: tuple[str, ...] | None = ()
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    times: int = 1_000_000
    cut: bool = False
    hang: bool = False


@dataclass
class VaultServer:
    """The server and all its state."""

    clock: ShiftedClock = field(default_factory=ShiftedClock)
    state: str = "active"
    skew: float = 0.0
    namespace: str = ""
    redirect: str = ""  # the active node's address, where this one only refers to it
    pki: Pki = field(init=False)
    transit: Transit = field(default_factory=Transit)
    auth: Auth = field(init=False)
    faults: list[Fault] = field(default_factory=list)
    seen: list[tuple[str, str]] = field(default_factory=list)
    address: str = ""
    _runner: web.AppRunner | None = None
    _tls: ssl.SSLContext | None = None
    _hanging: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.pki = Pki(self.clock)
        self.auth = Auth(self.clock)

    def fault(self, path: str, status: int = 0, *errors: str, **options: Any) -> None:
        """Answer requests to that path (a glob below /v1/) so from now on, or for ``times`` requests."""
        self.faults.append(Fault(path, status, errors, **options))

    def count(self, path: str) -> int:
        """How many requests to that path (a glob) came."""
        return sum(fnmatchcase(seen, path) for _, seen in self.seen)

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls or self._tls
        app = web.Application()
        app.router.add_route("*", "/v1/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        port = int(self.address.rpartition(":")[2]) if self.address else 0
        site = web.TCPSite(self._runner, "127.0.0.1", port, ssl_context=self._tls)
        await site.start()
        port = self._runner.addresses[0][1]
        self.address = f"{'https' if self._tls else 'http'}://127.0.0.1:{port}"

    async def stop(self) -> None:
        self._hanging.set()
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()
        self._hanging = asyncio.Event()

    @asynccontextmanager
    async def stopped(self) -> AsyncIterator[None]:
        """While entered, nothing listens there."""
        await self.stop()
        try:
            yield
        finally:
            await self.start()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        path = request.match_info["path"]
        self.seen.append((request.method, path))
        if path == "sys/health":
            return self._health(request)
        if self.redirect:
            return web.Response(status=307, headers={"Location": f"{self.redirect}{request.path_qs}"})
        fault = next((f for f in self.faults if f.times > 0 and fnmatchcase(path, f.path)), None)
        if fault is not None:
            fault.times -= 1
            if not (fault.cut or fault.hang):
                return _answer_of(fault)
        try:
            answer = await self._route(request, path)
        except Refusal as refusal:
            return web.json_response(
                {"errors": [refusal.text] if refusal.text else []}, status=refusal.status
            )
        if fault is not None and fault.hang:
            await self._hanging.wait()
        if fault is not None and fault.cut:
            return await _cut(request)
        return answer

    def _health(self, request: web.Request) -> web.Response:
        if "X-Vault-Namespace" in request.headers:
            return web.json_response({"errors": ["operation unavailable in namespaces"]}, status=400)
        fault = next((f for f in self.faults if f.path == "sys/health" and f.times > 0), None)
        if fault is not None:
            fault.times -= 1
            return _answer_of(fault)
        status, body = STATES[self.state]
        return web.json_response(
            {**body, "server_time_utc": int(self.clock.now().timestamp() + self.skew)}, status=status
        )

    async def _route(self, request: web.Request, path: str) -> web.Response:
        if self.state == "sealed":
            raise Refusal(503, "Vault is sealed")
        if request.headers.get("X-Vault-Namespace", "").strip("/") != self.namespace:
            raise Refusal(404, "namespace not found")
        body = await request.json() if request.can_read_body else {}
        secret = request.headers.get("X-Vault-Token", "")
        public = self._public(request, path)
        if public is not None:
            return await public(body)
        if path == "sys/wrapping/unwrap":
            return _data(self.auth.unwrap(secret))
        token = self.auth.token(secret)
        capability = "read" if request.method == "GET" else "update"
        if not token.may(capability, path):
            raise denied()
        return web.json_response(self._private(request.method, path, body, token))

    def _public(
        self, request: web.Request, path: str
    ) -> Callable[[Mapping[str, Any]], Awaitable[web.Response]] | None:
        """What needs no token."""

        async def issuer(_: Mapping[str, Any]) -> web.Response:
            return _data(self.pki.issuer_json(path.split("/")[2]))

        async def crl(_: Mapping[str, Any]) -> web.Response:
            der = self.pki.crl(path.split("/")[2])
            return web.Response(body=der, status=200 if der else 204, content_type="application/pkix-crl")

        async def log_in(body: Mapping[str, Any]) -> web.Response:
            peer = request.transport.get_extra_info("peercert") if request.transport else None
            return web.json_response(self.auth.log_in(path, body, peer))

        async def look_up(body: Mapping[str, Any]) -> web.Response:
            return _data(self.auth.look_up_wrapping(str(body.get("token", ""))))

        if request.method == "GET" and fnmatchcase(path, f"{self.pki.mount}/issuer/*/json"):
            return issuer
        if request.method == "GET" and fnmatchcase(path, f"{self.pki.mount}/issuer/*/crl/der"):
            return crl
        if fnmatchcase(path, "auth/*/login"):
            return log_in
        return look_up if path == "sys/wrapping/lookup" else None

    def _private(self, method: str, path: str, body: Mapping[str, Any], token: Token) -> dict[str, Any]:
        match method, path.split("/"):
            case "GET", ["auth", "token", "lookup-self"]:
                return {"data": self.auth.look_up(token)}
            case "POST", ["auth", "token", "renew-self"]:
                return {"auth": self.auth.renew(token)}
            case "POST", [mount, "issuer", issuer, "sign", role] if mount == self.pki.mount:
                return {"data": self.pki.sign(issuer, role, body), "warnings": None}
            case "GET", [mount, "keys", key] if mount == self.transit.mount:
                return {"data": self.transit.key(key)}
            case "POST", [mount, "sign", key, algorithm] if mount == self.transit.mount:
                return {"data": self.transit.sign(key, algorithm, body)}
        raise no_route(path)


def _data(data: Mapping[str, Any]) -> web.Response:
    return web.json_response({"request_id": "1", "data": data, "auth": None, "warnings": None})


def _answer_of(fault: Fault) -> web.Response:
    if fault.body:
        return web.Response(status=fault.status, body=fault.body, headers=fault.headers)
    return web.json_response({"errors": list(fault.errors or ())}, status=fault.status, headers=fault.headers)


async def _cut(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    response.content_length = 4096
    await response.prepare(request)
    await response.write(b'{"data": {"certificate": "-----BEGIN')
    assert request.transport is not None
    request.transport.abort()
    return response


@asynccontextmanager
async def vault_server(tls: ssl.SSLContext | None = None, **options: Any) -> AsyncIterator[VaultServer]:
    """A server of its own on a free port of the loopback."""
    server = VaultServer(**options)
    await server.start(tls)
    try:
        yield server
    finally:
        await server.stop()
