"""Named authorities, keys, requests and leaves for every test; nothing here is ever stored.

Authorities are made on first use and kept for the session: ``root("a")`` is the same certificate wherever it is asked
for. Keys come from a pool by name, so that a test that needs twelve of them does not wait for twelve.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TypedDict

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from federation.core.identity import SpiffeId
from federation.core.pki import der
from federation.core.pki.certificate import Certificate
from federation.core.pki.development import create_intermediate, create_root, generate_key
from federation.core.pki.keys import KeyKind, PrivateKey, kind_of, private_key_pem, signature_hash, signer

NOW = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)
"""The wall clock of tests that need one."""

DAY = timedelta(days=1)
YEAR = timedelta(days=365)

IDENTITY = SpiffeId.parse("spiffe://cluster.local/ns/foo/sa/bar")


class Times(TypedDict):
    """From when until when a certificate is valid, to be handed on as keywords."""

    not_before: datetime
    not_after: datetime


EMPTY_SUBJECT = x509.Name([])
EMPTY_ORGANIZATION = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "")])
"""What Istio's agents send: ``O=`` with nothing in it."""


@dataclass(frozen=True)
class Authority:
    """A CA certificate with its key, and the chain from it upwards without the root."""

    certificate: Certificate
    key: PrivateKey
    chain: tuple[Certificate, ...]
    root: Certificate

    @property
    def pem(self) -> bytes:
        return self.certificate.pem

    @property
    def chain_pem(self) -> bytes:
        """What a local authority's certificate file holds: itself, then its issuers below the root."""
        return b"".join(certificate.pem for certificate in self.chain) or self.certificate.pem

    @property
    def key_pem(self) -> bytes:
        return private_key_pem(self.key)

    def write(self, directory: Path) -> tuple[Path, Path, Path]:
        """The chain, key (mode 0600) and root as files of ``directory``."""
        directory.mkdir(parents=True, exist_ok=True)
        chain, key, root_file = directory / "ca-chain.pem", directory / "ca-key.pem", directory / "root.pem"
        chain.write_bytes(self.chain_pem)
        key.touch(mode=0o600)
        key.chmod(0o600)
        key.write_bytes(self.key_pem)
        root_file.write_bytes(self.root.pem)
        return chain, key, root_file


def key(name: str, kind: KeyKind = KeyKind.EC_P256) -> PrivateKey:
    """The key of that name and kind: the same object for the whole session."""
    return _key(name, kind)


@cache
def _key(_name: str, kind: KeyKind) -> PrivateKey:
    return generate_key(kind)


def serial(name: str) -> int:
    """A positive 127-bit serial number that depends on the name only."""
    return int.from_bytes(sha256(name.encode()).digest()[:16], "big") >> 1 | 1


def root(
    name: str = "a",
    kind: KeyKind = KeyKind.EC_P256,
    *,
    not_before: datetime = NOW - YEAR,
    not_after: datetime = NOW + 9 * YEAR,
    path_length: int | None = None,
) -> Authority:
    """The root of that name: the same certificate for the same arguments."""
    return _root(name, kind, not_before, not_after, path_length)


@cache
def _root(
    name: str, kind: KeyKind, not_before: datetime, not_after: datetime, path_length: int | None
) -> Authority:
    own = key(f"root {name}", kind)
    certificate = create_root(
        common_name=f"Root {name}",
        key=own,
        serial=serial(f"root {name}"),
        not_before=not_before,
        not_after=not_after,
        path_length=path_length,
    )
    return Authority(certificate, own, (), certificate)


def intermediate(
    name: str = "a1",
    issuer: Authority | None = None,
    kind: KeyKind = KeyKind.EC_P256,
    *,
    not_before: datetime = NOW - 30 * DAY,
    not_after: datetime = NOW + YEAR,
    path_length: int | None = 0,
) -> Authority:
    """The intermediate of that name below ``issuer`` (default: the root "a"), the same for the same arguments."""
    return _intermediate(name, issuer or root(), kind, not_before, not_after, path_length)


