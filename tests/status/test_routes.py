"""Every route of the table with every kind of caller and every right, and the document that is made from the table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from federation.core.config.hub import StatusConfig
from federation.status import authorization
from federation.status.routes import Right
from tests.status.conftest import Start
from tests.status.every_route import ROUTES, answers, due
from tests.status.openapi_file import FILE, routes, text
from tests.support.seals import OPERATE_TOKEN, READ_TOKEN, token_file

CALLERS: dict[str, tuple[str | None, Right | None]] = {
    "no one": (None, None),
    "a wrong token": ("Bearer " + "9b1c9a7e3b2d4f608192a3b4c5d6e7aa", None),
    "another scheme": ("Basic " + READ_TOKEN, None),
    "a bare token": (READ_TOKEN, None),
    "an empty token": ("Bearer ", None),
    "reads": ("Bearer " + READ_TOKEN, Right.READ),
    "operates": ("Bearer " + OPERATE_TOKEN, Right.OPERATE),
}
"""What a caller sends as Authorization, and the right that it has by that."""


async def test_every_route_answers_each_caller_by_its_right_alone(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authorization, "REFUSED_BURST", 1000)  # refused callers are limited
    config = StatusConfig(
        read_token_file=token_file(tmp_path / "read"),
        operate_token_file=token_file(tmp_path / "operate", OPERATE_TOKEN),
    )
    async with start(status=config, operates=True) as hub:
        for caller, (authorization_header, right) in CALLERS.items():
            headers = {"Authorization": authorization_header} if authorization_header is not None else {}
            found = await answers(hub.session, hub.url, headers)
            assert found == due(right, otherwise=401 if right is None else 403), caller


async def test_no_method_but_those_of_the_table_is_answered(start: Start) -> None:
    async with start(operates=True) as hub:
        methods: dict[str, set[str]] = {}
        for route in ROUTES:
            methods.setdefault(route.path, {"HEAD"}).add(route.method)
        for path, answered in methods.items():
            for method in {"POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY"} - answered:
                async with hub.session.request(method, hub.url + path.replace("{name}", "east")) as response:
                    assert response.status == 405, (method, path)
                    assert response.content_type == "application/problem+json"
                    assert {*response.headers["Allow"].split(", ")} == answered | {"GET"}


def test_the_document_is_valid_and_the_file_is_current() -> None:
    document = json.loads(text())
    OpenAPIV31SpecValidator(document).validate()
    assert FILE.read_text("utf-8") == text(), "python -m tests.status.openapi_file"
    operations = [each["operationId"] for path in document["paths"].values() for each in path.values()]
    assert sorted(operations) == sorted(route.operation for route in routes())


async def test_what_is_served_is_the_document_of_the_file(start: Start) -> None:
    async with start(operates=True) as hub:
        _, document, _ = await hub.get("/openapi.json")
        assert document == json.loads(text())


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/nowhere", 404),
        ("/api/v1/clusters/nowhere", 404),
        ("/api/v1/clusters?limit=0", 400),
        ("/api/v1/clusters?limit=501", 400),
        ("/api/v1/clusters?limit=x", 400),
        ("/api/v1/clusters?limit=", 400),
        ("/api/v1/clusters?continue=%00", 400),
        ("/api/v1/clusters?continue=", 400),
        ("/api/v1/clusters?continue=" + "A" * 500, 400),
        ("/api/v1/clusters?continue=Y2x1c3RlcnM6Z29uZQ", 410),  # clusters:gone
        ("/api/v1/generations?continue=Y2x1c3RlcnM6ZWFzdA", 400),  # of another list
    ],
)
async def test_an_error_is_a_problem_that_says_what_to_do(start: Start, path: str, status: int) -> None:
    async with start() as hub:
        answered, body, response = await hub.get(path)
        assert (answered, response.content_type, body["status"]) == (
            status,
            "application/problem+json",
            status,
        )
        assert body["title"]
        assert body["detail"]
        assert body["remedy"]
        assert "nowhere" not in str(body)


@pytest.mark.parametrize(("name", "count"), [("clusters", 3), ("generations", 2), ("operations", 0)])
async def test_a_list_is_given_in_pages_of_any_size(start: Start, name: str, count: int) -> None:
    async with start() as hub:
        _, whole, _ = await hub.get(f"/api/v1/{name}")
        assert len(whole[name]) == count
        assert (whole["continue_token"], whole["remaining"]) == ("", 0)
        for limit in (1, 2, 3, 500):
            found, token = [], ""
            while True:
                query = {"limit": str(limit), **({"continue": token} if token else {})}
                status, page, response = await hub.get(f"/api/v1/{name}", params=query)
                assert status == 200
                assert len(page[name]) <= limit
                found += page[name]
                assert page["remaining"] == count - len(found)
                tag = {"If-None-Match": response.headers["ETag"]}
                assert (await hub.get(f"/api/v1/{name}", params=query, headers=tag))[0] == 304
                token = page["continue_token"]
                if not token:
                    break
            assert found == whole[name]


async def test_every_route_that_says_so_answers_304(start: Start) -> None:
    async with start(operates=True) as hub:
        for route in ROUTES:
            if not route.conditional or route.method != "GET":
                continue
            path = route.path.replace("{name}", "east")
            _, _, response = await hub.get(path)
            tag = {"If-None-Match": response.headers["ETag"]}
            status, body, _ = await hub.get(path, headers=tag)
            assert (status, body) == (304, b""), path
        _, _, response = await hub.get("/api/v1/bundle.pem")
        since = {"If-Modified-Since": response.headers["Last-Modified"]}
        assert (await hub.get("/api/v1/bundle.pem", headers=since))[0] == 304
        old = {"If-Modified-Since": "Mon, 01 Jan 2001 00:00:00 GMT"}
        assert (await hub.get("/api/v1/bundle.pem", headers=old))[0] == 200


async def test_a_caller_that_asks_too_often_is_informed_to_wait_and_no_other_is(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(authorization, "BURST", 3)
    monkeypatch.setattr(authorization, "REFUSED_BURST", 2)
    config = StatusConfig(
        read_token_file=token_file(tmp_path / "read"),
        operate_token_file=token_file(tmp_path / "operate", OPERATE_TOKEN),
    )
    async with start(status=config) as hub:
        reads, operates = ({"Authorization": f"Bearer {token}"} for token in (READ_TOKEN, OPERATE_TOKEN))
        for _ in range(3):
            assert (await hub.get("/api/v1/status", headers=reads))[0] == 200
        status, body, response = await hub.get("/api/v1/status", headers=reads)
        assert (status, body["title"], response.headers["Retry-After"]) == (429, "Too many requests", "1")
        assert (await hub.get("/api/v1/status", headers=operates))[0] == 200
        await hub.clock.advance(1)
        assert (await hub.get("/api/v1/status", headers=reads))[0] == 200
        found = [(await hub.get("/api/v1/status"))[0] for _ in range(4)]
        assert found == [401, 401, 429, 429]
        assert (await hub.get("/api/v1/status", headers=reads))[0] == 200, "who is let in is not kept out"
        await hub.clock.advance(1)
        assert (await hub.get("/api/v1/status"))[0] == 401
