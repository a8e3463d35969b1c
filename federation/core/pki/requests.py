"""The gate for certificate signing requests (PKCS #10, RFC 2986): what a workload may ask for.

A request is read once, with the small strict reader of ``der``. Almost everything in an honest request is one of a
few known byte strings, so the gate compares instead of interpreting, and examines more only to say why it refuses:
those functions are called with something already refused and make the error, a stable token; none of them lets a
request pass. Nothing of the request but its public key reaches a certificate: names, usages and dates come from what
was proven and from the hub's own profile.

Accepted is what Istio's agents and cert-manager's clients send: no subject or an empty ``O=``, one subject
alternative name that is exactly the proven identity, optionally keyUsage within digitalSignature and keyEncipherment
and extendedKeyUsage within serverAuth and clientAuth. Each extension may be critical or not, because the certificate
has its own criticality (agents send a critical name, other clients may not).

A server that is known by host names asks in the same way, with DNS names in place of the identity. Which of them it
may have is its caller's to say; the certificate holds all that were requested, or there is none.

:func:`build_request` makes the hub's own requests: of the listener, of canaries, and of the probe.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Iterable
from enum import StrEnum
from functools import lru_cache
from typing import Final

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key

from federation.core.errors import InvalidValue, RequestRefused
from federation.core.identity import SpiffeId
from federation.core.pki import der
from federation.core.pki.der import DNS, SubjectAltName
from federation.core.pki.keys import (
    RSA_EXPONENT,
    KeyKind,
    PrivateKey,
    PublicKey,
    describe,
    kind_of,
    signature_hash,
)


class Refusal(StrEnum):
    """Every reason of the gate, as it is in logs and as the label of metrics."""

    TOO_LARGE = "csr_too_large"
    NOT_ASCII = "csr_not_ascii"
    NOT_PEM = "csr_not_pem"
    PEM_LABEL = "csr_pem_label"
    PEM_HEADERS = "csr_pem_headers"
    SEVERAL_BLOCKS = "csr_several_blocks"
    TRAILING_DATA = "csr_trailing_data"
    MALFORMED = "csr_malformed"
    VERSION = "csr_version"
    COMMON_NAME = "csr_common_name"
    SUBJECT = "csr_subject"
    ATTRIBUTE = "csr_attribute"
    ATTRIBUTE_REPEATED = "csr_attribute_repeated"
    EXTENSION = "csr_extension"
    EXTENSION_REPEATED = "csr_extension_repeated"
    BASIC_CONSTRAINTS = "csr_basic_constraints"
    KEY_USAGE = "csr_key_usage"
    EXTENDED_KEY_USAGE = "csr_extended_key_usage"
    NAME_MISSING = "csr_name_missing"
    DNS_NAME = "csr_dns_name"
    IP_ADDRESS = "csr_ip_address"
    EMAIL = "csr_email"
    URI = "csr_uri"
    NAME_KIND = "csr_name_kind"
    IDENTITY = "csr_identity"
    TRUST_DOMAIN = "csr_trust_domain"
    KEY_INVALID = "csr_key_invalid"
    KEY_WEAK = "csr_key_weak"
    KEY_KIND = "csr_key_kind"
    KEY_NOT_ACCEPTED = "csr_key_not_accepted"
    KEY_ENCODING = "csr_key_encoding"
    SIGNATURE_ALGORITHM = "csr_signature_algorithm"
    SIGNATURE_WEAK = "csr_signature_weak"
    SIGNATURE_INVALID = "csr_signature_invalid"


_COMMON_NAMES: Final = (der.object_identifier("2.5.4.3"),)
_BASIC_CONSTRAINTS: Final = der.object_identifier("2.5.29.19")
_LEAST_RSA_BITS: Final = 2048
_LEAST_EC_BITS: Final = 256
_WEAK_ALGORITHMS: Final = tuple(
    der.object_identifier(oid)
    for oid in (
        "1.2.840.113549.1.1.2",  # MD2 with RSA
        "1.2.840.113549.1.1.4",  # MD5 with RSA
        "1.2.840.113549.1.1.5",  # SHA-1 with RSA
        "1.2.840.113549.1.1.14",  # SHA-224 with RSA
        "1.2.840.10045.4.1",  # ECDSA with SHA-1
        "1.2.840.10045.4.3.1",  # ECDSA with SHA-224
    )
)
_SPIFFE_DOMAIN: Final = re.compile(rb"spiffe://([a-z0-9._-]{1,255})/")
_NAME_KINDS: Final = {
    der.DNS: (Refusal.DNS_NAME, "a DNS name"),
    der.IP_ADDRESS: (Refusal.IP_ADDRESS, "an IP address"),
    der.EMAIL: (Refusal.EMAIL, "an email address"),
    der.URI: (Refusal.URI, "a URI"),
}


def refused_pem(text: str) -> RequestRefused:
    """Say what keeps the text from being one CERTIFICATE REQUEST block."""
    if not text.isascii():
        return refused(Refusal.NOT_ASCII, "the request holds characters that are not ASCII")
    blocks = text.count("-----BEGIN ")
    first, _, rest = text.partition("\n")
    if not first.startswith("-----BEGIN ") or "-----END " not in rest:
        return refused(Refusal.NOT_PEM, "the request is not a whole PEM block")
    if any(line.strip(" \t") != line for line in text.replace("\r\n", "\n").strip().split("\n")):
        return refused(Refusal.NOT_PEM, "there is white space around a line of the PEM block")
    if first.rstrip("\r") != "-----BEGIN CERTIFICATE REQUEST-----":
        return refused(Refusal.PEM_LABEL, "the PEM block is not labelled CERTIFICATE REQUEST")
    if blocks > 1:
        return refused(Refusal.SEVERAL_BLOCKS, f"there are {blocks} PEM blocks; a request is exactly one")
    body, _, tail = rest.partition("-----END CERTIFICATE REQUEST-----")
    if tail:
        return refused(Refusal.TRAILING_DATA, "there is something behind the PEM block")
    if ":" in body:
        return refused(Refusal.PEM_HEADERS, "the PEM block has headers")
    return refused(Refusal.NOT_PEM, "the PEM block does not hold base64")


def refused_subject(subject: bytes) -> RequestRefused:
    """Say what is in a subject that should have been empty."""
    for names in _walk(subject):
        if names in _COMMON_NAMES:
            return refused(Refusal.COMMON_NAME, "the subject has a common name")
    return refused(Refusal.SUBJECT, "the subject holds more than an empty O=")


def refused_attribute(oid: bytes) -> RequestRefused:
    """Say that the request has an attribute other than extensionRequest."""
    return refused(Refusal.ATTRIBUTE, f"the request has an attribute that is not taken ({_dotted(oid)})")


def refused_extension(oid: bytes) -> RequestRefused:
    """Say which requested extension a workload may not have."""
    if oid == _BASIC_CONSTRAINTS:
        return refused(Refusal.BASIC_CONSTRAINTS, "the request has basicConstraints")
    return refused(Refusal.EXTENSION, f"the request has an extension that is not taken ({_dotted(oid)})")


def refused_names(value: bytes, expected: der.SubjectAltName) -> RequestRefused:
    """Say how a subject alternative name differs from ``expected``, which is exactly the proven identity."""
    outer = der.elements(value, 0, len(value))
    if len(outer) != 1 or outer[0][0] != der.SEQUENCE:
        return refused(Refusal.MALFORMED, "the subject alternative name is not a sequence of names")
    names = der.elements(value, outer[0][2], outer[0][3])
    if not names:
        return refused(Refusal.NAME_MISSING, "the subject alternative name is empty")
    for tag, _, _, _ in names:
        if tag != der.URI:
            reason, words = _NAME_KINDS.get(tag, (Refusal.NAME_KIND, "a name of another kind than URI"))
            return refused(reason, f"the subject alternative name holds {words}")
    requested = [value[start:stop] for _, _, start, stop in names]
    found = ", ".join(repr(name[:120].decode("ascii", "replace")) for name in requested[:4])
    ours, theirs = _SPIFFE_DOMAIN.search(expected.der), _SPIFFE_DOMAIN.match(requested[0])
    if len(requested) == 1 and ours is not None and theirs is not None and ours[1] != theirs[1]:
        domain = ours[1].decode("ascii")
        return RequestRefused(
            f"it asks for {found}, and this hub's trust domain is {domain}",
            reason=Refusal.TRUST_DOMAIN,
            remedy=f"set meshConfig.trustDomain to {domain} in that mesh, and restart its workloads",
        )
    return refused(
        Refusal.IDENTITY, f"the {len(names)} requested URI names are not exactly the proven identity: {found}"
    )


def refused_beside_hosts(tag: int) -> RequestRefused:
    """Say which kind of name a server asks for beside DNS names."""
    reason, words = _NAME_KINDS.get(tag, (Refusal.NAME_KIND, "a name of another kind than DNS"))
    return refused(reason, f"the subject alternative name of a server holds {words}")


def refused_key(spki: bytes) -> RequestRefused:
    """Say what is wrong with a SubjectPublicKeyInfo that is not of an accepted kind in its usual encoding."""
    try:
        key = load_der_public_key(spki)
    except UnsupportedAlgorithm:
        return refused(Refusal.KEY_KIND, "the public key is of a kind that nothing here knows")
    except (ValueError, TypeError):
        return refused(Refusal.KEY_INVALID, "the public key cannot be read")
    if kind_of(key) is not None:
        return refused(Refusal.KEY_ENCODING, f"the public key ({describe(key)}) is not in the usual encoding")
    weak_rsa = isinstance(key, rsa.RSAPublicKey) and (
        key.key_size < _LEAST_RSA_BITS or key.public_numbers().e < RSA_EXPONENT
    )
    if weak_rsa or (isinstance(key, ec.EllipticCurvePublicKey) and key.key_size < _LEAST_EC_BITS):
        return refused(Refusal.KEY_WEAK, f"the public key is too weak: {describe(key)}")
    return refused(Refusal.KEY_KIND, f"public keys of this kind are not taken: {describe(key)}")


def refused_algorithm(algorithm: bytes, family: str) -> RequestRefused:
    """Say what is wrong with the signature's AlgorithmIdentifier, for a key of that family."""
    for oid in _walk(algorithm):
        if oid in _WEAK_ALGORITHMS:
            return refused(Refusal.SIGNATURE_WEAK, f"the request is signed with a weak hash ({_dotted(oid)})")
        return refused(
            Refusal.SIGNATURE_ALGORITHM,
            f"the signature algorithm {_dotted(oid)} is not taken for {family} keys",
        )
    return refused(Refusal.SIGNATURE_ALGORITHM, "the request names no signature algorithm")


