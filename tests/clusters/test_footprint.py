"""What the copy of a big cluster costs: measured beside the client library's models of the same objects."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from typing import Any

from kubernetes_asyncio.client import ApiClient, Configuration

from federation.kubernetes.objects import ObjectKey, decode_metadata, metadata_decoder

COUNT = 500


def namespace(number: int) -> dict[str, Any]:
    """A namespace as a real API server lists it."""
    name = f"team-{number:05d}"
    return {
        "metadata": {
            "name": name,
            "uid": f"5f4c{number:04d}-7a3e-4a3c-9b58-2f6f0f6a{number:04d}",
            "resourceVersion": str(880_000 + number),
            "creationTimestamp": "2026-03-01T09:00:00Z",
            "labels": {"kubernetes.io/metadata.name": name, "istio-injection": "enabled"},
            "managedFields": [
                {
                    "manager": "kubectl-create",
                    "operation": "Update",
                    "apiVersion": "v1",
                    "time": "2026-03-01T09:00:00Z",
                    "fieldsType": "FieldsV1",
                    "fieldsV1": {"f:metadata": {"f:labels": {".": {}, "f:kubernetes.io/metadata.name": {}}}},
                }
            ],
        },
        "spec": {"finalizers": ["kubernetes"]},
        "status": {"phase": "Active"},
    }


def bytes_each(make: Callable[[], object]) -> float:
    """Bytes that what ``make`` returns holds on to, for each of COUNT objects."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    kept = make()
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert kept
    return (after - before) / COUNT


class _Answer:
    def __init__(self, data: str) -> None:
        self.data = data


async def test_a_cached_namespace_takes_at_most_a_seventh_of_the_librarys_model() -> None:
    raw = [json.dumps(namespace(number)).encode() for number in range(COUNT)]
    listed = json.dumps(
        {"kind": "NamespaceList", "metadata": {}, "items": [namespace(n) for n in range(COUNT)]}
    )

    def ours() -> dict[ObjectKey, object]:
        return {item.key: item.value for item in map(decode_metadata, raw)}

    def with_labels() -> dict[ObjectKey, object]:
        decode = metadata_decoder(["istio-injection"])
        return {item.key: item.value for item in map(decode, raw)}

    async with ApiClient(type.__call__(Configuration)) as client:

        def models() -> object:
            return client.deserialize(_Answer(listed), "V1NamespaceList")

        models()  # imports and caches are not the objects' own
        theirs = bytes_each(models)
    assert bytes_each(ours) * 7 <= theirs
    assert bytes_each(with_labels) * 7 <= theirs
    assert bytes_each(ours) < 700
