"""PEM (RFC 7468) read strictly: what is not understood is refused, never skipped.

A lenient reader lets an anchor vanish: text that is not quite a certificate is passed over and the bundle
shrinks with nobody told. So between blocks only white space may stand, headers and other labels are refused,
and sizes are bounded.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterable
from typing import Final

from federation.core.errors import InvalidValue
from federation.core.pki.certificate import Certificate

MAX_PEM_BYTES: Final = 1024 * 1024
"""One file or field of certificates: the size limit of a Kubernetes object, which a bundle has to fit
anyway."""

MAX_CERTIFICATES: Final = 512

_NEWLINE: Final = b"\n"
_WHITE_SPACE: Final = b" \t\r\n"
_BEGIN: Final = b"-----BEGIN CERTIFICATE-----"
_END: Final = b"-----END CERTIFICATE-----"


def parse_certificates(text: bytes, *, where: str) -> tuple[Certificate, ...]:
    """Every certificate of ``text``, in its order and with duplicates; none at all is an error.

    ``where`` names the file or field in errors. Raises InvalidValue with the line of the first thing that is
    wrong.
    """
    if len(text) > MAX_PEM_BYTES:
        raise InvalidValue(f"{len(text)} bytes of PEM, at most {MAX_PEM_BYTES} are read", where=where)
    certificates: list[Certificate] = []
    position = _skip_white_space(text, 0)
    while position < len(text):
        line = f"line {text.count(_NEWLINE, 0, position) + 1}"
        place = f"{where}, {line}" if where else line
        if len(certificates) == MAX_CERTIFICATES:
            raise InvalidValue(f"more than {MAX_CERTIFICATES} certificates", where=where)
        der, position = _block(text, position, place)
        certificates.append(Certificate.from_der(der, where=place))
        position = _skip_white_space(text, position)
    if not certificates:
        raise InvalidValue(
            "there is no certificate in it", where=where, remedy="write at least one CERTIFICATE block"
        )
    return tuple(certificates)


def encode_certificates(certificates: Iterable[Certificate]) -> bytes:
    """The certificates as PEM in the order given, each ending with exactly one newline."""
    return b"".join(certificate.pem for certificate in certificates)


def decode_base64(body: bytes) -> bytes:
    """The bytes of a PEM body without its line ends; raises ValueError for anything but padded base64."""
    return binascii.a2b_base64(body.replace(b"\r\n", b"\n").replace(b"\n", b""), strict_mode=True)


def _block(text: bytes, position: int, place: str) -> tuple[bytes, int]:
    """The DER of the CERTIFICATE block that starts at ``position``, and where it ends."""
    if not text.startswith(_BEGIN, position):
        found = text[position : position + 40].splitlines()[0]
        label = found.decode("ascii", "replace")
        if "PRIVATE" in label:  # never quote what may be key material
            raise InvalidValue(
                "there is a private key among certificates", where=place, remedy="take it out of this file"
            )
        raise InvalidValue(
            f"expected {_BEGIN.decode()}, found {label!r}",
            where=place,
            remedy="leave only CERTIFICATE blocks, without comments or text between them",
        )
    start = position + len(_BEGIN)
    stop = text.find(_END, start)
    if stop < 0:
        raise InvalidValue("the certificate is cut short: it has no END line", where=place)
    body = text[start:stop]
    if not body.startswith((b"\n", b"\r\n")) or not body.endswith(b"\n"):
        raise InvalidValue("BEGIN and END need lines of their own", where=place)
    if b":" in body:
        raise InvalidValue(
            "PEM headers are not accepted", where=place, remedy="remove the lines with a colon"
        )
    try:
        der = decode_base64(body)
    except ValueError:
        raise InvalidValue("the text between BEGIN and END is not base64", where=place) from None
    stop += len(_END)
    if stop < len(text) and text[stop] not in b"\r\n":
        raise InvalidValue("there is text after the END line", where=place)
    return der, stop


def _skip_white_space(text: bytes, position: int) -> int:
    end = len(text)
    while position < end and text[position] in _WHITE_SPACE:
        position += 1
    return position
