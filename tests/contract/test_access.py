"""Who may do what: credentials, RBAC from objects, access reviews."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.contract.client import Api, config_map, eventually, unique

RBAC = "/apis/rbac.authorization.k8s.io/v1"
REVIEW = "/apis/authorization.k8s.io/v1"


@pytest.fixture
async def workload(api: Api, config: dict[str, Any], namespace: str) -> AsyncIterator[Api]:
    """The same server as the service account ``app`` sees it."""
    async with Api.open(config, token=await api.token(namespace, "app")) as opened:
        yield opened


@pytest.fixture
async def anonymous(config: dict[str, Any]) -> AsyncIterator[Api]:
    async with Api.open(config, token="") as opened:
        yield opened


def subject(namespace: str) -> dict[str, str]:
    return {"kind": "ServiceAccount", "name": "app", "namespace": namespace}


def rule(verbs: str, resources: str, *, group: str = "", names: str = "") -> dict[str, list[str]]:
    found = {"verbs": verbs.split(), "apiGroups": [group], "resources": resources.split()}
    return found | ({"resourceNames": names.split()} if names else {})


async def grant(api: Api, namespace: str, *rules: dict[str, list[str]], everywhere: bool = False) -> None:
    """Bind rules to the service account, in its namespace or in the whole cluster."""
    kind, path = ("ClusterRole", RBAC) if everywhere else ("Role", f"{RBAC}/namespaces/{namespace}")
    name = unique("contract")
    make = api.make_global if everywhere else api.make
    await make(f"{path}/{kind.lower()}s", {"metadata": {"name": name}, "rules": list(rules)})
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}
    body = {"metadata": {"name": name}, "roleRef": reference, "subjects": [subject(namespace)]}
    await make(f"{path}/{kind.lower()}bindings", body)


async def allowed(user: Api, **attributes: str) -> bool:
    made = await user.make(f"{REVIEW}/selfsubjectaccessreviews", {"spec": {"resourceAttributes": attributes}})
    return bool(made["status"]["allowed"])


async def test_no_credentials_is_anonymous_and_forbidden(anonymous: Api) -> None:
    refused = await anonymous.get("/api/v1/namespaces")
    assert (refused.status, refused.reason) == (403, "Forbidden")
    assert refused.json["message"] == (
        'namespaces is forbidden: User "system:anonymous" cannot list resource "namespaces" in API group "" '
        "at the cluster scope"
    )
    assert refused.json["details"] == {"kind": "namespaces"}


@pytest.mark.parametrize("path", ["/healthz", "/livez", "/readyz", "/version"])
async def test_health_and_version_are_public(anonymous: Api, path: str) -> None:
    assert (await anonymous.get(path)).status == 200


@pytest.mark.parametrize("path", ["/api", "/apis", "/openid/v1/jwks"])
async def test_discovery_is_for_the_authenticated(anonymous: Api, workload: Api, path: str) -> None:
    """Some distributions publish ``/.well-known`` to everybody, so it is not among these paths."""
    refused = await anonymous.get(path, accept="*/*")
    assert (refused.status, refused.reason) == (403, "Forbidden")
    assert refused.json["message"] == f'forbidden: User "system:anonymous" cannot get path "{path}"'
    assert (await workload.get(path, accept="*/*")).status == 200


async def test_bad_credentials_are_unauthorized_not_anonymous(config: dict[str, Any]) -> None:
    async with Api.open(config, token="nonsense") as stranger:
        refused = await stranger.get("/version")
    assert (refused.status, refused.reason, refused.json["message"]) == (401, "Unauthorized", "Unauthorized")


async def test_a_token_for_another_audience_does_not_log_in(
    api: Api, config: dict[str, Any], namespace: str
) -> None:
    async with Api.open(config, token=await api.token(namespace, "app", audiences=["istio-ca"])) as stranger:
        assert (await stranger.get("/version")).status == 401


async def test_a_service_account_knows_who_it_is(workload: Api, namespace: str) -> None:
    made = await workload.make("/apis/authentication.k8s.io/v1/selfsubjectreviews", {})
    user = made["status"]["userInfo"]
    assert user["username"] == f"system:serviceaccount:{namespace}:app"
    assert f"system:serviceaccounts:{namespace}" in user["groups"]


async def test_a_service_account_may_do_nothing_by_itself(workload: Api, maps: str, namespace: str) -> None:
    refused = await workload.get(f"{maps}/one")
    assert refused.status == 403
    user = f"system:serviceaccount:{namespace}:app"
    assert refused.json["message"] == (
        f'configmaps "one" is forbidden: User "{user}" cannot get resource "configmaps" in API group "" '
        f'in the namespace "{namespace}"'
    )
    assert refused.json["details"] == {"name": "one", "kind": "configmaps"}
    for response in (await workload.post(maps, config_map("x")), await workload.delete(f"{maps}/x")):
        assert response.status == 403


async def test_a_role_grants_its_verbs_in_its_namespace_only(
    api: Api, workload: Api, maps: str, namespace: str
) -> None:
    await api.make(maps, config_map("one"))
    await grant(api, namespace, rule("get list", "configmaps"))
    assert await eventually(lambda: allowed(workload, verb="get", resource="configmaps", namespace=namespace))
    assert (await workload.get(f"{maps}/one")).status == 200
    assert (await workload.get(maps)).status == 200
    assert (await workload.get(maps, watch="true", timeoutSeconds=1)).status == 403
    assert (await workload.get("/api/v1/configmaps")).status == 403
    assert (await workload.get("/api/v1/namespaces/default/configmaps")).status == 403
    assert (await workload.patch(f"{maps}/one", {})).status == 403
    assert (await workload.get(maps.replace("configmaps", "secrets"))).status == 403


async def test_a_cluster_role_grants_everywhere(api: Api, workload: Api, namespace: str) -> None:
    await grant(api, namespace, rule("list", "namespaces"), everywhere=True)
    assert await eventually(lambda: allowed(workload, verb="list", resource="namespaces"))
    assert (await workload.get("/api/v1/namespaces")).status == 200
    assert (await workload.get(f"/api/v1/namespaces/{namespace}")).status == 403


async def test_resource_names_bound_what_is_granted(
    api: Api, workload: Api, maps: str, namespace: str
) -> None:
    await grant(
        api, namespace, rule("get list watch patch", "configmaps", names="mine"), rule("create", "configmaps")
    )
    probe = {"verb": "get", "resource": "configmaps", "namespace": namespace, "name": "mine"}
    assert await eventually(lambda: allowed(workload, **probe))
    made = await workload.apply(f"{maps}/mine", config_map("mine", {"k": "v"}))
    assert made.status == 201
    assert (await workload.apply(f"{maps}/mine", config_map("mine", {"k": "w"}))).status == 200
    assert (await workload.apply(f"{maps}/other", config_map("other"))).status == 403
    assert (await workload.get(f"{maps}/mine")).status == 200
    assert (await workload.get(f"{maps}/other")).status == 403
    assert (await workload.get(maps)).status == 403
    assert (await workload.get(maps, fieldSelector="metadata.name=mine")).status == 200
    assert (await workload.get(maps, fieldSelector="metadata.name=other")).status == 403
    selected = {"fieldSelector": "metadata.name=mine", "watch": "true", "timeoutSeconds": 1}
    assert (await workload.get(maps, **selected)).status == 200


async def test_creating_by_apply_needs_the_create_verb(
    api: Api, workload: Api, maps: str, namespace: str
) -> None:
    await grant(api, namespace, rule("patch", "configmaps"))
    assert await eventually(
        lambda: allowed(workload, verb="patch", resource="configmaps", namespace=namespace)
    )
    refused = await workload.apply(f"{maps}/one", config_map("one"))
    assert (refused.status, refused.reason) == (403, "Forbidden")
    await api.make(maps, config_map("one"))
    assert (await workload.apply(f"{maps}/one", config_map("one", {"k": "v"}))).status == 200


async def test_creation_by_apply_can_be_granted_for_one_name(
    api: Api, workload: Api, maps: str, namespace: str
) -> None:
    """A POST cannot: its name is in the body, which authorization does not see."""
    await grant(api, namespace, rule("create patch", "configmaps", names="mine"))
    probe = {"verb": "create", "resource": "configmaps", "namespace": namespace, "name": "mine"}
    assert await eventually(lambda: allowed(workload, **probe))
    assert (await workload.apply(f"{maps}/mine", config_map("mine"))).status == 201
    assert (await workload.post(maps, config_map("mine"))).status == 403


async def test_subresources_are_granted_apart(api: Api, workload: Api, namespace: str) -> None:
    await grant(api, namespace, rule("create", "serviceaccounts/token", names="app"))
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    probe = {"verb": "create", "resource": "serviceaccounts", "subresource": "token", "namespace": namespace}
    assert await eventually(lambda: allowed(workload, **probe, name="app"))
    await api.make(path, {"metadata": {"name": "other"}})
    assert (await workload.post(f"{path}/app/token", {"spec": {"audiences": ["istio-ca"]}})).status == 201
    assert (await workload.post(f"{path}/other/token", {"spec": {}})).status == 403
    assert (await workload.get(f"{path}/app")).status == 403


async def test_reviewing_tokens_is_granted_apart(api: Api, workload: Api, namespace: str) -> None:
    path, token = "/apis/authentication.k8s.io/v1/tokenreviews", await api.token(namespace, "app")
    assert (await workload.post(path, {"spec": {"token": token}})).status == 403
    await grant(
        api, namespace, rule("create", "tokenreviews", group="authentication.k8s.io"), everywhere=True
    )
    probe = {"verb": "create", "resource": "tokenreviews", "group": "authentication.k8s.io"}
    assert await eventually(lambda: allowed(workload, **probe))
    assert (await workload.post(path, {"spec": {"token": token}})).status == 201


async def test_wildcards_and_group_subjects(api: Api, workload: Api, maps: str, namespace: str) -> None:
    path, name = f"{RBAC}/namespaces/{namespace}", unique("contract")
    rules = [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]
    await api.make(f"{path}/roles", {"metadata": {"name": name}, "rules": rules})
    group = {
        "kind": "Group",
        "apiGroup": "rbac.authorization.k8s.io",
        "name": f"system:serviceaccounts:{namespace}",
    }
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
    body = {"metadata": {"name": name}, "roleRef": reference, "subjects": [group]}
    await api.make(f"{path}/rolebindings", body)
    assert await eventually(lambda: allowed(workload, verb="delete", resource="secrets", namespace=namespace))
    assert (await workload.post(maps, config_map("one"))).status == 201
    assert (await workload.get("/api/v1/configmaps")).status == 403


async def test_withdrawing_a_binding_withdraws_the_right(
    api: Api, workload: Api, maps: str, namespace: str
) -> None:
    await grant(api, namespace, rule("list", "configmaps"))
    probe = {"verb": "list", "resource": "configmaps", "namespace": namespace}
    assert await eventually(lambda: allowed(workload, **probe))
    await api.delete(f"{RBAC}/namespaces/{namespace}/rolebindings")

    async def withdrawn() -> bool:
        return not await allowed(workload, **probe)

    assert await eventually(withdrawn)
    assert (await workload.get(maps)).status == 403


async def test_permission_is_checked_before_existence(workload: Api, maps: str, namespace: str) -> None:
    for path in (
        f"{maps}/none",
        f"/api/v1/namespaces/{namespace}-none/configmaps/x",
        "/apis/nope.example/v1/things",
    ):
        assert (await workload.get(path)).status == 403


async def test_own_rules_can_be_listed(api: Api, workload: Api, namespace: str) -> None:
    await grant(api, namespace, rule("get", "configmaps", names="mine"))
    probe = {"verb": "get", "resource": "configmaps", "namespace": namespace, "name": "mine"}
    assert await eventually(lambda: allowed(workload, **probe))
    made = await workload.make(f"{REVIEW}/selfsubjectrulesreviews", {"spec": {"namespace": namespace}})
    assert made["status"]["incomplete"] is False
    wanted = {"verbs": ["get"], "apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["mine"]}
    assert wanted in made["status"]["resourceRules"]
    urls = [url for entry in made["status"]["nonResourceRules"] for url in entry["nonResourceURLs"]]
    assert "/openid/v1/jwks" in urls
    refused = await workload.post(f"{REVIEW}/selfsubjectrulesreviews", {"spec": {}})
    assert refused.status == 400


async def test_an_administrator_asks_for_others(api: Api, namespace: str) -> None:
    await grant(api, namespace, rule("get", "configmaps"))
    user = f"system:serviceaccount:{namespace}:app"

    async def asked(verb: str) -> bool:
        attributes = {"verb": verb, "resource": "configmaps", "namespace": namespace}
        spec = {"user": user, "resourceAttributes": attributes}
        return bool((await api.make(f"{REVIEW}/subjectaccessreviews", {"spec": spec}))["status"]["allowed"])

    assert await eventually(lambda: asked("get"))
    assert not await asked("delete")
    path = {"path": "/healthz", "verb": "get"}
    spec = {"user": "x", "groups": ["system:unauthenticated"], "nonResourceAttributes": path}
    made = await api.make(f"{REVIEW}/subjectaccessreviews", {"spec": spec})
    assert made["status"]["allowed"] is True


@pytest.mark.parametrize(
    "spec", [{}, {"resourceAttributes": {"verb": "get"}, "nonResourceAttributes": {"path": "/"}}]
)
async def test_a_review_asks_for_exactly_one_thing(api: Api, spec: dict[str, Any]) -> None:
    refused = await api.post(f"{REVIEW}/selfsubjectaccessreviews", {"spec": spec})
    assert (refused.status, refused.reason) == (422, "Invalid")


async def test_the_role_of_a_binding_cannot_change(api: Api, namespace: str) -> None:
    await grant(api, namespace, rule("get", "configmaps"))
    bindings = f"{RBAC}/namespaces/{namespace}/rolebindings"
    found = (await api.get(bindings)).json["items"][0]
    found["roleRef"]["name"] = "other"
    refused = await api.put(f"{bindings}/{found['metadata']['name']}", found)
    assert (refused.status, refused.reason) == (422, "Invalid")
