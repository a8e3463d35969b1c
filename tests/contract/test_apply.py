"""Apply: ownership, conflicts, force, removal of what is no longer named, no write where nothing changed; patches."""

from __future__ import annotations

from typing import Any

from tests.contract.client import APPLY, JSON_PATCH, MERGE, STRATEGIC, Api, Response, config_map, pod


def owners(obj: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (entry["manager"], entry["operation"]): entry["fieldsV1"]
        for entry in obj["metadata"]["managedFields"]
    }


async def applied(api: Api, path: str, body: Any, manager: str = "hub", **options: Any) -> Response:
    response = await api.apply(path, body, manager, **options)
    assert response.status in {200, 201}, response.raw
    return response


async def test_apply_creates_what_is_not_there(api: Api, maps: str) -> None:
    made = await api.apply(f"{maps}/one", config_map("one", {"k": "v"}, labels={"a": "b"}))
    assert made.status == 201
    assert made.json["data"] == {"k": "v"}
    entry = made.meta["managedFields"][0]
    assert (entry["manager"], entry["operation"], entry["apiVersion"]) == ("hub", "Apply", "v1")
    assert entry["fieldsType"] == "FieldsV1"
    assert entry["fieldsV1"] == {"f:data": {"f:k": {}}, "f:metadata": {"f:labels": {"f:a": {}}}}


async def test_applying_the_same_again_is_no_write(api: Api, maps: str) -> None:
    first = await applied(api, f"{maps}/one", config_map("one", {"k": "v"}, labels={"a": "b"}))
    again = await api.apply(f"{maps}/one", config_map("one", {"k": "v"}, labels={"a": "b"}), force=True)
    assert again.status == 200
    assert again.json == first.json


async def test_apply_takes_yaml(api: Api, maps: str) -> None:
    made = await api.apply(
        f"{maps}/one", b"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: one\ndata:\n  k: v\n"
    )
    assert (made.status, made.json["data"]) == (201, {"k": "v"})


async def test_what_others_wrote_conflicts(api: Api, maps: str) -> None:
    await applied(api, f"{maps}/one", config_map("one", {"k": "v", "l": "v"}))
    edited = await api.patch(f"{maps}/one", {"data": {"k": "w"}}, fieldManager="edit")
    assert owners(edited.json) == {
        ("hub", "Apply"): {"f:data": {"f:l": {}}},
        ("edit", "Update"): {"f:data": {"f:k": {}}},
    }
    refused = await api.apply(f"{maps}/one", config_map("one", {"k": "v", "l": "v"}))
    assert (refused.status, refused.reason) == (409, "Conflict")
    assert refused.json["details"]["causes"] == [
        {"reason": "FieldManagerConflict", "message": 'conflict with "edit" using v1', "field": ".data.k"}
    ]
    assert refused.json["message"] == 'Apply failed with 1 conflict: conflict with "edit" using v1: .data.k'
    assert (await api.get(f"{maps}/one")).json["data"]["k"] == "w"


async def test_several_conflicts_are_all_named(api: Api, maps: str) -> None:
    await applied(api, f"{maps}/one", config_map("one", {"k": "v", "l": "v"}), "first")
    refused = await api.apply(f"{maps}/one", config_map("one", {"k": "w", "l": "w"}), "second")
    assert refused.status == 409
    assert refused.json["message"] == (
        'Apply failed with 2 conflicts: conflicts with "first":\n- .data.k\n- .data.l'
    )
    assert {cause["field"] for cause in refused.json["details"]["causes"]} == {".data.k", ".data.l"}


async def test_force_takes_ownership(api: Api, maps: str) -> None:
    await applied(api, f"{maps}/one", config_map("one", {"k": "v", "l": "v"}), "first")
    taken = await applied(api, f"{maps}/one", config_map("one", {"k": "w"}), "second", force=True)
    assert taken.json["data"] == {"k": "w", "l": "v"}
    assert owners(taken.json) == {
        ("first", "Apply"): {"f:data": {"f:l": {}}},
        ("second", "Apply"): {"f:data": {"f:k": {}}},
    }


async def test_equal_values_are_shared_without_conflict(api: Api, maps: str) -> None:
    await applied(api, f"{maps}/one", config_map("one", {"k": "v"}), "first")
    shared = await applied(api, f"{maps}/one", config_map("one", {"k": "v"}), "second")
    assert owners(shared.json) == {
        ("first", "Apply"): {"f:data": {"f:k": {}}},
        ("second", "Apply"): {"f:data": {"f:k": {}}},
    }
    left = await applied(api, f"{maps}/one", config_map("one"), "first")
    assert left.json["data"] == {"k": "v"}
    assert owners(left.json) == {("second", "Apply"): {"f:data": {"f:k": {}}}}


