"""The kubeconfig of one role in one member cluster: the API server, its CA and a token beside it, and nothing else.

The token is in a file of its own, named after the kubeconfig: it is renewed without another kubeconfig, which would be
another connection.

Of an administrator's kubeconfig only the way to the server is taken. Its credentials are not: no key, no token, no exec
plugin, and no proxy that asks for a password.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import urlsplit

import yaml

from federation.core.errors import ConfigurationError, InvalidValue
from federation.kubernetes.credentials import LoadedCredentials
from federation.kubernetes.kubeconfig import ClusterInfo, Entry, Material, parse_kubeconfig
from federation.kubernetes.token_life import TokenLife, token_life

MADE: Final = b"# Made by `federation clusters add`, which makes it anew; do not edit.\n"
"""The first line of what this module writes: a file without it is someone else's, and is not replaced."""


@dataclass(frozen=True, slots=True)
class ServerConnection:
    """How an API server is reached and verified; ``authority`` is PEM, None for the system's CAs."""

    server: str
    authority: bytes | None
    tls_server_name: str = ""
    proxy_url: str = ""

    @classmethod
    def of(cls, loaded: LoadedCredentials, *, server: str = "") -> ServerConnection:
        """That of these credentials; ``server`` is the address by which the hub reaches it, where that is another.

        Raises InvalidValue for a proxy with a password, which is the administrator's own.
        """
        proxy = loaded.proxy_url or ""
        if "@" in urlsplit(proxy).netloc:
            raise InvalidValue(
                "the kubeconfig's proxy-url holds a user name or password, which is not handed to the hub",
                remedy="name a proxy without them in a copy of that kubeconfig, or none",
            )
        return cls(server or loaded.server, loaded.authority, loaded.tls_server_name or "", proxy)


@dataclass(frozen=True, slots=True)
class RoleCredential:
    """The two files of a role: its kubeconfig, and the token that it names. The token does not show in its repr."""

    kubeconfig: bytes
    token: bytes

    def __repr__(self) -> str:
        return "RoleCredential(...)"


def token_file_of(kubeconfig: str) -> str:
    """The name of the token's file beside the kubeconfig of that name."""
    return f"{kubeconfig}.token"


def role_credential(
    connection: ServerConnection, *, cluster: str, account: str, token: str, name: str
) -> RoleCredential:
    """Both files; ``name`` is that of the kubeconfig's."""
    named: dict[str, Any] = {"server": connection.server}
    if connection.authority is not None:
        named["certificate-authority-data"] = base64.b64encode(connection.authority).decode("ascii")
    if connection.tls_server_name:
        named["tls-server-name"] = connection.tls_server_name
    if connection.proxy_url:
        named["proxy-url"] = connection.proxy_url
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": cluster, "cluster": named}],
        "users": [{"name": account, "user": {"tokenFile": token_file_of(name)}}],
        "contexts": [{"name": cluster, "context": {"cluster": cluster, "user": account}}],
        "current-context": cluster,
    }
    text = yaml.safe_dump(document, sort_keys=False)
    return RoleCredential(MADE + text.encode("utf-8"), token.encode("ascii"))


@dataclass(frozen=True, slots=True)
class FoundCredential:
    """One of these as it was found again. The token does not show in its repr."""

    connection: ServerConnection
    token: str
    life: TokenLife

    def __repr__(self) -> str:
        return f"FoundCredential(server={self.connection.server!r}, life={self.life})"


def is_made(kubeconfig: bytes) -> bool:
    """Whether :func:`role_credential` made it."""
    return kubeconfig.startswith(MADE)


def read_role_credential(found: RoleCredential, *, file: str) -> FoundCredential | None:
    """One that :func:`role_credential` has made; None where it is another, or cannot be used."""
    if not is_made(found.kubeconfig):
        return None
    try:
        entry = parse_kubeconfig(found.kubeconfig, file=file, context=None)
    except ConfigurationError:
        return None
    connection = ServerConnection(entry.server, entry.authority.data, entry.tls_server_name, entry.proxy_url)
    token = found.token.decode("ascii", "replace").strip()
    return FoundCredential(connection, token, token_life(token))


def entry_with_token(connection: ServerConnection, token: str) -> Entry:
    """What a kubeconfig with that token comes to, for a request with it by that connection."""
    return replace(
        Entry(
            context="",
            server=connection.server,
            authority=Material(data=connection.authority),
            tls_server_name=connection.tls_server_name,
            proxy_url=connection.proxy_url,
            certificate=Material(),
            key=Material(),
            token="",
            token_file="",
            plugin=None,
            info=ClusterInfo(server=connection.server),
        ),
        token=token,
    )
