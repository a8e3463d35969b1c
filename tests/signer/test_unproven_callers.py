"""Callers who have proved nothing yet: they wait no longer than they may, and keep out no other caller."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from federation.core.errors import AttestationRefused
from federation.signer import registry
from federation.signer.attestation.token_review import TokenReviewer
from federation.signer.attestation.tokens import Token
from federation_sandbox.apiserver.faults import Delay, Hang
from tests.signer.running_signer import SERVER_NAME, RunningSigner, eventually, running_signer
from tests.signer.tokens import b64
from tests.support.patience import PATIENCE
from tests.support.raw_http2 import RawConnection


def with_listener(**options: object) -> Callable[[RunningSigner], None]:
    def setup(hub: RunningSigner) -> None:
        hub.listener_options = "\n".join(f"{name} = {value}" for name, value in options.items())

    return setup


def raw(hub: RunningSigner) -> RawConnection:
    assert hub.role.address is not None
    return RawConnection(hub.role.address, hub.ca.root.pem, SERVER_NAME)


async def test_headers_without_a_message_keep_no_honest_caller_out(tmp_path: Path) -> None:
    async with running_signer(
        tmp_path, setup=with_listener(max_concurrent=8, max_concurrent_per_cluster=8)
    ) as hub:
        async with contextlib.AsyncExitStack() as stack:
            flood = [await stack.enter_async_context(raw(hub)) for _ in range(3)]
            for connection in flood:
                for _ in range(15):
                    connection.headers()
            await eventually(lambda: sum(len(each.ended) for each in flood) >= 3 * 15 - 8)
            answers = [await hub.ask("east", hub.pod("east")) for _ in range(5)]
        assert {answer.code for answer in answers} == {grpc.StatusCode.OK}
        rejected = hub.role.report().rejected_calls
        assert rejected.total["too_many_calls"] >= 3 * 15 - 8
        assert rejected.addresses["127.0.0.1"] >= 3 * 15 - 8


async def test_a_message_that_does_not_come_in_time_ends_the_call(tmp_path: Path) -> None:
    async with running_signer(tmp_path, setup=with_listener(receive_deadline=3.0)) as hub:
        async with raw(hub) as connection:
            silent, dripping = connection.headers(), connection.headers()
            connection.data(dripping, b"\x00\x00\x00\x10\x00")
            end = time.monotonic() + PATIENCE
            while dripping not in connection.ended and time.monotonic() < end:
                connection.data(dripping, b"x")
                await asyncio.sleep(0.02)
            await eventually(lambda: silent in connection.ended and dripping in connection.ended)
            assert not connection.closed.is_set()
        assert (await hub.ask("east", hub.pod("east"))).code is grpc.StatusCode.OK


async def test_bare_connections_are_closed(tmp_path: Path) -> None:
    async with running_signer(tmp_path, setup=with_listener(receive_deadline=0.5)) as hub:
        assert hub.role.address is not None
        reader, writer = await asyncio.open_connection(hub.role.address.host, hub.role.address.port)
        async with asyncio.timeout(PATIENCE):
            assert await reader.read() == b""
        writer.close()


async def test_connections_are_bounded(tmp_path: Path) -> None:
    async with running_signer(tmp_path, setup=with_listener(max_connections=16, receive_deadline=60)) as hub:
        address = hub.role.address
        assert address is not None
        connections = [await asyncio.open_connection(address.host, address.port) for _ in range(17)]
        closed = [asyncio.create_task(reader.read()) for reader, _ in connections]
        async with asyncio.timeout(50):  # before their handshakes' deadline
            await asyncio.wait(closed, return_when=asyncio.FIRST_COMPLETED)
        assert sum(task.done() for task in closed) < 10
        for task in closed:
            task.cancel()
        await asyncio.gather(*closed, return_exceptions=True)
        for _, writer in connections:
            writer.close()


async def test_one_connection_has_sixteen_calls_at_once(tmp_path: Path) -> None:
    """Or a single one could take every place of the listener before another one can be distinguished from it."""
    setup = with_listener(max_concurrent=100, max_concurrent_per_cluster=100, receive_deadline=60)
    async with running_signer(tmp_path, setup=setup) as hub, raw(hub) as connection:
        async with asyncio.timeout(PATIENCE):
            await connection.settled.wait()
        for _ in range(16):
            connection.headers()
        await connection.answered_ping()
        assert not connection.ended
        one_more = connection.headers()
        await eventually(lambda: one_more in connection.ended)
        assert connection.ended == {one_more: None}, "it is reset, and the others go on"
        connection.data(1, b"\x00\x00\x00\x00\x00", end=True)
        await eventually(lambda: connection.ended.get(1) == grpc.StatusCode.UNAUTHENTICATED.value[0])
        connection.headers()
        await connection.answered_ping()
        assert len(connection.ended) == 2, (
            "the place that is free now is taken again, and all others are as before"
        )
        assert hub.role.report().connections_refused.total == {}
        assert hub.role.report().rejected_calls.total == {"too_many_streams": 1, "token_missing": 1}
        for _ in range(64):
            connection.headers()
        await eventually(lambda: hub.role.report().connections_refused.total == {"refused_calls": 1})
        assert (await hub.ask("east", hub.pod("east"))).code is grpc.StatusCode.OK


async def test_a_connection_on_which_nothing_is_called_is_closed(tmp_path: Path) -> None:
    async with (
        running_signer(tmp_path, setup=with_listener(max_connection_idle=10)) as hub,
        raw(hub) as connection,
    ):
        async with asyncio.timeout(PATIENCE):
            await connection.settled.wait()
            await connection.closed.wait()


async def test_a_slow_review_has_its_own_time(tmp_path: Path) -> None:
    """The deadline for receiving ends with the message: what the hub does then may take longer."""

    def setup(hub: RunningSigner) -> None:
        hub.options["east"] = 'attestation = "token-review"'
        hub.listener_options = "receive_deadline = 1.5\ndeadline = 4"

    async with running_signer(tmp_path, setup=setup) as hub:
        token = hub.pod("east")
        with hub.clusters["east"].faults.inject(Hang(), resource="tokenreviews"):
            began = time.monotonic()
            assert (await hub.ask("east", token)).code is grpc.StatusCode.UNAVAILABLE
            assert time.monotonic() - began > 2.0


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no_message"),
        (b"\x00\x00\x00\x00\x09hi", "no_message"),
        (b"\x01\x00\x00\x00\x02hi", "message_compressed"),
    ],
)
async def test_a_call_without_a_whole_message_is_ended(tmp_path: Path, data: bytes, reason: str) -> None:
    async with running_signer(tmp_path) as hub, raw(hub) as connection:
        stream = connection.headers()
        connection.data(stream, data, end=True)
        await eventually(lambda: stream in connection.ended)
        assert connection.ended[stream] != 0
        await eventually(lambda: hub.role.report().rejected_calls.total == {reason: 1})


async def test_a_call_without_a_token_is_counted(tmp_path: Path) -> None:
    """No cluster is answerable for it: it is no cluster's refusal, and status names the address."""
    async with running_signer(tmp_path) as hub:
        assert (await hub.ask("east", None)).code is grpc.StatusCode.UNAUTHENTICATED
        rejected = hub.role.report().rejected_calls
        assert (rejected.total, rejected.addresses) == ({"token_missing": 1}, {"127.0.0.1": 1})
        assert hub.refused("east") == {}


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Once it is set, API servers answer about garbage."""
    given, review = asyncio.Event(), TokenReviewer.review

    async def slow_for_garbage(self: TokenReviewer, token: Token) -> str:
        if token.header.kid == "unknown":
            await given.wait()
            raise AttestationRefused("its API server refuses the token", reason="review_refused")
        return await review(self, token)

    monkeypatch.setattr(TokenReviewer, "review", slow_for_garbage)
    return given


def reviewing(**options: object) -> Callable[[RunningSigner], None]:
    def setup(hub: RunningSigner) -> None:
        hub.options["east"] = 'attestation = "token-review"'
        with_listener(**options)(hub)

    return setup


async def test_who_only_names_a_cluster_takes_none_of_its_slots(
    tmp_path: Path, answer: asyncio.Event
) -> None:
    """Garbage that waits for the API server's word keeps out no caller whose token one of its keys signed."""
    async with running_signer(
        tmp_path, setup=reviewing(max_concurrent=32, max_concurrent_per_cluster=3)
    ) as hub:
        honest = hub.pod("east")
        waiting = [asyncio.create_task(hub.ask("east", garbage(honest, n))) for n in range(6)]
        await eventually(lambda: sum(task.done() for task in waiting) == 3)
        answers = [await hub.ask("east", hub.pod("east", name=f"bar-{n}")) for n in range(5)]
        assert {each.code for each in answers} == {grpc.StatusCode.OK}
        answer.set()
        refused = [each.code for each in await asyncio.gather(*waiting)]
        assert refused.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == 3
        assert refused.count(grpc.StatusCode.UNAUTHENTICATED) == 3
        with hub.clusters["east"].faults.inject(Delay(1), resource="tokenreviews"):
            three = await asyncio.gather(
                *(hub.ask("east", hub.pod("east", name=f"new-{n}")) for n in range(3))
            )
        assert {each.code for each in three} == {grpc.StatusCode.OK}, "every slot is free"


