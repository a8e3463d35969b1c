"""Watches: initial state, changes, selectors, resumption, time-out, bookmarks, 410, metadata only."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.contract.client import PARTIAL, PARTIAL_LIST, Api, config_map, remove_namespace, unique

INITIAL_END = "k8s.io/initial-events-end"


async def version(api: Api, path: str) -> str:
    found: str = (await api.get(path)).json["metadata"]["resourceVersion"]
    return found


async def test_changes_come_in_order_after_a_version(api: Api, maps: str) -> None:
    await api.make(maps, config_map("old"))
    start = await version(api, maps)
    async with api.watch(maps, resourceVersion=start, timeoutSeconds=20) as watch:
        await api.make(maps, config_map("one", {"k": "1"}))
        await api.patch(f"{maps}/one", {"data": {"k": "2"}})
        await api.delete(f"{maps}/one")
        events = [await watch.next() for _ in range(3)]
    assert [kind for kind, _ in events] == ["ADDED", "MODIFIED", "DELETED"]
    assert [obj["metadata"]["name"] for _, obj in events] == ["one"] * 3
    assert [obj["data"]["k"] for _, obj in events] == ["1", "2", "2"]
    versions = [int(obj["metadata"]["resourceVersion"]) for _, obj in events]
    assert versions == sorted(set(versions))
    assert versions[0] > int(start)


async def test_without_a_version_the_present_state_comes_first(api: Api, maps: str) -> None:
    await api.make(maps, config_map("a"))
    await api.make(maps, config_map("b"))
    async with api.watch(maps, timeoutSeconds=20) as watch:
        first = {(kind, obj["metadata"]["name"]) for kind, obj in [await watch.next(), await watch.next()]}
        assert first == {("ADDED", "a"), ("ADDED", "b")}
        await api.make(maps, config_map("c"))
        assert (await watch.until("ADDED", "c"))["metadata"]["name"] == "c"


async def test_a_watch_resumes_where_another_stopped(api: Api, maps: str) -> None:
    start = await version(api, maps)
    made = await api.make(maps, config_map("one", {"k": "1"}))
    await api.patch(f"{maps}/one", {"data": {"k": "2"}})
    async with api.watch(maps, resourceVersion=start, timeoutSeconds=20) as watch:
        assert [(await watch.next())[0], (await watch.next())[0]] == ["ADDED", "MODIFIED"]
    async with api.watch(
        maps, resourceVersion=made["metadata"]["resourceVersion"], timeoutSeconds=20
    ) as watch:
        kind, obj = await watch.next()
        assert (kind, obj["data"]) == ("MODIFIED", {"k": "2"})


async def test_a_cluster_wide_watch_sees_the_namespace(api: Api, maps: str, namespace: str) -> None:
    start = await version(api, maps)
    async with api.watch("/api/v1/configmaps", resourceVersion=start, timeoutSeconds=20) as watch:
        await api.make(maps, config_map("one"))
        assert (await watch.until("ADDED", "one"))["metadata"]["namespace"] == namespace


async def test_a_watch_of_one_name_hears_of_no_other(api: Api, maps: str) -> None:
    start = await version(api, maps)
    async with api.watch(
        maps, resourceVersion=start, fieldSelector="metadata.name=mine", timeoutSeconds=20
    ) as watch:
        await api.make(maps, config_map("other"))
        await api.make(maps, config_map("mine"))
        kind, obj = await watch.next()
        assert (kind, obj["metadata"]["name"]) == ("ADDED", "mine")


async def test_leaving_and_entering_a_selector_is_deletion_and_addition(api: Api, maps: str) -> None:
    await api.make(maps, config_map("one", labels={"in": "yes"}))
    start = await version(api, maps)
    async with api.watch(maps, resourceVersion=start, labelSelector="in=yes", timeoutSeconds=20) as watch:
        left = await api.patch(f"{maps}/one", {"metadata": {"labels": {"in": "no"}}})
        await api.patch(f"{maps}/one", {"data": {"k": "unseen"}})
        await api.patch(f"{maps}/one", {"metadata": {"labels": {"in": "yes"}}})
        (first, gone), (second, back) = await watch.next(), await watch.next()
    assert (first, second) == ("DELETED", "ADDED")
    assert gone["metadata"]["labels"] == {"in": "yes"}
    assert gone["metadata"]["resourceVersion"] == left.meta["resourceVersion"]
    assert back["data"] == {"k": "unseen"}


async def test_the_server_ends_a_watch_after_its_timeout(api: Api, maps: str) -> None:
    start = await version(api, maps)
    began = time.monotonic()
    async with api.watch(maps, resourceVersion=start, timeoutSeconds=1) as watch:
        assert await watch.rest() == []
    assert 0.9 <= time.monotonic() - began < 25


async def test_a_bookmark_reports_versions_that_the_selection_hides(api: Api, maps: str) -> None:
    start = await version(api, maps)
    async with api.watch(
        maps,
        resourceVersion=start,
        fieldSelector="metadata.name=mine",
        allowWatchBookmarks="true",
        timeoutSeconds=4,
    ) as watch:
        hidden = await api.make(maps, config_map("other"))
        events = await watch.rest()
    assert {kind for kind, _ in events} == {"BOOKMARK"}
    bookmark = events[-1][1]
    assert (bookmark["kind"], bookmark["apiVersion"]) == ("ConfigMap", "v1")
    assert int(bookmark["metadata"]["resourceVersion"]) >= int(hidden["metadata"]["resourceVersion"])
    assert "name" not in bookmark["metadata"]


async def test_no_bookmark_comes_unasked(api: Api, maps: str) -> None:
    start = await version(api, maps)
    async with api.watch(maps, resourceVersion=start, timeoutSeconds=3) as watch:
        assert await watch.rest() == []


async def test_initial_events_end_with_a_marked_bookmark(api: Api, maps: str) -> None:
    await api.make(maps, config_map("a"))
    await api.make(maps, config_map("b"))
    async with api.watch(
        maps,
        sendInitialEvents="true",
        resourceVersionMatch="NotOlderThan",
        allowWatchBookmarks="true",
        timeoutSeconds=20,
    ) as watch:
        events = [await watch.next() for _ in range(3)]
    assert {obj["metadata"].get("name") for _, obj in events[:2]} == {"a", "b"}
    kind, bookmark = events[2]
    assert kind == "BOOKMARK"
    assert bookmark["metadata"]["annotations"] == {INITIAL_END: "true"}


async def test_initial_events_need_a_version_match(api: Api, maps: str) -> None:
    refused = await api.get(maps, watch="true", sendInitialEvents="true")
    assert (refused.status, refused.reason) == (422, "Invalid")


async def test_a_version_older_than_the_history_is_gone(api: Api, namespace: str) -> None:
    """Events are the one resource kube-apiserver watches without a cache, so that compaction is seen at once."""
    path = f"/api/v1/namespaces/{namespace}/events"
    async with api.watch(path, resourceVersion="1", timeoutSeconds=5) as watch:
        kind, status = await watch.next()
        assert kind == "ERROR"
        assert (status["kind"], status["code"], status["reason"]) == ("Status", 410, "Expired")
        with pytest.raises(StopAsyncIteration):
            await watch.next()


@pytest.mark.parametrize("query", [{"timeoutSeconds": "abc"}, {"fieldSelector": "spec.nope=1"}])
async def test_a_bad_watch_is_refused_with_a_status(api: Api, maps: str, query: dict[str, str]) -> None:
    refused = await api.get(maps, watch="true", **query)
    assert (refused.status, refused.reason) == (400, "BadRequest")


async def test_metadata_only_watches(api: Api, maps: str) -> None:
    await api.make(maps, config_map("one", {"k": "v"}))
    async with api.watch(maps, accept=PARTIAL, allowWatchBookmarks="true", timeoutSeconds=20) as watch:
        kind, obj = await watch.next()
        assert kind == "ADDED"
        assert (obj["kind"], obj["apiVersion"]) == ("PartialObjectMetadata", "meta.k8s.io/v1")
        assert set(obj) == {"kind", "apiVersion", "metadata"}
        marked, bookmark = await watch.next()
        assert (marked, bookmark["kind"]) == ("BOOKMARK", "PartialObjectMetadata")


async def test_a_watch_cannot_be_shown_as_a_list(api: Api, maps: str) -> None:
    await api.make(maps, config_map("one"))
    async with api.watch(maps, accept=PARTIAL_LIST, timeoutSeconds=1) as watch:
        assert await watch.rest() == []


async def test_many_watches_hear_the_same(api: Api, maps: str) -> None:
    start = await version(api, maps)

    async def hear() -> str:
        async with api.watch(maps, resourceVersion=start, timeoutSeconds=20) as watch:
            return str((await watch.until("ADDED", "one"))["metadata"]["uid"])

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(hear()) for _ in range(50)]
        made = await api.make(maps, config_map("one"))
    assert {task.result() for task in tasks} == {made["metadata"]["uid"]}


async def test_a_deleted_namespace_is_reported_twice(api: Api) -> None:
    name = unique("contract")
    await api.make("/api/v1/namespaces", {"metadata": {"name": name}})
    start = await version(api, "/api/v1/namespaces")
    async with api.watch("/api/v1/namespaces", resourceVersion=start, timeoutSeconds=20) as watch:
        await remove_namespace(api, name)
        terminating = await watch.until("MODIFIED", name)
        gone = await watch.until("DELETED", name)
    assert terminating["status"]["phase"] == gone["status"]["phase"] == "Terminating"
