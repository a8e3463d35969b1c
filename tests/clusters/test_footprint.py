"""What the copy of a big cluster costs: measured beside the client library's models of the same objects."""

from __future__ import annotations

import json
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any
from uuid import UUID

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from kubernetes_asyncio.client import ApiClient, Configuration

from federation.kubernetes.objects import (
    ObjectKey,
    ObjectMeta,
    PodMeta,
    decode_metadata,
    decode_pod,
    metadata_decoder,
    pack_uid,
)
from federation.kubernetes.packed import PackedObjects

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


@given(st.one_of(st.uuids().map(str), st.uuids().map(lambda u: str(u).upper()), st.text(max_size=40)))
def test_a_uid_is_kept_packed_and_read_as_it_was(uid: str) -> None:
    meta = ObjectMeta("shop", "cart-0", pack_uid(uid))
    assert meta.uid == uid
    assert (sys.getsizeof(meta.packed_uid) < 50) >= (len(uid) == 36 and uid == str_of_uuid(uid))


def str_of_uuid(text: str) -> str:
    try:
        return str(UUID(text))
    except ValueError:
        return ""


@given(st.text("0123456789abcdefABCDEF-{}", max_size=38), st.text("0123456789abcdefABCDEF-{}", max_size=38))
def test_only_the_same_uid_is_equal(one: str, other: str) -> None:
    assert (pack_uid(one) == pack_uid(other)) == (one == other)


def test_a_cached_pod_takes_little_since_a_signer_keeps_every_one() -> None:
    raw = [
        msgspec.json.encode(
            {
                "metadata": {
                    "name": f"reviews-v1-{number:010x}-{number % 97:05x}",
                    "namespace": f"team-{number % 10}",
                    "uid": str(UUID(int=number)),
                    "resourceVersion": str(880_000 + number),
                    "creationTimestamp": "2026-03-01T09:00:00Z",
                }
            }
        )
        for number in range(COUNT)
    ]
    decode_pod(raw[0])

    def kept() -> object:
        pods = PackedObjects(PodMeta)
        for item in map(decode_pod, raw):
            pods[item.key] = item.value
        return pods

    assert bytes_each(kept) < 130
