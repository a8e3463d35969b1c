"""PEM (RFC 7468) read strictly: what resembles a part of a certificate and is none is refused, never skipped.

A reader that skips whatever it does not understand lets an anchor vanish: a certificate that is damaged is passed
over, the bundle shrinks, and it goes unnoticed. Explanatory text between blocks is something else (RFC 7468,
section 2): ``openssl ca`` and ``openssl x509 -text`` write it, and nothing of it is ever published.
"""

from __future__ import annotations

import binascii
import contextlib
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from types import MappingProxyType
from typing import Final

from federation.core.errors import InvalidValue
from federation.core.pki.certificate import Certificate

MAX_PEM_BYTES: Final = 1024 * 1024
"""One file or field of certificates: the size limit of a Kubernetes object, which a bundle has to fit
anyway."""

MAX_CERTIFICATES: Final = 512

_NEWLINE: Final = b"\n"
_WHITE_SPACE: Final = b" \t\r\n"
_MARK: Final = b"\xef\xbb\xbf"  # a byte order mark, as editors on Windows write it
_BEGIN: Final = b"-----BEGIN CERTIFICATE-----"
_END: Final = b"-----END CERTIFICATE-----"
_BOUNDARY: Final = re.compile(
    rb"-[ \t]{0,64}(?:BEGIN|END)\b|(?:BEGIN|END) [A-Z0-9 ]{0,64}-|(?:BEGIN|END) CERT|CERTIFICATE {0,64}-"
)
"""What begins or ends a block, and what such a line may have become when it was damaged.

Each repetition is bounded: the author of the text could otherwise make the search take the square of its length.
"""

_ENDED_LINE: Final = re.compile(rb"[ \t]*\r?\n")
_LINE_END: Final = re.compile(rb"[ \t]*(?:[\r\n]|\Z)")
_WHOLE: Final = re.compile(
    rb"(?:\A[ \t]*+|(?<=[\r\n])[ \t]*+|(?<=\n-----END ))"
    + _BEGIN
    + rb"([^-:]*+)"
    + _END
    + rb"(?=[ \t]*+(?:[\r\n]|\Z))"
)
"""One block, from its BEGIN line to its END line, with nothing between that could be another or a header.

Go goes on behind what it took for the begin of an END line, and finds a BEGIN there as well.
"""

_MOST_NAMED: Final = 3
_MOST_LABEL: Final = 40
_NONE: Final[Mapping[bytes, Certificate]] = MappingProxyType({})


def parse_certificates(
    text: bytes, *, where: str, known: Mapping[bytes, Certificate] = _NONE
) -> tuple[Certificate, ...]:
    """Every certificate of ``text``, in its order and with duplicates; none at all is an error.

    ``where`` names the file or field in errors; ``known`` are certificates, by their DER, that were made before.
    Raises InvalidValue with the line of the first thing that is wrong.
    """
    certificates = [
        known.get(der) or Certificate.from_der(der, where=place) for der, place in _blocks(text, where)
    ]
    if not certificates:
        raise InvalidValue(
            "there is no certificate in it", where=where, remedy="write at least one CERTIFICATE block"
        )
    return tuple(certificates)


def readable_certificates(
    text: bytes, *, known: Mapping[bytes, Certificate] = _NONE
) -> tuple[Certificate, ...]:
    """Those certificates of ``text`` that can be read, as Go's ``AppendCertsFromPEM`` takes them.

    For what others have written, and where another certificate in it must not hide one. ``known`` as above.
    """
    found: list[Certificate] = []
    for der in der_blocks(text):
        with contextlib.suppress(InvalidValue):
            found.append(known.get(der) or Certificate.from_der(der))
    return tuple(found)


def der_blocks(text: bytes) -> Iterator[bytes]:
    """What is in the certificate blocks of ``text``; what is none, or damaged, is passed over, as Go does.

    At most MAX_CERTIFICATES of them; none of a text that is longer than MAX_PEM_BYTES.
    """
    if len(text) > MAX_PEM_BYTES:
        return
    start = len(_MARK) if text.startswith(_MARK) else 0
    for block in islice(_WHOLE.finditer(text, start), MAX_CERTIFICATES):
        body = block[1]
        if _ENDED_LINE.match(body) and _ends_line(body):
            with contextlib.suppress(ValueError):
                yield decode_base64(body)


