"""An X.509 certificate as a value: made only of DER that parses as a whole, equal by its bytes."""

from __future__ import annotations

import binascii
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property, lru_cache
from hashlib import sha256
from typing import Final, Self, TypeVar

from cryptography import x509 as pyca
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from federation.core.errors import InvalidValue
from federation.core.pki.der import (
    BIT_STRING,
    INTEGER,
    SEQUENCE,
    elements,
    encode,
    object_identifier,
    parts_of,
)

MAX_CERTIFICATE_BYTES: Final = 64 * 1024
"""Far above any certificate of a mesh; keeps a hostile one from costing time and memory."""

_PEM_LINE: Final = 64  # RFC 7468, section 2: generators wrap at exactly 64 characters
_DN_NAMES: Final = {
    pyca.NameOID.SERIAL_NUMBER: "serialNumber",
    pyca.NameOID.EMAIL_ADDRESS: "emailAddress",
}  # RFC 4514 leaves these as numbers
_PARSING_ERRORS: Final = (
    InvalidValue,
    ValueError,
    TypeError,
    OverflowError,
    Warning,  # where warnings are errors: cryptography warns of what it will refuse one day
    UnsupportedAlgorithm,
    pyca.DuplicateExtension,
    pyca.InvalidVersion,
    pyca.UnsupportedGeneralNameType,
)
_WITH_SHA1: Final = (pyca.SignatureAlgorithmOID.RSA_WITH_SHA1, pyca.SignatureAlgorithmOID.ECDSA_WITH_SHA1)
_Extension = TypeVar("_Extension", bound=pyca.ExtensionType)


def pem_encode(der: bytes, label: str) -> str:
    """One PEM block (RFC 7468) of that label, ending with exactly one newline."""
    body = binascii.b2a_base64(der, newline=False).decode("ascii")
    lines = [body[i : i + _PEM_LINE] for i in range(0, len(body), _PEM_LINE)]
    return f"-----BEGIN {label}-----\n" + "\n".join(lines) + f"\n-----END {label}-----\n"


