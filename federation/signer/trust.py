"""The bundle in force, as the controller wrote it and as this signer is willing to believe it.

The signer does not trust the controller. A generation is accepted only where its bytes are what its digest
says, its trust domain is the mesh's, its number does not run backwards, and every self-signed anchor in it
is pinned by the signer's own configuration. Otherwise the last good one stays in force and the reason is
said.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from federation.core.clock import Clock
from federation.core.errors import FederationError, InvalidValue, StateUnavailable
from federation.core.identity import TrustDomain
from federation.core.pki.certificate import Certificate
from federation.core.trust.bundle import TrustBundle
from federation.state.documents import Current, Generation, decode, generation_key
from federation.state.store import StateStore

POLL: Final = 0.5  # seconds: a rotation waits for the slowest signer
READ_TIMEOUT: Final = 5.0

CURRENT: Final = "current"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AcceptedTrust:
    """A generation that was believed."""

    number: int
    sha256: str
    bundle_pem: bytes = field(repr=False)
    anchors: tuple[Certificate, ...] = field(repr=False)


class TrustFollower:
    """Follows the generation in force; ``accepted`` is None until one was believed."""

    def __init__(
        self,
        store: StateStore,
        *,
        clock: Clock,
        trust_domain: TrustDomain,
        pins: frozenset[str],
        on_change: Callable[[AcceptedTrust], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._trust_domain = trust_domain
        self._pins = pins
        self._on_change = on_change
        self._seen: Current | None = None
        self.accepted: AcceptedTrust | None = None
        self.problem: FederationError | None = None

    def configure(self, *, pins: frozenset[str]) -> None:
        """Believe by these pins from now on; what was accepted stays until the next generation."""
        if pins != self._pins:
            self._pins = pins
            self._seen = None  # looked at again: it may be believed now, or no longer

    async def run(self) -> None:
        """Look every :data:`POLL` seconds until cancelled."""
        while True:
            await self.poll()
            await self._clock.sleep(POLL)

    async def poll(self) -> None:
        """Look once; what is wrong is kept as :attr:`problem`."""
        try:
            async with asyncio.timeout(READ_TIMEOUT):
                accepted = await self._look()
        except TimeoutError:
            self._fail(StateUnavailable(f"no answer in {READ_TIMEOUT:g} s", where="the state store"))
            return
        except (StateUnavailable, InvalidValue) as error:
            self._fail(error)
            return
        if accepted is None:
            return
        self.problem = None
        if accepted != self.accepted:
            self.accepted = accepted
            _logger.info(
                "generation %d of the bundle is in force",
                accepted.number,
                extra={"generation": accepted.number},
            )
            self._on_change(accepted)

    async def _look(self) -> AcceptedTrust | None:
        """The generation to use, or None where there is nothing new to decide."""
        stored = await self._store.read(CURRENT)
        if stored is None:
            if self.accepted is not None:
                raise InvalidValue(
                    "the state store names no generation any more", where=CURRENT, reason="generation_missing"
                )
            return None
        current = decode(stored.data, Current, key=CURRENT)
        if current == self._seen:
            if isinstance(self.problem, StateUnavailable):
                self.problem = None
            return None
        accepted = self.accepted
        if accepted is not None and current.number < accepted.number:
            raise InvalidValue(
                f"generation {current.number} is older than {accepted.number}, which is in force here",
                where=CURRENT,
                remedy="a rollback is a new generation; was the state restored from a backup?",
                reason="generation_backwards",
            )
        generation = await self._read(current)
        self._seen = current
        return self._believe(generation)

    async def _read(self, current: Current) -> Generation:
        key = generation_key(current.number)
        stored = await self._store.read(key)
        if stored is None:
            raise InvalidValue(
                "the generation in force is not in the state store", where=key, reason="generation_missing"
            )
        generation = decode(stored.data, Generation, key=key)
        digest = sha256(generation.bundle_pem.encode()).hexdigest()
        if generation.number != current.number or not digest == generation.sha256 == current.sha256:
            raise InvalidValue(
                "the bundle is not what its digest says",
                where=key,
                remedy="the store was damaged or changed by hand; have a new generation written",
                reason="generation_digest",
            )
        return generation

    def _believe(self, generation: Generation) -> AcceptedTrust:
        key = generation_key(generation.number)
        if generation.trust_domain != str(self._trust_domain):
            raise InvalidValue(
                f"it is for the trust domain {generation.trust_domain[:80]!r}, not {self._trust_domain}",
                where=key,
                reason="generation_trust_domain",
            )
        pem = generation.bundle_pem.encode()
        try:
            bundle = TrustBundle.from_pem(pem, where=key, trust_domain=self._trust_domain)
        except InvalidValue as error:
            raise InvalidValue(str(error), where=key, reason="generation_invalid") from None
        unpinned = bundle.unpinned(self._pins)
        if unpinned:
            first = unpinned[0].certificate
            raise InvalidValue(
                f"it holds {len(unpinned)} anchor(s) that this signer's configuration does not pin,"
                f" first {first.subject} ({first.sha256})",
                where=key,
                remedy="pin it in the configuration, or find out who wrote this generation",
                reason="generation_unpinned",
            )
        held = self.accepted
        if held is not None and held.number == generation.number and held.sha256 != generation.sha256:
            raise InvalidValue("it was changed after it was written", where=key, reason="generation_changed")
        if bundle.pem != pem:
            raise InvalidValue(
                "its bytes are not a bundle as the hub writes it", where=key, reason="generation_invalid"
            )
        return AcceptedTrust(generation.number, generation.sha256, pem, bundle.certificates)

    def _fail(self, problem: FederationError) -> None:
        if str(problem) != str(self.problem):
            _logger.error(
                "the generation in force is not taken up: %s",
                problem.diagnostics(),
                extra={"reason": problem.reason},
            )
        self.problem = problem
