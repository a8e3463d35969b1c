"""Anchors that clusters hold but nobody has pinned: proposals, shown to a person and trusted by nobody.

They are seen in what other writers put into a cluster's ``istio-ca-root-cert``, which the hub replaces sooner
or later; so what was seen once is kept. One that was pinned and is not any more was answered: it is proposed
again only where it is found again. A cluster may be broken into: everything is bounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from msgspec.structs import replace

from federation.core.errors import InvalidValue
from federation.core.pki.pem import parse_certificates
from federation.state.documents import Proposal

MOST_OF_A_CLUSTER: Final = 16
MOST_TEXT: Final = 300  # characters of a name that somebody else has chosen
MOST_OF_ONE: Final = 16 * 1024
MOST_PEM: Final = 256 * 1024
"""Bytes of PEM in all: the report that carries them is one object. What comes after goes without, and is accepted
from a file."""


class Proposals:
    """Every anchor found in a registered cluster that is not pinned."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], Proposal] = {}
        self._pinned: set[str] = set()

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
                        subject=certificate.subject[:MOST_TEXT],
                        cluster=cluster,
                        origin=where,
                        not_after=certificate.not_after.timestamp(),
                        first_seen=now,
                        pem=certificate.pem.decode("ascii"),
                    )
                )

    def remember(self, proposals: Iterable[Proposal]) -> None:
        """Take over what was found earlier."""
        for proposal in proposals:
            self._keep(proposal)

    def open(self, *, pins: frozenset[str], clusters: Iterable[str]) -> list[Proposal]:
        """Those that no pin accepts, of the clusters that are registered."""
        answered, self._pinned = self._pinned - pins, set(pins)
        self._found = {key: found for key, found in self._found.items() if key[1] not in answered}
        registered = frozenset(clusters)
        return list(
            _bounded(
                proposal
                for (cluster, sha256), proposal in sorted(self._found.items())
                if sha256 not in pins and cluster in registered
            )
        )

    def _keep(self, proposal: Proposal) -> None:
        key = proposal.cluster, proposal.sha256
        if key in self._found:
            if not self._found[key].pem:  # found by an earlier version, which did not keep it
                self._found[key] = replace(self._found[key], pem=proposal.pem)
        elif sum(c == proposal.cluster for c, _ in self._found) < MOST_OF_A_CLUSTER:
            self._found[key] = proposal


def _bounded(proposals: Iterable[Proposal]) -> Iterator[Proposal]:
    left = MOST_PEM
    for proposal in proposals:
        size = len(proposal.pem)
        fits = size <= min(left, MOST_OF_ONE)
        left -= size if fits else 0
        yield proposal if fits else replace(proposal, pem="")
