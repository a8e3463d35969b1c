"""The certificate that somebody wants to pin: found by its whole fingerprint, and checked before anything is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec

from federation.cli.pin_files import read_bounded
from federation.core.errors import FederationError, InvalidValue
from federation.core.pki.certificate import Certificate
from federation.core.pki.pem import parse_certificates
from federation.status.model import BundleView, ControllerView, ProposalView
from federation.status.text import printable

MOST_SHOWN: Final = 300
"""Characters of what another machine says."""


class ProposedAnchor(ProposalView, frozen=True, kw_only=True):
    """A proposal with the certificate itself; empty where an earlier version of the hub answers."""

    pem: str = ""


class TrustAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What of the status API's answer concerns anchors."""

    trust_domain: str
    bundle: BundleView | None
    controllers: list[ControllerView]
    proposals: list[ProposedAnchor]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A self-signed CA of the fingerprint that was given. ``cluster`` is empty where it is no member's own."""

    certificate: Certificate
    origin: str
    cluster: str

    @property
    def lines(self) -> list[str]:
        """What a person looks at before accepting it."""
        certificate = self.certificate
        return [
            f"subject  {certificate.subject}",
            f"sha256   {certificate.sha256}",
            f"valid    {_day(certificate.not_before)} to {_day(certificate.not_after)}",
            f"origin   {self.origin}",
            f"cluster  {self.cluster or 'of none'}",
        ]


def from_file(path: Path, sha256: str, *, cluster: str, now: datetime) -> Candidate:
    """The certificate of that fingerprint in a file; raises FederationError."""
    certificate = read_certificate(path, sha256)
    return _checked(Candidate(certificate, f"the file {path}", cluster), now)


def from_proposals(
    proposals: Sequence[ProposedAnchor], sha256: str, *, cluster: str, now: datetime
) -> Candidate:
    """The one that the hub proposes under that fingerprint; raises FederationError.

    Whose own CA it is follows from where it was found, unless that is no cluster or several.
    """
    matches = [proposal for proposal in proposals if proposal.sha256 == sha256]
    if not matches:
        raise FederationError(
            "no open proposal has this fingerprint",
            where=sha256,
            remedy="see `federation trust list`; --from-file takes a certificate that the hub has not found",
        )
    found_in = sorted({printable(proposal.cluster) for proposal in matches if proposal.cluster})
    if cluster and found_in and cluster not in found_in:
        raise FederationError(
            f"it was not found in {cluster} but in {', '.join(found_in)}"[:MOST_SHOWN],
            where=sha256,
            remedy="give --cluster the name of one of these, or leave it out",
        )
    pem = next((proposal.pem for proposal in matches if proposal.pem), "")
    if not pem:
        raise FederationError(
            "the hub does not give the certificate itself",
            where=sha256,
            remedy="take it from its owner, and accept it with --from-file",
        )
    where = "the hub's answer"
    certificate = _of(parse_certificates(pem.encode("ascii", "replace"), where=where), sha256, where)
    origins = sorted({_told(proposal) for proposal in matches})
    only = found_in[0] if len(found_in) == 1 else ""
    return _checked(Candidate(certificate, "; ".join(origins)[:MOST_SHOWN], cluster or only), now)


def read_certificate(path: Path, sha256: str) -> Certificate:
    """The certificate of that fingerprint in a PEM file; raises FederationError."""
    return _of(parse_certificates(read_bounded(path), where=str(path)), sha256, str(path))


def _of(certificates: Sequence[Certificate], sha256: str, where: str) -> Certificate:
    for certificate in certificates:
        if certificate.sha256 == sha256:
            return certificate
    found = ", ".join(f"{c.subject or 'no subject'} ({c.sha256})" for c in certificates[:3])
    raise InvalidValue(
        f"it holds {found}, not the certificate of this fingerprint",
        where=where,
        remedy="compare the whole fingerprint with the CA's owner",
    )


def _checked(candidate: Candidate, now: datetime) -> Candidate:
    """What a bundle takes, and what has not expired."""
    certificate, where = candidate.certificate, candidate.origin
    if not (certificate.is_ca and certificate.is_self_signed):
        what = "is not self-signed" if certificate.is_ca else "is not a CA certificate"
        raise InvalidValue(
            f"{certificate.subject or certificate.sha256} {what}, so it cannot be an anchor",
            where=where,
            remedy="give the fingerprint of the root above it",
        )
    if certificate.not_after <= now:
        raise InvalidValue(
            f"{certificate.subject or certificate.sha256} expired on {_day(certificate.not_after)}",
            where=where,
            remedy="nothing that it issued can be valid: there is nothing to accept it for",
        )
    return candidate


def _told(proposal: ProposedAnchor) -> str:
    place = f"cluster {proposal.cluster}: " if proposal.cluster else ""
    return printable(f"{place}{proposal.origin}")


def _day(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d}"
