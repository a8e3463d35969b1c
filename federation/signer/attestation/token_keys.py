"""One cluster's token keys: fetched from its own API server, kept for a while, looked for when unknown.

Keys come over the authenticated session from the fixed paths of the service account issuer discovery; a
``jwks_uri`` that points elsewhere is not followed, because a cluster must not choose where the hub
connects. What was fetched last stays in use while the cluster cannot be asked, but for no longer than
:data:`LONGEST_USE`: a key that was withdrawn because it leaked is then worth nothing here either. Past
that, TokenReview decides.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable
from copy import copy
from typing import Final

import msgspec

from federation.clusters.session import SMALL_ANSWER_BYTES, ClusterSession
from federation.core.clock import Clock
from federation.core.errors import (
    ClusterError,
    ClusterForbidden,
    ClusterGarbage,
    ClusterInvalid,
    ClusterNotFound,
    InvalidValue,
)
from federation.core.jwks import KeySet, TokenKey, parse_key_set

DISCOVERY_PATH: Final = "/.well-known/openid-configuration"
KEYS_PATH: Final = "/openid/v1/jwks"
KEYS_TYPE: Final = "application/jwk-set+json"  # kube-apiserver answers 406 to those who want anything else

REFRESH: Final = 300.0  # seconds between looks; kube-apiserver lets its clients cache the keys for an hour
RETRY: Final = 10.0  # seconds between looks while they fail
LONGEST_USE: Final = 3600.0  # that same hour: how long keys serve that could not be looked at again
UNKNOWN_KEY_INTERVAL: Final = 10.0  # at most one look in so many seconds however many unknown keys are named
MAX_ISSUER_CHARACTERS: Final = 1024

_logger = logging.getLogger(__name__)
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
        """True while there are keys that were looked at recently enough to be believed."""
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
            self.problem = error
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
