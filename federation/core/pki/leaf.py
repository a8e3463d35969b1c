"""The leaf as a DER template, and how long it may live.

What is the same for every certificate of an issuer is encoded once; a certificate then costs two dates, two lengths
and one signature. The template makes the bytes to be signed and adds the signature to them; who signs is not its
business, so a key in this process, in an HSM or behind an API all fit: they sign ``tbs``, or its digest
(:func:`~federation.core.pki.keys.digest`) where they take digests.

What is in a leaf is Istio's profile (security/pkg/pki/util of istio/istio) within RFC 5280 and the X509-SVID
specification: version 3, no subject and therefore a critical subject alternative name (RFC 5280, 4.2.1.6), critical
keyUsage digitalSignature and keyEncipherment, critical basicConstraints that say it is no CA, and the issuer's key
identifier.

Its life is what was requested, within policy and within every issuer above it. NotBefore lies a little in the past,
so that a peer whose clock is behind still accepts the leaf. It is a small part of the leaf's life, because ztunnel
renews at half of the time between NotBefore and NotAfter (``refresh_at`` in its ``src/tls/certificate.rs``): a leaf
of a minute that began two minutes ago would be due before it arrived. Istio's agents count from when they received it
(``rotateTime`` in istio's ``secretcache.go``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from functools import lru_cache
from typing import Final

from federation.core.errors import AuthorityViolation, InvalidValue, NotReady
from federation.core.pki import der
from federation.core.pki.certificate import Certificate
from federation.core.pki.der import SubjectAltName
from federation.core.pki.keys import KeyKind, describe, kind_of, verify

SERIAL_BITS: Final = 128
"""Random bits in a serial number: twice what the CA/Browser Forum asks for, as in Istio's own CA."""

_SERVER_AUTH: Final = der.object_identifier("1.3.6.1.5.5.7.3.1")
_CLIENT_AUTH: Final = der.object_identifier("1.3.6.1.5.5.7.3.2")
_DIGITAL_SIGNATURE_AND_KEY_ENCIPHERMENT: Final = der.bit_string(b"\xa0", 5)
_VERSION_3: Final = der.encode(0xA0, der.integer(2))
_KEY_IDENTIFIER: Final = 0x80
_EXTENSIONS: Final = 0xA3
_NO_SUBJECT: Final = der.sequence()

_CRITICAL_SAN: Final = der.object_identifier("2.5.29.17") + der.encode(der.BOOLEAN, b"\xff")

_ECDSA_WITH_SHA256: Final = der.sequence(der.object_identifier("1.2.840.10045.4.3.2"))
_ECDSA_WITH_SHA384: Final = der.sequence(der.object_identifier("1.2.840.10045.4.3.3"))
_SHA256_WITH_RSA: Final = der.sequence(der.object_identifier("1.2.840.113549.1.1.11"), b"\x05\x00")


class LeafProfile(Enum):
    """What a leaf is for; the value is its extendedKeyUsage."""

    WORKLOAD = der.sequence(_SERVER_AUTH, _CLIENT_AUTH)
    """Mutual TLS both ways, as every workload of a mesh needs."""

    SERVING = der.sequence(_SERVER_AUTH)
    """A server and nothing else, so that its key can never speak as a client: the hub's listener, istiod."""


