"""The Secret that istiod serves with: its content, whether that is valid, and what has to be done about it. Pure.

istiod takes ``tls.crt``, ``tls.key`` and ``ca.crt`` from the Secret ``istiod-tls`` (pilot/pkg/bootstrap of
istio/istio, ``hasCustomTLSCerts``), reloads them when they change, and writes ``ca.crt`` into its webhooks'
``caBundle``. So ``ca.crt`` is the cluster's bundle to the byte, and the certificate is one that the bundle verifies.

A valid certificate stays, whichever controller wrote it. A certificate that the hub did not write and that its
bundle does not verify is another CA's: agents of that mesh may trust nothing else, so it is reported and left alone
for as long as it is valid.

The state of the certificate in one namespace is put in words that an operator can act on.
"""

from __future__ import annotations

import binascii
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from typing import Final

import msgspec
from cryptography import x509

from federation.core.errors import (
    ClusterError,
    ClusterForbidden,
    ClusterInvalid,
    FederationError,
    InvalidValue,
)
from federation.core.identity import NO_HUB, HubIdentity, mark_in
from federation.core.pki.certificate import Certificate
from federation.core.pki.chain import MAX_PATH, verify_chain
from federation.core.pki.keys import kind_of, load_private_key
from federation.core.pki.path_rules import Purpose
from federation.core.pki.pem import parse_certificates
from federation.kubernetes.objects import (
    MAX_NAME,
    Item,
    ManagedMeta,
    Payload,
    annotations_of,
    is_written_by,
    key_of,
    managed_fields_of,
    owners_of,
)

TLS: Final = "kubernetes.io/tls"
CERTIFICATE: Final = "tls.crt"
KEY: Final = "tls.key"
CA: Final = "ca.crt"
LABELS: Final[Mapping[str, str]] = {"app.kubernetes.io/managed-by": "federation-hub"}

RENEW_AT: Final = 2 / 3
"""The part of a certificate's life after which it is renewed."""

MOST_WRITERS: Final = 8
_PEM: Final = b"-----BEGIN CERTIFICATE-----"

MOST_CERTIFICATES: Final = 128
"""Of one file of the Secret that are read: a bundle of more roots than that is not the hub's."""
_PRIVATE: Final = b"PRIVATE KEY-----"


class ObservedSecret(msgspec.Struct, frozen=True, gc=False):
    """What the Secret holds, as far as it matters.

    ``ours`` says that a hub wrote it: it owns some field of it. ``hub`` is the identity of the one that says it did.
    A key that is missing, or whose value is not base64, is empty. ``writers`` are other field managers that own one
    of the three keys.
    """

    type: str
    certificate: bytes
    key: bytes
    ca: bytes
    ours: bool
    writers: tuple[str, ...] = ()
    hub: str = ""

    def __repr__(self) -> str:
        return f"ObservedSecret(type={self.type!r}, ours={self.ours})"


class _Secret(msgspec.Struct, gc=False):
    metadata: ManagedMeta
    type: str = ""
    data: dict[str, str] | None = None


_decode: Final = msgspec.json.Decoder(_Secret).decode


def decode_secret(payload: Payload) -> Item[ObservedSecret]:
    """The Secret as an item of a reflector. Raises msgspec.MsgspecError where it is none."""
    found = _decode(payload)
    meta, data = found.metadata, found.data or {}
    managed = managed_fields_of(meta)
    value = ObservedSecret(
        type=found.type[:MAX_NAME],
        certificate=_bytes(data.get(CERTIFICATE, "")),
        key=_bytes(data.get(KEY, "")),
        ca=_bytes(data.get(CA, "")),
        ours=is_written_by(managed),
        writers=tuple(sorted(owners_of(managed, "data", (CERTIFICATE, KEY, CA)))[:MOST_WRITERS]),
        hub=mark_in(annotations_of(meta)),
    )
    return Item(key_of(meta), meta.resource_version, value)


def _bytes(value: str) -> bytes:
    try:
        return binascii.a2b_base64(value, strict_mode=True)
    except ValueError:
        return b""


