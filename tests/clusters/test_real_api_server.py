"""The edge against real API servers, where FEDERATION_REAL_KUBECONFIGS names their kubeconfigs."""

from __future__ import annotations

import json
import os
import random
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from federation.clusters.preflight import check_cluster
from federation.core.config.clusters import ClusterConfig, ClusterTimeouts, Credentials
from federation.core.config.load import parse_config
from federation.core.errors import ClusterNotFound
from federation.core.identity import ClusterId, ClusterName
from federation.kubernetes.objects import METADATA_ONLY, ObjectKey, ObjectMeta, decode_metadata, decode_pod
from federation.kubernetes.reflector import Reflector
from federation.kubernetes.session import ClusterSession
from federation.runtime.clock import SystemClock
from federation.signer.attestation.bound_objects import NOT_ENDED, PODS_PATH
from tests.clusters.test_preflight import config_text
from tests.support.clusters import connected, eventually, running

KUBECONFIGS = [path for path in os.environ.get("FEDERATION_REAL_KUBECONFIGS", "").split(":") if path]
NAMESPACES = "/api/v1/namespaces"

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not KUBECONFIGS, reason="FEDERATION_REAL_KUBECONFIGS names no kubeconfig"),
]


@pytest.fixture(params=KUBECONFIGS[:1])
async def session(request: pytest.FixtureRequest) -> AsyncIterator[ClusterSession]:
    async with connected(Path(request.param), timeouts=ClusterTimeouts()) as session:
        yield session


def reflector(session: ClusterSession, path: str, timeouts: ClusterTimeouts) -> Reflector[ObjectMeta]:
    return Reflector(
        session,
        path,
        decode=decode_metadata,
        accept=METADATA_ONLY,
        timeouts=timeouts,
        clock=SystemClock(),
        jitter=random.Random(1),
    )


async def config_map(session: ClusterSession, name: str, method: str) -> None:
    path = f"{NAMESPACES}/default/configmaps"
    if method == "DELETE":
        await session.request("DELETE", f"{path}/{name}")
        return
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "b"}}
    await session.request("POST", path, body=json.dumps(body).encode())


async def test_a_copy_follows_over_the_ends_of_its_watches(session: ClusterSession) -> None:
    name = f"federation-{uuid.uuid4().hex[:12]}"
    key = ObjectKey("default", name)
    timeouts = ClusterTimeouts(watch=1.0, backoff_first=0.05, backoff_longest=0.2)
    copy = reflector(session, "/api/v1/configmaps", timeouts)
    async with running(copy.run()):
        await copy.wait_synced(10)
        for _ in range(3):
            await config_map(session, name, "POST")
            await eventually(lambda: key in copy.items)
            await config_map(session, name, "DELETE")
            await eventually(lambda: key not in copy.items)
    assert copy.problem is None


async def test_a_quiet_collection_is_silent_and_still_fresh(session: ClusterSession) -> None:
    timeouts = ClusterTimeouts(watch_silence=0.5, backoff_first=0.05)
    copy = reflector(session, "/apis/node.k8s.io/v1/runtimeclasses", timeouts)
    async with running(copy.run()):
        await eventually(lambda: copy.fresh)
        last_seen = copy.last_seen
        await eventually(lambda: copy.last_seen > last_seen + 1.0 and copy.fresh)
        assert copy.problem is None


async def test_what_is_not_there_is_not_found(session: ClusterSession) -> None:
    with pytest.raises(ClusterNotFound, match=r"federation-nowhere.* not found"):
        await session.get(f"{NAMESPACES}/federation-nowhere")
    assert abs(session.clock_skew) < 5


async def test_preflight_of_an_administrator(session: ClusterSession) -> None:
    admin = Credentials(kubeconfig=Path(KUBECONFIGS[0]))
    config = ClusterConfig(
        name=ClusterName("east"), cluster_id=ClusterId("east"), signer=admin, controller=admin
    )
    hub = parse_config(config_text(), file="clusters.toml")
    results = await check_cluster(config, hub, clock=SystemClock())
    ok = {(result.role, result.check) for result in results if result.outcome == "ok"}
    assert {("signer", "token_keys"), ("signer", "issuer"), ("controller", "version")} <= ok
    assert {result.check for result in results if result.outcome == "warning"} >= {"excess_permissions"}


async def test_of_pods_only_those_that_have_not_ended_are_watched_with_what_istio_marked(
    session: ClusterSession,
) -> None:
    namespace = f"hub-{uuid.uuid4().hex[:8]}"
    pods = f"/api/v1/namespaces/{namespace}/pods"

    async def create(name: str, annotations: dict[str, str]) -> None:
        spec = {"containers": [{"name": "app", "image": "app"}]}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "annotations": annotations}}
        await session.request("POST", pods, body=json.dumps(pod | {"spec": spec}).encode())

    await session.request("POST", NAMESPACES, body=json.dumps({"metadata": {"name": namespace}}).encode())
    reflector = Reflector(
        session,
        PODS_PATH,
        decode=decode_pod,
        accept=METADATA_ONLY,
        field_selector=NOT_ENDED,
        timeouts=ClusterTimeouts(),
        clock=SystemClock(),
        jitter=random.Random(1),
    )
    try:
        async with running(reflector.run()):
            await reflector.wait_synced(10)
            await create("proxied", {"sidecar.istio.io/status": "{}", "other": "x" * 1000})
            await create("job", {"ambient.istio.io/redirection": "enabled"})
            keys = {name: ObjectKey(namespace, name) for name in ("proxied", "job")}
            await eventually(lambda: set(keys.values()) <= set(reflector.items))
            found = {name: reflector.items[key] for name, key in keys.items()}
            assert (found["proxied"].sidecar, found["proxied"].ambient) == (True, False)
            assert (found["job"].sidecar, found["job"].ambient) == (False, True)
            assert found["job"].created > 1.7e9
            await session.request(
                "PATCH",
                f"{pods}/job/status",
                body=json.dumps({"status": {"phase": "Succeeded"}}).encode(),
                content_type="application/merge-patch+json",
            )
            await eventually(lambda: keys["job"] not in reflector.items)
            assert keys["proxied"] in reflector.items
    finally:
        await session.request("DELETE", f"{NAMESPACES}/{namespace}")
