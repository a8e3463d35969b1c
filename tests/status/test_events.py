"""The event stream: what changed reaches its callers, and callers that do not read, stay or stop are bounded."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from federation.core.config.hub import StatusConfig
from federation.runtime.clock import SystemClock
from federation.status import events
from federation.status.app import create_app
from federation.status.model import FederationStatus
from federation.status.server import serve
from tests.status.conftest import LOOPBACK, Running, Start
from tests.status.worlds import CountingStore, FixedConfig, World
from tests.support.patience import PATIENCE
from tests.support.seals import READ_TOKEN, token_file

PATH = "/api/v1/events"
OTHERS = 1  # what sleeps on the clock beside the feed: the history


class Stream:
    """The events of one open stream."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response

    async def next(self) -> dict[str, Any]:
        """The fields of the next event, its data decoded; a comment is ``{"": text}``. Empty at the end."""
        fields: dict[str, Any] = {}
        async with asyncio.timeout(PATIENCE):
            while line := (await self.response.content.readline()).decode():
                if line == "\n":
                    if fields != {"retry": "2000"}:
                        return fields
                    fields = {}
                    continue
                name, _, value = line.rstrip("\n").partition(":")
                fields[name] = msgspec.json.decode(value) if name == "data" else value.removeprefix(" ")
        return fields


@asynccontextmanager
async def listening(hub: Running, **headers: str) -> AsyncIterator[Stream]:
    async with hub.session.get(hub.url + PATH, headers=headers) as response:
        assert response.status == 200, await response.text()
        yield Stream(response)


async def look(hub: Running) -> None:
    """Let the feed look once more."""
    await hub.clock.until_sleeping(OTHERS + 1)
    await hub.clock.advance(events.POLL)


def break_a_pair(hub: Running) -> None:
    hub.world.set_cells({("east", "west"): "x"}, {"east>west": "the anchor R1 is missing in east"})


async def test_a_change_is_informed_by_kind_and_signs_of_life_are_not(start: Start) -> None:
    async with start() as hub, listening(hub) as stream:
        assert stream.response.content_type == "text/event-stream"
        assert stream.response.headers["Cache-Control"] == "no-store"
        first = await stream.next()
        assert first["event"] == "status"
        assert first["data"] == {
            "revision": first["id"],
            "changed": list(events.KINDS),
            "verdict": "healthy",
        }
        now = hub.clock.now().timestamp()
        hub.world.edit_leader(updated=now)  # a sign of life
        await hub.store.put(hub.world.document_set())
        await look(hub)
        break_a_pair(hub)
        await hub.store.put(hub.world.document_set())
        await look(hub)
        second = await stream.next()
        assert second["data"]["verdict"] == "failing"
        assert {"verdict", "attention", "matrix"} <= set(second["data"]["changed"])
        assert not {"bundle", "generations", "operations"} & set(second["data"]["changed"])


def test_every_field_of_the_status_is_of_one_kind() -> None:
    named = [name for names in events.KINDS.values() for name in names]
    assert sorted(named) == sorted(set(FederationStatus.__struct_fields__) - {"generated"})


async def test_who_comes_back_is_informed_what_was_missed(start: Start) -> None:
    async with start() as hub:
        async with listening(hub) as stream:
            known = (await stream.next())["id"]
        async with listening(hub, **{"Last-Event-ID": known}) as stream:
            break_a_pair(hub)
            await hub.store.put(hub.world.document_set())
            await look(hub)
            missed = await stream.next()
            assert "matrix" in missed["data"]["changed"]
            assert "bundle" not in missed["data"]["changed"]
        async with listening(hub, **{"Last-Event-ID": known}) as stream:
            assert await stream.next() == missed
        async with listening(hub, **{"Last-Event-ID": "of another replica"}) as stream:
            assert (await stream.next())["data"]["changed"] == list(events.KINDS)


async def test_revisions_that_are_remembered_are_bounded(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "MOST_REMEMBERED", 1)
    async with start() as hub, listening(hub) as stream:
        known = (await stream.next())["id"]
        break_a_pair(hub)
        await hub.store.put(hub.world.document_set())
        await look(hub)
        await stream.next()
        async with listening(hub, **{"Last-Event-ID": known}) as other:
            assert (await other.next())["data"]["changed"] == list(events.KINDS)


