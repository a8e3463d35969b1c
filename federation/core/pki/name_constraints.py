"""Name constraints (RFC 5280, 4.2.1.10) of a CA on the names in certificates below it.

Corporate roots like to confine an intermediate. URIs, DNS names, IP addresses and subjects are judged, because
those are what meshes have; a constraint on another kind of name counts as violated where the certificate has
one, as the RFC demands of what cannot be processed. Where BoringSSL, Go and webpki read a constraint
differently, a name counts as permitted only where all of them permit it, and as excluded where one excludes it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Final

from cryptography import x509

from federation.core.identity import TrustDomain
from federation.core.pki.certificate import Certificate
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
_MOST_TOLD: Final = 4
_KINDS: Final = {
    x509.DNSName: "DNS",
    x509.UniformResourceIdentifier: "URI",
    x509.IPAddress: "IP",
    x509.RFC822Name: "email",
    x509.DirectoryName: "subject",
}
_PROCESSED_BY_ALL: Final = (x509.DNSName, x509.UniformResourceIdentifier, x509.IPAddress, x509.RFC822Name)


def violation(issuer: Certificate, certificate: Certificate) -> str:
    """Which name of ``certificate`` the ``issuer`` may not certify, in words; empty where it may all."""
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
    return not not_permitted((issuer,), [f"spiffe://{trust_domain}/"])


def not_permitted(issuers: Iterable[Certificate], names: Sequence[str]) -> str:
    """Which of ``issuers`` does not permit which of ``names``, and its constraint, in words; empty where all do.

    Names are URIs, DNS names and IP addresses as text: what a leaf is to hold. Costs nearly nothing where no issuer
    has name constraints, so it may be asked for every leaf.
    """
    for issuer in issuers:
        if issuer.extension(x509.NameConstraints) is not None:
            words = _violation(issuer, [general_name(name) for name in names])
            if words:
                return f"the name constraints of {issuer.subject} do not permit it to be named so: {words}"
    return ""


def constrains_uris(issuers: Iterable[Certificate]) -> str:
    """The subject of the first that has a constraint on URIs; empty where none has.

    rustls-webpki from 0.103.12 on accepts no certificate with a URI below it, whatever the constraint says.
    """
    for issuer in issuers:
        constraints = issuer.extension(x509.NameConstraints)
        if constraints is not None:
            subtrees = [*(constraints.permitted_subtrees or ()), *(constraints.excluded_subtrees or ())]
            if any(isinstance(subtree, x509.UniformResourceIdentifier) for subtree in subtrees):
                return issuer.subject
    return ""


def unprocessed(issuer: Certificate) -> str:
    """A kind of name that ``issuer`` constrains and some verifier does not process, in words; empty for none.

    Go refuses such a CA whole where the extension is critical, as it has to be, and webpki lets nothing pass it.
    """
    constraints = issuer.extension(x509.NameConstraints)
    if constraints is None:
        return ""
    subtrees = [*(constraints.permitted_subtrees or ()), *(constraints.excluded_subtrees or ())]
    return next((_words(subtree) for subtree in subtrees if not isinstance(subtree, _PROCESSED_BY_ALL)), "")


def _violation(issuer: Certificate, names: Iterable[x509.GeneralName]) -> str:
    constraints = issuer.extension(x509.NameConstraints)
    if constraints is None:
        return ""
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
            told = ", ".join(_words(subtree) for subtree in permitted[:_MOST_TOLD])
            return f"{_words(name)} is not among the permitted names: {told}"
    return ""


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

    An empty one stands for every host in Go, and for none in BoringSSL where it permits.
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
        return None  # the wildcard stands for names inside and outside
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
    """A URI, an IP address or a DNS name, as it stands in a certificate."""
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
