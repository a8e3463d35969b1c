"""The transport's limits: sizes, concurrency, deadlines, pings, what TLS offers, and a port that is taken."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from federation.core.call_slots import CallSlot
from federation.core.config.types import Address
from federation.core.istio.ca_protocol import METHOD
from federation.signer.attestation.token_review import TokenReviewer
from federation_sandbox.apiserver.faults import Delay, Hang
from tests.signer.running_signer import Answer, RunningSigner, eventually, running_signer
from tests.support.patience import PATIENCE


def reviewing(*, request_timeout: float = 5.0, **listener: object) -> Callable[[RunningSigner], None]:
    def setup(hub: RunningSigner) -> None:
        hub.request_timeout = request_timeout
        hub.options = dict.fromkeys(hub.clusters, 'attestation = "token-review"')
        hub.listener_options = "\n".join(f"{name} = {value}" for name, value in listener.items())

    return setup


async def test_a_message_that_is_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    async with running_signer(tmp_path) as hub:
        token = hub.pod("east")
        answer = await hub.ask("east", token, message=b"\x0a" + b"x" * 70_000)
        assert answer.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert hub.role.report().latency.count == 0
        assert (await hub.ask("east", token)).code is grpc.StatusCode.OK


async def test_metadata_that_is_too_large_is_refused(tmp_path: Path) -> None:
    async with running_signer(tmp_path) as hub:
        answer = await hub.ask("east", "x" * 20_000)
        assert answer.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert hub.role.report().latency.count == 0


async def test_calls_beyond_the_limit_are_refused_early(tmp_path: Path) -> None:
    setup = reviewing(max_concurrent=4, max_concurrent_per_cluster=4, request_timeout=20)
    async with running_signer(tmp_path, setup=setup) as hub:
        tokens = [hub.pod("east", name=f"bar-{n}") for n in range(8)]
        with hub.clusters["east"].faults.inject(Delay(8), resource="tokenreviews"):
            codes = [
                (await answer).code
                for answer in asyncio.as_completed([hub.ask("east", token) for token in tokens])
            ]
        assert codes.count(grpc.StatusCode.OK) == 4
        assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == 4
        assert codes[:4] == [grpc.StatusCode.RESOURCE_EXHAUSTED] * 4, (
            "who is refused does not wait for the others"
        )


async def test_one_clusters_storm_leaves_room_for_the_others(tmp_path: Path) -> None:
    setup = reviewing(max_concurrent=16, max_concurrent_per_cluster=3, deadline=10, request_timeout=20)
    async with running_signer(tmp_path, ("east", "west"), setup=setup) as hub:
        storm = [hub.pod("west", name=f"bar-{n}") for n in range(8)]
        await eventually(
            lambda: hub.role.report().clusters["west"].keys
        )  # with them known, callers take its slots
        with hub.clusters["west"].faults.inject(Hang(), resource="tokenreviews"):
            stuck = [asyncio.create_task(hub.ask("west", token)) for token in storm]
            await eventually(lambda: sum(task.done() for task in stuck) == 5)
            early = [task.result() for task in stuck if task.done()]
            assert {a.code for a in early} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
            assert {a.details for a in early} == {"too many requests, try again later"}
            assert (await hub.ask("east", hub.pod("east"))).code is grpc.StatusCode.OK
            answers: list[Answer] = await asyncio.gather(*stuck)
        late = [answer for answer in answers if answer not in early]
        assert {answer.code for answer in late} == {grpc.StatusCode.UNAVAILABLE}, (
            "the listener's own deadline"
        )
        assert hub.refused("west") == {"cluster_concurrency": 5, "cancelled": 3}
        with hub.clusters["west"].faults.inject(Delay(1), resource="tokenreviews"):
            again = await asyncio.gather(
                *(hub.ask("west", hub.pod("west", name=f"new-{n}")) for n in range(3))
            )
        assert {answer.code for answer in again} == {grpc.StatusCode.OK}, "every slot was left"


async def test_a_review_that_ends_with_its_connection_is_answered_as_an_outage(tmp_path: Path) -> None:
    """Agents retry that; a call that ends without any status would leave them waiting."""
    async with running_signer(tmp_path, setup=reviewing()) as hub:
        tokens = [hub.pod("east", name=f"bar-{number}") for number in range(3)]
        await eventually(
            lambda: hub.role.report().clusters["east"].keys
        )  # with them known, callers take its slots
        with hub.clusters["east"].faults.inject(Hang(), resource="tokenreviews") as reviews:
            asking = [asyncio.create_task(hub.ask("east", token)) for token in tokens]
            await eventually(lambda: reviews.hits == 3)
            hub.options["east"] = 'attestation = "token-keys"'
            await hub.reconfigure()
            answers = await asyncio.gather(*asking)
        assert {answer.code for answer in answers} == {grpc.StatusCode.UNAVAILABLE}
        assert hub.refused("east") == {"review_ended": 3}


async def test_something_else_that_is_cancelled_leaves_no_caller_without_a_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ended(*_: object) -> None:
        raise asyncio.CancelledError

    async with running_signer(tmp_path, setup=reviewing()) as hub:
        monkeypatch.setattr(TokenReviewer, "review", ended)
        assert (await hub.ask("east", hub.pod("east"))).code is grpc.StatusCode.UNAVAILABLE


async def test_a_caller_that_goes_away_leaves_its_slot(tmp_path: Path) -> None:
    late = {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE}
    async with running_signer(tmp_path, setup=reviewing(max_concurrent_per_cluster=1)) as hub:
        token = hub.pod("east")
        await eventually(lambda: hub.role.report().clusters["east"].keys)
        with hub.clusters["east"].faults.inject(Hang(), resource="tokenreviews"):
            answer = await hub.ask("east", token, timeout=0.3)
            # Which side's clock says first that the caller's deadline has passed is a race of no importance.
            assert answer.code in late
            async with asyncio.timeout(PATIENCE):
                while (again := await hub.ask("east", token, timeout=0.3)).code not in late:
                    assert again.code is grpc.StatusCode.RESOURCE_EXHAUSTED, "the only slot is taken"


async def test_a_certificate_leaves_nothing_to_the_collector_of_garbage(tmp_path: Path) -> None:
    """What a call leaves is looked at by the thousand, and the loop waits for that."""
    async with running_signer(tmp_path) as hub:
        token = hub.pod("east")
        gc.collect()
        gc.disable()
        try:
            for _ in range(3):
                assert (await hub.ask("east", token)).code is grpc.StatusCode.OK
            await eventually(lambda: not any(isinstance(one, CallSlot) for one in gc.get_objects()))
        finally:
            gc.enable()


async def test_another_method_is_not_there(tmp_path: Path) -> None:
    async with running_signer(tmp_path) as hub, hub.channel() as channel:
        for method in (f"{METHOD}s", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await channel.unary_unary(method)(b"", timeout=5)
            assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_tls_is_1_2_or_later_and_speaks_h2_only(tmp_path: Path) -> None:
    async with running_signer(tmp_path) as hub:
        assert hub.role.address is not None
        for version, good in ((ssl.TLSVersion.TLSv1_2, True), (ssl.TLSVersion.TLSv1_3, True)):
            context = ssl.create_default_context(cadata=hub.ca.root.pem.decode())
            context.minimum_version = context.maximum_version = version
            context.set_alpn_protocols(["h2"])
            assert await handshakes(hub.role.address, context) is good
        old = ssl.create_default_context(cadata=hub.ca.root.pem.decode())
        old.set_ciphers("DEFAULT:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1"):
            old.minimum_version = ssl.TLSVersion.TLSv1
        with pytest.warns(DeprecationWarning, match="TLSv1"):
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        old.set_alpn_protocols(["h2"])
        assert not await handshakes(hub.role.address, old)


async def handshakes(address: Address, context: ssl.SSLContext) -> bool:
    try:
        _, writer = await asyncio.open_connection(
            address.host, address.port, ssl=context, server_hostname="federation-hub.federation-system.svc"
        )
    except (ssl.SSLError, ConnectionError):
        return False
    alpn: str = writer.get_extra_info("ssl_object").selected_alpn_protocol()
    writer.close()
    return alpn == "h2"


async def test_garbage_on_the_port_does_not_affect_other_callers(tmp_path: Path) -> None:
    async with running_signer(tmp_path) as hub:
        assert hub.role.address is not None
        for data in (
            b"GET / HTTP/1.1\r\n\r\n",
            b"\x16\x03\x01\xff\xff" + b"\x00" * 100,
            b"PRI * HTTP/2.0\r\n\r\n",
        ):
            reader, writer = await asyncio.open_connection(hub.role.address.host, hub.role.address.port)
            writer.write(data)
            await writer.drain()
            writer.close()
            del reader
        assert (await hub.ask("east", hub.pod("east"))).code is grpc.StatusCode.OK


async def test_a_port_in_use_is_reported_and_retried(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        async with running_signer(tmp_path, start=False) as hub:
            await hub.publish()
            hub.listen = Address("127.0.0.1", taken.getsockname()[1])
            await hub.start()
            await eventually(lambda: "cannot listen at" in "; ".join(hub.role.report().reasons))
            taken.close()
            await hub.ready()
            assert hub.role.report().ready


async def test_pings_of_idle_agents_are_answered(tmp_path: Path) -> None:
    """Agents ping every 30 s without a call under way; gRPC's own floor of five minutes would cut them off."""

    def setup(hub: RunningSigner) -> None:
        hub.listener_options = "min_keepalive_interval = 1"

    async with running_signer(tmp_path, setup=setup) as hub:
        assert hub.role.address is not None
        options = [
            ("grpc.ssl_target_name_override", "federation-hub.federation-system.svc"),
            ("grpc.keepalive_time_ms", 1000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        credentials = grpc.ssl_channel_credentials(hub.ca.root.pem)
        async with grpc.aio.secure_channel(str(hub.role.address), credentials, options=options) as channel:
            await channel.channel_ready()
            end = time.monotonic() + 5
            while time.monotonic() < end:
                assert channel.get_state() is grpc.ChannelConnectivity.READY
                await asyncio.sleep(0.05)
