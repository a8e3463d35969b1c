"""Real API servers take every object, and the member's grants are enough, each of them needed, and no more.

Runs against the first kubeconfig of FEDERATION_REAL_KUBECONFIGS, in a namespace and with cluster roles of its
own names, so that nothing else there is disturbed; everything is deleted again.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from federation.core.config.clusters import ClusterTimeouts, Credentials
from federation.core.errors import ClusterError, ClusterForbidden, ClusterNotFound
from federation.core.identity import ClusterName
from federation.kubernetes.session import ClusterSession
from federation.runtime.clock import SystemClock
from tests.manifests.kustomize import Object
from tests.manifests.test_member import Grant, grants
from tests.manifests.tree import ROLES, TREES, Tree

KUBECONFIGS = [part for part in os.environ.get("FEDERATION_REAL_KUBECONFIGS", "").split(":") if part]
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not KUBECONFIGS, reason="FEDERATION_REAL_KUBECONFIGS names no real API server"),
]
JSON_OR_KEYS = "application/json, application/jwk-set+json"
APPLY = {"content_type": "application/apply-patch+yaml"}
PLURALS = {
    "Namespace": "namespaces",
    "ServiceAccount": "serviceaccounts",
    "ConfigMap": "configmaps",
    "Secret": "secrets",
    "Service": "services",
    "PersistentVolumeClaim": "persistentvolumeclaims",
    "Deployment": "deployments",
    "PodDisruptionBudget": "poddisruptionbudgets",
    "NetworkPolicy": "networkpolicies",
    "ClusterRole": "clusterroles",
    "ClusterRoleBinding": "clusterrolebindings",
    "Role": "roles",
    "RoleBinding": "rolebindings",
    "ValidatingAdmissionPolicy": "validatingadmissionpolicies",
    "ValidatingAdmissionPolicyBinding": "validatingadmissionpolicybindings",
}
# Every authenticated account has these from the API server's own bootstrap roles, so taking them from ours
# shows nothing there. They stay in ours for clusters that have cut those roles down.
BOOTSTRAP = {"selfsubjectaccessreviews", "/version", "/.well-known/openid-configuration", "/openid/v1/jwks"}


def path_of(item: Object) -> str:
    version = item["apiVersion"]
    prefix = f"/apis/{version}" if "/" in version else f"/api/{version}"
    namespace = item["metadata"].get("namespace")
    place = f"/namespaces/{namespace}" if namespace else ""
    return f"{prefix}{place}/{PLURALS[item['kind']]}/{item['metadata']['name']}"


async def open_session(kubeconfig: Path) -> ClusterSession:
    return await ClusterSession.open(
        Credentials(kubeconfig=kubeconfig),
        cluster=ClusterName("real"),
        timeouts=ClusterTimeouts(),
        clock=SystemClock(),
    )


async def apply(session: ClusterSession, item: Object, **params: str) -> Any:
    params = {"fieldManager": "manifests-test", "force": "true", **params}
    answer = await session.request(
        "PATCH",
        path_of(item),
        params=params,
        body=msgspec.json.encode(item),
        content_type=APPLY["content_type"],
    )
    return msgspec.json.decode(answer)


@pytest.fixture
async def admin() -> AsyncIterator[ClusterSession]:
    async with await open_session(Path(KUBECONFIGS[0])) as session:
        yield session


@pytest.mark.parametrize("name", TREES)
async def test_a_real_api_server_takes_every_object_strictly(admin: ClusterSession, name: str) -> None:
    for item in Tree.of(name).objects:
        if "namespace" in item["metadata"]:
            item["metadata"]["namespace"] = (
                "default"  # a dry run creates no namespace that others could be in
            )
        taken = await apply(admin, item, dryRun="All", fieldValidation="Strict")
        assert taken["metadata"]["name"] == item["metadata"]["name"]


@pytest.mark.parametrize(
    ("path", "value"),
    [("replica", 2), ("replicas", "two"), ("template.spec.containers", [{"image": "app"}])],
)
async def test_the_own_validator_and_a_real_api_server_refuse_the_same(
    admin: ClusterSession, path: str, value: Any
) -> None:
    from tests.manifests.schema import problems

    item = copy.deepcopy(Tree.of("hub").deployment("signer"))
    item["metadata"]["namespace"] = "default"
    *parents, last = path.split(".")
    place = item["spec"]
    for name in parents:
        place = place[name]
    place[last] = value

    assert problems(item)
    with pytest.raises(ClusterError):
        await apply(admin, item, dryRun="All", fieldValidation="Strict")


@dataclass(frozen=True)
class Member:
    """The member tree under names of its own, and a session for each role's account."""

    admin: ClusterSession
    suffix: str
    roles: dict[str, Object]  # by the name in the tree
    sessions: dict[str, ClusterSession]

    @property
    def namespace(self) -> str:
        return f"federation-{self.suffix}"

    async def grant(self, role: Object) -> None:
        await apply(self.admin, role)

    async def token_of(self, account: str) -> str:
        path = f"/api/v1/namespaces/{self.namespace}/serviceaccounts/{account}/token"
        answer = await self.admin.request("POST", path, body=token_request())
        token: str = msgspec.json.decode(answer)["status"]["token"]
        return token


