"""Every ordered pair of clusters, proved by handshakes, equal cases once, and why a pair does not validate.

A pair is valid only if a workload of the client's cluster and one of the server's shake hands whichever of the
contents in their clusters each of them trusts: the worst counts. Clusters are equal here where issuing chain,
contents, trust domain and kind of key are, and each one's own leaf is sound; a leaf that is not is tried by itself. So
200 clusters that agree cost a single handshake, and a cluster that differs costs its own cases only. What cannot be
tried is unknown, and unknown is not valid.

**Who takes part:** a cluster's probe leaf with the trust that was read back, or why there is none. **How it runs:**
off the event loop, in batches, so that everything else gets its turn meanwhile. **Why a pair fails:** the verdict is
the handshake's; the words come from the hub's own path validation of the same chain against the same trust, and from
which generation that trust is, so that an operator can act on them.

**What a proof still says by now** (pure): clusters may hold something else since than it was made with. A bundle that
is published, or an edit, is read back at once; the next proof follows within seconds. Until then a valid pair would
be green about what has not been tried.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, TypeAlias

from msgspec.structs import replace

from federation.controller.proof.handshake import Credential, HandshakeError, Side, handshake
from federation.core.documents.controller import Matrix
from federation.core.documents.trust import Generation
from federation.core.errors import InvalidValue
from federation.core.identity import SpiffeId
from federation.core.pki.certificate import Certificate
from federation.core.pki.chain import verify_chain
from federation.core.pki.keys import kind_of, load_private_key
from federation.core.pki.path_rules import Purpose
from federation.core.pki.pem import parse_certificates


@dataclass(frozen=True, slots=True)
class BundleContent:
    """One of the distinct contents that workloads of a cluster trust, as it was read back.

    ``where`` says who holds it, in words; ``generation`` is its number, 0 where it is none of ours. What
    cannot be read has no certificates and says in ``problem`` why.
    """

    sha256: str
    certificates: tuple[Certificate, ...]
    where: str
    generation: int = 0
    problem: str = ""


class ContentReader:
    """Reads contents; each is parsed once, because most clusters hold the same and hold it for months."""

    def __init__(self, *, most: int = 64) -> None:
        self._most = most
        self._parsed: OrderedDict[str, tuple[tuple[Certificate, ...], str]] = OrderedDict()

    def read(self, pem: bytes, *, sha256: str, where: str, generation: int = 0) -> BundleContent:
        """The content with that digest; what is no PEM of certificates gives one that trusts nothing."""
        if sha256 not in self._parsed:
            self._parsed[sha256] = _parse(pem)
            if len(self._parsed) > self._most:
                self._parsed.popitem(last=False)
        certificates, problem = self._parsed[sha256]
        return BundleContent(sha256, certificates, where, generation, problem)


def _parse(pem: bytes) -> tuple[tuple[Certificate, ...], str]:
    try:
        return parse_certificates(pem, where=""), ""
    except InvalidValue as error:
        return (), str(error)


@dataclass(frozen=True, slots=True)
class Participant:
    """A cluster that can be tried. ``contents`` has at least one entry, in the order of their digests.

    ``generation`` is the one that is meant for it where every namespace has that one, else 0.
    """

    cluster: str
    chain: tuple[Certificate, ...]
    key_pem: bytes = field(repr=False)
    identity: SpiffeId
    contents: tuple[BundleContent, ...]
    generation: int = 0

    def content(self, sha256: str) -> BundleContent | None:
        """The content of that digest."""
        return next((content for content in self.contents if content.sha256 == sha256), None)


@dataclass(frozen=True, slots=True)
class Absent:
    """A cluster that cannot be tried, and why, in words."""

    cluster: str
    reason: str


@dataclass(frozen=True, slots=True)
class Case:
    """One handshake to be tried: two clusters, each side trusting one of the contents of its own."""

    client: Participant
    server: Participant
    client_trust: BundleContent
    server_trust: BundleContent

    def credential(self, side: Side) -> Credential:
        """What that side brings to the handshake."""
        party, trust = (
            (self.client, self.client_trust) if side == "client" else (self.server, self.server_trust)
        )
        return Credential(
            chain=party.chain, key_pem=party.key_pem, trust=trust.certificates, identity=party.identity
        )


@dataclass(frozen=True, slots=True)
class PairRefusal:
    """Who refused whom and why; the same for every pair of clusters that are equal to the two."""

    side: Side
    what: str
    content: str  # digest of the content the refusing side trusted

    def words(self, client: Participant, server: Participant) -> str:
        """The reason for that pair."""
        refusing, refused = (client, server) if self.side == "client" else (server, client)
        trust = refusing.content(self.content)
        where = f" (trust of {trust.where} in {refusing.cluster})" if trust else ""
        return f"{refusing.cluster} does not accept the leaf of {refused.cluster}: {self.what}{where}"


@dataclass(frozen=True, slots=True)
class Explainer:
    """Explains against the generation in force and its anchors (self-signed or not) at one instant."""

    generation: Generation | None
    anchors: Sequence[Certificate]
    at: datetime

    def explain(self, case: Case, error: HandshakeError) -> PairRefusal:
        """Say why the case failed."""
        side = error.side
        if error.reason == "credential":
            side = "server" if side == "client" else "client"  # it is the other that has to accept it
        trust, other, purpose = (
            (case.client_trust, case.server, Purpose.SERVER)
            if side == "client"
            else (case.server_trust, case.client, Purpose.CLIENT)
        )
        match error.reason:
            case "certificate_refused":
                what = self._refused(other, trust, purpose, error)
            case "trust":
                what = f"what is there is no bundle of certificates: {trust.problem or error.what}"
            case "trust_domain":
                what = f"wrong trust domain: {error.what}"
            case "credential":
                what = f"that leaf cannot be used at all: {error.what}"
            case _:
                what = error.what
        return PairRefusal(side, what, trust.sha256)

    def _refused(
        self, other: Participant, trust: BundleContent, purpose: Purpose, error: HandshakeError
    ) -> str:
        try:
            verify_chain(other.chain, trust.certificates, self.at, purpose=purpose)
        except InvalidValue as problem:
            return (
                self._missing(other, trust, purpose, problem)
                if problem.reason == "no_anchor"
                else problem.what
            )
        return f"OpenSSL refuses it: {error.what}"

    def _missing(
        self, other: Participant, trust: BundleContent, purpose: Purpose, problem: InvalidValue
    ) -> str:
        """Which anchor would be needed, and whether it is on its way."""
        number = self.generation.number if self.generation else 0
        try:
            path = verify_chain(other.chain, self.anchors, self.at, purpose=purpose, partial=False)
        except InvalidValue:
            bundle = f"generation {number}" if number else "the bundle"
            return f"it reaches no anchor of {bundle} at all: {problem.what}"
        missing = f"the anchor {path[-1].subject} ({path[-1].sha256[:16]}) is missing there"
        if 0 < trust.generation < number:
            return (
                f"{missing}: generation {number} is not yet published, generation {trust.generation} is there"
            )
        if number and not trust.generation:
            return f"{missing}: another writer's content is there, not generation {number}"
        return missing


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
        refusals: Mapping[tuple[_ClassKey, _ClassKey], PairRefusal],
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
    """Whether the leaf is what its issuing chain makes of it, so that another's outcome is true of it too."""
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


