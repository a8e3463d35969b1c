"""The local copy: complete, honest about its freshness, and back by itself after whatever a cluster does."""

# ruff: noqa: SIM117  the server, the session and what is expected of them are each on a separate line

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from federation.core.clock import Clock
from federation.core.config.clusters import ClusterTimeouts
from federation.core.errors import ClusterGarbage, ClusterTimeout
from federation.kubernetes.objects import (
    METADATA_ONLY,
    Item,
    ObjectKey,
    ObjectMeta,
    Payload,
    decode_metadata,
    metadata_decoder,
)
from federation.kubernetes.packed import PackedObjects
from federation.kubernetes.reflector import Change, Reflector
from federation.kubernetes.session import ClusterSession
from federation.runtime.clock import SystemClock
from federation_sandbox.apiserver.faults import Answer, Cut, Garbage, Gone, Hang, Silence
from federation_sandbox.cluster import SandboxCluster
from tests.support.clock import VirtualClock
from tests.support.clusters import FAST, Exchange, RawServer, connected, eventually, running

NAMESPACES = "/api/v1/namespaces"
CONFIG_MAPS = "/api/v1/configmaps"


class Versioned(ObjectMeta, frozen=True, gc=False):
    """Metadata with its version, so that every change of an object is seen as one."""

    version: str = ""


def decode_with_version(payload: Payload) -> Item[ObjectMeta]:
    found = decode_metadata(payload)
    kept = Versioned(**msgspec.structs.asdict(found.value), version=found.resource_version)
    return Item(found.key, found.resource_version, kept)


class Watched:
    """A reflector with every change that it reported."""

    def __init__(
        self,
        session: ClusterSession,
        path: str = NAMESPACES,
        *,
        timeouts: ClusterTimeouts = FAST,
        clock: Clock | None = None,
        limits: SimpleNamespace | None = None,
        **options: Any,
    ) -> None:
        """``limits`` are those of the session, where a test changes them later."""
        self.changes: list[Change[ObjectMeta]] = []
        self.limits = limits or SimpleNamespace()
        options.setdefault("decode", decode_with_version)
        options.setdefault("on_change", self.changes.append)
        self.reflector: Reflector[ObjectMeta] = Reflector(
            session,
            path,
            accept=METADATA_ONLY,
            timeouts=timeouts,
            clock=clock or SystemClock(),
            jitter=random.Random(1),
            **options,
        )

    @property
    def names(self) -> set[str]:
        return {key.name for key in self.reflector.items}

    @property
    def story(self) -> list[tuple[str, str]]:
        return [(change.kind, change.key.name) for change in self.changes]

    def wait_no_longer_than(self, seconds: float) -> None:
        """For an answer of a cluster that hangs from now on; before, it may take its time on a loaded machine."""
        self.limits.request = seconds


@asynccontextmanager
async def watched(cluster: SandboxCluster, tmp_path: Path, **options: Any) -> AsyncIterator[Watched]:
    """A running reflector on a sandbox cluster, listed and with its watch up."""
    timeouts, clock = options.get("timeouts", FAST), options.get("clock")
    kubeconfig = cluster.write_kubeconfig(tmp_path / "kc")
    limits = SimpleNamespace(**asdict(timeouts))
    async with connected(kubeconfig, timeouts=cast("ClusterTimeouts", limits), clock=clock) as session:
        watch = Watched(session, limits=limits, **options)
        async with running(watch.reflector.run()):
            await eventually(lambda: watch.reflector.fresh)
            yield watch


# All is well ------------------------------------------------------------------------------------------------------


async def test_what_is_there_then_what_changes(tmp_path: Path) -> None:
    async with SandboxCluster("east") as cluster, watched(cluster, tmp_path) as watch:
        assert watch.reflector.synced
        assert {"default", "kube-system"} <= watch.names
        assert {kind for kind, _ in watch.story} == {"added"}
        watch.changes.clear()
        cluster.create_namespace("shop")
        cluster.patch("namespaces", "", "shop", {"metadata": {"labels": {"a": "b"}}})
        await eventually(lambda: ("modified", "shop") in watch.story)
        assert watch.reflector.items[ObjectKey("", "shop")].uid
        cluster.delete("namespaces", "", "shop")
        await eventually(lambda: "shop" not in watch.names)
        assert watch.story[0] == ("added", "shop")
        assert watch.story[-1] == ("deleted", "shop")
        assert watch.reflector.problem is None


