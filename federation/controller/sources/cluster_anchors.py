"""Anchors that clusters hold but nobody has pinned: proposals, shown to a person and trusted by nobody.

They are seen in what other writers put into a cluster's ``istio-ca-root-cert``, which the hub replaces; so
what was seen once is kept. A cluster may be broken into: everything is bounded.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from federation.core.errors import InvalidValue
from federation.core.pki.pem import parse_certificates
from federation.state.documents import Proposal

MOST_OF_A_CLUSTER: Final = 16


class Proposals:
    """Every anchor found in a registered cluster that is not pinned."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], Proposal] = {}

    def look(self, cluster: str, pem: bytes, *, where: str, now: float) -> None:
        """Note the self-signed authorities in what somebody else published in that cluster."""
        try:
            certificates = parse_certificates(pem, where=where)
        except InvalidValue:
            return  # the read-back reports what cannot be read
        for certificate in certificates:
            if certificate.is_ca and certificate.is_self_signed:
                self._keep(
                    Proposal(
                        sha256=certificate.sha256,
                        subject=certificate.subject,
                        cluster=cluster,
                        origin=where,
                        not_after=certificate.not_after.timestamp(),
                        first_seen=now,
                    )
                )

    def remember(self, proposals: Iterable[Proposal]) -> None:
        """Take over what was found earlier."""
        for proposal in proposals:
            self._keep(proposal)

    def open(self, *, pins: frozenset[str], clusters: Iterable[str]) -> list[Proposal]:
        """Those that no pin accepts, of the clusters that are registered."""
        registered = frozenset(clusters)
        return [
            proposal
            for (cluster, sha256), proposal in sorted(self._found.items())
            if sha256 not in pins and cluster in registered
        ]

    def _keep(self, proposal: Proposal) -> None:
        key = proposal.cluster, proposal.sha256
        if key not in self._found and sum(c == proposal.cluster for c, _ in self._found) < MOST_OF_A_CLUSTER:
            self._found[key] = proposal