@dataclass(frozen=True, repr=False)
class Certificate:
    """A certificate around its DER, parsed as a whole when made, so that reading it raises nothing.

    Raises InvalidValue where the DER is not one whole X.509 certificate with a readable key, names, dates and
    extensions (none of them twice: RFC 5280, 4.2). Being well-formed says nothing about being trusted: a serial
    number that is not positive, for instance, is read here and judged on the path.

    ``x509`` is for its names, extensions and key. Where the serial number is not positive it has another one, and
    its signature does not verify: cryptography warns of such numbers and is going to refuse them.
    """

    der: bytes
    parts: Parts = field(init=False, compare=False, repr=False)
    x509: pyca.Certificate = field(init=False, compare=False)
    public_key: CertificatePublicKeyTypes = field(init=False, compare=False)
    extensions: pyca.Extensions = field(init=False, compare=False)
    subject: str = field(init=False, compare=False)
    issuer: str = field(init=False, compare=False)
    not_before: datetime = field(init=False, compare=False)
    not_after: datetime = field(init=False, compare=False)
    serial: int = field(init=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.der) > MAX_CERTIFICATE_BYTES:
            raise InvalidValue(
                f"a certificate of {len(self.der)} bytes; at most {MAX_CERTIFICATE_BYTES} are read"
            )
        try:
            parts = _taken_apart(self.der)
            parsed = pyca.load_der_x509_certificate(self.der if parts.serial > 0 else _renumbered(self.der))
            values = {
                "parts": parts,
                "x509": parsed,
                "public_key": parsed.public_key(),
                "extensions": parsed.extensions,
                "subject": _printable(parsed.subject.rfc4514_string(_DN_NAMES)),
                "issuer": _printable(parsed.issuer.rfc4514_string(_DN_NAMES)),
                "not_before": parsed.not_valid_before_utc,
                "not_after": parsed.not_valid_after_utc,
                "serial": parts.serial,
            }
        except _PARSING_ERRORS as error:
            raise InvalidValue(
                f"this is not a readable X.509 certificate: {_printable(str(error))[:200]}"
            ) from None
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return f"Certificate({self.subject or 'no subject'!r}, sha256={self.sha256[:16]})"

    @classmethod
    def from_der(cls, der: bytes, *, where: str = "") -> Self:
        """The certificate of these bytes; raises InvalidValue that names ``where``."""
        try:
            return cls(der)
        except InvalidValue as error:
            raise InvalidValue(error.what, where=where) from None

    @cached_property
    def sha256(self) -> str:
        """The fingerprint: SHA-256 of the DER in lower-case hex."""
        return sha256(self.der).hexdigest()

    @cached_property
    def pem(self) -> bytes:
        """The certificate as one PEM block with one newline at its end."""
        return pem_encode(self.der, "CERTIFICATE").encode("ascii")

    @cached_property
    def key_id(self) -> str:
        """The subject key identifier in hex; SHA-1 of the key where it carries none (RFC 5280, 4.2.1.2)."""
        extension = self.extension(pyca.SubjectKeyIdentifier)
        if extension is None:
            extension = pyca.SubjectKeyIdentifier.from_public_key(self.public_key)
        return extension.digest.hex()

    @cached_property
    def authority_key_id(self) -> str:
        """The key identifier of its issuer in hex, empty where it names none (RFC 5280, 4.2.1.1)."""
        extension = self.extension(pyca.AuthorityKeyIdentifier)
        return extension.key_identifier.hex() if extension is not None and extension.key_identifier else ""

    @cached_property
    def is_ca(self) -> bool:
        """True where basicConstraints says so (RFC 5280, 4.2.1.9); without the extension it is none."""
        constraints = self.extension(pyca.BasicConstraints)
        return constraints is not None and constraints.ca

    @cached_property
    def path_length(self) -> int | None:
        """How many intermediates may follow below it; None where nothing limits them."""
        constraints = self.extension(pyca.BasicConstraints)
        return constraints.path_length if constraints is not None else None

    @cached_property
    def odd_serial(self) -> str | None:
        """What is odd about its serial number, in words; None where it is positive (RFC 5280, 4.1.2.2).

        OpenSSL, BoringSSL and rustls take every number; Go takes 0, and since 1.23 no negative one.
        """
        if self.serial > 0:
            return None
        words = f"{self.subject} has the serial number {self.serial}, where RFC 5280 asks for a positive one"
        return (
            f"{words}; Go 1.23 and later read no certificate with a negative one"
            if self.serial < 0
            else words
        )

    @cached_property
    def is_self_signed(self) -> bool:
        """True where its own key made its signature: equal names alone prove nothing."""
        return self.is_signed_by(self)

    @cached_property
    def uris(self) -> tuple[str, ...]:
        """The URIs of its subject alternative name, in their order."""
        names = self.extension(pyca.SubjectAlternativeName)
        return tuple(names.get_values_for_type(pyca.UniformResourceIdentifier)) if names is not None else ()

    def extension(self, kind: type[_Extension]) -> _Extension | None:
        """The value of an extension, or None where the certificate has none of that kind."""
        try:
            return self.extensions.get_extension_for_class(kind).value
        except pyca.ExtensionNotFound:
            return None

    def extension_der(self, oid: pyca.ObjectIdentifier) -> bytes:
        """The DER of the value of an extension, byte for byte; empty where the certificate has none of that kind."""
        data, wanted = self.parts.extensions, object_identifier(oid.dotted_string)
        for _, _, start, stop in parts_of(data):
            identifier, *_, value = elements(data, start, stop)
            if data[identifier[1] : identifier[3]] == wanted:
                return data[value[2] : value[3]]
        return b""

    def is_signed_by(self, issuer: Certificate) -> bool:
        """True where its issuer name is the other's subject and the other's key made its signature.

        Remembered for authorities: the same few are above every leaf.
        """
        return _ca_signed_by(self, issuer) if self.is_ca else _signed_by(self, issuer)

    def is_signed_by_key_of(self, other: Certificate) -> bool:
        """True where the other's key made its signature, whatever names it bears."""
        try:
            _verify_signature(self, other)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
            return False
        return True


