"""Clusters in a box as a process of their own, so that their CPU is not taken for the hub's.

`python -m tests.bench.members DIRECTORY NAMESPACES NICE NAME...` writes an administrator's kubeconfig for each
cluster and then does what lines of JSON on standard input say, answering each with a line. It ends when
standard input is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvloop

from federation_sandbox.apiserver.resources import CONFIG_MAPS
from federation_sandbox.cluster import SandboxCluster
from tests.bench.processes import allow_many_files


async def serve(directory: Path, namespaces: int, names: list[str]) -> None:
    async with contextlib.AsyncExitStack() as stack:
        clusters: dict[str, SandboxCluster] = {}
        for name in names:
            cluster = clusters[name] = await stack.enter_async_context(SandboxCluster(name))
            cluster.write_kubeconfig(directory / f"{name}-admin.kubeconfig")
            for number in range(namespaces):
                cluster.create_namespace(f"team-{number:04}")
        await obey_lines(lambda order: obey(clusters[order["cluster"]], order["do"]), ready=len(clusters))


async def obey_lines(do: Callable[[dict[str, Any]], Awaitable[Any]], *, ready: int) -> None:
    """Say how many clusters are ready, then answer each line of JSON on standard input with one, until it ends."""
    print(json.dumps({"ready": ready}), flush=True)
    lines = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        print(json.dumps({"answer": await do(json.loads(line))}), flush=True)


async def obey(cluster: SandboxCluster, order: str) -> Any:
    match order:
        case "down":
            await cluster.down()
        case "up":
            await cluster.up()
        case "reset":
            cluster.requests.reset()
        case "writes":
            return cluster.requests.writes
        case "listed":
            return cluster.requests.count(verb="list", resource="configmaps")
        case "patched":
            done = (cluster.requests.count(verb="patch", resource="configmaps", status=s) for s in (200, 201))
            return sum(done)
        case "contents":
            found = cluster.store.all(CONFIG_MAPS, "")
            return Counter(
                item.value["data"]["root-cert.pem"] for item in found if item.name == "istio-ca-root-cert"
            ).most_common(1)
        case _:
            raise ValueError(order)
    return None


if __name__ == "__main__":
    allow_many_files()
    os.nice(int(sys.argv[3]))
    uvloop.run(serve(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[4:]))
