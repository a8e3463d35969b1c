"""What the signer asks a cluster about pods and nodes: how often, for how long it counts, and what it survives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from federation.core.config.clusters import ClusterTimeouts, Credentials
from federation.core.errors import (
    ClusterError,
    ClusterForbidden,
    ClusterGarbage,
    ClusterTimeout,
    NotReady,
    Overloaded,
)
from federation.core.identity import ClusterName, NodeName, ServiceAccountRef
from federation.kubernetes.session import ClusterSession
from federation.runtime.clock import SystemClock
from federation.signer.attestation import node_pods
from federation.signer.attestation.node_pods import MEMORY, PROBLEM_LASTS, NodePods
from federation_sandbox.apiserver.faults import Answer as Status
from federation_sandbox.apiserver.faults import Delay, Effect, Fault, Garbage, Hang
from federation_sandbox.cluster import SandboxCluster
from tests.signer.running_signer import eventually
from tests.support.clock import VirtualClock
from tests.support.patience import PATIENCE

CART = ServiceAccountRef("shop", "cart")
NODE = NodeName("node-1")


class _Now(VirtualClock):
    """Does not advance: it stays at the time of the cluster that dates the pods."""

    def __init__(self) -> None:
        super().__init__(SystemClock().now())


@asynccontextmanager
async def asking(
    directory: Path, *, limit: float = 5.0
) -> AsyncIterator[tuple[NodePods, SandboxCluster, VirtualClock]]:
    clock = _Now()
    async with SandboxCluster("east") as box:
        box.create_namespace("shop")
        box.create_service_account("shop", "cart")
        session = await ClusterSession.open(
            Credentials(kubeconfig=box.write_kubeconfig(directory / "kubeconfig")),
            cluster=ClusterName("east"),
            timeouts=ClusterTimeouts(),
            clock=clock,
        )
        async with session:
            pods = NodePods(session, limit=limit, clock=clock)
            try:
                yield pods, box, clock
            finally:
                await pods.close()


def lists_get(box: SandboxCluster, effect: Effect) -> Fault:
    """What becomes of every list of pods from now on."""
    return box.faults.inject(effect, verb="list", resource="pods")


def asked(box: SandboxCluster) -> int:
    return box.requests.count(verb="list", resource="pods")


async def test_pods_that_are_there_are_remembered_for_some_seconds(tmp_path: Path) -> None:
    async with asking(tmp_path) as (pods, box, clock):
        box.create_pod("shop", "cart-0", "cart")
        assert await pods.runs(NODE, CART)
        box.delete("pods", "shop", "cart-0")
        await clock.advance(MEMORY - 0.1)
        assert await pods.runs(NODE, CART)
        assert asked(box) == 1
        await clock.advance(0.2)
        assert not await pods.runs(NODE, CART)
        assert asked(box) == 2


async def test_that_there_is_none_is_not_remembered(tmp_path: Path) -> None:
    async with asking(tmp_path) as (pods, box, _):
        assert not await pods.runs(NODE, CART)
        box.create_pod("shop", "cart-0", "cart")
        assert await pods.runs(NODE, CART)


async def test_answers_are_for_the_exact_node_and_account(tmp_path: Path) -> None:
    async with asking(tmp_path) as (pods, box, _):
        box.create_pod("shop", "cart-0", "cart")
        assert await pods.runs(NODE, CART)
        for node, account in (
            (NodeName("node-10"), CART),
            (NODE, ServiceAccountRef("shop", "car")),
            (NODE, ServiceAccountRef("default", "cart")),
        ):
            assert not await pods.runs(node, account)


async def test_a_remembered_answer_is_for_the_exact_pod(tmp_path: Path) -> None:
    async with asking(tmp_path) as (pods, box, _):
        first = box.create_pod("shop", "cart-0", "cart")["metadata"]["uid"]
        assert await pods.runs(NODE, CART, uid=first)
        assert not await pods.runs(NODE, CART, uid="another")
        second = box.create_pod("shop", "cart-1", "cart")["metadata"]["uid"]
        assert await pods.runs(NODE, CART, uid=second)
        assert await pods.runs(NODE, CART, uid=first)
        assert asked(box) == 3


async def test_equal_questions_share_one_answer(tmp_path: Path) -> None:
    async with asking(tmp_path) as (pods, box, _):
        with lists_get(box, Delay(0.2)):
            answers = await asyncio.gather(*(pods.runs(NODE, CART) for _ in range(20)))
        assert answers == [False] * 20
        assert asked(box) == 1


async def test_a_cancelled_caller_does_not_cancel_the_shared_answer(tmp_path: Path) -> None:
    async with asking(tmp_path) as (pods, box, _):
        box.create_pod("shop", "cart-0", "cart")
        with lists_get(box, Delay(0.3)):
            first = asyncio.create_task(pods.runs(NODE, CART))
            await asyncio.sleep(0.05)
            second = asyncio.create_task(pods.runs(NODE, CART))
            await asyncio.sleep(0.05)
            first.cancel()
            assert await second
        assert first.cancelled()
        assert asked(box) == 1


async def test_a_cluster_that_hangs_is_given_up_and_its_queue_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_pods, "MOST_WAITING", 6)
    async with asking(tmp_path, limit=0.5) as (pods, box, _):
        with lists_get(box, Hang()):
            waiting = [
                asyncio.create_task(pods.runs(NODE, ServiceAccountRef("shop", f"a{index}")))
                for index in range(6)
            ]
            await asyncio.sleep(0.1)
            with pytest.raises(Overloaded):
                await pods.runs(NODE, CART)
            found = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(one) for one in found} == {ClusterTimeout}, "those that waited for their turn as well"
        async with asyncio.timeout(PATIENCE):
            while (answer := await found_in_time(pods)) is None:
                pass
        assert not answer


async def found_in_time(pods: NodePods) -> bool | None:
    """None where a busy machine had no answer within the limit."""
    try:
        return await pods.runs(NODE, CART)
    except ClusterTimeout:
        return None


async def test_what_is_under_way_ends_with_the_connection(tmp_path: Path) -> None:
    async with asking(tmp_path) as (pods, box, _):
        with lists_get(box, Hang()) as lists:
            waiting = asyncio.create_task(pods.runs(NODE, CART))
            await eventually(lambda: lists.hits == 1)
            await pods.close()
            with pytest.raises(NotReady):
                await waiting


async def test_a_failure_is_the_problem_until_it_is_mended_or_long_ago(tmp_path: Path) -> None:
    async with asking(tmp_path) as (pods, box, clock):
        with lists_get(box, Status.forbidden()), pytest.raises(ClusterForbidden):
            await pods.runs(NODE, CART)
        assert _problem(pods) == "forbidden"
        await pods.runs(NODE, CART)
        assert _problem(pods) == ""
        with lists_get(box, Status.server_error()), pytest.raises(ClusterError):
            await pods.runs(NODE, CART)
        assert _problem(pods) == "server_error"
        await clock.advance(PROBLEM_LASTS + 1)
        assert _problem(pods) == "", "no call needs it any more: ambient was turned off"


def _problem(pods: NodePods) -> str:
    return pods.problem.reason if pods.problem is not None else ""


META = '{"name":"cart-0","namespace":"shop","uid":"u","resourceVersion":"1"}'
GARBAGE = [
    "",
    "null",
    "[]",
    "{}",
    '{"kind":"PartialObjectMetadataList"}',
    '{"kind":"PodList","metadata":{"resourceVersion":"1"},"items":[{"metadata":' + META + "}]}",
    '{"kind":"Status","metadata":{"resourceVersion":"1"},"items":[]}',
    '{"kind":"PartialObjectMetadataList","metadata":{"resourceVersion":"1"},"items":[{}]}',
    '{"kind":"PartialObjectMetadataList","metadata":{"resourceVersion":"1"},"items":[7]}',
    '{"kind":"PartialObjectMetadataList","metadata":{"resourceVersion":"1"},"items":[{"metadata":'
    + META.replace("shop", "bank")
    + "}]}",
    '{"kind":"PartialObjectMetadataList","metadata":' + "[" * 5000,
]


async def test_anything_but_a_list_of_metadata_is_garbage(tmp_path: Path) -> None:
    async with asking(tmp_path) as (pods, box, _):
        for body in GARBAGE:
            with lists_get(box, json_body(body)), pytest.raises(ClusterGarbage):
                await pods.runs(NODE, CART)
        assert not await pods.runs(NODE, CART)


def json_body(body: str) -> Garbage:
    return Garbage(code=200, content_type="application/json", body=body.encode())


async def test_the_node_of_a_pod_by_its_uid(tmp_path: Path) -> None:
    async with asking(tmp_path) as (pods, box, _):
        uid = box.create_pod("shop", "cart-0", "cart", node="node-7")["metadata"]["uid"]
        assert await pods.node_of("shop", "cart-0", uid) == NodeName("node-7")
        assert await pods.node_of("shop", "cart-0", "another") is None
        assert await pods.node_of("shop", "cart-1", uid) is None
        assert await pods.node_of("bank", "cart-0", uid) is None
        box.create_pod("shop", "cart-2", "cart", node="")
        unscheduled = box.get("pods", "shop", "cart-2")
        assert unscheduled is not None
        assert await pods.node_of("shop", "cart-2", unscheduled["metadata"]["uid"]) is None
        box.set_pod_phase("shop", "cart-0", "Failed")
        assert await pods.node_of("shop", "cart-0", uid) is None
        before = asked(box)
        assert await pods.node_of("shop", "cart-0,spec.nodeName=x", uid) is None
        assert asked(box) == before, "no text that is no name reaches a selector"


async def test_anything_but_a_pod_is_garbage(tmp_path: Path) -> None:
    async with asking(tmp_path) as (pods, box, _):
        for body in (
            "{}",
            '{"kind":"PodList","items":[{}]}',
            '{"kind":"PodList","items":[{"metadata":{"uid":"u"}}]}',
            '{"kind":"PodList","items":[{"metadata":{"uid":"u"},"spec":{"nodeName":"a,b"}}]}',
            '{"kind":"PartialObjectMetadataList","items":[]}',
        ):
            with lists_get(box, json_body(body)), pytest.raises(ClusterGarbage):
                await pods.node_of("shop", "cart-0", "u")
