"""From what a CertificateRequest was answered with to certificates.

Source: cert-manager's ``pkg/util/pki/parse_certificate_chain.go`` and its API document: ``status.certificate``
begins with the leaf and leaves a self-signed root out; ``status.ca``, set "on a best-effort basis", is the
root where the issuer knows it, or the highest intermediate, or whatever an external issuer thinks fit.
"""

from __future__ import annotations

import binascii
from collections.abc import Sequence
from typing import Final

from federation.core.errors import AuthorityViolation, InvalidValue
from federation.core.pki.certificate import Certificate
from federation.core.pki.chain import MAX_PATH, single_chain
from federation.core.pki.pem import parse_certificates
from federation.signer.authorities.cert_manager.verdict import Issued
from federation.signer.authorities.interface import Answer

MOST_IN_CA: Final = 32
"""Some issuers put a whole bundle there, though it is meant to be one certificate."""


def read_answer(issued: Issued) -> Answer:
    """The leaf and what is above it.

    Of ``ca`` only what continues the chain upwards is taken; the rest of a bundle would be no part of one
    chain. Raises AuthorityViolation with the reason ``garbage``.
    """
    leaf, *above = _certificates(issued.certificate, "status.certificate", MAX_PATH)
    offered = _certificates(issued.ca, "status.ca", MOST_IN_CA) if issued.ca else ()
    return Answer(leaf.der, _continued((leaf, *above), offered)[1:])


def chain_above(answer: Answer) -> tuple[Certificate, ...]:
    """The certificates above the leaf in their order, its issuer first; empty where they form no chain."""
    try:
        return single_chain((Certificate.from_der(answer.der), *answer.chain))[1:]
    except InvalidValue:
        return ()  # whoever judges the answer says so


def _continued(chain: Sequence[Certificate], offered: Sequence[Certificate]) -> tuple[Certificate, ...]:
    continued = list(dict.fromkeys(chain))
    while len(continued) < MAX_PATH and not continued[-1].is_self_signed:
        top = continued[-1]
        above = next((c for c in offered if c not in continued and top.is_signed_by(c)), None)
        if above is None:
            break
        continued.append(above)
    return tuple(continued)


def _certificates(field: str, name: str, most: int) -> tuple[Certificate, ...]:
    try:
        certificates = parse_certificates(binascii.a2b_base64(field, strict_mode=True), where=name)
    except InvalidValue as error:
        raise _garbage(str(error)) from None
    except ValueError:  # not base64, or not even ASCII
        raise _garbage(f"{name}: this is not base64") from None
    if len(certificates) > most:
        raise _garbage(f"{name}: {len(certificates)} certificates, at most {most} are read")
    return certificates


def _garbage(what: str) -> AuthorityViolation:
    return AuthorityViolation(f"cert-manager returned no certificate: {what[:200]}", reason="garbage")
