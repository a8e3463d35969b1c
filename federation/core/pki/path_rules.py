"""What RFC 5280, section 6.1, asks of each certificate on a path, and what verifiers of a mesh ask beyond it.

A path is good where BoringSSL, Go and rustls all take it; where they differ, the strictest counts. One rule a
function. Each returns a :class:`Problem` or None. Signatures and names are ``chain``'s part: it decides which
certificate is above which; these rules decide whether that is allowed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Final

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from federation.core.pki import name_constraints
from federation.core.pki.algorithms import VERIFIERS, key_problem, signature_problem
from federation.core.pki.certificate import Certificate
from federation.core.pki.common_form import form_problem


class Purpose(Enum):
    """What the first certificate of a path is to be used for."""

    SERVER = "server"
    """It answers a TLS handshake: extendedKeyUsage serverAuth all the way up."""

    CLIENT = "client"
    """It opens a TLS connection: extendedKeyUsage clientAuth all the way up."""

    BOTH = "both"
    """It does both, as a workload of a mesh."""

    AUTHORITY = "authority"
    """It signs leaves of a mesh itself: a CA, and whatever extendedKeyUsage there is allows both of the
    above."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a path is not valid: a stable token and the words for people."""

    reason: str
    what: str


_USAGES: Final = {
    Purpose.SERVER: (ExtendedKeyUsageOID.SERVER_AUTH,),
    Purpose.CLIENT: (ExtendedKeyUsageOID.CLIENT_AUTH,),
    Purpose.BOTH: (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH),
    Purpose.AUTHORITY: (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH),
}
_PROCESSED: Final = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.NAME_CONSTRAINTS,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
    }
)
"""What may be critical: webpki processes no other, and RFC 5280, 4.2.1.1 and 4.2.1.2, forbids it of key identifiers."""

_MOST_SERIAL_BYTES: Final = 20
_MOST_SENT: Final = 8 * 1024
"""Bytes of certificates that a client may send: its own and what is between it and the root.

A gRPC server (C++, Python) that asks for certificates breaks a connection off beyond 8.2 KiB, for it ends the handshake
with two tickets that hold what the client sent, and has 17 KiB for both. What a server sends is not confined so.
"""

_LEAF_BYTES: Final = 1536
"""What a leaf may have besides its issuer's name: keys and signatures of RSA-4096, and a long name, fit in."""


def check_path(path: Sequence[Certificate], at: datetime, purpose: Purpose) -> Problem | None:
    """The first rule that the path breaks at that time, or None.

    ``path`` runs from the certificate in question to the anchor, both included.
    """
    for certificate in path:  # first, for what an odd key signs is odd as well, and would be named instead
        problem = _key(certificate)
        if problem is not None:
            return problem
    for depth, certificate in enumerate(path):
        problem = (
            _validity(certificate, at)
            or _signature(certificate, is_anchor=depth == len(path) - 1)
            or _serial(certificate, is_anchor=depth == len(path) - 1)
            or _critical_extensions(certificate)
            or _form(certificate, is_anchor=depth == len(path) - 1)
            or _extended_key_usage(certificate, purpose, is_anchor=depth == len(path) - 1)
            or (_issuer(certificate, path[:depth], purpose) if depth else _target(certificate, purpose))
        )
        if problem is not None:
            return problem
    return _size(path, purpose)


def name(certificate: Certificate) -> str:
    """How a certificate is called in a message: its subject, its first URI, or its serial number."""
    if certificate.subject:
        return certificate.subject
    return certificate.uris[0] if certificate.uris else f"the certificate with serial {certificate.serial:x}"


def _validity(certificate: Certificate, at: datetime) -> Problem | None:
    if at > certificate.not_after:
        return Problem("expired", f"{name(certificate)} expired at {_instant(certificate.not_after)}")
    if at < certificate.not_before:
        return Problem(
            "not_yet_valid", f"{name(certificate)} is valid only from {_instant(certificate.not_before)}"
        )
    return None


def _key(certificate: Certificate) -> Problem | None:
    problem = key_problem(certificate)
    if not problem:
        return None
    return Problem("weak_key", f"{name(certificate)} has a key that not all of {VERIFIERS} accept: {problem}")


def _signature(certificate: Certificate, *, is_anchor: bool) -> Problem | None:
    # an anchor is trusted for its key; nobody relies on the signature on it
    problem = "" if is_anchor else signature_problem(certificate)
    if problem:
        return Problem(
            "weak_signature",
            f"{name(certificate)} is signed as not all of {VERIFIERS} accept: {problem}",
        )
    return None


def _form(certificate: Certificate, *, is_anchor: bool) -> Problem | None:
    words = form_problem(certificate, is_anchor=is_anchor)
    if words:
        return Problem(
            "uncommon_form", f"{name(certificate)} is not read by every verifier of a mesh: {words}"
        )
    return None


