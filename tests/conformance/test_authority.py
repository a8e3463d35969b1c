"""istio-csr's tests of its signer, by name: what an issuing back end may answer, and what callers then get.

The back end is behind the authority's interface and issues with a real CA, rightly or wrongly, as a PKI service
would.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from federation.core.documents.signer import AuthorityReport
from federation.core.errors import AuthorityMisconfigured, AuthorityUnavailable
from federation.core.pki.certificate import Certificate
from federation.signer.authorities.authority import (
    AuthorityBasics,
    AuthoritySettings,
    BackEndContext,
    IssuedLeaf,
    LeafRequest,
    ManagedAuthority,
)
from federation.signer.authorities.back_ends import make_authority
from federation.signer.authorities.limiter import Limiter
from tests.authorities.back_end import back_end_context
from tests.signer.running_signer import Answer, RunningSigner, authority, identity_of, running_signer
from tests.support import pki

IDENTITY = identity_of("foo", "bar")
SIGN_FAILED = (grpc.StatusCode.INTERNAL, "failed to sign certificate request")
BAD_CHAIN = (grpc.StatusCode.INTERNAL, "failed to parse and verify signed certificate from issuer")
UNAVAILABLE = (grpc.StatusCode.UNAVAILABLE, "certificate signing is temporarily unavailable")


class BackEnd(ManagedAuthority):
    """An authority of the second kind: it issues from the request, as it pleases."""

    def __init__(self, answer: Callable[[LeafRequest], IssuedLeaf], context: BackEndContext) -> None:
        super().__init__(AuthorityBasics(name="back end", kind="test", poll_seconds=3600.0, context=context))
        self._answer = answer

    @property
    def issuers(self) -> tuple[Certificate, ...]:
        return ()

    @property
    def _has_what_it_needs(self) -> bool:
        return True

    def _describe(self) -> AuthorityReport:
        return self._report(())

    def _judge_again(self) -> None:
        pass

    async def _poll(self) -> bool:
        return True

    async def close(self) -> None:
        pass

    async def _issue(self, order: LeafRequest) -> IssuedLeaf:
        await asyncio.sleep(0)
        return self._answer(order)


def leaf_of(order: LeafRequest, ca: pki.Authority, **wrong: object) -> Certificate:
    """What the order asks for, signed by that CA, with something else about it."""
    request = x509.load_pem_x509_csr(order.csr_pem.encode())
    options: dict[str, object] = {
        "not_before": order.validity.not_before,
        "not_after": order.validity.not_after,
    } | wrong
    identity = options.pop("identity", IDENTITY)
    public = options.pop("public_key", None) or request.public_key()
    usage = options.pop("usage", pki.BOTH_WAYS)
    key_usage = options.pop("key_usage", pki.WORKLOAD_KEY_USAGE)
    is_ca = bool(options.pop("is_ca", False))
    extensions = [
        (key_usage, True),
        (usage, False),
        (x509.BasicConstraints(ca=is_ca, path_length=None), True),
        (pki.spiffe_san(identity), True),
    ]
    return pki.certificate(ca, extensions, public_key=public, **options)  # type: ignore[arg-type]


class Exchanged:
    """The back end that the signer made, until a test puts another in its place."""

    def __init__(self, made: ManagedAuthority) -> None:
        self.made = made
        self.current: Any = made

    def __getattr__(self, name: str) -> Any:
        return getattr(self.current, name)


@asynccontextmanager
async def exchanging(
    directory: Path, *, setup: Callable[[RunningSigner], None] = lambda _: None, **options: Any
) -> AsyncIterator[tuple[RunningSigner, list[Exchanged]]]:
    """A running signer, and what stands in for each back end that is made."""
    made = list[Any]()

    def make(
        settings: AuthoritySettings, context: BackEndContext, limiter: Limiter | None = None
    ) -> ManagedAuthority:
        made.append(Exchanged(make_authority(settings, context, limiter)))
        return made[-1]  # type: ignore[no-any-return]  # it has all that its class has not itself

    def exchange(hub: RunningSigner) -> None:
        hub.make_authority = make
        setup(hub)

    async with running_signer(directory, setup=exchange, **options) as hub:
        yield hub, made


async def ask(hub: RunningSigner, back_end: Exchanged, answer: Callable[[LeafRequest], IssuedLeaf]) -> Answer:
    back_end.current = BackEnd(answer, back_end_context())
    return await hub.ask("east", hub.pod("east"))


def given(leaf: Certificate, *chain: Certificate) -> IssuedLeaf:
    return IssuedLeaf(leaf.der, chain, built_by_hub=False)


def issue(ca: pki.Authority, chain: Iterable[Certificate], order: LeafRequest) -> IssuedLeaf:
    return given(leaf_of(order, ca), *chain)


async def test_request_signed(tmp_path: Path) -> None:
    async with exchanging(tmp_path) as (hub, exchanged):
        ca = hub.ca
        for chain in ([ca.certificate], [ca.certificate, ca.root], [ca.root, ca.certificate]):
            answer = await ask(hub, exchanged[0], partial(issue, ca, chain))
            assert answer.leaf.uris == (str(IDENTITY),)
            assert answer.elements[1:] == (ca.certificate.pem.decode(), ca.root.pem.decode()), (
                "the root is stripped"
            )


async def test_request_denied_or_no_issuer(tmp_path: Path) -> None:
    def denied(_: LeafRequest) -> IssuedLeaf:
        raise AuthorityMisconfigured("the role does not allow this URI")

    async with exchanging(tmp_path) as (hub, exchanged):
        answer = await ask(hub, exchanged[0], denied)
        assert (answer.code, answer.details) == SIGN_FAILED
        assert hub.refused("east") == {"authority_misconfigured": 1}


async def test_request_failed_for_now(tmp_path: Path) -> None:
    def down(_: LeafRequest) -> IssuedLeaf:
        raise AuthorityUnavailable("sealed")

    async with exchanging(tmp_path) as (hub, exchanged):
        answer = await ask(hub, exchanged[0], down)
        assert (answer.code, answer.details) == UNAVAILABLE


async def test_a_back_end_that_crashes_is_contained(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def crash(_: LeafRequest) -> IssuedLeaf:
        raise ZeroDivisionError("a bug with the token in it: no")

    async with exchanging(tmp_path) as (hub, exchanged):
        answer = await ask(hub, exchanged[0], crash)
        assert (answer.code, answer.details) == SIGN_FAILED
        assert "failed unexpectedly" in caplog.text
        exchanged[0].current = exchanged[0].made
        assert (await hub.ask("east", hub.pod("east"))).code is grpc.StatusCode.OK


WRONG_ROOT = authority("a root without a pin")
SECOND = authority("second chain")


def end(order: LeafRequest, **more: float) -> datetime:
    return order.validity.not_after + timedelta(**more)


CASES: dict[str, tuple[str, Callable[[LeafRequest, pki.Authority], IssuedLeaf]]] = {
    "garbage": ("garbage", lambda o, ca: IssuedLeaf(b"garbage", (ca.certificate,), False)),
    "trailing data": (
        "garbage",
        lambda o, ca: IssuedLeaf(leaf_of(o, ca).der + b"x", (ca.certificate,), False),
    ),
    "no chain": ("no_anchor", lambda o, ca: given(leaf_of(o, ca))),
    "chain of another": ("broken_chain", lambda o, ca: given(leaf_of(o, ca), SECOND.certificate)),
    "forked chain": ("broken_chain", lambda o, ca: given(leaf_of(o, ca), ca.certificate, SECOND.certificate)),
    "wrong root": ("no_anchor", lambda o, ca: given(leaf_of(o, WRONG_ROOT), WRONG_ROOT.certificate)),
    "wrong root, sent along": (
        "no_anchor",
        lambda o, ca: given(leaf_of(o, WRONG_ROOT), WRONG_ROOT.certificate, WRONG_ROOT.root),
    ),
    "another key": (
        "wrong_key",
        lambda o, ca: given(leaf_of(o, ca, public_key=pki.key("another").public_key()), ca.certificate),
    ),
    "another identity": (
        "wrong_names",
        lambda o, ca: given(leaf_of(o, ca, identity=identity_of("foo", "admin")), ca.certificate),
    ),
    "a CA": ("is_ca", lambda o, ca: given(leaf_of(o, ca, is_ca=True), ca.certificate)),
    "certificate signing": (
        "wrong_usages",
        lambda o, ca: given(leaf_of(o, ca, key_usage=pki.CA_KEY_USAGE), ca.certificate),
    ),
    "code signing": (
        "wrong_usages",
        lambda o, ca: given(
            leaf_of(o, ca, usage=x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING])), ca.certificate
        ),
    ),
    "a longer life": (
        "outlives_request",
        lambda o, ca: given(leaf_of(o, ca, not_after=end(o, hours=1)), ca.certificate),
    ),
    "a life over": (
        "expired",
        lambda o, ca: given(leaf_of(o, ca, not_after=end(o, hours=-1, minutes=-1)), ca.certificate),
    ),
}


async def test_what_a_back_end_returns_is_checked_before_delivery(tmp_path: Path) -> None:
    async with exchanging(tmp_path) as (hub, exchanged):
        for name, (reason, wrong) in CASES.items():
            before = hub.refused("east").get(reason, 0)
            answer = await ask(hub, exchanged[0], lambda order, wrong=wrong: wrong(order, hub.ca))  # type: ignore[misc]
            assert (answer.code, answer.details) == BAD_CHAIN, (name, hub.refused("east"))
            assert hub.refused("east").get(reason, 0) == before + 1, (name, hub.refused("east"))
        assert hub.role.report().issued == 0


async def test_one_root_of_several_is_enough(tmp_path: Path) -> None:
    def setup(hub: RunningSigner) -> None:
        hub.pins = [SECOND]

    async with exchanging(tmp_path, setup=setup, start=False) as (hub, exchanged):
        await hub.publish(hub.ca, SECOND)
        await hub.start()
        await hub.ready()
        for ca in (hub.ca, SECOND):
            answer = await ask(hub, exchanged[0], partial(issue, ca, [ca.certificate]))
            assert answer.elements[-1].count("BEGIN CERTIFICATE") == 2


async def test_nothing_leaves_that_was_not_accounted_for(tmp_path: Path) -> None:
    async with running_signer(tmp_path) as hub:
        hub.store.failing = "horizons/"
        answer = await hub.ask("east", hub.pod("east"))
        assert (answer.code, answer.details) == UNAVAILABLE
        assert answer.elements == ()
        assert hub.refused("east") == {"state_unavailable": 1}