async def test_a_quiet_stream_says_that_it_lives_and_ends_in_time(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "HEARTBEAT", 3.0)
    monkeypatch.setattr(events, "LONGEST", 8.0)  # the world stays as it is for ten
    async with start() as hub, listening(hub) as stream:
        await stream.next()
        seen: list[dict[str, Any]] = []
        reading = asyncio.create_task(_read_all(stream, seen))
        while not reading.done():
            await asyncio.sleep(0)
            if hub.clock.sleeping > OTHERS:
                await hub.clock.advance(events.POLL)
        assert {"": ""} in seen
        assert hub.clock.monotonic() >= events.LONGEST


async def _read_all(stream: Stream, seen: list[dict[str, Any]]) -> None:
    while event := await stream.next():
        seen.append(event)


async def test_a_state_that_cannot_be_read_is_informed_once_and_its_return(
    start: Start, tmp_path: Path
) -> None:
    async with start() as hub, listening(hub) as stream:
        await stream.next()
        documents = tmp_path / "state" / "documents"
        documents.rename(tmp_path / "gone")
        documents.write_text("not a directory")
        await look(hub)
        assert await stream.next() == {"event": "unavailable", "data": {}}
        await look(hub)
        documents.unlink()
        (tmp_path / "gone").rename(documents)
        await look(hub)
        again = await stream.next()
        assert (again["event"], again["data"]["changed"]) == ("status", list(events.KINDS))


@pytest.mark.parametrize(("limit", "value"), [("MOST_PER_CALLER", 2), ("MOST_STREAMS", 2)])
async def test_streams_are_bounded_and_free_again(
    start: Start, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(events, limit, value)
    async with start() as hub:
        async with AsyncExitStack() as stack:
            for _ in range(2):
                stream = await stack.enter_async_context(listening(hub))
                await stream.next()
            status, body, response = await hub.get(PATH)
            assert (status, body["title"]) == (429, "Too many streams")
            assert response.headers["Retry-After"] == "10"
            assert (await hub.get("/api/v1/status"))[0] == 200
        async with asyncio.timeout(PATIENCE):
            while True:  # the server notices within a second of its clock that they are gone
                await hub.clock.advance(events.POLL)
                async with hub.session.get(hub.url + PATH) as response:
                    if response.status == 200:
                        break


async def test_a_stream_ends_when_its_token_does(start: Start, tmp_path: Path) -> None:
    file = token_file(tmp_path / "token")
    async with start(status=StatusConfig(read_token_file=file)) as hub:
        assert (await hub.get(PATH))[0] == 401
        async with listening(hub, Authorization=f"Bearer {READ_TOKEN}") as stream:
            await stream.next()
            token_file(file, "9b1c9a7e3b2d4f608192a3b4c5d6e7aa")
            break_a_pair(hub)
            await hub.store.put(hub.world.document_set())
            await look(hub)
            assert await stream.next() == {}


async def test_streams_do_not_keep_a_process_that_ends(tmp_path: Path) -> None:
    clock = SystemClock()
    world = World(["east", "west"], clock.now().timestamp())
    store = CountingStore(tmp_path / "state", clock)
    await store.put(world.document_set())
    app = create_app(store=store, config=FixedConfig(world.config), clock=clock)
    async with aiohttp.ClientSession() as session, AsyncExitStack() as stack:
        async with serve(app, listen=LOOPBACK, clock=clock) as address:
            response = await stack.enter_async_context(session.get(f"http://{address}{PATH}"))
            stream = Stream(response)
            assert (await stream.next())["event"] == "status"
            began = asyncio.get_running_loop().time()
        assert await stream.next() == {}  # an orderly end, not a connection that is cut off
        assert asyncio.get_running_loop().time() - began < PATIENCE


async def test_a_caller_that_does_not_read_is_cut_off(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "WRITE_TIMEOUT", 0.1)
    monkeypatch.setattr(events, "HEARTBEAT", 0.0)
    monkeypatch.setattr(events, "COMMENT", ":" + "x" * 65536 + "\n\n")
    async with start() as hub:
        host, _, port = hub.url.removeprefix("http://").partition(":")
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(deaf, (host, int(port)))
            await loop.sock_sendall(deaf, f"GET {PATH} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            async with asyncio.timeout(PATIENCE):
                while events.POLL not in hub.clock.slept:  # until it is followed
                    await asyncio.sleep(0.01)
                while hub.clock.sleeping > OTHERS:  # as long as it is
                    await asyncio.sleep(0.01)
        assert hub.clock.sleeping == OTHERS


async def test_head_takes_no_stream(start: Start) -> None:
    async with start() as hub:
        async with hub.session.head(hub.url + PATH) as response:
            assert (response.status, response.content_type) == (200, "text/event-stream")
        assert hub.clock.sleeping == OTHERS
