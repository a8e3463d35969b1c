"""What in a certificate some verifier of a mesh does not read, although others do: it is then none for that one.

Go leaves a root that it cannot parse out of its pool without a word, and webpki refuses the whole path. So these
rules hold for anchors too, where a verifier parses that part of an anchor. They are about form: whether the
certificate may be at its place on a path is for ``path_rules``. Found by comparing Go 1.26, rustls-webpki 0.103 and
gRPC's BoringSSL on hierarchies in which one thing at a time is odd.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from cryptography import x509

from federation.core.pki.certificate import Certificate
from federation.core.pki.der import SEQUENCE, elements, object_identifier, parts_of

_BMP_STRING: Final = 0x1E
_STRINGS: Final = frozenset({0x0C, 0x12, 0x13, 0x14, 0x16, _BMP_STRING})
"""UTF8String, NumericString, PrintableString, TeletexString, IA5String, BMPString: what Go reads in a name."""

_FIRST_YEAR: Final = 1970  # webpki counts seconds from there
_MOST_PATH_LENGTH: Final = 255  # webpki reads one byte
_POLICY_MAPPINGS: Final = x509.ObjectIdentifier("2.5.29.33")
_ANY_POLICY: Final = object_identifier("2.5.29.32.0")
_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST: Final = rf"{_LABEL}(?:\.{_LABEL})*"
_CONSTRAINED_HOST: Final = re.compile(rf"(?:\.?(?!(?:.*\.)?[0-9]+\Z){_HOST})?\Z", re.ASCII | re.IGNORECASE)
_CONSTRAINED_MAIL: Final = re.compile(rf"[a-z0-9.!#$%&'*+/=?^_`{{|}}~-]+@{_HOST}\Z", re.ASCII | re.IGNORECASE)
_URI: Final = re.compile(
    rf"(?:[a-z][a-z0-9+.-]*:(?://(?:{_HOST})?(?::[0-9]*)?(?=[/?#]|\Z)|(?!//))|(?![a-z][a-z0-9+.-]*:))"
    r"(?:[a-z0-9._~!$&'()*+,;=:@/?#-]|%[0-9a-f]{2})*\Z",
    re.ASCII | re.IGNORECASE,
)
_NAMED_BY: Final = (x509.DNSName, x509.RFC822Name, x509.UniformResourceIdentifier, x509.IPAddress)


def form_problem(certificate: Certificate, *, is_anchor: bool) -> str | None:
    """What some verifier does not read of the certificate, in words with the verifier's name; None where all do."""
    return _problem(certificate, is_anchor)


@lru_cache(maxsize=256)
def _problem(certificate: Certificate, is_anchor: bool) -> str | None:
    found = next(_everywhere(certificate), None)
    return found if found is not None or is_anchor else next(_below_anchors(certificate), None)


def _everywhere(certificate: Certificate) -> Iterator[str]:
    if certificate.x509.version is not x509.Version.v3:
        yield "it is not of version 3 (webpki and, with extensions, BoringSSL and Go)"
    if certificate.parts.has_unique_identifiers:
        yield "it has a unique identifier of issuer or subject (webpki)"
    for name in (certificate.parts.issuer, certificate.parts.subject):
        if not _is_read_by_go(name):
            yield "a name in it has a string type that is not common (Go)"
    names = certificate.extension(x509.SubjectAlternativeName)
    if names is not None:
        critical = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).critical
        if critical and not any(isinstance(name, _NAMED_BY) for name in names):
            yield "its subject alternative name is critical and holds no DNS name, mail address, URI or IP address (Go)"
        for uri in names.get_values_for_type(x509.UniformResourceIdentifier):
            if not _URI.match(uri):
                yield f"its subject alternative name holds {uri[:80]!r}, which is no common URI (Go)"
    yield from _policies(certificate)
    points = certificate.extension(x509.CRLDistributionPoints)
    if points is not None and any(point.relative_name is not None for point in points):
        yield "a CRL distribution point has a name relative to its issuer (Go)"
    yield from _constraints(certificate)


def _policies(certificate: Certificate) -> Iterator[str]:
    policies = certificate.extension(x509.CertificatePolicies)
    if policies is not None:
        named = [policy.policy_identifier for policy in policies]
        if not named or len(set(named)) != len(named):
            yield "its certificate policies are empty, or name one twice (BoringSSL and Go)"


def _constraints(certificate: Certificate) -> Iterator[str]:
    constraints = certificate.extension(x509.NameConstraints)
    if constraints is None:
        return
    for subtree in (*(constraints.permitted_subtrees or ()), *(constraints.excluded_subtrees or ())):
        if isinstance(subtree, x509.DNSName | x509.UniformResourceIdentifier):
            well_formed = bool(_CONSTRAINED_HOST.match(subtree.value))
        elif isinstance(subtree, x509.RFC822Name):
            pattern = _CONSTRAINED_MAIL if "@" in subtree.value else _CONSTRAINED_HOST
            well_formed = bool(pattern.match(subtree.value))
        else:
            continue
        if not well_formed:
            yield f"its name constraints hold {subtree.value[:80]!r}, which is no name to compare with (Go, webpki)"
    if _is_bounded(certificate.extension_der(constraints.oid)):
        yield "its name constraints have a minimum or maximum (BoringSSL and webpki)"


def _below_anchors(certificate: Certificate) -> Iterator[str]:
    if certificate.not_before.year < _FIRST_YEAR:
        yield f"it is valid from a time before {_FIRST_YEAR} on (webpki)"
    if (certificate.path_length or 0) > _MOST_PATH_LENGTH:
        yield f"its path length is over {_MOST_PATH_LENGTH} (webpki)"
    policy = certificate.extension(x509.PolicyConstraints)
    if policy is not None and policy.require_explicit_policy is not None:
        yield "it requires an explicit policy, which no workload's certificate has (BoringSSL and Go)"
    mappings = certificate.extension_der(_POLICY_MAPPINGS)
    if mappings and (not parts_of(mappings) or _ANY_POLICY in mappings):
        yield "its policy mappings are empty, or map anyPolicy (BoringSSL)"


def _is_read_by_go(name: bytes) -> bool:
    for _, _, start, stop in parts_of(name):
        for _, _, first, end in elements(name, start, stop):
            for tag, _, content, last in elements(name, first, end)[1:]:
                if tag not in _STRINGS or (tag == _BMP_STRING and not _is_bmp(name[content:last])):
                    return False
    return True


def _is_bmp(value: bytes) -> bool:
    """As Go reads it: neither surrogates nor what Unicode says is no character."""
    units = [int.from_bytes(value[at : at + 2]) for at in range(0, len(value), 2)]
    return not any(0xD800 <= u < 0xE000 or 0xFDD0 <= u < 0xFDF0 or u >= 0xFFFE for u in units)


def _is_bounded(constraints: bytes) -> bool:
    """True where a GeneralSubtree holds more than its base (RFC 5280, 4.2.1.10, forbids it)."""
    return any(
        len(elements(constraints, inner, end)) > 1
        for _, _, start, stop in parts_of(constraints)
        for tag, _, inner, end in elements(constraints, start, stop)
        if tag == SEQUENCE
    )
