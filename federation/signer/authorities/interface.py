"""What every authority can do, and what some can do as well.

An authority says what it is and issues leaves; that is all it must do. There are two kinds. Those that sign
bytes (a key in a file, in an HSM, behind a signing API) have the hub build the leaf, by its own template,
and can only fail to sign it. Those that issue from a request (a PKI service) may return anything at all, so
what they return is judged against the order before anybody gets it. Anything else an authority can do is a
capability: a protocol of its own that callers look for, once.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import msgspec

from federation.core.pki.certificate import Certificate
from federation.core.pki.leaf import LeafProfile
from federation.core.pki.san import SubjectAltName
from federation.core.pki.validity import Validity
from federation.state.documents import AuthorityReport


class LeafOrder(msgspec.Struct, frozen=True, kw_only=True):
    """A leaf as it is to be: checked, clamped, and with a serial number already drawn.

    ``csr_pem`` is the request as it came, for authorities that issue from one; nothing else of it is to be
    used.
    """

    profile: LeafProfile
    spki_der: bytes
    san: SubjectAltName
    serial: int
    validity: Validity
    csr_pem: str


class IssuedLeaf(msgspec.Struct, frozen=True):
    """A leaf and every certificate above it, its issuer first and a self-signed root last.

    ``built_by_hub`` says that the hub made every byte but the signature, which was made or verified with
    the issuer's key in this process; otherwise the leaf is a stranger's word.
    """

    der: bytes
    issuers: tuple[Certificate, ...]
    built_by_hub: bool


class Authority(Protocol):
    """The intermediate that signs for every cluster."""

    def describe(self) -> AuthorityReport:
        """What it is and how it fares now; never blocks."""
        ...

    async def issue(self, order: LeafOrder) -> IssuedLeaf:
        """The leaf that was ordered.

        Raises AuthorityUnavailable where asking again may help, AuthorityMisconfigured where somebody must
        mend it, AuthorityViolation where the back end answered with something else.
        """
        ...


@runtime_checkable
class KnowsIssuers(Protocol):
    """Optional: knows beforehand which certificates will stand above a leaf, so that it can be clamped."""

    @property
    def issuers(self) -> tuple[Certificate, ...]:
        """Issuer first, self-signed root last, empty where it has none; one object until they change."""
        ...


@runtime_checkable
class PublishesRevocations(Protocol):
    """Optional: keeps a CRL."""

    async def revocation_list(self) -> bytes:
        """The newest CRL in DER."""
        ...


@runtime_checkable
class HasQuota(Protocol):
    """Optional: its back end allows only so many certificates a second."""

    @property
    def quota(self) -> float:
        """Certificates per second."""
        ...
