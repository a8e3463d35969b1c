"""``kind = "vault"`` and ``"vault-transit"``: a Vault or OpenBao, and how the hub logs in there."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from federation.core.config.authorities.common import (
    CLIENT_CERTIFICATE_KEYS,
    AuthorityContext,
    read_name,
    read_remote,
)
from federation.core.config.authorities.settings import (
    SecretRef,
    VaultAuth,
    VaultAuthorityConfig,
    VaultServer,
    VaultTransitAuthorityConfig,
)
from federation.core.config.mistakes import Table
from federation.core.config.types import boolean, is_plain_http, one_of, service_url, string
from federation.core.errors import InvalidValue

_WORD: Final = r"\w(?:[\w.-]{0,126}\w)?"  # what Vault itself takes for a name (GenericNameRegex), bounded
_NAME: Final = re.compile(_WORD, re.ASCII)
_PATH: Final = re.compile(rf"{_WORD}(?:/{_WORD}){{0,15}}", re.ASCII)

_SERVER: Final = VaultServer(  # these stand for the model's defaults, and nothing else
    address="", auth=VaultAuth(method="token", mount="token")
)
_VAULT: Final = VaultAuthorityConfig(name="", server=_SERVER, role="", serving_role="")
_TRANSIT: Final = VaultTransitAuthorityConfig(name="", server=_SERVER, key="", certificate_file=Path())


def read_vault(table: Table, context: AuthorityContext) -> VaultAuthorityConfig | None:
    """The PKI engine of a Vault."""
    name = read_name(table)
    remote = read_remote(table, _VAULT, context)
    server = _server(table, context)
    mount = table.get("mount", vault_path, _VAULT.mount)
    issuer = table.get("issuer", vault_name, _VAULT.issuer)
    role = table.require("role", vault_name, "name the role that signs SPIFFE requests and nothing else")
    serving_role = table.require(
        "serving_role",
        vault_name,
        "name the role for the listener's own certificate: its DNS names and server authentication only",
    )
    if name is None or server is None or role is None or serving_role is None:
        return None
    return VaultAuthorityConfig(
        name=name, server=server, mount=mount, issuer=issuer, role=role, serving_role=serving_role, **remote
    )


def read_vault_transit(table: Table, context: AuthorityContext) -> VaultTransitAuthorityConfig | None:
    """A key in the Transit engine of a Vault."""
    name = read_name(table)
    remote = read_remote(table, _TRANSIT, context)
    server = _server(table, context)
    mount = table.get("mount", vault_path, _TRANSIT.mount)
    key = table.require("key", vault_name, "name the key in Transit that the intermediate was made with")
    certificate = table.require(
        "certificate_file",
        context.path,
        "name the PEM file of the intermediate and what stands between it and the root",
    )
    if name is None or server is None or key is None or certificate is None:
        return None
    return VaultTransitAuthorityConfig(
        name=name, server=server, mount=mount, key=key, certificate_file=certificate, **remote
    )


def _server(table: Table, context: AuthorityContext) -> VaultServer | None:
    address = table.require("address", service_url, 'write its address, for example "https://vault:8200"')
    namespace = table.get("namespace", _path_or_empty, _SERVER.namespace)
    ca_file = table.get("ca_file", context.path, None)
    if not table.has("auth"):
        table.mistake(
            "auth", "is missing, so the hub could not log in", f"add [{table.path('auth')}] with its method"
        )
        return None
    auth = _auth(table.table("auth"), context)
    if address is not None and is_plain_http(address):
        if ca_file is not None:
            table.mistake("ca_file", "is never used: the address is http", "use https, or remove it")
        if auth is not None and auth.method == "cert":
            table.mistake("address", "is http, where no client certificate is shown", "use https")
    if address is None or auth is None:
        return None
    return VaultServer(address=address, auth=auth, namespace=namespace, ca_file=ca_file)


def _auth(table: Table, context: AuthorityContext) -> VaultAuth | None:
    with table:
        name = table.require(
            "method", one_of(_METHODS), "choose how the hub logs in; in Kubernetes that is kubernetes or jwt"
        )
        for key in _AUTH_KEYS:
            takers = [other for other, method in _METHODS.items() if key in method.keys]
            if table.has(key) and name is not None and name not in takers:
                table.mistake(
                    key,
                    f"is not a key of method {name}",
                    f"remove it, or use the method it belongs to: {', '.join(takers)}",
                )
        return None if name is None else _METHODS[name].read(table, context)


def _by_token(table: Table, context: AuthorityContext) -> VaultAuth | None:
    token = _secret(table, "token", context)
    if token is None:
        return None
    if token.source == "env":
        table.warning(
            "token",
            "a token in the environment can only be replaced by a restart: prefer a method that logs in "
            "anew, or a file that an agent renews",
        )
    return VaultAuth(method="token", mount="token", token=token)


def _by_jwt(method: Literal["kubernetes", "jwt"]) -> Callable[[Table, AuthorityContext], VaultAuth | None]:
    def read(table: Table, context: AuthorityContext) -> VaultAuth | None:
        mount = _mount(table, method)
        role = table.require("role", vault_name, f"name the role of auth/{mount} that the hub logs in with")
        jwt = table.require(
            "jwt", context.jwt, 'write "file:PATH" of a projected service account token, or "spiffe:AUDIENCE"'
        )
        if role is None or jwt is None:
            return None
        return VaultAuth(method=method, mount=mount, role=role, jwt=jwt)

    return read


def _by_approle(table: Table, context: AuthorityContext) -> VaultAuth | None:
    mount = _mount(table, "approle")
    role_id = _secret(table, "role_id", context)
    secret_id = _secret(table, "secret_id", context)
    wrapped = table.get("secret_id_wrapped", boolean, _SERVER.auth.secret_id_wrapped)
    role = table.get("role", _name_or_empty, _SERVER.auth.role)
    if role and not wrapped:
        table.mistake(
            "role",
            "is never used: role_id says the role",
            "remove it; with secret_id_wrapped it says which role the wrapping token must be of",
        )
    if wrapped and context.processes != 1:
        table.warning(
            "secret_id_wrapped",
            "a wrapping token is good for one process, once: set signer.processes = 1 where `federation hub` starts"
            " the signers, and give each replica a token of its own",
        )
    if role_id is None or secret_id is None:
        return None
    if role_id == secret_id:
        table.mistake("secret_id", "is the place of role_id", "keep them apart: that is their point")
    return VaultAuth(
        method="approle",
        mount=mount,
        role=role,
        role_id=role_id,
        secret_id=secret_id,
        secret_id_wrapped=wrapped,
    )


def _by_certificate(table: Table, context: AuthorityContext) -> VaultAuth | None:
    mount = _mount(table, "cert")
    role = table.get("role", _name_or_empty, _SERVER.auth.role)
    certificate = context.client_certificate(table)
    if certificate is None:
        return None
    return VaultAuth(method="cert", mount=mount, role=role, certificate=certificate)


def _mount(table: Table, method: str) -> str:
    """Where the method is mounted below ``auth/``; by Vault's own default under its name."""
    return table.get("mount", _auth_mount, method)