async def test_lists_come_in_pages(tmp_path: Path) -> None:
    async with SandboxCluster("east") as cluster:
        for number in range(1100):
            cluster.create_service_account("default", f"account-{number:04d}")
        async with watched(cluster, tmp_path, path="/api/v1/serviceaccounts") as watch:
            assert len([name for name in watch.names if name.startswith("account-")]) == 1100
        assert cluster.requests.count(verb="list", resource="serviceaccounts") == 3


async def test_a_page_that_came_too_late_is_made_good_by_a_list_in_one_piece(tmp_path: Path) -> None:
    async with SandboxCluster("east") as cluster:
        for number in range(600):
            cluster.create_service_account("default", f"account-{number:04d}")
        gone = cluster.faults.inject(Answer(410, "Expired", "too old"), times=1, verb="list")
        async with watched(cluster, tmp_path, path="/api/v1/serviceaccounts") as watch:
            assert gone.hits == 1
            assert len([name for name in watch.names if name.startswith("account-")]) == 600


async def test_selectors_are_the_servers_business(tmp_path: Path) -> None:
    async with SandboxCluster("east") as cluster:
        cluster.create_namespace("in", {"mesh": "on"})
        cluster.create_namespace("out")
        options: dict[str, Any] = {"label_selector": "mesh=on", "decode": metadata_decoder(["mesh"])}
        async with watched(cluster, tmp_path, **options) as watch:
            assert watch.names == {"in"}
            assert watch.reflector.items[ObjectKey("", "in")].labels == {"mesh": "on"}
            cluster.patch("namespaces", "", "out", {"metadata": {"labels": {"mesh": "on"}}})
            cluster.patch("namespaces", "", "in", {"metadata": {"labels": {"mesh": "off"}}})
            await eventually(lambda: watch.names == {"out"})
        async with watched(cluster, tmp_path, field_selector="metadata.name=default") as watch:
            assert watch.names == {"default"}


async def test_a_terminating_object_shows_its_deletion_time(tmp_path: Path) -> None:
    async with SandboxCluster("east") as cluster:
        cluster.create_pod("default", "web", "default")
        async with watched(cluster, tmp_path, path="/api/v1/pods") as watch:
            key = ObjectKey("default", "web")
            assert watch.reflector.items[key].deletion is None
            cluster.delete("pods", "default", "web", grace=30)
            await eventually(lambda: watch.reflector.items[key].deletion is not None)
            deletion = watch.reflector.items[key].deletion
            assert deletion is not None
            assert abs(deletion - cluster.now().timestamp()) < 60


async def test_equal_values_are_no_change(tmp_path: Path) -> None:
    def name_only(payload: Any) -> Any:
        item = decode_metadata(payload)
        return Item(item.key, item.resource_version, "same")

    async with SandboxCluster("east") as cluster:
        async with watched(cluster, tmp_path, decode=name_only) as watch:
            watch.changes.clear()
            cluster.patch("namespaces", "", "default", {"metadata": {"labels": {"a": "b"}}})
            cluster.create_namespace("last")
            await eventually(lambda: "last" in watch.names)
            assert watch.story == [("added", "last")]


async def test_items_cannot_be_written_by_those_who_read_them(tmp_path: Path) -> None:
    async with SandboxCluster("east") as cluster, watched(cluster, tmp_path) as watch:
        with pytest.raises(TypeError):
            watch.reflector.items[ObjectKey("", "x")] = None  # type: ignore[index]


# Troubles ---------------------------------------------------------------------------------------------------------


async def catches_up(cluster: SandboxCluster, watch: Watched, *, relist: bool) -> None:
    """Whatever happened meanwhile is learned, and the watch is fresh again."""
    lists = cluster.requests.count(verb="list", resource="namespaces")
    await eventually(lambda: watch.reflector.fresh and "late" in watch.names)
    await eventually(lambda: "early" not in watch.names)
    assert ("added", "late") in watch.story
    assert ("deleted", "early") in watch.story
    assert watch.reflector.problem is None
    if not relist:
        assert cluster.requests.count(verb="list", resource="namespaces") == lists


