"""What a member cluster that is hostile, or was broken into, can do to a hub: for tests and attack runs.

::

    publish_keys_of(victim, on=hostile)                      # its public keys in the hostile one's key set
    hostile.faults.inject(giant_page("PodList", 400_000), verb="list", resource="pods")
    async with churning(hostile, "shop", "istio-ca-root-cert", lambda number: f"{roots}{number}"): ...
"""

from __future__ import annotations

import asyncio
import itertools
import json
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

from federation.core.pki.development import create_root, generate_key
from federation.core.pki.keys import KeyKind
from federation_sandbox.apiserver.faults import Garbage
from federation_sandbox.cluster import SandboxCluster


def publish_keys_of(victim: SandboxCluster, *, on: SandboxCluster) -> None:
    """Have ``on`` publish the victim's token keys among its own, under the same key IDs."""
    known = {key.key_id for key in on.keys.keys}
    on.keys.keys.extend(key for key in victim.keys.keys if key.key_id not in known)


def giant_page(kind: str, items: int, *, padding: int = 0) -> Garbage:
    """A list page of so many objects, whatever ``limit`` asked for; ``padding`` bytes of annotation in each."""
    pad = "x" * padding
    objects = (
        json.dumps(
            {
                "metadata": {
                    "name": f"p{number}",
                    "namespace": "flood",
                    "uid": f"u{number}",
                    "resourceVersion": "1",
                    **({"annotations": {"flood": pad}} if pad else {}),
                }
            }
        )
        for number in range(items)
    )
    head = f'{{"kind":"{kind}","apiVersion":"v1","metadata":{{"resourceVersion":"1"}},"items":['
    body = (head + ",".join(objects) + "]}").encode()
    return Garbage(code=200, content_type="application/json", body=body)


def roots_pem(count: int, *, at: datetime, prefix: str = "rogue") -> str:
    """So many self-signed roots, each with its own key, in one PEM text."""
    made: list[str] = []
    for number in range(count):
        root = create_root(
            common_name=f"{prefix} {number}",
            key=generate_key(KeyKind.EC_P256),
            serial=secrets.randbits(120) + 1,
            not_before=at - timedelta(hours=1),
            not_after=at + timedelta(days=365),
        )
        made.append(root.pem.decode())
    return "".join(made)


@asynccontextmanager
async def churning(
    cluster: SandboxCluster,
    namespace: str,
    name: str,
    contents: Callable[[int], str] | Sequence[str],
    *,
    rate: float = 10.0,
) -> AsyncIterator[None]:
    """While the context is open a tenant writes one ConfigMap so many times a second.

    ``contents`` are written in turn, or made for each time.
    """
    if cluster.config_map(namespace, name) is None:
        cluster.create("configmaps", {"metadata": {"name": name}, "data": {}}, namespace=namespace)

    async def churn() -> None:
        for number in itertools.count():
            content = contents(number) if callable(contents) else contents[number % len(contents)]
            change = {"data": {"root-cert.pem": content}}
            cluster.patch("configmaps", namespace, name, change, manager="tenant")
            await asyncio.sleep(1 / rate)

    task = asyncio.create_task(churn(), name=f"churn in {cluster.name}")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
