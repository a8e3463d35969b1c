"""Which findings are causes and which follow from another one, so that each cause is reported once. Pure.

A :class:`Finding` says what it takes away from the rest of the federation (a connection, signing, the generation in
force) and what it rests on itself. One that rests on what another takes away is a consequence of that other one: it
is attached to it and not listed by itself. A cause is as severe as the severest of its consequences. What a finding
takes away and rests on is declared here by its code; a finding whose code is not named here neither explains another
nor is explained.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from msgspec.structs import replace

from federation.core.documents.keys import DAMAGED
from federation.status.model import Attention, Consequence, Severity

ORDER: Final[dict[Severity, int]] = {"critical": 0, "warning": 1, "notice": 2}
MOST_CONSEQUENCES: Final = 12
MATRIX: Final = "matrix"
"""The place of what follows for pairs."""

WITHHELD: Final = frozenset({"other_hub", "state_older"})
"""Reasons for which nothing is issued for a cluster, or written there, by what it was found to hold."""


class Need(StrEnum):
    """What a finding may take away and others may rest on."""

    STATE = "state"  # documents of the state store, by kind
    MESH = "mesh"  # a state of the mesh that is configured
    SOURCES = "sources"  # a trust source that has never been read
    LEADER = "leader"
    GENERATION = "generation"
    ROOT = "root"  # a root that is valid now
    INTERMEDIATE = "intermediate"  # of an authority, by its name
    CHAIN = "chain"  # what an authority says of itself, by its name
    AUTHORITY = "authority"
    SIGNER = "signer"  # a signer that reports, and is not ready
    SIGNERS = "signers"  # any signer that is ready
    LISTENER = "listener"  # the signers' listener, as clients verify it
    CONFIG = "config"
    CONNECTION = "connection"  # the hub to a member cluster
    WRITING = "writing"  # the bundle into a member cluster
    SIGNING = "signing"  # certificates for a member cluster
    PROBE = "probe"  # the leaf that a member cluster is proved with
    CLOCK = "clock"  # of a member cluster


Fact = tuple[Need, str]
"""A need and whose it is: the name of a cluster, a kind of document, or empty where it is the hub's."""

CLUSTER_NEEDS: Final = frozenset({Need.CONNECTION, Need.WRITING, Need.SIGNING, Need.PROBE, Need.CLOCK})

_TAKES: Final[Mapping[str, tuple[Need, ...]]] = {
    "another_mesh": (Need.MESH, Need.GENERATION, Need.AUTHORITY),
    "no_leader": (Need.LEADER,),
    "no_generation": (Need.GENERATION,),
    "no_anchor": (Need.GENERATION,),
    "no_signer": (Need.SIGNERS,),
    "signer_not_ready": (
        Need.MESH,
        Need.SIGNER,
    ),
    "source_unread": (Need.SOURCES,),
    "config_problem": (Need.CONFIG,),
    "listener_refused": (Need.LISTENER,),
    "listener_certificate": (Need.LISTENER,),
    "listener_unavailable": (Need.LISTENER,),
    "cluster_unavailable": (Need.CONNECTION,),
    "cluster_unknown": (Need.CONNECTION,),
    "signing_unavailable": (Need.SIGNING,),
    "signing_unknown": (Need.SIGNING,),
    "probe_failed": (Need.PROBE,),
    "publication_failed": (Need.WRITING,),
    "publication_forbidden": (Need.WRITING,),
    "publication_pending": (Need.WRITING,),
    "publication_unknown": (Need.WRITING,),
}
_RESTS_ON: Final[Mapping[str, tuple[Need, ...]]] = {
    "bundle_withheld": (Need.SOURCES,),
    "no_leader": (Need.MESH,),
    "no_generation": (Need.SOURCES, Need.LEADER),
    "no_signer": (Need.MESH, Need.AUTHORITY, Need.GENERATION, Need.SIGNER),
    "signer_not_ready": (Need.AUTHORITY, Need.GENERATION),
    "config_differs": (Need.CONFIG,),
    "listener_refused": (Need.SIGNERS, Need.AUTHORITY),
    "listener_unproved": (Need.SIGNERS, Need.SIGNER, Need.AUTHORITY, Need.LISTENER),
    "listener_certificate": (Need.SIGNERS, Need.AUTHORITY, Need.LISTENER),
    "listener_unavailable": (Need.SIGNERS, Need.AUTHORITY),
    "cluster_unavailable": (Need.LEADER,),
    "cluster_unknown": (Need.LEADER, Need.CONFIG),
    "cluster_degraded": (Need.LEADER, Need.GENERATION),
    "signing_unavailable": (Need.SIGNERS, Need.AUTHORITY, Need.GENERATION),
    "signing_degraded": (Need.SIGNERS, Need.AUTHORITY, Need.SIGNER),
    "signing_unknown": (Need.SIGNERS, Need.AUTHORITY),
    "publication_failed": (Need.CONNECTION, Need.GENERATION, Need.WRITING),
    "publication_forbidden": (Need.CONNECTION, Need.WRITING),
    "publication_pending": (Need.CONNECTION, Need.GENERATION, Need.WRITING),
    "publication_unknown": (Need.CONNECTION, Need.GENERATION, Need.LEADER),
    "other_writers": (Need.WRITING,),
    "clock_skew": (Need.CLOCK,),
    "probe_failed": (
        Need.CONNECTION,
        Need.SIGNERS,
        Need.AUTHORITY,
        Need.GENERATION,
        Need.LISTENER,
        Need.SIGNING,
    ),
    "control_plane_unknown": (Need.CONNECTION, Need.LEADER),
    "control_plane_failed": (Need.CONNECTION, Need.SIGNERS, Need.AUTHORITY, Need.LISTENER, Need.SIGNING),
    "serving_expiry": (Need.AUTHORITY,),
    "renewals_stopped": (Need.AUTHORITY, Need.LISTENER, Need.CONNECTION),
    "certificates_ended": (Need.AUTHORITY, Need.LISTENER, Need.CONNECTION),
    "successor_not_ready": (Need.ROOT,),
    "workloads_unknown": (Need.SIGNERS, Need.SIGNING),
    "rotation_waits_for_cluster": (Need.CONNECTION,),
    "rotation_stuck": (Need.CONNECTION,),
}
_HAS_ANOTHER_WAY: Final = frozenset({"rotation_waits_for_cluster"})
"""Consequences that something can be done about though their cause lasts."""