def _signed_by(certificate: Certificate, issuer: Certificate) -> bool:
    """True where name and signature fit; which signatures a path may have is for its rules (``algorithms``).

    ``verify_directly_issued_by`` knows neither the serial number 0 nor SHA-1, with which old roots sign themselves.
    """
    try:
        if certificate.serial > 0 and not _is_by_sha1(certificate):
            certificate.x509.verify_directly_issued_by(issuer.x509)
        else:
            _verify_as_it_stands(certificate, issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _is_by_sha1(certificate: Certificate) -> bool:
    return certificate.x509.signature_algorithm_oid in _WITH_SHA1


def _verify_as_it_stands(certificate: Certificate, issuer: Certificate) -> None:
    """What ``verify_directly_issued_by`` does, over the bytes that were signed."""
    if certificate.parts.issuer != issuer.parts.subject:
        raise ValueError("its issuer has another name")
    _verify_signature(certificate, issuer)


def _verify_signature(certificate: Certificate, issuer: Certificate) -> None:
    key, signed = issuer.public_key, (certificate.x509.signature, certificate.parts.tbs)
    if _is_by_sha1(certificate) and isinstance(
        key, ec.EllipticCurvePublicKey
    ):  # cryptography names no parameters
        key.verify(*signed, ec.ECDSA(hashes.SHA1()))  # noqa: S303
        return
    digest, parameters = (
        certificate.x509.signature_hash_algorithm,
        certificate.x509.signature_algorithm_parameters,
    )
    if isinstance(key, rsa.RSAPublicKey) and isinstance(parameters, padding.AsymmetricPadding):
        if digest is None:
            raise ValueError("it is signed without a digest")
        key.verify(*signed, parameters, digest)
    elif isinstance(key, ec.EllipticCurvePublicKey) and isinstance(parameters, ec.ECDSA):
        key.verify(*signed, parameters)
    else:
        raise UnsupportedAlgorithm("it is signed by a key of another kind")


_ca_signed_by: Final = lru_cache(maxsize=1024)(_signed_by)
"""A pure function of two immutable values; bounded, and keyed by every byte of both."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The DER of what verifiers compare byte by byte (RFC 5280, 4.1), and the serial number whatever its sign.

    ``signature_algorithm`` is what the signature says of itself, ``signed_algorithm`` the same inside of what was
    signed; both are whole AlgorithmIdentifiers. ``key`` is the subjectPublicKeyInfo, ``extensions`` is their whole
    list, empty where there is none.
    """

    tbs: bytes
    serial: int
    serial_bytes: int
    signature_algorithm: bytes
    signed_algorithm: bytes
    issuer: bytes
    subject: bytes
    key: bytes
    extensions: bytes
    has_unique_identifiers: bool


_FIELDS_BEFORE_EXTENSIONS: Final = 6  # serial, signature, issuer, validity, subject, subjectPublicKeyInfo
_VERSION: Final = 0xA0
_EXTENSIONS: Final = 0xA3


def _taken_apart(data: bytes) -> Parts:
    """Raises InvalidValue for another structure, and for a signature of odd bits.

    With one the same certificate would have several fingerprints, and cryptography lets it pass in silence.
    """
    outer = elements(data, 0, len(data))
    parts = elements(data, outer[0][2], outer[0][3]) if len(outer) == 1 and outer[0][0] == SEQUENCE else []
    if [part[0] for part in parts] != [SEQUENCE, SEQUENCE, BIT_STRING]:
        raise InvalidValue("the DER is not of the structure of a certificate")
    tbs, algorithm, signature = parts
    if data[signature[2] : signature[2] + 1] != b"\0":
        raise InvalidValue("the signature is not a whole number of bytes")
    fields = elements(data, tbs[2], tbs[3])
    if fields and fields[0][0] == _VERSION:
        del fields[0]
    if len(fields) < _FIELDS_BEFORE_EXTENSIONS or fields[0][0] != INTEGER or fields[0][2] == fields[0][3]:
        raise InvalidValue("the DER is not of the structure of a certificate")
    serial, signed_algorithm, issuer, _, subject, key, *rest = fields
    number = data[serial[2] : serial[3]]
    if len(number) > 1 and (number[0] == 0) == (number[1] < 0x80) and number[0] in {0, 0xFF}:
        raise InvalidValue("the serial number is not in its shortest form")
    return Parts(
        tbs=data[tbs[1] : tbs[3]],
        serial=int.from_bytes(number, "big", signed=True),
        serial_bytes=len(number),
        signature_algorithm=data[algorithm[1] : algorithm[3]],
        signed_algorithm=data[signed_algorithm[1] : signed_algorithm[3]],
        issuer=data[issuer[1] : issuer[3]],
        subject=data[subject[1] : subject[3]],
        extensions=b"".join(data[start:stop] for tag, _, start, stop in rest if tag == _EXTENSIONS),
        has_unique_identifiers=any(tag != _EXTENSIONS for tag, *_ in rest),
        key=data[key[1] : key[3]],
    )


def _renumbered(data: bytes) -> bytes:
    """The certificate with the serial number 1 instead of its own: for reading alone."""
    (outer,) = elements(data, 0, len(data))
    tbs, algorithm, signature = elements(data, outer[2], outer[3])
    fields = elements(data, tbs[2], tbs[3])
    at = 1 if fields[0][0] == _VERSION else 0
    renumbered = encode(
        SEQUENCE, data[tbs[2] : fields[at][1]], encode(INTEGER, b"\x01"), data[fields[at][3] : tbs[3]]
    )
    return encode(SEQUENCE, renumbered, data[algorithm[1] : algorithm[3]], data[signature[1] : signature[3]])


def _printable(text: str) -> str:
    """The text with everything escaped that could forge a line of a log or a terminal sequence."""
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")