def _walk(data: bytes) -> list[bytes]:
    """Every OBJECT IDENTIFIER at any depth, in order; raises InvalidValue for what is not DER."""
    found: list[bytes] = []
    pending = [(0, len(data))]
    while pending:
        start, end = pending.pop(0)
        for tag, first, content, stop in der.elements(data, start, end):
            if tag == der.OBJECT_IDENTIFIER:
                found.append(data[first:stop])
            elif tag & 0x20:
                pending.append((content, stop))
    return found


def _dotted(oid: bytes) -> str:
    """An OBJECT IDENTIFIER for people, or its hex where it is none."""
    if len(oid) < 3 or len(oid) > 34 or oid[-1] & 0x80:
        return f"hex {oid[:40].hex()}"
    arcs: list[int] = []
    value = 0
    for byte in oid[2:]:
        value = value << 7 | byte & 0x7F
        if not byte & 0x80:
            arcs.append(value)
            value = 0
    first = min(arcs[0] // 40, 2)
    return ".".join(str(arc) for arc in (first, arcs[0] - 40 * first, *arcs[1:]))


def refused(reason: Refusal, what: str) -> RequestRefused:
    """The error for that reason."""
    return RequestRefused(what, reason=reason)


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


class CertificateRequest(msgspec.Struct, frozen=True):
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
    try:
        return _check(_decode(csr_pem), _expected_of(identity), accepted_keys)
    except InvalidValue as error:
        raise RequestRefused(error.what, reason=Refusal.MALFORMED) from None


class _Expected:
    """What requests for one subject alternative name have in common."""

    __slots__ = ("_around", "names", "san")

    def __init__(self, names: tuple[str, ...], san: SubjectAltName) -> None:
        self.names: Final = names
        self.san: Final = san
        self._around: dict[int, tuple[bytes, bytes]] = {}

    def key_in(self, info: bytes) -> bytes | None:
        """The key in what was signed; None where that differs in more than the key from what was found good before."""
        known = self._around.get(len(info))
        if known is None or not (info.startswith(known[0]) and info.endswith(known[1])):
            return None
        return info[len(known[0]) : len(info) - len(known[1])]

    def found_good(self, before: bytes, spki: bytes, after: bytes) -> None:
        """Remember what is around a key, for keys and requests of these lengths."""
        if len(self._around) < _MOST_REMEMBERED:
            self._around[len(before) + len(spki) + len(after)] = before, after


_MOST_REMEMBERED: Final = 8  # a client writes its requests in one way, and has keys of one or two kinds


@lru_cache(maxsize=4096)
def _expected_of(identity: SpiffeId) -> _Expected:
    """The same identities ask again and again."""
    return _Expected((str(identity),), SubjectAltName.of_identity(identity))


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
        return _check(data, _Expected(hosts, san), accepted_keys)
    except InvalidValue as error:
        raise RequestRefused(error.what, reason=Refusal.MALFORMED) from None


def _requested_hosts(data: bytes, permitted: Callable[[str], bool]) -> tuple[str, ...]:
    """The requested DNS names. Everything else about the request, and their encoding, is judged by :func:`_check`."""
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
            raise refused_beside_hosts(tag)
        host = value[start:stop].decode("ascii", "replace")
        if host in hosts:
            raise refused(Refusal.DNS_NAME, f"the DNS name {host[:80]!r} is requested twice")
        if not permitted(host):
            raise refused(
                Refusal.DNS_NAME, f"the DNS name {host[:80]!r} is not one that this caller may have"
            )
        hosts.append(host)
    if not hosts:
        raise refused(Refusal.NAME_MISSING, "the subject alternative name is empty")
    return tuple(hosts)


def _check(data: bytes, expected: _Expected, accepted: frozenset[KeyKind]) -> CertificateRequest:
    outer = der.elements(data, 0, len(data))
    _shape(outer, der.SEQUENCE)
    parts = der.elements(data, outer[0][2], outer[0][3])
    _shape(parts, der.SEQUENCE, der.SEQUENCE, der.BIT_STRING)
    info, algorithm, signature = parts
    signed = data[info[1] : info[3]]
    known = expected.key_in(signed)
    before, spki, after = _split(data, info, expected.san) if known is None else (b"", known, b"")
    if data[signature[2] : signature[2] + 1] != b"\x00":
        raise refused(Refusal.MALFORMED, "the signature is not a whole number of bytes")
    public_key, spki_der, kind = _public_key(spki, accepted)
    _verify(public_key, data[algorithm[1] : algorithm[3]], data[signature[2] + 1 : signature[3]], signed)
    if known is None:
        expected.found_good(before, spki, after)
    return CertificateRequest(public_key, spki_der, kind, expected.names, expected.san)


def _split(data: bytes, info: der.Element, san: SubjectAltName) -> tuple[bytes, bytes, bytes]:
    """The key of a request, between what is before and behind it, which is as it has to be (RFC 2986, 4.1)."""
    fields = der.elements(data, info[2], info[3])
    _shape(fields, der.INTEGER, der.SEQUENCE, der.SEQUENCE, _ATTRIBUTES)
    version, subject, spki, attributes = fields
    if data[version[1] : version[3]] != _VERSION:
        raise refused(Refusal.VERSION, "the request is not of version 1, the only one there is")
    if data[subject[1] : subject[3]] not in _SUBJECTS:
        raise refused_subject(data[subject[1] : subject[3]])
    _check_extensions(data, _requested_extensions(data, attributes), san)
    return data[info[1] : spki[1]], data[spki[1] : spki[3]], data[spki[3] : info[3]]


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
                raise refused_pem(text) from None
    raise refused_pem(text)


def _requested_extensions(data: bytes, attributes: der.Element) -> list[der.Element]:
    """The requested extensions, out of the one attribute a request may have."""
    found: list[der.Element] | None = None
    for attribute in der.elements(data, attributes[2], attributes[3]):
        _shape([attribute], der.SEQUENCE)
        parts = der.elements(data, attribute[2], attribute[3])
        _shape(parts, der.OBJECT_IDENTIFIER, der.SET)
        oid, values = parts
        if data[oid[1] : oid[3]] != _EXTENSION_REQUEST:
            raise refused_attribute(data[oid[1] : oid[3]])
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
                raise refused_names(value, san)
        elif oid in _USAGES:
            reason, allowed = _USAGES[oid]
            if value not in allowed:
                raise refused(reason, "the requested key usages are not within those of a workload")
        else:
            raise refused_extension(oid)
    if _SUBJECT_ALT_NAME not in seen:
        raise refused(Refusal.NAME_MISSING, "the request names no identity")


def _public_key(spki: bytes, accepted: frozenset[KeyKind]) -> tuple[PublicKey, bytes, KeyKind]:
    frame = _SPKI.get(len(spki))
    if frame is None or not spki.startswith(frame[1]) or not spki.endswith(frame[2]):
        raise refused_key(spki)
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
                raise refused_algorithm(algorithm, "RSA")
            key.verify(signature, message, _PKCS1, digest)
        else:
            if (scheme := _ECDSA.get(algorithm)) is None:
                raise refused_algorithm(algorithm, "EC")
            key.verify(signature, message, scheme)
    except InvalidSignature:
        raise refused(
            Refusal.SIGNATURE_INVALID, "the signature was not made with the key of the request"
        ) from None


def _shape(elements: list[der.Element], *tags: int) -> None:
    """Refuse where the elements are not exactly of these tags."""
    if [element[0] for element in elements] != list(tags):
        raise refused(Refusal.MALFORMED, "the DER is not of the structure of a certification request")


def build_request(
    key: PrivateKey, names: Iterable[x509.GeneralName], *, subject: x509.Name | None = None
) -> str:
    """A request in PEM for these names, which are critical, because the subject is empty (RFC 5280, 4.2.1.6).

    Raises InvalidValue for a key of a kind that is not accepted.
    """
    kind = kind_of(key)
    if kind is None:
        raise InvalidValue(f"a key of this kind is not accepted: {describe(key)}")
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject or x509.Name([]))
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
    return builder.sign(key, signature_hash(kind)).public_bytes(Encoding.PEM).decode("ascii")
