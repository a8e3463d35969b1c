"""Which member each token key belongs to, where more than one publishes it.

A public key is no secret, so a member that publishes another's key has shown nothing. What counts instead, in this
order:

1. *proof*: the member has shown a token of an account of the hub's own (the probe's, istiod's) that this key signed.
   Such a token is made by that member's API server alone and is seen by nobody but it and the hub, so who has it
   signed with the private key;
2. *age*: who published it first, as far as any signer remembers. What each one remembers is persisted
   (``callers_store.py``), so that a restart makes nobody the first.

Where neither decides, because the hub has found both at its very first look at each of them, the key is nobody's.
Keys are known by the SHA-256 of their SubjectPublicKeyInfo: a ``kid`` is only a name that anyone may use.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from math import isfinite
from typing import Final

from federation.core.errors import InvalidValue
from federation.core.identity import ClusterName
from federation.state.damage import damaged
from federation.state.documents import CallersTable, KeyClaim

MOST_CLAIMS: Final = 64
"""Of one member: as many keys as are read of it (``jwks.MAX_KEYS``). What is proved, then what is oldest, is kept."""

MOST_PERSISTED: Final = 8
"""Of one member. A cluster has one or two keys, and a few more that it rotated away."""

KEPT: Final = 30 * 86400.0
"""Seconds for which a claim outlives the key: no token that a key signed is accepted for so long after."""

SEEN_AGAIN: Final = 86400.0  # seconds between two notes that a key is still published
SAME_START: Final = 60.0
"""Seconds within which members are looked at for the first time when a hub starts: no order says anything there."""

_KEY_CHARACTERS: Final = 64


@dataclass(frozen=True, slots=True)
class Claim:
    """That one member publishes one key; times are seconds since the epoch."""

    first: float  # when it was first seen there
    seen: float  # when it was last seen there, to a day
    proved: bool = False


@dataclass(frozen=True, slots=True)
class Holder:
    """The member that a key belongs to, and its claim."""

    cluster: str
    claim: Claim


Claims = Mapping[str, Mapping[str, Claim]]
"""For each member its keys, in hex, each with the claim to it."""


class KeyClaims:
    """What is known of them. ``open`` once what was persisted has been read: before, nothing is decided by age."""

    def __init__(self) -> None:
        self._claims: dict[str, dict[str, Claim]] = {}
        self.open = False
        self.news = asyncio.Event()
        """Set while there is something that is not persisted yet."""

    def published(self, cluster: str, keys: Iterable[str], *, at: float) -> None:
        """The member's published keys, as of ``at``."""
        held = self._claims.setdefault(cluster, {})
        for key in keys:
            claim = held.get(key)
            if claim is None:
                held[key] = Claim(at, at)
                self.news.set()
            elif at - claim.seen > SEEN_AGAIN:
                held[key] = replace(claim, seen=at)
                self.news.set()
        self._bound(held, at)

    def prove(self, cluster: str, key: str) -> None:
        """The member has shown a token of the hub's own account there that this key signed."""
        claim = self._claims.get(cluster, {}).get(key)
        if claim is not None and not claim.proved:
            self._claims[cluster][key] = replace(claim, proved=True)
            self.news.set()

    def adopt(self, others: Claims) -> None:
        """What a signer has persisted: the earliest sight of a key counts, and every proof."""
        for cluster, keys in others.items():
            held = self._claims.setdefault(cluster, {})
            for key, theirs in keys.items():
                own = held.get(key, theirs)
                merged = Claim(
                    min(own.first, theirs.first), max(own.seen, theirs.seen), own.proved or theirs.proved
                )
                if held.get(key) != merged:
                    held[key] = merged
                    self.news.set()
            self._bound(held, 0.0)

    @staticmethod
    def _bound(held: dict[str, Claim], now: float) -> None:
        """Forget what is older than :data:`KEPT`, and of more than :data:`MOST_CLAIMS` those that say least."""
        for key in [key for key, claim in held.items() if claim.seen + KEPT < now]:
            del held[key]
        if len(held) > MOST_CLAIMS:
            for key in _ranked(held)[MOST_CLAIMS:]:
                del held[key]

    def of(self, cluster: str, key: str) -> Claim | None:
        """The member's claim to the key, None where it has none."""
        return self._claims.get(cluster, {}).get(key)

    def signs_with_another(self, cluster: str, key: str) -> bool:
        """True where the member has proved other keys and not this one: then it is hardly its own."""
        held = self._claims.get(cluster, {})
        return any(claim.proved for claim in held.values()) and not (key in held and held[key].proved)

    def holder(self, keys: Collection[str], among: Iterable[str]) -> Holder | None:
        """Which of these members has the best claim to one of ``keys``; None where none has a better one.

        More than one key is given where several verify one signature, which the maker of a key can bring about for
        a token that it has seen.
        """
        claimed = [
            (not claim.proved, claim.first, cluster, claim)
            for cluster in among
            for key in keys
            if (claim := self.of(cluster, key)) is not None
        ]
        claimed.sort(key=lambda entry: entry[:3])
        if not claimed:
            return None
        _, _, cluster, claim = claimed[0]
        for _, _, other, theirs in claimed[1:]:
            if other != cluster and self._equal(cluster, claim, other, theirs):
                return None
        return Holder(cluster, claim)

    def _equal(self, one: str, claim: Claim, other: str, theirs: Claim) -> bool:
        """Whether neither is better: both unproved, and found when the hub first looked at either member."""
        return (
            claim.proved == theirs.proved
            and theirs.first - claim.first < SAME_START
            and claim.first <= self._first_look(one)
            and theirs.first <= self._first_look(other)
        )

    def _first_look(self, cluster: str) -> float:
        return min((claim.first for claim in self._claims.get(cluster, {}).values()), default=0.0)

    def document(self) -> dict[str, list[KeyClaim]]:
        """The form that is persisted; :attr:`news` is over from then on."""
        self.news.clear()
        return {
            cluster: [
                KeyClaim(key=key, first=claim.first, seen=claim.seen, proved=claim.proved)
                for key in _ranked(held)[:MOST_PERSISTED]
                for claim in (held[key],)
            ]
            for cluster, held in sorted(self._claims.items())
            if held
        }


def _ranked(held: Mapping[str, Claim]) -> list[str]:
    """The keys of one member, those first that are kept longest."""
    return sorted(held, key=lambda key: (not held[key].proved, held[key].first, key))


def claims_in(table: CallersTable, *, key: str) -> Claims:
    """What a table holds of claims; raises StateDamaged for what cannot be one."""
    found: dict[str, dict[str, Claim]] = {}
    for cluster, claims in table.keys.items():
        try:
            ClusterName(cluster)
        except InvalidValue as error:
            raise damaged(error.what, key=key, where=key) from None
        if len(claims) > MOST_PERSISTED:
            raise damaged("a cluster has more token keys than are kept", key=key, where=key)
        for claim in claims:
            well_formed = len(claim.key) == _KEY_CHARACTERS and set(claim.key) <= set("0123456789abcdef")
            if not (well_formed and 0 <= claim.first <= claim.seen and isfinite(claim.seen)):
                raise damaged("it says of a token key what cannot be", key=key, where=key)
            found.setdefault(cluster, {})[claim.key] = Claim(claim.first, claim.seen, claim.proved)
    return found
