"""The state that the last version keeps in objects of a cluster is read, and is written as that version reads it."""

from __future__ import annotations

import asyncio
import base64
import json
import zlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.last_version import objects


def last() -> Any:
    return json.loads(objects.FILE.read_text("utf-8"))


def inflated(item: dict[str, Any]) -> dict[str, Any]:
    """An object with what is compressed in it as it was: other builds of zlib find other, equal bytes."""
    binary = {
        name: zlib.decompress(base64.b64decode(value)) for name, value in item.get("binaryData", {}).items()
    }
    return {**item, "binaryData": binary}


async def test_the_objects_are_written_as_the_last_version_wrote_them(tmp_path: Path) -> None:
    async with objects.cluster(tmp_path) as (box, place), place.opened() as store:
        now = await objects.written(box, store)
    assert {where: inflated(item) for where, item in now["configmaps"].items()} == {
        where: inflated(item) for where, item in last()["configmaps"].items()
    }
    assert now["leases"] == last()["leases"]


async def test_the_objects_of_the_last_version_are_read(tmp_path: Path) -> None:
    async with objects.cluster(tmp_path) as (box, place), place.opened() as store:
        for where, item in last()["configmaps"].items():
            namespace, _, name = where.partition("/")
            metadata = item["metadata"] | {"name": name}
            box.create("configmaps", item | {"metadata": metadata}, namespace=namespace)
        documents = objects.documents()
        assert await store.keys("") == sorted(documents)
        for key, data in documents.items():
            stored = await store.read(key)
            assert stored is not None
            assert stored.data == data
    assert any("binaryData" in item for item in last()["configmaps"].values())


async def test_a_controller_of_the_last_version_that_leads_is_waited_for(tmp_path: Path) -> None:
    ((where, lease),) = last()["leases"].items()
    namespace, _, name = where.partition("/")
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    times = {"acquireTime": now, "renewTime": now, "leaseDurationSeconds": 3600}
    spec = lease["spec"] | times | {"holderIdentity": objects.REPLICA}
    async with objects.cluster(tmp_path) as (box, place), place.opened() as store:
        box.create(
            "leases", {"metadata": lease["metadata"] | {"name": name}, "spec": spec}, namespace=namespace
        )
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1), store.lead(objects.LEADERSHIP, identity="controller-1"):
                raise AssertionError("two lead")
        assert box.objects("leases", namespace)[0]["spec"]["holderIdentity"] == objects.REPLICA