DEEP = b"[" * 5000 + b"]" * 5000
"""Deeper than a decoder follows: it says so with an error of its own kind."""


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Hang(), "timeout"),
        (Answer.forbidden(), "forbidden"),
        (Answer.unauthorized(), "unauthorized"),
        (Answer.server_error(), "server_error"),
        (Answer.throttled(0), "throttled"),
        (Garbage(), "server_error"),
        (Garbage(code=200), "garbage"),
        (Garbage(code=200, body=b'{"kind":"Pod","metadata":{}}'), "garbage"),
        (Garbage(code=200, body=b'{"metadata":{"resourceVersion":"1"},"items":[' + DEEP + b"]}"), "garbage"),
        (Gone(), "gone"),
        (Gone(as_event=False), "gone"),
        (Cut(after=0), "unreachable"),
    ],
)
async def test_each_failure_is_reported_by_its_name_and_recovered_from(
    tmp_path: Path, fault: Any, reason: str
) -> None:
    timeouts = ClusterTimeouts(
        connect=0.3, request=0.3, watch_silence=0.3, backoff_first=0.02, backoff_longest=0.1
    )
    async with SandboxCluster("east") as cluster:
        cluster.create_namespace("early")
        async with watched(cluster, tmp_path, timeouts=timeouts) as watch:
            before = dict(watch.reflector.items)
            with cluster.faults.inject(fault):
                cluster.cut_connections()
                await eventually(lambda: getattr(watch.reflector.problem, "reason", "") == reason)
                assert not watch.reflector.fresh
                assert dict(watch.reflector.items) == before  # what was known stays
                assert watch.reflector.problem is not None
                assert watch.reflector.problem.where == "east"
                cluster.delete("namespaces", "", "early")
                cluster.create_namespace("late")
            await catches_up(cluster, watch, relist=True)


async def test_a_watch_that_is_cut_is_resumed_without_a_list(tmp_path: Path) -> None:
    timeouts = ClusterTimeouts(backoff_first=0.02)
    async with SandboxCluster("east") as cluster:
        cluster.create_namespace("early")
        async with watched(cluster, tmp_path, timeouts=timeouts) as watch:
            cluster.cut_connections()
            cluster.delete("namespaces", "", "early")
            cluster.create_namespace("late")
            await catches_up(cluster, watch, relist=False)
            assert watch.reflector.problem is None


async def test_a_cluster_that_goes_down_and_comes_back(tmp_path: Path) -> None:
    async with SandboxCluster("east") as cluster:
        cluster.create_namespace("early")
        async with watched(cluster, tmp_path) as watch:
            await cluster.down()
            await eventually(lambda: watch.reflector.problem is not None)
            assert not watch.reflector.fresh
            cluster.delete("namespaces", "", "early")
            cluster.create_namespace("late")
            cluster.compact()
            await asyncio.sleep(FAST.watch_silence)
            await cluster.up()
            await catches_up(cluster, watch, relist=True)


async def test_after_a_long_silence_it_lists_anew_lest_another_history_be_behind_the_address(
    tmp_path: Path,
) -> None:
    """A cluster restored from a backup has younger versions: a watch from an old one would stay silent."""
    async with SandboxCluster("east") as cluster, watched(cluster, tmp_path) as watch:
        cluster.requests.reset()
        await cluster.down()
        await asyncio.sleep(FAST.watch_silence + 0.1)
        await cluster.up()
        await eventually(lambda: watch.reflector.fresh)
        assert cluster.requests.count(verb="list", resource="namespaces") == 1