def token_request(*audiences: str) -> bytes:
    spec = {"audiences": list(audiences), "expirationSeconds": 600}
    return msgspec.json.encode(
        {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    )


@asynccontextmanager
async def opened_member(admin: ClusterSession, directory: Path) -> AsyncIterator[Member]:
    suffix = secrets.token_hex(4)
    member = Member(admin, suffix, {}, {})
    objects = copy.deepcopy(list(Tree.of("member").objects))
    for item in objects:
        rename(item, member.namespace, suffix)
    try:
        for item in objects:
            await apply(admin, item)
            if item["kind"] in {"ClusterRole", "Role"}:
                member.roles[item["metadata"]["name"].removesuffix(f"-{suffix}")] = item
        for role in ROLES:
            kubeconfig = write_kubeconfig(directory / role, await member.token_of(f"federation-{role}"))
            member.sessions[role] = await open_session(kubeconfig)
        yield member
    finally:
        for session in member.sessions.values():
            await session.close()
        published = [
            config_map("istio-ca-root-cert", namespace=member.namespace),
            secret("istiod-tls", namespace=member.namespace),
        ]
        for item in [*published, *reversed(objects)]:
            with suppress(ClusterNotFound):
                await admin.request("DELETE", path_of(item))
        await finish(admin, member.namespace)


async def finish(admin: ClusterSession, namespace: str) -> None:
    """Wait for the deletion; a bare API server has no controller that would finish it, so do it here."""
    path = f"/api/v1/namespaces/{namespace}"
    with suppress(ClusterNotFound):
        for _ in range(10):
            left = msgspec.json.decode(await admin.get(path))
            await asyncio.sleep(0.1)
        left["spec"]["finalizers"] = []
        await admin.request("PUT", f"{path}/finalize", body=msgspec.json.encode(left))


def rename(item: Object, namespace: str, suffix: str) -> None:
    """The same object in another namespace; what has no namespace gets another name."""
    metadata = item["metadata"]
    if item["kind"] == "Namespace":
        metadata["name"] = namespace
    elif "namespace" in metadata:
        metadata["namespace"] = namespace
    else:
        metadata["name"] += f"-{suffix}"
    if item["kind"] == "ClusterRoleBinding":
        item["roleRef"]["name"] += f"-{suffix}"
    for subject in item.get("subjects", []):
        subject["namespace"] = namespace


def write_kubeconfig(path: Path, token: str) -> Path:
    """The admin's kubeconfig with nothing but the server and its CA left, and this token."""
    admin = yaml.safe_load(Path(KUBECONFIGS[0]).read_text())
    cluster = dict(admin["clusters"][0]["cluster"])
    if "certificate-authority" in cluster:
        authority = Path(cluster.pop("certificate-authority")).read_bytes()
        cluster["certificate-authority-data"] = base64.b64encode(authority).decode()
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "member",
        "clusters": [{"name": "member", "cluster": cluster}],
        "users": [{"name": "role", "user": {"token": token}}],
        "contexts": [{"name": "member", "context": {"cluster": "member", "user": "role"}}],
    }
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture
async def member(admin: ClusterSession, tmp_path: Path) -> AsyncIterator[Member]:
    async with opened_member(admin, tmp_path) as opened:
        yield opened


