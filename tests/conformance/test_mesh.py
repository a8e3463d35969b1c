"""istio-csr's end-to-end cases by name: the namespace matrix, rotation with a two-root bundle, kinds of CA keys."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from itertools import product
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from federation.controller.proof.handshake import Credential, HandshakeError, handshake
from federation.core.pki.certificate import Certificate
from federation.core.pki.keys import KeyKind, private_key_pem
from federation.runtime.clock import SystemClock
from federation_sandbox import demo
from federation_sandbox.box import Box, DevelopmentCa
from federation_sandbox.demo import sandbox_members
from federation_sandbox.mesh import Identity, Workload
from tests.controller.world import leaf_for
from tests.e2e.test_edits_of_authorities import may_start
from tests.support import pki

LEAF = timedelta(seconds=10)
LIMIT = (
    120.0  # seconds for each step of a rotation that waits for leaves to end, on a machine that may be busy
)


@contextlib.asynccontextmanager
async def running(
    directory: Path, kind: KeyKind = KeyKind.EC_P256, *, prepare: Callable[[Box], None] = lambda _: None
) -> AsyncIterator[Box]:
    """A ready hub with one member cluster, configured as ``prepare`` has it."""
    clock = SystemClock()
    async with sandbox_members(directory, ("east",), clock=clock) as members:
        ca = DevelopmentCa.create(directory / "first-ca", name="first", clock=clock, kind=kind)
        box = Box(directory=directory, members=members, ca=ca, clock=clock)
        prepare(box)
        await box.register()
        await box.start_hub()
        try:
            await box.wait_ready()
            yield box
        finally:
            await box.stop_hub()


def with_short_leaves(box: Box) -> None:
    """A rotation waits for leaves to end: so that it takes half a minute."""
    demo.prepare(box, life=LEAF)
    box.proof_interval = 1.0
    box.rotation_lines = 'soak = "1s"\nskew = "1s"\nfresh = "30s"\nwaves = 1'


def credential(workload: Workload, identity: Identity) -> Credential:
    return Credential(
        chain=identity.chain, key_pem=identity.key_pem, trust=identity.trust, identity=workload.identity
    )


def of_the_old_ca(ca: DevelopmentCa, workload: Workload, *, trust: tuple[Certificate, ...]) -> Credential:
    """A certificate that it signed and that does not end with the rotation, which would wait for one that it knew."""
    key = pki.key("late")
    san = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(workload.identity))])
    signs = load_pem_private_key((ca.directory / "key.pem").read_bytes(), None)
    authority = pki.Authority(ca.intermediate, signs, (ca.intermediate,), ca.root)  # type: ignore[arg-type]
    own = leaf_for(authority, san, key.public_key())
    return Credential(
        chain=(own, ca.intermediate),
        key_pem=private_key_pem(key),
        trust=trust,
        identity=workload.identity,
    )


async def test_three_by_three_namespaces_talk_under_strict_mutual_tls(tmp_path: Path) -> None:
    async with running(tmp_path) as box:
        workloads = [await box.workload("east", f"team-{number}", "app") for number in range(3)]
        identities = {workload: await workload.renew() for workload in workloads}
    for client, server in product(workloads, repeat=2):
        version = handshake(
            client=credential(client, identities[client]), server=credential(server, identities[server])
        )
        assert version == "TLSv1.3"
    mismatched = Credential(
        chain=identities[workloads[0]].chain,
        key_pem=identities[workloads[1]].key_pem,
        trust=identities[workloads[0]].trust,
        identity=workloads[0].identity,
    )
    with pytest.raises(HandshakeError):
        handshake(client=mismatched, server=credential(workloads[2], identities[workloads[2]]))


async def test_ca_rotation_with_a_two_root_bundle(tmp_path: Path) -> None:
    """By the hub's own machine: certificates of both CAs talk, until the old one's root is trusted no more."""
    async with running(tmp_path, prepare=with_short_leaves) as box:
        workload = await box.workload("east", "shop", "frontend")
        first = box.ca
        second = DevelopmentCa.create(tmp_path / "second-ca", name="second", clock=box.clock)
        await workload.renew()
        box.successor = second
        box.write_config()
        await box.wait_for("/api/v1/status", may_start)
        before = await workload.renew()
        assert before.trust == (first.root,), "what is staged is published by the rotation"
        await box.operate("start", reason="the next CA")
        both = await renewed_until(workload, lambda identity: len(identity.trust) == 2)
        assert both.chain[1] == first.intermediate
        assert set(both.trust) == {first.root, second.root}
        early = of_the_old_ca(first, workload, trust=before.trust)  # the one before may have ended by now
        assert handshake(client=early, server=credential(workload, both))
        assert handshake(client=credential(workload, both), server=early)

        new = both
        async with asyncio.timeout(LIMIT):
            while new.chain[1] == first.intermediate:
                await asyncio.sleep(0.2)
                old, new = new, await workload.renew()
        assert new.chain[1] == second.intermediate
        assert set(old.trust) == set(new.trust) == {first.root, second.root}
        assert handshake(client=credential(workload, old), server=credential(workload, new))
        assert handshake(client=credential(workload, new), server=credential(workload, old))
        late = of_the_old_ca(first, workload, trust=new.trust)
        assert handshake(client=late, server=credential(workload, new))
        assert handshake(client=credential(workload, new), server=late)

        last = await renewed_until(workload, lambda identity: len(identity.trust) == 1)
        assert last.trust == (second.root,)
        assert last.chain[1] == second.intermediate
        for client, server in ((late, credential(workload, last)), (credential(workload, last), late)):
            with pytest.raises(HandshakeError) as refused:
                handshake(client=client, server=server)
            assert refused.value.reason == "certificate_refused"
            assert (client, server)[refused.value.side == "server"] is not late, "the other one refuses it"
        await box.wait_for("/api/v1/rotation", lambda rotation: rotation["state"] == "RETIRED", limit=LIMIT)


async def test_another_ca_that_is_configured_without_a_rotation(tmp_path: Path) -> None:
    """istio-csr takes it at once. Here it is a pending change, and nothing about who signs changes by it."""
    async with running(tmp_path) as box:
        workload = await box.workload("east", "shop", "frontend")
        before = await workload.renew()
        second = DevelopmentCa.create(tmp_path / "second-ca", name="second", clock=SystemClock())
        first = box.ca
        box.extra_anchors.append(second.directory / "root.pem")
        box.write_config()
        both = await renewed_until(workload, lambda identity: len(identity.trust) == 2)
        assert both.chain[1] == first.intermediate
        assert set(both.trust) == {first.root, second.root}
        early = of_the_old_ca(first, workload, trust=before.trust)  # the one before may have ended by now
        assert handshake(client=early, server=credential(workload, both))
        assert handshake(client=credential(workload, both), server=early)
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
        identity = await workload.renew()
    mine = credential(workload, identity)
    assert handshake(client=mine, server=mine)


async def renewed_until(workload: Workload, wanted) -> Identity:  # type: ignore[no-untyped-def]
    """Renew until the certificate is as wanted; every single renewal has to succeed."""
    async with asyncio.timeout(LIMIT):
        while True:
            identity = await workload.renew(lifetime=timedelta(hours=1))
            if wanted(identity):
                return identity
            await asyncio.sleep(0.2)
