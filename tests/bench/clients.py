"""The hub as a client of API servers, beside kubernetes_asyncio doing the same work against the same server.

Both sides talk TLS to one server that only hands out what was encoded beforehand. The hub's side is its own
parts: the publisher with its session, the reflector with the decoder that publication reads back with. The
other side is the library as its documentation shows it: models, `Watch().stream`, server-side apply. They take
turns, and CPU of this process is what is compared where the server could be the limit.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import statistics
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from kubernetes_asyncio import client, config, watch

from federation.controller.publication.config_map import ConfigMapDecoder, Contents, Target
from federation.controller.publication.publisher import Publisher
from federation.core.config.clusters import ClusterTimeouts, Credentials
from federation.core.config.hub import PublicationConfig
from federation.core.documents.trust import Generation
from federation.core.identity import ClusterName
from federation.kubernetes.objects import METADATA_ONLY, ObjectKey, ObjectMeta, decode_metadata
from federation.kubernetes.reflector import Reflector
from federation.kubernetes.session import ClusterSession
from federation.runtime.clock import SystemClock
from tests.bench import canned
from tests.bench.processes import own_cpu
from tests.bench.report import Line, Report, at_least
from tests.bench.rig import child

GROUP = "The hub as a client of API servers"
PUBLICATION = PublicationConfig()
KEY = PUBLICATION.key


class EmptyWatch:
    """Stands for a cluster whose namespaces hold nothing yet: the publisher writes to each of them."""

    synced = True

    def __init__(self, namespaces: int) -> None:
        self.namespaces: Mapping[ObjectKey, ObjectMeta] = {
            ObjectKey("", f"team-{number:05}"): ObjectMeta("", f"team-{number:05}", b"")
            for number in range(namespaces)
        }

    def observed_in(self, namespace: str) -> None:
        return None


def generation(number: int) -> Generation:
    return Generation(
        number=number,
        created=time.time(),
        reason="bench",
        author="bench",
        trust_domain="mesh.example",
        sha256=f"{number:064x}",
        bundle_pem=canned.BUNDLE,
        anchors=[],
    )


async def open_session(kubeconfig: Path) -> ClusterSession:
    return await ClusterSession.open(
        Credentials(kubeconfig=kubeconfig),
        cluster=ClusterName("canned"),
        timeouts=ClusterTimeouts(),
        clock=SystemClock(),
        connections=PUBLICATION.max_concurrent_per_cluster,
    )


def publisher(session: ClusterSession, namespaces: int) -> Publisher:
    view: Any = EmptyWatch(namespaces)
    return Publisher(
        session,
        view,
        excluded=(),
        concurrency=PUBLICATION.max_concurrent_per_cluster,
        timeouts=ClusterTimeouts(),
        clock=SystemClock(),
        jitter=random.Random(1),
        allowed=lambda: True,
        stays=lambda _namespace, _observed: False,
        joins=lambda: False,
    )


async def hub_patches(own: Publisher, number: int, count: int) -> float:
    """PATCHes per second of the hub's publisher, from a new target to the last write."""
    wanted = own.tally.writes + count
    began = time.perf_counter()
    own.aim(Target.of(generation(number), PUBLICATION))
    async with asyncio.timeout(60):
        while own.tally.writes < wanted:
            await asyncio.sleep(0.001)
    return count / (time.perf_counter() - began)


async def library_patches(api: Any, count: int) -> float:
    """PATCHes per second of the library's models, as many at once."""
    numbers = iter(range(count))

    async def worker() -> None:
        for number in numbers:
            body = client.V1ConfigMap(
                api_version="v1",
                kind="ConfigMap",
                metadata=client.V1ObjectMeta(name="istio-ca-root-cert", labels={"istio.io/config": "true"}),
                data={KEY: canned.BUNDLE},
            )
            await api.patch_namespaced_config_map(
                "istio-ca-root-cert",
                f"team-{number:05}",
                body,
                field_manager="bench",
                force=True,
                _content_type="application/apply-patch+yaml",
                _request_timeout=30,
            )

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(PUBLICATION.max_concurrent_per_cluster):
            group.create_task(worker())
    return count / (time.perf_counter() - began)


