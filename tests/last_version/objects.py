"""The state in objects of a cluster, as the store writes them: each document a ConfigMap, leadership a Lease."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from federation.state.store import StateStore
from federation_sandbox.cluster import SandboxCluster
from tests.last_version.documents import STATE, read
from tests.state.places import Objects

FILE: Final = STATE / "objects.json"
NAMESPACE: Final = "federation-system"
NAMESPACES: Final = (NAMESPACE, f"{NAMESPACE}-signers")
LEADERSHIP: Final = "controller"
REPLICA: Final = "controller-0"


def documents() -> dict[str, bytes]:
    """Documents of the fixture, and one that is large enough to be compressed."""
    found = read("active")
    large = found["controllers/controller-0"]
    large |= {"replica": "controller-1", "warnings": [f"warning {number}" for number in range(500)]}
    every = {**read("active"), "controllers/controller-1": large}
    return {key: json.dumps(value, separators=(",", ":")).encode() for key, value in every.items()}


@asynccontextmanager
async def cluster(directory: Path) -> AsyncIterator[tuple[SandboxCluster, Objects]]:
    """A cluster for the state, and what opens stores there; what they draw is not random."""
    async with SandboxCluster("state", controllers=False) as box:
        for namespace in NAMESPACES:
            box.create_namespace(namespace)
        kubeconfig = box.write_kubeconfig(directory / "state.kubeconfig")
        yield box, Objects(kubeconfig, NAMESPACE, options={"random_bytes": lambda count: bytes(count)})


async def written(box: SandboxCluster, store: StateStore) -> dict[str, Any]:
    """The objects of these documents and of a leadership."""
    for key, data in documents().items():
        await store.write(key, data)
    async with store.lead(LEADERSHIP, identity=REPLICA):
        (lease,) = box.objects("leases", NAMESPACE)
    config_maps = {
        f"{namespace}/{item['metadata']['name']}": _plain(item)
        for namespace in NAMESPACES
        for item in box.objects("configmaps", namespace)
    }
    return {"configmaps": config_maps, "leases": {f"{NAMESPACE}/{lease['metadata']['name']}": _plain(lease)}}


def _plain(item: Mapping[str, Any]) -> dict[str, Any]:
    """An object without what its API server adds, and without the times of a Lease."""
    kept = {name: value for name, value in item.items() if name in {"data", "binaryData", "spec"}}
    metadata = {
        name: item["metadata"][name] for name in ("labels", "annotations") if name in item["metadata"]
    }
    if "spec" in kept:
        kept["spec"] = {name: value for name, value in kept["spec"].items() if not name.endswith("Time")}
    return {"metadata": metadata, **kept}