async def test_what_is_no_longer_named_is_removed(api: Api, maps: str) -> None:
    await applied(api, f"{maps}/one", config_map("one", {"k": "v", "l": "v"}, labels={"a": "b"}))
    fewer = await applied(api, f"{maps}/one", config_map("one", {"k": "v"}))
    assert fewer.json["data"] == {"k": "v"}
    assert "labels" not in fewer.meta
    none = await applied(api, f"{maps}/one", config_map("one"))
    assert "data" not in none.json


async def test_fields_of_others_stay(api: Api, maps: str) -> None:
    await applied(api, f"{maps}/one", config_map("one", {"k": "v"}))
    await api.patch(
        f"{maps}/one", {"data": {"extra": "1"}, "metadata": {"labels": {"mine": "1"}}}, fieldManager="edit"
    )
    after = await applied(api, f"{maps}/one", config_map("one", {"k": "w"}))
    assert after.json["data"] == {"k": "w", "extra": "1"}
    assert after.meta["labels"] == {"mine": "1"}


async def test_a_deleted_field_is_written_back_without_conflict(api: Api, maps: str) -> None:
    await applied(api, f"{maps}/one", config_map("one", {"k": "v"}))
    await api.patch(f"{maps}/one", {"data": {"k": None}}, fieldManager="edit")
    back = await applied(api, f"{maps}/one", config_map("one", {"k": "v"}))
    assert back.json["data"] == {"k": "v"}


async def test_creation_by_post_is_owned_by_its_client(api: Api, maps: str) -> None:
    made = await api.make(maps, config_map("one", {"k": "v"}, labels={"a": "b"}))
    assert owners(made) == {
        ("contract", "Update"): {
            "f:data": {".": {}, "f:k": {}},
            "f:metadata": {"f:labels": {".": {}, "f:a": {}}},
        }
    }
    named = await api.make(maps, config_map("two", {"k": "v"}), fieldManager="someone")
    assert list(owners(named)) == [("someone", "Update")]


async def test_replacing_moves_ownership_of_what_changed(api: Api, maps: str) -> None:
    await applied(api, f"{maps}/one", config_map("one", {"k": "v", "l": "v"}))
    put = await api.put(f"{maps}/one", config_map("one", {"k": "v", "l": "w", "m": "v"}), fieldManager="edit")
    assert owners(put.json) == {
        ("hub", "Apply"): {"f:data": {"f:k": {}}},
        ("edit", "Update"): {"f:data": {"f:l": {}, "f:m": {}}},
    }


async def test_a_stale_version_in_an_applied_configuration_conflicts(api: Api, maps: str) -> None:
    await applied(api, f"{maps}/one", config_map("one", {"k": "v"}))
    refused = await api.apply(f"{maps}/one", config_map("one", {"k": "w"}, resourceVersion="1"))
    assert (refused.status, refused.reason) == (409, "Conflict")


async def test_apply_needs_a_manager_a_type_and_the_right_name(api: Api, maps: str, namespace: str) -> None:
    nameless = await api.patch(f"{maps}/one", config_map("one"), APPLY)
    assert (nameless.status, nameless.reason) == (422, "Invalid")
    assert nameless.json["details"]["causes"][0]["field"] == "fieldManager"
    untyped = await api.apply(f"{maps}/one", {"metadata": {"name": "one"}})
    assert (untyped.status, untyped.reason) == (400, "BadRequest")
    misnamed = await api.apply(f"{maps}/one", config_map("two"))
    assert (misnamed.status, misnamed.reason) == (400, "BadRequest")
    managed = await api.apply(f"{maps}/one", config_map("one", managedFields=[{"manager": "x"}]))
    assert managed.status == 400
    nowhere = await api.apply(f"/api/v1/namespaces/{namespace}-none/configmaps/one", config_map("one"))
    assert (nowhere.status, nowhere.json["details"]["kind"]) == (404, "namespaces")
    assert (await api.get(f"{maps}/one")).status == 404


async def test_lists_with_keys_are_merged_by_key(api: Api, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/app"
    head = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "app"}}
    await applied(api, path, head | {"secrets": [{"name": "a"}]}, "first")
    both = await applied(api, path, head | {"secrets": [{"name": "b"}]}, "second")
    assert [item["name"] for item in both.json["secrets"]] == ["a", "b"]
    assert 'k:{"name":"b"}' in owners(both.json)["second", "Apply"]["f:secrets"]
    one = await applied(api, path, head, "first")
    assert [item["name"] for item in one.json["secrets"]] == ["b"]


