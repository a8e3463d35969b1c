"""Clusters for the tests of the proof: leaves of real authorities that are valid now, and trust to hold."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from federation.controller.proof.handshake import Credential
from federation.controller.proof.matrix import BundleContent, ContentReader, Participant
from federation.core.identity import SpiffeId
from federation.core.pki.certificate import Certificate
from federation.core.pki.keys import private_key_pem
from federation.core.pki.pem import encode_certificates
from tests.controller.world import intermediate, root
from tests.support import pki

NOW = datetime.now(UTC).replace(microsecond=0)


def identity(name: str, domain: str = "mesh.example") -> SpiffeId:
    return SpiffeId.parse(f"spiffe://{domain}/ns/federation-system/sa/probe-{name}")


def leaf(
    name: str, authority: str = "a", *, domain: str = "mesh.example", expired: bool = False
) -> tuple[Certificate, ...]:
    issuer = intermediate(authority)
    begin = NOW - timedelta(hours=2) if expired else NOW - timedelta(minutes=2)
    certificate = pki.leaf(
        issuer,
        identity(name, domain),
        private_key=pki.key(f"probe {name}"),
        not_before=begin,
        not_after=begin + timedelta(hours=1, minutes=30),
    )
    return (certificate, *issuer.chain)


def content(*anchors: str, generation: int = 1) -> BundleContent:
    pem = encode_certificates(sorted((root(a).certificate for a in anchors), key=lambda c: c.sha256))
    digest = "-".join(anchors) or "none"
    if not anchors:
        return ContentReader().read(b"not PEM", sha256=digest, where="namespace shop", generation=0)
    return ContentReader().read(pem, sha256=digest, where="namespace shop", generation=generation)


def party(
    name: str,
    authority: str = "a",
    *observed: tuple[str, ...],
    domain: str = "mesh.example",
    expired: bool = False,
) -> Participant:
    contents = tuple(sorted((content(*anchors) for anchors in observed or (("a",),)), key=lambda c: c.sha256))
    return Participant(
        name,
        leaf(name, authority, domain=domain, expired=expired),
        private_key_pem(pki.key(f"probe {name}")),
        identity(name, domain),
        contents,
    )


def credential(name: str, authority: str = "a", *anchors: str, **options: object) -> Credential:
    chosen = party(name, authority, anchors or ("a",), **options)  # type: ignore[arg-type]
    return Credential(chosen.chain, chosen.key_pem, chosen.contents[0].certificates, chosen.identity)
