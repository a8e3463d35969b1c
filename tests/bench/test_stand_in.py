"""The stand-in and what measures by it: it answers as an API server would, and what is counted is what happened."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from federation.controller.publication.config_map import ConfigMapDecoder, Contents, ObservedConfigMap
from federation.core.config.clusters import ClusterTimeouts, Credentials
from federation.core.errors import ClusterForbidden, ClusterNotFound, ClusterUnauthorized
from federation.core.identity import ClusterName
from federation.kubernetes.objects import FIELD_MANAGER, METADATA_ONLY, ObjectKey, decode_pod
from federation.kubernetes.reflector import PAGE_SIZE, Reflector
from federation.kubernetes.session import ClusterSession
from federation.runtime.clock import SystemClock
from federation_sandbox.cluster import SandboxCluster
from tests.bench.report import Report
from tests.bench.scale import Lag, Page, Sizes, bench
from tests.bench.stand_in import SYSTEM, Cluster, Counts, Fleet
from tests.support.patience import PATIENCE

NAME = "istio-ca-root-cert"
APPLY = "application/apply-patch+yaml"
TEAM = "team-0000"


@asynccontextmanager
async def fleet(directory: Path, *, pods: int = 3) -> AsyncIterator[Fleet]:
    """Two clusters with two teams each."""
    opened = Fleet(["one", "two"], 2, pods)
    await opened.open(directory)
    try:
        yield opened
    finally:
        await opened.close()


@asynccontextmanager
async def session_of(kubeconfig: Path) -> AsyncIterator[ClusterSession]:
    async with await ClusterSession.open(
        Credentials(kubeconfig=kubeconfig),
        cluster=ClusterName("one"),
        timeouts=ClusterTimeouts(),
        clock=SystemClock(),
    ) as session:
        yield session


@asynccontextmanager
async def reflected(session: ClusterSession, path: str, **options: Any) -> AsyncIterator[Reflector[Any]]:
    """The hub's own copy of a collection, once it is listed."""
    reflector: Reflector[Any] = Reflector(
        session,
        path,
        timeouts=ClusterTimeouts(),
        clock=SystemClock(),
        jitter=random.Random(1),
        **options,
    )
    running = asyncio.create_task(reflector.run())
    try:
        await reflector.wait_synced(PATIENCE)
        yield reflector
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def apply(session: ClusterSession, text: str, *, manager: str = FIELD_MANAGER) -> None:
    meta = {
        "name": NAME,
        "labels": {"istio.io/config": "true"},
        "annotations": {"federation-hub/generation": "7"},
    }
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"root-cert.pem": text}}
    await session.request(
        "PATCH",
        f"/api/v1/namespaces/{TEAM}/configmaps/{NAME}",
        params={"fieldManager": manager, "force": "true"},
        body=json.dumps(body).encode(),
        content_type=APPLY,
        accept=METADATA_ONLY,
    )


async def observed_after_applies(session: ClusterSession) -> list[ObservedConfigMap]:
    """What the controller's own watch shows of three applies: before it, on it, by another manager."""
    decode = ConfigMapDecoder("root-cert.pem", Contents())
    await apply(session, "first")
    shown = []
    async with reflected(
        session, "/api/v1/configmaps", decode=decode, field_selector=f"metadata.name={NAME}"
    ) as watch:
        shown.append(watch.items[ObjectKey(TEAM, NAME)])
        for text, manager in (("second", FIELD_MANAGER), ("third", "other")):
            await apply(session, text, manager=manager)
            async with asyncio.timeout(PATIENCE):
                while watch.items[ObjectKey(TEAM, NAME)] == shown[-1]:
                    await asyncio.sleep(0.01)
            shown.append(watch.items[ObjectKey(TEAM, NAME)])
    return shown


