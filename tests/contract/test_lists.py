"""Lists: order, selectors, pages, consistency, metadata only."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from tests.contract.client import PARTIAL, PARTIAL_LIST, Api, config_map, eventually


async def fill(api: Api, maps: str, count: int = 5) -> list[str]:
    names = [f"m{index}" for index in range(count)]
    for index, name in enumerate(names):
        await api.make(
            maps, config_map(name, {"i": str(index)}, labels={"i": str(index), "even": str(index % 2 == 0)})
        )
    return names


def names_of(listed: dict[str, Any]) -> list[str]:
    return [item["metadata"]["name"] for item in listed["items"]]


async def test_a_list_is_sorted_and_dated(api: Api, maps: str) -> None:
    names = await fill(api, maps)
    listed = (await api.get(maps)).json
    assert (listed["kind"], listed["apiVersion"]) == ("ConfigMapList", "v1")
    assert names_of(listed) == names
    newest = max(int(item["metadata"]["resourceVersion"]) for item in listed["items"])
    assert int(listed["metadata"]["resourceVersion"]) >= newest


@pytest.mark.parametrize(
    ("selector", "wanted"),
    [
        ("i=1", ["m1"]),
        ("i==1", ["m1"]),
        ("i!=1", ["m0", "m2", "m3", "m4"]),
        ("i in (1,3)", ["m1", "m3"]),
        ("i notin (1, 3)", ["m0", "m2", "m4"]),
        ("i", ["m0", "m1", "m2", "m3", "m4"]),
        ("!i", []),
        ("even=True,i!=0", ["m2", "m4"]),
        ("none=", []),
        ("none!=x", ["m0", "m1", "m2", "m3", "m4"]),
    ],
)
async def test_label_selectors(api: Api, maps: str, selector: str, wanted: list[str]) -> None:
    await fill(api, maps)
    assert names_of((await api.get(maps, labelSelector=selector)).json) == wanted


async def test_field_selectors_on_name_and_namespace(api: Api, maps: str, namespace: str) -> None:
    await fill(api, maps)
    assert names_of((await api.get(maps, fieldSelector="metadata.name=m3")).json) == ["m3"]
    everywhere = "/api/v1/configmaps"
    both = f"metadata.name=m3,metadata.namespace={namespace}"
    assert names_of((await api.get(everywhere, fieldSelector=both)).json) == ["m3"]
    apart = f"metadata.namespace={namespace},metadata.name!=m3"
    assert names_of((await api.get(everywhere, fieldSelector=apart)).json) == ["m0", "m1", "m2", "m4"]


@pytest.mark.parametrize(
    "query",
    [
        {"fieldSelector": "spec.nope=x"},
        {"fieldSelector": "nonsense"},
        {"labelSelector": "a==="},
        {"labelSelector": "a in b"},
        {"continue": "garbage"},
        {"limit": "many"},
    ],
)
async def test_bad_parameters_are_bad_requests(api: Api, maps: str, query: dict[str, str]) -> None:
    refused = await api.get(maps, **query)
    assert (refused.status, refused.reason) == (400, "BadRequest")


async def test_pages_show_one_consistent_state(api: Api, maps: str) -> None:
    names = await fill(api, maps)
    page = (await api.get(maps, limit=2)).json
    assert names_of(page) == names[:2]
    assert page["metadata"]["remainingItemCount"] == 3
    first_version = page["metadata"]["resourceVersion"]

    await api.delete(f"{maps}/m3")
    await api.make(maps, config_map("m2a"))
    await api.patch(f"{maps}/m4", {"data": {"i": "changed"}})

    seen = names_of(page)
    while token := page["metadata"].get("continue"):
        page = (await api.get(maps, limit=2, **{"continue": token})).json
        assert page["metadata"]["resourceVersion"] == first_version
        seen += names_of(page)
    assert seen == names
    assert page["items"][-1]["data"] == {"i": "4"}


async def test_a_limit_that_is_not_reached_has_no_continuation(api: Api, maps: str) -> None:
    await fill(api, maps, 2)
    listed = (await api.get(maps, limit=2)).json
    assert "continue" not in listed["metadata"]
    assert names_of(listed) == ["m0", "m1"]


async def test_pages_and_selectors_go_together(api: Api, maps: str) -> None:
    await fill(api, maps)
    page = (await api.get(maps, limit=1, labelSelector="even=True")).json
    seen = names_of(page)
    while token := page["metadata"].get("continue"):
        page = (await api.get(maps, limit=1, labelSelector="even=True", **{"continue": token})).json
        seen += names_of(page)
    assert seen == ["m0", "m2", "m4"]


async def test_an_expired_page_is_gone_and_offers_an_inconsistent_rest(api: Api, maps: str) -> None:
    """The token of a page is opaque to clients; the test only makes it older than any server remembers."""
    await fill(api, maps)
    token = (await api.get(maps, limit=2)).json["metadata"]["continue"]
    inside = json.loads(base64.urlsafe_b64decode(token + "=="))
    old = base64.urlsafe_b64encode(json.dumps(inside | {"rv": 1}).encode()).rstrip(b"=").decode()
    gone = await api.get(maps, limit=2, **{"continue": old})
    assert (gone.status, gone.reason) == (410, "Expired")
    rest = await api.get(maps, **{"continue": gone.meta["continue"]})
    assert rest.status == 200
    assert names_of(rest.json) == ["m2", "m3", "m4"]


async def test_a_list_may_come_from_a_cache(api: Api, maps: str) -> None:
    await fill(api, maps, 2)
    listed = await api.get(maps, resourceVersion="0")
    assert listed.status == 200
    assert await eventually(lambda: _has(api, maps, ["m0", "m1"]))


async def _has(api: Api, maps: str, names: list[str]) -> bool:
    return names_of((await api.get(maps, resourceVersion="0")).json) == names


async def test_metadata_only_lists_and_objects(api: Api, maps: str) -> None:
    await fill(api, maps, 2)
    listed = (await api.get(maps, accept=PARTIAL_LIST)).json
    assert (listed["kind"], listed["apiVersion"]) == ("PartialObjectMetadataList", "meta.k8s.io/v1")
    assert names_of(listed) == ["m0", "m1"]
    assert all(set(item) <= {"kind", "apiVersion", "metadata"} for item in listed["items"])
    assert listed["items"][0]["kind"] == "PartialObjectMetadata"
    one = (await api.get(f"{maps}/m0", accept=PARTIAL)).json
    assert one["kind"] == "PartialObjectMetadata"
    assert one["metadata"] == listed["items"][0]["metadata"]


async def test_the_first_acceptable_representation_wins(api: Api, maps: str) -> None:
    await fill(api, maps, 1)
    both = f"{PARTIAL_LIST},application/json"
    assert (await api.get(maps, accept=both)).json["kind"] == "PartialObjectMetadataList"
    assert (await api.get(maps, accept="*/*")).json["kind"] == "ConfigMapList"


@pytest.mark.parametrize("accept", ["text/plain", "application/json;as=Nonsense;g=meta.k8s.io;v=v1"])
async def test_nothing_acceptable_is_406(api: Api, maps: str, accept: str) -> None:
    refused = await api.get(maps, accept=accept)
    assert refused.status == 406


async def test_one_object_is_no_list_and_the_reverse(api: Api, maps: str) -> None:
    await fill(api, maps, 1)
    assert (await api.get(maps, accept=PARTIAL)).status == 406
    assert (await api.get(f"{maps}/m0", accept=PARTIAL_LIST)).status == 406
