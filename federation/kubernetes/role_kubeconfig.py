"""The kubeconfig of one role in one member cluster: the API server, its CA and one token, and nothing else.

Of an administrator's kubeconfig only the way to the server is taken. Its credentials are not: no key, no token, no exec
plugin, and no proxy that asks for a password.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlsplit

import jwt
import yaml

from federation.core.errors import ConfigurationError, InvalidValue
from federation.kubernetes.credentials import LoadedCredentials
from federation.kubernetes.kubeconfig import ClusterInfo, Entry, Material, parse_kubeconfig

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


def role_kubeconfig(connection: ServerConnection, *, cluster: str, account: str, token: str) -> bytes:
    """The text of the kubeconfig, which holds the token."""
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
        "users": [{"name": account, "user": {"token": token}}],
        "contexts": [{"name": cluster, "context": {"cluster": cluster, "user": account}}],
        "current-context": cluster,
    }
    return MADE + yaml.safe_dump(document, sort_keys=False).encode("utf-8")


@dataclass(frozen=True, slots=True)
class FoundKubeconfig:
    """One of these as it was found again. The token does not show in its repr."""

    connection: ServerConnection
    token: str
    issued: datetime | None
    expires: datetime | None

    def __repr__(self) -> str:
        return f"FoundKubeconfig(server={self.connection.server!r}, expires={self.expires})"

    def is_fresh(self, now: datetime) -> bool:
        """Whether less than two thirds of its token's life have passed, as far as the token says."""
        if self.issued is None or self.expires is None:
            return False
        return now < self.issued + (self.expires - self.issued) * 2 / 3


def read_role_kubeconfig(text: bytes, *, file: str) -> FoundKubeconfig | None:
    """One that :func:`role_kubeconfig` has made; None where it is another. The token's signature is not checked."""
    if not text.startswith(MADE):
        return None
    try:
        entry = parse_kubeconfig(text, file=file, context=None)
    except ConfigurationError:
        return None
    if not entry.token:
        return None
    connection = ServerConnection(entry.server, entry.authority.data, entry.tls_server_name, entry.proxy_url)
    issued, expires = token_life(entry.token)
    return FoundKubeconfig(connection, entry.token, issued, expires)


def token_life(token: str) -> tuple[datetime | None, datetime | None]:
    """``iat`` and ``exp`` of a token (RFC 7519) as it says itself; None for what is not there."""
    try:
        claims = jwt.decode(token, options={"verify_signature": False})
    except jwt.PyJWTError:
        return None, None
    return _instant(claims.get("iat")), _instant(claims.get("exp"))


def _instant(value: object) -> datetime | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e11:
        return None
    return datetime.fromtimestamp(value, UTC)


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
