"""The authorities of the simulated mesh, and whether a leaf of theirs validates: real certificates, cached."""

from __future__ import annotations

from functools import cache
from typing import Final

from federation.core.errors import InvalidValue
from federation.core.pki.certificate import Certificate
from federation.core.pki.chain import verify_chain
from federation.core.rotation.record import Side
from tests.support import pki

START: Final = pki.NOW.timestamp()

_ROOTS: Final = {name: pki.root(f"rotation {name}") for name in "abcw"}
_INTERMEDIATES: Final = {
    name: pki.intermediate(f"rotation {name}", _ROOTS[name[0]]) for name in ("a1", "a2", "b1", "c1", "w1")
}
ROOT: Final = {name: authority.certificate.sha256 for name, authority in _ROOTS.items()}
"""Root names to fingerprints. ``w`` is the own root of a cluster that joined."""

ISSUER: Final = {name: authority.certificate.sha256 for name, authority in _INTERMEDIATES.items()}
ROOT_OF: Final = {ISSUER[name]: ROOT[name[0]] for name in ISSUER}
NOT_AFTER: Final = {
    ISSUER[name]: authority.certificate.not_after.timestamp() for name, authority in _INTERMEDIATES.items()
}
SIDES: Final = {
    name: Side(root=ROOT[name[0]], intermediate=ISSUER[name], subject=name, root_subject=name[0])
    for name in ("a1", "a2", "b1", "c1")
}
_BY_ROOT: Final = {authority.certificate.sha256: authority.certificate for authority in _ROOTS.values()}
_BY_ISSUER: Final = {authority.certificate.sha256: authority for authority in _INTERMEDIATES.values()}


def issuers_of(issuer: str) -> tuple[Certificate, Certificate]:
    """The certificates above a leaf of that issuer, its root last."""
    return _BY_ISSUER[issuer].certificate, _BY_ROOT[ROOT_OF[issuer]]


@cache
def validates(issuer: str, trusted: frozenset[str]) -> bool:
    """Whether a leaf of that issuer validates against these roots, by RFC 5280 and not by names."""
    authority = _BY_ISSUER[issuer]
    chain = (pki.leaf(authority), *authority.chain)
    try:
        verify_chain(chain, [_BY_ROOT[root] for root in trusted], pki.NOW, partial=False)
    except InvalidValue:
        return False
    return True