async def test_what_the_controller_sees_of_its_applies_is_what_it_sees_in_the_sandbox(tmp_path: Path) -> None:
    async with fleet(tmp_path), SandboxCluster("sandbox") as sandbox:
        sandbox.create_namespace(TEAM)
        async with session_of(tmp_path / "one-controller.kubeconfig") as session:
            here = await observed_after_applies(session)
        async with session_of(sandbox.write_kubeconfig(tmp_path / "sandbox.kubeconfig")) as session:
            there = await observed_after_applies(session)

    assert [each.sha256 for each in here] == [each.sha256 for each in there]
    assert [(each.ours, each.labelled, each.generation) for each in here] == [(True, True, 7)] * 3
    assert here[:2] == there[:2]
    assert "other" in here[2].writers


async def test_pods_come_in_pages_each_once_and_others_in_another_cluster(tmp_path: Path) -> None:
    pods = 2 * PAGE_SIZE + 3
    uids = []
    async with fleet(tmp_path, pods=pods) as clusters:
        for name in ("one", "two"):
            async with (
                session_of(tmp_path / f"{name}-signer.kubeconfig") as session,
                reflected(session, "/api/v1/pods", decode=decode_pod, accept=METADATA_ONLY) as watch,
            ):
                uids.append({pod.uid for pod in watch.items.values()})
        requests = await clusters.obey({"do": "requests"})

    assert [len(each) for each in uids] == [pods, pods]
    assert not uids[0] & uids[1]
    assert requests["list"] == 2 * 3


async def test_a_token_is_reviewed_by_its_own_cluster_and_worth_nothing_at_another(tmp_path: Path) -> None:
    async with (
        fleet(tmp_path),
        session_of(tmp_path / "one-signer.kubeconfig") as one,
        session_of(tmp_path / "two-signer.kubeconfig") as two,
    ):
        pod = {"kind": "Pod", "apiVersion": "v1", "name": "web-6d4cf56db6-000000"}
        spec = {"audiences": ["istio-ca"], "expirationSeconds": 600, "boundObjectRef": pod}
        path = f"/api/v1/namespaces/{TEAM}/serviceaccounts/default/token"
        token = json.loads(await one.request("POST", path, body=json.dumps({"spec": spec}).encode()))
        review = {"spec": {"token": token["status"]["token"], "audiences": ["istio-ca"]}}
        path, body = "/apis/authentication.k8s.io/v1/tokenreviews", json.dumps(review).encode()
        statuses = [json.loads(await each.request("POST", path, body=body))["status"] for each in (one, two)]

    assert statuses[0]["user"]["username"] == f"system:serviceaccount:{TEAM}:default"
    assert "authenticated" not in statuses[1]


async def test_what_is_refused_or_not_known_is_said_and_counted(tmp_path: Path) -> None:
    async with fleet(tmp_path) as clusters, session_of(tmp_path / "one-controller.kubeconfig") as session:
        await clusters.obey({"do": "refuse", "namespaces": [TEAM]})
        with pytest.raises(ClusterForbidden):
            await apply(session, "text")
        assert (await clusters.obey({"do": "written"}))["count"] == 0
        await clusters.obey({"do": "refuse", "namespaces": []})
        await apply(session, "text")
        assert (await clusters.obey({"do": "written"}))["count"] == 1
        with pytest.raises(ClusterNotFound):
            await session.get("/api/v1/nodes")
        assert await clusters.obey({"do": "unanswered"}) == {"GET /api/v1/nodes": 1}
        stolen = tmp_path / "two-controller.kubeconfig"
        stolen.write_text(
            stolen.read_text().replace(clusters.clusters[1].credentials["controller"], "another")
        )
        async with session_of(stolen) as stranger:
            with pytest.raises(ClusterUnauthorized):
                await stranger.get("/version")