async def test_what_a_silent_watch_kept_back_is_learned_within_the_limit(tmp_path: Path) -> None:
    clock = VirtualClock()
    timeouts = ClusterTimeouts(watch_silence=90.0)
    async with SandboxCluster("east") as cluster:
        async with watched(cluster, tmp_path, timeouts=timeouts, clock=clock) as watch:
            with cluster.faults.inject(Silence()):
                cluster.create_namespace("unseen")
                await clock.advance(89.0)
                assert watch.reflector.fresh
                assert "unseen" not in watch.names
                await clock.advance(1.0)
                await eventually(lambda: "unseen" in watch.names)
                assert watch.reflector.problem is None  # a quiet collection is silent as well
                await eventually(lambda: watch.reflector.fresh)


async def test_a_silent_watch_of_a_server_that_does_not_answer_is_never_fresh(tmp_path: Path) -> None:
    clock = VirtualClock()
    timeouts = ClusterTimeouts(watch_silence=90.0)
    async with SandboxCluster("east") as cluster:
        async with watched(cluster, tmp_path, timeouts=timeouts, clock=clock) as watch:
            watch.wait_no_longer_than(0.1)
            with cluster.hung():
                await clock.advance(90.0)
                assert not watch.reflector.fresh
                await eventually(lambda: isinstance(watch.reflector.problem, ClusterTimeout))
                assert not watch.reflector.fresh


async def test_freshness_ends_by_the_clock_even_where_nothing_else_runs(tmp_path: Path) -> None:
    """The loop may be busy: a caller that reads at that very moment must get the truth."""
    clock = VirtualClock()
    async with SandboxCluster("east") as cluster:
        async with watched(cluster, tmp_path, timeouts=ClusterTimeouts(), clock=clock) as watch:
            clock.jump(90.5)
            assert not watch.reflector.fresh


async def test_a_hung_cluster_is_not_fresh_and_is_tried_ever_more_rarely(tmp_path: Path) -> None:
    clock = VirtualClock()
    timeouts = ClusterTimeouts(backoff_first=0.5, backoff_longest=60.0)
    async with SandboxCluster("east") as cluster:
        async with watched(cluster, tmp_path, timeouts=timeouts, clock=clock) as watch:
            watch.wait_no_longer_than(0.05)
            with cluster.hung():
                cluster.cut_connections()
                await eventually(lambda: not watch.reflector.fresh)
                for _ in range(12):
                    await eventually(lambda: clock.sleeping == 1)
                    assert not watch.reflector.fresh
                    await clock.advance(clock.next_wake or 0.0)
                    await asyncio.sleep(0.06)
                delays = [slept for slept in clock.slept if slept < 61][-12:]
    assert all(later >= earlier * 0.99 for earlier, later in zip(delays[:6], delays[2:8], strict=True))
    assert all(30.0 <= delay <= 60.0 for delay in delays[-3:])


async def test_a_storm_of_410_does_not_spin(tmp_path: Path) -> None:
    clock = VirtualClock()
    async with SandboxCluster("east") as cluster:
        async with watched(cluster, tmp_path, timeouts=ClusterTimeouts(), clock=clock) as watch:
            cluster.requests.reset()
            with cluster.faults.inject(Gone(), verb="watch"):
                cluster.cut_connections()
                for _ in range(40):
                    await clock.until_sleeping()
                    await clock.advance(15.0)
                    await asyncio.sleep(0.01)
            assert 5 <= cluster.requests.count(verb="list", resource="namespaces") <= 30
            await clock.advance(61.0)
            await eventually(lambda: watch.reflector.fresh)


async def test_a_server_that_ends_every_watch_at_once_is_not_asked_a_thousand_times(tmp_path: Path) -> None:
    watches = 0

    async def respond(exchange: Exchange) -> None:
        nonlocal watches
        if "watch=1" in exchange.target:
            watches += 1
            await exchange.lines()
        else:
            await exchange.answer(listing(1))

    timeouts = ClusterTimeouts(backoff_first=0.05, backoff_longest=10.0)
    async with RawServer(respond) as server:
        async with connected(server.kubeconfig(tmp_path / "kc"), timeouts=timeouts) as session:
            watch = Watched(session, timeouts=timeouts)
            async with running(watch.reflector.run()):
                await eventually(lambda: watches >= 2)
                await asyncio.sleep(1.0)
    assert 2 <= watches <= 8


