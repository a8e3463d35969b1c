"""The Vault of these tests answers as a real one does: the same requests are put to both.

The real one is named by ``FEDERATION_REAL_VAULT``; without it the answers that it gave are the expectation.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import aiohttp
import pytest

from tests.authorities.real_vault import Admin, admin
from tests.authorities.vault_engines import Role
from tests.authorities.vault_server import vault_server
from tests.support import pki

IDENTITY = str(pki.IDENTITY)
DIGEST = base64.b64encode(sha256(b"to be signed").digest()).decode()


@dataclass
class Side:
    """One of the two, seen by a client: its mounts, a good token, and how to have a secret_id wrapped."""

    ask: Callable[..., Awaitable[tuple[int, Any]]]
    pki: str
    transit: str
    approle: str
    role_id: str
    token: str
    powerless: str
    wrap: Callable[[], Awaitable[str]]

    async def answer_to(self, method: str, path: str, body: object = None, **options: Any) -> tuple[int, str]:
        """Status and the text of the refusal."""
        status, answer = await self.ask(method, path, body, **options)
        return status, " ".join(" ".join(answer.get("errors", ())).split()) if answer else ""

    async def sign(
        self, role: str = "mesh-workload", issuer: str = "default", **changes: Any
    ) -> tuple[int, str]:
        body = {
            "csr": pki.csr_pem(),
            "ttl": 600,
            "uri_sans": [IDENTITY],
            "alt_names": "",
            "exclude_cn_from_sans": True,
            "format": "pem",
            **changes,
        }
        path = f"{self.pki}/issuer/{issuer}/sign/{role}"
        return await self.answer_to("POST", path, body, token=self.token)


@pytest.fixture(params=["of these tests", "real"])
async def side(request: pytest.FixtureRequest) -> AsyncIterator[Side]:
    async with AsyncExitStack() as stack:
        if request.param == "real":
            yield await _real(await stack.enter_async_context(admin()))
            return
        server = await stack.enter_async_context(vault_server())
        server.pki.roles["rsa-only"] = Role(allowed_uri_sans=("spiffe://*",), key_type="rsa")
        server.transit.create("mesh", "ecdsa-p256")
        server.transit.create("cipher", "aes256-gcm96")
        server.auth.policy = ("*",)
        token = server.auth.make_token().secret
        server.auth.policy = ()
        http = await stack.enter_async_context(aiohttp.ClientSession(trust_env=False))

        async def wrap() -> str:
            return server.auth.wrap()

        yield Side(
            ask=Admin(server.address, "", http).ask,
            pki="pki",
            transit="transit",
            approle="approle",
            role_id=server.auth.role_id,
            token=token,
            powerless=server.auth.make_token().secret,
            wrap=wrap,
        )


async def _real(operator: Admin) -> Side:
    mesh, _ = await operator.root_and_intermediate()
    await operator.recommended_roles(mesh)
    rsa = {"allowed_uri_sans": ["spiffe://*"], "require_cn": False, "key_type": "rsa", "key_bits": 2048}
    await operator.do("POST", f"{mesh}/roles/rsa-only", rsa)
    transit = await operator.mount("transit", "transit")
    await operator.do("POST", f"{transit}/keys/mesh", {"type": "ecdsa-p256"})
    await operator.do("POST", f"{transit}/keys/cipher", {"type": "aes256-gcm96"})
    approle = await operator.auth_method("approle")
    await operator.do("POST", f"auth/{approle}/role/hub", {"token_policies": ["default"]})
    role_id = (await operator.do("GET", f"auth/{approle}/role/hub/role-id"))["role_id"]

    async def wrap() -> str:
        _, answer = await operator.ask(
            "POST", f"auth/{approle}/role/hub/secret-id", {}, headers={"X-Vault-Wrap-TTL": "60s"}
        )
        token: str = answer["wrap_info"]["token"]
        return token

    return Side(
        ask=operator.ask,
        pki=mesh,
        transit=transit,
        approle=approle,
        role_id=role_id,
        token=operator.token,
        powerless=await operator.token_with(
            await operator.policy('path "nowhere" { capabilities = ["deny"] }')
        ),
        wrap=wrap,
    )


async def test_sign(side: Side) -> None:
    assert await side.sign() == (200, "")
    status, text = await side.sign(uri_sans=["spiffe://elsewhere/ns/foo/sa/bar"])
    assert (status, "not valid for this role" in text) == (400, True)
    status, text = await side.sign("mesh-listener")
    assert (status, "not allowed in this role" in text) == (400, True)
    status, text = await side.sign(alt_names="elsewhere.svc")
    assert (status, "elsewhere.svc not allowed by this role" in text) == (400, True)
    status, text = await side.sign("rsa-only")
    assert (status, "role requires keys of type rsa" in text) == (400, True)
    status, text = await side.sign("missing")
    assert (status, "unknown role" in text) == (400, True)
    status, text = await side.sign(issuer="missing")
    assert (status, "unable to find PKI issuer" in text) == (500, True)


async def test_what_needs_no_token(side: Side) -> None:
    status, answer = await side.ask("GET", f"{side.pki}/issuer/default/json", token="")
    assert status == 200
    assert answer["data"]["certificate"].startswith("-----BEGIN CERTIFICATE-----")
    assert len(answer["data"]["ca_chain"]) == 2
    status, text = await side.answer_to("GET", f"{side.pki}/issuer/missing/json", token="")
    assert (status, "unable to find PKI issuer" in text) == (500, True)
    status, text = await side.answer_to("GET", "nowhere/issuer/default/json", token="")
    assert (status, "permission denied" in text) == (403, True)


async def test_what_is_not_allowed(side: Side) -> None:
    path = f"{side.pki}/issuer/default/sign/mesh-workload"
    for token in (side.powerless, "hvs.unknown", ""):
        status, text = await side.answer_to("POST", path, {}, token=token)
        assert (status, "permission denied" in text) == (403, True)
    status, text = await side.answer_to("POST", "nowhere/issuer/default/sign/x", {}, token=side.token)
    assert (status, "no handler for route" in text) == (404, True)


async def test_transit(side: Side) -> None:
    body = {"input": DIGEST, "prehashed": True, "marshaling_algorithm": "asn1", "key_version": 1}
    path = f"{side.transit}/sign/mesh/sha2-256"
    status, answer = await side.ask("POST", path, body, token=side.token)
    assert status == 200
    assert answer["data"]["signature"].startswith("vault:v1:")
    status, text = await side.answer_to("POST", path, {**body, "key_version": 9}, token=side.token)
    assert (status, "requested version for signing" in text) == (500, True)
    none = f"{side.transit}/sign/missing/sha2-256"
    status, text = await side.answer_to("POST", none, body, token=side.token)
    assert (status, "signing key not found" in text) == (400, True)
    cipher = f"{side.transit}/sign/cipher/sha2-256"
    status, text = await side.answer_to("POST", cipher, body, token=side.token)
    assert (status, "does not support signing" in text) == (400, True)
    status, answer = await side.ask("GET", f"{side.transit}/keys/mesh", token=side.token)
    assert (status, answer["data"]["type"]) == (200, "ecdsa-p256")
    assert answer["data"]["keys"]["1"]["public_key"].startswith("-----BEGIN PUBLIC KEY-----")
    status, answer = await side.ask("GET", f"{side.transit}/keys/cipher", token=side.token)
    assert isinstance(answer["data"]["keys"]["1"], int)
    assert (await side.answer_to("GET", f"{side.transit}/keys/missing", token=side.token))[0] == 404


async def test_wrapping_and_login(side: Side) -> None:
    token = await side.wrap()
    status, answer = await side.ask("POST", "sys/wrapping/lookup", {"token": token}, token="")
    assert (status, answer["data"]["creation_path"]) == (200, f"auth/{side.approle}/role/hub/secret-id")
    status, answer = await side.ask("POST", "sys/wrapping/unwrap", token=token)
    assert status == 200
    secret_id = answer["data"]["secret_id"]
    for path, body, own in (
        ("sys/wrapping/unwrap", None, token),
        ("sys/wrapping/lookup", {"token": token}, ""),
    ):
        status, text = await side.answer_to("POST", path, body, token=own)
        assert (status, "wrapping token is not valid" in text) == (400, True)
    login = f"auth/{side.approle}/login"
    good = {"role_id": side.role_id, "secret_id": secret_id}
    status, answer = await side.ask("POST", login, good, token="")
    assert status == 200
    assert answer["auth"]["lease_duration"] > 0
    assert answer["auth"]["renewable"] is True
    status, text = await side.answer_to("POST", login, {**good, "secret_id": "another"}, token="")
    assert (status, "invalid role or secret ID" in text) == (400, True)
    status, text = await side.answer_to("POST", "auth/nowhere/login", good, token="")
    assert (status, "permission denied" in text) == (403, True)


async def test_health(side: Side) -> None:
    status, answer = await side.ask("GET", "sys/health", token="")
    assert status == 200
    assert (answer["initialized"], answer["sealed"], answer["standby"]) == (True, False, False)
    assert answer["server_time_utc"] > 1_700_000_000
    status, _ = await side.ask("GET", "sys/health", token="", headers={"X-Vault-Namespace": "mesh"})
    assert status == 400


async def test_the_token_itself(side: Side) -> None:
    status, answer = await side.ask("GET", "auth/token/lookup-self", token=side.token)
    assert status == 200
    assert {"ttl", "creation_ttl", "renewable"} <= set(answer["data"])
    status, text = await side.answer_to("GET", "auth/token/lookup-self", token="hvs.unknown")
    assert (status, "permission denied" in text) == (403, True)
    status, text = await side.answer_to("POST", "auth/token/renew-self", {}, token="hvs.unknown")
    assert (status, "permission denied" in text) == (403, True)
