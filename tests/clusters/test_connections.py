"""The hub's own connections, through the session: kept and closed, bounded, and charged to the member."""

# ruff: noqa: SIM117  the server and the session are each on a separate line

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from federation.core.config.clusters import ClusterTimeouts
from federation.core.errors import (
    ClusterGarbage,
    ClusterInvalid,
    ClusterTimeout,
    ClusterUnauthorized,
    ClusterUnreachable,
)
from federation.kubernetes.budget import CpuBudget
from federation.kubernetes.connections import Disconnected, NoConnection, ServerConnections
from federation.kubernetes.credentials import RENEW_SECONDS, client_context
from federation.kubernetes.http1 import Answer
from federation.kubernetes.session import SMALL_ANSWER_BYTES
from federation.kubernetes.wire import FREE
from federation.runtime.clock import SystemClock
from tests.support.clock import VirtualClock
from tests.support.clusters import Exchange, RawServer, connected, eventually
from tests.support.patience import PATIENCE

REVIEW = b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"


class Counting(CpuBudget):
    """A budget that counts how often something was charged to it."""

    charged_times = 0

    def charge(self, seconds: float) -> None:
        self.charged_times += 1
        super().charge(seconds)


class Server(RawServer):
    """Knows which connection each request came by."""

    def __init__(self, data: bytes = REVIEW) -> None:
        super().__init__(self._answer)
        self.data = data
        self.by: list[asyncio.StreamWriter] = []

    async def _answer(self, exchange: Exchange) -> None:
        self.by.append(exchange.writer)
        await exchange.raw(self.data)

    @property
    def trust(self) -> ssl.SSLContext:
        return client_context(authority=self.ca.pem, where="test")


def connections(server: RawServer, *, idle: float = 30.0, host: str = "127.0.0.1") -> ServerConnections:
    budget = CpuBudget("west", clock=SystemClock())
    url = f"https://{host}:{server.port}"
    return ServerConnections(url, server_name="127.0.0.1", connect=PATIENCE, idle=idle, budget=budget)


async def ask(
    them: ServerConnections,
    tls: ssl.SSLContext,
    *,
    anew: bool = False,
    method: str = "POST",
    target: str = "/x",
) -> Answer:
    answer = Answer(most=1000, most_of_error=1000)
    async with asyncio.timeout(PATIENCE):
        await them.ask(method, target, {"Accept": "application/json"}, b"{}", answer, tls=tls, anew=anew)
    return answer


async def test_a_connection_is_used_again_and_not_by_two_at_once(tmp_path: Path) -> None:
    async with Server() as server:
        async with connected(server.kubeconfig(tmp_path / "kc"), most_bytes=SMALL_ANSWER_BYTES) as session:
            for _ in range(3):
                assert await session.request("POST", "/x", body=b"{}") == b"{}"
            assert len(set(server.by)) == 1
            await asyncio.gather(*(session.request("POST", "/x", body=b"{}") for _ in range(5)))
    assert 1 < len(set(server.by)) <= 5


async def test_an_idle_connection_is_closed(tmp_path: Path) -> None:
    async with Server() as server:
        them, trust = connections(server, idle=0.05), server.trust
        await ask(them, trust)
        await eventually(lambda: server.by[0].transport.is_closing())
        await ask(them, trust)
        assert len(set(server.by)) == 2
        them.close()


async def test_other_credentials_get_a_connection_of_their_own() -> None:
    """A context holds the client certificate and what is trusted: what it opened must not outlive it."""
    async with Server() as server:
        them, trust = connections(server), server.trust
        await ask(them, trust)
        await ask(them, server.trust)
        assert len(set(server.by)) == 2
        await eventually(lambda: server.by[0].transport.is_closing())
        them.close()


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        REVIEW + b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ],
    ids=["the server closes it", "of HTTP/1.0", "more than was asked for"],
)
async def test_a_connection_that_may_not_be_used_again_is_not(data: bytes) -> None:
    async with Server(data) as server:
        them, trust = connections(server), server.trust
        for _ in range(2):
            assert (await ask(them, trust)).body == b"{}"
        assert len(set(server.by)) == 2
        them.close()


async def test_what_comes_unasked_ends_an_idle_connection() -> None:
    """It would be taken for the answer to the next request."""
    async with Server() as server:
        them, trust = connections(server), server.trust
        await ask(them, trust)
        server.by[0].write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes")
        await eventually(lambda: server.by[0].transport.is_closing())
        assert (await ask(them, trust)).body == b"{}"
        assert len(set(server.by)) == 2
        them.close()


async def test_a_request_that_is_given_up_takes_its_connection_along() -> None:
    """Its answer would be taken for that of the next one."""
    async with Server(b"") as server:
        them, trust = connections(server), server.trust
        asking = asyncio.create_task(ask(them, trust))
        await eventually(lambda: server.by)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await eventually(lambda: server.by[0].transport.is_closing())
        server.data = REVIEW
        assert (await ask(them, trust)).body == b"{}"
        assert len(set(server.by)) == 2
        them.close()