def apply_body(
    namespace: str,
    name: str,
    *,
    certificate: bytes,
    key: bytes,
    ca: bytes,
    observed: ObservedSecret | None,
    hub: HubIdentity = NO_HUB,
) -> bytes:
    """A server-side apply of the whole Secret. The type of one that is there cannot be changed, so it stays."""
    data = {
        field: binascii.b2a_base64(value, newline=False).decode("ascii")
        for field, value in ((CERTIFICATE, certificate), (KEY, key), (CA, ca))
    }
    return msgspec.json.encode(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": name,
                "namespace": namespace,
                "labels": LABELS,
                **({"annotations": hub.annotations} if hub.annotations else {}),
            },
            "type": observed.type if observed is not None and observed.type else TLS,
            "data": data,
        }
    )


@dataclass(frozen=True, slots=True)
class WantedSecret:
    """What the Secret is to hold: a certificate for ``names`` of ``issuer`` (SHA-256; empty: any), and the bundle."""

    names: tuple[str, ...]
    issuer: str
    bundle: bytes
    anchors: tuple[Certificate, ...]


@dataclass(frozen=True, slots=True)
class Examined:
    """A Secret's certificate against what is wanted.

    ``problem`` says why it cannot serve (None: it can), ``foreign`` that it is another CA's, which is left alone.
    ``issuer`` is the SHA-256 of the certificate that issued it and ``root`` that of the anchor above it, empty where
    that is not known.
    """

    chain: tuple[Certificate, ...] = ()
    names: tuple[str, ...] = ()
    issuer: str = ""
    root: str = ""
    anchors: frozenset[str] | None = None  # the anchors (SHA-256) in ca.crt; None where it cannot be read
    current: bool = False
    problem: str | None = None
    foreign: bool = False
    lacking: tuple[str, ...] = ()  # names that it does not cover

    @property
    def serves(self) -> bool:
        """True where istiod can be reached by every name with it, and the bundle verifies it."""
        return bool(self.chain) and self.problem is None and not self.lacking

    @property
    def not_after(self) -> float:
        """When the certificate ends, in seconds since the epoch; 0 where there is none."""
        return self.chain[0].not_after.timestamp() if self.chain else 0.0


def examine(observed: ObservedSecret, wanted: WantedSecret, at: datetime) -> Examined:
    """Judge what a Secret holds at that time. It verifies signatures: keep the result while nothing changes."""
    current = observed.ca == wanted.bundle
    anchors = _fingerprints(observed.ca)
    try:
        # No path is longer. Hundreds of certificates there would each have their signature verified, on the loop.
        chain = parse_certificates(_first(observed.certificate), where=CERTIFICATE)[:MAX_PATH]
    except InvalidValue as error:
        # Go may read what this does not, and then it is in use all the same.
        foreign = not observed.ours and _PEM in observed.certificate
        return Examined(anchors=anchors, current=current, problem=str(error), foreign=foreign)
    leaf, names = chain[0], dns_names(chain[0])
    examined = Examined(
        chain=chain,
        names=names,
        issuer=next((c.sha256 for c in (*chain[1:], *wanted.anchors) if leaf.is_signed_by(c)), ""),
        anchors=anchors,
        current=current,
        lacking=tuple(name for name in wanted.names if name not in names),
    )
    problem = _key_problem(observed.key, leaf)
    if problem is not None and (
        observed.ours or _PRIVATE not in observed.key or kind_of(leaf.public_key) is not None
    ):
        return replace(examined, problem=problem)  # with that key istiod serves nothing either
    try:
        path = verify_chain(chain, wanted.anchors, at, purpose=Purpose.SERVER, partial=False)
    except InvalidValue as error:
        valid = leaf.not_before <= at < leaf.not_after
        return replace(examined, problem=error.what, foreign=valid and not observed.ours)
    return replace(examined, root=path[-1].sha256, problem=problem)


class SecretStep(Enum):
    """What is to be done about a Secret."""

    KEEP = "keep"
    LEAVE = "leave"  # it is another CA's
    REWRITE = "rewrite"  # its certificate and key are good, ca.crt is not the bundle
    ISSUE = "issue"  # it needs another certificate