def test_every_namespace_and_account_is_found_by_its_name() -> None:
    cluster = Cluster(1, "one", 3, 7, Counts())

    for collection in (cluster.namespaces, cluster.accounts, cluster.pods):
        items = [collection.item(number) for number in range(collection.count)]
        assert [collection.find(item.namespace, item.name) for item in items] == items
        assert len({item.uid for item in items}) == len(items)
    assert cluster.namespaces.count == 3 + len(SYSTEM)
    assert cluster.pods.find("team-0001", "web-6d4cf56db6-000000") is None
    assert cluster.namespaces.find("", "team-3") is None


@asynccontextmanager
async def served(handler: Any) -> AsyncIterator[int]:
    app = web.Application()
    app.router.add_get("/{path:.*}", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def test_a_stall_counts_for_every_question_that_was_due_in_it() -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text="{}")

    async with served(answer) as port:
        lag = Lag(port)
        lag.start()
        await asyncio.sleep(0.3)
        time.sleep(0.5)  # noqa: ASYNC251 - the loop stands still: that is what is measured
        await asyncio.sleep(0.2)
        await lag.end()

    assert lag.quantile(1.0) > 0.4
    assert sum(seconds > 0.1 for seconds in lag.seconds) >= 7


async def test_a_poll_counts_what_comes_and_says_what_the_page_has_already() -> None:
    async def answer(request: web.Request) -> web.Response:
        if request.headers.get("If-None-Match") == '"tag"':
            return web.Response(status=304, headers={"ETag": '"tag"'})
        return web.Response(body=bytes(50_000), headers={"ETag": '"tag"'})

    async with served(answer) as port:
        page = Page(port)
        assert 100_000 < await page.poll() < 101_000
        assert await page.poll() < 1000


async def test_a_real_hub_is_measured_from_its_start_to_a_changed_bundle(tmp_path: Path) -> None:
    """A step that fails keeps no other from being measured, and what was measured is in the file by then."""
    file, in_file = tmp_path / "lines.json", list[str]()

    async def fail() -> None:
        in_file.extend(line["name"] for line in json.loads(file.read_text())["lines"])
        raise RuntimeError("not green: c001 does not answer")

    report = Report(lambda _: None, {}, file)
    async with bench(report, tmp_path, Sizes(2, 2, 4), rest=1.0) as measured:
        measured.poll_every = 0.0
        change, refused = partial(measured.change, "another"), partial(measured.change_under_load, "third")
        await measured.go_through(
            (measured.start, fail, measured.report_size, change, refused, measured.unanswered)
        )

    assert "first publication" in in_file
    failed = [line for line in report.lines if line.verdict == "not measured"]
    assert [(line.name, line.note) for line in failed] == [
        ("what was not measured: fail", "not green: c001 does not answer")
    ]
    assert len(json.loads(file.read_text())["lines"]) == len(report.lines)
    values = {line.name: line.value or 0.0 for line in report.lines}
    assert measured.namespaces == 2 * (2 + 4), (
        "the teams', and of the system's those that Istio is not kept from"
    )
    assert values["first publication"] <= values["green: everything published and every pair proved"]
    assert values["CPU of the controller for that"] > 0
    assert values["descriptors of the controller"] > 2 * 5, "five watches of each cluster"
    assert values["bytes of a poll where something did"] > 1
    assert values["calls refused at a change of the bundle"] == 0
    assert values["CPU of the controller at rest, one namespace refused"] >= 0
    assert values["requests that the stand-in has no answer for"] == 0
    assert len(list(measured.table())) == 2 + len(measured.rows)


async def test_where_no_role_runs_what_was_measured_until_then_is_given(tmp_path: Path) -> None:
    async def measure() -> None:
        measured.row("before", 1.0)

    async def fail() -> None:
        raise RuntimeError("not green: c001 does not answer")

    report = Report(lambda _: None, {})
    async with bench(report, tmp_path, Sizes(1, 1, 1), rest=1.0) as measured:
        table = await measured.go_through((measure, fail, measured.restarts))

    assert table[-1] == "| before | 1 |"
    assert [(line.verdict, line.note) for line in report.lines] == [
        ("not measured", "not green: c001 does not answer")
    ]
