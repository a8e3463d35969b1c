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
from federation.core.pki.pem import find_certificate
from federation.status.model import BundleView, ControllerView, ProposalView
from federation.status.rotation_model import UnpinnedView
from federation.status.text import printable

MOST_SHOWN: Final = 300
"""Characters of what another machine says."""
OF_NONE: Final = "the own CA of none: rotations wait for no cluster but those that are found to hold it"


class ProposedAnchor(ProposalView, frozen=True, kw_only=True):
    """A proposal with the certificate itself; empty where an earlier version of the hub answers."""

    pem: str = ""


class TrustAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What of the status API's answer concerns anchors."""

    trust_domain: str
    bundle: BundleView | None
    controllers: list[ControllerView]
    proposals: list[ProposedAnchor]
    unpinned: list[UnpinnedView] = []


@dataclass(frozen=True, slots=True)
class Candidate:
    """A self-signed CA of the fingerprint that was given. ``clusters`` are those whose own CA it is, if any."""

    certificate: Certificate
    origin: str
    clusters: tuple[str, ...]

    @property
    def lines(self) -> list[str]:
        """What a person looks at before accepting it."""
        certificate = self.certificate
        return [
            f"subject  {certificate.subject}",
            f"sha256   {certificate.sha256}",
            f"valid    {_day(certificate.not_before)} to {_day(certificate.not_after)}",
            f"origin   {self.origin}",
            f"cluster  {', '.join(self.clusters) or OF_NONE}",
        ]


def from_file(path: Path, sha256: str, *, clusters: Sequence[str], shared: bool, now: datetime) -> Candidate:
    """The certificate of that fingerprint in a file; raises FederationError.

    A file does not tell whose own CA it is, so a person has to: of these clusters, or ``shared``, of none.
    """
    if not clusters and not shared:
        raise FederationError(
            "nobody said whose own CA it is, and rotations have to wait for what that goes on to issue",
            where=str(path),
            remedy="add --cluster NAME for every cluster that issues with it today, or --shared-root for a root "
            "that is no cluster's own",
        )
    certificate = read_certificate(path, sha256)
    return _checked(Candidate(certificate, f"the file {path}", tuple(clusters)), now)


def from_proposals(
    proposals: Sequence[ProposedAnchor], sha256: str, *, clusters: Sequence[str], shared: bool, now: datetime
) -> Candidate:
    """The one that the hub proposes under that fingerprint; raises FederationError.

    It is the own CA of every cluster that it was found in, unless a person says that it is ``shared``: of none.
    ``clusters`` only confirm that, or say it of an anchor that was found in none: were one left out that
    issues with it, no rotation would wait for what it issues.
    """
    matches = [proposal for proposal in proposals if proposal.sha256 == sha256]
    if not matches:
        raise FederationError(
            "no open proposal has this fingerprint",
            where=sha256,
            remedy="see `federation trust list`; --from-file takes a certificate that the hub has not found",
        )
    found_in = sorted({printable(proposal.cluster) for proposal in matches if proposal.cluster})
    strangers = sorted({*clusters} - {*found_in}) if found_in else []
    if strangers:
        raise FederationError(
            f"it was not found in {', '.join(strangers)} but in {', '.join(found_in)}"[:MOST_SHOWN],
            where=sha256,
            remedy="leave --cluster out: the pin names every cluster that it was found in",
        )
    pem = next((proposal.pem for proposal in matches if proposal.pem), "")
    if not pem:
        raise FederationError(
            "the hub does not give the certificate itself",
            where=sha256,
            remedy="take it from its owner, and accept it with --from-file",
        )
    where = "the hub's answer"
    certificate = _of(pem.encode("ascii", "replace"), sha256, where)
    origins = sorted({_told(proposal) for proposal in matches})
    whose = () if shared else tuple(found_in or clusters)
    return _checked(Candidate(certificate, "; ".join(origins)[:MOST_SHOWN], whose), now)


def read_certificate(path: Path, sha256: str) -> Certificate:
    """The certificate of that fingerprint in a PEM file; raises FederationError."""
    return _of(read_bounded(path), sha256, str(path))


def _of(pem: bytes, sha256: str, where: str) -> Certificate:
    try:
        return find_certificate(pem, sha256, where=where)
    except InvalidValue as error:
        error.remedy = error.remedy or "compare the whole fingerprint with the CA's owner"
        raise


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