def next_step(
    examined: Examined | None, wanted: WantedSecret, *, renew_at: datetime | None, now: datetime
) -> SecretStep:
    """What is to be done; ``examined`` is None where there is no Secret, ``renew_at`` is of its certificate."""
    if examined is None:
        return SecretStep.ISSUE
    if examined.foreign:
        return SecretStep.LEAVE
    if not examined.serves or is_of_another_issuer(examined, wanted):
        return SecretStep.ISSUE
    if renew_at is not None and now >= renew_at:
        return SecretStep.ISSUE
    return SecretStep.KEEP if examined.current else SecretStep.REWRITE


def is_of_another_issuer(examined: Examined, wanted: WantedSecret) -> bool:
    """Whether another intermediate signs for the cluster by order than the one that issued this certificate."""
    return bool(wanted.issuer) and examined.issuer != wanted.issuer


def renewal_of(certificate: Certificate, issued: datetime | None) -> datetime:
    """When it is renewed; ``issued`` is when it was, where that is known: it begins to be valid a little earlier."""
    begin = max(certificate.not_before, issued or certificate.not_before)
    return begin + (certificate.not_after - begin) * RENEW_AT


def dns_names(certificate: Certificate) -> tuple[str, ...]:
    """The DNS names of its subject alternative name, in their order."""
    names = certificate.extension(x509.SubjectAlternativeName)
    return tuple(names.get_values_for_type(x509.DNSName)) if names is not None else ()


def _key_problem(key: bytes, leaf: Certificate) -> str | None:
    """Why istiod cannot serve the certificate with this key; None where it can."""
    try:
        private_key = load_private_key(key, where=KEY)
    except InvalidValue as error:
        return str(error)
    return None if private_key.public_key() == leaf.public_key else f"{KEY} is not the key of {CERTIFICATE}"


def _first(pem: bytes) -> bytes:
    """The first certificates of it: each costs the loop time, and no path is so long."""
    pieces = pem.split(_PEM, MOST_CERTIFICATES + 1)
    return pem if len(pieces) <= MOST_CERTIFICATES + 1 else _PEM.join(pieces[:-1])


def _few(pem: bytes) -> bytes:
    """The same. Raises InvalidValue for more certificates than istiod has any use for: each costs the loop time."""
    if (count := pem.count(_PEM)) > MOST_CERTIFICATES:
        raise InvalidValue(f"it holds {count} certificates; at most {MOST_CERTIFICATES} are read")
    return pem


def _fingerprints(pem: bytes) -> frozenset[str] | None:
    try:
        return frozenset(certificate.sha256 for certificate in parse_certificates(_few(pem), where=CA))
    except InvalidValue:
        return None


MOST_TEXT: Final = 400
MOST_NAMES: Final = 32
MOST_CHARACTERS: Final = 253  # of a DNS name: in a certificate it may have any length

_APPLY: Final = "apply manifests/member to that cluster"
_STOP_WRITER: Final = "stop the other writer, or set provide_certificate = false in its [clusters.istio]"


