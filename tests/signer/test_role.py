"""The role as a whole: when it is ready and why not, what it takes up while running, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from itertools import repeat
from pathlib import Path
from typing import Any

import grpc
import pytest

from federation.core.documents.signer import SignerReport
from federation.core.pki.keys import KeyKind
from federation.core.rotation.effects import SigningDirectives
from federation.core.trust.bundle import Anchor, TrustBundle
from federation.signer import issuance
from federation.signer.listeners.tls import ServingPair
from federation_sandbox.apiserver.faults import Delay
from tests.signer.running_signer import (
    TRUST_DOMAIN,
    RunningSigner,
    admit,
    authority,
    bundle_of,
    eventually,
    identity_of,
    running_signer,
)
from tests.support import pki
from tests.support.clock import AheadClock
from tests.support.patience import PATIENCE


def reasons(hub: RunningSigner) -> str:
    return "; ".join(hub.role.report().reasons)


async def test_not_ready_without_a_bundle_and_listening_only_with_a_certificate(tmp_path: Path) -> None:
    async with running_signer(tmp_path, start=False) as hub:
        await hub.start()
        await eventually(lambda: "controller has not written" in reasons(hub))
        assert not hub.role.report().ready
        assert hub.role.address is None
        stored = await hub.stored_report()
        assert stored is None or not stored.ready
        await hub.publish()
        await hub.ready()
        report = hub.role.report()
        assert (report.generation, report.reasons) == (1, [])
        assert report.address == str(hub.role.address)
        assert report.serving_not_after > hub.clock.now().timestamp()


async def test_not_ready_without_an_authority(tmp_path: Path) -> None:
    async with running_signer(tmp_path, start=False) as hub:
        key = tmp_path / "authority" / "ca-key.pem"
        key.chmod(0o644)
        await hub.publish()
        await hub.start()
        await eventually(lambda: "0644" in reasons(hub))
        assert hub.role.address is None
        key.chmod(0o600)
        await hub.ready()


async def test_the_report_is_in_the_store_and_withdrawn_at_the_end(tmp_path: Path) -> None:
    async with running_signer(tmp_path) as hub:
        await hub.ask("east", hub.pod("east"))

        async def counted() -> SignerReport | None:
            report = await hub.stored_report()
            return report if report is not None and report.issued == 1 else None

        async with asyncio.timeout(PATIENCE):
            while (report := await counted()) is None:
                await asyncio.sleep(0.05)
        assert report.clusters["east"].issued == 1
        assert report.latency.count == 1
        assert report.authority is not None
        assert report.authority.state == "ready"
        await hub.stop()
        assert await hub.stored_report() is None


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"bundle_pem": "garbage"}, "not what its digest says"),
        ({"sha256": "0" * 64}, "not what its digest says"),
        ({"trust_domain": "elsewhere.example"}, "trust domain"),
    ],
)
async def test_a_generation_that_is_wrong_is_refused_and_the_last_good_one_stays(
    tmp_path: Path, wrong: dict[str, Any], reason: str
) -> None:
    async with running_signer(tmp_path) as hub:
        token = hub.pod("east")
        assert (await hub.ask("east", token)).code is grpc.StatusCode.OK
        await hub.publish(**wrong)
        await eventually(lambda: any(reason in found for found in hub.role.report().not_applied))
        assert hub.role.report().generation == 1
        assert hub.role.report().ready
        assert (await hub.ask("east", token)).elements[-1] == bundle_of(hub.ca).decode()
        farther = await hub.ask("east", token, seconds=7200)
        assert farther.code is grpc.StatusCode.UNAVAILABLE, (
            "no leaf reaches farther than the controller knows"
        )
        await hub.publish()
        await eventually(lambda: hub.role.report().generation == 3)
        assert hub.role.report().not_applied == []


async def test_an_anchor_that_is_not_pinned_is_refused(tmp_path: Path) -> None:
    """A stolen controller cannot add a root; the operator's pin can."""
    second = authority("not pinned")
    async with running_signer(tmp_path) as hub:
        await hub.publish(hub.ca, second)
        await eventually(lambda: any(second.root.sha256 in found for found in hub.role.report().not_applied))
        assert hub.role.report().generation == 1
        hub.pins = [second]
        await hub.reconfigure()
        await eventually(lambda: hub.role.report().generation == 2)
        assert hub.role.report().not_applied == []


