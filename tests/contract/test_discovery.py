"""Discovery, version, and what is said where there is nothing."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import pytest

from tests.contract.client import Api


async def test_version(api: Api) -> None:
    about = (await api.get("/version")).json
    assert about["major"] == "1"
    assert int(re.match(r"\d+", about["minor"])[0]) >= 34  # type: ignore[index]
    assert about["gitVersion"].startswith(f"v1.{about['minor'].rstrip('+')}.")


async def test_the_date_is_the_servers(api: Api) -> None:
    date = parsedate_to_datetime((await api.get("/version")).headers["Date"])
    assert abs((datetime.now(UTC) - date).total_seconds()) < 60


async def test_core_and_groups(api: Api) -> None:
    core = (await api.get("/api")).json
    assert (core["kind"], core["versions"]) == ("APIVersions", ["v1"])
    groups = (await api.get("/apis")).json
    assert groups["kind"] == "APIGroupList"
    names = {group["name"] for group in groups["groups"]}
    assert names >= {
        "authentication.k8s.io",
        "authorization.k8s.io",
        "certificates.k8s.io",
        "coordination.k8s.io",
        "rbac.authorization.k8s.io",
    }
    one = (await api.get("/apis/coordination.k8s.io")).json
    assert (one["kind"], one["preferredVersion"]["groupVersion"]) == ("APIGroup", "coordination.k8s.io/v1")


@pytest.mark.parametrize(
    ("path", "name", "kind", "namespaced"),
    [
        ("/api/v1", "configmaps", "ConfigMap", True),
        ("/api/v1", "namespaces", "Namespace", False),
        ("/api/v1", "serviceaccounts/token", "TokenRequest", True),
        ("/apis/coordination.k8s.io/v1", "leases", "Lease", True),
        ("/apis/rbac.authorization.k8s.io/v1", "clusterroles", "ClusterRole", False),
        ("/apis/certificates.k8s.io/v1beta1", "clustertrustbundles", "ClusterTrustBundle", False),
        ("/apis/authentication.k8s.io/v1", "tokenreviews", "TokenReview", False),
        ("/apis/authorization.k8s.io/v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", False),
    ],
)
async def test_resources(api: Api, path: str, name: str, kind: str, namespaced: bool) -> None:
    listed = (await api.get(path)).json
    assert listed["kind"] == "APIResourceList"
    assert listed["groupVersion"] == path.removeprefix("/apis/").removeprefix("/api/")
    entry = {resource["name"]: resource for resource in listed["resources"]}[name]
    assert (entry["kind"], entry["namespaced"]) == (kind, namespaced)
    assert "create" in entry["verbs"]


async def test_an_unknown_resource_is_a_status_an_unknown_group_is_not(api: Api) -> None:
    resource = await api.get("/api/v1/nothings")
    assert (resource.status, resource.reason) == (404, "NotFound")
    assert resource.json["message"] == "the server could not find the requested resource"
    for path in ("/apis/nothing.example/v1/nothings", "/nothing"):
        response = await api.get(path)
        assert (response.status, response.raw) == (404, b"404 page not found\n")
        assert response.headers["Content-Type"].startswith("text/plain")


@pytest.mark.parametrize(
    ("method", "path"), [("PUT", "/api/v1/configmaps"), ("POST", "/api/v1/namespaces/default")]
)
async def test_a_verb_the_resource_has_not_is_not_allowed(api: Api, method: str, path: str) -> None:
    refused = await api.call(method, path, {"metadata": {"name": "x"}})
    assert (refused.status, refused.reason) == (405, "MethodNotAllowed")