async def patches(report: Report, session: ClusterSession, api: Any, count: int) -> None:
    own = publisher(session, count)
    running = asyncio.create_task(own.run())
    ours: list[float] = []
    theirs: list[float] = []
    ours_cpu: list[float] = []
    theirs_cpu: list[float] = []
    try:
        for turn in range(1, 9):
            with own_cpu() as used:
                ours.append(await hub_patches(own, turn, count))
            ours_cpu.append(used[0] / count * 1e6)
            with own_cpu() as used:
                theirs.append(await library_patches(api, count // 2))
            theirs_cpu.append(used[0] / (count // 2) * 1e6)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    median = statistics.median
    at_once = PUBLICATION.max_concurrent_per_cluster
    note = f"{median(ours_cpu):.0f} us CPU each, {at_once} at once"
    report.add(Line(GROUP, "publication: PATCHes by the hub's publisher", median(ours), "/s", note=note))
    note = f"{median(theirs_cpu):.0f} us CPU each, {at_once} at once"
    report.add(
        Line(GROUP, "publication: PATCHes by kubernetes_asyncio's models", median(theirs), "/s", note=note)
    )
    ratio = median(one / other for one, other in zip(ours, theirs, strict=True))
    report.add(Line(GROUP, "publication over kubernetes_asyncio's models", ratio, "x", at_least(4.5)))


async def hub_ingest(session: ClusterSession, path: str, decode: Any, accept: str) -> float:
    """Watch events for each second of CPU that the hub's reflector takes to keep them."""
    seen = asyncio.Event()
    reflector: Reflector[Any] = Reflector(
        session,
        path,
        decode=decode,
        accept=accept,
        timeouts=ClusterTimeouts(),
        clock=SystemClock(),
        jitter=random.Random(1),
        on_change=lambda change: seen.set() if len(reflector.items) >= canned.EVENTS else None,
    )
    with own_cpu() as used:
        running = asyncio.create_task(reflector.run())
        async with asyncio.timeout(60):
            await seen.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return canned.EVENTS / used[0]


async def library_ingest(call: Callable[..., Any], count: int) -> float:
    """Watch events for each second of CPU that the library takes to make models of them."""
    kept: dict[str, Any] = {}
    stream: Any = watch.Watch()
    with own_cpu() as used:
        async with asyncio.timeout(60), stream.stream(call, resource_version="1") as events:
            async for event in events:
                kept[f"{event['object'].metadata.namespace}/{event['object'].metadata.name}"] = event[
                    "object"
                ]
                if len(kept) >= count:
                    break
    await stream.close()
    return count / used[0]


async def ingest(report: Report, session: ClusterSession, api: Any, *, turns: int) -> None:
    kinds: dict[str, tuple[Callable[[], Awaitable[float]], Any]] = {
        "ConfigMaps": (
            lambda: hub_ingest(
                session, "/api/v1/configmaps", ConfigMapDecoder(KEY, Contents()), "application/json"
            ),
            api.list_config_map_for_all_namespaces,
        ),
        "namespaces": (
            lambda: hub_ingest(session, "/api/v1/namespaces", decode_metadata, METADATA_ONLY),
            api.list_namespace,
        ),
    }
    for kind, (ours, theirs) in kinds.items():
        own: list[float] = []
        library: list[float] = []
        for _ in range(turns):
            own.append(await ours())
            library.append(await library_ingest(theirs, canned.EVENTS // 5))
        note = f"kubernetes_asyncio.watch: {statistics.median(library):,.0f}"
        name = f"watch ingest, {kind}"
        report.add(Line(GROUP, name, statistics.median(own), "/CPU s", note=note))
        ratio = statistics.median(one / other for one, other in zip(own, library, strict=True))
        report.add(Line(GROUP, f"watch ingest over the library, {kind}", ratio, "x", at_least(8)))


def bytes_each(make: Callable[[], Any], count: int) -> float:
    gc.collect()
    tracemalloc.start()
    kept = make()
    gc.collect()
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(kept) == count
    return used / count


def cache(report: Report) -> None:
    """What is kept of one namespace: itself and the ConfigMap in it, in the hub and as the library's models."""
    count = 2000
    namespaces = [json.dumps(canned.namespace(number)).encode() for number in range(count)]
    partials = [json.dumps(canned.partial(number)).encode() for number in range(count)]
    config_maps = [json.dumps(canned.config_map(number)).encode() for number in range(count)]

    def ours() -> dict[Any, Any]:
        decode = ConfigMapDecoder(KEY, Contents())
        kept: dict[Any, Any] = {}
        for text, other in zip(partials, config_maps, strict=True):
            meta, found = decode_metadata(text), decode(other)
            kept[meta.key] = (meta.value, found.key, found.value)
        return kept

    def theirs() -> dict[Any, Any]:
        api: Any = client.ApiClient.__new__(client.ApiClient)  # no session: it only makes models
        api.configuration = client.Configuration()
        kept: dict[Any, Any] = {}
        for text, other in zip(namespaces, config_maps, strict=True):
            space = api.deserialize(SimpleNamespace(data=text), "V1Namespace")
            found = api.deserialize(SimpleNamespace(data=other), "V1ConfigMap")
            kept[space.metadata.name] = (space, found)
        return kept

    own, models = bytes_each(ours, count), bytes_each(theirs, count)
    report.add(Line(GROUP, "cache for one namespace", own, "bytes", note=f"models: {models:,.0f}"))
    report.add(Line(GROUP, "models' cache over the hub's", models / own, "x", at_least(7)))


async def run(report: Report, directory: Path, *, quick: bool) -> None:
    with child(directory, "canned", "tests.bench.canned", str(directory)) as server:
        await asyncio.to_thread(server.answer)
        kubeconfig = directory / "canned.kubeconfig"
        loaded = client.Configuration()
        await config.load_kube_config(config_file=str(kubeconfig), client_configuration=loaded)
        async with await open_session(kubeconfig) as session, client.ApiClient(loaded) as api_client:
            api: Any = client.CoreV1Api(api_client)
            await patches(report, session, api, 300 if quick else 1000)
            await ingest(report, session, api, turns=1 if quick else 3)
    cache(report)
