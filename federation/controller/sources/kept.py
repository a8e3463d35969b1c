"""Anchors that stay in the bundle although the configuration does not pin them: their bytes are those of a generation.

A generation never changes once it is written, and the fingerprint names one certificate exactly, so nothing has to be
read from the file that a pin once named.
"""

from __future__ import annotations

from collections.abc import Iterable

from federation.controller.generations import bundle_of
from federation.controller.sources.pinned import Gathered
from federation.core.identity import TrustDomain
from federation.core.trust.bundle import Anchor, AnchorKind
from federation.core.trust.rotation.record import Unpinned
from federation.state.documents import Generation


def gather_kept(wanted: Iterable[str], generations: Iterable[Generation]) -> Gathered:
    """The anchors of these fingerprints (SHA-256), each from the first generation that holds it."""
    found: dict[str, Anchor] = {}
    for generation in generations:
        certificates = {c.sha256: c for c in bundle_of(generation).certificates}
        for record in generation.anchors:
            certificate = certificates.get(record.sha256)
            if certificate is None or not certificate.is_self_signed or record.sha256 in found:
                continue
            kind: AnchorKind = "accepted" if record.kind == "accepted" else "root"
            found[record.sha256] = Anchor(
                certificate=certificate,
                origin=f"generation {generation.number}; its pin is gone",
                kind=kind,
                trust_domain=TrustDomain(record.trust_domain),
                cluster=record.cluster or None,
                foreign_override=record.foreign_override,
            )
    anchors: list[Anchor] = []
    sources: dict[str, str] = {}
    for sha256 in sorted(wanted):
        if sha256 in found:
            anchors.append(found[sha256])
        else:
            lost = "its pin is gone, and no generation that can be read holds its certificate: pin it again"
            sources[f"the anchor {sha256[:16]}"] = lost
    return Gathered(tuple(anchors), sources)


def roots_in_force(generations: Iterable[Generation], now: float) -> dict[str, Unpinned]:
    """The self-signed anchors of generations in force, as the record notes one whose pin is gone.

    Raises InvalidValue where a bundle cannot be read.
    """
    found: dict[str, Unpinned] = {}
    for generation in generations:
        whose = {record.sha256: record.cluster for record in generation.anchors if record.kind == "accepted"}
        for certificate in bundle_of(generation).certificates:
            if certificate.is_self_signed and certificate.sha256 not in found:
                cluster = whose.get(certificate.sha256, "")
                found[certificate.sha256] = Unpinned(
                    since=now,
                    generation=generation.number,
                    subject=certificate.subject,
                    clusters=[cluster] if cluster else [],
                )
    return found