def _serial(certificate: Certificate, *, is_anchor: bool) -> Problem | None:
    """RFC 5280, 4.1.2.2. Nothing depends on an anchor's number, and real roots have the serial number 0."""
    if is_anchor or (certificate.serial > 0 and certificate.parts.serial_bytes <= _MOST_SERIAL_BYTES):
        return None
    return Problem(
        "serial", f"{name(certificate)} has a serial number that is not positive or has more than 20 bytes"
    )


def _critical_extensions(certificate: Certificate) -> Problem | None:
    """RFC 5280, 4.2: a critical extension that is not processed makes the certificate unusable."""
    for extension in certificate.extensions:
        if extension.critical and extension.oid not in _PROCESSED:
            return Problem(
                "critical_extension",
                f"{name(certificate)} has the critical extension {extension.oid.dotted_string},"
                " which nothing here knows",
            )
    return None


def _extended_key_usage(certificate: Certificate, purpose: Purpose, *, is_anchor: bool) -> Problem | None:
    """Where a CA names extended key usages they confine what is below it, as every TLS stack reads them.

    That anyExtendedKeyUsage stands for all of them webpki does not know, and BoringSSL not as soon as it is one of
    several; neither looks at an anchor's.
    """
    usages = certificate.extension(x509.ExtendedKeyUsage)
    if usages is None or (is_anchor and ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in usages):
        return None
    missing = [usage for usage in _USAGES[purpose] if usage not in usages]
    if not missing:
        return None
    words = " and ".join(
        "serverAuth" if u == ExtendedKeyUsageOID.SERVER_AUTH else "clientAuth" for u in missing
    )
    return Problem("extended_key_usage", f"{name(certificate)} has extended key usages that lack {words}")


def _target(certificate: Certificate, purpose: Purpose) -> Problem | None:
    """The first certificate of the path."""
    if purpose is Purpose.AUTHORITY:
        return _authority(certificate)
    if certificate.is_ca:
        return Problem(
            "is_ca", f"{name(certificate)} is a CA certificate, not a leaf (X509-SVID, section 4.1)"
        )
    usage = certificate.extension(x509.KeyUsage)
    if usage is not None and not usage.digital_signature:
        return Problem(
            "key_usage", f"{name(certificate)} lacks the key usage digitalSignature, which TLS needs"
        )
    if usage is not None and usage.key_cert_sign:
        return Problem("key_usage", f"{name(certificate)} is no CA and has the key usage keyCertSign")
    return None


def _authority(certificate: Certificate) -> Problem | None:
    if not certificate.is_ca:
        return Problem("not_ca", f"{name(certificate)} is not a CA certificate")
    if not certificate.x509.subject.rdns:
        return Problem("no_subject", f"{name(certificate)} is a CA without a name (RFC 5280, 4.1.2.6)")
    usage = certificate.extension(x509.KeyUsage)
    if usage is not None and not usage.key_cert_sign:
        return Problem("key_usage", f"{name(certificate)} lacks the key usage keyCertSign")
    words = name_constraints.unprocessed(certificate)
    if words:
        return Problem(
            "name_constraints",
            f"{name(certificate)} has a constraint on {words}, which neither Go nor rustls processes: they let"
            " nothing pass that is below it",
        )
    return None


def _issuer(certificate: Certificate, below: Sequence[Certificate], purpose: Purpose) -> Problem | None:
    """A certificate that issued the last of ``below``."""
    problem = _authority(certificate)
    if problem is not None:
        return problem
    limit = certificate.path_length
    # A leaf does not count (RFC 5280, 4.2.1.9). What a CA issued to itself need not, but Go counts it.
    between = len(below if purpose is Purpose.AUTHORITY else below[1:])
    if limit is not None and between > limit:
        return Problem(
            "path_length",
            f"{name(certificate)} allows {limit} intermediates below it and there are {between}",
        )
    for child in below:  # RFC 5280, 6.1.3 (b), leaves out what a CA issued to itself; Go does not
        words = name_constraints.violation(certificate, child)
        if words:
            return Problem("name_constraints", f"{name(certificate)} does not permit {name(child)}: {words}")
    return None


def _size(path: Sequence[Certificate], purpose: Purpose) -> Problem | None:
    if purpose is Purpose.SERVER:
        return None
    sent = sum(len(certificate.der) for certificate in path[:-1])
    if purpose is Purpose.AUTHORITY:
        sent += len(path[0].parts.subject) + _LEAF_BYTES
    if sent <= _MOST_SENT:
        return None
    return Problem(
        "too_large",
        f"{name(path[0])[:80]} has {sent} bytes of certificates to be sent, a leaf below it included; not every server"
        f" of a mesh takes more than {_MOST_SENT} (gRPC breaks the connection off)",
    )


def _instant(value: datetime) -> str:
    return f"{value:%Y-%m-%d %H:%M:%S} UTC"