_DOCUMENTS: Final[Mapping[str, str]] = {
    "no_generation": "generations",
    "no_leader": "controllers",
    "no_signer": "signers",
    "rotation_unknown": "rotation",
    "rotation_problem": "rotation",
    "signer_directives": "rotation",
}
"""The kind of document of the state store that a finding is read from."""


def document_fact(key: str) -> Fact:
    """What a document of the state store takes away that cannot be used."""
    kind = key.partition("/")[0]
    return Need.STATE, {"current": "generations", "orders": "rotation"}.get(kind, kind)


def damage_facts(damaged: Iterable[str], *texts: str) -> list[Fact]:
    """What a process's own words about damaged documents rest on: those of the ``damaged`` ones that they are about.

    Empty where one of the texts is about something else, which is a cause of its own.
    """
    keys, found = list(damaged), list[Fact]()
    for text in texts:
        if DAMAGED not in text:
            return []
        about = [key for key in keys if re.search(rf"[/.]{re.escape(key)}: {DAMAGED}", text)]
        if not about and len(keys) == 1:
            about = keys  # an object's name may be written otherwise
        found += [document_fact(key) for key in about]
    return found


PAIR_UNKNOWN: Final = (
    Need.LEADER,
    Need.GENERATION,
    Need.CONNECTION,
    Need.SIGNERS,
    Need.AUTHORITY,
    Need.LISTENER,
    Need.SIGNING,
    Need.PROBE,
    Need.WRITING,
)
"""What the proof of a pair rests on."""

PAIR_FAILED: Final = (Need.ROOT, Need.CONNECTION)
"""A handshake that failed is explained only where it cannot be made again, or by roots that have all expired: else the
failure is a cause itself."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be: ``takes`` from others, ``rests_on`` facts in the order of their weight."""

    item: Attention
    takes: frozenset[Fact] = frozenset()
    rests_on: tuple[Fact, ...] = ()


def finding(
    item: Attention, *, takes: Iterable[Fact] | None = None, rests_on: Iterable[Fact] = ()
) -> Finding:
    """The finding of an item, with what its code declares; ``rests_on`` adds to that, ``takes`` replaces it."""
    facts = _facts(_TAKES.get(item.code, ()), item.clusters) if takes is None else takes
    needs = _facts(_RESTS_ON.get(item.code, ()), item.clusters)
    if item.code in _DOCUMENTS:
        needs = [(Need.STATE, _DOCUMENTS[item.code]), *needs]
    return Finding(item, frozenset(facts), (*rests_on, *needs))


def _facts(needs: Iterable[Need], clusters: Sequence[str]) -> list[Fact]:
    return [(need, name) for need in needs for name in (clusters if need in CLUSTER_NEEDS else ("",))]


