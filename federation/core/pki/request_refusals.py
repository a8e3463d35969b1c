"""Why the request gate refuses: stable tokens, and the closer look that chooses among them.

Nothing here lets a request pass. Each function is called with something already refused and makes the error.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from federation.core.errors import RequestRefused
from federation.core.pki import der, san
from federation.core.pki.keys import RSA_EXPONENT, describe, kind_of


class Refusal(StrEnum):
    """Every reason of the gate, as it stands in logs and as the label of metrics."""

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
    san.DNS: (Refusal.DNS_NAME, "a DNS name"),
    san.IP_ADDRESS: (Refusal.IP_ADDRESS, "an IP address"),
    san.EMAIL: (Refusal.EMAIL, "an email address"),
    san.URI: (Refusal.URI, "a URI"),
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
    """Say which extension is asked for that a workload may not have."""
    if oid == _BASIC_CONSTRAINTS:
        return refused(Refusal.BASIC_CONSTRAINTS, "the request has basicConstraints")
    return refused(Refusal.EXTENSION, f"the request has an extension that is not taken ({_dotted(oid)})")


def refused_names(value: bytes, expected: san.SubjectAltName) -> RequestRefused:
    """Say how a subject alternative name differs from ``expected``, which is exactly the proven identity."""
    outer = der.elements(value, 0, len(value))
    if len(outer) != 1 or outer[0][0] != der.SEQUENCE:
        return refused(Refusal.MALFORMED, "the subject alternative name is not a sequence of names")
    names = der.elements(value, outer[0][2], outer[0][3])
    if not names:
        return refused(Refusal.NAME_MISSING, "the subject alternative name is empty")
    for tag, _, _, _ in names:
        if tag != san.URI:
            reason, words = _NAME_KINDS.get(tag, (Refusal.NAME_KIND, "a name of another kind than URI"))
            return refused(reason, f"the subject alternative name holds {words}")
    asked = [value[start:stop] for _, _, start, stop in names]
    found = ", ".join(repr(name[:120].decode("ascii", "replace")) for name in asked[:4])
    ours, theirs = _SPIFFE_DOMAIN.search(expected.der), _SPIFFE_DOMAIN.match(asked[0])
    if len(asked) == 1 and ours is not None and theirs is not None and ours[1] != theirs[1]:
        domain = ours[1].decode("ascii")
        return RequestRefused(
            f"it asks for {found}, and this hub's trust domain is {domain}",
            reason=Refusal.TRUST_DOMAIN,
            remedy=f"set meshConfig.trustDomain to {domain} in that mesh, and restart its workloads",
        )
    return refused(
        Refusal.IDENTITY, f"the {len(names)} URI names asked for are not exactly the proven identity: {found}"
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