@dataclass(frozen=True, slots=True)
class LeafTemplate:
    """Everything about leaves of one issuer and profile that does not change. Raises InvalidValue.

    ``issuer`` needs a key of an accepted kind. Whether it may sign at all is :mod:`authority_check`'s
    question.
    """

    issuer: Certificate
    profile: LeafProfile = LeafProfile.WORKLOAD
    key_kind: KeyKind = field(init=False)
    _algorithm: bytes = field(init=False, repr=False)
    _issuer_name: bytes = field(init=False, repr=False)
    _extensions: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        kind = kind_of(self.issuer.public_key)
        if kind is None:
            raise InvalidValue(
                f"{self.issuer.subject} has a key that cannot sign: {describe(self.issuer.public_key)}"
            )
        object.__setattr__(self, "key_kind", kind)
        object.__setattr__(self, "_algorithm", _algorithm_of(kind))
        object.__setattr__(self, "_issuer_name", _subject_of(self.issuer))
        key_id = der.encode(_KEY_IDENTIFIER, bytes.fromhex(self.issuer.key_id))
        fixed = (
            der.extension("2.5.29.15", _DIGITAL_SIGNATURE_AND_KEY_ENCIPHERMENT, critical=True),
            der.extension("2.5.29.37", self.profile.value, critical=False),
            der.extension("2.5.29.19", der.sequence(), critical=True),
            der.extension("2.5.29.35", der.sequence(key_id), critical=False),
        )
        object.__setattr__(self, "_extensions", b"".join(fixed))

    def tbs(
        self, spki_der: bytes, san: SubjectAltName, serial: int, not_before: datetime, not_after: datetime
    ) -> bytes:
        """The TBSCertificate (RFC 5280, 4.1) to be signed; dates count in whole seconds.

        Raises InvalidValue for a serial that is not positive or over 20 bytes, dates that are not in UTC, or
        an end before the beginning. ``spki_der`` is taken as it is: it comes from the request gate or from
        our own key.
        """
        if not 0 < serial < 1 << 159:
            raise InvalidValue("a serial number is positive and fits into 20 bytes (RFC 5280, 4.1.2.2)")
        if not_after <= not_before:
            raise InvalidValue(f"the leaf would end at {not_after} before it begins at {not_before}")
        return der.sequence(
            _VERSION_3,
            der.integer(serial),
            self._algorithm,
            self._issuer_name,
            der.sequence(der.time(not_before), der.time(not_after)),
            _NO_SUBJECT,
            spki_der,
            _all_extensions(self._extensions, san.der),
        )

    def assemble(self, tbs: bytes, signature: bytes) -> bytes:
        """The DER of the certificate: what was signed, how, and the signature."""
        return der.sequence(tbs, self._algorithm, der.bit_string(signature))

    def check_signature(self, tbs: bytes, signature: bytes) -> None:
        """Raise AuthorityViolation unless the issuer's key made the signature: for keys outside this process."""
        key = self.issuer.public_key
        if not verify(key, signature, tbs):
            raise AuthorityViolation(
                f"the signature that came back was not made with the key of {self.issuer.subject}",
                reason="signature_invalid",
            )


@lru_cache(maxsize=4096)
def _all_extensions(fixed: bytes, names: bytes) -> bytes:
    """With the subject alternative name: the same ones are certified again and again."""
    alternative_name = der.sequence(_CRITICAL_SAN, der.encode(der.OCTET_STRING, names))
    return der.encode(_EXTENSIONS, der.sequence(fixed, alternative_name))


