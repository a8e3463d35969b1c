"""The signing handler by itself: its CPU over that of the cryptography it cannot do without.

The handler is the hub's own listener, from the message's bytes to the reply's: token by published keys, the
pod and service account in watched caches, CSR, policy, the generation and the directives, the authority, the expiry
bound, leaf, chain, accounting, and the line in the audit log, written to a file. Left out are the transport
and TLS, which ``signing`` measures. The raw limit is the same library in a tight loop: one RS256 verification
(the token), one P-256 verification (the CSR proves its key) and one P-256 signature (the leaf).
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import statistics
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from federation.core.call_slots import CallSlots
from federation.core.config.authorities.settings import LocalAuthorityConfig
from federation.core.config.clusters import ClusterConfig, Credentials
from federation.core.documents.encoding import encode
from federation.core.documents.keys import generation_key
from federation.core.documents.trust import Current, Generation
from federation.core.errors import Overloaded
from federation.core.identity import ClusterId, ClusterName, ServiceAccountRef, SpiffeId, TrustDomain
from federation.core.istio.ca_protocol import IstioCertificateRequest, decode_response, encode_request
from federation.core.trust.bundle import Anchor, TrustBundle
from federation.kubernetes.session import ClusterSession
from federation.runtime import logs
from federation.runtime.clock import SystemClock
from federation.signer.accounting import Accounting, Renewals
from federation.signer.attestation.attestor import ClusterAttestor
from federation.signer.attestation.bound_objects import BoundObjects
from federation.signer.attestation.node_pods import NodePods
from federation.signer.attestation.token_keys import TokenKeys
from federation.signer.attestation.token_review import TokenReviewer
from federation.signer.authorities.authority import AuthoritySettings, BackEndContext
from federation.signer.authorities.authority_set import AuthoritySet, SlotContext
from federation.signer.callers import Callers
from federation.signer.expiry_bounds import PersistedExpiryBounds
from federation.signer.generations import TrustPoller
from federation.signer.issuance import Issuance
from federation.signer.listeners.istio_ca import IstioCaService
from federation.signer.listeners.rejected_calls import RefusalLog, RejectedCalls
from federation.signer.registry import Registry, Routing
from federation.state.files import FileStore
from federation_sandbox.box import DevelopmentCa
from federation_sandbox.cluster import SandboxCluster
from federation_sandbox.mesh import make_request
from tests.bench.processes import own_cpu
from tests.bench.report import Line, Report, at_most

GROUP = "The handler, without transport"
TRUST_DOMAIN = TrustDomain("mesh.example")


BATCH = 25


class RawCryptography:
    """The operations that one certificate cannot do without, on keys of their own."""

    def __init__(self) -> None:
        message = os.urandom(800)
        ec_key, rsa_key = ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 2048)
        ecdsa, pkcs1, sha256 = ec.ECDSA(hashes.SHA256()), padding.PKCS1v15(), hashes.SHA256()
        ec_signature, rsa_signature = ec_key.sign(message, ecdsa), rsa_key.sign(message, pkcs1, sha256)
        ec_public, rsa_public = ec_key.public_key(), rsa_key.public_key()
        self.operations: dict[str, Callable[[], object]] = {
            "P-256 sign": lambda: ec_key.sign(message, ecdsa),
            "P-256 verify": lambda: ec_public.verify(ec_signature, message, ecdsa),
            "RSA-2048 verify": lambda: rsa_public.verify(rsa_signature, message, pkcs1, sha256),
            "RSA-2048 sign": lambda: rsa_key.sign(message, pkcs1, sha256),
        }

    def once(self, name: str, count: int = BATCH) -> float:
        """Microseconds of CPU for one operation of that name, in a tight loop."""
        operation = self.operations[name]
        with own_cpu() as used:
            for _ in range(count):
                operation()
        return used[0] / count * 1e6


@dataclass
class Samples:
    """Microseconds of CPU, a batch at a time; raw and handler take turns, so that both see the same machine."""

    raw: dict[str, list[float]]
    handler: list[float]

    def of(self, name: str) -> float:
        return statistics.median(self.raw[name])

    @property
    def limits(self) -> list[float]:
        parts = (self.raw[name] for name in ("P-256 sign", "P-256 verify", "RSA-2048 verify"))
        return [sum(batch) for batch in zip(*parts, strict=True)]

    @property
    def ratio(self) -> float:
        """The median of the turns' own ratios."""
        return statistics.median(one / limit for one, limit in zip(self.handler, self.limits, strict=True))


async def sample(directory: Path, count: int) -> Samples:
    """Issue ``count`` certificates by the listener's handler, each with a new token; raw operations in between."""
    clock, name = SystemClock(), ClusterName("east")
    async with SandboxCluster("east", clock=clock) as cluster:
        cluster.create_namespace("shop")
        cluster.create_service_account("shop", "cart")
        cluster.create_pod("shop", "cart-0", "cart")
        kubeconfig = cluster.write_kubeconfig(directory / "handler.kubeconfig")
        config = ClusterConfig(
            name=name,
            cluster_id=ClusterId("east"),
            signer=Credentials(kubeconfig=kubeconfig),
            controller=Credentials(kubeconfig=kubeconfig),
            attestation="token-keys",
        )
        account = ServiceAccountRef("shop", "cart")
        messages = requests(SpiffeId(TRUST_DOMAIN, account), 64)
        tokens = [cluster.token("shop", "cart", pod="cart-0") for _ in range(count)]
        session = await ClusterSession.open(
            config.signer, cluster=name, timeouts=config.timeouts, clock=clock
        )
        async with session:
            jitter = random.Random(1)
            keys = TokenKeys(session, clock=clock, jitter=jitter)
            objects = BoundObjects(session, timeouts=config.timeouts, clock=clock, jitter=jitter)
            reviewer = TokenReviewer(session, audience=config.audience, clock=clock)
            node_pods = NodePods(session, limit=config.timeouts.request, clock=clock)
            attestor = ClusterAttestor(
                config, keys=keys, objects=objects, reviewer=reviewer, node_pods=node_pods, clock=clock
            )
            await keys.refresh()
            watching = asyncio.create_task(objects.run())
            try:
                async with asyncio.timeout(10):
                    while not objects.fresh:
                        await asyncio.sleep(0.01)
                async with handler(directory, attestor, clock) as listener:
                    return await measure(listener, messages, tokens)
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)