async def test_closing_ends_what_is_under_way_and_what_is_idle() -> None:
    async with Server() as server:
        them, trust = connections(server), server.trust
        await ask(them, trust)
        server.data = b""
        asking = [asyncio.create_task(ask(them, trust)) for _ in range(2)]
        await eventually(lambda: len(server.by) == 3)
        them.close()
        for each in asking:
            with pytest.raises(Disconnected):
                await each
        await eventually(lambda: all(writer.transport.is_closing() for writer in server.by))


async def test_an_address_that_refuses_does_not_keep_from_the_next_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Server() as server:
        port = server.port
        them = connections(server, host="api.example")
        loop = asyncio.get_running_loop()
        found = [(2, 1, 6, "", (address, port)) for address in ("127.0.0.9", "127.0.0.1")]

        async def resolve(host: str, *_: object, **__: object) -> list[object]:
            assert host == "api.example"
            return list(found)

        monkeypatch.setattr(loop, "getaddrinfo", resolve)
        assert (await ask(them, server.trust)).body == b"{}"
        del found[1]
        with pytest.raises(NoConnection) as caught:
            await ask(them, server.trust, anew=True)
        assert (caught.value.host, caught.value.port) == ("api.example", port)
        them.close()


async def test_only_what_is_beyond_the_free_part_is_charged(tmp_path: Path) -> None:
    async with Server() as server:
        budget = Counting("west", clock=SystemClock())
        them = ServerConnections(server.url, server_name=None, connect=PATIENCE, idle=30.0, budget=budget)
        trust = server.trust
        await ask(them, trust)
        assert budget.charged_times == 0
        server.data = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (4 * FREE) + b"x" * (4 * FREE)
        answer = Answer(most=4 * FREE, most_of_error=0)
        async with asyncio.timeout(PATIENCE):
            await them.ask("GET", "/x", {}, None, answer, tls=trust)
        assert budget.charged_times > 0
        them.close()


async def test_a_member_over_its_budget_is_answered_for_later(tmp_path: Path) -> None:
    big = 4 * FREE
    async with Server(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % big + b"x" * big) as server:
        kubeconfig = server.kubeconfig(tmp_path / "kc")
        budget = CpuBudget(
            "west", clock=SystemClock(), cpu=iter(range(10**6)).__next__, burst=0.0, share=0.01
        )
        async with connected(kubeconfig, most_bytes=SMALL_ANSWER_BYTES, budget=budget) as session:
            waiting = asyncio.create_task(session.get("/version", timeout=2 * PATIENCE))
            await eventually(lambda: budget.problem)
            assert not waiting.done()
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)


async def test_a_token_that_was_replaced_is_read_again_after_a_401(tmp_path: Path) -> None:
    async def respond(exchange: Exchange) -> None:
        good = exchange.headers["authorization"] == "Bearer new"
        await exchange.answer(b"{}", status="200 OK" if good else "401 Unauthorized")

    async with RawServer(respond) as server:
        token = tmp_path / "token"
        token.write_text("old")
        kubeconfig = server.kubeconfig(tmp_path / "kc")
        text = kubeconfig.read_text().replace('"token": "secret-token"', f'"tokenFile": "{token}"')
        assert str(token) in text
        kubeconfig.write_text(text)
        clock = VirtualClock()
        async with connected(kubeconfig, most_bytes=SMALL_ANSWER_BYTES, clock=clock) as session:
            with pytest.raises(ClusterUnauthorized):
                await session.get("/version")
            token.write_text("new")
            await clock.advance(RENEW_SECONDS)
            assert await session.get("/version") == b"{}"
            assert session.token_sent == "new"


async def test_a_status_is_known_whatever_follows_it(tmp_path: Path) -> None:
    async with Server(b"HTTP/1.1 422 No\r\nContent-Length: 99999999\r\n\r\n") as server:
        async with connected(server.kubeconfig(tmp_path / "kc"), most_bytes=SMALL_ANSWER_BYTES) as session:
            with pytest.raises(ClusterInvalid, match="422"):
                await session.request("POST", "/x", body=b"{}")
            server.data = b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n"
            with pytest.raises(ClusterGarbage, match="larger"):
                await session.request("POST", "/x", body=b"{}")


async def test_a_closed_session_asks_nothing(tmp_path: Path) -> None:
    async with Server() as server:
        async with connected(server.kubeconfig(tmp_path / "kc"), most_bytes=SMALL_ANSWER_BYTES) as session:
            pass
        with pytest.raises(ClusterUnreachable, match="closed"):
            await session.get("/version")
    assert server.by == []


async def test_silence_after_the_connection_stands_is_a_timeout_of_the_request(tmp_path: Path) -> None:
    """Not of the connection: the two blame different things."""
    timeouts = ClusterTimeouts(connect=PATIENCE, request=0.3)
    async with Server(b"HTTP/1.1 200 OK\r\n") as server:
        async with connected(
            server.kubeconfig(tmp_path / "kc"), timeouts=timeouts, most_bytes=SMALL_ANSWER_BYTES
        ) as session:
            with pytest.raises(ClusterTimeout, match=r"no answer in|late itself"):
                await session.get("/version")
            await eventually(lambda: server.by[0].transport.is_closing())