BATCH: Final = 16
"""Pairs of classes in one go: some tens of milliseconds, after which a cancellation is noticed."""


async def prove(
    parties: Sequence[Participant | Absent],
    *,
    generation: Generation | None,
    anchors: Sequence[Certificate],
    at: datetime,
) -> Matrix:
    """The matrix of these clusters as of ``at``; ``anchors`` are those of ``generation``, which is in force."""
    plan = await asyncio.to_thread(ProofPlan.of, parties, at=at)
    pairs = list(plan.cases.items())
    outcomes: dict[tuple[tuple[object, ...], tuple[object, ...]], Failure | None] = {}
    for start in range(0, len(pairs), BATCH):
        batch = pairs[start : start + BATCH]
        results = await asyncio.to_thread(_run, [cases for _, cases in batch])
        outcomes.update(zip((pair for pair, _ in batch), results, strict=True))
    explainer = Explainer(generation, anchors, at)
    return await asyncio.to_thread(plan.matrix, outcomes, explainer)


def _run(batch: Sequence[Sequence[Case]]) -> list[Failure | None]:
    return [run_cases(cases, handshake) for cases in batch]


def apply_staleness(matrix: Matrix, stale_reasons: Mapping[str, str]) -> Matrix:
    """The matrix without what is valid of clusters that are not known now; ``stale_reasons`` says why of each of those.

    A failure stays: nothing says otherwise yet.
    """
    if not stale_reasons:
        return matrix
    rows: list[str] = []
    reasons = dict(matrix.reasons)
    columns = [column for column, name in enumerate(matrix.clusters) if name in stale_reasons]
    everywhere = range(len(matrix.clusters))
    for client, row in zip(matrix.clusters, matrix.rows, strict=True):
        cells = list(row)
        for column in everywhere if client in stale_reasons else columns:
            if cells[column] != "v":
                continue
            cells[column] = "?"
            if len(reasons) < MOST_REASONS:
                server = matrix.clusters[column]
                unknown = [
                    f"{name}: {stale_reasons[name]}" for name in (client, server) if name in stale_reasons
                ]
                reasons[f"{client}>{server}"] = "; ".join(unknown)
        rows.append("".join(cells))
    return replace(matrix, rows=rows, reasons=reasons, valid=sum(row.count("v") for row in rows))


class KnownMatrix:
    """The last proof as far as it is still known to be true; put together where that changes, not at each question."""

    def __init__(self) -> None:
        self._last: tuple[Matrix, Mapping[str, str], Matrix] | None = None

    def of(self, matrix: Matrix, stale_reasons: Mapping[str, str]) -> Matrix:
        """As :func:`apply_staleness`; the very same matrix where neither has changed since the last call."""
        if self._last is None or self._last[0] is not matrix or self._last[1] != stale_reasons:
            self._last = matrix, dict(stale_reasons), apply_staleness(matrix, stale_reasons)
        return self._last[2]
