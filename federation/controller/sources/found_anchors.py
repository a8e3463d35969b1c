"""Anchors that clusters hold but no one has pinned: proposals, shown to a person and trusted by no process.

They are seen in what other writers put into a cluster's ``istio-ca-root-cert``, which the hub replaces sooner or
later; so what was seen once stays. It ends when a pin accepts it, when an operator dismisses it, or when the cluster
holds it no longer without the hub having written over it. One that was pinned and is not any more was answered: it is
proposed again only where it is found again, and so is one that was dismissed and has been away since.

A cluster may be broken into: what is remembered of each is bounded, and takes nothing from the others.

What was found is in the state store: it outlives the process that found it. Each cluster has a document of its own,
written when something has changed. What the report shows is what is persisted, so that nothing is shown that the next
restart would forget. Where a document cannot be written or read, what is known is shown all the same, and so is the
reason.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256 as digest_of
from typing import Final, TypeAlias

from msgspec.structs import replace

from federation.core.documents.controller import ControllerReport
from federation.core.documents.encoding import decode, encode
from federation.core.documents.keys import CONTROLLERS, PROPOSALS, StateDamaged
from federation.core.documents.trust import Dismissal, FoundAnchors, Proposal
from federation.core.errors import InvalidValue, StateUnavailable
from federation.core.pki.certificate import Certificate
from federation.core.pki.pem import parse_certificates, readable_certificates
from federation.core.rotation.record import OperationRefused
from federation.state.store import StateStore, Stored, read_many

_logger = logging.getLogger(__name__)

AUTHORITIES: Final = ""
"""In place of a cluster: what back ends name. No cluster has this name."""

MOST_OF_A_CLUSTER: Final = 16
MOST_DISMISSED: Final = 64  # of a cluster; they end by themselves once it holds them no longer
MOST_PLACES: Final = 8
MOST_TEXT: Final = 300  # characters of a name that others have chosen
MOST_OF_ONE: Final = 16 * 1024
MOST_PEM: Final = 256 * 1024
"""Bytes of PEM in all: the report that carries them is one object. Clusters take turns for it; what comes after goes
without, and is accepted from a file."""

MOST_PARSED: Final = 64

_Parsed: TypeAlias = tuple[tuple[Certificate, ...], bool]
"""The authorities among what can be read, and whether that is all of it."""


@dataclass(slots=True)
class _Cluster:
    found: dict[str, Proposal] = field(default_factory=dict)
    dismissed: dict[str, Dismissal] = field(default_factory=dict)
    crowded: bool = False


class Proposals:
    """Every anchor found in a registered cluster that is not pinned."""

    def __init__(self) -> None:
        self._clusters: dict[str, _Cluster] = {}
        self._pinned: frozenset[str] = frozenset()
        self._parsed: OrderedDict[bytes, _Parsed] = OrderedDict()

    def note_content(
        self, cluster: str, pem: bytes, *, where: str, now: float, place: str | None = None
    ) -> frozenset[str] | None:
        """Note the self-signed authorities in what another writer published in that cluster; their fingerprints.

        ``place`` is the namespace, "" for an object that is in none. None where not all of it can be read: the
        read-back reports that, and what can be read is noted.
        """
        return self.note(cluster, *self._read(pem), where=where, now=now, place=place)

    def note(
        self,
        cluster: str,
        certificates: Iterable[Certificate],
        whole: bool,
        *,
        where: str,
        now: float,
        place: str | None = None,
    ) -> frozenset[str] | None:
        """As :meth:`note_content`, of what was read already: its certificates, and whether these are the whole."""
        authorities = [c for c in certificates if c.is_ca and c.is_self_signed]
        one = self._of(cluster)
        for certificate in authorities:
            known = one.found.get(certificate.sha256)
            if known is not None and known.pem and (place is None or place in known.places):
                continue  # it is read again and again
            if known is None and len(one.found) >= MOST_OF_A_CLUSTER and one.crowded:
                continue
            self._remember(
                Proposal(
                    sha256=certificate.sha256,
                    subject=certificate.subject[:MOST_TEXT],
                    cluster=cluster,
                    origin=where,
                    not_after=certificate.not_after.timestamp(),
                    first_seen=now,
                    pem=certificate.pem.decode("ascii"),
                    places=[] if place is None else [place],
                )
            )
        return frozenset(c.sha256 for c in authorities) if whole else None

    def remember(self, proposals: Iterable[Proposal]) -> None:
        """Take over what was found elsewhere: by an earlier version, or by a signer."""
        for proposal in proposals:
            self._remember(proposal)

    def restore(self, cluster: str, document: FoundAnchors) -> None:
        """Take over what was persisted of that cluster."""
        one = self._of(cluster)
        one.dismissed |= {dismissal.sha256: dismissal for dismissal in document.dismissed}
        one.found |= {proposal.sha256: proposal for proposal in document.found}
        one.crowded = document.crowded

    def settle(self, cluster: str, present: frozenset[str], *, hides: Callable[[str], bool]) -> None:
        """A complete reading of the cluster showed these anchors (SHA-256), and no others, in what others wrote.

        ``hides`` says of a place whether the hub has its own content there, or has not read it: what was seen there
        has not been removed by its writer.
        """
        one = self._clusters.get(cluster)
        if one is None:
            return
        remaining = {
            s: p for s, p in one.found.items() if s in present or not p.places or any(map(hides, p.places))
        }
        if len(remaining) < len(one.found):
            one.crowded = False
        one.found = remaining
        one.dismissed = {sha256: said for sha256, said in one.dismissed.items() if sha256 in present}

    def dismiss(self, dismissal: Dismissal, *, cluster: str | None = None) -> list[str]:
        """List it no longer: in that cluster alone, or wherever it was found; the names of these clusters.

        Once more for the same operation changes nothing. Raises OperationRefused.
        """
        some = {name: one for name, one in self._clusters.items() if cluster is None or name == cluster}
        done = [
            name
            for name, one in some.items()
            if dismissal.sha256 in one.dismissed
            and one.dismissed[dismissal.sha256].operation == dismissal.operation
        ]
        if done:
            return done
        having = {name: one for name, one in some.items() if dismissal.sha256 in one.found}
        if not having:
            raise OperationRefused(
                f"no open proposal has the fingerprint {dismissal.sha256[:80] or '(none given)'}",
                remedy="give the whole SHA-256 of one that `federation trust list` shows",
            )
        for name, one in having.items():
            if len(one.dismissed) >= MOST_DISMISSED:
                raise OperationRefused(
                    f"{len(one.dismissed)} anchors that {name or 'an authority'} still has were dismissed",
                    remedy="remove them there first: find who writes them",
                )
        for one in having.values():
            del one.found[dismissal.sha256]
            one.dismissed[dismissal.sha256] = dismissal
            one.crowded = False  # the next reading says whether it is still so
        return list(having)

    def documents(self, *, clusters: Iterable[str]) -> dict[str, FoundAnchors]:
        """What is to be persisted of each registered cluster, and of the back ends."""
        documents: dict[str, FoundAnchors] = {}
        for name in (AUTHORITIES, *clusters):
            one = self._clusters.get(name, _Cluster())
            documents[name] = FoundAnchors(
                found=[
                    proposal if len(proposal.pem) <= MOST_OF_ONE else replace(proposal, pem="")
                    for _, proposal in sorted(one.found.items())
                ],
                dismissed=[dismissal for _, dismissal in sorted(one.dismissed.items())],
                crowded=one.crowded,
            )
        return documents

    def open(self, *, pins: frozenset[str], clusters: Iterable[str]) -> list[Proposal]:
        """Those that no pin accepts, of the clusters that are registered."""
        self._pinned = pins
        for one in self._clusters.values():
            one.found = {sha256: proposal for sha256, proposal in one.found.items() if sha256 not in pins}
        return listed(self.documents(clusters=clusters))

    def _of(self, cluster: str) -> _Cluster:
        return self._clusters.setdefault(cluster, _Cluster())

    def _remember(self, proposal: Proposal) -> None:
        one, sha256 = self._of(proposal.cluster), proposal.sha256
        if sha256 in self._pinned or sha256 in one.dismissed:
            return
        known = one.found.get(sha256)
        if known is None:
            if len(one.found) < MOST_OF_A_CLUSTER:
                one.found[sha256] = proposal
            else:
                one.crowded = True
            return
        places = list(dict.fromkeys([*known.places, *proposal.places]))[:MOST_PLACES]
        pem = known.pem or proposal.pem  # an earlier version did not keep it
        if (places, pem) != (known.places, known.pem):
            one.found[sha256] = replace(known, places=places, pem=pem)

    def _read(self, pem: bytes) -> _Parsed:
        digest = digest_of(pem).digest()
        if digest in self._parsed:
            self._parsed.move_to_end(digest)
            return self._parsed[digest]
        whole = True
        try:
            certificates = parse_certificates(pem, where="")
        except InvalidValue:
            certificates, whole = readable_certificates(pem), False
        found = tuple(c for c in certificates if c.is_ca and c.is_self_signed), whole
        self._parsed[digest] = found
        if len(self._parsed) > MOST_PARSED:
            self._parsed.popitem(last=False)
        return found


def listed(documents: Mapping[str, FoundAnchors]) -> list[Proposal]:
    """All that is open, by cluster and fingerprint, within what a report holds of certificates."""
    each = {name: document.found for name, document in sorted(documents.items())}
    with_pem = frozenset(_with_pem(each))
    return [
        proposal if (name, proposal.sha256) in with_pem else replace(proposal, pem="")
        for name, found in each.items()
        for proposal in found
    ]


def _with_pem(each: Mapping[str, Sequence[Proposal]]) -> Iterator[tuple[str, str]]:
    """Clusters take turns, so that one that floods leaves the others theirs."""
    left = MOST_PEM
    for turn in range(MOST_OF_A_CLUSTER):
        for name, found in each.items():
            size = len(found[turn].pem) if turn < len(found) else 0
            if 0 < size <= min(left, MOST_OF_ONE):
                left -= size
                yield name, found[turn].sha256


_NO_CLUSTER: Final = "_authorities"  # no cluster's name begins so


class StoredProposals:
    """Only the leader may use it."""

    def __init__(self, store: StateStore, proposals: Proposals) -> None:
        self._store = store
        self._proposals = proposals
        self._kept: dict[str, FoundAnchors] = {}
        self._problems: dict[str, StateUnavailable] = {}
        self.complete = False
        """Whether all that is known has been persisted once: reports of earlier versions are then of no use."""

    async def load(self) -> None:
        """Take over what earlier leaders found. Raises StateUnavailable where the store fails.

        A document that is damaged stays as it is, and is a problem until it is restored or removed.
        """
        for key, stored in (await read_many(self._store, await self._store.keys(PROPOSALS))).items():
            name = key.removeprefix(PROPOSALS)
            name = AUTHORITIES if name == _NO_CLUSTER else name
            try:
                document = _document(key, stored)
            except StateDamaged as error:
                self._note(name, error)
                continue
            if document is not None:
                self._kept[name] = document
                self._proposals.restore(name, document)
        for key, stored in (await read_many(self._store, await self._store.keys(CONTROLLERS))).items():
            self._remember(key, stored)

    async def keep(self, *, clusters: Iterable[str], pins: frozenset[str]) -> bool:
        """Persist what has changed; True where something did. What fails is reported in :attr:`problems`."""
        names = list(clusters)
        self._proposals.open(pins=pins, clusters=names)
        changed = False
        for name, document in self._proposals.documents(clusters=names).items():
            if document == self._kept.get(name, FoundAnchors()) and name not in self._problems:
                continue
            try:
                damaged = isinstance(self._problems.get(name), StateDamaged)
                written = await self._mended(name, document) if damaged else document
                await self._store.write(_key(name), encode(written))
            except StateUnavailable as error:
                self._note(name, error)
                continue
            changed = True
            self._kept[name] = written
            self._problems.pop(name, None)
        self.complete = self.complete or not self._problems
        return changed

    def require(self, names: Iterable[str]) -> None:
        """Raises StateUnavailable where what is known of one of these could not be persisted."""
        for name in names:
            if name in self._problems:
                raise self._problems[name]

    def shown(self, *, clusters: Iterable[str], pins: frozenset[str]) -> list[Proposal]:
        """What is open of the registered clusters, as it is persisted."""
        documents = self._documents(clusters)
        return [proposal for proposal in listed(documents) if proposal.sha256 not in pins]

    def dismissed(self) -> list[str]:
        """The roots (SHA-256) that back ends name and an operator has dismissed."""
        return [dismissal.sha256 for dismissal in self._kept.get(AUTHORITIES, FoundAnchors()).dismissed]

    def problems(self, *, clusters: Iterable[str]) -> list[str]:
        """Why what is shown may not be all, or may not survive a restart."""
        names = list(clusters)
        crowded = [name for name, document in self._documents(names).items() if document.crowded]
        return [
            *(
                f"what was found in {name or 'authorities'} is not persisted: {error.diagnostics()}"
                for name, error in sorted(self._problems.items())
            ),
            *(
                f"{name or 'the authorities'}: more anchors that are not pinned were found than are listed"
                for name in crowded
            ),
        ]

    def _documents(self, clusters: Iterable[str]) -> dict[str, FoundAnchors]:
        names = [AUTHORITIES, *clusters]
        now = self._proposals.documents(clusters=names)
        return {
            name: self._kept.get(name, FoundAnchors())
            if self.complete and name not in self._problems
            else now[name]
            for name in names
        }

    async def _mended(self, name: str, document: FoundAnchors) -> FoundAnchors:
        """With what an operator has restored. Raises StateDamaged while it is damaged: nothing is written over that."""
        key = _key(name)
        restored = _document(key, await self._store.read(key))
        if restored is None:
            return document
        self._proposals.restore(name, restored)
        return self._proposals.documents(clusters=[name])[name]

    def _remember(self, key: str, stored: Stored | StateDamaged | None) -> None:
        """What a controller of an earlier version found, which had it in its report alone."""
        if not isinstance(stored, Stored):
            return
        try:
            report = decode(stored.data, ControllerReport, key=key)
        except StateDamaged:
            return
        if not report.proposals_stored:
            self._proposals.remember(report.proposals)

    def _note(self, name: str, error: StateUnavailable) -> None:
        if str(self._problems.get(name)) != str(error):
            _logger.error(
                "what was found cannot be persisted: %s", error.diagnostics(), extra={"cluster": name}
            )
        self._problems[name] = error.without_frames()


def _key(name: str) -> str:
    return f"{PROPOSALS}{name if name != AUTHORITIES else _NO_CLUSTER}"


def _document(key: str, stored: Stored | StateDamaged | None) -> FoundAnchors | None:
    if isinstance(stored, StateDamaged):
        raise stored
    return decode(stored.data, FoundAnchors, key=key) if stored is not None else None
