"""A real Vault or OpenBao, set up through its API exactly as ``docs/authorities.md`` recommends, and cleaned up.

``FEDERATION_REAL_VAULT`` names its address, ``FEDERATION_REAL_VAULT_TOKEN`` a token that may mount engines, enable
auth methods and write policies, ``FEDERATION_REAL_VAULT_CA`` the file of its CA where it speaks https by one of its
own. Everything made there has a random name and is removed at the end.
"""

from __future__ import annotations

import os
import secrets
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from federation.core.config.authorities.settings import SecretRef, VaultAuth, VaultServer
from federation.core.pki.certificate import Certificate
from federation.core.pki.pem import parse_certificates
from tests.authorities.back_end import ISTIOD_NAMES, SERVER_NAME, TRUST_DOMAIN
from tests.authorities.tcp_proxy import TcpProxy, tcp_proxy

ADDRESS = "FEDERATION_REAL_VAULT"
TOKEN = "FEDERATION_REAL_VAULT_TOKEN"
CA = "FEDERATION_REAL_VAULT_CA"

WORKLOAD_ROLE: dict[str, Any] = {
    "allowed_uri_sans": [f"spiffe://{TRUST_DOMAIN}/*"],
    "allow_any_name": False,
    "allow_localhost": False,
    "allow_ip_sans": False,
    "allow_wildcard_certificates": False,
    "require_cn": False,
    "use_csr_common_name": False,
    "use_csr_sans": False,
    "server_flag": True,
    "client_flag": True,
    "key_usage": ["DigitalSignature", "KeyEncipherment"],
    "basic_constraints_valid_for_non_ca": True,
    "key_type": "any",
    "no_store": True,
    "max_ttl": "24h",
    "not_before_duration": "2m",
    "not_before_bound": "forbid",
    "not_after_bound": "forbid",
}
LISTENER_ROLE: dict[str, Any] = {
    **WORKLOAD_ROLE,
    "allowed_uri_sans": [],
    "allowed_domains": [SERVER_NAME, *ISTIOD_NAMES],
    "allow_bare_domains": True,
    "client_flag": False,
}

OWN_TOKEN = """
path "auth/token/renew-self" { capabilities = ["update"] }
path "auth/token/lookup-self" { capabilities = ["read"] }
"""


def pki_policy(mount: str, issuer: str = "default") -> str:
    """All that the hub may do with the PKI engine."""
    return "".join(
        f'path "{mount}/issuer/{issuer}/sign/{role}" {{ capabilities = ["update"] }}\n'
        for role in ("mesh-workload", "mesh-listener")
    )


def transit_policy(mount: str, key: str) -> str:
    """All that the hub may do with the Transit engine."""
    return (
        f'path "{mount}/keys/{key}" {{ capabilities = ["read"] }}\n'
        f'path "{mount}/sign/{key}/*" {{ capabilities = ["update"] }}\n'
    )


