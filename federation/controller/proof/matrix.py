"""Every ordered pair of clusters, proved by handshakes, equal cases once.

A pair is valid only if a workload of the client's cluster and one of the server's shake hands whatever of the
contents held in their clusters each of them trusts: the worst counts. Clusters are equal here where issuing
chain, held contents, trust domain and kind of key are, and each one's own leaf is sound; a leaf that is not
stands for itself. So 200 clusters that agree cost a single handshake, and a cluster that differs costs its
own cases only.

What cannot be tried is unknown, and unknown is not valid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeAlias

from federation.controller.proof.explain import Explainer, Refusal
from federation.controller.proof.handshake import HandshakeError
from federation.controller.proof.participants import Absent, Case, Participant
from federation.core.errors import InvalidValue
from federation.core.pki.chain import Purpose, verify_chain
from federation.core.pki.keys import kind_of, load_private_key
from federation.state.documents import Matrix

MOST_REASONS: Final = 5000
"""Bounds the report: with 200 clusters, a hundred that fail give 30,000 pairs with much the same words."""

_ClassKey: TypeAlias = tuple[object, ...]
Handshake: TypeAlias = Callable[..., str]


@dataclass(frozen=True)
class ProofPlan:
    """Which handshakes decide the matrix, and how their outcomes make it up."""

    parties: tuple[Participant | Absent, ...]
    classes: Mapping[str, _ClassKey]
    cases: Mapping[tuple[_ClassKey, _ClassKey], tuple[Case, ...]]

    @classmethod
    def of(cls, parties: Sequence[Participant | Absent], *, at: datetime) -> ProofPlan:
        """Plan for these clusters, in their order; ``at`` is for judging each leaf by itself."""
        present = [party for party in parties if isinstance(party, Participant)]
        classes = {party.cluster: _class_of(party, at) for party in present}
        members: dict[_ClassKey, list[Participant]] = {}
        for party in present:
            members.setdefault(classes[party.cluster], []).append(party)
        cases: dict[tuple[_ClassKey, _ClassKey], tuple[Case, ...]] = {}
        for client_class, clients in members.items():
            for server_class, servers in members.items():
                pair = _representatives(clients, servers)
                if pair is not None:
                    cases[client_class, server_class] = tuple(_cases(*pair))
        return cls(tuple(parties), classes, cases)

    @property
    def handshakes(self) -> int:
        """How many handshakes the plan takes."""
        return sum(len(cases) for cases in self.cases.values())

    def matrix(
        self,
        outcomes: Mapping[tuple[_ClassKey, _ClassKey], Failure | None],
        explainer: Explainer,
    ) -> Matrix:
        """The matrix by the outcome of each pair of classes, with the words of ``explainer``."""
        refusals = {
            pair: explainer.explain(failure.case, failure.error)
            for pair, failure in outcomes.items()
            if failure is not None
        }
        rows: list[str] = []
        reasons: dict[str, str] = {}
        for client in self.parties:
            row = ""
            for server in self.parties:
                cell, reason = self._cell(client, server, outcomes, refusals)
                row += cell
                if reason and len(reasons) < MOST_REASONS:
                    reasons[f"{client.cluster}>{server.cluster}"] = reason
            rows.append(row)
        count = len(self.parties)
        return Matrix(
            computed=explainer.at.timestamp(),
            clusters=[party.cluster for party in self.parties],
            rows=rows,
            reasons=reasons,
            pairs=count * (count - 1),
            valid=sum(row.count("v") for row in rows),
            handshakes=self.handshakes,
        )

    def _cell(
        self,
        client: Participant | Absent,
        server: Participant | Absent,
        outcomes: Mapping[tuple[_ClassKey, _ClassKey], Failure | None],
        refusals: Mapping[tuple[_ClassKey, _ClassKey], Refusal],
    ) -> tuple[str, str]:
        if client.cluster == server.cluster:
            return "-", ""
        absent = [
            f"{party.cluster}: {party.reason}" for party in (client, server) if isinstance(party, Absent)
        ]
        if absent or isinstance(client, Absent) or isinstance(server, Absent):
            return "?", "; ".join(absent)
        pair = self.classes[client.cluster], self.classes[server.cluster]
        if pair not in outcomes:
            return "?", "this pair was not tried"
        if pair in refusals:
            return "x", refusals[pair].words(client, server)
        return "v", ""


@dataclass(frozen=True, slots=True)
class Failure:
    """The first case of a pair of classes that failed."""

    case: Case
    error: HandshakeError


def run_cases(cases: Sequence[Case], handshake: Handshake) -> Failure | None:
    """Try the cases of one pair of classes until one fails. Blocks: keep it off the event loop."""
    for case in cases:
        try:
            handshake(client=case.credential("client"), server=case.credential("server"))
        except HandshakeError as error:
            return Failure(case, error)
    return None


def _class_of(party: Participant, at: datetime) -> _ClassKey:
    leaf = party.chain[0]
    contents = tuple(content.sha256 for content in party.contents)
    issuers = tuple(certificate.sha256 for certificate in party.chain[1:])
    if not issuers or not _is_sound(party, at):
        issuers = (leaf.sha256,)
    return issuers, contents, party.identity.trust_domain, kind_of(leaf.public_key)


def _is_sound(party: Participant, at: datetime) -> bool:
    """Whether the leaf is what its issuing chain makes of it, so that another's outcome tells about it too."""
    if party.chain[0].uris != (str(party.identity),):
        return False
    try:
        key = load_private_key(party.key_pem, where=party.cluster)
        verify_chain(party.chain, party.chain[1:], at, purpose=Purpose.BOTH)
    except InvalidValue:
        return False
    return key.public_key() == party.chain[0].public_key


def _representatives(
    clients: Sequence[Participant], servers: Sequence[Participant]
) -> tuple[Participant, Participant] | None:
    client = clients[0]
    return next(((client, server) for server in servers if server.cluster != client.cluster), None)


def _cases(client: Participant, server: Participant) -> Iterator[Case]:
    """Each content of either side once: what the client accepts does not depend on what the server trusts."""
    for i in range(max(len(client.contents), len(server.contents))):
        yield Case(
            client,
            server,
            client.contents[min(i, len(client.contents) - 1)],
            server.contents[min(i, len(server.contents) - 1)],
        )