async def test_generations_do_not_run_backwards(tmp_path: Path) -> None:
    async with running_signer(tmp_path) as hub:
        await hub.publish()
        await eventually(lambda: hub.role.report().generation == 2)
        hub.generation = 0
        await hub.publish()
        await eventually(lambda: any("older than 2" in found for found in hub.role.report().not_applied))
        assert hub.role.report().generation == 2


async def test_a_generation_that_was_rewritten_is_refused(tmp_path: Path) -> None:
    second = authority("second")

    def setup(hub: RunningSigner) -> None:
        hub.pins = [second]

    async with running_signer(tmp_path, setup=setup) as hub:
        hub.generation = 0
        await hub.publish(hub.ca, second)
        await eventually(lambda: any("was changed after" in found for found in hub.role.report().not_applied))
        assert (
            hub.role.report().bundle_sha256
            == TrustBundle.merge(
                [Anchor(certificate=hub.ca.root, origin="", kind="root", trust_domain=TRUST_DOMAIN)]
            ).sha256
        )


async def test_a_damaged_store_stops_no_certificate_that_is_accounted_for(tmp_path: Path) -> None:
    async with running_signer(tmp_path) as hub:
        token = hub.pod("east")
        assert (await hub.ask("east", token)).code is grpc.StatusCode.OK
        for document in (tmp_path / "state" / "documents").iterdir():
            document.write_bytes(b"damaged")
        await eventually(lambda: hub.role.report().not_applied)
        assert (await hub.ask("east", token)).code is grpc.StatusCode.OK
        assert hub.role.report().ready
        assert (await hub.ask("east", token, seconds=7200)).code is grpc.StatusCode.UNAVAILABLE
        assert "how far leaves reach cannot be persisted" in reasons(hub)


async def test_a_cluster_is_added_without_a_restart(tmp_path: Path) -> None:
    def setup(hub: RunningSigner) -> None:
        hub.registered.remove("west")

    async with running_signer(tmp_path, ("east", "west"), setup=setup) as hub:
        attestor = hub.attestors["east"]
        hub.registered.append("west")
        await hub.reconfigure()
        await hub.ready()
        assert (await hub.ask("west", hub.pod("west"))).code is grpc.StatusCode.OK
        assert hub.attestors["east"] is attestor, "east was disturbed"


async def test_a_change_of_policy_takes_effect_and_costs_no_caches(tmp_path: Path) -> None:
    async with running_signer(tmp_path) as hub:
        token = hub.pod("east")
        attestor = hub.attestors["east"]
        hub.policies["east"] = 'allow = ["shop/*"]'
        await hub.reconfigure()
        assert (await hub.ask("east", token)).code is grpc.StatusCode.UNAUTHENTICATED
        hub.policies["east"] = 'key_kinds = ["ecdsa-p384"]'
        await hub.reconfigure()
        assert (await hub.ask("east", token)).code is grpc.StatusCode.UNAUTHENTICATED
        csr = pki.csr_pem(identity_of("foo", "bar"), private_key=pki.key("p384", KeyKind.EC_P384))
        assert (await hub.ask("east", token, csr)).code is grpc.StatusCode.OK
        assert hub.attestors["east"] is attestor


async def test_a_bad_configuration_changes_nothing_and_is_reported(tmp_path: Path) -> None:
    async with running_signer(tmp_path) as hub:
        hub.config_file.write_text("nonsense = [")
        assert not await hub.config.reload()
        assert hub.role.report().config_problems
        assert (await hub.ask("east", hub.pod("east"))).code is grpc.StatusCode.OK


async def test_what_needs_a_restart_is_said(tmp_path: Path) -> None:
    async with running_signer(tmp_path) as hub:
        hub.listener_options = "max_concurrent = 3"
        await hub.reconfigure()
        assert any("after a restart" in warning for warning in hub.role.report().warnings)
        hub.listener_options = ""
        await hub.reconfigure()
        assert hub.role.report().warnings == []