@dataclass
class Admin:
    """The operator's side: requests with the powerful token. Undoes what it made, last first."""

    address: str
    token: str
    http: aiohttp.ClientSession
    name: str = field(default_factory=lambda: f"hub-test-{secrets.token_hex(4)}")
    _undo: list[tuple[str, str]] = field(default_factory=list)

    async def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        token: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, Any]:
        """Status and decoded body."""
        own = self.token if token is None else token
        sent = {**({"X-Vault-Token": own} if own else {}), **(headers or {})}
        async with self.http.request(method, f"{self.address}/v1/{path}", json=body, headers=sent) as answer:
            text = await answer.read()
            return answer.status, await answer.json() if text else {}

    async def do(self, method: str, path: str, body: object = None, **options: Any) -> Any:
        """The answer's ``data``; fails where Vault refuses."""
        status, answer = await self.ask(method, path, body, **options)
        assert status in {200, 204}, (method, path, status, answer)
        return answer.get("data") if answer else None

    async def mount(self, suffix: str, kind: str) -> str:
        """A secrets engine of that kind, with a lease long enough for CAs."""
        path = f"{self.name}-{suffix}"
        self._undo.append(("DELETE", f"sys/mounts/{path}"))
        await self.do("POST", f"sys/mounts/{path}", {"type": kind, "config": {"max_lease_ttl": "87600h"}})
        return path

    async def auth_method(self, kind: str) -> str:
        path = f"{self.name}-{kind}"
        self._undo.append(("DELETE", f"sys/auth/{path}"))
        await self.do("POST", f"sys/auth/{path}", {"type": kind})
        return path

    async def policy(self, rules: str, suffix: str = "") -> str:
        name = self.name + suffix
        self._undo.append(("DELETE", f"sys/policies/acl/{name}"))
        await self.do("PUT", f"sys/policies/acl/{name}", {"policy": rules})
        return name

    async def token_with(self, policy: str, **options: Any) -> str:
        """A token that may do what the policy says and nothing else."""
        body = {"policies": [policy], "no_default_policy": True, "ttl": "1h", "no_parent": True, **options}
        _, answer = await self.ask("POST", "auth/token/create", body)
        token: str = answer["auth"]["client_token"]
        self._undo.append(("REVOKE", token))
        return token

    async def root_and_intermediate(self) -> tuple[str, Certificate]:
        """A mount that holds the intermediate, and its root, whose key stays in another mount."""
        root = await self.mount("root", "pki")
        made = await self.do(
            "POST",
            f"{root}/root/generate/internal",
            {"common_name": "Mesh root", "key_type": "ec", "ttl": "8760h"},
        )
        mesh = await self.mount("mesh", "pki")
        await self.new_intermediate(root, mesh, "4380h")
        return mesh, parse_certificates(made["certificate"].encode(), where="root")[0]

    async def new_intermediate(self, root: str, mesh: str, ttl: str) -> str:
        """Another intermediate in ``mesh``; the issuer's ID."""
        csr = await self.do(
            "POST",
            f"{mesh}/intermediate/generate/internal",
            {"common_name": "Mesh intermediate", "key_type": "ec"},
        )
        signed = await self.do(
            "POST",
            f"{root}/root/sign-intermediate",
            {"csr": csr["csr"], "format": "pem_bundle", "ttl": ttl, "max_path_length": 0},
        )
        done = await self.do(
            "POST", f"{mesh}/intermediate/set-signed", {"certificate": signed["certificate"]}
        )
        return str(next(issuer for issuer, key in done["mapping"].items() if key))

    async def recommended_roles(self, mesh: str) -> None:
        await self.do("POST", f"{mesh}/roles/mesh-workload", WORKLOAD_ROLE)
        await self.do("POST", f"{mesh}/roles/mesh-listener", LISTENER_ROLE)

    async def clean_up(self) -> None:
        for what, target in reversed(self._undo):
            if what == "REVOKE":
                await self.ask("POST", "auth/token/revoke", {"token": target})
            else:
                await self.ask(what, target)


@asynccontextmanager
async def admin() -> AsyncIterator[Admin]:
    """The operator of the real server; skips where none is named."""
    address, token = os.environ.get(ADDRESS, ""), os.environ.get(TOKEN, "")
    if not address or not token:
        pytest.skip(
            f"no real Vault or OpenBao: set {ADDRESS} to its address and {TOKEN} to a token of its operator"
        )
    tls = ssl.create_default_context(cafile=os.environ[CA]) if CA in os.environ else None
    connector = aiohttp.TCPConnector(ssl=tls if tls is not None else True)
    async with aiohttp.ClientSession(connector=connector, trust_env=False) as http:
        operator = Admin(address.rstrip("/"), token, http)
        try:
            yield operator
        finally:
            await operator.clean_up()


@asynccontextmanager
async def way_to(operator: Admin) -> AsyncIterator[TcpProxy]:
    """A proxy between hub and server."""
    url = URL(operator.address)
    assert url.host is not None
    assert url.port is not None
    async with tcp_proxy(url.host, url.port) as proxy:
        yield proxy


def token_server(operator: Admin, proxy: TcpProxy, directory: Path, token: str) -> VaultServer:
    """The hub's settings: through the proxy, with the token in a file of its own."""
    file = directory / "vault-token"
    file.touch(mode=0o600)
    file.write_text(token)
    scheme = URL(operator.address).scheme
    auth = VaultAuth(method="token", mount="token", token=SecretRef("file", str(file)))
    ca_file = Path(os.environ[CA]) if CA in os.environ else None
    return VaultServer(address=f"{scheme}://127.0.0.1:{proxy.own_port}", auth=auth, ca_file=ca_file)
