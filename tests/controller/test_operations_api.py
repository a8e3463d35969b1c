"""``POST /api/v1/operations`` over real HTTP: who may operate, what is taken, what comes back."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from dataclasses import replace as with_changes
from pathlib import Path
from typing import Any

import aiohttp
import jsonschema
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from federation.cli.mounted_operations import operations
from federation.controller.rotation.operations import VERBS, WAIT
from federation.core.audit import FIELDS
from federation.core.config.hub import StatusConfig
from federation.core.config.types import Address
from federation.core.documents.controller import Operation
from federation.core.documents.keys import OPERATIONS
from federation.core.errors import FederationError
from federation.core.rotation.record import OperationRefused
from federation.runtime.clock import SystemClock
from federation.runtime.logs import JsonFormatter
from federation.status.app import create_app
from federation.status.authorization import CALLER
from federation.status.callers import StatusCaller
from federation.status.routes import Right
from federation.status.server import serve
from tests.status.rotations import deciding
from tests.status.worlds import CountingStore, FixedConfig, hub_config
from tests.support.clock import VirtualClock
from tests.support.seals import OPERATE_TOKEN as TOKEN
from tests.support.seals import READ_TOKEN, SEAL, token_file

LOOPBACK = Address("127.0.0.1", 0)
START = {"verb": "start", "arguments": {"reason": "yearly"}}


@dataclass
class Hub:
    """A status server that accepts operations, and a client that requests them."""

    url: str
    store: CountingStore
    config: FixedConfig
    session: aiohttp.ClientSession

    async def post(self, body: Any = None, **options: Any) -> tuple[int, Any, aiohttp.ClientResponse]:
        """Request an operation; as JSON unless ``data`` is given."""
        given = options if "data" in options else {"json": START if body is None else body, **options}
        async with self.session.post(f"{self.url}/api/v1/operations", **given) as response:
            return response.status, msgspec.json.decode(await response.read() or b"null"), response

    async def kept(self) -> list[str]:
        """Keys of operations in the store."""
        return await self.store.keys(OPERATIONS)


Start = Callable[..., AbstractAsyncContextManager[Hub]]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Start a hub over an empty store."""

    @asynccontextmanager
    async def running(*, clock: Any = None, token: bool = False, **status: Any) -> AsyncIterator[Hub]:
        clock = clock or SystemClock()
        if token:
            status["read_token_file"] = token_file(tmp_path / "read", READ_TOKEN)
            status["operate_token_file"] = token_file(tmp_path / "operate", TOKEN)
        config = FixedConfig(hub_config(["east"], StatusConfig(listen=LOOPBACK, **status)))
        store = CountingStore(tmp_path / "state", SystemClock())
        app = create_app(
            store=store, config=config, clock=clock, mounted=operations(store, config, clock, SEAL)
        )
        async with serve(app, listen=LOOPBACK, clock=clock) as address, aiohttp.ClientSession() as session:
            yield Hub(f"http://{address}", store, config, session)

    return running


def done(_: Operation) -> FederationError | None:
    return None


async def test_what_the_leader_decides_is_the_answer_with_who_asked(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="federation.controller.audit")
    async with start() as hub, deciding(hub.store, done) as applied_ids:
        status, body, response = await hub.post(
            {"verb": "start", "arguments": {"reason": "yearly", "author": "Ann"}}
        )
        assert (status, response.content_type) == (200, "application/json")
        assert (body["verb"], body["outcome"]) == ("start", "done")
        assert body["author"] == "no token, from 127.0.0.1 (says: Ann)"
        assert body["arguments"] == {"reason": "yearly"}
        assert [operation.arguments for operation in applied_ids] == [{"reason": "yearly"}]
        async with hub.session.get(f"{hub.url}/api/v1/operations") as listed:
            audit = await listed.json()
        assert audit["accepted"] is True
        assert [operation["id"] for operation in audit["operations"]] == [body["id"]]
    assert "start requested by no token, from 127.0.0.1 (says: Ann)" in caplog.text
    assert "start by no token, from 127.0.0.1 (says: Ann): done" in caplog.text