async def test_a_throttled_watch_waits_as_long_as_it_has_to(tmp_path: Path) -> None:
    clock = VirtualClock()
    async with SandboxCluster("east") as cluster:
        async with watched(cluster, tmp_path, timeouts=ClusterTimeouts(), clock=clock) as watch:
            with cluster.faults.inject(Answer.throttled(45)):
                cluster.cut_connections()
                await eventually(lambda: clock.sleeping == 1)
                await clock.advance(1.0)
                await eventually(lambda: getattr(watch.reflector.problem, "reason", "") == "throttled")
                await eventually(lambda: clock.sleeping == 1)
                assert 44.0 <= (clock.next_wake or 0.0) <= 45.0
            await clock.advance(45.0)
            await eventually(lambda: watch.reflector.fresh)


async def test_a_watch_that_the_server_ends_in_good_order_stays_fresh(tmp_path: Path) -> None:
    clock = VirtualClock()
    async with SandboxCluster("east") as cluster:
        async with watched(cluster, tmp_path, timeouts=ClusterTimeouts(), clock=clock) as watch:
            await clock.advance(60.0)
            cluster.requests.reset()
            cluster.end_watches()
            await eventually(lambda: cluster.requests.count(verb="watch") == 1)
            assert watch.reflector.fresh
            assert watch.reflector.problem is None
            assert cluster.requests.count(verb="list") == 0


async def test_the_server_is_asked_for_bookmarks_and_a_jittered_end(tmp_path: Path) -> None:
    asked: list[dict[str, list[str]]] = []

    async def respond(exchange: Exchange) -> None:
        query = parse_qs(urlsplit(exchange.target).query)
        if "watch" in query:
            asked.append(query)
            bookmark = {
                "type": "BOOKMARK",
                "object": {"metadata": {"resourceVersion": str(100 + len(asked))}},
            }
            await exchange.lines(json.dumps(bookmark).encode())
        else:
            await exchange.answer(listing(7))

    timeouts = ClusterTimeouts(watch=270.0, backoff_first=0.01, backoff_longest=0.01)
    async with RawServer(respond) as server:
        async with connected(server.kubeconfig(tmp_path / "kc"), timeouts=timeouts) as session:
            async with running(Watched(session, timeouts=timeouts).reflector.run()):
                await eventually(lambda: len(asked) >= 8)
    assert [query["resourceVersion"][0] for query in asked[:3]] == ["7", "101", "102"]
    assert all(query["allowWatchBookmarks"] for query in asked)
    ends = [int(query["timeoutSeconds"][0]) for query in asked]
    assert all(243 <= end <= 297 for end in ends)
    assert len(set(ends)) > 3


async def test_waiting_for_a_list_that_does_not_come_says_why(tmp_path: Path) -> None:
    async with (
        SandboxCluster("east") as cluster,
        connected(cluster.write_kubeconfig(tmp_path / "kc")) as session,
    ):
        watch = Watched(session)
        with pytest.raises(ClusterTimeout, match="not listed"):
            await watch.reflector.wait_synced(0.01)
        with cluster.faults.inject(Answer.forbidden()):
            async with running(watch.reflector.run()):
                with pytest.raises(Exception, match="forbidden") as caught:
                    await watch.reflector.wait_synced(0.3)
                problem = watch.reflector.problem
                assert (type(caught.value), str(caught.value)) == (type(problem), str(problem))
        async with running(watch.reflector.run()):
            await watch.reflector.wait_synced(5.0)
        assert watch.reflector.synced
        assert not watch.reflector.fresh  # nothing runs it any more


async def test_a_consumer_that_fails_ends_the_run(tmp_path: Path) -> None:
    def fail(_: Change[ObjectMeta]) -> None:
        raise LookupError("a bug")

    async with (
        SandboxCluster("east") as cluster,
        connected(cluster.write_kubeconfig(tmp_path / "kc")) as session,
    ):
        watch = Watched(session, on_change=fail)
        with pytest.raises(LookupError):
            await watch.reflector.run()
        assert not watch.reflector.fresh


