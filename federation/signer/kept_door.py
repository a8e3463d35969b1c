"""The door while the role runs: open from its first certificate on, the certificate renewed in place, drained."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

from federation.core.clock import Clock
from federation.core.config.model import Address, DoorConfig
from federation.core.errors import FederationError, NotReady
from federation.core.trust.rotation.effects import Orders
from federation.signer.doors.istio_ca import IstioCaDoor
from federation.signer.doors.server import DoorServer
from federation.signer.doors.tls import ServingCredentials, ServingPair
from federation.signer.grounds import Grounds
from federation.signer.serving import ITSELF, POLL, ServingCertificate

_logger = logging.getLogger(__name__)


class KeptDoor:
    """``follows`` are the orders that the door's certificate is in keeping with, as all that is issued is."""

    def __init__(
        self,
        door: IstioCaDoor,
        *,
        listen: Address,
        grounds: Grounds,
        clock: Clock,
        random_bytes: Callable[[int], bytes],
        config: Callable[[], DoorConfig],
    ) -> None:
        self._door = door
        self._listen = listen
        self._grounds = grounds
        self._clock = clock
        self._config = config
        self._credentials: ServingCredentials | None = None
        self._server: DoorServer | None = None
        self._problem: FederationError | None = None
        self.serving = ServingCertificate(clock=clock, random_bytes=random_bytes, on_renewal=self._show)
        self.follows = Orders()
        self.address: Address | None = None

    async def run(self) -> None:
        """Renew the certificate when it is due, and listen from the first one on, until cancelled."""
        while True:
            await self._look()
            await self._clock.sleep(POLL if self.address is not None else POLL / 5)

    async def close(self, drain: float) -> None:
        """Stop listening; calls under way have ``drain`` seconds to end."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop(drain)

    def reasons(self) -> Iterator[str]:
        """Why nobody can come in, in words; none where they can."""
        if not self.serving.valid:
            yield f"the door has no certificate: {self.serving.problem or 'not issued yet'}"
        elif self.address is None:
            yield f"the door does not listen: {self._problem or 'not bound yet'}"

    async def _look(self) -> None:
        try:
            orders = self._grounds.terms(ITSELF).orders
        except NotReady:
            orders = None
        await self.serving.ensure(self._config(), self._grounds)
        if orders is not None and (not orders.strict or self.serving.issuer == orders.issuer):
            self.follows = orders
        if self.address is None and self._credentials is not None:
            await self._open(self._credentials)

    async def _open(self, credentials: ServingCredentials) -> None:
        server = DoorServer(self._door, config=self._config(), listen=self._listen, credentials=credentials)
        try:
            self.address = await server.start()
        except NotReady as problem:
            if self._problem is None:
                _logger.warning("the door cannot open: %s", problem.diagnostics())
            self._problem = problem
            return
        self._server, self._problem = server, None
        _logger.info("the door is open at %s", self.address)

    def _show(self, pair: ServingPair) -> None:
        if self._credentials is None:
            self._credentials = ServingCredentials(pair)
        else:
            self._credentials.replace(pair)
