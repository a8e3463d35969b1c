"""One cluster's token keys: fetched from its own API server, kept for a while; and which member a key belongs to.

A key that is not known is looked for. Keys come over the authenticated session from the fixed paths of the service
account issuer discovery; a ``jwks_uri`` that points elsewhere is not followed, because a cluster must not choose
where the hub connects. What was fetched last stays in use while the cluster cannot be asked, but for no longer than
:data:`LONGEST_USE`: a key that was withdrawn because it leaked is then worth nothing here either. Past that,
TokenReview decides.

**Where more than one member publishes a key:** a public key is no secret, so a member that publishes another's key
has shown nothing. What counts instead, in this order:

1. *proof*: the member has shown a token of an account of the hub's own (the probe's, istiod's) that this key signed.
   Such a token is made by that member's API server alone and is seen by no process but it and the hub, so a member
   that has it signed with the private key;
2. *age*: who published it first, as far as any signer remembers. What each one remembers is persisted
   (``signer/callers.py``), so that a restart makes no other member the first.

Where neither decides, because the hub has found both at its very first look at each of them, the key belongs to no
member. Keys are known by the SHA-256 of their SubjectPublicKeyInfo: a ``kid`` is only a name that any cluster may
use.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Collection, Iterable, Mapping
from copy import copy
from dataclasses import dataclass, replace
from math import isfinite
from typing import Final

import msgspec

from federation.core.clock import Clock
from federation.core.documents.keys import damaged
from federation.core.documents.signer import CallersTable, KeyClaim
from federation.core.errors import (
    ClusterError,
    ClusterForbidden,
    ClusterGarbage,
    ClusterInvalid,
    ClusterNotFound,
    InvalidValue,
)
from federation.core.identity import ClusterName
from federation.core.jwks import KeySet, TokenKey, parse_key_set
from federation.kubernetes.session import SMALL_ANSWER_BYTES, ClusterSession

_logger = logging.getLogger(__name__)

DISCOVERY_PATH: Final = "/.well-known/openid-configuration"
KEYS_PATH: Final = "/openid/v1/jwks"
KEYS_TYPE: Final = "application/jwk-set+json"  # kube-apiserver answers 406 to those who want anything else

REFRESH: Final = 300.0  # seconds between looks; kube-apiserver lets its clients cache the keys for an hour
RETRY: Final = 10.0  # seconds between looks while they fail
LONGEST_USE: Final = 3600.0  # that same hour: how long keys serve that could not be looked at again
UNKNOWN_KEY_INTERVAL: Final = 10.0  # seconds between looks, however many unknown keys are named
MAX_ISSUER_CHARACTERS: Final = 1024
_NO_KEYS: Final = KeySet({})


class _Discovery(msgspec.Struct):
    issuer: str


class TokenKeys:
    """The keys and the issuer of one cluster; :meth:`run` keeps them new."""

    def __init__(
        self,
        session: ClusterSession,
        *,
        clock: Clock,
        jitter: random.Random,
        issuer: str = "",
        published: Callable[[Iterable[TokenKey]], None] | None = None,
    ) -> None:
        """``issuer`` is what the operator expects; empty takes what the cluster's discovery document says.

        ``published`` is called with the keys after every good look.
        """
        self._session = session
        self._clock = clock
        self._jitter = jitter
        self._expected = issuer
        self._published = published
        self._looking = asyncio.Lock()
        self._look_again_at = clock.monotonic()
        self._fetched: float | None = None
        self.issuer = issuer
        self.keys = _NO_KEYS
        self.problem: ClusterError | None = None
        self.read_at = 0.0
        """When they were last read (seconds since the epoch), 0 where they never were."""

    @property
    def withheld(self) -> bool:
        """True where the cluster answers, and gives no keys: by a refusal, or with something that is none."""
        return isinstance(self.problem, ClusterForbidden | ClusterNotFound | ClusterInvalid | ClusterGarbage)

    @property
    def may_look(self) -> bool:
        """True where :meth:`look_again` would do anything: the last such look was long enough ago, or goes on."""
        return self._looking.locked() or self._clock.monotonic() >= self._look_again_at

    @property
    def usable(self) -> bool:
        """True while there are keys that were read recently enough to be relied on."""
        return self._fetched is not None and self._clock.monotonic() - self._fetched < LONGEST_USE

    @property
    def clock_skew(self) -> float:
        """Seconds by which the hub's clock is ahead of the cluster's, which dates the tokens."""
        return self._session.clock_skew

    async def find(self, kid: str) -> TokenKey | None:
        """The key of that name, after a new look where it is unknown; None where the cluster has no such key.

        However many unknown keys are named, there is one look in :data:`UNKNOWN_KEY_INTERVAL` seconds at
        most. Raises ClusterError where the key is unknown and the cluster cannot be asked.
        """
        key = self.keys.get(kid)
        if key is not None:
            return key
        await self.look_again()
        if self.problem is not None and kid not in self.keys:
            raise copy(
                self.problem
            )  # for each its own: one that is raised again and again grows its traceback
        return self.keys.get(kid)

    async def look_again(self) -> None:
        """Look now, unless that was just done; those who come meanwhile wait for the look under way."""
        async with self._looking:
            now = self._clock.monotonic()
            if now >= self._look_again_at:
                self._look_again_at = now + UNKNOWN_KEY_INTERVAL
                await self.refresh()

    async def refresh(self) -> None:
        """Look now; a failure is kept as :attr:`problem`, and what was known stays."""
        try:
            self.issuer, self.keys = await self._fetch()
        except ClusterError as error:
            if self.problem is None:
                _logger.warning(
                    "cannot fetch the token keys of a cluster: %s",
                    error.diagnostics(),
                    extra={"cluster": str(self._session.name), "reason": error.reason},
                )
            self.problem = error.without_frames()
        else:
            self.problem = None
            self._fetched = self._clock.monotonic()
            self.read_at = self._clock.now().timestamp()
            if self._published is not None:
                self._published(self.keys.values())

    async def run(self) -> None:
        """Look again every :data:`REFRESH` seconds, sooner after a failure, until cancelled."""
        while True:
            await self.refresh()
            pause = REFRESH if self.problem is None else RETRY
            await self._clock.sleep(pause * self._jitter.uniform(1.0, 1.2))

    async def _fetch(self) -> tuple[str, KeySet]:
        where = str(self._session.name)
        issuer = self._expected
        if not issuer:
            try:
                issuer = msgspec.json.decode(await self._read(DISCOVERY_PATH), type=_Discovery).issuer
            except (msgspec.MsgspecError, UnicodeError, RecursionError):
                raise ClusterGarbage(f"{DISCOVERY_PATH} is not a discovery document", where=where) from None
            if not 0 < len(issuer) <= MAX_ISSUER_CHARACTERS:
                raise ClusterGarbage(f"{DISCOVERY_PATH} names no issuer", where=where)
        try:
            data = await self._read(KEYS_PATH, KEYS_TYPE)
            with self._session.budget.charged():
                return issuer, parse_key_set(data, where=KEYS_PATH)
        except InvalidValue as error:
            raise ClusterGarbage(str(error), where=where, remedy=error.remedy) from None

    async def _read(self, path: str, accept: str = "application/json") -> bytes:
        return await self._session.get(path, accept=accept, most_bytes=SMALL_ANSWER_BYTES)


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
        claims = self._claims.setdefault(cluster, {})
        for key in keys:
            claim = claims.get(key)
            if claim is None:
                claims[key] = Claim(at, at)
                self.news.set()
            elif at - claim.seen > SEEN_AGAIN:
                claims[key] = replace(claim, seen=at)
                self.news.set()
        self._bound(claims, at)

    def prove(self, cluster: str, key: str) -> None:
        """The member has shown a token of the hub's own account there that this key signed."""
        claim = self._claims.get(cluster, {}).get(key)
        if claim is not None and not claim.proved:
            self._claims[cluster][key] = replace(claim, proved=True)
            self.news.set()

    def adopt(self, others: Claims) -> None:
        """What a signer has persisted: the earliest sight of a key counts, and every proof."""
        for cluster, keys in others.items():
            claims = self._claims.setdefault(cluster, {})
            for key, theirs in keys.items():
                own = claims.get(key, theirs)
                merged = Claim(
                    min(own.first, theirs.first), max(own.seen, theirs.seen), own.proved or theirs.proved
                )
                if claims.get(key) != merged:
                    claims[key] = merged
                    self.news.set()
            self._bound(claims, 0.0)

    @staticmethod
    def _bound(claims: dict[str, Claim], now: float) -> None:
        """Forget what is older than :data:`KEPT`, and of more than :data:`MOST_CLAIMS` those that say least."""
        for key in [key for key, claim in claims.items() if claim.seen + KEPT < now]:
            del claims[key]
        if len(claims) > MOST_CLAIMS:
            for key in _ranked(claims)[MOST_CLAIMS:]:
                del claims[key]

    def of(self, cluster: str, key: str) -> Claim | None:
        """The member's claim to the key, None where it has none."""
        return self._claims.get(cluster, {}).get(key)

    def signs_with_another(self, cluster: str, key: str) -> bool:
        """True where the member has proved other keys and not this one: then it is hardly its own."""
        claims = self._claims.get(cluster, {})
        return any(claim.proved for claim in claims.values()) and not (key in claims and claims[key].proved)

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
                for key in _ranked(claims)[:MOST_PERSISTED]
                for claim in (claims[key],)
            ]
            for cluster, claims in sorted(self._claims.items())
            if claims
        }


def _ranked(claims: Mapping[str, Claim]) -> list[str]:
    """The keys of one member, those first that are kept longest."""
    return sorted(claims, key=lambda key: (not claims[key].proved, claims[key].first, key))


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
