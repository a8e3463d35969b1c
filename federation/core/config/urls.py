"""Addresses of services that the hub calls: https URLs, and the socket of an agent on this machine."""

from __future__ import annotations

import re
from ipaddress import ip_address
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urlsplit

from federation.core.config.values import filled, is_host, is_ip
from federation.core.errors import InvalidValue

_PATH: Final = re.compile(r"(?:/[A-Za-z0-9_.~-]+)*/?", re.ASCII)
_SOCKET: Final = re.compile(r"(?:unix:(?://)?)?(/[^/].*)", re.ASCII)
_LONGEST_SOCKET: Final = 107
"""Bytes of a socket's path in Linux (unix(7): ``sun_path`` has 108, with the zero at its end)."""


def service_url(value: object) -> str:
    """The base URL of a service: https, or http where it is on a loopback address of this machine.

    Without a slash at its end. Nothing of it is repeated in an error: it may hold a password.
    """
    how = 'write "https://HOST", "https://HOST:PORT" or "https://HOST/PATH", without "?" and "#"'
    text = filled(value)
    try:
        parts = urlsplit(text)
        port, host = parts.port, (parts.hostname or "")
    except ValueError:
        raise InvalidValue("is not a URL", remedy=how) from None
    if "@" in parts.netloc:
        raise InvalidValue(
            "holds a user or a password", remedy="remove it: a credential never stands in this file"
        )
    if not _is_plain(text, parts) or not is_host(host) or port == 0:
        raise InvalidValue("is not an http(s) URL of a service", remedy=how)
    if parts.scheme == "http" and not _is_loopback(host):
        raise InvalidValue(
            "is plain http to another machine",
            remedy="use https, with ca_file where its CA is your own; "
            "http is for an agent on a loopback address of this machine",
        )
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}{'' if port is None else f':{port}'}{parts.path.rstrip('/')}"


def is_plain_http(url: str) -> bool:
    """True where :func:`service_url` let http to this machine pass."""
    return url.startswith("http:")


def _is_plain(text: str, parts: SplitResult) -> bool:
    if parts.scheme not in {"https", "http"} or "?" in text or "#" in text:
        return False
    return bool(_PATH.fullmatch(parts.path)) and not {".", ".."} & set(parts.path.split("/"))


def _is_loopback(host: str) -> bool:
    return host == "localhost" or (is_ip(host) and ip_address(host).is_loopback)


def unix_socket(value: object) -> Path:
    """The path of a Unix socket: absolute, plain or as ``unix:///path`` (SPIFFE Workload Endpoint, section 4)."""
    how = 'write "/run/.../api.sock" or "unix:///run/.../api.sock"'
    match = _SOCKET.fullmatch(filled(value))
    if match is None:
        raise InvalidValue("is not the absolute path of a Unix socket", remedy=how)
    path = match[1]
    if "?" in path or "#" in path or "%" in path:
        raise InvalidValue("holds '?', '#' or '%'", remedy=how)
    if len(path.encode()) > _LONGEST_SOCKET:
        raise InvalidValue(
            f"is longer than {_LONGEST_SOCKET} bytes, the system's limit", remedy="mount it at a shorter path"
        )
    return Path(path)
