"""The leaf template against cryptography's builder, byte for byte, and against readers of certificates."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from hashlib import sha256, sha384

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.core.errors import AuthorityViolation, InvalidValue
from federation.core.identity import SpiffeId
from federation.core.pki.certificate import Certificate
from federation.core.pki.der import SubjectAltName
from federation.core.pki.keys import KeyKind, PrivateKey, digest, signature_hash, signer, spki
from federation.core.pki.leaf import SERIAL_BITS, LeafProfile, LeafTemplate
from tests.core.pki.strategies import identities, subdomains
from tests.support.pki import (
    BOTH_WAYS,
    DAY,
    EMPTY_SUBJECT,
    IDENTITY,
    NOW,
    WORKLOAD_KEY_USAGE,
    Authority,
    certificate,
    intermediate,
    key,
    root,
)

SERVER_ONLY = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])

serials = st.integers(1, (1 << SERIAL_BITS) - 1)
dates = st.datetimes(datetime(1950, 1, 2), datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - given a zone
lifetimes = st.timedeltas(timedelta(seconds=1), timedelta(days=400))


def issuer_with(kind: KeyKind) -> Authority:
    """One for each kind of key; made when it is used, for every worker imports this."""
    return intermediate(f"issuer {kind.value}", kind=kind)


def oracle(
    *,
    issuer: Authority,
    usage: x509.ExtendedKeyUsage,
    san: x509.SubjectAlternativeName,
    public_key: object,
    serial: int,
    not_before: datetime,
    not_after: datetime,
) -> x509.Certificate:
    """The same leaf by cryptography's builder."""
    identifier = issuer.certificate.extension(x509.SubjectKeyIdentifier)
    assert identifier is not None
    builder = (
        x509.CertificateBuilder()
        .subject_name(EMPTY_SUBJECT)
        .issuer_name(issuer.certificate.x509.subject)
        .public_key(public_key)  # type: ignore[arg-type]
        .serial_number(serial)
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(WORKLOAD_KEY_USAGE, critical=True)
        .add_extension(usage, critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False
        )
        .add_extension(san, critical=True)
    )
    kind = LeafTemplate(issuer.certificate).key_kind
    if kind.is_rsa:
        return builder.sign(issuer.key, signature_hash(kind))
    return builder.sign(issuer.key, signature_hash(kind), ecdsa_deterministic=True)


def sign_like_the_oracle(issuer: Authority, kind: KeyKind, tbs: bytes) -> bytes:
    if isinstance(issuer.key, ec.EllipticCurvePrivateKey):
        return issuer.key.sign(tbs, ec.ECDSA(signature_hash(kind), deterministic_signing=True))
    return signer(issuer.key)(tbs)


@settings(deadline=None, max_examples=150)
@given(
    kind=st.sampled_from([KeyKind.EC_P256, KeyKind.EC_P384, KeyKind.RSA_2048]),
    own=st.sampled_from(KeyKind).map(lambda kind: key("workload", kind)),
    identity=identities,
    serial=serials,
    not_before=dates,
    lifetime=lifetimes,
)
def test_a_workloads_leaf_is_the_builders_byte_for_byte(
    *,
    kind: KeyKind,
    own: PrivateKey,
    identity: SpiffeId,
    serial: int,
    not_before: datetime,
    lifetime: timedelta,
) -> None:
    issuer = issuer_with(kind)
    template = LeafTemplate(issuer.certificate)
    not_after = not_before + lifetime
    san = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(identity))])
    expected = oracle(
        issuer=issuer,
        usage=BOTH_WAYS,
        san=san,
        public_key=own.public_key(),
        serial=serial,
        not_before=not_before,
        not_after=not_after,
    )
    tbs = template.tbs(
        spki(own.public_key()), SubjectAltName.of_identity(identity), serial, not_before, not_after
    )
    made = template.assemble(tbs, sign_like_the_oracle(issuer, kind, tbs))
    assert tbs == expected.tbs_certificate_bytes
    assert made == expected.public_bytes(serialization.Encoding.DER)


