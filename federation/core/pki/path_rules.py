"""What RFC 5280, section 6.1, asks of each certificate on a path, and what verifiers of a mesh ask beyond it.

A path is good where BoringSSL, Go and rustls all accept it; where they differ, the strictest counts. Each rule is one
function that returns a :class:`PathFault` or None. Signatures and names are ``chain``'s part: it decides which
certificate is above which; these rules decide whether that is allowed.

Name constraints (RFC 5280, 4.2.1.10) of a CA apply to the names in the certificates below it: corporate roots like to
confine an intermediate. URIs, DNS names, IP addresses and subjects are judged, because those are what meshes have; a
constraint on another kind of name counts as violated where the certificate has one, as the RFC demands of what cannot
be processed. Where BoringSSL, Go and webpki read a constraint differently, a name counts as permitted only where all
of them permit it, and as excluded where one excludes it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Final

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from federation.core.identity import TrustDomain
from federation.core.pki.algorithms import VERIFIERS, key_problem, signature_problem
from federation.core.pki.certificate import Certificate
from federation.core.pki.common_form import form_problem
from federation.core.pki.der import object_identifier

_URI_HOST: Final = re.compile(
    r"[a-z][a-z0-9+.-]*://([a-z0-9._-]+)(?::[0-9]*)?(?:[/?#].*)?", re.IGNORECASE | re.DOTALL
)
"""A URI whose authority is a name: anything else cannot satisfy a constraint (RFC 5280, 4.2.1.10)."""

_DNS_NAME: Final = re.compile(r"(?:\*\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*", re.ASCII)
_MAIL: Final = re.compile(
    r"[a-z0-9.!#$%&'*+/=?^_`{|}~-]+@[a-z0-9_-]+(?:\.[a-z0-9_-]+)*", re.ASCII | re.IGNORECASE
)
_MOST_COMPARISONS: Final = 100_000
"""Of names with subtrees: webpki has such a bound, for a certificate could be made to cost any time."""

_MAIL_ATTRIBUTE: Final = object_identifier("1.2.840.113549.1.9.1")
"""In a subject it is compared as well (RFC 5280, 4.2.1.10); BoringSSL and OpenSSL do so."""

_IA5_STRING: Final = b"\x16"
_MOST_NAMED: Final = 4
_KINDS: Final = {
    x509.DNSName: "DNS",
    x509.UniformResourceIdentifier: "URI",
    x509.IPAddress: "IP",
    x509.RFC822Name: "email",
    x509.DirectoryName: "subject",
}
_PROCESSED_BY_ALL: Final = (x509.DNSName, x509.UniformResourceIdentifier, x509.IPAddress, x509.RFC822Name)


def violation(issuer: Certificate, certificate: Certificate) -> str | None:
    """Which name of ``certificate`` the ``issuer`` may not certify, in words; None where it may all."""
    subject = certificate.x509.subject
    names: list[x509.GeneralName] = [x509.DirectoryName(subject)] if subject.rdns else []
    names.extend(certificate.extension(x509.SubjectAlternativeName) or ())
    if issuer.extension(x509.NameConstraints) is not None and _MAIL_ATTRIBUTE in certificate.parts.subject:
        if _MAIL_ATTRIBUTE + _IA5_STRING not in certificate.parts.subject:
            return "the mail address in its subject is no IA5String (BoringSSL)"
        mails = subject.get_attributes_for_oid(x509.NameOID.EMAIL_ADDRESS)
        names.extend(x509.RFC822Name(str(mail.value)) for mail in mails if str(mail.value).isascii())
    return _violation(issuer, names)


def permits_trust_domain(issuer: Certificate, trust_domain: TrustDomain) -> bool:
    """True where the constraints of ``issuer`` leave room for SPIFFE IDs of that trust domain."""
    return not_permitted((issuer,), [f"spiffe://{trust_domain}/"]) is None


def not_permitted(issuers: Iterable[Certificate], names: Sequence[str]) -> str | None:
    """Which of ``issuers`` does not permit which of ``names``, and its constraint, in words; None where all do.

    Names are URIs, DNS names and IP addresses as text: what a leaf is to hold. Costs nearly nothing where no issuer
    has name constraints, so it may be called for every leaf.
    """
    for issuer in issuers:
        if issuer.extension(x509.NameConstraints) is not None:
            words = _violation(issuer, [general_name(name) for name in names])
            if words is not None:
                return f"the name constraints of {issuer.subject} do not permit it to be named so: {words}"
    return None


def constrains_uris(issuers: Iterable[Certificate]) -> str | None:
    """The subject of the first that has a constraint on URIs; None where none has.

    rustls-webpki from 0.103.12 on accepts no certificate with a URI below it, whatever the constraint says.
    """
    for issuer in issuers:
        constraints = issuer.extension(x509.NameConstraints)
        if constraints is not None:
            subtrees = [*(constraints.permitted_subtrees or ()), *(constraints.excluded_subtrees or ())]
            if any(isinstance(subtree, x509.UniformResourceIdentifier) for subtree in subtrees):
                return issuer.subject
    return None


def unprocessed(issuer: Certificate) -> str | None:
    """A kind of name that ``issuer`` constrains and some verifier does not process, in words; None for none.

    Go refuses such a CA whole where the extension is critical, as it has to be, and webpki lets nothing pass it.
    """
    constraints = issuer.extension(x509.NameConstraints)
    if constraints is None:
        return None
    subtrees = [*(constraints.permitted_subtrees or ()), *(constraints.excluded_subtrees or ())]
    return next((_words(subtree) for subtree in subtrees if not isinstance(subtree, _PROCESSED_BY_ALL)), None)


def _violation(issuer: Certificate, names: Iterable[x509.GeneralName]) -> str | None:
    constraints = issuer.extension(x509.NameConstraints)
    if constraints is None:
        return None
    named = list(names)
    subtrees = [*(constraints.permitted_subtrees or ()), *(constraints.excluded_subtrees or ())]
    if len(named) * len(subtrees) > _MOST_COMPARISONS:
        return f"{len(named)} names and {len(subtrees)} constraints are more than are compared"
    for name in named:
        if not _is_comparable(name):
            return f"{_words(name)} cannot be compared with constraints of any kind (Go)"
        excluded = [subtree for subtree in constraints.excluded_subtrees or () if type(subtree) is type(name)]
        permitted = [
            subtree for subtree in constraints.permitted_subtrees or () if type(subtree) is type(name)
        ]
        by = next((subtree for subtree in excluded if _within(name, subtree) is not False), None)
        if by is not None:
            return f"{_words(name)} is excluded by {_words(by)}"
        if permitted and not any(_within(name, subtree) for subtree in permitted):
            allowed = ", ".join(_words(subtree) for subtree in permitted[:_MOST_NAMED])
            return f"{_words(name)} is not among the permitted names: {allowed}"
    return None


def _is_comparable(name: x509.GeneralName) -> bool:
    """False where Go refuses the certificate as soon as a CA above it constrains names at all."""
    if isinstance(name, x509.DNSName):
        return _DNS_NAME.fullmatch(name.value.lower()) is not None
    return not isinstance(name, x509.RFC822Name) or _MAIL.fullmatch(name.value) is not None


def _within(name: x509.GeneralName, subtree: x509.GeneralName) -> bool | None:
    """True or False where all verifiers say so, None where they differ or it cannot be said."""
    if isinstance(name, x509.UniformResourceIdentifier) and isinstance(
        subtree, x509.UniformResourceIdentifier
    ):
        uri = _URI_HOST.fullmatch(name.value)
        return _uri_host_within(uri[1].lower(), subtree.value.lower()) if uri is not None else None
    if isinstance(name, x509.DNSName) and isinstance(subtree, x509.DNSName):
        return _dns_within(name.value.lower(), subtree.value.lower())
    if isinstance(name, x509.IPAddress) and isinstance(subtree, x509.IPAddress):
        network = subtree.value
        return name.value in network if isinstance(network, IPv4Network | IPv6Network) else None
    if isinstance(name, x509.DirectoryName) and isinstance(subtree, x509.DirectoryName):
        return name.value.rdns[: len(subtree.value.rdns)] == subtree.value.rdns
    return None


def _uri_host_within(host: str, base: str) -> bool | None:
    """Without a leading dot the RFC means exactly that host, and Go takes its subdomains as well.

    An empty one covers every host in Go, and for none in BoringSSL where it permits.
    """
    if not base:
        return None
    return True if host == base and base[:1] != "." else _below(host, base)


def _dns_within(host: str, base: str) -> bool | None:
    if not _DNS_NAME.fullmatch(host):
        return None
    if not base or (host == base and base[0] != "."):
        return True
    if host.endswith(base if base[0] == "." else f".{base}"):
        return True
    if host[:2] == "*." and base.endswith(host[1:]):
        return None  # the wildcard covers names inside and outside
    return _below(host, base)


def _below(host: str, base: str) -> bool | None:
    """False where the host is neither below ``base`` nor that name itself, else None: readings differ on it.

    That are a subdomain of a URI's host, and a constraint with a leading dot on the very name behind the dot.
    """
    if base[:1] == ".":
        if host.endswith(base) and host != base:
            return True
        return None if host == base[1:] else False
    return None if host.endswith(f".{base}") else False


def general_name(name: str) -> x509.GeneralName:
    """A URI, an IP address or a DNS name, as it is in a certificate."""
    if "://" in name:
        return x509.UniformResourceIdentifier(name)
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _words(name: x509.GeneralName) -> str:
    kind = _KINDS.get(type(name), type(name).__name__)
    if isinstance(name, x509.UniformResourceIdentifier | x509.DNSName | x509.RFC822Name):
        return f"{kind} {name.value!r}"
    if isinstance(name, x509.DirectoryName):
        return f"{kind} {name.value.rfc4514_string()!r}"
    if isinstance(name, x509.IPAddress):
        return f"{kind} {name.value}"
    return f"a name of the kind {kind}"


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
class PathFault:
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


def check_path(path: Sequence[Certificate], at: datetime, purpose: Purpose) -> PathFault | None:
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


def _validity(certificate: Certificate, at: datetime) -> PathFault | None:
    if at > certificate.not_after:
        return PathFault("expired", f"{name(certificate)} expired at {_instant(certificate.not_after)}")
    if at < certificate.not_before:
        return PathFault(
            "not_yet_valid", f"{name(certificate)} is valid only from {_instant(certificate.not_before)}"
        )
    return None


def _key(certificate: Certificate) -> PathFault | None:
    problem = key_problem(certificate)
    if problem is None:
        return None
    return PathFault(
        "weak_key", f"{name(certificate)} has a key that not all of {VERIFIERS} accept: {problem}"
    )


def _signature(certificate: Certificate, *, is_anchor: bool) -> PathFault | None:
    # an anchor is trusted for its key; no verifier relies on the signature on it
    problem = None if is_anchor else signature_problem(certificate)
    if problem is not None:
        return PathFault(
            "weak_signature",
            f"{name(certificate)} is signed as not all of {VERIFIERS} accept: {problem}",
        )
    return None


def _form(certificate: Certificate, *, is_anchor: bool) -> PathFault | None:
    words = form_problem(certificate, is_anchor=is_anchor)
    if words is not None:
        return PathFault(
            "uncommon_form", f"{name(certificate)} is not read by every verifier of a mesh: {words}"
        )
    return None


def _serial(certificate: Certificate, *, is_anchor: bool) -> PathFault | None:
    """RFC 5280, 4.1.2.2. Nothing depends on an anchor's number, and real roots have the serial number 0."""
    if is_anchor or (certificate.serial > 0 and certificate.parts.serial_bytes <= _MOST_SERIAL_BYTES):
        return None
    return PathFault(
        "serial", f"{name(certificate)} has a serial number that is not positive or has more than 20 bytes"
    )