def _secret(table: Table, key: str, context: AuthorityContext) -> SecretRef | None:
    return table.require(key, context.secret, 'write "file:PATH", "env:NAME" or "conjur:VARIABLE"')


@dataclass(frozen=True, slots=True)
class _Method:
    """A way to log in: the keys that count for it, and how they become settings."""

    keys: tuple[str, ...]
    read: Callable[[Table, AuthorityContext], VaultAuth | None]


_METHODS: Final[Mapping[str, _Method]] = {
    "kubernetes": _Method(("mount", "role", "jwt"), _by_jwt("kubernetes")),
    "jwt": _Method(("mount", "role", "jwt"), _by_jwt("jwt")),
    "approle": _Method(("mount", "role_id", "secret_id", "secret_id_wrapped", "role"), _by_approle),
    "cert": _Method(("mount", "role", *CLIENT_CERTIFICATE_KEYS), _by_certificate),
    "token": _Method(("token",), _by_token),
}
_AUTH_KEYS: Final = tuple(dict.fromkeys(key for method in _METHODS.values() for key in method.keys))


def vault_name(value: object) -> str:
    """The name of a role, key or issuer, as Vault itself takes them."""
    text = string(value)
    if not _NAME.fullmatch(text):
        raise InvalidValue(
            "is not a name in Vault", remedy="use letters, digits, '_', and '-' or '.' between them"
        )
    return text


def vault_path(value: object) -> str:
    """A mount or a namespace: names with '/' between them."""
    text = string(value)
    if not _PATH.fullmatch(text):
        raise InvalidValue(
            "is not a path in Vault", remedy='write it without "/" at its ends, for example "pki/mesh"'
        )
    return text


def _auth_mount(value: object) -> str:
    text = vault_path(value)
    if text.startswith("auth/"):
        raise InvalidValue("is below auth/ already", remedy='leave "auth/" out')
    return text


def _path_or_empty(value: object) -> str:
    return vault_path(value) if string(value) else ""


def _name_or_empty(value: object) -> str:
    return vault_name(value) if string(value) else ""