async def test_every_line_of_the_audit_has_the_same_fields(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="federation.controller.audit")
    async with start(token=True) as hub, deciding(hub.store, done):
        _, body, _ = await hub.post(
            {"verb": "start", "arguments": {"reason": "yearly", "author": "Ann"}},
            headers={"Authorization": f"Bearer {TOKEN}"},
        )
        await hub.post({"verb": "nonsense"}, headers={"Authorization": f"Bearer {TOKEN}"})
    formatter = JsonFormatter({})
    records = [record for record in caplog.records if record.name == "federation.controller.audit"]
    lines = [json.loads(formatter.format(record)) for record in records]
    requested, decided, rejected = lines
    assert all(set(FIELDS) <= set(line) and "" not in [line[name] for name in FIELDS] for line in lines)
    assert {name: requested[name] for name in (*FIELDS, "claim", "operation")} == {
        "actor": "operate token",
        "actor_kind": "token",
        "source": "127.0.0.1",
        "action": "request_operation",
        "object": "start",
        "before": "none",
        "after": "none",
        "claim": "Ann",
        "operation": body["id"],
    }
    assert (decided["action"], decided["actor"]) == ("decide_operation", body["author"])
    assert (decided["operation"], decided["outcome"]) == (body["id"], "done")
    assert (rejected["action"], rejected["actor"], rejected["status"]) == (
        "refuse_request",
        "operate token",
        400,
    )


async def test_without_an_operate_token_only_the_leader_takes_operations(tmp_path: Path) -> None:
    """Its key is its own, so that another one would take them for forged."""
    clock = SystemClock()
    config = FixedConfig(hub_config(["east"], StatusConfig(listen=LOOPBACK)))
    store = CountingStore(tmp_path / "state", clock)
    mounted = operations(store, config, clock, SEAL, leads=lambda: False)
    app = create_app(store=store, config=config, clock=clock, mounted=mounted)
    async with serve(app, listen=LOOPBACK, clock=clock) as address, aiohttp.ClientSession() as session:
        hub = Hub(f"http://{address}", store, config, session)
        status, body, _ = await hub.post()
        assert (status, body["title"], await hub.kept()) == (503, "Does not lead", [])
        config.current = with_changes(
            config.current,
            status=with_changes(config.current.status, operate_token_file=token_file(tmp_path / "t", TOKEN)),
        )
        async with deciding(store, done):
            status, _, _ = await hub.post(headers={"Authorization": f"Bearer {TOKEN}"})
        assert status == 200, "any of them takes it with the token that all have"


async def test_a_refusal_says_why_and_what_to_do(start: Start) -> None:
    def refuse(_: Operation) -> FederationError | None:
        return OperationRefused("no rotation is under way", remedy="start one")

    async with start() as hub, deciding(hub.store, refuse):
        status, body, _ = await hub.post({"verb": "abort"})
        assert (status, body["outcome"]) == (409, "refused")
        assert (body["detail"], body["remedy"]) == ("no rotation is under way", "start one")


async def test_without_a_leader_it_is_503_and_stays_to_be_decided(start: Start) -> None:
    clock = VirtualClock()
    async with start(clock=clock) as hub:
        asking = asyncio.create_task(hub.post())
        while not asking.done():
            await clock.advance(WAIT / 4)
            await asyncio.sleep(0.01)
        status, body, _ = await asking
        assert status == 503
        assert "no controller has decided start" in body["detail"]
        assert body["remedy"]
        assert len(await hub.kept()) == 1


async def test_with_a_token_it_takes_the_token_and_a_header_only(start: Start) -> None:
    async with start(token=True) as hub, deciding(hub.store, done):
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Cookie": f"token={TOKEN}"}):
            status, _, _ = await hub.post(headers=headers)
            assert status == 401
        async with hub.session.post(f"{hub.url}/api/v1/operations?token={TOKEN}", json=START) as response:
            assert response.status == 401
        assert await hub.kept() == []
        status, body, _ = await hub.post(headers={"Authorization": f"Bearer {TOKEN}"})
        assert (status, body["author"]) == (200, "operate token, from 127.0.0.1")


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "hub.example.org"},
        {"Host": "10.0.0.1"},
        {"X-Forwarded-For": "203.0.113.7"},
        {"Forwarded": "for=203.0.113.7"},
        {"Via": "1.1 proxy"},
    ],
)
async def test_without_a_token_no_operation_is_taken_by_another_host_name_or_through_a_proxy(
    start: Start, headers: dict[str, str]
) -> None:
    async with start(insecure_allow_unauthenticated=True) as hub, deciding(hub.store, done):
        async with hub.session.get(f"{hub.url}/api/v1/operations", headers=headers) as listed:
            assert (await listed.json())["accepted"] is False
        status, body, _ = await hub.post(headers=headers)
        assert (status, await hub.kept()) == (403, [])
        assert "status.operate_token_file" in body["remedy"]
        status, _, _ = await hub.post()
        assert status == 200, "a caller on the hub's machine, by its name"


