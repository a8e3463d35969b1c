"""The trust bundle: which certificates every workload trusts, as deterministic bytes.

Anchors are given with their provenance and never inferred. The same set of anchors makes the same bytes
whatever the order, the duplicates or the white space of its sources, because Istio's agents push to every
proxy on any difference. Anything that cannot be in a bundle is an error: a merge never shrinks what it was
given.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import pairwise
from typing import Final, Literal, Self, TypeAlias

from federation.core.errors import InvalidValue
from federation.core.identity import TrustDomain
from federation.core.pki.certificate import Certificate
from federation.core.pki.pem import encode_certificates, parse_certificates

AnchorKind: TypeAlias = Literal["root", "intermediate", "accepted"]

MAX_BUNDLE_BYTES: Final = 900 * 1024
"""Below the 1 MiB limit of a Kubernetes object, with room for its metadata and managed fields."""

_RANK: Final = {"root": 0, "accepted": 1, "intermediate": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """One trusted certificate and where it came from.

    ``kind`` is ``root`` (pinned by the operator), ``accepted`` (the own CA of a member cluster, pinned as
    well) or ``intermediate`` (below one of these). ``origin`` says in words where its bytes were read. A
    merged anchor speaks for every trust domain, so one of a domain other than the mesh's carries
    ``foreign_override``: the operator's explicit word, which status keeps showing. Raises InvalidValue for a
    certificate that cannot be of its kind.
    """

    certificate: Certificate
    origin: str
    kind: AnchorKind
    trust_domain: TrustDomain
    cluster: str | None = None
    foreign_override: bool = False

    def __post_init__(self) -> None:
        certificate = self.certificate
        name = certificate.subject or certificate.sha256
        if self.kind not in _RANK:
            raise InvalidValue(f"{self.kind!r} is not a kind of anchor", where=self.origin)
        if not certificate.is_ca:
            raise InvalidValue(
                f"{name} is not a CA certificate",
                where=self.origin,
                remedy="give the certificate authority's own certificate, not a leaf",
            )
        if self.kind != "intermediate" and not certificate.is_self_signed:
            raise InvalidValue(
                f"{name} is not self-signed, so it cannot be an anchor of kind {self.kind}",
                where=self.origin,
                remedy="give the root above it; intermediates ride along only as intermediates",
            )


@dataclass(frozen=True, slots=True)
class TrustBundle:
    """Anchors in the order of their fingerprints, and the PEM that is published; made by merging."""

    anchors: tuple[Anchor, ...]
    pem: bytes = field(init=False, repr=False, compare=False)
    sha256: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        fingerprints = [anchor.certificate.sha256 for anchor in self.anchors]
        if not fingerprints:
            raise InvalidValue(
                "the bundle would be empty and no workload would trust any other",
                remedy="pin at least one root in [[trust.anchors]]",
            )
        if any(first >= second for first, second in pairwise(fingerprints)):
            raise InvalidValue(
                "the anchors of a bundle are not in the order of their fingerprints; use merge"
            )
        _require_issuers(self.anchors)
        pem = encode_certificates(anchor.certificate for anchor in self.anchors)
        if len(pem) > MAX_BUNDLE_BYTES:
            raise InvalidValue(
                f"the bundle would hold {len(pem)} bytes, at most {MAX_BUNDLE_BYTES} fit into an object",
                remedy="remove anchors that nothing depends on",
            )
        object.__setattr__(self, "pem", pem)
        object.__setattr__(self, "sha256", sha256(pem).hexdigest())

    @classmethod
    def merge(cls, anchors: Iterable[Anchor]) -> Self:
        """One bundle out of anchors of any order, duplicates included.

        Where one certificate is given more than once, its strongest kind stays (root, accepted,
        intermediate), then the first origin in alphabetical order. Raises InvalidValue where nothing is left,
        one certificate is given for two trust domains, an intermediate has no issuer among the anchors, or
        the bundle would be too large.
        """
        by_fingerprint: dict[str, list[Anchor]] = defaultdict(list)
        for anchor in anchors:
            by_fingerprint[anchor.certificate.sha256].append(anchor)
        return cls(tuple(_strongest(by_fingerprint[fingerprint]) for fingerprint in sorted(by_fingerprint)))

    @classmethod
    def from_pem(cls, pem: bytes, *, where: str, trust_domain: TrustDomain) -> Self:
        """The bundle of published bytes: what is self-signed counts as root, everything else as intermediate.

        Raises InvalidValue as :func:`parse_certificates` and :meth:`merge` do.
        """
        return cls.merge(
            Anchor(
                certificate=certificate,
                origin=where,
                kind="root" if certificate.is_self_signed else "intermediate",
                trust_domain=trust_domain,
            )
            for certificate in parse_certificates(pem, where=where)
        )

    @property
    def certificates(self) -> tuple[Certificate, ...]:
        """The certificates alone, in the order of their fingerprints."""
        return tuple(anchor.certificate for anchor in self.anchors)

    def unpinned(self, pins: frozenset[str]) -> tuple[Anchor, ...]:
        """The self-signed anchors whose fingerprint is not among ``pins`` (lower-case hex).

        Intermediates need no pin: none is in a bundle without its issuer, so none without a pinned root above
        it.
        """
        return tuple(a for a in self.anchors if a.kind != "intermediate" and a.certificate.sha256 not in pins)

    def shared_subjects(self) -> tuple[str, ...]:
        """Subject names that anchors of different keys share.

        A verifier may try the wrong one of them and report a bad signature, so status shows them.
        """
        keys: dict[str, set[str]] = defaultdict(set)
        for certificate in self.certificates:
            keys[certificate.subject].add(certificate.key_id)
        return tuple(sorted(subject for subject, ids in keys.items() if len(ids) > 1))


@dataclass(frozen=True, slots=True)
class BundleDifference:
    """What one bundle has that another has not, in the order of fingerprints."""

    added: tuple[Anchor, ...]
    removed: tuple[Anchor, ...]
    unchanged: tuple[Anchor, ...]

    def __bool__(self) -> bool:
        return bool(self.added or self.removed)


def diff(old: TrustBundle | None, new: TrustBundle) -> BundleDifference:
    """What changes for the workloads from ``old`` (None: nothing published yet) to ``new``."""
    before = {anchor.certificate.sha256 for anchor in old.anchors} if old else set()
    after = {anchor.certificate.sha256 for anchor in new.anchors}
    return BundleDifference(
        added=tuple(a for a in new.anchors if a.certificate.sha256 not in before),
        removed=tuple(a for a in old.anchors if a.certificate.sha256 not in after) if old else (),
        unchanged=tuple(a for a in new.anchors if a.certificate.sha256 in before),
    )


def _strongest(same: list[Anchor]) -> Anchor:
    """The one anchor that replaces several mentions of the same certificate, whatever their order."""
    domains = sorted({str(anchor.trust_domain) for anchor in same})
    if len(domains) > 1:
        raise InvalidValue(
            f"{same[0].certificate.subject} is given for several trust domains: {', '.join(domains)}",
            where=", ".join(sorted({anchor.origin for anchor in same})),
            remedy="pin it once, for the trust domain it belongs to",
        )
    return min(same, key=lambda a: (_RANK[a.kind], a.origin, a.cluster or "", a.foreign_override))


def _require_issuers(anchors: tuple[Anchor, ...]) -> None:
    """Every intermediate must reach a self-signed anchor of the same bundle."""
    reached = [anchor.certificate for anchor in anchors if anchor.kind != "intermediate"]
    waiting = [anchor for anchor in anchors if anchor.kind == "intermediate"]
    while waiting:
        below = [a for a in waiting if any(a.certificate.is_signed_by(issuer) for issuer in reached)]
        if not below:
            first = waiting[0]
            raise InvalidValue(
                f"no anchor in the bundle issued the intermediate {first.certificate.subject}"
                f" (its issuer is {first.certificate.issuer},"
                f" key id {first.certificate.authority_key_id or 'not given'})",
                where=first.origin,
                remedy="pin the root above it, or leave the intermediate out",
            )
        reached = [anchor.certificate for anchor in below]
        waiting = [anchor for anchor in waiting if anchor not in below]
