"""The gate for certificate signing requests (PKCS #10, RFC 2986): what a workload may ask for.

A request is read once, with the small strict reader of ``der``. Almost everything in an honest request is one
of a few known byte strings, so the gate compares instead of interpreting, and looks closer only to say why it
refuses. Nothing of the request but its public key reaches a certificate: names, usages and dates come from
what was proven and from the hub's own profile.

Accepted is what Istio's agents and cert-manager's clients send: no subject or an empty ``O=``, one subject
alternative name that is exactly the proven identity, optionally keyUsage within digitalSignature and
keyEncipherment and extendedKeyUsage within serverAuth and clientAuth. Each extension may be critical or not,
because the certificate has its own criticality (agents send a critical name, other clients may not).

A server that is known by host names asks in the same way, with DNS names in place of the identity. Which of them it
may have is its caller's to say; the certificate holds all that were asked for, or there is none.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from federation.core.errors import InvalidValue, RequestRefused
from federation.core.identity import SpiffeId
from federation.core.pki import der
from federation.core.pki import request_refusals as why
from federation.core.pki.keys import KeyKind, PublicKey
from federation.core.pki.request_refusals import Refusal, refused
from federation.core.pki.san import DNS, SubjectAltName

MAX_CSR_CHARACTERS: Final = 8 * 1024
"""A request with an RSA-4096 key and the longest SPIFFE ID (2048 bytes) has about 4,400 characters of PEM."""

_BEGIN: Final = "-----BEGIN CERTIFICATE REQUEST-----"
_END: Final = "-----END CERTIFICATE REQUEST-----"

_VERSION: Final = der.integer(0)
_EXTENSION_REQUEST: Final = der.object_identifier("1.2.840.113549.1.9.14")
_SUBJECT_ALT_NAME: Final = der.object_identifier("2.5.29.17")
_CRITICAL: Final = der.encode(der.BOOLEAN, b"\xff")
_ATTRIBUTES: Final = 0xA0

_ORGANIZATION: Final = der.object_identifier("2.5.4.10")
_SUBJECTS: Final = frozenset(
    {
        der.sequence(),
        *(
            der.sequence(der.encode(der.SET, der.sequence(_ORGANIZATION, der.encode(string_tag))))
            for string_tag in (0x13, 0x0C)  # PrintableString, which Go writes, and UTF8String
        ),
    }
)

_SERVER_AUTH: Final = der.object_identifier("1.3.6.1.5.5.7.3.1")
_CLIENT_AUTH: Final = der.object_identifier("1.3.6.1.5.5.7.3.2")
_USAGES: Final = {
    der.object_identifier("2.5.29.15"): (
        Refusal.KEY_USAGE,
        # digitalSignature, keyEncipherment, both: named bit lists without trailing zero bits (X.690, 11.2.2)
        frozenset({der.bit_string(b"\x80", 7), der.bit_string(b"\x20", 5), der.bit_string(b"\xa0", 5)}),
    ),
    der.object_identifier("2.5.29.37"): (
        Refusal.EXTENDED_KEY_USAGE,
        frozenset(
            der.sequence(*usages)
            for usages in (
                (_SERVER_AUTH,),
                (_CLIENT_AUTH,),
                (_SERVER_AUTH, _CLIENT_AUTH),
                (_CLIENT_AUTH, _SERVER_AUTH),
            )
        ),
    ),
}

_NULL: Final = b"\x05\x00"
_ECDSA: Final[dict[bytes, ec.ECDSA]] = {
    der.sequence(der.object_identifier(f"1.2.840.10045.4.3.{arc}")): ec.ECDSA(digest)
    for arc, digest in ((2, hashes.SHA256()), (3, hashes.SHA384()), (4, hashes.SHA512()))
}
_RSA: Final[dict[bytes, hashes.HashAlgorithm]] = {
    der.sequence(der.object_identifier(f"1.2.840.113549.1.1.{arc}"), parameters): digest
    for arc, digest in ((11, hashes.SHA256()), (12, hashes.SHA384()), (13, hashes.SHA512()))
    for parameters in (_NULL, b"")  # RFC 4055, section 5: NULL or absent
}
_PKCS1: Final = padding.PKCS1v15()


def _spki_frames() -> dict[int, tuple[KeyKind, bytes, bytes]]:
    """By its whole length: the kind of a SubjectPublicKeyInfo and the only bytes it may begin and end with.

    Lengths differ by kind, and the frame leaves open nothing but the point or the modulus: uncompressed
    points on a named curve (RFC 5480, 2.2), RSA with NULL parameters (RFC 3279, 2.3.1) and the exponent
    65537.
    """
    frames: dict[int, tuple[KeyKind, bytes, bytes]] = {}
    ec_key = der.object_identifier("1.2.840.10045.2.1")
    for kind, curve, size in (
        (KeyKind.EC_P256, der.object_identifier("1.2.840.10045.3.1.7"), 64),
        (KeyKind.EC_P384, der.object_identifier("1.3.132.0.34"), 96),
    ):
        whole = der.sequence(der.sequence(ec_key, curve), der.bit_string(b"\x04" + bytes(size)))
        frames[len(whole)] = (kind, whole[:-size], b"")
    rsa_key = der.sequence(der.object_identifier("1.2.840.113549.1.1.1"), _NULL)
    exponent = der.integer(65537)
    for kind, size in ((KeyKind.RSA_2048, 256), (KeyKind.RSA_3072, 384), (KeyKind.RSA_4096, 512)):
        modulus = der.integer(1 << (size * 8 - 1))
        whole = der.sequence(rsa_key, der.bit_string(der.sequence(modulus, exponent)))
        frames[len(whole)] = (kind, whole[: -size - len(exponent)], exponent)
    return frames


_SPKI: Final = _spki_frames()


@dataclass(frozen=True, slots=True)
class CertificateRequest:
    """A public key whose owner proved to hold the private one, and the names its certificate carries.

    ``names`` are what ``san`` holds, as text: one SPIFFE ID, or DNS names.
    """

    public_key: PublicKey
    spki_der: bytes
    key_kind: KeyKind
    names: tuple[str, ...]
    san: SubjectAltName


def check_request(
    csr_pem: str, *, identity: SpiffeId, accepted_keys: frozenset[KeyKind]
) -> CertificateRequest:
    """The request for ``identity`` in this PEM text.

    Raises RequestRefused whose ``reason`` is one of :class:`Refusal` for everything else, whatever the text
    is.
    """
    san = SubjectAltName.of_identity(identity)
    try:
        return _check(_decode(csr_pem), (str(identity),), san, accepted_keys)
    except InvalidValue as error:
        raise RequestRefused(error.what, reason=Refusal.MALFORMED) from None


def check_server_request(
    csr_pem: str, *, permitted: Callable[[str], bool], accepted_keys: frozenset[KeyKind]
) -> CertificateRequest:
    """The request for DNS names in this PEM text, each of which is ``permitted``; there is at least one.

    Raises RequestRefused as :func:`check_request`: for any other kind of name, a name that is not permitted, and
    one that is there twice.
    """
    try:
        data = _decode(csr_pem)
        hosts = _requested_hosts(data, permitted)
        san = SubjectAltName.of_hosts(hosts)
        return _check(data, hosts, san, accepted_keys)
    except InvalidValue as error:
        raise RequestRefused(error.what, reason=Refusal.MALFORMED) from None


def _requested_hosts(data: bytes, permitted: Callable[[str], bool]) -> tuple[str, ...]:
    """The DNS names asked for. Everything else about the request, and their encoding, is judged by :func:`_check`."""
    outer = der.elements(data, 0, len(data))
    _shape(outer, der.SEQUENCE)
    parts = der.elements(data, outer[0][2], outer[0][3])
    _shape(parts, der.SEQUENCE, der.SEQUENCE, der.BIT_STRING)
    fields = der.elements(data, parts[0][2], parts[0][3])
    _shape(fields, der.INTEGER, der.SEQUENCE, der.SEQUENCE, _ATTRIBUTES)
    for element in _requested_extensions(data, fields[3]):
        _shape([element], der.SEQUENCE)
        extension = der.elements(data, element[2], element[3])
        if len(extension) >= 2 and data[extension[0][1] : extension[0][3]] == _SUBJECT_ALT_NAME:
            return _hosts(data[extension[-1][2] : extension[-1][3]], permitted)
    raise refused(Refusal.NAME_MISSING, "the request names no host")


def _hosts(value: bytes, permitted: Callable[[str], bool]) -> tuple[str, ...]:
    outer = der.elements(value, 0, len(value))
    _shape(outer, der.SEQUENCE)
    hosts: list[str] = []
    for tag, _, start, stop in der.elements(value, outer[0][2], outer[0][3]):
        if tag != DNS:
            raise why.refused_beside_hosts(tag)
        host = value[start:stop].decode("ascii", "replace")
        if host in hosts:
            raise refused(Refusal.DNS_NAME, f"the DNS name {host[:80]!r} is asked for twice")
        if not permitted(host):
            raise refused(
                Refusal.DNS_NAME, f"the DNS name {host[:80]!r} is not one that this caller may have"
            )
        hosts.append(host)
    if not hosts:
        raise refused(Refusal.NAME_MISSING, "the subject alternative name is empty")
    return tuple(hosts)


def _check(
    data: bytes, names: tuple[str, ...], san: SubjectAltName, accepted: frozenset[KeyKind]
) -> CertificateRequest:
    outer = der.elements(data, 0, len(data))
    _shape(outer, der.SEQUENCE)
    parts = der.elements(data, outer[0][2], outer[0][3])
    _shape(parts, der.SEQUENCE, der.SEQUENCE, der.BIT_STRING)
    info, algorithm, signature = parts
    fields = der.elements(data, info[2], info[3])
    _shape(fields, der.INTEGER, der.SEQUENCE, der.SEQUENCE, _ATTRIBUTES)
    version, subject, spki, attributes = fields

    if data[version[1] : version[3]] != _VERSION:
        raise refused(Refusal.VERSION, "the request is not of version 1, the only one there is")
    if data[subject[1] : subject[3]] not in _SUBJECTS:
        raise why.refused_subject(data[subject[1] : subject[3]])
    _check_extensions(data, _requested_extensions(data, attributes), san)
    if data[signature[2] : signature[2] + 1] != b"\x00":
        raise refused(Refusal.MALFORMED, "the signature is not a whole number of bytes")
    public_key, spki_der, kind = _public_key(data[spki[1] : spki[3]], accepted)
    _verify(
        public_key,
        data[algorithm[1] : algorithm[3]],
        data[signature[2] + 1 : signature[3]],
        data[info[1] : info[3]],
    )
    return CertificateRequest(public_key, spki_der, kind, names, san)


def _decode(text: str) -> bytes:
    """The DER of the only PEM block of ``text``, which may have white space around it and nothing else."""
    if len(text) > MAX_CSR_CHARACTERS:
        raise refused(Refusal.TOO_LARGE, f"{len(text)} characters; at most {MAX_CSR_CHARACTERS} are read")
    text = text.strip(" \t\r\n")
    if text.startswith(_BEGIN) and text.endswith(_END):
        body = text[len(_BEGIN) : -len(_END)]
        body = body.replace("\r\n", "\n")
        if body.startswith("\n") and body.endswith("\n") and "\n\n" not in body:
            try:
                return binascii.a2b_base64(body.replace("\n", ""), strict_mode=True)
            except ValueError:
                raise why.refused_pem(text) from None
    raise why.refused_pem(text)


def _requested_extensions(data: bytes, attributes: der.Element) -> list[der.Element]:
    """The extensions asked for, out of the one attribute a request may have."""
    found: list[der.Element] | None = None
    for attribute in der.elements(data, attributes[2], attributes[3]):
        _shape([attribute], der.SEQUENCE)
        parts = der.elements(data, attribute[2], attribute[3])
        _shape(parts, der.OBJECT_IDENTIFIER, der.SET)
        oid, values = parts
        if data[oid[1] : oid[3]] != _EXTENSION_REQUEST:
            raise why.refused_attribute(data[oid[1] : oid[3]])
        if found is not None:
            raise refused(Refusal.ATTRIBUTE_REPEATED, "extensions are requested by more than one attribute")
        value = der.elements(data, values[2], values[3])
        _shape(value, der.SEQUENCE)
        found = der.elements(data, value[0][2], value[0][3])
    return found or []


def _check_extensions(data: bytes, extensions: list[der.Element], san: SubjectAltName) -> None:
    seen: set[bytes] = set()
    for element in extensions:
        _shape([element], der.SEQUENCE)
        parts = der.elements(data, element[2], element[3])
        if len(parts) == 3 and data[parts[1][1] : parts[1][3]] == _CRITICAL:
            del parts[1]
        _shape(parts, der.OBJECT_IDENTIFIER, der.OCTET_STRING)
        oid, value = data[parts[0][1] : parts[0][3]], data[parts[1][2] : parts[1][3]]
        if oid in seen:
            raise refused(Refusal.EXTENSION_REPEATED, "one extension is requested twice")
        seen.add(oid)
        if oid == _SUBJECT_ALT_NAME:
            if value != san.der:
                raise why.refused_names(value, san)
        elif oid in _USAGES:
            reason, allowed = _USAGES[oid]
            if value not in allowed:
                raise refused(reason, "the requested key usages are not within those of a workload")
        else:
            raise why.refused_extension(oid)
    if _SUBJECT_ALT_NAME not in seen:
        raise refused(Refusal.NAME_MISSING, "the request names no identity")


def _public_key(spki: bytes, accepted: frozenset[KeyKind]) -> tuple[PublicKey, bytes, KeyKind]:
    frame = _SPKI.get(len(spki))
    if frame is None or not spki.startswith(frame[1]) or not spki.endswith(frame[2]):
        raise why.refused_key(spki)
    kind = frame[0]
    if kind not in accepted:
        raise refused(Refusal.KEY_NOT_ACCEPTED, f"keys of the kind {kind.value} are not accepted here")
    try:
        key = load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        raise refused(
            Refusal.KEY_INVALID, "the public key is no valid key: its point is not on the curve, or worse"
        )
    if kind.is_rsa and (spki[len(frame[1])] < 0x80 or not spki[-len(frame[2]) - 1] & 1):
        raise refused(Refusal.KEY_INVALID, "the RSA modulus is even or shorter than it claims")
    return key, spki, kind


def _verify(key: PublicKey, algorithm: bytes, signature: bytes, message: bytes) -> None:
    """Proof of possession (RFC 2986, section 3): the signature is the key's own."""
    try:
        if isinstance(key, rsa.RSAPublicKey):
            if (digest := _RSA.get(algorithm)) is None:
                raise why.refused_algorithm(algorithm, "RSA")
            key.verify(signature, message, _PKCS1, digest)
        else:
            if (scheme := _ECDSA.get(algorithm)) is None:
                raise why.refused_algorithm(algorithm, "EC")
            key.verify(signature, message, scheme)
    except InvalidSignature:
        raise refused(
            Refusal.SIGNATURE_INVALID, "the signature was not made with the key of the request"
        ) from None


def _shape(elements: list[der.Element], *tags: int) -> None:
    """Refuse where the elements are not exactly of these tags."""
    if [element[0] for element in elements] != list(tags):
        raise refused(Refusal.MALFORMED, "the DER is not of the structure of a certification request")
