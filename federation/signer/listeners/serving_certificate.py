"""The listener while the role runs, and its own certificate: open from the first one on, renewed in place, drained.

The certificate comes from the workloads' authority and is renewed in place at two thirds of its life. It is for
server authentication only. Its key is made here, lives in memory and changes with every renewal. It follows the same
directives as the workloads' certificates, because the same workloads verify it: another intermediate renews it at once.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from federation.core.clock import Clock
from federation.core.config.hub import ListenerConfig
from federation.core.config.types import Address
from federation.core.errors import FederationError, NotReady
from federation.core.pki.certificate import Certificate
from federation.core.pki.keys import private_key_pem
from federation.core.pki.leaf import leaf_validity
from federation.core.pki.pem import encode_certificates
from federation.core.rotation.effects import SigningDirectives
from federation.signer.authorities.authority import issue_checked, request_for_own_key
from federation.signer.authorities.authority_set import AuthoritySet, AuthoritySlot
from federation.signer.authorities.selection import choose
from federation.signer.generations import IssuanceContext, TrustPoller
from federation.signer.listeners.istio_ca import IstioCaService
from federation.signer.listeners.listener import Listener
from federation.signer.listeners.tls import ServingCredentials, ServingPair
from federation.signer.revalidation import require_directed

_logger = logging.getLogger(__name__)

RENEW_AT: Final = 2 / 3  # of its life, as istio-csr does
POLL: Final = 1.0  # seconds between checks whether it is due
RETRY: Final = 0.2  # seconds after an attempt at the first one failed
MISSING: Final = 0.02
"""Seconds between checks whether there is by now what the first one needs: a generation, directives, an authority.
Nothing is asked for and nothing is read by such a check."""
ITSELF: Final = (
    ""  # the directives for no cluster in particular, and the newest generation, hold for the hub itself
)


class ServingCertificate:
    """Keeps the listener's certificate; ``on_renewal`` is given every new pair."""

    def __init__(
        self,
        *,
        poller: TrustPoller,
        authorities: AuthoritySet,
        clock: Clock,
        random_bytes: Callable[[int], bytes],
        on_renewal: Callable[[ServingPair], None],
    ) -> None:
        self._poller = poller
        self._authorities = authorities
        self._clock = clock
        self._random_bytes = random_bytes
        self._on_renewal = on_renewal
        self._issuers: tuple[Certificate, ...] = ()
        self._names: tuple[str, ...] = ()
        self._due: datetime | None = None
        self.certificate: Certificate | None = None
        self.chain_pem = ""
        self.problem: FederationError | None = None

    async def ensure(self, config: ListenerConfig) -> None:
        """Renew if it is due; what prevents it is kept as :attr:`problem`."""
        try:
            context = self._poller.context(ITSELF)
            authority = choose(context.directives, ITSELF, self._authorities.in_order, context.trust.anchors)
            if self.certificate is None or self._is_due(config, authority):
                await self._renew(config, authority, context)
        except FederationError as error:
            if str(error) != str(self.problem):
                _logger.log(
                    logging.INFO if isinstance(error, NotReady) else logging.WARNING,
                    "the listener's certificate cannot be renewed: %s",
                    error.diagnostics(),
                    extra={"reason": error.reason},
                )
            self.problem = error.without_frames()
        else:
            self.problem = None

    @property
    def issuer(self) -> str:
        """SHA-256 of the intermediate that signed it; empty while there is none."""
        return self._issuers[0].sha256 if self._issuers else ""

    @property
    def valid(self) -> bool:
        """True while there is one that has not ended."""
        return self.certificate is not None and self._clock.now() < self.certificate.not_after

    def _is_due(self, config: ListenerConfig, authority: AuthoritySlot) -> bool:
        known = authority.issuers
        changed = config.server_names != self._names or (bool(known) and known != self._issuers)
        return changed or self._due is None or self._clock.now() >= self._due

    async def _renew(
        self, config: ListenerConfig, authority: AuthoritySlot, context: IssuanceContext
    ) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        names = config.server_names
        lifetime = timedelta(
            seconds=max(1.0, min(config.serving_lifetime, context.directives.ttl_cap or math.inf))
        )
        now = self._clock.now()
        validity = leaf_validity(now, lifetime, lifetime, authority.issuers, lifetime)
        wanted = request_for_own_key(key, names, validity, self._random_bytes)
        issued = await issue_checked(
            authority.current,
            wanted,
            anchors=context.trust.anchors,
            at=now,
            alarms=authority.alarms,
            thorough=True,
        )
        require_directed(issued.issuers, context.directives, ITSELF)
        leaf = Certificate.from_der(issued.der)
        below_root = [issuer for issuer in issued.issuers if not issuer.is_self_signed]
        chain = encode_certificates([leaf, *below_root])
        self._on_renewal(ServingPair(chain, private_key_pem(key)))
        self.chain_pem = chain.decode("ascii")
        self.certificate, self._issuers, self._names = leaf, issued.issuers, names
        self._due = now + (leaf.not_after - now) * RENEW_AT
        _logger.info(
            "the listener shows a new certificate for %s, renewed again at %s",
            ", ".join(names),
            f"{self._due:%Y-%m-%d %H:%M:%S} UTC",
            extra={"sha256": leaf.sha256, "not_after": leaf.not_after.isoformat()},
        )


