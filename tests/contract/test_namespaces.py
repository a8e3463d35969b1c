"""The life of a namespace: active, terminating, finalized, gone."""

from __future__ import annotations

from tests.contract.client import Api, config_map, unique


async def test_a_new_namespace_is_active_and_labelled_with_its_name(api: Api, namespace: str) -> None:
    found = (await api.get(f"/api/v1/namespaces/{namespace}")).json
    assert found["status"] == {"phase": "Active"}
    assert found["spec"] == {"finalizers": ["kubernetes"]}
    assert found["metadata"]["labels"] == {"kubernetes.io/metadata.name": namespace}


async def test_a_deleted_namespace_terminates_and_takes_nothing_new(
    api: Api, namespace: str, maps: str
) -> None:
    await api.make(maps, config_map("before", {"k": "1"}))
    deleted = await api.delete(f"/api/v1/namespaces/{namespace}")
    assert deleted.status == 200
    assert deleted.json["status"]["phase"] == "Terminating"
    assert "deletionTimestamp" in deleted.meta

    for refused in (
        await api.post(maps, config_map("after")),
        await api.apply(f"{maps}/after", config_map("after")),
    ):
        assert (refused.status, refused.reason) == (403, "Forbidden")
        assert refused.json["details"]["causes"][0]["reason"] == "NamespaceTerminating"
        assert "because it is being terminated" in refused.json["message"]
    changed = await api.apply(f"{maps}/before", config_map("before", {"k": "2"}), force=True)
    assert changed.status == 200


async def test_a_namespace_is_gone_once_it_is_finalized(api: Api) -> None:
    name = unique("contract")
    path = f"/api/v1/namespaces/{name}"
    await api.make("/api/v1/namespaces", {"metadata": {"name": name}})
    await api.delete(path)
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}, "spec": {"finalizers": []}}
    assert (await api.put(f"{path}/finalize", body)).status == 200
    assert (await api.get(path)).status == 404


async def test_the_namespace_of_an_object_need_not_exist_to_read(api: Api) -> None:
    listed = await api.get(f"/api/v1/namespaces/{unique('none')}/configmaps")
    assert (listed.status, listed.json["items"]) == (200, [])


async def test_labels_of_a_namespace_can_be_patched_but_not_its_name_label(api: Api, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}"
    changed = await api.patch(path, {"metadata": {"labels": {"istio-injection": "enabled"}}})
    assert changed.status == 200
    assert changed.meta["labels"]["istio-injection"] == "enabled"
    again = await api.patch(path, {"metadata": {"labels": {"kubernetes.io/metadata.name": None}}})
    assert again.meta["labels"]["kubernetes.io/metadata.name"] == namespace