@settings(deadline=None, max_examples=50)
@given(hosts=st.lists(subdomains, min_size=1, max_size=4, unique=True), serial=serials)
def test_a_serving_certificate_is_the_builders_byte_for_byte(hosts: list[str], serial: int) -> None:
    issuer = issuer_with(KeyKind.EC_P256)
    template = LeafTemplate(issuer.certificate, LeafProfile.SERVING)
    own = key("listener").public_key()
    san = x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts])
    expected = oracle(
        issuer=issuer,
        usage=SERVER_ONLY,
        san=san,
        public_key=own,
        serial=serial,
        not_before=NOW,
        not_after=NOW + DAY,
    )
    tbs = template.tbs(spki(own), SubjectAltName.of_hosts(hosts), serial, NOW, NOW + DAY)
    made = template.assemble(tbs, sign_like_the_oracle(issuer, KeyKind.EC_P256, tbs))
    assert made == expected.public_bytes(serialization.Encoding.DER)


@pytest.mark.parametrize("kind", list(KeyKind))
def test_each_kind_of_issuer_signs_what_verifies(kind: KeyKind) -> None:
    issuer = issuer_with(kind)
    template = LeafTemplate(issuer.certificate)
    assert template.key_kind is kind
    tbs = template.tbs(spki(key("w").public_key()), SubjectAltName.of_identity(IDENTITY), 7, NOW, NOW + DAY)
    signature = signer(issuer.key)(tbs)
    template.check_signature(tbs, signature)
    leaf = Certificate.from_der(template.assemble(tbs, signature))
    assert leaf.is_signed_by(issuer.certificate)
    assert leaf.uris == (str(IDENTITY),)
    assert leaf.authority_key_id == issuer.certificate.key_id


@pytest.mark.parametrize("kind", [KeyKind.EC_P256, KeyKind.EC_P384])
def test_a_back_end_that_signs_digests_fits(kind: KeyKind) -> None:
    issuer = issuer_with(kind)
    template = LeafTemplate(issuer.certificate)
    tbs = template.tbs(spki(key("w").public_key()), SubjectAltName.of_identity(IDENTITY), 7, NOW, NOW + DAY)
    assert digest(kind, tbs) == (sha384 if kind is KeyKind.EC_P384 else sha256)(tbs).digest()
    assert isinstance(issuer.key, ec.EllipticCurvePrivateKey)
    signature = issuer.key.sign(digest(kind, tbs), ec.ECDSA(Prehashed(signature_hash(kind))))
    assert Certificate.from_der(template.assemble(tbs, signature)).is_signed_by(issuer.certificate)


def test_a_signature_of_another_key_is_an_alarm() -> None:
    template = LeafTemplate(issuer_with(KeyKind.EC_P256).certificate)
    with pytest.raises(AuthorityViolation) as error:
        template.check_signature(b"tbs", signer(key("stranger"))(b"tbs"))
    assert error.value.reason == "signature_invalid"


def test_the_issuers_name_is_copied_byte_for_byte() -> None:
    """Verifiers compare names byte by byte; a T61String must stay one."""
    name = x509.Name(
        [x509.NameAttribute(x509.NameOID.COMMON_NAME, "Old CA", _type=x509.name._ASN1Type.T61String)]
    )
    own = key("old ca")
    odd = certificate(
        root(),
        [(x509.BasicConstraints(ca=True, path_length=0), True)],
        public_key=own.public_key(),
        subject=name,
    )
    template = LeafTemplate(odd)
    tbs = template.tbs(spki(key("w").public_key()), SubjectAltName.of_identity(IDENTITY), 7, NOW, NOW + DAY)
    leaf = Certificate.from_der(template.assemble(tbs, signer(own)(tbs)))
    assert b"\x14\x06Old CA" in tbs
    assert leaf.is_signed_by(odd)


@pytest.mark.parametrize("serial", [0, -1, 1 << 159])
def test_serials_that_cannot_be(serial: int) -> None:
    template = LeafTemplate(issuer_with(KeyKind.EC_P256).certificate)
    with pytest.raises(InvalidValue, match="serial"):
        template.tbs(b"", SubjectAltName.of_identity(IDENTITY), serial, NOW, NOW + DAY)


def test_a_leaf_that_ends_before_it_begins_cannot_be() -> None:
    template = LeafTemplate(issuer_with(KeyKind.EC_P256).certificate)
    with pytest.raises(InvalidValue, match="before it begins"):
        template.tbs(b"", SubjectAltName.of_identity(IDENTITY), 1, NOW, NOW)


def test_an_issuer_with_a_key_that_is_not_accepted_cannot_be() -> None:
    own = ed25519.Ed25519PrivateKey.generate().public_key()
    odd = certificate(root(), [(x509.BasicConstraints(ca=True, path_length=0), True)], public_key=own)
    with pytest.raises(InvalidValue, match="cannot sign"):
        LeafTemplate(odd)
