"""Create, read, replace and delete; names, identity, optimistic locking, preconditions, finalizers."""

from __future__ import annotations

import base64
import re

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.contract.client import Api, config_map, unique


async def test_a_created_object_has_identity_and_can_be_read_back(api: Api, maps: str) -> None:
    made = await api.post(maps, config_map("one", {"k": "v"}, labels={"a": "b"}))
    meta = made.meta
    assert made.status == 201
    assert (made.json["kind"], made.json["apiVersion"]) == ("ConfigMap", "v1")
    assert re.fullmatch(r"[0-9a-f-]{36}", meta["uid"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", meta["creationTimestamp"])
    assert int(meta["resourceVersion"]) > 0
    assert (await api.get(f"{maps}/one")).json == made.json


async def test_kind_and_version_may_be_left_out_of_a_body(api: Api, maps: str) -> None:
    made = await api.post(maps, {"metadata": {"name": "bare"}})
    assert made.status == 201
    assert (made.json["kind"], made.json["apiVersion"]) == ("ConfigMap", "v1")


async def test_generate_name_makes_different_names(api: Api, maps: str) -> None:
    first = await api.make(maps, {"metadata": {"generateName": "gen-"}})
    second = await api.make(maps, {"metadata": {"generateName": "gen-"}})
    names = {first["metadata"]["name"], second["metadata"]["name"]}
    assert len(names) == 2
    assert all(re.fullmatch(r"gen-[a-z0-9]{5}", name) for name in names)


async def test_a_name_can_be_taken_once(api: Api, maps: str) -> None:
    await api.make(maps, config_map("one"))
    again = await api.post(maps, config_map("one"))
    assert (again.status, again.reason) == (409, "AlreadyExists")
    assert again.json["kind"] == "Status"
    assert again.json["details"] == {"name": "one", "kind": "configmaps"}


async def test_what_is_not_there_is_not_found(api: Api, maps: str) -> None:
    for response in (
        await api.get(f"{maps}/none"),
        await api.delete(f"{maps}/none"),
        await api.patch(f"{maps}/none", {"data": {}}),
        await api.put(f"{maps}/none", config_map("none")),
    ):
        assert (response.status, response.reason) == (404, "NotFound")
        assert response.json["message"] == 'configmaps "none" not found'
        assert response.json["details"] == {"name": "none", "kind": "configmaps"}


@pytest.mark.parametrize("name", ["", "Upper", "under_score", "-dash", "dot.", "a" * 254])
async def test_bad_names_are_invalid(api: Api, maps: str, name: str) -> None:
    refused = await api.post(maps, config_map(name))
    assert (refused.status, refused.reason) == (422, "Invalid")
    assert refused.json["details"]["causes"][0]["field"] == "metadata.name"


async def test_namespace_names_are_labels(api: Api) -> None:
    refused = await api.post("/api/v1/namespaces", {"metadata": {"name": "dots.are.not"}})
    assert (refused.status, refused.reason) == (422, "Invalid")


@pytest.mark.parametrize(
    "body",
    [
        b'{"metadata":',
        b"[]",
        b'{"kind":"Secret","apiVersion":"v1","metadata":{"name":"x"}}',
        b'{"metadata":{"name":"x","namespace":"elsewhere"}}',
        b'{"metadata":{"name":"x"},"data":{"k":1}}',
        b'{"metadata":{"name":"x","labels":{"k":1}}}',
        b'{"metadata":{"name":"x","resourceVersion":"7"}}',
    ],
)
async def test_malformed_bodies_are_bad_requests(api: Api, maps: str, body: bytes) -> None:
    refused = await api.post(maps, body)
    assert refused.status in {400, 500} if b"resourceVersion" in body else refused.status == 400
    assert refused.json["kind"] == "Status"
    assert (await api.get(f"{maps}/x")).status == 404


async def test_unknown_content_types_are_refused(api: Api, maps: str) -> None:
    refused = await api.post(maps, b"name: x", content_type="text/plain")
    assert (refused.status, refused.reason) == (415, "UnsupportedMediaType")


async def test_too_much_data_is_refused(api: Api, maps: str) -> None:
    refused = await api.post(maps, config_map("big", {"k": "x" * (1024 * 1024 + 1)}))
    assert (refused.status, refused.reason) == (422, "Invalid")
    assert (await api.post(maps, config_map("fits", {"k": "x" * (1024 * 1024)}))).status == 201


async def test_a_body_over_three_mebibytes_is_not_read(api: Api, maps: str) -> None:
    refused = await api.post(maps, config_map("big", {"k": "x" * (3 * 1024 * 1024)}))
    assert refused.status == 413
    assert refused.reason == "RequestEntityTooLarge"


async def test_creation_needs_the_namespace(api: Api) -> None:
    refused = await api.post(f"/api/v1/namespaces/{unique('none')}/configmaps", config_map("x"))
    assert (refused.status, refused.reason) == (404, "NotFound")
    assert refused.json["details"]["kind"] == "namespaces"


async def test_replacing_checks_the_resource_version(api: Api, maps: str) -> None:
    made = await api.make(maps, config_map("one", {"k": "1"}))
    changed = await api.put(f"{maps}/one", made | {"data": {"k": "2"}})
    assert changed.status == 200
    assert int(changed.meta["resourceVersion"]) > int(made["metadata"]["resourceVersion"])
    stale = await api.put(f"{maps}/one", made | {"data": {"k": "3"}})
    assert (stale.status, stale.reason) == (409, "Conflict")
    assert stale.json["details"] == {"name": "one", "kind": "configmaps"}
    assert (await api.get(f"{maps}/one")).json["data"] == {"k": "2"}


async def test_replacing_without_a_version_overwrites(api: Api, maps: str) -> None:
    made = await api.make(maps, config_map("one", {"k": "1"}))
    changed = await api.put(f"{maps}/one", config_map("one", {"k": "2"}))
    assert changed.status == 200
    assert changed.meta["uid"] == made["metadata"]["uid"]
    assert changed.meta["creationTimestamp"] == made["metadata"]["creationTimestamp"]


async def test_replacing_with_another_uid_conflicts(api: Api, maps: str) -> None:
    await api.make(maps, config_map("one"))
    refused = await api.put(f"{maps}/one", config_map("one", uid="00000000-0000-0000-0000-000000000000"))
    assert (refused.status, refused.reason) == (409, "Conflict")


async def test_a_write_that_changes_nothing_is_no_write(api: Api, maps: str) -> None:
    made = await api.make(maps, config_map("one", {"k": "1"}))
    same = await api.put(f"{maps}/one", made)
    assert same.status == 200
    assert same.meta["resourceVersion"] == made["metadata"]["resourceVersion"]


async def test_the_name_of_a_body_must_be_the_one_of_the_path(api: Api, maps: str) -> None:
    await api.make(maps, config_map("one"))
    refused = await api.put(f"{maps}/one", config_map("two"))
    assert (refused.status, refused.reason) == (400, "BadRequest")


async def test_deleting_answers_with_a_status_that_names_the_uid(api: Api, maps: str) -> None:
    made = await api.make(maps, config_map("one"))
    gone = await api.delete(f"{maps}/one")
    assert gone.status == 200
    assert gone.json["status"] == "Success"
    assert gone.json["details"] == {"name": "one", "kind": "configmaps", "uid": made["metadata"]["uid"]}
    assert (await api.get(f"{maps}/one")).status == 404


async def test_deleting_a_service_account_answers_with_it(api: Api, namespace: str) -> None:
    gone = await api.delete(f"/api/v1/namespaces/{namespace}/serviceaccounts/app")
    assert (gone.status, gone.json["kind"]) == (200, "ServiceAccount")


@pytest.mark.parametrize("precondition", [{"uid": "someone-else"}, {"resourceVersion": "1"}])
async def test_preconditions_of_a_deletion_hold(api: Api, maps: str, precondition: dict[str, str]) -> None:
    await api.make(maps, config_map("one"))
    refused = await api.delete(f"{maps}/one", {"preconditions": precondition})
    assert (refused.status, refused.reason) == (409, "Conflict")
    assert (await api.get(f"{maps}/one")).status == 200


async def test_preconditions_that_hold_let_the_deletion_pass(api: Api, maps: str) -> None:
    meta = (await api.make(maps, config_map("one")))["metadata"]
    wanted = {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]}
    assert (await api.delete(f"{maps}/one", {"preconditions": wanted})).status == 200


async def test_finalizers_hold_a_deleted_object_until_they_are_gone(api: Api, maps: str) -> None:
    await api.make(maps, config_map("one", {"k": "v"}, finalizers=["example.org/hold"]))
    deleting = await api.delete(f"{maps}/one")
    assert deleting.status == 200
    assert "deletionTimestamp" in deleting.meta
    assert "deletionTimestamp" in (await api.get(f"{maps}/one")).meta
    freed = await api.patch(f"{maps}/one", {"metadata": {"finalizers": None}})
    assert freed.status == 200
    assert (await api.get(f"{maps}/one")).status == 404


async def test_a_collection_is_deleted_by_selector(api: Api, maps: str) -> None:
    await api.make(maps, config_map("one", labels={"go": "yes"}))
    await api.make(maps, config_map("two", labels={"go": "no"}))
    gone = await api.delete(maps, labelSelector="go=yes")
    assert gone.status == 200
    assert [item["metadata"]["name"] for item in gone.json["items"]] == ["one"]
    assert [item["metadata"]["name"] for item in (await api.get(maps)).json["items"]] == ["two"]


async def test_a_dry_run_changes_nothing(api: Api, maps: str) -> None:
    tried = await api.post(maps, config_map("one"), dryRun="All")
    assert tried.status == 201
    assert (await api.get(f"{maps}/one")).status == 404


async def test_a_second_object_of_a_name_has_another_uid(api: Api, maps: str) -> None:
    first = await api.make(maps, config_map("one"))
    await api.delete(f"{maps}/one")
    second = await api.make(maps, config_map("one"))
    assert first["metadata"]["uid"] != second["metadata"]["uid"]
    assert int(second["metadata"]["resourceVersion"]) > int(first["metadata"]["resourceVersion"])


async def test_secrets_take_string_data_write_only(api: Api, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/secrets"
    made = await api.make(path, {"metadata": {"name": "one"}, "stringData": {"k": "v"}})
    assert made["data"] == {"k": "dg=="}
    assert made["type"] == "Opaque"
    assert "stringData" not in made


async def test_leases_lock_by_resource_version(api: Api, namespace: str) -> None:
    path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
    spec = {"holderIdentity": "a", "leaseDurationSeconds": 15, "renewTime": "2026-01-01T00:00:00.000000Z"}
    body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"}, "spec": spec}
    made = await api.make(path, body)
    taken = await api.put(f"{path}/l", made | {"spec": spec | {"holderIdentity": "b"}})
    lost = await api.put(f"{path}/l", made | {"spec": spec | {"holderIdentity": "c"}})
    assert (taken.status, taken.json["spec"]["holderIdentity"]) == (200, "b")
    assert (lost.status, lost.reason) == (409, "Conflict")


async def test_certificate_signing_requests_name_their_requester(api: Api) -> None:
    path = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    request = base64.b64encode(csr.public_bytes(serialization.Encoding.PEM)).decode()
    spec = {"signerName": "example.org/none", "usages": ["client auth"], "request": request}
    made = await api.make_global(path, {"metadata": {"name": unique("contract")}, "spec": spec})
    assert "system:masters" in made["spec"]["groups"]
    assert made["status"] == {}
    body = {"metadata": {"name": unique("contract")}, "spec": spec | {"request": "bm9wZQ=="}}
    refused = await api.post(path, body)
    assert (refused.status, refused.reason) == (422, "Invalid")
