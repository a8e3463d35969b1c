"""Polls of a hub in which nothing happens cost little, and whatever is new is sent at once."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from federation.status.model import FederationStatus
from federation.status.revision import SHOWN_AGAIN, revision, without_signs_of_life
from federation.status.view import compose
from tests.status.conftest import Running, Start
from tests.status.rotations import plan, report_rotation
from tests.status.worlds import World

NOW = 1_795_000_000.0  # a multiple of SHOWN_AGAIN
SIGNS_OF_LIFE = {
    "generated",
    "computed",
    "days_left",
    "rate",
    "updated",
    "age",
    "listener_proved_at",
    "clock_skew",
}
GZIP = {"Accept-Encoding": "gzip"}


def status_at(world: World, now: float) -> FederationStatus:
    return compose(world.document_set(), world.config, datetime.fromtimestamp(now, UTC))


async def beat(hub: Running) -> None:
    """Every role writes that it lives, and everything was read back and proved again."""
    now = hub.clock.now().timestamp()
    leader = hub.world.leader
    assert leader is not None
    hub.world.edit_leader(updated=now, matrix=replace(leader.matrix, computed=now))
    for name in hub.world.names:
        hub.world.edit_publication(name, read_back=now)
    for replica in hub.world.signers:
        hub.world.edit_signer(replica, updated=now)
    await hub.settle()


async def test_where_only_signs_of_life_were_written_the_answer_is_that_nothing_is_new(start: Start) -> None:
    async with start() as hub:
        _, body, response = await hub.get("/api/v1/status")
        tag = {"If-None-Match": response.headers["ETag"]}
        while (
            hub.clock.now().timestamp() // SHOWN_AGAIN
            == datetime.fromisoformat(body["generated"]).timestamp() // SHOWN_AGAIN
        ):
            status, again, response = await hub.get("/api/v1/status", headers=tag)
            assert (status, again) == (304, b"")
            assert sum(len(k) + len(v) + 4 for k, v in response.headers.items()) < 1000
            await beat(hub)
        status, again, _ = await hub.get("/api/v1/status", headers=tag)
        assert status == 200, "what a page shows of the signs of life is not to grow old"
        assert again["generated"] > body["generated"]


async def test_whatever_else_is_new_is_sent_at_once(start: Start) -> None:
    async with start() as hub:
        _, _, response = await hub.get("/api/v1/status")
        tag = {"If-None-Match": response.headers["ETag"]}
        hub.world.edit_publication("west", current=47, pending=1)
        await hub.settle()
        status, body, _ = await hub.get("/api/v1/status", headers=tag)
        assert (status, body["verdict"]) == (200, "degraded")


def fields_of(value: object, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], object]:
    """Every value of a JSON document by where it is."""
    if isinstance(value, dict):
        items: Any = value.items()
    elif isinstance(value, list):
        items = ((str(i), each) for i, each in enumerate(value))
    else:
        return {path: value}
    return {p: v for key, each in items for p, v in fields_of(each, (*path, key)).items()}


def test_nothing_but_signs_of_life_is_left_out_of_what_is_compared() -> None:
    world = World(["east", "west"], NOW)
    report_rotation(world, plan(NOW))
    status = status_at(world, NOW)
    whole, compared = (
        fields_of(msgspec.to_builtins(each)) for each in (status, without_signs_of_life(status))
    )
    assert whole.keys() == compared.keys()
    changed = {path for path in whole if whole[path] != compared[path]}
    assert {path[-1] for path in changed} <= SIGNS_OF_LIFE | {"read_back", "takes", "longest_leaf"}
    assert {path for path in whole if path[-1] in SIGNS_OF_LIFE and whole[path]} <= changed


def test_a_role_that_is_no_longer_seen_is_news() -> None:
    world = World(["east"], NOW)
    assert revision(status_at(world, NOW)) == revision(status_at(world, NOW + 1))
    world.edit_signer("signer-0", updated=NOW - 3600)
    assert revision(status_at(world, NOW)) != revision(status_at(World(["east"], NOW), NOW))


async def test_a_large_answer_is_compressed_for_callers_that_take_it(start: Start) -> None:
    names = tuple(f"c{i:03d}" for i in range(100))
    async with start(names) as hub:
        plain = await raw(hub, "/api/v1/status", {"Accept-Encoding": "identity"})
        packed = await raw(hub, "/api/v1/status", GZIP)
        assert packed[1]["Content-Encoding"] == "gzip"
        assert gzip.decompress(packed[0]) == plain[0]
        assert len(packed[0]) < 20_000 < len(plain[0])
        assert packed[1]["ETag"] == plain[1]["ETag"]
        assert packed[1]["Vary"] == plain[1]["Vary"] == "Accept-Encoding"


@pytest.mark.parametrize("accepted", ["", "identity", "br, deflate", "gzip;q=0", "gzip; q=0.000", "gzipped"])
async def test_it_is_not_for_callers_that_do_not(start: Start, accepted: str) -> None:
    async with start() as hub:
        body, headers = await raw(hub, "/api/v1/status", {"Accept-Encoding": accepted})
        assert "Content-Encoding" not in headers
        assert msgspec.json.decode(body)["verdict"] == "healthy"


async def raw(hub: Running, path: str, headers: dict[str, str]) -> tuple[bytes, Any]:
    """The bytes as they were sent, and the headers."""
    async with hub.session.get(hub.url + path, headers=headers, auto_decompress=False) as response:
        return await response.read(), response.headers