async def test_another_authority_takes_over_without_a_restart(tmp_path: Path) -> None:
    async with running_signer(tmp_path) as hub:
        token = hub.pod("east")
        root = pki.Authority(hub.ca.root, pki.key("root a of signer"), (), hub.ca.root)
        now = hub.clock.now().replace(microsecond=0)
        second = pki.intermediate(
            "a second under the same root", root, not_before=now - pki.DAY, not_after=now + pki.DAY
        )
        first, hub.ca = hub.ca, second
        chain, key, _ = second.write(tmp_path / "second")
        text = hub.config_file.read_text().replace(str(tmp_path / "authority"), str(tmp_path / "second"))
        key.chmod(0o640)
        hub.config_file.write_text(text)
        assert await hub.config.reload()
        await eventually(lambda: "cannot take over" in (hub.role.report().authority or first).detail)  # type: ignore[union-attr]
        assert (await hub.ask("east", token)).elements[1] == first.certificate.pem.decode()
        key.chmod(0o600)
        await eventually(lambda: hub.role.report().authority.sha256 == second.certificate.sha256)  # type: ignore[union-attr]
        assert (await hub.ask("east", token)).elements[1] == second.certificate.pem.decode()
        assert chain.exists()


async def test_the_files_of_the_authority_are_taken_up_together(tmp_path: Path) -> None:
    """Swapped in mid-load, truncated, and under a root that is not published yet: the last good pair signs on."""
    second = authority("second chain")

    def setup(hub: RunningSigner) -> None:
        hub.pins = [second]

    async with running_signer(tmp_path, setup=setup) as hub:
        token, old = hub.pod("east"), hub.ca.certificate
        chain, key = tmp_path / "authority" / "ca-chain.pem", tmp_path / "authority" / "ca-key.pem"

        async def degraded(text: str) -> None:
            await eventually(
                lambda: text in hub.role.report().authority.detail,  # type: ignore[union-attr]
                describe=lambda: hub.role.report().authority,
            )
            report = hub.role.report()
            assert report.authority is not None
            assert report.authority.state == "degraded"
            assert report.ready
            assert (await hub.ask("east", token)).elements[1] == old.pem.decode()

        chain.write_bytes(second.chain_pem)
        await degraded("the private key is not the one of")
        key.write_bytes(second.key_pem)
        await degraded("no path to an anchor")
        chain.write_bytes(second.chain_pem[:200])
        await degraded("cut short")
        key.unlink()
        await degraded("cannot read")
        chain.write_bytes(second.chain_pem)
        key.touch(mode=0o600)
        key.write_bytes(second.key_pem)
        await hub.publish(hub.ca, second)
        await degraded("is under the root")  # published, and it was not made sure that all trust it
        rotated = SigningDirectives(
            rotation=1, state="RETIRED", issuer=second.certificate.sha256, root=second.root.sha256
        )
        await hub.direct(rotated)
        await eventually(lambda: hub.role.report().authority.sha256 == second.certificate.sha256)  # type: ignore[union-attr]
        answer = await hub.ask("east", token, trust=bundle_of(hub.ca, second))
        assert answer.elements[1] == second.certificate.pem.decode()
        await hub.publish(hub.ca)
        await eventually(lambda: "cannot sign" in reasons(hub))
        answer = await hub.ask("east", token, trust=bundle_of(hub.ca, second))
        assert answer.code is grpc.StatusCode.INTERNAL, "its root has left the bundle"


async def test_draining_finishes_what_is_under_way(tmp_path: Path) -> None:
    def setup(hub: RunningSigner) -> None:
        hub.options = {"east": 'attestation = "token-review"'}

    async with running_signer(tmp_path, setup=setup) as hub:
        token = hub.pod("east")
        with hub.clusters["east"].faults.inject(Delay(1.0), resource="tokenreviews") as reviews:
            under_way = asyncio.create_task(hub.ask("east", token))
            await eventually(lambda: reviews.hits)
            stopping = asyncio.create_task(hub.stop())
            await eventually(lambda: "draining" in reasons(hub))
            while await listens(hub):
                await asyncio.sleep(0.02)
            assert (await hub.ask("east", token, timeout=3)).code is grpc.StatusCode.UNAVAILABLE
            assert (await under_way).code is grpc.StatusCode.OK
        await stopping