def draw_serial(random_bytes: Callable[[int], bytes]) -> int:
    """A random serial number of :data:`SERIAL_BITS` bits, never zero (RFC 5280, 4.1.2.2)."""
    return int.from_bytes(random_bytes(SERIAL_BITS // 8)) or 1


def _algorithm_of(kind: KeyKind) -> bytes:
    """The AlgorithmIdentifier of what a key of that kind signs (RFC 5758, 3.2; RFC 4055, 5)."""
    if kind.is_rsa:
        return _SHA256_WITH_RSA
    return _ECDSA_WITH_SHA384 if kind is KeyKind.EC_P384 else _ECDSA_WITH_SHA256


def _subject_of(issuer: Certificate) -> bytes:
    """The subject's own bytes: verifiers compare names byte by byte, so nothing may encode them anew."""
    data = issuer.x509.tbs_certificate_bytes
    outer = der.elements(data, 0, len(data))[0]
    fields = der.elements(data, outer[2], outer[3])
    if fields[0][0] == 0xA0:
        del fields[0]
    _serial, _algorithm, _issuer, _validity, subject, *_ = fields
    return data[subject[1] : subject[3]]


LONGEST_BACKDATING: Final = timedelta(minutes=2)
"""How far NotBefore lies back at most: as far as in Istio's own CA."""

BACKDATED_PART: Final = 10
"""NotBefore lies back by at most the leaf's life divided by this."""

LEAST_USEFUL_LIFE: Final = timedelta(minutes=1)
"""An issuer that ends sooner signs nothing any more: a leaf would expire before it could be renewed once."""

_SECOND: Final = timedelta(seconds=1)
_NOTHING: Final = timedelta(0)


@dataclass(frozen=True, slots=True)
class Validity:
    """From when until when, in UTC and whole seconds, both ends included. Raises InvalidValue."""

    not_before: datetime
    not_after: datetime

    def __post_init__(self) -> None:
        for instant in (self.not_before, self.not_after):
            if instant.utcoffset() != _NOTHING or instant.microsecond:
                raise InvalidValue("a validity has whole seconds of UTC")
        if self.not_after <= self.not_before:
            raise InvalidValue(f"a validity cannot end at {self.not_after} and begin at {self.not_before}")


def leaf_validity(
    now: datetime,
    requested: timedelta | int | None,
    longest: timedelta,
    issuers: Sequence[Certificate],
    default: timedelta,
) -> Validity:
    """The validity of a leaf issued at ``now``.

    ``requested`` may be what the caller sent, in seconds and however absurd: none, zero or less means
    ``default``, as in Istio's own CA. Nothing exceeds ``longest`` (the cluster's policy) or any of
    ``issuers``: every certificate above the leaf, the root included. Raises NotReady where an issuer is not
    valid yet or ends within a minute, and InvalidValue where ``longest`` or ``default`` is not positive.
    """
    return _validity_from(now.replace(microsecond=0), requested, longest, tuple(issuers), default)


@lru_cache(maxsize=256)  # within a second most leaves are asked for alike
def _validity_from(
    now: datetime,
    requested: timedelta | int | None,
    longest: timedelta,
    issuers: tuple[Certificate, ...],
    default: timedelta,
) -> Validity:
    if longest <= _NOTHING or default <= _NOTHING:
        raise InvalidValue("the longest and the default lifetime of a leaf must be positive")
    not_after = now + _lifetime(requested, longest, default)
    for issuer in issuers:
        if issuer.not_before > now:
            raise NotReady(
                f"the issuer {issuer.subject} is valid only from {issuer.not_before:%Y-%m-%d %H:%M:%S} UTC",
                reason="issuer_not_yet_valid",
                remedy="check this machine's clock, or wait",
            )
        if issuer.not_after < not_after:
            if issuer.not_after < now + LEAST_USEFUL_LIFE:
                raise NotReady(
                    f"the issuer {issuer.subject} ends at {issuer.not_after:%Y-%m-%d %H:%M:%S} UTC",
                    reason="issuer_expired" if issuer.not_after <= now else "issuer_expires",
                    remedy="replace the intermediate now; workloads cannot renew",
                )
            not_after = issuer.not_after
    not_before = now - backdating(not_after - now)
    for issuer in issuers:
        not_before = max(not_before, issuer.not_before)
    return Validity(not_before, not_after)


def backdating(life: timedelta) -> timedelta:
    """How far in the past a leaf begins that lives for ``life`` from now on, in whole seconds."""
    return min(LONGEST_BACKDATING, life // BACKDATED_PART // _SECOND * _SECOND)


def _lifetime(requested: timedelta | int | None, longest: timedelta, default: timedelta) -> timedelta:
    """What was requested within policy, in whole seconds and at least one."""
    # counted in integers: int64 seconds are more than a timedelta can hold
    seconds = requested // _SECOND if isinstance(requested, timedelta) else requested or 0
    if seconds <= 0:
        seconds = default // _SECOND
    return timedelta(seconds=max(1, min(seconds, longest // _SECOND)))