def requests(identity: SpiffeId, count: int) -> list[bytes]:
    """Encoded requests with a fresh P-256 key each."""
    keys = (ec.generate_private_key(ec.SECP256R1()) for _ in range(count))
    return [encode_request(IstioCertificateRequest(csr=make_request(identity, key))) for key in keys]


@asynccontextmanager
async def handler(
    directory: Path, attestor: ClusterAttestor, clock: SystemClock
) -> AsyncIterator[IstioCaService]:
    """The handler as the signer's role puts it together, with state in files and nothing left out."""
    ca = DevelopmentCa.create(directory / "handler-ca", name="bench", clock=clock)
    bundle = TrustBundle.merge(
        [Anchor(certificate=ca.root, origin="bench", kind="root", trust_domain=TRUST_DOMAIN)]
    )
    store = FileStore(directory / "handler-state", clock)
    await store.write(generation_key(1), encode(first_generation(bundle)))
    await store.write("current", encode(Current(number=1, sha256=bundle.sha256)))
    poller = TrustPoller(store, clock=clock, trust_domain=TRUST_DOMAIN, pins=frozenset({ca.root.sha256}))
    await poller.poll()
    expiry_bounds = PersistedExpiryBounds(store, replica="bench", clock=clock, read_in_force=poller.catch_up)
    files = LocalAuthorityConfig(
        name="bench", certificate_file=ca.directory / "chain.pem", key_file=ca.directory / "key.pem"
    )
    authorities = AuthoritySet(
        SlotContext(
            back_ends=BackEndContext(TRUST_DOMAIN, clock, os.urandom, random.Random(1)),
            deadline=10.0,
            lifetime=lambda: 3600.0,
        ),
        AuthoritySettings(files),
        None,
    )
    authorities.trust([ca.root])
    await authorities.authority.refresh()
    registry = Registry({attestor.config.name: attestor})
    registry.configure([attestor.config], concurrent=256)
    callers = Callers()
    callers.open = True
    issuance = Issuance(
        registry=registry,
        routing=Routing(registry),
        poller=poller,
        authorities=authorities,
        expiry_bounds=expiry_bounds,
        trust_domain=TRUST_DOMAIN,
        accounting=Accounting(),
        renewals=Renewals(timedelta(hours=1)),
        callers=callers,
        clock=clock,
        random_bytes=os.urandom,
    )
    async with asyncio.TaskGroup() as group:
        recording = group.create_task(expiry_bounds.run())
        while expiry_bounds.problem is not None:
            await asyncio.sleep(0.01)
        yield IstioCaService(issuance, RefusalLog(clock), RejectedCalls(clock), RejectedCalls(clock))
        recording.cancel()


def first_generation(bundle: TrustBundle) -> Generation:
    return Generation(
        number=1,
        created=0.0,
        reason="bench",
        author="bench",
        trust_domain=str(TRUST_DOMAIN),
        sha256=bundle.sha256,
        bundle_pem=bundle.pem.decode(),
        anchors=[],
    )


async def measure(listener: IstioCaService, messages: list[bytes], tokens: list[str]) -> Samples:
    slots = CallSlots(1, lambda: Overloaded("full"))

    async def issue(number: int) -> bytes:
        metadata = (("authorization", f"Bearer {tokens[number]}"), ("clusterid", "east"))
        slot = slots.enter("bench", give_way=lambda: None)
        try:
            return await listener.handle(messages[number % len(messages)], metadata, slot=slot)
        finally:
            slot.leave()

    assert len(decode_response(await issue(0))) == 3
    raw = RawCryptography()
    samples = Samples({name: [] for name in raw.operations}, [])
    for batch in range((len(tokens) - 1) // BATCH):
        for name, found in samples.raw.items():
            found.append(raw.once(name))
        with own_cpu() as used:
            for number in range(batch * BATCH, (batch + 1) * BATCH):
                await issue(number)
        samples.handler.append(used[0] / BATCH * 1e6)
    return samples


@contextmanager
def audited(file: Path) -> Iterator[None]:
    """Log to that file as a signer does with its default options."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        with file.open("w") as stream:
            logs.configure("text", "info", stream=stream, fields={"role": "signer", "replica": "bench"})
            yield
    finally:
        root.handlers[:] = before
        root.setLevel(level)


async def run(report: Report, directory: Path, *, quick: bool) -> None:
    count = 1000 if quick else 4000
    with audited(directory / "handler.log"):
        samples = await sample(directory, count)
    lines = (directory / "handler.log").read_text().count(" issued spiffe://")
    assert lines >= count - BATCH, f"{lines} certificates in the audit log"
    for name in samples.raw:
        report.add(Line(GROUP, f"raw {name}", samples.of(name), "us CPU"))
    limit, handler = statistics.median(samples.limits), statistics.median(samples.handler)
    report.add(Line(GROUP, "raw cryptography of one certificate", limit, "us CPU", note="the first three"))
    report.add(Line(GROUP, "handler: token, CSR, policy, leaf, chain, audit line", handler, "us CPU"))
    report.add(Line(GROUP, "handler over raw cryptography", samples.ratio, "x", at_most(1.8)))
