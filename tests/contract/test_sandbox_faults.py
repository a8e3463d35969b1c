"""What a test can make go wrong in the sandbox; real servers are not asked to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import pytest

from federation_sandbox.apiserver.faults import (
    Answer,
    Cut,
    Delay,
    Fault,
    Garbage,
    Gone,
    Hang,
    Lost,
    NoBookmarks,
    Silence,
)
from federation_sandbox.cluster import SandboxCluster
from tests.contract.client import Api, config_map
from tests.support.patience import PATIENCE

MAPS = "/api/v1/namespaces/default/configmaps"


@pytest.fixture
async def cluster() -> AsyncIterator[SandboxCluster]:
    async with SandboxCluster("faulty", signing_algorithm="ES256") as opened:
        yield opened


@pytest.fixture
async def api(cluster: SandboxCluster) -> AsyncIterator[Api]:
    async with Api.open(cluster.kubeconfig()) as opened:
        yield opened


async def arrived(fault: Fault) -> None:
    """Wait until a request met with the fault."""
    async with asyncio.timeout(PATIENCE):
        while not fault.hits:
            await asyncio.sleep(0.01)


async def test_a_hanging_request_is_never_answered_and_cut_when_the_fault_ends(
    cluster: SandboxCluster, api: Api
) -> None:
    fault = cluster.faults.inject(Hang(), verb="create", resource="configmaps")
    pending = asyncio.create_task(api.post(MAPS, config_map("one")))  # clients may repeat a GET unasked
    assert (await api.get("/api/v1/namespaces")).status == 200
    await arrived(fault)
    done, _ = await asyncio.wait({pending}, timeout=0.2)
    assert not done
    assert fault.hits == 1
    fault.lift()
    with pytest.raises(aiohttp.ClientError):
        await pending
    assert cluster.config_map("default", "one") is None
    assert (await api.post(MAPS, config_map("one"))).status == 201


async def test_a_whole_cluster_can_hang_with_its_watches(cluster: SandboxCluster, api: Api) -> None:
    async with api.watch(MAPS, fieldSelector="metadata.name=late") as watch:
        with cluster.hung() as hang:
            cluster.create("configmaps", config_map("late"), namespace="default")
            pending = asyncio.create_task(api.review("token"))
            await arrived(hang)
            with pytest.raises(TimeoutError):
                await watch.next(timeout=0.2)
            assert not pending.done()
        assert (await watch.until("ADDED", "late"))["metadata"]["name"] == "late"
        with pytest.raises(aiohttp.ClientError):
            await pending


async def test_delay(cluster: SandboxCluster, api: Api) -> None:
    with cluster.faults.inject(Delay(0.2), path="/version"):
        began = time.monotonic()
        assert (await api.get("/version")).status == 200
    assert time.monotonic() - began >= 0.2


@pytest.mark.parametrize(
    ("effect", "status", "reason"),
    [
        (Answer.forbidden(), 403, "Forbidden"),
        (Answer.unauthorized(), 401, "Unauthorized"),
        (Answer.throttled(7), 429, "TooManyRequests"),
        (Answer.server_error(), 500, "InternalError"),
    ],
)
async def test_answers_in_place_of_the_right_one(
    cluster: SandboxCluster, api: Api, effect: Answer, status: int, reason: str
) -> None:
    cluster.faults.inject(effect, verb="create", times=1)
    refused = await api.post(MAPS, config_map("one"))
    assert (refused.status, refused.reason) == (status, reason)
    assert refused.headers.get("Retry-After") == ("7" if status == 429 else None)
    assert cluster.config_map("default", "one") is None
    assert (await api.post(MAPS, config_map("one"))).status == 201


async def test_garbage_is_what_a_proxy_would_say(cluster: SandboxCluster, api: Api) -> None:
    with cluster.faults.inject(Garbage()):
        answer = await api.get(MAPS)
    assert (answer.status, answer.headers["Content-Type"]) == (502, "text/html")
    with cluster.faults.inject(Garbage(code=200, content_type="application/json", body=b'{"kind":')):
        assert (await api.get(MAPS)).raw == b'{"kind":'


async def test_an_answer_is_cut_in_the_middle(cluster: SandboxCluster, api: Api) -> None:
    with (
        cluster.faults.inject(Cut(after=10), resource="configmaps"),
        pytest.raises(aiohttp.ClientPayloadError),
    ):
        await api.get(MAPS)
    assert (await api.get(MAPS)).status == 200


async def test_a_watch_is_cut_in_the_middle_of_a_line(cluster: SandboxCluster, api: Api) -> None:
    with cluster.faults.inject(Cut(after=50), verb="watch"):
        async with api.watch(MAPS) as watch:
            with pytest.raises(aiohttp.ClientPayloadError):
                await watch.response.content.read()


async def test_running_connections_are_cut(cluster: SandboxCluster, api: Api) -> None:
    async with api.watch(MAPS, resourceVersion=cluster.store.revision) as watch:
        cluster.cut_connections()
        with pytest.raises(aiohttp.ClientError):
            await watch.next(timeout=5)
    assert (await api.get("/version")).status == 200


async def test_watches_are_ended_in_good_order(cluster: SandboxCluster, api: Api) -> None:
    async with api.watch(MAPS, resourceVersion=cluster.store.revision) as watch:
        cluster.end_watches()
        assert await watch.rest() == []


@pytest.mark.parametrize("as_event", [True, False])
async def test_a_storm_of_410(cluster: SandboxCluster, api: Api, as_event: bool) -> None:
    query = {"watch": "true", "resourceVersion": cluster.store.revision, "timeoutSeconds": 1}
    with cluster.faults.inject(Gone(as_event=as_event), resource="configmaps") as fault:
        answer = await api.get(MAPS, **query)
        assert answer.status == (200 if as_event else 410)
        assert answer.json["object"]["code"] == 410 if as_event else answer.reason == "Expired"
        assert (await api.get(MAPS)).status == 200
        assert fault.hits == 1
    assert (await api.get(MAPS, **query)).raw == b""


async def test_compaction_forgets_versions_and_pages(cluster: SandboxCluster, api: Api) -> None:
    version = cluster.store.revision
    for name in ("a", "b", "c"):
        cluster.create("configmaps", config_map(name), namespace="default")
    token = (await api.get(MAPS, limit=1)).meta["continue"]
    assert (await api.get(MAPS, limit=1, **{"continue": token})).status == 200
    cluster.create("configmaps", config_map("d"), namespace="default")
    cluster.compact()
    assert (await api.get(MAPS, limit=1, **{"continue": token})).status == 410
    async with api.watch(MAPS, resourceVersion=version, timeoutSeconds=1) as watch:
        assert (await watch.next())[0] == "ERROR"


async def test_a_silent_watch_loses_nothing(cluster: SandboxCluster, api: Api) -> None:
    async with api.watch(MAPS, resourceVersion=cluster.store.revision) as watch:
        with cluster.faults.inject(Silence(), verb="watch"):
            cluster.create("configmaps", config_map("late"), namespace="default")
            with pytest.raises(TimeoutError):
                await watch.next(timeout=0.2)
        assert (await watch.next())[1]["metadata"]["name"] == "late"


async def test_lost_events_never_come(cluster: SandboxCluster, api: Api) -> None:
    async with api.watch(MAPS, resourceVersion=cluster.store.revision) as watch:
        fault = cluster.faults.inject(Lost(), verb="watch", times=1)
        cluster.create("configmaps", config_map("lost"), namespace="default")
        with pytest.raises(TimeoutError):
            await watch.next(timeout=0.2)
        assert fault.hits == 1
        cluster.create("configmaps", config_map("seen"), namespace="default")
        assert (await watch.next())[1]["metadata"]["name"] == "seen"


async def test_bookmarks_can_be_dropped(cluster: SandboxCluster, api: Api) -> None:
    query: dict[str, Any] = {"allowWatchBookmarks": "true", "timeoutSeconds": 3}
    with cluster.faults.inject(NoBookmarks()):
        async with api.watch(MAPS, resourceVersion=cluster.store.revision, **query) as watch:
            assert await watch.rest() == []


async def test_a_closed_port_refuses_and_comes_back_on_the_same_one(
    cluster: SandboxCluster, api: Api
) -> None:
    cluster.create("configmaps", config_map("kept"), namespace="default")
    url = cluster.url
    async with api.watch(MAPS, resourceVersion=cluster.store.revision) as watch:
        await cluster.down()
        with pytest.raises(aiohttp.ClientError):
            await watch.next(timeout=5)
    with pytest.raises(aiohttp.ClientConnectorError):
        await api.get("/version")
    await cluster.up()
    assert cluster.url == url
    assert (await api.get(f"{MAPS}/kept")).status == 200


async def test_the_clock_can_be_wrong(cluster: SandboxCluster, api: Api) -> None:
    cluster.skew = timedelta(hours=2)
    cluster.create_service_account("default", "app")
    ahead = cluster.token("default", "app")
    answer = await api.get("/version")
    assert timedelta(minutes=119) < parsedate_to_datetime(answer.headers["Date"]) - datetime.now(UTC)
    cluster.skew = timedelta(0)
    assert (await api.review(ahead, "istio-ca"))["error"] == (
        "[invalid bearer token, service account token is not valid yet]"
    )


async def test_tokens_expire_by_the_clusters_clock(cluster: SandboxCluster, api: Api) -> None:
    token = cluster.token("default", "default", expiration=600)
    cluster.skew = timedelta(seconds=650)
    assert (await api.review(token, "istio-ca"))["authenticated"] is True
    cluster.skew = timedelta(seconds=665)
    assert "has expired" in (await api.review(token, "istio-ca"))["error"]


async def test_reviews_can_fail_while_the_rest_works(cluster: SandboxCluster, api: Api) -> None:
    with cluster.faults.inject(Answer.server_error(), resource="tokenreviews"):
        review = await api.post("/apis/authentication.k8s.io/v1/tokenreviews", {"spec": {"token": "x"}})
        assert review.status == 500
        assert (await api.get("/api/v1/pods")).status == 200


async def test_faults_can_be_aimed(cluster: SandboxCluster, api: Api) -> None:
    cluster.create_namespace("aimed")
    cluster.faults.inject(
        Answer.forbidden(), verb="patch", resource="configmaps", namespace="aimed", name="one"
    )
    there = "/api/v1/namespaces/aimed/configmaps"
    assert (await api.apply(f"{there}/one", config_map("one"))).status == 403
    assert (await api.apply(f"{there}/two", config_map("two"))).status == 201
    assert (await api.apply(f"{MAPS}/one", config_map("one"))).status == 201
    cluster.faults.clear()
    assert (await api.apply(f"{there}/one", config_map("one"))).status == 201