class RunningListener:
    """``follows`` are the directives that the listener's certificate is in keeping with, as all that is issued is."""

    def __init__(
        self,
        listener: IstioCaService,
        *,
        listen: Address,
        poller: TrustPoller,
        authorities: AuthoritySet,
        clock: Clock,
        random_bytes: Callable[[int], bytes],
        config: Callable[[], ListenerConfig],
    ) -> None:
        self._listener = listener
        self._listen = listen
        self._poller = poller
        self._clock = clock
        self._config = config
        self._credentials: ServingCredentials | None = None
        self._server: Listener | None = None
        self._problem: FederationError | None = None
        self.serving = ServingCertificate(
            poller=poller,
            authorities=authorities,
            clock=clock,
            random_bytes=random_bytes,
            on_renewal=self._show,
        )
        self.follows = SigningDirectives()
        self.address: Address | None = None

    async def run(self) -> None:
        """Renew the certificate when it is due, and listen from the first one on, until cancelled."""
        since = self._clock.monotonic()
        while True:
            await self._look()
            await self._clock.sleep(self._pause(self._clock.monotonic() - since))

    def _pause(self, waited: float) -> float:
        if self.address is not None:
            return POLL
        if not isinstance(self.serving.problem, NotReady):
            return RETRY
        # At a start what is missing comes at once, or not for long.
        return min(RETRY, max(MISSING, waited / 40))

    async def close(self, drain: float) -> None:
        """Stop listening; calls under way have ``drain`` seconds to end."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop(drain)

    def reasons(self) -> Iterator[str]:
        """Why no caller can connect, in words; none where they can."""
        if not self.serving.valid:
            yield f"the listener has no certificate: {self.serving.problem or 'not issued yet'}"
        elif self.address is None:
            yield f"the listener does not listen: {self._problem or 'not bound yet'}"

    async def _look(self) -> None:
        try:
            directives = self._poller.context(ITSELF).directives
        except NotReady:
            directives = None
        await self.serving.ensure(self._config())
        if directives is not None and (not directives.strict or self.serving.issuer == directives.issuer):
            self.follows = directives
        if self.address is None and self._credentials is not None:
            await self._open(self._credentials)

    async def _open(self, credentials: ServingCredentials) -> None:
        server = Listener(self._listener, config=self._config(), listen=self._listen, credentials=credentials)
        try:
            self.address = await server.start()
        except NotReady as problem:
            if self._problem is None:
                _logger.warning("the listener cannot open: %s", problem.diagnostics())
            self._problem = problem.without_frames()
            return
        self._server, self._problem = server, None
        _logger.info("the listener is open at %s", self.address)

    def _show(self, pair: ServingPair) -> None:
        if self._credentials is None:
            self._credentials = ServingCredentials(pair)
        else:
            self._credentials.replace(pair)