@cache
def _intermediate(  # noqa: PLR0917 - only called by the function above, with every argument
    name: str,
    above: Authority,
    kind: KeyKind,
    not_before: datetime,
    not_after: datetime,
    path_length: int | None,
) -> Authority:
    own = key(f"intermediate {name}", kind)
    certificate = create_intermediate(
        issuer=above.certificate,
        issuer_key=above.key,
        common_name=f"Intermediate {name}",
        key=own,
        serial=serial(f"intermediate {name} of {above.certificate.sha256}"),
        not_before=not_before,
        not_after=not_after,
        path_length=path_length,
    )
    return Authority(certificate, own, (certificate, *above.chain), above.root)


def spiffe_san(*uris: object) -> x509.SubjectAlternativeName:
    """A subject alternative name of these URIs, in their order."""
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(uri)) for uri in uris])


def dns_san(*names: str) -> x509.SubjectAlternativeName:
    """A subject alternative name of these DNS names, in their order."""
    return x509.SubjectAlternativeName([x509.DNSName(name) for name in names])


def make_csr(
    identity: object = IDENTITY,
    *,
    private_key: PrivateKey
    | ec.EllipticCurvePrivateKey
    | ed25519.Ed25519PrivateKey
    | rsa.RSAPrivateKey
    | None = None,
    subject: x509.Name = EMPTY_ORGANIZATION,
    san: x509.SubjectAlternativeName | None = None,
    san_critical: bool = True,
    extensions: Iterable[tuple[x509.ExtensionType, bool]] = (),
    attributes: Iterable[tuple[x509.ObjectIdentifier, bytes]] = (),
    algorithm: hashes.SHA256 | hashes.SHA384 | hashes.SHA512 | hashes.SHA224 | None = None,
) -> x509.CertificateSigningRequest:
    """A CSR in the shape of Istio's agents, with everything about it open to change."""
    own = private_key or key("workload")
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    builder = builder.add_extension(spiffe_san(identity) if san is None else san, critical=san_critical)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    for oid, value in attributes:
        builder = builder.add_attribute(oid, value)
    if isinstance(own, ed25519.Ed25519PrivateKey):
        return builder.sign(own, None)
    kind = kind_of(own)
    return builder.sign(own, algorithm or (signature_hash(kind) if kind else hashes.SHA256()))


def csr_pem(identity: object = IDENTITY, **options: object) -> str:
    """The same as PEM text, as it stands in the request."""
    return make_csr(identity, **options).public_bytes(serialization.Encoding.PEM).decode()  # type: ignore[arg-type]


WORKLOAD_KEY_USAGE = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=True,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)
CA_KEY_USAGE = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)
BOTH_WAYS = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])


def certificate(
    issuer: Authority,
    extensions: Sequence[tuple[x509.ExtensionType, bool]],
    *,
    public_key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey | None = None,
    subject: x509.Name = EMPTY_SUBJECT,
    issuer_name: x509.Name | None = None,
    signing_key: PrivateKey | None = None,
    not_before: datetime = NOW - timedelta(minutes=2),
    not_after: datetime = NOW + timedelta(hours=1),
    serial_number: int = 4711,
    authority_key_id: bool = True,
    algorithm: hashes.HashAlgorithm | None = None,
    rsa_padding: padding.PSS | None = None,
) -> Certificate:
    """Any certificate at all, right or wrong, signed by ``issuer`` or by a key that pretends to be it."""
    own = signing_key or issuer.key
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer_name or issuer.certificate.x509.subject)
        .public_key(public_key or key("workload").public_key())
        .serial_number(serial_number)
        .not_valid_before(not_before)
        .not_valid_after(not_after)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    if authority_key_id:
        identifier = issuer.certificate.extension(x509.SubjectKeyIdentifier)
        assert identifier is not None
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False
        )
    kind = kind_of(own)
    assert kind is not None
    built = builder.sign(own, algorithm or signature_hash(kind), rsa_padding=rsa_padding)  # type: ignore[arg-type]
    return Certificate.from_der(built.public_bytes(serialization.Encoding.DER))