async def test_a_listener_that_others_reach_takes_operations_by_token_only(tmp_path: Path) -> None:
    clock = SystemClock()
    config = FixedConfig(
        hub_config(["east"], StatusConfig(listen=LOOPBACK, insecure_allow_unauthenticated=True))
    )
    store = CountingStore(tmp_path / "state", clock)
    app = create_app(store=store, config=config, clock=clock, mounted=operations(store, config, clock, SEAL))
    seen: list[bool] = []

    class Elsewhere:
        """A transport whose ends are other machines'."""

        def get_extra_info(self, name: str) -> tuple[str, int]:
            return {"sockname": ("10.0.0.1", 8080), "peername": ("10.0.0.2", 41000)}[name]

    from aiohttp.test_utils import make_mocked_request

    request = make_mocked_request(
        "POST",
        "/api/v1/operations",
        headers={"Host": "localhost"},
        transport=Elsewhere(),
        app=app,
    )
    seen.append(operations(store, config, clock, SEAL).accepts(request))
    guarded = with_changes(config.current.status, operate_token_file=tmp_path / "token")
    config.current = with_changes(config.current, status=guarded)
    for right in (Right.READ, Right.OPERATE):
        request[CALLER] = StatusCaller(name=f"{right.value} token", kind="token", right=right)
        seen.append(operations(store, config, clock, SEAL).accepts(request))
    only_read = with_changes(guarded, read_token_file=tmp_path / "token", operate_token_file=None)
    config.current = with_changes(config.current, status=only_read)
    seen.append(operations(store, config, clock, SEAL).accepts(request))
    assert seen == [False, False, True, False]


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example.org"},
        {"Origin": "null"},
        {"Origin": "http://["},
        {"Origin": ""},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
    ],
)
@pytest.mark.parametrize("token", [False, True])
async def test_a_page_of_another_site_is_refused(start: Start, headers: dict[str, str], token: bool) -> None:
    async with start(token=token) as hub, deciding(hub.store, done):
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        status, body, response = await hub.post(headers=headers | bearer)
        assert (status, await hub.kept()) == (403, [])
        assert body["remedy"]
        assert "Access-Control-Allow-Origin" not in response.headers
        status, _, _ = await hub.post(headers=bearer | {"Origin": hub.url, "Sec-Fetch-Site": "same-origin"})
        assert status == 200


async def test_a_form_cannot_ask_and_no_preflight_is_answered(start: Start) -> None:
    async with start() as hub, deciding(hub.store, done):
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
            status, _, _ = await hub.post(data=json.dumps(START), headers={"Content-Type": kind})
            assert (kind, status) == (kind, 415)
        async with hub.session.options(f"{hub.url}/api/v1/operations") as response:
            assert response.status == 405
            assert response.headers["Allow"] == "GET, HEAD, POST"
        async with hub.session.post(f"{hub.url}/api/v1/status", json=START) as response:
            assert (response.status, response.headers["Allow"]) == (405, "GET, HEAD")
        assert await hub.kept() == []


BAD: dict[str, bytes] = {
    "empty": b"",
    "no JSON": b"{",
    "a list": b"[]",
    "no verb": b"{}",
    "a verb that is none": b'{"verb": "destroy"}',
    "a number as argument": b'{"verb": "start", "arguments": {"soak": 0}}',
    "a field that is unknown": b'{"verb": "start", "automatic": false}',
    "a control character": b'{"verb": "abort", "arguments": {"reason": "a\\u001b[2J"}}',
    "an author with one": b'{"verb": "abort", "arguments": {"author": "a\\nb"}}',
    "a long author": json.dumps({"verb": "abort", "arguments": {"author": "a" * 101}}).encode(),
    "a long argument": json.dumps({"verb": "abort", "arguments": {"reason": "a" * 2001}}).encode(),
    "an argument that is misspelt": b'{"verb": "start", "arguments": {"cannary": "east"}}',
    "an argument of another verb": b'{"verb": "abort", "arguments": {"cluster": "east"}}',
    "a strange name": b'{"verb": "abort", "arguments": {"a-b": "c"}}',
    "no UTF-8": b'{"verb": "\xff"}',
    "deep": b"[" * 5000,
}


