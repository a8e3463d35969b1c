"""Judging what an authority returned before anybody gets it: exactly what was asked for, or an alarm."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from federation.core.errors import AuthorityViolation, InvalidValue
from federation.core.pki.certificate import Certificate
from federation.core.pki.chain import Purpose, single_chain, verify_chain
from federation.core.pki.keys import PublicKey
from federation.core.pki.leaf import LeafProfile
from federation.core.pki.san import SubjectAltName
from federation.core.pki.validity import Validity

CLOCK_TOLERANCE: Final = timedelta(minutes=1)
"""How far the end may lie beyond what was asked: a back end counts a lifetime from its own clock."""

_USAGES: Final = {
    LeafProfile.WORKLOAD: (
        frozenset({ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}),
        "server and client authentication",
        Purpose.BOTH,
    ),
    LeafProfile.SERVING: (
        frozenset({ExtendedKeyUsageOID.SERVER_AUTH}),
        "server authentication",
        Purpose.SERVER,
    ),
}
_FORBIDDEN_KEY_USAGES: Final = ("key_cert_sign", "crl_sign")


def check_issued(
    leaf: Certificate,
    chain: Sequence[Certificate],
    *,
    subject: str,
    public_key: PublicKey,
    san: SubjectAltName,
    validity: Validity,
    anchors: Iterable[Certificate],
    at: datetime,
    profile: LeafProfile = LeafProfile.WORKLOAD,
) -> tuple[Certificate, ...]:
    """The path from the leaf to a pinned root, where the leaf is exactly what was asked for.

    ``chain`` is what came with it, of any order; ``subject`` says in errors who it was for. Raises
    AuthorityViolation with the reason ``wrong_key``, ``wrong_names``, ``wrong_usages``, ``clock_skew``,
    ``outlives_request``, ``outlives_issuer``, ``broken_chain`` or one of :func:`verify_chain`'s.
    """
    if leaf.public_key != public_key:
        raise _violation("wrong_key", f"the certificate for {subject} holds another key than the request")
    _check_names(leaf, san, subject)
    usages, words, purpose = _USAGES[profile]
    _check_usages(leaf, subject, usages, words)
    _check_times(leaf, subject, validity, at)
    try:
        single_chain((leaf, *chain))
        path = verify_chain((leaf, *chain), anchors, at, purpose=purpose, partial=False)
    except InvalidValue as error:
        raise _violation(error.reason, f"the certificate for {subject} is not valid: {error}") from None
    for issuer in path[1:]:
        if leaf.not_after > issuer.not_after:
            raise _violation(
                "outlives_issuer",
                f"the certificate for {subject} ends at {leaf.not_after},"
                f" its issuer {issuer.subject} already at {issuer.not_after}",
            )
    return path


def _check_names(leaf: Certificate, expected: SubjectAltName, subject: str) -> None:
    names = leaf.extension(x509.SubjectAlternativeName)
    if names is None or names.public_bytes() != expected.der:
        raise _violation(
            "wrong_names",
            f"the certificate for {subject} has other names: {', '.join(leaf.uris) or 'no URI'}",
        )


def _check_usages(
    leaf: Certificate, subject: str, expected: frozenset[x509.ObjectIdentifier], words: str
) -> None:
    usages = leaf.extension(x509.ExtendedKeyUsage)
    if usages is None or frozenset(usages) != expected:
        raise _violation("wrong_usages", f"the certificate for {subject} is not for {words} only")
    usage = leaf.extension(x509.KeyUsage)
    if usage is None or any(getattr(usage, forbidden) for forbidden in _FORBIDDEN_KEY_USAGES):
        raise _violation(
            "wrong_usages", f"the certificate for {subject} may sign others, or has no key usage"
        )


def _check_times(leaf: Certificate, subject: str, validity: Validity, at: datetime) -> None:
    if leaf.not_before > at:
        raise _violation(
            "clock_skew",
            f"the certificate for {subject} is valid only from {leaf.not_before},"
            f" {(leaf.not_before - at).total_seconds():.0f} s from now",
            remedy="synchronise the clocks of the back end and of the hub",
        )
    if leaf.not_after > validity.not_after + CLOCK_TOLERANCE:
        raise _violation(
            "outlives_request",
            f"the certificate for {subject} ends at {leaf.not_after}, asked for was {validity.not_after}",
        )


def _violation(reason: str, what: str, remedy: str = "") -> AuthorityViolation:
    return AuthorityViolation(what, reason=reason, remedy=remedy)
