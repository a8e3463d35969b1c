"""The channel to the signer's listener, and what becomes of calls under way when it is replaced."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography import x509

from federation.controller.proof.listener_check import CERTIFICATE, CHANNEL_LIFE, NO_ANSWER, SignerListener
from federation.core.clock import Clock
from federation.core.errors import Unavailable
from federation.core.identity import ClusterId
from federation.core.istio.ca_protocol import SERVICE
from federation.core.pki.keys import private_key_pem
from federation.runtime.clock import SystemClock
from federation_sandbox.ports import free_port
from tests.controller.world import HUB, leaf_for, root
from tests.support import pki
from tests.support.clock import VirtualClock
from tests.support.patience import PATIENCE


@contextlib.asynccontextmanager
async def silent_listener(peers: list[str] | None = None) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """The address of a listener that takes a call and never answers, and what says that it has taken one.

    ``peers`` is given the connection that each call came by.
    """
    taken = asyncio.Event()

    async def take(_: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        taken.set()
        if peers is not None:
            peers.append(context.peer())
        await asyncio.Event().wait()
        raise AssertionError

    authority, key = pki.intermediate("controller a", root()), pki.key("listener")
    serving = leaf_for(authority, x509.SubjectAlternativeName([x509.DNSName(HUB)]), key.public_key())
    credentials = grpc.ssl_server_credentials([(private_key_pem(key), serving.pem + authority.chain_pem)])
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(take)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(SERVICE, {"CreateCertificate": handler}),)
    )
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield f"127.0.0.1:{port}", taken
    finally:
        await server.stop(None)


@contextlib.asynccontextmanager
async def call_under_way(
    clock: Clock | None = None, peers: list[str] | None = None
) -> AsyncIterator[tuple[SignerListener, str, asyncio.Task[tuple[str, ...]]]]:
    """A listener that is aimed, where, and a request to it that the server has taken."""
    async with silent_listener(peers) as (address, taken), asyncio.timeout(PATIENCE):
        listener = SignerListener(clock or SystemClock())
        await listener.aim(address, server_name=HUB, trust_pem=root().pem)
        asking = asyncio.create_task(
            listener.request(csr="csr", token="token", cluster_id=ClusterId("east"), lifetime=60.0)
        )
        await taken.wait()
        yield listener, address, asking
        await listener.close()


async def test_a_call_under_way_fails_when_another_bundle_comes() -> None:
    async with call_under_way() as (listener, address, asking):
        await listener.aim(address, server_name=HUB, trust_pem=root("b").pem)
        with pytest.raises(Unavailable, match="was replaced"):
            await asking


@pytest.mark.parametrize(
    ("trust", "name"), [("b", HUB), ("a", "other.example")], ids=["another root", "another name"]
)
async def test_a_listener_certificate_that_clients_refuse_is_reported_as_such(trust: str, name: str) -> None:
    """It was once reported with the remedy to create the probe's service account."""
    async with silent_listener() as (address, _):
        listener = SignerListener(SystemClock())
        await listener.aim(
            address, server_name=name, trust_pem=root(trust).pem if trust != "a" else root().pem
        )
        with pytest.raises(Unavailable) as reported:
            await listener.request(csr="csr", token="token", cluster_id=ClusterId("east"), lifetime=60.0)
        await listener.close()
    assert reported.value.reason == CERTIFICATE
    assert "federation authority check" in reported.value.remedy
    assert "service account" not in reported.value.diagnostics()


async def test_a_listener_that_does_not_answer_is_reported_as_such() -> None:
    listener = SignerListener(SystemClock())
    await listener.aim(f"127.0.0.1:{free_port()}", server_name=HUB, trust_pem=root().pem)
    with pytest.raises(Unavailable) as reported:
        await listener.request(csr="csr", token="token", cluster_id=ClusterId("east"), lifetime=60.0)
    await listener.close()
    assert reported.value.reason == NO_ANSWER
    assert "controller.proof.signer_address" in reported.value.remedy


@pytest.mark.parametrize("why", ["nothing", "another certificate is shown", "it is kept long enough"])
async def test_a_channel_is_replaced_when_a_new_caller_may_reach_another_listener(why: str) -> None:
    """A connection accepted long ago may end at another listener than the one that a new workload connects to.

    The call under way is not ended: its cluster would be reported as one whose probe fails.
    """
    clock, peers = VirtualClock(), list[str]()
    async with call_under_way(clock, peers) as (listener, address, first):
        shown = frozenset({"another"}) if why.startswith("another") else frozenset[str]()
        if why == "it is kept long enough":
            await clock.advance(CHANNEL_LIFE)
        await listener.aim(address, server_name=HUB, trust_pem=root().pem, shown=shown)
        second = asyncio.create_task(
            listener.request(csr="csr", token="token", cluster_id=ClusterId("east"), lifetime=60.0)
        )
        while len(peers) < 2:
            await asyncio.sleep(0.01)
        assert (peers[0] == peers[1]) is (why == "nothing")
        assert not first.done()
        for call in (first, second):
            call.cancel()
        await asyncio.gather(first, second, return_exceptions=True)


async def test_a_call_cancelled_by_its_caller_is_cancelled() -> None:
    async with call_under_way() as (_, __, asking):
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert asking.cancelled()
