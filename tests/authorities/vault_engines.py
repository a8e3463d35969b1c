"""Vault's PKI and Transit engines, for ``vault_server.py``: real keys and certificates, the real refusals."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from fnmatch import fnmatchcase
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.x509.oid import ExtendedKeyUsageOID

from federation.core.pki.certificate import Certificate
from federation.core.pki.development import generate_key
from federation.core.pki.keys import KeyKind, PrivateKey
from tests.authorities.back_end import ISTIOD_NAMES, SERVER_NAME
from tests.authorities.shifted_clock import ShiftedClock
from tests.authorities.vault_refusal import Refusal
from tests.signer.running_signer import authority
from tests.support import pki


@dataclass
class Role:
    """The fields of a role that the hub's directives meet. ``max_ttl`` in seconds."""

    allowed_uri_sans: tuple[str, ...] = ()
    allowed_domains: tuple[str, ...] = ()
    client_flag: bool = True
    key_type: str = "any"
    max_ttl: int = 86400
    not_before_duration: int = 120


def recommended_roles() -> dict[str, Role]:
    return {
        "mesh-workload": Role(allowed_uri_sans=("spiffe://cluster.local/*",)),
        "mesh-listener": Role(allowed_domains=(SERVER_NAME, *ISTIOD_NAMES), client_flag=False),
    }


@dataclass
class Pki:
    """One mount. What it returns can be changed piece by piece, so that it lies."""

    clock: ShiftedClock
    mount: str = "pki"
    issuers: dict[str, pki.Authority] = field(default_factory=lambda: {"default": authority("vault")})
    usable: bool = True
    roles: dict[str, Role] = field(default_factory=recommended_roles)
    chain_above: Sequence[Certificate] | None = None
    crl_der: bytes | None = None
    signs_with: pki.Authority | None = None
    lies: dict[str, Any] = field(default_factory=dict)  # arguments of the certificate
    answers: dict[str, Any] = field(default_factory=dict)  # fields of the answer
    signed: int = 0
    asked_for: list[str] = field(
        default_factory=list
    )  # whose certificate each request asked for, refused or not

    @property
    def ca(self) -> pki.Authority:
        return self.issuers["default"]

    def issuer_json(self, ref: str) -> dict[str, Any]:
        ca = self._issuer(ref)
        return {"certificate": ca.certificate.pem.decode(), "ca_chain": self._chain(ca), "issuer_name": ref}

    def crl(self, ref: str) -> bytes:
        ca = self._issuer(ref)
        if self.crl_der is not None:
            return self.crl_der
        now = self.clock.now().replace(microsecond=0)
        builder = x509.CertificateRevocationListBuilder(
            issuer_name=ca.certificate.x509.subject,
            last_update=now,
            next_update=now + timedelta(days=3),
        )
        return builder.sign(ca.key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)

    def sign(self, ref: str, role_name: str, body: Mapping[str, Any]) -> dict[str, Any]:
        self.asked_for += [*body.get("uri_sans", ())] or str(body.get("alt_names", "")).split(",")
        role = self.roles.get(role_name)
        if role is None:
            raise Refusal(400, f"unknown role: {role_name}")
        try:
            ca = self._issuer(ref)
        except Refusal as refusal:
            raise Refusal(500, f"could not fetch the CA certificate (was one set?): {refusal.text}") from None
        if not self.usable:
            raise Refusal(
                500,
                "error fetching CA certificate: requested usage issuing-certificates for issuer"
                " [id:1] but only had usage crl-signing,read-only",
            )
        csr = x509.load_pem_x509_csr(str(body["csr"]).encode())
        names = self._names(role, body)
        kind = "rsa" if isinstance(csr.public_key(), rsa.RSAPublicKey) else "ec"
        if role.key_type not in {"any", kind}:
            raise Refusal(400, f"role requires keys of type {role.key_type}")
        now = self.clock.now().replace(microsecond=0)
        ends = now + timedelta(seconds=min(int(body["ttl"]), role.max_ttl))
        if ends > ca.certificate.not_after:
            raise Refusal(
                400,
                f"cannot satisfy request, as TTL would result in notAfter of {ends.isoformat()} that is beyond"
                f" the expiration of the CA certificate at {ca.certificate.not_after.isoformat()}",
            )
        self.signed += 1
        usages = [ExtendedKeyUsageOID.SERVER_AUTH]
        usages += [ExtendedKeyUsageOID.CLIENT_AUTH] if role.client_flag else []
        wanted: dict[str, Any] = {
            "san": x509.SubjectAlternativeName(names),
            "ca": False,
            "public_key": csr.public_key(),
            "not_before": now - timedelta(seconds=role.not_before_duration),
            "not_after": ends,
            **self.lies,
        }
        signer = self.signs_with or ca
        leaf = pki.certificate(
            signer,
            [
                (pki.WORKLOAD_KEY_USAGE, True),
                (x509.ExtendedKeyUsage(usages), False),
                (x509.BasicConstraints(ca=wanted.pop("ca"), path_length=None), True),
                (wanted.pop("san"), True),
            ],
            serial_number=secrets.randbits(126) | 1,
            **wanted,
        )
        return {
            "certificate": leaf.pem.decode().strip(),
            "issuing_ca": signer.certificate.pem.decode().strip(),
            "ca_chain": self._chain(signer),
            "serial_number": "00",
            "expiration": int(leaf.not_after.timestamp()),
            **self.answers,
        }

    def _issuer(self, ref: str) -> pki.Authority:
        if ref not in self.issuers:
            raise Refusal(500, f"unable to find PKI issuer for reference: {ref}")
        return self.issuers[ref]

    def _chain(self, ca: pki.Authority) -> list[str]:
        above = (ca.root,) if self.chain_above is None else self.chain_above
        return [certificate.pem.decode() for certificate in (*ca.chain, *above)]

    def _names(self, role: Role, body: Mapping[str, Any]) -> list[x509.GeneralName]:
        uris, hosts = (
            list(body.get("uri_sans", ())),
            [h for h in str(body.get("alt_names", "")).split(",") if h],
        )
        if uris and not role.allowed_uri_sans:
            raise Refusal(
                400,
                "URI Subject Alternative Names are not allowed in this role, but were provided via the API",
            )
        for uri in uris:
            if not any(fnmatchcase(uri, allowed) for allowed in role.allowed_uri_sans):
                raise Refusal(
                    400,
                    "URI Subject Alternative Names were provided via the API which are not valid for this role",
                )
        for host in hosts:
            if host not in role.allowed_domains:
                raise Refusal(400, f"subject alternate name {host} not allowed by this role")
        return [
            *(x509.DNSName(host) for host in hosts),
            *(x509.UniformResourceIdentifier(uri) for uri in uris),
        ]