@pytest.mark.parametrize("name", BAD)
async def test_what_is_no_operation_is_400_and_nothing_is_written(start: Start, name: str) -> None:
    async with start() as hub:
        status, body, response = await hub.post(data=BAD[name], headers={"Content-Type": "application/json"})
        assert (status, response.content_type) == (400, "application/problem+json")
        assert body["remedy"]
        assert await hub.kept() == []


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.one_of(
        st.binary(max_size=200), st.text(max_size=80).map(lambda t: json.dumps({"verb": t}).encode())
    )
)
def test_no_body_is_ever_an_error_of_the_hub(start: Start, body: bytes) -> None:
    async def ask() -> int:
        async with start() as hub:
            status, _, _ = await hub.post(data=body, headers={"Content-Type": "application/json"})
            return status

    assert asyncio.run(ask()) == 400 or any(json.dumps({"verb": v}).encode() == body for v in VERBS)


async def test_a_body_without_end_is_413(start: Start) -> None:
    async with start() as hub:

        async def endless() -> AsyncIterator[bytes]:
            for _ in range(1000):
                yield b" " * 4096

        headers = {"Content-Type": "application/json"}
        try:
            status, _, response = await hub.post(data=endless(), headers=headers)
            assert (status, response.headers["Connection"]) == (413, "close")
        except aiohttp.ClientConnectionError:
            pass  # it stopped listening while we were still talking
        status, _, _ = await hub.post(data=b" " * 20000, headers=headers)
        assert status == 413
        assert await hub.kept() == []


async def test_more_than_a_person_asks_for_is_429_with_the_time_to_wait(start: Start) -> None:
    async with start() as hub:
        taken = 0
        while (await hub.post({"verb": "nonsense"}))[0] == 400:
            taken += 1
        assert 10 <= taken < 20
        _, body, response = await hub.post()
        assert int(response.headers["Retry-After"]) >= 1
        assert body["remedy"].startswith("wait")


async def test_a_store_that_cannot_be_written_is_503_without_a_word_of_the_inside(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with start() as hub:
        await hub.store.write("current", b"{}")
        (tmp_path / "state" / "documents").rename(tmp_path / "gone")
        (tmp_path / "state" / "documents").write_text("")
        status, body, _ = await hub.post()
        assert status == 503
        assert str(tmp_path) not in json.dumps(body)
    assert "cannot be written" in caplog.text


async def test_no_token_is_in_the_audit(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    async with start(token=True) as hub, deciding(hub.store, done):
        await hub.post(headers={"Authorization": f"Bearer {TOKEN}"})
        (key,) = await hub.kept()
        stored = await hub.store.read(key)
        assert stored is not None
        assert TOKEN.encode() not in stored.data
    assert TOKEN not in caplog.text


async def test_the_openapi_document_describes_the_operations_endpoint(start: Start) -> None:
    async with start() as hub, deciding(hub.store, done):
        async with hub.session.get(f"{hub.url}/openapi.json") as response:
            document = await response.json()
        reported = document["paths"]["/api/v1/operations"]["post"]
        assert set(reported["responses"]) == {
            "200",
            "409",
            "400",
            "401",
            "403",
            "408",
            "413",
            "415",
            "429",
            "503",
        }
        _validate(document, reported["requestBody"]["content"], START)
        _, body, _ = await hub.post()
        _validate(document, reported["responses"]["200"]["content"], body)
        _, body, _ = await hub.post({"verb": "nonsense"})
        _validate(document, reported["responses"]["400"]["content"], body)


def _validate(document: dict[str, Any], content: dict[str, Any], body: object) -> None:
    (media,) = content.values()
    jsonschema.Draft202012Validator({**media["schema"], "components": document["components"]}).validate(body)
