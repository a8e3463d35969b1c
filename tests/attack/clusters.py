"""Member clusters in a box as a process of their own, honest ones or a hostile one.

`python -m tests.attack.clusters DIRECTORY NICE NAME...` writes an administrator's kubeconfig for each cluster and then
does what lines of JSON on standard input say, answering each with a line. It ends when standard input is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import uvloop

from federation.runtime.clock import SystemClock
from federation_sandbox.apiserver.faults import Garbage
from federation_sandbox.box import ROOT_CONFIG_MAP
from federation_sandbox.cluster import SandboxCluster
from federation_sandbox.hostile import churning, giant_page, roots_pem
from tests.bench.processes import allow_many_files, yield_cores

REPAIR_LIMIT = 60.0
KEYS_PATH = "/openid/v1/jwks"
TENANT = "tenant"
ROOTS = 46  # fit into a ConfigMap's 1 MiB many times over, and into one namespace's limits once
PAGE = 400_000  # objects; about 30 MiB
GIANT: dict[int, Garbage] = {}


class Clusters:
    """The orders that the clusters carry out. An attack lasts from its order until ``calm``."""

    def __init__(self, clusters: Mapping[str, SandboxCluster]) -> None:
        self._clusters = clusters
        self._attack = contextlib.AsyncExitStack()
        self._prepared: list[str] = []

    async def obey(self, order: Mapping[str, Any]) -> Any:
        do: Callable[..., Awaitable[Any]] = getattr(self, f"do_{order['do']}")
        return await do(self._clusters[order["cluster"]], **order.get("arguments", {}))

    async def do_tokens(self, cluster: SandboxCluster, *, count: int, namespace: str) -> list[str]:
        """Tokens of ``count`` pods of one service account."""
        if cluster.get("namespaces", "", namespace) is None:
            cluster.create_namespace(namespace)
        cluster.create_service_account(namespace, "caller")
        for number in range(count):
            cluster.create_pod(namespace, f"caller-{number}", "caller")
        return [cluster.token(namespace, "caller", pod=f"caller-{number}") for number in range(count)]

    async def do_keys(self, cluster: SandboxCluster) -> Any:
        return cluster.keys.jwks()

    async def do_reviews(self, cluster: SandboxCluster) -> int:
        """How many TokenReviews its API server has received."""
        return cluster.requests.count(verb="create", resource="tokenreviews")

    async def do_spread(self, cluster: SandboxCluster, *, namespaces: int) -> None:
        """Create the namespaces whose bundle is edited, each once: the hub backs off where one is edited repeatedly."""
        for number in range(namespaces):
            cluster.create_namespace(f"edited-{number:03}")

    async def do_repair(self, cluster: SandboxCluster, *, namespace: str) -> float:
        """Seconds from an edit of the bundle in a namespace until it is as it was."""
        found = cluster.config_map(namespace, ROOT_CONFIG_MAP)
        assert found is not None
        good = found["data"]["root-cert.pem"]
        began = time.monotonic()
        cluster.patch("configmaps", namespace, ROOT_CONFIG_MAP, {"data": {"root-cert.pem": "edited"}})
        while time.monotonic() - began < REPAIR_LIMIT:
            now = cluster.config_map(namespace, ROOT_CONFIG_MAP)
            if now is not None and now.get("data", {}).get("root-cert.pem") == good:
                break
            await asyncio.sleep(0.02)
        return time.monotonic() - began

    async def do_reconnect(self, cluster: SandboxCluster, *, every: float) -> None:
        """Cut every connection again and again."""

        async def cut() -> None:
            while True:
                cluster.cut_connections()
                await asyncio.sleep(every)

        self._run(cut())

    async def do_poison(self, cluster: SandboxCluster, *, keys: dict[str, Any]) -> None:
        """Publish another cluster's keys among its own."""
        body = json.dumps({"keys": [*cluster.keys.jwks()["keys"], *keys["keys"]]}).encode()
        page = Garbage(code=200, content_type="application/jwk-set+json", body=body)
        self._attack.enter_context(cluster.faults.inject(page, path=KEYS_PATH))

    async def do_prepare_pages(self, cluster: SandboxCluster) -> None:
        GIANT.setdefault(PAGE, giant_page("PartialObjectMetadataList", PAGE))

    async def do_pages(self, cluster: SandboxCluster) -> None:
        """Answer every list with a page of 30 MiB, and have the hub list again and again."""
        for resource in ("pods", "serviceaccounts", "namespaces", "configmaps"):
            self._attack.enter_context(cluster.faults.inject(GIANT[PAGE], verb="list", resource=resource))

        async def end() -> None:
            while True:
                cluster.end_watches()
                await asyncio.sleep(1.0)

        self._run(end())

    async def do_prepare_churn(self, cluster: SandboxCluster) -> None:
        if cluster.get("namespaces", "", TENANT) is None:
            cluster.create_namespace(TENANT)
        now = SystemClock().now()
        self._prepared = [roots_pem(ROOTS, at=now, prefix=f"churn {n}") for n in range(4)]

    async def do_churn(self, cluster: SandboxCluster) -> None:
        """One tenant writes many certificates into one ConfigMap ten times a second."""
        await self._attack.enter_async_context(churning(cluster, TENANT, ROOT_CONFIG_MAP, self._prepared))

    async def do_prepare_join(self, cluster: SandboxCluster, *, namespaces: int) -> None:
        now = SystemClock().now()
        self._prepared = []
        for number in range(namespaces):
            self._prepared.append(roots_pem(ROOTS, at=now, prefix=f"join {number}"))
            await asyncio.sleep(0)

    async def do_join(self, cluster: SandboxCluster) -> None:
        """Create the prepared namespaces, each with :data:`ROOTS` roots of its own."""

        async def join() -> None:
            for number, pem in enumerate(self._prepared):
                name = f"join-{number:03}"
                cluster.create_namespace(name)
                cluster.create(
                    "configmaps",
                    {"metadata": {"name": ROOT_CONFIG_MAP}, "data": {"root-cert.pem": pem}},
                    namespace=name,
                )
                await asyncio.sleep(0)

        self._run(join())

    async def do_calm(self, cluster: SandboxCluster) -> None:
        """End the attack and remove what it left."""
        await self._attack.aclose()
        for item in cluster.objects("namespaces"):
            if item["metadata"]["name"].startswith("join-"):
                cluster.delete("namespaces", "", item["metadata"]["name"])
        cluster.end_watches()

    def _run(self, work: Any) -> None:
        task = asyncio.create_task(work)

        async def end() -> None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        self._attack.push_async_callback(end)


async def serve(directory: Path, names: list[str]) -> None:
    async with contextlib.AsyncExitStack() as stack:
        clusters = {name: await stack.enter_async_context(SandboxCluster(name)) for name in names}
        for name, cluster in clusters.items():
            cluster.write_kubeconfig(directory / f"{name}-admin.kubeconfig")
        print(json.dumps({"ready": len(clusters)}), flush=True)
        asked = Clusters(clusters)
        lines = asyncio.StreamReader(limit=2**24)
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
        while line := await lines.readline():
            print(json.dumps({"answer": await asked.obey(json.loads(line))}), flush=True)


if __name__ == "__main__":
    allow_many_files()
    if int(sys.argv[2]):
        yield_cores(int(sys.argv[2]))
    uvloop.run(serve(Path(sys.argv[1]), sys.argv[3:]))
