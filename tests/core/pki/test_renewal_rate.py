"""How often callers come back with leaves of any life: ztunnel counts from NotBefore, which the hub chooses."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from federation.core.identity import SpiffeId
from federation.core.istio.ca_protocol import decode_request, encode_response
from federation.core.pki.leaf import leaf_validity
from tests.support import pki
from tests.support.clock import VirtualClock
from tests.support.pki import DAY, NOW
from tests.support.ztunnel import Ztunnel

ISSUERS = (pki.intermediate().certificate, pki.root().certificate)
IDENTITY = SpiffeId.parse("spiffe://cluster.local/ns/foo/sa/bar")


@pytest.mark.parametrize("life", [30, 60, 120, 600, 3600, 86400])
async def test_a_ztunnel_renews_about_twice_in_a_life(life: int) -> None:
    """With leaves of 60 s that began two minutes back, one identity requested 162 certificates in 14 s."""
    clock = VirtualClock(NOW)

    async def call(message: bytes) -> bytes:
        csr = decode_request(message).csr
        validity = leaf_validity(clock.now(), life, DAY, ISSUERS, DAY)
        leaf = pki.certificate(
            pki.intermediate(),
            [(pki.spiffe_san(IDENTITY), True)],
            public_key=x509.load_pem_x509_csr(csr.encode()).public_key(),  # type: ignore[arg-type]
            not_before=validity.not_before,
            not_after=validity.not_after,
        )
        return encode_response((leaf.pem.decode(), pki.intermediate().pem.decode(), pki.root().pem.decode()))

    ztunnel = Ztunnel(call, clock)
    running = asyncio.create_task(ztunnel.run([IDENTITY]))
    try:
        await clock.advance(10 * life)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert 20 <= len(ztunnel.asked) <= 24
    assert ztunnel.certificates[IDENTITY].leaf.not_after > clock.now()


@given(st.integers(1, 86400))
def test_half_of_a_leafs_time_is_never_over_when_it_arrives(life: int) -> None:
    validity = leaf_validity(NOW, life, DAY, ISSUERS, DAY)
    due = validity.not_before + (validity.not_after - validity.not_before) / 2
    assert due - NOW >= timedelta(seconds=life) * 0.45