class Causes:
    """Findings sorted into causes and what follows from them."""

    def __init__(self, findings: Iterable[Finding]) -> None:
        self._findings = list(findings)
        self._takers: dict[Fact, int] = {}
        for index, found in enumerate(self._findings):
            for fact in found.takes:
                self._takers.setdefault(fact, index)
        self._roots = [self._root(index) for index in range(len(self._findings))]
        self._pairs: dict[frozenset[int], dict[str, int]] = {}

    def _parent(self, index: int) -> int | None:
        for fact in self._findings[index].rests_on:
            taker = self._takers.get(fact)
            if taker is not None and taker != index:
                return taker
        return None

    def _root(self, index: int) -> int:
        """Where the way from finding to cause ends; of findings that rest on one another, the first."""
        path = [index]
        while (parent := self._parent(path[-1])) is not None:
            if parent in path:
                return min(path[path.index(parent) :])
            path.append(parent)
        return path[-1]

    def of(self, needs: Iterable[Need], cluster: str = "") -> int | None:
        """The cause that takes one of these needs away from the hub or, if named, from the cluster; None without."""
        for need in needs:
            whose = cluster if need in CLUSTER_NEEDS else ""
            taker = self._takers.get((need, whose))
            if taker is not None:
                return self._roots[taker]
        return None

    def note_pairs(self, causes: frozenset[int], result: str, count: int) -> None:
        """``count`` ordered pairs are not valid, and each of these explains them."""
        counts = self._pairs.setdefault(causes, {})
        counts[result] = counts.get(result, 0) + count

    def items(self) -> list[tuple[int, Attention]]:
        """The causes with what follows from them but for pairs, in the order of the findings."""
        following: dict[int, list[Attention]] = {}
        for index, root in enumerate(self._roots):
            if root != index:
                following.setdefault(root, []).append(self._findings[index].item)
        return [
            (index, with_consequences(found.item, [_consequence(item) for item in following.get(index, [])]))
            for index, found in enumerate(self._findings)
            if self._roots[index] == index
        ]

    def with_pairs(self, item: Attention, causes: AbstractSet[int], *, pairs: int) -> Attention:
        """The item with the pairs that any of these causes explains, each counted once; ``pairs`` are all of them."""
        if not causes:
            return item
        counts: dict[str, int] = {}
        for explained_by, found in self._pairs.items():
            if explained_by & causes:
                for result, count in found.items():
                    counts[result] = counts.get(result, 0) + count
        return with_consequences(item, list(_of_pairs(counts, pairs)))


def with_consequences(item: Attention, consequences: Sequence[Consequence]) -> Attention:
    """The item with these added, alike ones as one, and as severe as the severest of them."""
    alike: dict[tuple[str, Severity], list[Consequence]] = {}
    for each in (*item.consequences, *consequences):
        alike.setdefault((each.code, each.severity), []).append(each)
    merged = [
        replace(
            same[0],
            count=sum(each.count for each in same),
            clusters=list(dict.fromkeys(name for each in same for name in each.clusters)),
        )
        for same in alike.values()
    ]
    merged.sort(key=lambda each: ORDER[each.severity])
    severity = min((item.severity, *(each.severity for each in merged)), key=ORDER.__getitem__)
    return replace(item, severity=severity, consequences=merged[:MOST_CONSEQUENCES])


def _consequence(item: Attention) -> Consequence:
    return Consequence(
        severity=item.severity,
        code=item.code,
        detail=item.fact or item.detail,
        where=item.where,
        remedy=item.remedy if item.code in _HAS_ANOTHER_WAY else "",
        clusters=item.clusters,
    )


def _of_pairs(counts: Mapping[str, int], pairs: int) -> Iterable[Consequence]:
    words = {"failed": "fail", "unknown": "cannot be proved"}
    for result, count in counts.items():
        yield Consequence(
            severity="warning",
            code=f"pairs_{result}",
            detail=f"{count:,} of {pairs:,} ordered pairs {words[result]}",
            where=MATRIX,
            count=count,
        )


def affected_pairs(item: Attention) -> int:
    """How many ordered pairs are not valid because of it, as far as they are not what it is about."""
    return sum(each.count for each in item.consequences if each.where == MATRIX)


def consequences_text(item: Attention) -> str:
    """What follows from a cause, in a sentence; empty where nothing does."""
    return "; ".join(
        f"{each.sentence if each.where != MATRIX else each.detail}{_more(each)}{_or(each)}"
        for each in item.consequences
    )


def _or(each: Consequence) -> str:
    return f" ({each.remedy})" if each.remedy else ""


def _more(each: Consequence) -> str:
    return f" (and {each.count - 1:,} more)" if each.count > 1 and each.where != MATRIX else ""
