"""Who may ask for an operation where no token says so, from where a browser asks, and how often anybody may.

``Sec-Fetch-Site`` is of W3C Fetch Metadata, ``Origin`` of RFC 6454.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from aiohttp import hdrs, web

from federation.core.clock import Clock

LOCAL_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})
HANDED_ON: Final = (hdrs.FORWARDED, hdrs.X_FORWARDED_FOR, hdrs.VIA)  # by a proxy, for somebody elsewhere
BURST: Final = 10  # operations at once; a person at a terminal never meets this
REFILL: Final = 2.0  # seconds until one more is allowed


@dataclass(slots=True)
class Bucket:
    """So many operations at once, and one more with each ``REFILL`` seconds."""

    clock: Clock
    tokens: float = float(BURST)
    at: float = 0.0

    def take(self) -> float:
        """0 where one may go on now, else how many seconds until it may."""
        now = self.clock.monotonic()
        self.tokens = min(float(BURST), self.tokens + (now - self.at) / REFILL)
        self.at = now
        if self.tokens < 1:
            return (1 - self.tokens) * REFILL
        self.tokens -= 1
        return 0.0


def is_local(request: web.Request) -> bool:
    """True for a caller on this machine that uses a local name, which no web page has (DNS rebinding)."""
    transport = request.transport
    ends = [transport.get_extra_info(end) for end in ("sockname", "peername")] if transport else [None]
    if not all(end and _is_loopback(str(end[0])) for end in ends):
        return False
    if any(header in request.headers for header in HANDED_ON):
        return False
    host = _host_of(f"//{request.host}")
    return host in LOCAL_NAMES or _is_loopback(host)


def is_same_origin(request: web.Request) -> bool:
    """True where no browser says that a page of another site asks, by ``Sec-Fetch-Site`` or by ``Origin``.

    Of an origin only host and port are compared: TLS may end before the hub.
    """
    if request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
        return False
    origin = request.headers.get(hdrs.ORIGIN)
    if origin is None:
        return True
    try:
        return urlsplit(origin).netloc.lower() == request.host.lower() != ""
    except ValueError:
        return False


def _host_of(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
