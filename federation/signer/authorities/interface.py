"""What every authority can do, and what some can do as well.

An authority says what it is and issues leaves; the keeper has it look after itself. There are two kinds.
Where a back end **signs bytes** (a key in a file, in an HSM, behind a signing API), the hub builds the leaf
by its own template and the back end can only fail to sign it: ``hub_built.py`` is the whole authority, and a
back end gives it a :class:`PairSource`. Where a back end **issues from a request** (a PKI service), it may
return anything at all: ``service.py`` is the whole authority, a back end gives it a
:class:`CertificateService`, and what comes back is judged against the order before anybody gets it
(``checked.py``). Anything else an authority can do is a capability: a protocol of its own that callers look
for, once.

What back ends raise, and what becomes of it:

========================  ===============================================================================
AuthorityUnavailable      down, sealed, no answer; counts against it, callers are told to ask again
AuthorityThrottled        asks for fewer requests; the queue slows down
AuthorityUncertain        may have issued all the same; accounted for as issued
AuthorityMisconfigured    somebody must mend key, login, role or permission; counts against it
AuthorityRefused          refuses this one request; others may pass
AuthorityViolation        answered with something else than was asked for: an alarm
========================  ===============================================================================

``reason`` says which it is exactly, ``remedy`` what to do; no secret is ever part of either.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, runtime_checkable

import msgspec

from federation.core.pki.certificate import Certificate
from federation.core.pki.keys import PublicKey
from federation.core.pki.leaf import LeafProfile
from federation.core.pki.san import SubjectAltName
from federation.core.pki.validity import Validity
from federation.state.documents import AuthorityReport


class LeafOrder(msgspec.Struct, frozen=True, kw_only=True):
    """A leaf as it is to be: checked, clamped, and with a serial number already drawn.

    ``names`` are what ``san`` holds, as text: one SPIFFE ID, or the DNS names of a server. ``csr_pem`` is the
    request as it came, for services that issue from one; nothing else of it is to be used. ``cluster`` and
    ``replaces`` (when what the caller holds ends, None where that is not known) decide whose turn it is where
    a back end allows only so many a second.
    """

    profile: LeafProfile
    public_key: PublicKey
    spki_der: bytes
    names: tuple[str, ...]
    san: SubjectAltName
    serial: int
    validity: Validity
    csr_pem: str
    cluster: str = ""
    replaces: datetime | None = None


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
        """The leaf that was ordered; raises what the module's table says."""
        ...


class KeptAuthority(Authority, Protocol):
    """An authority as its keeper sees it."""

    @property
    def can_sign(self) -> bool:
        """True while nothing is known that stands in the way."""
        ...

    @property
    def issuers(self) -> tuple[Certificate, ...]:
        """As in :class:`KnowsIssuers`."""
        ...

    @property
    def pause(self) -> float:
        """Seconds until it should be refreshed next."""
        ...

    def trust(self, anchors: Iterable[Certificate]) -> None:
        """Judge by these anchors from now on: those of the bundle in force."""
        ...

    async def refresh(self) -> bool:
        """Look at files, logins, chains and health anew; what is wrong is kept for :meth:`describe`.

        True where this look went well; one that did not may leave an earlier one in force.
        """
        ...

    async def close(self) -> None:
        """Let go of sessions and connections, once nothing is under way any more."""
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
class HasWarnings(Protocol):
    """Optional, of a PairSource: what an operator should know although signing goes on."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """Shown as they are; empty where all is well."""
        ...


class SigningKey(Protocol):
    """The private key of an intermediate, wherever it lives."""

    @property
    def public_key(self) -> PublicKey:
        """Its public half, as the holder of the key gives it."""
        ...

    @property
    def held_here(self) -> bool:
        """True where the key is in this process, so that its signatures need no verification."""
        ...

    async def sign(self, message: bytes) -> bytes:
        """The signature as it stands in a certificate: ECDSA in DER, or RSASSA-PKCS1-v1_5.

        The hash goes by the kind of key (:func:`federation.core.pki.keys.digest`). Raises what the module's
        table says, and never leaves the back end's session in doubt when it is cancelled.
        """
        ...


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A chain (intermediate first, then what stands between it and the root) and its key."""

    chain: tuple[Certificate, ...]
    key: SigningKey


class PairSource(Protocol):
    """Where the chain and the key of a hub-built leaf come from."""

    async def read(self) -> KeyPair:
        """Both as they are now; the very same object while nothing has changed.

        Bounded in time. Raises AuthorityMisconfigured or AuthorityUnavailable.
        """
        ...

    async def close(self) -> None:
        """Let go of what is held open."""
        ...


@dataclass(frozen=True, slots=True)
class ServiceView:
    """What a service says of itself: the certificates above its leaves, its issuer first, and its CRL.

    ``chain`` is empty where the service tells only with a leaf. ``warnings`` are shown as they are.
    """

    chain: tuple[Certificate, ...] = ()
    crl_der: bytes | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """What a service returned: the leaf's bytes, and the certificates that came with it in any order."""

    der: bytes
    chain: tuple[Certificate, ...]


class CertificateService(Protocol):
    """A service that issues from a request."""

    async def look(self) -> ServiceView:
        """Log in where that is due, check its health and fetch its chain; cheap where nothing is due.

        Bounded in time. Raises AuthorityMisconfigured, AuthorityUnavailable or AuthorityThrottled.
        """
        ...

    async def issue(self, order: LeafOrder) -> Answer:
        """Have it issued; raises what the module's table says. Bounded in time."""
        ...

    async def close(self) -> None:
        """Let go of what is held open."""
        ...