async def test_the_listeners_certificate_is_renewed_in_place(tmp_path: Path) -> None:
    """It was made by clocks that are behind, so that it is due and has not ended when they are set right."""
    clock, behind = AheadClock(), timedelta(seconds=2500)

    def setup(hub: RunningSigner) -> None:
        hub.listener_options = "serving_lifetime = 3600"
        hub.clock, clock.ahead = clock, -behind.total_seconds()
        hub.clusters["east"].skew = -behind
        admit(hub.clusters["east"], hub.directory / "east.kubeconfig")  # its token is good by that clock

    async with running_signer(tmp_path, setup=setup) as hub:
        first, *_ = hub.serving
        async with hub.channel() as standing:
            await standing.channel_ready()
            clock.ahead, hub.clusters["east"].skew = 0.0, timedelta(0)
            await eventually(lambda: hub.serving[0] != first)
            assert standing.get_state() is grpc.ChannelConnectivity.READY
        assert (await hub.ask("east", hub.pod("east"))).code is grpc.StatusCode.OK
        assert await shown_certificate(hub) == hub.serving[0].der


async def test_a_call_waits_for_a_generation_whose_anchor_was_pinned_a_moment_ago(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The controller has read the configuration and published; this signer reads it a moment later."""
    waits = asyncio.Event()

    class Pauses:
        def __iter__(self) -> Iterator[float]:
            yield 0.0
            waits.set()
            yield from repeat(0.25)  # on a busy machine a moment is long

    monkeypatch.setattr(issuance, "PAUSES", Pauses())
    monkeypatch.setattr(issuance, "LASTING", PATIENCE)
    added = authority("b")
    async with running_signer(tmp_path) as hub:
        await hub.publish(hub.ca, added)
        async with asyncio.TaskGroup() as group:
            asked = group.create_task(hub.ask("east", hub.pod("east")))
            await asyncio.wait_for(waits.wait(), PATIENCE)
            hub.pins.append(added)
            await hub.reconfigure()
        assert asked.result().code is grpc.StatusCode.OK


async def test_callers_do_not_wait_for_a_generation_that_is_not_taken_up_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or each of them would keep its place for nothing while an anchor is not pinned."""
    waits = 0

    class Pauses:
        def __iter__(self) -> Iterator[float]:
            nonlocal waits
            for _ in range(1000):
                yield 0.01
                waits += 1

    monkeypatch.setattr(issuance, "PAUSES", Pauses())
    monkeypatch.setattr(issuance, "LASTING", 0.2)
    async with running_signer(tmp_path) as hub:
        await hub.publish(hub.ca, authority("b"))
        assert (await hub.ask("east", hub.pod("east"))).code is grpc.StatusCode.UNAVAILABLE
        assert 0 < waits < 1000


async def listens(hub: RunningSigner) -> bool:
    """Whether a connection to the listener is taken."""
    assert hub.role.address is not None
    try:
        _, writer = await asyncio.open_connection(hub.role.address.host, hub.role.address.port)
    except OSError:
        return False
    writer.close()
    return True


async def shown_certificate(hub: RunningSigner) -> bytes:
    """What the listener shows in a handshake now, over TLS 1.2 or later with ALPN h2."""
    import ssl

    assert hub.role.address is not None
    context = ssl.create_default_context(cadata=hub.ca.root.pem.decode())
    context.set_alpn_protocols(["h2"])
    _, writer = await asyncio.open_connection(
        hub.role.address.host,
        hub.role.address.port,
        ssl=context,
        server_hostname="federation-hub.federation-system.svc",
    )
    try:
        tls = writer.get_extra_info("ssl_object")
        assert tls.selected_alpn_protocol() == "h2"
        assert tls.version() in {"TLSv1.2", "TLSv1.3"}
        der: bytes = tls.getpeercert(binary_form=True)
        return der
    finally:
        writer.close()


async def test_the_listener_presents_its_intermediate_and_no_root(tmp_path: Path) -> None:
    async with running_signer(tmp_path) as hub:
        leaf, *above = hub.serving
        assert await shown_certificate(hub) == leaf.der
        assert above == [hub.ca.certificate]


def test_a_pair_shows_its_key_in_no_text() -> None:
    ca = authority()
    pair = ServingPair(ca.chain_pem, ca.key_pem)
    assert b"PRIVATE KEY" in pair.key_pem
    assert "PRIVATE" not in repr(pair)