def find_certificate(text: bytes, sha256: str, *, where: str) -> Certificate:
    """The certificate with that fingerprint; others in ``text`` need not be readable.

    Raises InvalidValue that says what is there instead, or why the one that was meant cannot be read, or that a
    private key is in it.
    """
    _refuse_keys(text, where)
    for der in der_blocks(text):
        if hashlib.sha256(der).hexdigest() == sha256:
            return Certificate.from_der(der, where=where)
    found = parse_certificates(text, where=where)
    names = ", ".join(f"{c.subject or 'no subject'} ({c.sha256[:16]})" for c in found[:_MOST_NAMED])
    raise InvalidValue(
        f"it holds {names}, not the certificate with the fingerprint {sha256[:16]}", where=where
    )


def encode_certificates(certificates: Iterable[Certificate]) -> bytes:
    """The certificates as PEM in the order given, each ending with exactly one newline."""
    return b"".join(certificate.pem for certificate in certificates)


def decode_base64(body: bytes) -> bytes:
    """The bytes of a PEM body without its white space; raises ValueError for anything but padded base64.

    White space at the ends of lines, as terminals and editors leave it, Go and BoringSSL pass over as well (RFC 7468,
    section 2).
    """
    text = body.translate(None, _WHITE_SPACE)
    if len(text) % 4 or text.endswith(
        b"==="
    ):  # binascii takes padding that nothing asks for, even when strict
        raise ValueError("not padded as base64 is")
    return binascii.a2b_base64(text, strict_mode=True)


def _blocks(text: bytes, where: str) -> Iterator[tuple[bytes, str]]:
    """The DER of each block and its place, in words. Raises InvalidValue at the first that is none."""
    if len(text) > MAX_PEM_BYTES:
        raise InvalidValue(f"{len(text)} bytes of PEM, at most {MAX_PEM_BYTES} are read", where=where)
    position = len(_MARK) if text.startswith(_MARK) else 0
    counted, lines = 0, 1
    for number in range(MAX_CERTIFICATES + 1):
        position = _next_block(text, position)
        if position == len(text):
            return
        if number == MAX_CERTIFICATES:
            raise InvalidValue(f"more than {MAX_CERTIFICATES} certificates", where=where)
        lines += text.count(_NEWLINE, counted, position)
        counted, line = position, f"line {lines}"
        place = f"{where}, {line}" if where else line
        der, position = _block(text, position, place)
        yield der, place


def _refuse_keys(text: bytes, where: str) -> None:
    """Raise InvalidValue where something in ``text`` begins or ends a private key."""
    position = 0
    while len(text) <= MAX_PEM_BYTES and (position := _next_block(text, position)) < len(text):
        if _is_key(text, position):
            raise _key_found(where)
        position += 1 + len(_label(text, position))


def _next_block(text: bytes, position: int) -> int:
    """Where the next line that is or resembles a boundary begins; the end of the text where there is none."""
    found = _BOUNDARY.search(text, position)
    if found is None:
        return len(text)
    line = max(
        position,
        text.rfind(b"\n", position, found.start()) + 1,
        text.rfind(b"\r", position, found.start()) + 1,
    )
    while line < found.start() and text[line] in _WHITE_SPACE:
        line += 1
    return line


def _label(text: bytes, position: int) -> bytes:
    """What is at the boundary there, up to the end of its line."""
    return text[position : position + _MOST_LABEL].splitlines()[0]


def _is_key(text: bytes, position: int) -> bool:
    return b"PRIVATE" in _label(text, position)


def _key_found(where: str) -> InvalidValue:
    """Never with a quotation: it may be key material."""
    return InvalidValue(
        "there is a private key among certificates", where=where, remedy="take it out of this file"
    )


def _ends_line(body: bytes) -> bool:
    return body.rstrip(b" \t").endswith(_NEWLINE)


def _block(text: bytes, position: int, place: str) -> tuple[bytes, int]:
    """The DER of the CERTIFICATE block that starts at ``position``, and where it ends."""
    if not text.startswith(_BEGIN, position):
        if _is_key(text, position):
            raise _key_found(place)
        label = _label(text, position).decode("ascii", "replace")
        raise InvalidValue(
            f"expected {_BEGIN.decode()}, found {label!r}",
            where=place,
            remedy="leave only CERTIFICATE blocks; text between them must not resemble the begin or end of one",
        )
    start = position + len(_BEGIN)
    stop = text.find(_END, start)
    if stop < 0:
        raise InvalidValue("the certificate is cut short: it has no END line", where=place)
    body = text[start:stop]
    if not _ENDED_LINE.match(body) or not _ends_line(body):
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
    if not _LINE_END.match(text, stop):
        raise InvalidValue("there is text after the END line", where=place)
    return der, stop
