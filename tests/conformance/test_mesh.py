"""istio-csr's end-to-end cases by name: the namespace matrix, rotation with a two-root bundle, kinds of CA keys."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from itertools import product
from pathlib import Path

import pytest

from federation.controller.proof.handshake import Credential, HandshakeError, handshake
from federation.core.pki.keys import KeyKind
from federation.runtime.clock import SystemClock
from federation.sandbox.box import Box, DevelopmentCa
from federation.sandbox.demo import sandbox_members
from federation.sandbox.mesh import Identity, Workload


@contextlib.asynccontextmanager
async def running(directory: Path, kind: KeyKind = KeyKind.EC_P256) -> AsyncIterator[Box]:
    """A ready hub with one member cluster."""
    clock = SystemClock()
    async with sandbox_members(directory, ("east",), clock=clock) as members:
        ca = DevelopmentCa.create(directory / "first-ca", name="first", clock=clock, kind=kind)
        box = Box(directory=directory, members=members, ca=ca, clock=clock)
        await box.register()
        await box.start_hub()
        try:
            await box.wait_ready()
            yield box
        finally:
            await box.stop_hub()


def credential(workload: Workload, held: Identity) -> Credential:
    return Credential(chain=held.chain, key_pem=held.key_pem, trust=held.trust, identity=workload.identity)


async def test_three_by_three_namespaces_talk_under_strict_mutual_tls(tmp_path: Path) -> None:
    async with running(tmp_path) as box:
        workloads = [await box.workload("east", f"team-{number}", "app") for number in range(3)]
        held = {workload: await workload.renew() for workload in workloads}
    for client, server in product(workloads, repeat=2):
        version = handshake(client=credential(client, held[client]), server=credential(server, held[server]))
        assert version == "TLSv1.3"
    nobody = Credential(
        chain=held[workloads[0]].chain,
        key_pem=held[workloads[1]].key_pem,
        trust=held[workloads[0]].trust,
        identity=workloads[0].identity,
    )
    with pytest.raises(HandshakeError):
        handshake(client=nobody, server=credential(workloads[2], held[workloads[2]]))


async def test_ca_rotation_with_a_two_root_bundle(tmp_path: Path) -> None:
    """istio-csr takes another CA at once. Here that is a rotation: ``e2e/test_edits_of_authorities.py`` goes on."""
    async with running(tmp_path) as box:
        workload = await box.workload("east", "shop", "frontend")
        before = await workload.renew()
        second = DevelopmentCa.create(tmp_path / "second-ca", name="second", clock=SystemClock())
        first = box.ca
        box.extra_anchors.append(second.directory / "root.pem")
        box.write_config()
        both = await renewed_until(workload, lambda held: len(held.trust) == 2)
        assert both.chain[1] == first.intermediate
        assert set(both.trust) == {first.root, second.root}
        assert handshake(client=credential(workload, before), server=credential(workload, both))
        assert handshake(client=credential(workload, both), server=credential(workload, before))
        box.ca, box.extra_anchors[:] = second, [first.directory / "root.pem"]
        box.write_config()
        await box.wait_for(
            "/api/v1/status",
            lambda answer: "authority_not_in_force" in {found["code"] for found in answer["attention"]},
        )
        after = await workload.renew()
        assert after.chain[1] == first.intermediate, "an edit changes nothing about who signs"
        assert handshake(client=credential(workload, after), server=credential(workload, before))


@pytest.mark.parametrize("kind", [KeyKind.EC_P384, KeyKind.RSA_2048])
async def test_other_kinds_of_ca_keys(tmp_path: Path, kind: KeyKind) -> None:
    async with running(tmp_path, kind) as box:
        workload = await box.workload("east", "shop", "frontend")
        held = await workload.renew()
    mine = credential(workload, held)
    assert handshake(client=mine, server=mine)


async def renewed_until(workload: Workload, wanted) -> Identity:  # type: ignore[no-untyped-def]
    """Renew until the certificate is as wanted; every single renewal has to succeed."""
    async with asyncio.timeout(30):
        while True:
            held = await workload.renew(lifetime=timedelta(hours=1))
            if wanted(held):
                return held
            await asyncio.sleep(0.2)