async def test_an_api_server_is_asked_about_few_that_its_known_keys_did_not_sign(
    tmp_path: Path, answer: asyncio.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many callers a cluster may have: what none of its keys signed must not become its API server's load."""
    monkeypatch.setattr(registry, "UNSIGNED_AT_ONCE", 2)
    async with running_signer(
        tmp_path, setup=reviewing(max_concurrent=32, max_concurrent_per_cluster=32)
    ) as hub:
        await eventually(lambda: hub.role.report().clusters["east"].keys)
        honest = hub.pod("east")
        waiting = [asyncio.create_task(hub.ask("east", garbage(honest, n))) for n in range(6)]
        await eventually(lambda: sum(task.done() for task in waiting) == 4)
        assert (await hub.ask("east", honest)).code is grpc.StatusCode.OK
        answer.set()
        refused = [each.code for each in await asyncio.gather(*waiting)]
        assert refused.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == 4
        assert refused.count(grpc.StatusCode.UNAUTHENTICATED) == 2


async def test_an_api_server_is_not_asked_about_what_its_published_key_did_not_sign(tmp_path: Path) -> None:
    def setup(hub: RunningSigner) -> None:
        hub.options["east"] = 'attestation = "token-review"'

    async with running_signer(tmp_path, setup=setup) as hub:
        await eventually(lambda: hub.role.report().clusters["east"].keys)
        token = hub.pod("east")
        forged = token[:-8] + ("AAAAAAAA" if not token.endswith("AAAAAAAA") else "BBBBBBBB")
        with hub.clusters["east"].faults.inject(Hang(), resource="tokenreviews") as fault:
            assert (await hub.ask("east", forged)).code is grpc.StatusCode.UNAUTHENTICATED
            assert not fault.hits
        assert hub.refused("east") == {"token_signature": 1}


async def test_who_only_names_a_cluster_is_no_finding_about_it(tmp_path: Path) -> None:
    """Refused callers count against a cluster only where its key signed their token."""
    async with running_signer(tmp_path) as hub:
        token = hub.pod("east")
        for number in range(3):
            answer = await hub.ask("east", garbage(token, number))
            assert answer.code is grpc.StatusCode.UNAUTHENTICATED
        seen = hub.role.report().clusters["east"]
        assert (seen.refusals.count, seen.unproven.count, seen.unproven.reason) == (0, 3, "token_key")
        assert (
            await hub.ask("east", hub.pod("east"), csr="no request")
        ).code is grpc.StatusCode.UNAUTHENTICATED
        seen = hub.role.report().clusters["east"]
        assert (seen.refusals.count, seen.unproven.count) == (1, 3)


def garbage(token: str, number: int) -> str:
    """A token of the same claims under a key that the cluster does not have, each another one."""
    _, claims, signature = token.split(".")
    return ".".join(
        [b64(json.dumps({"alg": "RS256", "kid": "unknown"}).encode()), claims, f"{number:04}{signature[4:]}"]
    )
