"""Judging authorities: an intermediate before it signs anything, and each leaf before a caller gets it.

Of an intermediate: its key, what it may sign, and which root is above it. Of a leaf that an authority returned: it is
exactly what was requested, or that is an alarm.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from federation.core.errors import AuthorityMisconfigured, AuthorityViolation, InvalidValue
from federation.core.identity import TrustDomain
from federation.core.pki import path_rules
from federation.core.pki.certificate import Certificate
from federation.core.pki.chain import single_chain, verify_chain
from federation.core.pki.der import SubjectAltName
from federation.core.pki.keys import PublicKey, describe, kind_of
from federation.core.pki.leaf import LeafProfile, Validity
from federation.core.pki.path_rules import Purpose

CLOCK_TOLERANCE: Final = timedelta(minutes=1)
"""How far the end may lie beyond what was requested: a back end counts a lifetime from its own clock."""

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
    """The path from the leaf to a pinned root, where the leaf is exactly what was requested.

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
            f"the certificate for {subject} ends at {leaf.not_after}, requested was {validity.not_after}",
        )


def _violation(reason: str, what: str, remedy: str = "") -> AuthorityViolation:
    return AuthorityViolation(what, reason=reason, remedy=remedy)


_REMEDIES: Final = {
    "no_anchor": "pin the root above it in [[trust.anchors]], and put every intermediate in between into the"
    " certificate file; where the root is pinned and not published yet, a rotation does that: `federation rotate plan`",
    "bad_signature": "give the certificate of the CA that signed it: the one that is given bears its name, and has"
    " another key",
    "name_encoding": "issue it again with the subject of its issuer copied byte for byte into its issuer field, as"
    " OpenSSL does: Go and rustls compare names as bytes",
    "other_issuer": "issue it again with an authority key identifier that holds nothing but the key identifier of its"
    " issuer (OpenSSL: authorityKeyIdentifier = keyid), or give the certificate of its issuer that it names",
    "expired": "renew it",
    "not_yet_valid": "check this machine's clock, or wait",
    "not_ca": "issue it with basicConstraints CA:TRUE",
    "path_length": "issue it with a path length that leaves room, or leave one tier of intermediates out",
    "key_usage": "issue it with the key usage keyCertSign",
    "extended_key_usage": "issue it without extended key usages, or with serverAuth and clientAuth",
    "name_constraints": "issue it with name constraints on DNS names, IP addresses and URIs alone that permit every"
    " name above, or name the listener (listener.server_names) as they permit",
    "critical_extension": "issue it without that extension, or not as critical",
    "uncommon_form": "issue the certificate that is named again without what the text says",
    "no_subject": "issue it with a subject",
    "too_large": "issue it with fewer tiers of intermediates above it, or with shorter names and fewer extensions",
    "serial": "issue it with a positive serial number of at most 20 bytes",
    "weak_key": "use P-256, P-384 or RSA of 2048 to 4096 bits, all the way up to the root",
    "weak_signature": "have it signed by ECDSA with SHA-256 or SHA-384, or by RSA with SHA-256, SHA-384 or SHA-512",
}


def check_intermediate(
    chain: tuple[Certificate, ...],
    public_key: object,
    anchors: Iterable[Certificate],
    at: datetime,
    *,
    trust_domain: TrustDomain | None = None,
    hosts: Sequence[str] = (),
    ztunnel: bool = False,
) -> tuple[Certificate, ...]:
    """The path from the intermediate (first of ``chain``) to a pinned root: every issuer of its leaves.

    ``public_key`` belongs to the key that will sign. Name constraints on the way must permit the
    ``trust_domain``, where one is given, and every one of ``hosts``: the names of the servers whose certificates it
    will sign. With ``ztunnel`` none of them may constrain URIs: it lets nothing pass below such a CA. Raises
    AuthorityMisconfigured with the reason ``no_certificate``, ``wrong_key``, ``weak_key``, ``is_root``,
    ``name_constraints`` or one of :func:`verify_chain`'s, and with the remedy.
    """
    if not chain:
        raise _misconfigured(
            "no_certificate", "there is no intermediate certificate", "give its chain, itself first"
        )
    own = chain[0]
    if own.public_key != public_key:
        raise _misconfigured(
            "wrong_key",
            f"the private key is not the one of {own.subject}",
            "give certificate and key of the same intermediate, its certificate first in the file",
        )
    if kind_of(public_key) is None:
        raise _misconfigured(
            "weak_key",
            f"{own.subject} has a key that is not accepted: {describe(public_key)}",
            _REMEDIES["weak_key"],
        )
    if own.is_self_signed:
        raise _misconfigured(
            "is_root",
            f"{own.subject} is self-signed: a root's key does not belong on a machine that answers requests",
            "sign an intermediate with it, keep its key offline, and give the intermediate here",
        )
    try:
        path = verify_chain(chain, anchors, at, purpose=Purpose.AUTHORITY, partial=False)
    except InvalidValue as error:
        raise _misconfigured(error.reason, error.what, _REMEDIES.get(error.reason, "")) from None
    names = [*([f"spiffe://{trust_domain}/"] if trust_domain is not None else []), *hosts]
    words = path_rules.not_permitted(path, names)
    if words is not None:
        raise _misconfigured(
            "name_constraints", f"{own.subject} is of no use here: {words}", _REMEDIES["name_constraints"]
        )
    confines = path_rules.constrains_uris(path) if ztunnel else None
    if confines is not None:
        raise _misconfigured(
            "name_constraints",
            f"{own.subject} is of no use to ztunnel, which some cluster trusts: {confines} constrains URIs, and rustls"
            " (webpki 0.103.12 and later) accepts no workload below such a CA",
            "issue it without constraints on URIs, or take trusted_node_accounts out where no ztunnel runs",
        )
    return path


def _misconfigured(reason: str, what: str, remedy: str) -> AuthorityMisconfigured:
    return AuthorityMisconfigured(what, reason=reason, remedy=remedy)
