"""Name constraints (RFC 5280, 4.2.1.10) of a CA on the names in certificates below it.

Corporate roots like to confine an intermediate to one trust domain. URIs, DNS names and subjects are judged,
because those are what meshes have; a constraint on another kind of name counts as violated where the
certificate has one, as the RFC demands of what cannot be processed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from cryptography import x509

from federation.core.identity import TrustDomain
from federation.core.pki.certificate import Certificate

_URI_HOST: Final = re.compile(
    r"[a-z][a-z0-9+.-]*://([a-z0-9._-]+)(?::[0-9]*)?(?:[/?#].*)?", re.IGNORECASE | re.DOTALL
)
"""A URI whose authority is a name: anything else cannot satisfy a constraint (RFC 5280, 4.2.1.10)."""


def violation(issuer: Certificate, certificate: Certificate) -> str:
    """Which name of ``certificate`` the ``issuer`` may not certify, in words; empty where it may all."""
    subject = certificate.x509.subject
    names: list[x509.GeneralName] = [x509.DirectoryName(subject)] if subject.rdns else []
    names.extend(certificate.extension(x509.SubjectAlternativeName) or ())
    return _violation(issuer, names)


def permits_trust_domain(issuer: Certificate, trust_domain: TrustDomain) -> bool:
    """True where the constraints of ``issuer`` leave room for SPIFFE IDs of that trust domain."""
    return not _violation(issuer, [x509.UniformResourceIdentifier(f"spiffe://{trust_domain}/")])


def _violation(issuer: Certificate, names: Iterable[x509.GeneralName]) -> str:
    constraints = issuer.extension(x509.NameConstraints)
    if constraints is None:
        return ""
    for name in names:
        excluded = [subtree for subtree in constraints.excluded_subtrees or () if type(subtree) is type(name)]
        permitted = [
            subtree for subtree in constraints.permitted_subtrees or () if type(subtree) is type(name)
        ]
        if any(_within(name, subtree) is not False for subtree in excluded):
            return f"{_words(name)} is excluded"
        if permitted and not any(_within(name, subtree) for subtree in permitted):
            return f"{_words(name)} is not among the permitted names"
    return ""


def _within(name: x509.GeneralName, subtree: x509.GeneralName) -> bool | None:
    """True or False where this can be said, None where it cannot."""
    if isinstance(name, x509.UniformResourceIdentifier) and isinstance(
        subtree, x509.UniformResourceIdentifier
    ):
        uri = _URI_HOST.fullmatch(name.value)
        if uri is None:
            return None
        host, base = uri[1].lower(), subtree.value.lower()
        # a leading dot means subdomains only, none means exactly that host
        return host.endswith(base) and host != base if base.startswith(".") else host == base
    if isinstance(name, x509.DNSName) and isinstance(subtree, x509.DNSName):
        host, base = name.value.lower(), subtree.value.lower().removeprefix(".")
        return not base or host == base or host.endswith(f".{base}")
    if isinstance(name, x509.DirectoryName) and isinstance(subtree, x509.DirectoryName):
        return name.value.rdns[: len(subtree.value.rdns)] == subtree.value.rdns
    return None


def _words(name: x509.GeneralName) -> str:
    if isinstance(name, x509.UniformResourceIdentifier | x509.DNSName):
        return repr(name.value)
    if isinstance(name, x509.DirectoryName):
        return repr(name.value.rfc4514_string())
    return f"a name of the kind {type(name).__name__}"