async def test_a_flood_is_stopped_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("federation.kubernetes.reflector.MAX_OBJECTS", 50)
    async with SandboxCluster("east") as cluster, watched(cluster, tmp_path) as watch:
        for number in range(100):
            cluster.create_namespace(f"flood-{number}")
        await eventually(lambda: isinstance(watch.reflector.problem, ClusterGarbage))
        assert len(watch.reflector.items) <= 50
        assert "more than 50" in str(watch.reflector.problem)


async def test_a_flood_of_events_leaves_the_loop_to_others(tmp_path: Path) -> None:
    line = json.dumps(event("MODIFIED", "x", "9")).encode()

    async def respond(exchange: Exchange) -> None:
        if "watch=1" not in exchange.target:
            await exchange.answer(listing(1))
            return
        data = (line + b"\n") * 500
        await exchange.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(200):
            await exchange.raw(b"%x\r\n%s\r\n" % (len(data), data))
        await asyncio.sleep(30)

    async with RawServer(respond) as server, connected(server.kubeconfig(tmp_path / "kc")) as session:
        watch = Watched(session)
        async with running(watch.reflector.run()):
            await eventually(lambda: watch.reflector.items)
            longest = 0.0
            for _ in range(50):
                before = time.thread_time()
                await asyncio.sleep(0)
                longest = max(longest, time.thread_time() - before)
    assert longest < 0.5


# Random lines -----------------------------------------------------------------------------------------------------


def listing(version: int, *items: dict[str, Any]) -> bytes:
    return json.dumps({"metadata": {"resourceVersion": str(version)}, "items": list(items)}).encode()


def event(kind: str, name: str, version: str) -> dict[str, Any]:
    return {"type": kind, "object": {"metadata": {"name": name, "uid": "u", "resourceVersion": version}}}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "object", "metadata", "name", "namespace", "resourceVersion", "labels", "code"]
            )
            | st.text(max_size=5),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
KINDS = st.sampled_from(["ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR", "added", "", "PATCHED"])
META = st.fixed_dictionaries(
    {},
    optional={
        "name": st.text(max_size=300) | JSON,
        "namespace": st.text(max_size=80) | JSON,
        "uid": st.text(max_size=200) | JSON,
        "resourceVersion": st.text(max_size=200) | JSON,
        "deletionTimestamp": st.sampled_from(["2026-01-01T00:00:00Z", "2026-01-01T00:00:00", "soon"]) | JSON,
        "labels": JSON,
    },
)
LINES = st.one_of(
    st.sampled_from([b'{"type":"ADDED","object":' + DEEP + b"}", b'{"type":"ERROR","object":' + DEEP + b"}"]),
    st.binary(max_size=80).map(lambda raw: raw.replace(b"\n", b"")),
    JSON.map(lambda value: json.dumps(value).encode()),
    st.builds(
        lambda kind, meta: json.dumps({"type": kind, "object": {"metadata": meta}}).encode(), KINDS, META
    ),
    st.builds(lambda kind, value: json.dumps({"type": kind, "object": value}).encode(), KINDS, JSON),
)


@pytest.fixture(scope="module")
def versions() -> Callable[[], int]:
    numbers = count(10)
    return lambda: next(numbers)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(LINES, min_size=1, max_size=8), last=st.just(b"") | LINES)