def _critical_extensions(certificate: Certificate) -> PathFault | None:
    """RFC 5280, 4.2: a critical extension that is not processed makes the certificate unusable."""
    for extension in certificate.extensions:
        if extension.critical and extension.oid not in _PROCESSED:
            return PathFault(
                "critical_extension",
                f"{name(certificate)} has the critical extension {extension.oid.dotted_string},"
                " which nothing here knows",
            )
    return None


def _extended_key_usage(certificate: Certificate, purpose: Purpose, *, is_anchor: bool) -> PathFault | None:
    """Where a CA names extended key usages they confine what is below it, as every TLS stack reads them.

    webpki does not know that anyExtendedKeyUsage covers all of them, and BoringSSL not as soon as it is one of
    several; neither considers an anchor's.
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
    return PathFault("extended_key_usage", f"{name(certificate)} has extended key usages that lack {words}")


def _target(certificate: Certificate, purpose: Purpose) -> PathFault | None:
    """The first certificate of the path."""
    if purpose is Purpose.AUTHORITY:
        return _authority(certificate)
    if certificate.is_ca:
        return PathFault(
            "is_ca", f"{name(certificate)} is a CA certificate, not a leaf (X509-SVID, section 4.1)"
        )
    usage = certificate.extension(x509.KeyUsage)
    if usage is not None and not usage.digital_signature:
        return PathFault(
            "key_usage", f"{name(certificate)} lacks the key usage digitalSignature, which TLS needs"
        )
    if usage is not None and usage.key_cert_sign:
        return PathFault("key_usage", f"{name(certificate)} is no CA and has the key usage keyCertSign")
    return None


def _authority(certificate: Certificate) -> PathFault | None:
    if not certificate.is_ca:
        return PathFault("not_ca", f"{name(certificate)} is not a CA certificate")
    if not certificate.x509.subject.rdns:
        return PathFault("no_subject", f"{name(certificate)} is a CA without a name (RFC 5280, 4.1.2.6)")
    usage = certificate.extension(x509.KeyUsage)
    if usage is not None and not usage.key_cert_sign:
        return PathFault("key_usage", f"{name(certificate)} lacks the key usage keyCertSign")
    words = unprocessed(certificate)
    if words is not None:
        return PathFault(
            "name_constraints",
            f"{name(certificate)} has a constraint on {words}, which neither Go nor rustls processes: they let"
            " nothing pass that is below it",
        )
    return None


def _issuer(certificate: Certificate, below: Sequence[Certificate], purpose: Purpose) -> PathFault | None:
    """A certificate that issued the last of ``below``."""
    problem = _authority(certificate)
    if problem is not None:
        return problem
    limit = certificate.path_length
    # A leaf does not count (RFC 5280, 4.2.1.9). What a CA issued to itself need not, but Go counts it.
    between = len(below if purpose is Purpose.AUTHORITY else below[1:])
    if limit is not None and between > limit:
        return PathFault(
            "path_length",
            f"{name(certificate)} allows {limit} intermediates below it and there are {between}",
        )
    for child in below:  # RFC 5280, 6.1.3 (b), leaves out what a CA issued to itself; Go does not
        words = violation(certificate, child)
        if words is not None:
            return PathFault(
                "name_constraints", f"{name(certificate)} does not permit {name(child)}: {words}"
            )
    return None


def _size(path: Sequence[Certificate], purpose: Purpose) -> PathFault | None:
    if purpose is Purpose.SERVER:
        return None
    sent = sum(len(certificate.der) for certificate in path[:-1])
    if purpose is Purpose.AUTHORITY:
        sent += len(path[0].parts.subject) + _LEAF_BYTES
    if sent <= _MOST_SENT:
        return None
    return PathFault(
        "too_large",
        f"{name(path[0])[:80]} has {sent} bytes of certificates to be sent, a leaf below it included; not every server"
        f" of a mesh takes more than {_MOST_SENT} (gRPC breaks the connection off)",
    )


def _instant(value: datetime) -> str:
    return f"{value:%Y-%m-%d %H:%M:%S} UTC"