async def use(member: Member, role: str, grant: Grant) -> None:
    """Do what this grant is for, the way the role does it; raises ClusterForbidden without it."""
    session, (group, resource, name, verb) = member.sessions[role], grant
    place = f"namespaces/{member.namespace}/" if resource == "secrets" else ""  # that right is a Role's
    listed = f"/apis/{group}/v1/{resource}" if group else f"/api/v1/{place}{resource}"
    match resource, verb:
        case "tokenreviews" | "selfsubjectaccessreviews", "create":
            kind = {"tokenreviews": "TokenReview", "selfsubjectaccessreviews": "SelfSubjectAccessReview"}
            attributes = {"resourceAttributes": {"verb": "get", "resource": "pods"}}
            spec = {"token": "x"} if resource == "tokenreviews" else attributes
            body = {"apiVersion": f"{group}/v1", "kind": kind[resource], "spec": spec}
            await session.request("POST", f"/apis/{group}/v1/{resource}", body=msgspec.json.encode(body))
        case "serviceaccounts/token", "create":
            path = f"/api/v1/namespaces/{member.namespace}/serviceaccounts/{name}/token"
            await session.request("POST", path, body=token_request("istio-ca"))
        case "configmaps", "create" | "patch":
            await apply(session, config_map(name, namespace=member.namespace))
        case "secrets", "create" | "patch":
            await apply(session, secret(name, namespace=member.namespace))
        case _, "get" if resource.startswith("/"):
            await session.get(resource, accept=JSON_OR_KEYS)
        case _, "list":
            await session.get(listed, params=only(name))
        case _, "watch":
            params = {"watch": "1", "timeoutSeconds": "1", **only(name)}
            async with session.stream(listed, params=params, silence=10):
                pass
        case _:
            raise AssertionError(f"nothing here uses {grant}")


def only(name: str) -> dict[str, str]:
    return {"fieldSelector": f"metadata.name={name}"} if name else {}


def config_map(name: str, *, namespace: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace},
        "data": {"root-cert.pem": secrets.token_hex(8)},
    }


def secret(name: str, *, namespace: str) -> Object:
    return {**config_map(name, namespace=namespace), "kind": "Secret", "data": {}, "stringData": {"a": "b"}}


async def eventually(done: Callable[[], Awaitable[bool]], what: str) -> None:
    """The authorizer's cache follows a change of RBAC within moments."""
    for _ in range(6000):
        if await done():
            return
        await asyncio.sleep(0.05)
    pytest.fail(what)


async def may(member: Member, role: str, grant: Grant) -> bool:
    try:
        await use(member, role, grant)
    except ClusterForbidden:
        return False
    return True


async def may_not(member: Member, role: str, grant: Grant) -> bool:
    return not await may(member, role, grant)


def all_grants(member: Member) -> list[tuple[str, str, Grant]]:
    """(role, name of the RBAC object, grant), in an order in which each can be used."""
    signers = {"federation-signer", "federation-signer-tokens"}
    return [
        ("signer" if name in signers else "controller", name, grant)
        for name, item in member.roles.items()
        for grant in sorted(grants(item))
    ]


def without(role: Object, grant: Grant) -> Object:
    """The same role, one grant fewer."""
    group, resource, name, verb = grant
    left = [g for g in grants(role) if g != (group, resource, name, verb)]
    rules = [
        {"nonResourceURLs": [path], "verbs": [v]}
        if path.startswith("/")
        else {"apiGroups": [g], "resources": [path], "verbs": [v]} | ({"resourceNames": [n]} if n else {})
        for g, path, n, v in left
    ]
    return {**role, "rules": rules}


