"""Pods: what the attestation looks at. Bound accounts, nodes, status, graceful deletion."""

from __future__ import annotations

import pytest

from tests.contract.client import PARTIAL_LIST, Api, pod


async def test_a_pod_starts_pending_with_its_account(api: Api, namespace: str) -> None:
    made = await api.make(f"/api/v1/namespaces/{namespace}/pods", pod("p", "app"))
    assert made["status"]["phase"] == "Pending"
    assert made["spec"]["serviceAccountName"] == made["spec"]["serviceAccount"] == "app"
    assert made["spec"]["nodeName"] == "node-contract"
    assert made["spec"]["terminationGracePeriodSeconds"] == 30


async def test_a_pod_needs_its_service_account(api: Api, namespace: str) -> None:
    refused = await api.post(f"/api/v1/namespaces/{namespace}/pods", pod("p", "absent"))
    assert (refused.status, refused.reason) == (403, "Forbidden")
    assert 'serviceaccount "absent" not found' in refused.json["message"]


async def test_status_is_written_through_its_subresource_only(api: Api, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/pods/p"
    made = await api.make(path.removesuffix("/p"), pod("p", "app") | {"status": {"phase": "Running"}})
    assert made["status"]["phase"] == "Pending"
    ignored = await api.patch(path, {"status": {"phase": "Running"}})
    assert ignored.json["status"]["phase"] == "Pending"
    written = await api.patch(
        f"{path}/status", {"status": {"phase": "Running"}, "spec": {"nodeName": "other"}}
    )
    assert written.status == 200
    assert (written.json["status"]["phase"], written.json["spec"]["nodeName"]) == ("Running", "node-contract")


async def test_a_scheduled_pod_ends_gracefully(api: Api, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/pods/p"
    await api.make(path.removesuffix("/p"), pod("p", "app"))
    ending = await api.delete(path)
    assert ending.status == 200
    assert ending.meta["deletionGracePeriodSeconds"] == 30
    assert "deletionTimestamp" in (await api.get(path)).meta
    gone = await api.delete(path, {"gracePeriodSeconds": 0})
    assert (gone.status, gone.json["kind"]) == (200, "Pod")
    assert (await api.get(path)).status == 404


async def test_an_unscheduled_pod_is_gone_at_once(api: Api, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/pods/p"
    await api.make(path.removesuffix("/p"), pod("p", "app", node=None))
    assert (await api.delete(path)).status == 200
    assert (await api.get(path)).status == 404


async def test_pods_are_selected_by_node_and_account(api: Api, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/pods"
    await api.make(path, pod("here", "app", node="here"))
    await api.make(path, pod("there", "app", node="there"))
    for selector, names in (
        ("spec.nodeName=here", ["here"]),
        ("spec.nodeName!=here", ["there"]),
        ("spec.serviceAccountName=app,spec.nodeName=there", ["there"]),
        ("status.phase=Running", []),
    ):
        listed = (await api.get(path, fieldSelector=selector)).json
        assert [item["metadata"]["name"] for item in listed["items"]] == names


PHASES = ("Pending", "Running", "Succeeded", "Failed", "Unknown")


async def test_pods_of_an_account_on_a_node_that_have_not_ended(api: Api, namespace: str) -> None:
    """What the signer asks for ambient, in one metadata-only list."""
    path = f"/api/v1/namespaces/{namespace}/pods"
    await api.make(f"/api/v1/namespaces/{namespace}/serviceaccounts", {"metadata": {"name": "other"}})
    for phase in PHASES:
        name = phase.lower()
        await api.make(path, pod(name, "app", node="here"))
        written = await api.patch(f"{path}/{name}/status", {"status": {"phase": phase}})
        assert written.status == 200
    await api.make(path, pod("elsewhere", "app", node="there"))
    await api.make(path, pod("unscheduled", "app", node=None))
    await api.make(path, pod("another-account", "other", node="here"))
    live = "status.phase!=Failed,status.phase!=Succeeded"
    selector = f"spec.nodeName=here,spec.serviceAccountName=app,{live}"
    listed = (await api.get(path, accept=PARTIAL_LIST, fieldSelector=selector, limit=64)).json
    assert listed["kind"] == "PartialObjectMetadataList"
    assert [item["metadata"]["name"] for item in listed["items"]] == ["pending", "running", "unknown"]
    assert not any({"spec", "status"} & set(item) for item in listed["items"])
    for nothing in (selector.replace("=app", "=absent"), selector.replace("=here", "=nowhere")):
        answer = await api.get(path, accept=PARTIAL_LIST, fieldSelector=nothing, limit=64)
        assert (answer.status, answer.json["items"] or []) == (200, [])
    one = await api.get(path, fieldSelector=f"metadata.name=failed,{live}")
    assert not one.json["items"]
    one = await api.get(path, fieldSelector=f"metadata.name=running,{live}")
    assert [item["spec"]["nodeName"] for item in one.json["items"]] == ["here"]


@pytest.mark.parametrize("field", ["spec.serviceAccount", "spec.node", "status.reason", "metadata.uid"])
async def test_other_fields_of_pods_select_nothing(api: Api, namespace: str, field: str) -> None:
    refused = await api.get(f"/api/v1/namespaces/{namespace}/pods", fieldSelector=f"{field}=x")
    assert (refused.status, refused.reason) == (400, "BadRequest")