async def test_finalizers_are_a_set(api: Api, maps: str) -> None:
    await applied(api, f"{maps}/one", config_map("one", finalizers=["example.org/a"]), "first")
    both = await applied(api, f"{maps}/one", config_map("one", finalizers=["example.org/b"]), "second")
    assert sorted(both.meta["finalizers"]) == ["example.org/a", "example.org/b"]
    assert owners(both.json)["second", "Apply"] == {"f:metadata": {"f:finalizers": {'v:"example.org/b"': {}}}}
    await api.patch(f"{maps}/one", {"metadata": {"finalizers": None}})


async def test_pods_are_owned_field_by_field(api: Api, namespace: str) -> None:
    made = await api.make(f"/api/v1/namespaces/{namespace}/pods", pod("p", "app"))
    fields = owners(made)["contract", "Update"]
    container = fields["f:spec"]["f:containers"]['k:{"name":"app"}']
    assert {".", "f:image", "f:name"} <= set(container)
    assert fields["f:spec"]["f:nodeName"] == {}


async def test_a_dry_run_of_apply_shows_conflicts_and_writes_nothing(api: Api, maps: str) -> None:
    made = await api.make(maps, config_map("one", {"k": "v"}))
    refused = await api.apply(f"{maps}/one", config_map("one", {"k": "w"}), dryRun="All")
    assert refused.status == 409
    tried = await api.apply(f"{maps}/one", config_map("one", {"k": "w"}), dryRun="All", force=True)
    assert (tried.status, tried.json["data"]) == (200, {"k": "w"})
    assert (await api.get(f"{maps}/one")).json == made


async def test_merge_patch(api: Api, maps: str) -> None:
    made = await api.make(maps, config_map("one", {"k": "v", "l": "v"}))
    changed = await api.patch(f"{maps}/one", {"data": {"k": None, "m": "v"}}, MERGE)
    assert changed.json["data"] == {"l": "v", "m": "v"}
    stale = {"metadata": {"resourceVersion": made["metadata"]["resourceVersion"]}, "data": {"k": "x"}}
    refused = await api.patch(f"{maps}/one", stale, MERGE)
    assert (refused.status, refused.reason) == (409, "Conflict")
    same = await api.patch(f"{maps}/one", {"data": {"l": "v"}}, MERGE)
    assert same.meta["resourceVersion"] == changed.meta["resourceVersion"]


async def test_json_patch(api: Api, maps: str) -> None:
    await api.make(maps, config_map("one", {"k": "v", "root-cert.pem": "x"}))
    operations = [
        {"op": "test", "path": "/data/k", "value": "v"},
        {"op": "replace", "path": "/data/k", "value": "w"},
        {"op": "remove", "path": "/data/root-cert.pem"},
        {"op": "add", "path": "/metadata/labels", "value": {"a~b": "c"}},
    ]
    refused = await api.patch(f"{maps}/one", operations, JSON_PATCH)
    assert refused.status == 422
    operations[3] = {"op": "add", "path": "/metadata/labels", "value": {"x/y": "z"}}
    changed = await api.patch(f"{maps}/one", operations, JSON_PATCH)
    assert changed.status == 200
    assert (changed.json["data"], changed.meta["labels"]) == ({"k": "w"}, {"x/y": "z"})
    escaped = await api.patch(f"{maps}/one", [{"op": "remove", "path": "/metadata/labels/x~1y"}], JSON_PATCH)
    assert not escaped.meta.get("labels")
    failed = await api.patch(f"{maps}/one", [{"op": "test", "path": "/data/k", "value": "v"}], JSON_PATCH)
    assert failed.status == 422
    missing = await api.patch(f"{maps}/one", [{"op": "remove", "path": "/data/none"}], JSON_PATCH)
    assert missing.status == 422


async def test_strategic_merge_patch(api: Api, maps: str, namespace: str) -> None:
    await api.make(maps, config_map("one", {"k": "v"}))
    changed = await api.patch(f"{maps}/one", {"data": {"l": "v"}}, STRATEGIC)
    assert changed.json["data"] == {"k": "v", "l": "v"}
    account = f"/api/v1/namespaces/{namespace}/serviceaccounts/app"
    await api.patch(account, {"secrets": [{"name": "a"}]}, STRATEGIC)
    both = await api.patch(account, {"secrets": [{"name": "b"}]}, STRATEGIC)
    assert {item["name"] for item in both.json["secrets"]} == {"a", "b"}


async def test_other_patches_are_not_supported(api: Api, maps: str) -> None:
    await api.make(maps, config_map("one"))
    refused = await api.patch(f"{maps}/one", {"data": {}}, "application/json")
    assert (refused.status, refused.reason) == (415, "UnsupportedMediaType")
