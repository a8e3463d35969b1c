"""A leaf for each cluster, got like any workload gets one: a token of that cluster, the signer's door, a CSR.

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

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from federation.clusters.backoff import Backoff
from federation.clusters.session import ClusterSession
from federation.controller.proof.door import SignerDoor
from federation.core.clock import Clock
from federation.core.config.model import ClusterConfig
from federation.core.errors import ClusterGarbage, ClusterNotFound, FederationError, InvalidValue
from federation.core.identity import SpiffeId, TrustDomain
from federation.core.pki.certificate import Certificate
from federation.core.pki.keys import private_key_pem
from federation.core.pki.pem import parse_certificates

TOKEN_SECONDS: Final = 600
"""The shortest the TokenRequest API grants."""

LONGEST_BACKOFF: Final = 15.0
TICK: Final = 0.5

_log = logging.getLogger(__name__)


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


class _TokenStatus(msgspec.Struct):
    token: str = ""


class _TokenRequest(msgspec.Struct):
    status: _TokenStatus


_decode_token = msgspec.json.Decoder(_TokenRequest).decode


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
        door: SignerDoor,
        generation: Callable[[], int],
        issuer: Callable[[], str],
        leaf_ttl: Callable[[], float],
        clock: Clock,
        jitter: random.Random,
        on_change: Callable[[], None],
    ) -> None:
        self._session = session
        self._cluster = cluster
        self._identity = cluster.probe_identity(trust_domain)
        self._door = door
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
            await self._clock.sleep(TICK)

    async def renew(self) -> None:
        """Get a leaf; where that fails, the one that is held stays and :attr:`problem` says why."""
        generation = self._generation()
        try:
            leaf = await self._get()
        except FederationError as error:
            if self.problem is None or str(self.problem) != str(error):
                fields = {"cluster": str(self._cluster.name), "reason": error.reason}
                _log.warning("no probe leaf: %s", error.diagnostics(), extra=fields)
            self.problem = error
        else:
            self.leaf, self.problem, self._got_for = leaf, None, generation
        self._on_change()

    def current(self, now: datetime) -> ProbeLeaf | None:
        """The leaf while it is valid."""
        leaf = self.leaf
        return leaf if leaf is not None and now < leaf.chain[0].not_after else None

    def _is_due(self) -> bool:
        if self._generation() == 0:
            return False  # without a bundle the door cannot be verified, and serves nobody
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
        token = await self._token()
        key = ec.generate_private_key(ec.SECP256R1())
        elements = await self._door.request(
            csr=make_request(self._identity, key),
            token=token,
            cluster_id=self._cluster.cluster_id,
            lifetime=self._leaf_ttl(),
        )
        return accept_reply(elements, key, self._identity, now=self._clock.now())

    async def _token(self) -> str:
        account = self._cluster.probe
        path = f"/api/v1/namespaces/{account.namespace}/serviceaccounts/{account.name}/token"
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"audiences": [self._cluster.audience], "expirationSeconds": TOKEN_SECONDS},
        }
        where = str(self._cluster.name)
        try:
            answer = await self._session.request("POST", path, body=msgspec.json.encode(body))
            token = _decode_token(answer).status.token
        except ClusterNotFound:
            raise ClusterNotFound(
                f"the probe's service account {account} does not exist",
                where=where,
                remedy="apply manifests/member to that cluster",
            ) from None
        except msgspec.MsgspecError:
            raise ClusterGarbage("the answer to a token request is not a TokenRequest", where=where) from None
        if not token:
            raise ClusterGarbage("the answer to a token request holds no token", where=where)
        return token


def make_request(identity: SpiffeId, key: ec.EllipticCurvePrivateKey) -> str:
    """A CSR in the shape of Istio's agent: an empty organization and one critical URI SAN."""
    builder = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "")]))
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(identity))]), critical=True
        )
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode("ascii")


def accept_reply(
    elements: tuple[str, ...], key: ec.EllipticCurvePrivateKey, identity: SpiffeId, *, now: datetime
) -> ProbeLeaf:
    """The leaf of a reply, checked as an agent checks it. Raises InvalidValue; validity is the handshake's."""
    where = "cert_chain of the signer's door"
    if len(elements) < 2:
        raise InvalidValue("there is no bundle after the leaf", where=where)
    chain: list[Certificate] = []
    for element in elements[:-1]:
        found = parse_certificates(element.encode(), where=where)
        if len(found) != 1:
            raise InvalidValue("an element before the last holds more than one certificate", where=where)
        chain += found
    leaf = chain[0]
    if leaf.public_key != key.public_key():
        raise InvalidValue("the leaf holds another key than was asked for", where=where)
    if leaf.uris != (str(identity),):
        raise InvalidValue(f"the leaf is not of {identity}", where=where)
    delivered = elements[-1].encode()
    parse_certificates(delivered, where=where)
    if leaf.not_after <= now:
        raise InvalidValue("the leaf has expired already", where=where)
    renew_at = now + (leaf.not_after - now) / 2
    return ProbeLeaf(tuple(chain), private_key_pem(key), identity, delivered, renew_at)
