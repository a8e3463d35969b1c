"""A leaf for each cluster, got like any workload gets one: a token of that cluster, the signer's listener, a CSR.

What is proved with it is therefore what workloads get. The key is made here and never leaves memory; the leaf
can do nothing but shake hands, because no policy grants its identity anything.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from federation.controller.own_certificates import CERT_CHAIN, OwnAccount, Reply
from federation.controller.proof.listener_check import SignerListener
from federation.core.clock import Clock
from federation.core.config.clusters import ClusterConfig
from federation.core.errors import FederationError, InvalidValue
from federation.core.identity import SpiffeId, TrustDomain
from federation.core.pki.certificate import Certificate
from federation.core.pki.keys import private_key_pem
from federation.kubernetes.backoff import Backoff
from federation.kubernetes.session import ClusterSession

_logger = logging.getLogger(__name__)

LONGEST_BACKOFF: Final = 15.0
TICK: Final = 0.5
"""Seconds between two looks whether a leaf is due where there is none yet."""

TICK_SETTLED: Final = 1.0
"""The same where there is one."""


@dataclass(frozen=True, slots=True)
class ProbeLeaf:
    """A leaf with its key, and the bundle that came with it."""

    chain: tuple[Certificate, ...]
    key_pem: bytes = field(repr=False)
    identity: SpiffeId
    delivered: bytes = field(repr=False)
    renew_at: datetime

    @property
    def issuer(self) -> str:
        """SHA-256 of the certificate that issued it; empty where none came with it."""
        return self.chain[1].sha256 if len(self.chain) > 1 else ""


class Probe:
    """Keeps one cluster's leaf: renewed at half its life, and at once for a new generation or another issuer.

    ``issuer`` is the intermediate (SHA-256) that signs for the cluster by order; empty where no order says.
    """

    def __init__(
        self,
        session: ClusterSession,
        cluster: ClusterConfig,
        *,
        trust_domain: TrustDomain,
        listener: SignerListener,
        generation: Callable[[], int],
        issuer: Callable[[], str],
        leaf_ttl: Callable[[], float],
        clock: Clock,
        jitter: random.Random,
        on_change: Callable[[], None],
    ) -> None:
        self._cluster = cluster
        self._identity = cluster.probe_identity(trust_domain)
        self._account = OwnAccount(session, cluster, cluster.probe, listener)
        self._generation = generation
        self._issuer = issuer
        self._leaf_ttl = leaf_ttl
        self._clock = clock
        self._backoff = Backoff(first=0.5, longest=LONGEST_BACKOFF, jitter=jitter)
        self._on_change = on_change
        self._got_for = 0
        self.leaf: ProbeLeaf | None = None
        self.problem: FederationError | None = None

    async def run(self) -> None:
        """Keep the leaf until cancelled."""
        while True:
            if self._is_due():
                await self.renew()
                if self.problem is not None or self._is_due():  # signers may not follow an order yet
                    await self._wait(self._backoff.next())
                    continue
                self._backoff.reset()
            await self._clock.sleep(TICK if self.leaf is None else TICK_SETTLED)

    async def renew(self) -> None:
        """Get a leaf; where that fails, the present one stays and :attr:`problem` says why."""
        generation = self._generation()
        try:
            leaf = await self._get()
        except FederationError as error:
            if self.problem is None or str(self.problem) != str(error):
                fields = {"cluster": str(self._cluster.name), "reason": error.reason}
                _logger.warning("no probe leaf: %s", error.diagnostics(), extra=fields)
            self.problem = error.without_frames()
        else:
            self.leaf, self.problem, self._got_for = leaf, None, generation
        self._on_change()

    def current(self, now: datetime) -> ProbeLeaf | None:
        """The leaf while it is valid."""
        leaf = self.leaf
        return leaf if leaf is not None and now < leaf.chain[0].not_after else None

    def _is_due(self) -> bool:
        if self._generation() == 0:
            return False  # without a bundle the listener cannot be verified, and serves no caller
        leaf, issuer = self.leaf, self._issuer()
        if leaf is not None and issuer and leaf.issuer != issuer:
            return True
        return leaf is None or self._got_for != self._generation() or self._clock.now() >= leaf.renew_at

    async def _wait(self, seconds: float) -> None:
        """Wait after a failure, but not past the next generation."""
        generation, until = self._generation(), self._clock.monotonic() + seconds
        while (left := until - self._clock.monotonic()) > 0 and generation == self._generation():
            await self._clock.sleep(min(left, TICK))

    async def _get(self) -> ProbeLeaf:
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(self._identity))])
        reply = await self._account.request(names, key, lifetime=self._leaf_ttl())
        return accept_reply(reply, key, self._identity, now=self._clock.now())


def accept_reply(
    reply: Reply, key: ec.EllipticCurvePrivateKey, identity: SpiffeId, *, now: datetime
) -> ProbeLeaf:
    """The leaf of a reply, checked as an agent checks it. Raises InvalidValue; validity is the handshake's."""
    leaf = reply.chain[0]
    if leaf.uris != (str(identity),):
        raise InvalidValue(f"the leaf is not of {identity}", where=CERT_CHAIN)
    if leaf.not_after <= now:
        raise InvalidValue("the leaf has expired already", where=CERT_CHAIN)
    renew_at = now + (leaf.not_after - now) / 2
    return ProbeLeaf(reply.chain, private_key_pem(key), identity, reply.delivered, renew_at)
