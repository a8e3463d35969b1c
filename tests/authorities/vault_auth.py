"""Vault's tokens, auth methods and response wrapping, for ``vault_server.py``."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from tests.authorities.shifted_clock import ShiftedClock
from tests.authorities.vault_refusal import Refusal, denied

HUB_POLICY = (
    "update pki/issuer/default/sign/*",
    "read transit/keys/*",
    "update transit/sign/*",
    "update auth/token/renew-self",
    "read auth/token/lookup-self",
)


@dataclass
class Token:
    """A token; times are seconds of the server's clock. ``ttl`` 0: it has no end."""

    secret: str
    policy: tuple[str, ...]
    ttl: float
    ends: float
    max_end: float
    renewable: bool

    def may(self, capability: str, path: str) -> bool:
        return any(fnmatchcase(f"{capability} {path}", rule) for rule in self.policy)


@dataclass
class Auth:
    """Every method accepts one credential, which a test may change."""

    clock: ShiftedClock
    policy: tuple[str, ...] = HUB_POLICY
    ttl: float = 3600
    max_ttl: float = 86400
    renewable: bool = True
    role: str = "hub"
    jwt: str = "header.the-hubs-own-token.signature"
    role_id: str = "role-id-of-the-hub"
    secret_id: str = "secret-id-of-the-hub"
    methods: tuple[str, ...] = ("kubernetes", "jwt", "approle", "cert")
    answer: dict[str, Any] | None = None
    tokens: dict[str, Token] = field(default_factory=dict)
    wrapped: dict[str, tuple[str, str]] = field(default_factory=dict)
    logins: int = 0
    renewals: int = 0

    def make_token(self) -> Token:
        now = self.clock.monotonic()
        ends = now + self.ttl if self.ttl else float("inf")
        token = Token(
            f"hvs.hub-{secrets.token_urlsafe(18)}",
            self.policy,
            self.ttl,
            ends,
            now + self.max_ttl,
            self.renewable,
        )
        self.tokens[token.secret] = token
        return token

    def token(self, secret: str) -> Token:
        """The live token of that text."""
        token = self.tokens.get(secret)
        if token is None or self.clock.monotonic() >= token.ends:
            raise denied()
        return token

    def revoke_all(self) -> None:
        self.tokens.clear()

    def look_up(self, token: Token) -> dict[str, Any]:
        left = token.ends - self.clock.monotonic() if token.ttl else 0
        return {
            "ttl": int(left),
            "creation_ttl": int(token.ttl),
            "renewable": token.renewable,
            "policies": [],
        }

    def renew(self, token: Token) -> dict[str, Any]:
        if not token.renewable:
            raise Refusal(400, "lease is not renewable")
        self.renewals += 1
        token.ends = min(self.clock.monotonic() + token.ttl, token.max_end)
        return self._auth(token)

    def log_in(self, path: str, body: Mapping[str, Any], peer: Mapping[str, Any] | None) -> dict[str, Any]:
        method = path.split("/")[1]
        if method not in self.methods:
            raise denied()
        match method:
            case "approle":
                if (body.get("role_id"), body.get("secret_id")) != (self.role_id, self.secret_id):
                    raise Refusal(400, "invalid role or secret ID")
            case "kubernetes" | "jwt":
                if body.get("role") != self.role:
                    raise Refusal(400, f'role "{body.get("role")}" could not be found')
                if body.get("jwt") != self.jwt:
                    raise denied() if method == "kubernetes" else Refusal(400, "error validating token")
            case "cert":
                if not peer:
                    raise Refusal(400, "client certificate must be supplied")
                if body.get("name", self.role) != self.role:
                    raise Refusal(400, "invalid certificate or no client certificate supplied")
                if "commonName" not in {name for part in peer["subject"] for name, _ in part}:
                    raise Refusal(500, "missing name in alias")
        self.logins += 1
        return self.answer or {"auth": self._auth(self.make_token())}

    def wrap(self, path: str = "auth/approle/role/hub/secret-id") -> str:
        """A wrapping token around the secret_id, made at that path."""
        token = f"hvs.wrapping.{secrets.token_urlsafe(12)}"
        self.wrapped[token] = (path, self.secret_id)
        return token

    def look_up_wrapping(self, token: str) -> dict[str, Any]:
        if token not in self.wrapped:
            raise Refusal(400, "wrapping token is not valid or does not exist")
        return {
            "creation_path": self.wrapped[token][0],
            "creation_time": "2026-11-24T13:00:00Z",
            "creation_ttl": 300,
        }

    def unwrap(self, token: str) -> dict[str, Any]:
        if token not in self.wrapped:
            raise Refusal(400, "wrapping token is not valid or does not exist")
        return {"secret_id": self.wrapped.pop(token)[1], "secret_id_accessor": "a", "secret_id_ttl": 0}

    def _auth(self, token: Token) -> dict[str, Any]:
        left = max(token.ends - self.clock.monotonic(), 0) if token.ttl else 0
        return {
            "client_token": token.secret,
            "accessor": "a",
            "policies": ["hub"],
            "lease_duration": round(left),
            "renewable": token.renewable,
            "token_type": "service",
        }
