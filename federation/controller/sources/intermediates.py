"""Intermediates for the bundle, where the operator asks for them: the public part of the authority's chain.

The controller holds no key and reads none: only the certificate file is opened, and where the authority has
none (a service that issues from requests), what the signers report of its chain is taken. An intermediate
gets in only if it reaches a pinned anchor by the hub's own path validation, and goes out of the bundle with
that anchor: one that is trusted by itself would outlive its root (Envoy validates with partial chains).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from federation.controller.sources.files import Content
from federation.controller.sources.pinned import OK, Gathered
from federation.core.errors import InvalidValue
from federation.core.identity import TrustDomain
from federation.core.pki.certificate import Certificate
from federation.core.pki.chain import Purpose, verify_chain
from federation.core.pki.pem import parse_certificates
from federation.core.trust.bundle import Anchor


def gather_intermediates(
    source: str,
    content: Content,
    *,
    anchors: Sequence[Anchor],
    known: Sequence[Certificate],
    trust_domain: TrustDomain,
    at: datetime,
) -> Gathered:
    """The intermediates of the source that reach an anchor; ``known`` are those in the bundle in force.

    Where the source gives none, those known stay as long as their anchor does. Nothing here is ever lacking:
    leaves come with their intermediates, so a bundle without them still validates.
    """
    roots = [anchor.certificate for anchor in anchors]
    state = OK
    try:
        chain = _chain(content, roots, at)
    except InvalidValue as error:
        chain = tuple(certificate for certificate in known if _reaches(certificate, known, roots, at))
        kept = f"{len(chain)} known before stay in the bundle" if chain else "none was known before"
        state = f"{error.what}; {kept}"
    found = tuple(
        Anchor(
            certificate=certificate,
            origin=f"the authority's chain, read from {source}",
            kind="intermediate",
            trust_domain=trust_domain,
        )
        for certificate in chain
    )
    return Gathered(found, {f"{source} (intermediates)": state})


def _chain(content: Content, roots: Sequence[Certificate], at: datetime) -> tuple[Certificate, ...]:
    if content.problem:
        raise InvalidValue(content.problem)
    certificates = parse_certificates(content.data, where="")
    below = tuple(c for c in certificates if not c.is_self_signed)
    if not below:
        raise InvalidValue("it holds no intermediate")
    for certificate in below:
        rest = tuple(c for c in below if c != certificate)
        verify_chain((certificate, *rest), roots, at, purpose=Purpose.AUTHORITY)
    return below


def _reaches(
    certificate: Certificate, known: Sequence[Certificate], roots: Sequence[Certificate], at: datetime
) -> bool:
    try:
        verify_chain((certificate, *known), roots, at, purpose=Purpose.AUTHORITY)
    except InvalidValue:
        return False
    return True
