"""The subject alternative name of what the hub issues, as the DER it stands in the certificate with."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final, Self

from federation.core.errors import InvalidValue
from federation.core.identity import SpiffeId
from federation.core.pki import der

EMAIL: Final = 0x81
DNS: Final = 0x82
URI: Final = 0x86
IP_ADDRESS: Final = 0x87
"""Tags of a GeneralName (RFC 5280, 4.2.1.6), as they stand in DER."""

_LABEL: Final = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_DNS_NAME: Final = re.compile(rf"{_LABEL}(\.{_LABEL})*", re.ASCII | re.IGNORECASE)
_MAX_DNS_NAME: Final = 253


@dataclass(frozen=True, slots=True)
class SubjectAltName:
    """A subject alternative name; ``der`` is the extension's value (a SEQUENCE of GeneralName)."""

    der: bytes

    @classmethod
    def of_identity(cls, identity: SpiffeId) -> Self:
        """Exactly one URI, the SPIFFE ID (X509-SVID, section 2)."""
        return cls(der.sequence(der.encode(URI, str(identity).encode("ascii"))))

    @classmethod
    def of_hosts(cls, hosts: Iterable[str]) -> Self:
        """DNS names and IP addresses of a server, in the order given; duplicates count once.

        Raises InvalidValue for an empty list and for anything that is neither (wildcards included).
        """
        names = [_host(host) for host in dict.fromkeys(hosts)]
        if not names:
            raise InvalidValue("a serving certificate needs at least one name")
        return cls(der.sequence(*names))


def _host(host: str) -> bytes:
    try:
        address = ip_address(host)
    except ValueError:
        if len(host) > _MAX_DNS_NAME or not _DNS_NAME.fullmatch(host):
            raise InvalidValue(
                f"{host[:80]!r} is neither a DNS name nor an IP address",
                remedy="name the host as its callers do",
            ) from None
        return der.encode(DNS, host.encode("ascii"))
    if "%" in host:
        raise InvalidValue(f"{host[:80]!r} has a zone, which means nothing to another machine")
    return der.encode(IP_ADDRESS, address.packed)
