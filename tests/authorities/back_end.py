"""What the contract suite needs of a back end under test; one module ``of_<kind>.py`` here opens each kind.

An intermediate for a key that a back end has made is ``vault_keys.intermediate_for``; one with a key of its own is
``tests.signer.running_signer.authority``. Both are valid by the system's clock, which back ends go by; those of
``tests.support.pki`` are by the clock of tests. A file that only its owner may read is ``vault_hub.secret_file``.
"""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from federation.core.clock import Clock
from federation.core.config.clusters import IstioConfig
from federation.core.identity import ServiceAccountRef, SpiffeId, TrustDomain
from federation.core.istio.istiod import istiod_names
from federation.core.pki.certificate import Certificate
from federation.core.pki.der import SubjectAltName
from federation.core.pki.keys import KeyKind, PrivateKey, spki
from federation.core.pki.leaf import LeafProfile, Validity, draw_serial
from federation.runtime.clock import SystemClock
from federation.signer.authorities.authority import (
    AuthoritySettings,
    BackEndContext,
    LeafRequest,
    ManagedAuthority,
)
from federation.signer.authorities.back_ends import make_authority
from tests.support import pki

TRUST_DOMAIN = TrustDomain("cluster.local")
SERVER_NAME = "federation-hub.federation-system.svc"
ISTIOD_NAMES = istiod_names(IstioConfig(), "istio-system", ())
IDENTITY = SpiffeId(TRUST_DOMAIN, ServiceAccountRef("foo", "bar"))


@dataclass(kw_only=True)
class BackEnd:
    """A back end that runs, set up as ``docs/authorities.md`` says.

    ``root`` is what an operator would pin. ``cut_off`` makes it unreachable while its context is entered,
    None where that cannot be (``IN_THIS_PROCESS`` of the suite). ``secrets`` are texts that nothing may ever show:
    one at least, each of six characters or more.
    ``signs_without_it`` says that the key is in this process, so that signing goes on without the back end.
    ``coarse`` is how far the end of a leaf may lie before what was asked for.
    """

    settings: AuthoritySettings
    root: Certificate
    cut_off: Callable[[], AbstractAsyncContextManager[None]] | None = None
    secrets: tuple[str, ...] = ()
    coarse: timedelta = timedelta(seconds=5)
    signs_without_it: bool = False


def back_end_context(clock: Clock | None = None) -> BackEndContext:
    """The context that every back end is built with; only its jitter is not random."""
    return BackEndContext(
        trust_domain=TRUST_DOMAIN,
        clock=clock or SystemClock(),
        random_bytes=os.urandom,
        jitter=random.Random(1),
    )


@asynccontextmanager
async def authority_of(
    back_end: BackEnd, *, anchors: Iterable[Certificate] | None = None, clock: Clock | None = None
) -> AsyncIterator[ManagedAuthority]:
    """Its authority, polled once and closed at the end; it trusts the back end's root."""
    authority = make_authority(back_end.settings, back_end_context(clock))
    try:
        authority.trust((back_end.root,) if anchors is None else anchors)
        await authority.refresh()
        yield authority
    finally:
        await authority.close()


def order(
    profile: LeafProfile = LeafProfile.WORKLOAD,
    *,
    identity: SpiffeId = IDENTITY,
    key: PrivateKey | None = None,
    kind: KeyKind = KeyKind.EC_P256,
    life: timedelta = timedelta(hours=1),
    now: datetime | None = None,
    hosts: tuple[str, ...] = (SERVER_NAME,),
) -> LeafRequest:
    """An order as issuance makes it, with the CSR that a workload, or the listener, would send."""
    own = key or pki.key(f"workload of kind {kind.value}", kind)
    at = (now or SystemClock().now()).replace(microsecond=0)
    serving = profile is LeafProfile.SERVING
    names = hosts if serving else (str(identity),)
    csr = pki.csr_pem(
        identity,
        private_key=own,
        san=pki.dns_san(*hosts) if serving else None,
    )
    return LeafRequest(
        profile=profile,
        public_key=own.public_key(),
        spki_der=spki(own.public_key()),
        names=names,
        san=SubjectAltName.of_hosts(hosts) if serving else SubjectAltName.of_identity(identity),
        serial=draw_serial(os.urandom),
        validity=Validity(at - timedelta(minutes=2), at + life),
        csr_pem=csr,
        cluster="east",
    )