async def test_the_grants_of_a_member_are_enough(member: Member) -> None:
    used = all_grants(member)

    assert len(used) == 32  # every verb of every resource and URL, for both roles
    for role, _, grant in used:
        await eventually(partial(may, member, role, grant), f"the {role} cannot use {grant}")


async def test_without_any_one_grant_something_fails(member: Member) -> None:
    await eventually(partial(may, member, "signer", ("", "pods", "", "list")), "the grants never came")
    tried = 0
    for role, name, grant in all_grants(member):
        if grant[1] in BOOTSTRAP:
            continue
        if grant[3] == "create" and grant[1] == "configmaps":
            with suppress(ClusterNotFound):  # a patch of what is there needs no create
                await member.admin.request(
                    "DELETE", path_of(config_map(grant[2], namespace=member.namespace))
                )
        await member.grant(without(member.roles[name], grant))
        await eventually(partial(may_not, member, role, grant), f"the {role} can do without {grant}")
        await member.grant(member.roles[name])
        await eventually(partial(may, member, role, grant), f"{grant} did not come back")
        tried += 1
    assert tried == 26  # all but what every account may do anyway


FORBIDDEN = [
    *((role, "GET", f"/api/v1/{resource}", None) for role in ROLES for resource in ("secrets", "nodes")),
    *((role, "GET", "/api/v1/configmaps", None) for role in ROLES),
    *((role, "GET", "/apis/apps/v1/deployments", None) for role in ROLES),
    *((role, "GET", "/api/v1/namespaces/{namespace}/secrets/any", None) for role in ROLES),
    *((role, "GET", "/api/v1/namespaces/{namespace}/configmaps/any", None) for role in ROLES),
    *(
        (role, "DELETE", "/api/v1/namespaces/{namespace}/configmaps/istio-ca-root-cert", None)
        for role in ROLES
    ),
    *((role, "DELETE", "/api/v1/namespaces/{namespace}", None) for role in ROLES),
    *(
        (
            role,
            "POST",
            f"/api/v1/namespaces/{{namespace}}/serviceaccounts/federation-{account}/token",
            b"token",
        )
        for role, account in (
            ("signer", "controller"),
            ("signer", "probe"),
            ("controller", "signer"),
        )
    ),
    ("signer", "PATCH", "/api/v1/namespaces/{namespace}/configmaps/istio-ca-root-cert", b"apply"),
    ("signer", "GET", "/api/v1/namespaces/{namespace}/configmaps/istio-ca-root-cert", None),
    ("signer", "GET", "/api/v1/namespaces", None),
    ("controller", "PATCH", "/api/v1/namespaces/{namespace}/configmaps/other", b"apply"),
    ("controller", "POST", "/api/v1/namespaces/{namespace}/configmaps", b"apply"),
    ("controller", "POST", "/apis/authentication.k8s.io/v1/tokenreviews", b"{}"),
    ("controller", "GET", "/api/v1/pods", None),
    ("controller", "GET", "/api/v1/serviceaccounts", None),
    ("controller", "PATCH", "/api/v1/namespaces/{namespace}", b"apply"),
]


async def test_nothing_more_is_granted(member: Member) -> None:
    for role, method, template, kind in FORBIDDEN:
        path = template.format(namespace=member.namespace)
        body, content_type, params = kind, "application/json", {}
        if kind == b"token":
            body = token_request()
        elif kind == b"apply":
            name = path.rsplit("/", 1)[1] if method == "PATCH" else "istio-ca-root-cert"
            body = msgspec.json.encode(config_map(name, namespace=member.namespace))
            content_type = APPLY["content_type"] if method == "PATCH" else content_type
            params = {"fieldManager": "manifests-test"}
        with pytest.raises(ClusterForbidden):
            await member.sessions[role].request(
                method, path, body=body, content_type=content_type, params=params
            )