async def test_no_line_crashes_the_watch_or_keeps_it_from_recovering(
    tmp_path: Path, versions: Callable[[], int], lines: list[bytes], last: bytes
) -> None:
    """After any lines whatever, the copy is what the next good list says it is."""
    hostile = True
    steady = asyncio.Event()

    async def respond(exchange: Exchange) -> None:
        nonlocal hostile
        if "watch=1" not in exchange.target:
            items = [] if hostile else [event("", "good", "5")["object"]]
            await exchange.answer(listing(versions(), *items))
        elif hostile:
            hostile = False
            await exchange.lines(*lines, last=last)
        else:
            done = json.dumps(event("ADDED", "good", str(versions()))).encode()
            await exchange.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            await exchange.raw(b"%x\r\n%s\n\r\n" % (len(done) + 1, done))
            steady.set()
            await asyncio.sleep(30)

    timeouts = ClusterTimeouts(backoff_first=0.001, backoff_longest=0.001)
    async with RawServer(respond) as server:
        async with connected(server.kubeconfig(tmp_path / "kc"), timeouts=timeouts) as session:
            watch = Watched(session, timeouts=timeouts)
            async with running(watch.reflector.run()) as (task,):
                await eventually(lambda: watch.reflector.fresh and "good" in watch.names)
                assert not task.done()
                assert watch.reflector.problem is None
                for key in watch.reflector.items:
                    assert 1 <= len(key.name) <= 253
                    assert len(key.namespace) <= 63


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["create", "patch", "delete", "cut", "end", "compact", "wait"]),
            st.sampled_from(["a", "b", "c"]),
        ),
        max_size=15,
    ),
    keep=st.sampled_from([dict, lambda: PackedObjects(Versioned)]),
)
async def test_whatever_happens_the_copy_ends_up_like_the_cluster(
    tmp_path: Path, steps: list[tuple[str, str]], keep: Any
) -> None:
    """A model: replaying the reported changes gives the copy, and the copy is the cluster."""
    timeouts = ClusterTimeouts(backoff_first=0.001, backoff_longest=0.002)
    async with SandboxCluster("east", controllers=False) as cluster:
        async with watched(cluster, tmp_path, timeouts=timeouts, keep=keep) as watch:
            for action, name in steps:
                there = cluster.get("namespaces", "", name) is not None
                match action:
                    case "create" if not there:
                        cluster.create_namespace(name)
                    case "patch" if there:
                        cluster.patch(
                            "namespaces", "", name, {"metadata": {"labels": {"n": str(len(steps))}}}
                        )
                    case "delete" if there:
                        cluster.delete("namespaces", "", name)
                    case "cut":
                        cluster.cut_connections()
                    case "end":
                        cluster.end_watches()
                    case "compact":
                        cluster.compact()
                    case _:
                        await asyncio.sleep(0.002)
            truth = {
                ObjectKey("", obj["metadata"]["name"]): obj["metadata"]["resourceVersion"]
                for obj in cluster.objects("namespaces")
            }
            await eventually(
                lambda: (
                    {key: cast("Versioned", meta).version for key, meta in watch.reflector.items.items()}
                    == truth
                )
            )
            replayed: dict[ObjectKey, ObjectMeta] = {}
            for change in watch.changes:
                assert replayed.get(change.key) == change.old
                if change.new is None:
                    del replayed[change.key]
                else:
                    replayed[change.key] = change.new
            assert replayed == dict(watch.reflector.items)


# Polled instead of watched ----------------------------------------------------------------------------------------


async def test_what_is_polled_is_listed_again_and_again_and_never_watched(tmp_path: Path) -> None:
    clock = VirtualClock()
    every = [10.0]
    async with SandboxCluster("east", clock=clock) as cluster:
        timeouts = ClusterTimeouts(watch_silence=3600.0)
        async with watched(cluster, tmp_path, clock=clock, timeouts=timeouts, poll=lambda: every[0]) as watch:
            cluster.create_namespace("shop")
            await clock.advance(9.0)
            assert "shop" not in watch.names
            await clock.advance(2.0)
            await eventually(lambda: "shop" in watch.names)
            assert watch.reflector.fresh
            every[0] = 3600.0  # said anew each time, as to who waits for it
            cluster.delete("namespaces", "", "shop")
            await clock.advance(60.0)
            assert "shop" in watch.names
            watch.reflector.list_soon()
            await clock.advance(2.0)
            await eventually(lambda: ("deleted", "shop") in watch.story)
            assert cluster.requests.count(verb="watch") == 0


async def test_what_is_polled_keeps_its_items_while_the_cluster_fails(tmp_path: Path) -> None:
    async with SandboxCluster("east") as cluster:
        async with watched(cluster, tmp_path, poll=lambda: 0.05) as watch:
            known = set(watch.names)
            with cluster.faults.inject(Answer.forbidden(), verb="list", resource="namespaces"):
                await eventually(lambda: watch.reflector.problem is not None and not watch.reflector.fresh)
                assert watch.names == known
            await eventually(lambda: watch.reflector.fresh and watch.reflector.problem is None)