def leaf(
    issuer: Authority | None = None,
    identity: object = IDENTITY,
    *,
    private_key: PrivateKey | None = None,
    san: x509.SubjectAlternativeName | None = None,
    not_before: datetime = NOW - timedelta(minutes=2),
    not_after: datetime = NOW + timedelta(hours=1),
    usage: x509.ExtendedKeyUsage | None = BOTH_WAYS,
    key_usage: x509.KeyUsage = WORKLOAD_KEY_USAGE,
    ca: bool = False,
    extra: Sequence[tuple[x509.ExtensionType, bool]] = (),
) -> Certificate:
    """A workload certificate as the hub issues them, made by cryptography's builder."""
    extensions: list[tuple[x509.ExtensionType, bool]] = [(key_usage, True)]
    if usage is not None:
        extensions.append((usage, False))
    extensions.append((x509.BasicConstraints(ca=ca, path_length=None), True))
    extensions.append((san or spiffe_san(identity), True))
    extensions.extend(extra)
    return certificate(
        issuer or intermediate(),
        extensions,
        public_key=(private_key or key("workload")).public_key(),
        not_before=not_before,
        not_after=not_after,
    )


def resigned(original: Certificate, key_of_issuer: PrivateKey, old: bytes, new: bytes) -> Certificate:
    """The certificate with ``old`` in its signed part exchanged for ``new`` once, and signed again.

    For content that cryptography's builder cannot make. ``new`` may be longer: the enclosing lengths are recomputed.
    """
    tbs = original.parts.tbs
    assert tbs.count(old) >= 1
    body = der.elements(tbs, 0, len(tbs))[0]
    changed = der.sequence(_replaced(tbs[body[2] : body[3]], old, new))
    kind = kind_of(key_of_issuer)
    assert kind is not None
    made = der.sequence(
        changed, original.parts.signature_algorithm, der.bit_string(signer(key_of_issuer)(changed))
    )
    return Certificate.from_der(made)


def _replaced(content: bytes, old: bytes, new: bytes) -> bytes:
    """The elements with the first ``old`` among or in them exchanged for ``new``."""
    if content.startswith(old):
        return new + content[len(old) :]
    made = []
    done = False
    for tag, start, inner, stop in der.elements(content, 0, len(content)):
        element = content[start:stop]
        if done or old not in element:
            made.append(element)
            continue
        done = True
        is_whole = element == old
        made.append(new if is_whole else der.encode(tag, _replaced(content[inner:stop], old, new)))
    return b"".join(made)


def renumbered(authority: Authority, serial_number: bytes) -> Certificate:
    """Its certificate with a serial number of these bytes, zero and negative ones too, signed by its own key."""
    own = der.integer(authority.certificate.serial)
    return resigned(authority.certificate, authority.key, own, der.encode(der.INTEGER, serial_number))


def confined(
    permitted: Sequence[x509.GeneralName] | None = None,
    excluded: Sequence[x509.GeneralName] | None = None,
    *,
    issuer: Authority | None = None,
    not_before: datetime = NOW - 30 * DAY,
    not_after: datetime = NOW + YEAR,
) -> Authority:
    """An intermediate under these name constraints."""
    own, above = key("confined"), issuer or root()
    made = certificate(
        above,
        [
            (x509.BasicConstraints(ca=True, path_length=0), True),
            (CA_KEY_USAGE, True),
            (x509.NameConstraints(permitted, excluded), True),
            (x509.SubjectKeyIdentifier.from_public_key(own.public_key()), False),
        ],
        public_key=own.public_key(),
        subject=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "confined")]),
        not_before=not_before,
        not_after=not_after,
    )
    return Authority(made, own, (made,), above.root)


def root_of_curve(
    curve: ec.EllipticCurve, *, not_before: datetime, not_after: datetime
) -> tuple[Authority, Authority]:
    """A root on that curve, and an intermediate of P-256 below it."""
    key_of_root, own = ec.generate_private_key(curve), key("below an odd root")
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Root on {curve.name}")])
    made = []
    for subject, public_key, number in (
        (name, key_of_root.public_key(), 1),
        (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "below an odd root")]), own.public_key(), 2),
    ):
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(name)
            .public_key(public_key)
            .serial_number(number)
            .not_valid_before(not_before)
            .not_valid_after(not_after)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(CA_KEY_USAGE, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(key_of_root.public_key()), critical=False
            )
        )
        built = builder.sign(key_of_root, hashes.SHA256())
        made.append(Certificate.from_der(built.public_bytes(serialization.Encoding.DER)))
    above, below = made
    return Authority(above, key_of_root, (), above), Authority(below, own, (below,), above)
