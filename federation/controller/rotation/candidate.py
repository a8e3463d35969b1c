"""Whether a proposed authority may take over: judged before anything of it is published. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from federation.core.errors import AuthorityMisconfigured, InvalidValue
from federation.core.identity import TrustDomain
from federation.core.pki.authority_check import check_intermediate
from federation.core.pki.certificate import Certificate
from federation.core.pki.pem import parse_certificates
from federation.core.trust.rotation.record import Side
from federation.state.documents import AuthorityReport, SignerReport


def side_of(report: AuthorityReport | None, roots: Sequence[Certificate], at: datetime) -> Side | str:
    """The authority of a signer's report as a side of a rotation; in words why it cannot be one."""
    if report is None:
        return "no signer reports it"
    if not report.chain_pem:
        words = "; ".join(filter(None, (report.detail, report.remedy)))
        return words or f"{report.name} does not say what its chain is yet"
    try:
        chain = parse_certificates(report.chain_pem.encode(), where=f"the chain of {report.name}")
        path = check_intermediate(chain, chain[0].public_key, roots, at)
    except (InvalidValue, AuthorityMisconfigured) as error:
        return str(error)
    return Side(
        intermediate=path[0].sha256,
        root=path[-1].sha256,
        subject=path[0].subject,
        root_subject=path[-1].subject,
    )


def signing_of(
    signers: Mapping[str, SignerReport], roots: Sequence[Certificate], at: datetime
) -> dict[str, Side]:
    """What each signer signs with now, by its report; one that signs with nothing that is known is left out."""
    found: dict[str, Side] = {}
    for replica, report in signers.items():
        for authority in (report.authority, report.successor):
            if authority is None or not report.signs or authority.sha256 != report.signs:
                continue
            side = side_of(authority, roots, at)
            if isinstance(side, Side):
                found[replica] = side
                break
    return found


def offered_by(
    signers: Mapping[str, SignerReport], roots: Sequence[Certificate], at: datetime
) -> dict[str, list[Side]]:
    """What each signer could sign with, whether it may or not; what is not ready or not below a root is left out."""
    found: dict[str, list[Side]] = {}
    for replica, report in signers.items():
        ready = (a for a in (report.authority, report.successor) if a is not None and a.state == "ready")
        sides = (side_of(authority, roots, at) for authority in ready)
        found[replica] = [side for side in sides if isinstance(side, Side)]
    return found


def problem_of(
    old: Sequence[Certificate],
    new: Sequence[Certificate],
    *,
    signers: Mapping[str, SignerReport],
    trust_domain: TrustDomain,
    hosts: Sequence[str],
    ztunnel: bool,
    longest_ttl: timedelta,
    soak: timedelta,
    at: datetime,
) -> str:
    """Why the authority whose chain is ``new`` (intermediate first, root last) must not be used; empty where it may.

    ``old`` is the chain in use and ``hosts`` are the servers that it is to sign for; ``ztunnel``: it is
    verified by ztunnels as well. Judged are what verifiers of a
    mesh ask of an issuer and that its name constraints permit all names, that it lives long enough to be
    worth it, that nothing of it can be mistaken for the old one (equal names make verifiers try the wrong
    key), and that every signer has had it sign.
    """
    if not new:
        return "its chain is not known"
    try:
        check_intermediate(
            tuple(new[:-1]),
            new[0].public_key,
            new[-1:],
            at,
            trust_domain=trust_domain,
            hosts=hosts,
            ztunnel=ztunnel,
        )
    except (InvalidValue, AuthorityMisconfigured) as error:
        return str(error)
    ends = min(certificate.not_after for certificate in new)
    needed = 2 * longest_ttl + soak
    if at + needed > ends:
        return f"it ends at {ends:%Y-%m-%d %H:%M} UTC: soaking and draining alone take up to {needed}"
    for theirs in old:
        for own in new:
            clash = _clash(theirs, own)
            if clash:
                return clash
    return next((why for why in (_unsigned(new[0], r, s) for r, s in sorted(signers.items())) if why), "")


def _clash(old: Certificate, new: Certificate) -> str:
    if old == new:
        return ""  # the same root above two intermediates
    if old.public_key == new.public_key:
        return f"{new.subject} has the key of {old.subject}: a rotation needs a new key"
    if old.x509.subject == new.x509.subject:
        return f"{new.subject} bears the name of the certificate it is to replace: give it a name of its own"
    if old.key_id == new.key_id:
        return f"{new.subject} has the key identifier of {old.subject}: give it one of its own"
    return ""


def _unsigned(intermediate: Certificate, replica: str, signer: SignerReport) -> str:
    successor = signer.successor
    if successor is None:
        return f"{replica} has no [signer.successor]: give every signer the same configuration"
    if successor.sha256 != intermediate.sha256:
        return f"{replica} holds another one: {successor.subject or successor.detail or 'none'}"
    if successor.state != "ready":
        return f"{replica} has not signed with it: {successor.detail or successor.state}"
    return ""