@dataclass(frozen=True, slots=True)
class IstiodCertificateState:
    """One of the states of a ControlPlaneReport; ``attention`` says that an operator has to act."""

    state: str
    detail: str = ""
    remedy: str = ""
    attention: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What is known of one Secret at an instant.

    ``present`` says whether its namespace exists, ``unwatched`` why the Secret is not watched, ``fresh`` that the
    rest was read back. ``examined`` is None where there is none. ``withheld`` says why the hub must not write one
    yet, ``problem`` what went wrong with it last, ``writers`` who else keeps changing it.
    """

    namespace: str
    secret: str
    now: datetime
    present: bool | None = None
    unwatched: ClusterError | None = None
    fresh: bool = False
    wanted: WantedSecret | None = None
    examined: Examined | None = None
    renew_at: datetime | None = None
    withheld: str | None = None
    problem: FederationError | None = None
    writers: str = ""

    @property
    def own_way(self) -> str:
        """What to do where the hub is not to provide it."""
        return (
            "or set provide_certificate = false in its [clusters.istio] and make the Secret "
            f"{self.namespace}/{self.secret} with another issuer before istiod starts"
        )


def istiod_certificate_state(sight: Sight) -> IstiodCertificateState:
    """Its state now."""
    unread = _unread(sight)
    if unread is not None:
        return unread
    examined = sight.examined
    if examined is not None and examined.foreign:
        return _foreign(sight, examined)
    if examined is not None and sight.wanted is not None and examined.serves:
        return _serving(sight, examined, sight.wanted)
    return _missing(sight, "there is no certificate" if examined is None else _what_is_wrong(examined))


def _unread(sight: Sight) -> IstiodCertificateState | None:
    if isinstance(sight.unwatched, ClusterForbidden):
        detail = f"the Secret may not be watched: {sight.unwatched.what}"
        return _certificate_state("forbidden", detail, f"{_APPLY}; {sight.own_way}")
    if sight.present is False:
        detail = f"there is no namespace {sight.namespace}: the Secret is written as soon as there is one"
        return IstiodCertificateState("waiting", detail)
    if not sight.fresh:
        why = sight.unwatched.what if sight.unwatched is not None else "it is being listed"
        return _certificate_state("waiting", f"it is not read back: {why}")
    if sight.wanted is None:
        return _certificate_state("waiting", "there is no bundle yet")
    return None


def _foreign(sight: Sight, examined: Examined) -> IstiodCertificateState:
    issuer = examined.chain[0].issuer if examined.chain else ""
    named = f" ({issuer})" if issuer else ""
    detail = f"istiod is served by another CA{named}: the hub's bundle does not verify its certificate"
    remedy = (
        "have the mesh trust the hub first (federation clusters join), then delete that Secret, and the hub writes it; "
        f"{sight.own_way}"
    )
    return _certificate_state("foreign", detail, remedy)


def _serving(sight: Sight, examined: Examined, wanted: WantedSecret) -> IstiodCertificateState:
    """Of one that serves, and may be about to be replaced."""
    problem = f": {sight.problem.diagnostics()}" if sight.problem is not None else ""
    if sight.writers:
        problem = f", and {sight.writers} keeps changing it{problem}"
    if sight.renew_at is not None and sight.now >= sight.renew_at:
        detail = f"it is due to be renewed{problem}"
    elif is_of_another_issuer(examined, wanted):
        detail = f"by order another intermediate signs than issued it{problem}"
    elif not examined.current:
        detail = f"ca.crt is not the bundle{problem}"
    elif sight.writers:
        return _certificate_state("provided", f"{sight.writers} keeps changing it", _STOP_WRITER)
    else:
        return IstiodCertificateState("provided")
    if sight.withheld is not None:
        return _certificate_state("provided", f"{detail}; nothing is written yet: {sight.withheld}")
    return _certificate_state(
        "provided", detail, _remedy(sight) if problem else "", attention=bool(problem) or not examined.current
    )


def _missing(sight: Sight, what: str) -> IstiodCertificateState:
    if sight.withheld is not None:
        remedy = "nothing while the cluster joins: it is written once its namespaces hold the hub's bundle"
        return _certificate_state("waiting", f"{what}; none is written yet: {sight.withheld}", remedy)
    if isinstance(sight.problem, ClusterForbidden):
        detail = f"{what}, and the hub may not provide one: {sight.problem.what}"
        return _certificate_state("forbidden", detail, f"{_APPLY}; {sight.own_way}")
    if sight.problem is not None:
        return _certificate_state("failed", f"{what}: {sight.problem.diagnostics()}", _remedy(sight))
    if sight.writers:
        return _certificate_state("failed", f"{what}: {sight.writers} keeps changing it", _STOP_WRITER)
    return _certificate_state("waiting", f"{what}; one is being requested")


def _certificate_state(
    state: str, detail: str, remedy: str = "", *, attention: bool = True
) -> IstiodCertificateState:
    return IstiodCertificateState(state, detail[:MOST_TEXT], remedy, attention)


def _what_is_wrong(examined: Examined) -> str:
    if examined.problem is not None:
        return f"the certificate cannot serve: {examined.problem}"
    return f"the certificate does not cover {', '.join(examined.lacking[:MOST_NAMES])}"


def _remedy(sight: Sight) -> str:
    if isinstance(sight.problem, ClusterForbidden):
        return _APPLY
    if isinstance(sight.problem, ClusterInvalid):
        return f"see what refuses {sight.secret} there; if it is immutable, delete it, and the hub writes it anew"
    if sight.problem is not None:
        return sight.problem.remedy
    return _STOP_WRITER if sight.writers else ""
