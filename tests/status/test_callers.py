"""Callers with credentials of their own: tokens by digest, and tokens of an OIDC issuer, through HTTP."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import json
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from multidict import CIMultiDict

from federation.cli.mounted_operations import operations
from federation.controller.operations_api import BURST
from federation.core.config.hub import CallerToken, OidcCallersConfig, StatusConfig
from federation.core.errors import Unavailable
from federation.runtime.clock import SystemClock
from federation.status import authorization, oidc
from federation.status.app import create_app
from federation.status.callers import Authenticator, StatusCaller
from federation.status.oidc import OidcCallers
from federation.status.routes import Right
from federation.status.server import serve
from tests.status.conftest import LOOPBACK, Start
from tests.status.every_route import answers, due
from tests.status.worlds import CountingStore, FixedConfig, World
from tests.support.clock import VirtualClock
from tests.support.patience import PATIENCE
from tests.support.seals import OPERATE_TOKEN, READ_TOKEN, SEAL, token_file

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())
AUDIENCE = "federation-hub"


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


NAMED = StatusConfig(
    tokens=(
        CallerToken(name="grafana", sha256=digest(READ_TOKEN)),
        CallerToken(name="ann", sha256=digest(OPERATE_TOKEN), right="operate"),
    )
)


async def test_a_token_that_the_configuration_has_the_digest_of_has_its_right(start: Start) -> None:
    async with start(status=NAMED, operates=True) as hub:
        assert (await hub.get("/api/v1/status"))[0] == 401
        assert (await hub.get("/api/v1/status", headers=bearer(digest(READ_TOKEN))))[0] == 401
        for token, may_operate in ((READ_TOKEN, False), (OPERATE_TOKEN, True)):
            status, body, _ = await hub.get("/api/v1/operations", headers=bearer(token))
            assert (status, body["accepted"], body["with_token"]) == (200, may_operate, True)
        hub.config.current = replace(hub.config.current, status=StatusConfig(tokens=NAMED.tokens[1:]))
        assert (await hub.get("/api/v1/status", headers=bearer(READ_TOKEN)))[0] == 401, (
            "a reload counts at once"
        )


async def test_one_operator_that_asks_too_often_keeps_no_other_out(start: Start) -> None:
    program = "0123456789abcdef0123456789abcdef-program"
    both = (*NAMED.tokens, CallerToken(name="program", sha256=digest(program), right="operate"))
    async with start(status=StatusConfig(tokens=both), operates=True) as hub:

        async def ask(token: str) -> int:
            async with hub.session.post(
                hub.url + "/api/v1/operations", json={"verb": "nonsense"}, headers=bearer(token)
            ) as response:
                return response.status

        asked = [await ask(program) for _ in range(BURST + 2)]
        assert asked[:BURST] == [400] * BURST
        assert asked[-1] == 429
        assert await ask(OPERATE_TOKEN) == 400


async def test_of_two_credentials_none_counts(start: Start) -> None:
    async with start(status=NAMED) as hub:
        for first, second in ((READ_TOKEN, OPERATE_TOKEN), (READ_TOKEN, "x"), ("x", READ_TOKEN)):
            two = CIMultiDict([("Authorization", f"Bearer {each}") for each in (first, second)])
            assert (await hub.get("/api/v1/status", headers=two))[0] == 401


async def test_an_operation_bears_the_name_of_the_token(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with start(status=NAMED, operates=True) as hub:
        body = {"verb": "nonsense", "arguments": {"author": "someone else"}}
        async with hub.session.post(
            hub.url + "/api/v1/operations", json=body, headers=bearer(OPERATE_TOKEN)
        ) as response:
            assert response.status == 400
        async with hub.session.post(
            hub.url + "/api/v1/operations", json=body, headers=bearer(READ_TOKEN)
        ) as response:
            assert response.status == 403
    refused = [r for r in caplog.records if getattr(r, "action", "") == "refuse_request"]
    assert [(getattr(r, "actor", ""), getattr(r, "status", 0)) for r in refused] == [
        ("token ann", 400),
        ("token grafana", 403),
    ]
    assert OPERATE_TOKEN not in caplog.text


async def test_a_file_that_cannot_be_used_keeps_no_other_caller_out(start: Start, tmp_path: Path) -> None:
    config = replace(NAMED, read_token_file=tmp_path / "missing")
    async with start(status=config) as hub:
        assert (await hub.get("/api/v1/status", headers=bearer(READ_TOKEN)))[0] == 200
        assert (await hub.get("/api/v1/status", headers=bearer("of the file, perhaps")))[0] == 503


class Issuer:
    """An OIDC issuer on loopback."""

    def __init__(self) -> None:
        self.url = ""
        self.keys: dict[str, Any] = {"rsa": RSA, "ec": EC}
        self.document: dict[str, Any] = {}
        self.requests: list[str] = []
        self.body: bytes | None = None
        self.headers: dict[str, str] = {}
        self.status = 200

    def token(
        self, key: Any = RSA, *, kid: str = "rsa", algorithm: str = "RS256", typ: str = "JWT", **claims: Any
    ) -> str:
        given = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": "ann@example.org",
            "groups": ["readers"],
            "exp": VirtualClock().now().timestamp() + 600,
            **claims,
        }
        kept = {name: value for name, value in given.items() if value is not None}
        return jwt.encode(kept, key, algorithm=algorithm, headers={"kid": kid, "typ": typ})

    async def discovery(self, request: web.Request) -> web.Response:
        self.requests.append(request.path)
        return web.json_response(
            {"issuer": self.url, "jwks_uri": f"{self.url}/keys", **self.document}, status=self.status
        )

    async def key_set(self, request: web.Request) -> web.Response:
        self.requests.append(request.path)
        if self.body is not None:
            return web.Response(body=self.body, headers=self.headers)
        keys = []
        for kid, key in self.keys.items():
            algorithm = RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else ECAlgorithm
            keys.append({**algorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid, "use": "sig"})
        return web.json_response({"keys": keys})


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    found = Issuer()
    app = web.Application()
    app.add_routes([web.get(oidc.DISCOVERY, found.discovery), web.get("/keys", found.key_set)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield found
    await runner.cleanup()


def callers_of(issuer: Issuer, clock: VirtualClock | None = None, **changes: Any) -> OidcCallers:
    given: dict[str, Any] = {"read": ("readers",), "operate": ("admins",), **changes}
    config = OidcCallersConfig(issuer=issuer.url, audience=AUDIENCE, **given)
    return OidcCallers(lambda: config, clock or VirtualClock())


def ann(right: Right | None) -> StatusCaller:
    return StatusCaller(name="ann@example.org", kind="oidc", right=right)


async def test_claims_become_rights(issuer: Issuer) -> None:
    callers = callers_of(issuer)
    for groups, right in (
        (["readers"], Right.READ),
        (["x", "admins", "readers"], Right.OPERATE),
        ("admins", Right.OPERATE),
        ("admins readers", None),
        ([], None),
        (None, None),
        ([["admins"]], None),
        ({"admins": 1}, None),
        (7, None),
    ):
        assert await callers.caller(issuer.token(groups=groups)) == ann(right), groups
    assert await callers.caller(issuer.token(EC, kid="ec", algorithm="ES256")) == ann(Right.READ)
    named = callers_of(issuer, name_claim="email", rights_claim="role", read=("r",))
    assert await named.caller(issuer.token(email="a@b", role="r")) == StatusCaller(
        name="a@b", kind="oidc", right=Right.READ
    )
    assert await named.caller(issuer.token(role="r")) is None, "the claim of the name is required"


async def test_what_is_taken_out_of_the_configuration_counts_at_the_next_request(issuer: Issuer) -> None:
    config: OidcCallersConfig | None = OidcCallersConfig(
        issuer=issuer.url, audience=AUDIENCE, read=("readers",), operate=("admins",)
    )
    callers = OidcCallers(lambda: config, VirtualClock())
    token = issuer.token(groups=["admins", "readers"])
    assert await callers.caller(token) == ann(Right.OPERATE)
    config = OidcCallersConfig(issuer=issuer.url, audience=AUDIENCE, read=("readers",))
    assert await callers.caller(token) == ann(Right.READ)
    config = OidcCallersConfig(issuer="http://127.0.0.1:1", audience=AUDIENCE, read=("readers",))
    assert not callers.takes({"iss": issuer.url, "aud": AUDIENCE})
    with pytest.raises(Unavailable):
        await callers.caller(token)
    config = None
    assert not callers.takes({"iss": issuer.url, "aud": AUDIENCE})
    assert await callers.caller(token) is None


async def test_a_bomb_of_gzip_is_not_blown_up(issuer: Issuer) -> None:
    issuer.body = gzip.compress(b" " * 50_000_000)
    issuer.headers = {"Content-Encoding": "gzip"}
    with pytest.raises(Unavailable, match="not a JSON Web Key Set"):
        await callers_of(issuer).caller(issuer.token())


def _unsigned(issuer: Issuer, header: Mapping[str, Any]) -> str:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    claims = jwt.decode(issuer.token(), options={"verify_signature": False})
    return f"{part(header)}.{part(claims)}."


async def test_a_token_that_is_not_good_in_every_point_is_refused(issuer: Issuer) -> None:
    now = VirtualClock().now().timestamp()
    good = issuer.token()
    head, body, signature = good.split(".")
    public = RSA.public_key()
    bad = {
        "another issuer": issuer.token(iss="https://login.example.org"),
        "no issuer": issuer.token(iss=None),
        "another audience": issuer.token(aud="istio-ca"),
        "no audience": issuer.token(aud=None),
        "ended": issuer.token(exp=now - 31),
        "without an end": issuer.token(exp=None),
        "an end that is text": _with_claim(issuer, exp="soon"),
        "an end that is true": _with_claim(issuer, exp=True),
        "not yet": issuer.token(nbf=now + 31),
        "no name": issuer.token(sub=None),
        "an empty name": issuer.token(sub=""),
        "a name of two lines": issuer.token(sub="a\nb"),
        "a long name": issuer.token(sub="a" * 254),
        "an unknown key": issuer.token(OTHER, kid="other"),
        "another key by that name": issuer.token(OTHER),
        "another kind of key": issuer.token(EC, kid="rsa", algorithm="ES256"),
        "another padding": issuer.token(algorithm="PS256"),
        "none": _unsigned(issuer, {"alg": "none", "kid": "rsa"}),
        "no signature": f"{head}.{body}.",
        "HMAC by the public key": _hmac(issuer, public),
        "for another end": issuer.token(typ="logout+jwt"),
        "no kid": jwt.encode({"iss": issuer.url}, RSA, algorithm="RS256"),
        "a critical extension": _critical(issuer),
        "another body": f"{head}.{issuer.token(groups=['admins']).split('.')[1]}.{signature}",
        "no JWT": "x.y.z",
        "nothing": "",
    }
    callers = callers_of(issuer)
    assert await callers.caller(good) == ann(Right.READ)
    for what, token in bad.items():
        assert await callers.caller(token) is None, what
    for near in (issuer.token(exp=now - 29), issuer.token(nbf=now + 29)):
        assert await callers.caller(near) == ann(Right.READ), "clocks may differ a little"


def _with_claim(issuer: Issuer, **claims: Any) -> str:
    """PyJWT refuses to write it, so the payload is signed as bytes."""
    given = jwt.decode(issuer.token(), options={"verify_signature": False}) | claims
    return jwt.api_jws.encode(json.dumps(given).encode(), RSA, algorithm="RS256", headers={"kid": "rsa"})


def _hmac(issuer: Issuer, public: rsa.RSAPublicKey) -> str:
    import hmac as mac

    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    unsigned = _unsigned(issuer, {"alg": "HS256", "kid": "rsa", "typ": "JWT"}).rstrip(".")
    signature = mac.new(pem, unsigned.encode(), "sha256").digest()
    return f"{unsigned}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


def _critical(issuer: Issuer) -> str:
    claims = jwt.decode(issuer.token(), options={"verify_signature": False})
    return jwt.encode(claims, RSA, algorithm="RS256", headers={"kid": "rsa", "crit": ["x"], "x": 1})


async def test_keys_are_fetched_again_for_a_new_one_and_not_at_every_callers_request(issuer: Issuer) -> None:
    clock = VirtualClock()
    callers = callers_of(issuer, clock)
    for _ in range(5):
        assert await callers.caller(issuer.token()) == ann(Right.READ)
    assert issuer.requests == [oidc.DISCOVERY, "/keys"]
    issuer.keys = {"new": OTHER}
    for number in range(20):
        assert await callers.caller(issuer.token(OTHER, kid=f"unknown-{number}")) is None
    assert len(issuer.requests) == 2
    await clock.advance(oidc.PAUSE)
    assert await callers.caller(issuer.token(OTHER, kid="new")) == ann(Right.READ)
    assert await callers.caller(issuer.token()) is None, "a key that was withdrawn is good no more"
    assert len(issuer.requests) == 4
    issuer.keys = {"newer": RSA}
    await clock.advance(oidc.FRESH + 1)
    late = clock.now().timestamp() + 60
    assert await callers.caller(issuer.token(OTHER, kid="new", exp=late)) is None
    assert len(issuer.requests) == 6


async def test_keys_serve_an_hour_without_the_issuer_and_then_nothing_is_known(issuer: Issuer) -> None:
    clock = VirtualClock()
    callers = callers_of(issuer, clock)
    token = issuer.token(exp=clock.now().timestamp() + 9999)
    assert await callers.caller(token) == ann(Right.READ)
    issuer.status = 500
    await clock.advance(oidc.KEPT - 1)
    assert await callers.caller(token) == ann(Right.READ)
    await clock.advance(2)
    with pytest.raises(Unavailable, match="answered 500"):
        await callers.caller(token)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"document": {"issuer": "https://login.example.org"}}, "another issuer"),
        ({"document": {"jwks_uri": "http://192.0.2.1/keys"}}, "no https address"),
        ({"document": {"jwks_uri": "file:///etc/passwd"}}, "no https address"),
        ({"document": {"jwks_uri": "https://user:password@example.org/"}}, "no https address"),
        ({"document": {"jwks_uri": 7}}, "cannot be read"),
        ({"status": 302}, "answered 302"),
        ({"status": 404}, "answered 404"),
        ({"body": b"x" * 300_000}, "longer than"),
        ({"body": b"{"}, "not a JSON Web Key Set"),
        ({"body": b'{"keys": []}'}, "no key"),
    ],
)
async def test_an_issuer_that_answers_something_else_lets_no_one_in(
    issuer: Issuer, change: dict[str, Any], why: str
) -> None:
    for name, value in change.items():
        setattr(issuer, name, value)
    with pytest.raises(Unavailable, match=why):
        await callers_of(issuer).caller(issuer.token())


async def test_an_issuer_that_is_not_there_lets_no_one_in(issuer: Issuer) -> None:
    config = OidcCallersConfig(issuer="http://127.0.0.1:1", audience=AUDIENCE, read=("readers",))
    callers = OidcCallers(lambda: config, VirtualClock())
    with pytest.raises(Unavailable, match="not known"):
        await callers.caller(issuer.token())


class Fixed:
    """Verifies nothing: who is asked for comes from the test."""

    def __init__(self, answer: StatusCaller | Exception | None, known: bool = False) -> None:
        self.answer = answer
        self.known = known
        self.asked = 0

    def takes(self, claims: Mapping[str, Any]) -> bool:
        return claims.get("aud") == AUDIENCE

    def remembers(self, token: str) -> bool:
        return self.known

    async def caller(self, token: str) -> StatusCaller | None:
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@asynccontextmanager
async def guarded(
    tmp_path: Path, authenticator: Authenticator, status: StatusConfig
) -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    clock = VirtualClock()
    world = World(["east", "west"], clock.now().timestamp())
    store = CountingStore(tmp_path / "state", SystemClock())
    await store.put(world.document_set())
    config = FixedConfig(replace(world.config, status=status))
    app = create_app(
        store=store,
        config=config,
        clock=clock,
        mounted=operations(store, config, SystemClock(), SEAL),
        authenticators=[authenticator],
    )
    async with serve(app, listen=LOOPBACK, clock=clock) as address, aiohttp.ClientSession() as session:
        yield session, f"http://{address}"


OIDC = StatusConfig(
    oidc=OidcCallersConfig(issuer="https://x", audience=AUDIENCE, read=("r",), operate=("o",))
)


async def test_every_route_answers_each_named_token_by_its_right_alone(start: Start) -> None:
    async with start(status=NAMED, operates=True) as hub:
        for token, right in ((READ_TOKEN, Right.READ), (OPERATE_TOKEN, Right.OPERATE)):
            assert await answers(hub.session, hub.url, bearer(token)) == due(right, otherwise=403)


async def test_every_route_answers_each_caller_of_an_issuer_by_its_right_alone(
    tmp_path: Path, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authorization, "REFUSED_BURST", 1000)
    config = OidcCallersConfig(issuer=issuer.url, audience=AUDIENCE, read=("readers",), operate=("admins",))
    async with guarded(tmp_path, callers_of(issuer), StatusConfig(oidc=config)) as (session, url):
        for group, right in (("readers", Right.READ), ("admins", Right.OPERATE), ("guests", None)):
            found = await answers(session, url, bearer(issuer.token(groups=[group])))
            assert found == due(right, otherwise=403), group
        ended = issuer.token(exp=VirtualClock().now().timestamp() - 600)
        assert await answers(session, url, bearer(ended)) == due(None, otherwise=401)
    issuer.status = 500
    async with guarded(tmp_path / "2", callers_of(issuer), StatusConfig(oidc=config)) as (session, url):
        found = await answers(session, url, bearer(issuer.token(groups=["admins"])))
        assert found == due(None, otherwise=503), "its issuer is away, and no one is let in"


async def test_a_verified_caller_is_let_in_by_its_right_alone(tmp_path: Path, issuer: Issuer) -> None:
    token = issuer.token()
    for answer, read, operate in (
        (ann(Right.READ), 200, 403),
        (ann(Right.OPERATE), 200, 415),
        (ann(None), 403, 403),
        (None, 401, 401),
        (Unavailable("it does not answer", where="x"), 503, 503),
    ):
        async with guarded(tmp_path, Fixed(answer), OIDC) as (session, url):
            async with session.get(f"{url}/api/v1/status", headers=bearer(token)) as response:
                assert (response.status, response.content_type.startswith("application")) == (read, True)
            async with session.post(f"{url}/api/v1/operations", headers=bearer(token)) as response:
                assert response.status == operate
            async with session.get(f"{url}/api/v1/status") as response:
                assert response.status == 401, "no one is let in without a credential, from loopback neither"


async def test_what_is_no_jwt_for_the_hub_is_shown_to_no_one(tmp_path: Path, issuer: Issuer) -> None:
    authenticator = Fixed(ann(Right.READ))
    async with guarded(tmp_path, authenticator, OIDC) as (session, url):
        for token in (READ_TOKEN, issuer.token(aud="istio-ca"), "a.b.c", "..", "x" * 3000, "\N{SNOWMAN}"):
            async with session.get(
                f"{url}/api/v1/status", headers={"Authorization": f"Bearer {token}"}
            ) as response:
                assert response.status == 401, token
    assert authenticator.asked == 0


async def test_no_caller_fills_the_log(
    tmp_path: Path, issuer: Issuer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(authorization, "REFUSED_BURST", 3)
    authenticator = Fixed(Unavailable("it does not answer", where="x"), known=True)
    async with guarded(tmp_path, authenticator, OIDC) as (session, url):
        for _ in range(6):
            async with session.get(f"{url}/api/v1/status", headers=bearer(issuer.token())) as response:
                assert response.status in {429, 503}
    assert caplog.text.count("cannot be verified") == 3


TARGETS = (
    *("//api/v1/status", "/api/v1/../v1/status", "/api//v1/status", "/API/v1/status", "/api/v1/status/"),
    *(
        "/%61pi/v1/status",
        "/api%2fv1%2fstatus",
        "/healthz/../api/v1/status",
        "/healthz%2f..%2fapi%2fv1%2fstatus",
    ),
    *("/api/v1/clusters/..%2f..%2f..%2fhealthz", "/style.css/../api/v1/status", "/api/v1/status#/healthz"),
    *(
        "http://localhost/api/v1/status",
        "http://localhost/healthz/..//api/v1/status",
        "/api/v1/status%00",
        "*",
    ),
    "/api/v1/status?access_token=TOKEN",
)
HEADERS = (
    *("X-Forwarded-For: 127.0.0.1", "X-Original-URL: /healthz", "X-Rewrite-URL: /healthz"),
    *("X-Forwarded-User: admin", "X-Remote-User: admin", "Impersonate-User: admin", "Cookie: token=TOKEN"),
    *("Proxy-Authorization: Bearer TOKEN", "Authorization : Bearer TOKEN", "Authorization: Basic TOKEN"),
    *("X: y\n Authorization: Bearer TOKEN", "Transfer-Encoding: xchunked"),
)


async def test_no_way_of_writing_a_request_gets_past_the_guard(start: Start) -> None:
    async with start(status=NAMED) as hub:
        host, port = hub.url.removeprefix("http://").split(":")
        requests = [f"{target} HTTP/1.1" for target in TARGETS]
        requests += [f"/api/v1/status HTTP/1.1\r\n{header}" for header in HEADERS]
        for request in requests:
            reader, writer = await asyncio.open_connection(host, int(port))
            text = request.replace("TOKEN", READ_TOKEN)
            writer.write(f"GET {text}\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            async with asyncio.timeout(PATIENCE):
                answer = await reader.read()
            writer.close()
            assert answer.split(b" ")[1] in {b"400", b"401"}, request
            assert b"verdict" not in answer, request


async def test_an_address_that_is_refused_often_causes_no_more_questions(
    tmp_path: Path, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authorization, "REFUSED_BURST", 3)
    authenticator = Fixed(None)
    status = replace(OIDC, read_token_file=token_file(tmp_path / "token"))
    async with guarded(tmp_path, authenticator, status) as (session, url):
        found = []
        for number in range(6):
            token = issuer.token(jti=str(number))
            async with session.get(f"{url}/api/v1/status", headers=bearer(token)) as response:
                found.append(response.status)
        assert found == [401, 401, 401, 429, 429, 429]
        assert authenticator.asked == 3
        async with session.get(f"{url}/api/v1/status", headers=bearer(READ_TOKEN)) as response:
            assert response.status == 200
        authenticator.known, authenticator.answer = True, ann(Right.READ)
        async with session.get(f"{url}/api/v1/status", headers=bearer(issuer.token())) as response:
            assert response.status == 200, "who was good a moment ago is not kept out by others"