_TYPES = {
    "ecdsa-p256": KeyKind.EC_P256,
    "ecdsa-p384": KeyKind.EC_P384,
    "rsa-2048": KeyKind.RSA_2048,
    "rsa-3072": KeyKind.RSA_3072,
    "rsa-4096": KeyKind.RSA_4096,
}


@dataclass
class TransitKey:
    """A key with its versions, oldest first."""

    type: str
    versions: list[PrivateKey]
    min_encryption_version: int = 0


@dataclass
class Transit:
    """One mount."""

    mount: str = "transit"
    keys: dict[str, TransitKey] = field(default_factory=dict)
    answers: dict[str, Any] = field(default_factory=dict)

    def create(self, name: str, kind: str) -> TransitKey:
        key = self.keys[name] = TransitKey(kind, [])
        self.rotate(name)
        return key

    def rotate(self, name: str) -> None:
        key = self.keys[name]
        if key.type in _TYPES:
            key.versions.append(generate_key(_TYPES[key.type]))

    def key(self, name: str) -> dict[str, Any]:
        key = self.keys.get(name)
        if key is None:
            raise Refusal(404, "")
        versions = {str(n): {"public_key": _pem(k), "name": key.type} for n, k in enumerate(key.versions, 1)}
        return {
            "name": name,
            "type": key.type,
            "keys": versions or {"1": 1795527506},
            "latest_version": len(key.versions),
            "min_encryption_version": key.min_encryption_version,
        }

    def sign(self, name: str, algorithm: str, body: Mapping[str, Any]) -> dict[str, Any]:
        key = self.keys.get(name)
        if key is None:
            raise Refusal(400, "signing key not found")
        if not key.versions:
            raise Refusal(400, f"key type {key.type} does not support signing")
        version = int(body.get("key_version", 0)) or len(key.versions)
        if version > len(key.versions):
            raise Refusal(500, "requested version for signing is higher than the latest key version")
        if version < key.min_encryption_version:
            raise Refusal(
                500, "requested version for signing is less than the minimum encryption key version"
            )
        assert body["prehashed"] is True
        digest = base64.b64decode(body["input"], validate=True)
        hashed = utils.Prehashed({"sha2-256": hashes.SHA256(), "sha2-384": hashes.SHA384()}[algorithm])
        own = key.versions[version - 1]
        if isinstance(own, ec.EllipticCurvePrivateKey):
            assert body["marshaling_algorithm"] == "asn1"
            signature = own.sign(digest, ec.ECDSA(hashed))
        elif body.get("signature_algorithm") == "pkcs1v15":
            signature = own.sign(digest, padding.PKCS1v15(), hashed)
        else:
            pss = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.MAX_LENGTH)
            signature = own.sign(digest, pss, hashed)
        text = base64.b64encode(signature).decode()
        return {"signature": f"vault:v{version}:{text}", "key_version": version, **self.answers}


def _pem(key: PrivateKey) -> str:
    encoding, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(encoding, form).decode()
