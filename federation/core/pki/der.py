"""As much of DER (ITU-T X.690) as the request gate reads and the leaf template writes, and no more.

Reading is strict: definite lengths in their shortest form, single-byte tags, nothing behind the last element. It
yields positions in the one buffer, so nothing is copied or parsed twice. The subject alternative name of what the hub
issues is made here too, as the DER of the certificate.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_address
from typing import Final, Self, TypeAlias

from federation.core.errors import InvalidValue
from federation.core.identity import SpiffeId

BOOLEAN: Final = 0x01
INTEGER: Final = 0x02
BIT_STRING: Final = 0x03
OCTET_STRING: Final = 0x04
OBJECT_IDENTIFIER: Final = 0x06
GENERALIZED_TIME: Final = 0x18
SEQUENCE: Final = 0x30
SET: Final = 0x31

Element: TypeAlias = tuple[int, int, int, int]
"""Tag, where the element starts, where its content starts, where both end."""

_MULTI_BYTE_TAG: Final = 0x1F
_NO_OFFSET: Final = timedelta(0)
_LAST_UTC_YEAR: Final = 2049  # RFC 5280, 4.1.2.5: from 2050 on dates are GeneralizedTime


def elements(data: bytes, start: int, end: int) -> list[Element]:
    """The elements that fill ``data[start:end]`` exactly, not looking into them.

    Raises InvalidValue for anything that is not DER.
    """
    found: list[Element] = []
    position = start
    while position < end:
        if position + 2 > end:
            raise InvalidValue("DER is cut short in the header of an element")
        tag, length = data[position], data[position + 1]
        content = position + 2
        if length >= 0x80:
            count = length - 0x80
            content += count
            if not 1 <= count <= 4 or content > end:
                raise InvalidValue("DER has a length that is indefinite, absurd or cut short")
            length = int.from_bytes(data[position + 2 : content], "big")
            if length < 0x80 or length >> (8 * (count - 1)) == 0:
                raise InvalidValue("DER has a length that is not in its shortest form")
        if tag & _MULTI_BYTE_TAG == _MULTI_BYTE_TAG:
            raise InvalidValue("DER has a tag of several bytes, which nothing in a certificate has")
        stop = content + length
        if stop > end:
            raise InvalidValue("DER has an element that is longer than what holds it")
        found.append((tag, position, content, stop))
        position = stop
    return found


def parts_of(data: bytes) -> list[Element]:
    """The elements inside of the one that ``data`` is; none where ``data`` is empty.

    Raises InvalidValue for what is not exactly one element, and for anything that is not DER.
    """
    outer = elements(data, 0, len(data))
    if len(outer) > 1:
        raise InvalidValue("DER has something behind its element")
    return elements(data, outer[0][2], outer[0][3]) if outer else []


def encode(tag: int, *parts: bytes) -> bytes:
    """One element of that tag around the parts."""
    content = b"".join(parts)
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


def sequence(*parts: bytes) -> bytes:
    """A SEQUENCE of these elements."""
    return encode(SEQUENCE, *parts)


def integer(value: int) -> bytes:
    """A non-negative INTEGER."""
    return encode(INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def bit_string(value: bytes, unused: int = 0) -> bytes:
    """A BIT STRING whose last byte has ``unused`` bits that do not count."""
    return encode(BIT_STRING, bytes((unused,)), value)


def object_identifier(dotted: str) -> bytes:
    """An OBJECT IDENTIFIER such as ``2.5.29.17``."""
    first, second, *rest = (int(arc) for arc in dotted.split("."))
    content = bytearray()
    for arc in (first * 40 + second, *rest):
        groups = [arc & 0x7F]
        while arc := arc >> 7:
            groups.append(arc & 0x7F | 0x80)
        content += bytes(reversed(groups))
    return encode(OBJECT_IDENTIFIER, bytes(content))


def time(value: datetime) -> bytes:
    """A Time of RFC 5280, 4.1.2.5: UTCTime until 2049, GeneralizedTime after; whole seconds of UTC.

    Raises InvalidValue for a datetime that is not in UTC.
    """
    if value.utcoffset() != _NO_OFFSET:
        raise InvalidValue("a certificate's dates are in UTC; this one has another time zone or none")
    parts = (value.month, value.day, value.hour, value.minute, value.second)
    if 1950 <= value.year <= _LAST_UTC_YEAR:
        return b"\x17\x0d%02d%02d%02d%02d%02d%02dZ" % (
            value.year % 100,
            *parts,
        )  # tag and length are always the same
    return encode(GENERALIZED_TIME, b"%04d%02d%02d%02d%02d%02dZ" % (value.year, *parts))


def extension(oid: str, value: bytes, *, critical: bool) -> bytes:
    """An Extension (RFC 5280, 4.1.2.9) around its value's DER; FALSE, the default, is not written."""
    flag = encode(BOOLEAN, b"\xff") if critical else b""
    return sequence(object_identifier(oid), flag, encode(OCTET_STRING, value))


EMAIL: Final = 0x81
DNS: Final = 0x82
URI: Final = 0x86
IP_ADDRESS: Final = 0x87
"""Tags of a GeneralName (RFC 5280, 4.2.1.6), as they are in DER."""

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
        return cls(sequence(encode(URI, str(identity).encode("ascii"))))

    @classmethod
    def of_hosts(cls, hosts: Iterable[str]) -> Self:
        """DNS names and IP addresses of a server, in the order given; duplicates count once.

        Raises InvalidValue for an empty list and for anything that is neither (wildcards included).
        """
        names = [_host(host) for host in dict.fromkeys(hosts)]
        if not names:
            raise InvalidValue("a serving certificate needs at least one name")
        return cls(sequence(*names))


def _host(host: str) -> bytes:
    try:
        address = ip_address(host)
    except ValueError:
        if len(host) > _MAX_DNS_NAME or not _DNS_NAME.fullmatch(host):
            raise InvalidValue(
                f"{host[:80]!r} is neither a DNS name nor an IP address",
                remedy="name the host as its callers do",
            ) from None
        return encode(DNS, host.encode("ascii"))
    if "%" in host:
        raise InvalidValue(f"{host[:80]!r} has a zone, which means nothing to another machine")
    return encode(IP_ADDRESS, address.packed)
