"""Role-based access control, evaluated from the ClusterRoles, Roles and bindings in the store.

Source: k8s.io/kubernetes ``pkg/apis/rbac/v1/evaluation_helpers.go`` and ``plugin/pkg/auth/authorizer/rbac``.
There is no other authorizer: the admins are those whom the bootstrap binding of ``cluster-admin`` names (group
``system:masters``). Escalation checks on writing roles are not made: who may write roles here is an admin
of the test's world.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from federation_sandbox.apiserver.authentication import (
    AUTHENTICATED,
    MASTERS,
    SERVICE_ACCOUNT_GROUP,
    UNAUTHENTICATED,
    User,
    service_account_name,
)
from federation_sandbox.apiserver.requests import RequestInfo
from federation_sandbox.apiserver.resources import (
    CERTIFICATES,
    CLUSTER_ROLE_BINDINGS,
    CLUSTER_ROLES,
    RBAC,
    ROLE_BINDINGS,
    ROLES,
)
from federation_sandbox.apiserver.status import ApiError
from federation_sandbox.apiserver.store import Obj, Store

TRUST_BUNDLE_DISCOVERY = "system:cluster-trust-bundle-discovery"
"""Lets every service account read ClusterTrustBundles; real servers make it only where they serve them."""

Rule = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """One attempted action: on a resource, or on a path outside the resource API."""

    verb: str
    group: str = ""
    resource: str = ""  # with its subresource: pods/status
    namespace: str = ""
    name: str = ""
    path: str = ""

    @classmethod
    def of(cls, info: RequestInfo) -> Access:
        """What a request needs."""
        if not info.resource:
            return cls(verb=info.verb, path=info.path)
        return cls(
            verb=info.verb,
            group=info.group,
            resource=info.full_resource,
            namespace=info.namespace,
            name=info.name,
        )


def _has(values: Any, wanted: str) -> bool:
    return isinstance(values, list) and ("*" in values or wanted in values)


def rule_allows(rule: Rule, access: Access) -> bool:
    """Whether one rule grants the access."""
    if not _has(rule.get("verbs"), access.verb):
        return False
    if access.path:
        paths = rule.get("nonResourceURLs") or []
        return any(
            path == access.path or (path.endswith("*") and access.path.startswith(path[:-1]))
            for path in paths
        )
    _, _, subresource = access.resource.partition("/")
    resources = rule.get("resources") or []
    if not _has(resources, access.resource) and not (subresource and f"*/{subresource}" in resources):
        return False
    names = rule.get("resourceNames")
    return _has(rule.get("apiGroups"), access.group) and (not names or access.name in names)


class Rbac:
    """The authorizer of one cluster."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def allows(self, user: User, access: Access) -> bool:
        """Whether any rule bound to the user grants the access."""
        return any(rule_allows(rule, access) for rule in self.rules(user, access.namespace))

    def check(self, user: User, info: RequestInfo) -> None:
        """Raise ApiError 403, worded as kube-apiserver words it, unless the request is allowed."""
        access = Access.of(info)
        if not self.allows(user, access):
            raise _forbidden(user, info)

    def rules(self, user: User, namespace: str) -> Iterator[Rule]:
        """Every rule that binds the user in a namespace; with none given, cluster-wide ones only."""
        for binding in self._store.all(CLUSTER_ROLE_BINDINGS):
            if _binds(binding.value, user, ""):
                yield from self._role_rules(binding.value, "")
        if namespace:
            for binding in self._store.all(ROLE_BINDINGS, namespace):
                if _binds(binding.value, user, namespace):
                    yield from self._role_rules(binding.value, namespace)

    def _role_rules(self, binding: Mapping[str, Any], namespace: str) -> list[Rule]:
        reference = binding["roleRef"]
        if reference["kind"] == "Role":
            role = self._store.get(ROLES, namespace, reference["name"])
        else:
            role = self._store.get(CLUSTER_ROLES, "", reference["name"])
        return (role.value.get("rules") or []) if role is not None else []


def _binds(binding: Mapping[str, Any], user: User, namespace: str) -> bool:
    for subject in binding.get("subjects") or []:
        kind, name = subject.get("kind"), subject.get("name")
        if kind == "User" and name == user.name:
            return True
        if kind == "Group" and name in user.groups:
            return True
        if kind == "ServiceAccount":
            home = subject.get("namespace") or namespace
            if home and service_account_name(home, str(name)) == user.name:
                return True
    return False


def _forbidden(user: User, info: RequestInfo) -> ApiError:
    if not info.resource:
        message = f'forbidden: User "{user.name}" cannot {info.verb} path "{info.path}"'
        return ApiError(403, "Forbidden", message, details={})
    subject = f"{info.resource}.{info.group}" if info.group else info.resource
    named = f' "{info.name}"' if info.name else ""
    where = f'in the namespace "{info.namespace}"' if info.namespace else "at the cluster scope"
    message = (
        f'{subject}{named} is forbidden: User "{user.name}" cannot {info.verb} resource '
        f'"{info.full_resource}" in API group "{info.group}" {where}'
    )
    details = ({"name": info.name} if info.name else {}) | ({"group": info.group} if info.group else {})
    return ApiError(403, "Forbidden", message, details=details | {"kind": info.resource})


def _cluster_role(name: str, *rules: Obj) -> Obj:
    head = {"apiVersion": f"{RBAC}/v1", "kind": "ClusterRole"}
    labels = {"kubernetes.io/bootstrapping": "rbac-defaults"}
    return head | {"metadata": {"name": name, "labels": labels}, "rules": list(rules)}


def _bound_to(name: str, *groups: str) -> Obj:
    return {
        "apiVersion": f"{RBAC}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"}},
        "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": name},
        "subjects": [{"kind": "Group", "apiGroup": RBAC, "name": group} for group in groups],
    }


def bootstrap() -> list[Obj]:
    """The roles and bindings every cluster begins with (kube-apiserver's ``bootstrappolicy``)."""
    public = ["/healthz", "/livez", "/readyz", "/version", "/version/"]
    paths = ["/api", "/api/*", "/apis", "/apis/*", "/openapi", "/openapi/*", *public]
    issuer = [
        f"{path}{end}"
        for path in ("/.well-known/openid-configuration", "/openid/v1/jwks")
        for end in ("", "/")
    ]
    reviews = ["selfsubjectaccessreviews", "selfsubjectrulesreviews"]
    return [
        _cluster_role(
            "cluster-admin",
            {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]},
            {"verbs": ["*"], "nonResourceURLs": ["*"]},
        ),
        _bound_to("cluster-admin", MASTERS),
        _cluster_role("system:discovery", {"verbs": ["get"], "nonResourceURLs": paths}),
        _bound_to("system:discovery", AUTHENTICATED),
        _cluster_role("system:public-info-viewer", {"verbs": ["get"], "nonResourceURLs": public}),
        _bound_to("system:public-info-viewer", AUTHENTICATED, UNAUTHENTICATED),
        _cluster_role(
            "system:basic-user",
            {"verbs": ["create"], "apiGroups": ["authorization.k8s.io"], "resources": reviews},
            {
                "verbs": ["create"],
                "apiGroups": ["authentication.k8s.io"],
                "resources": ["selfsubjectreviews"],
            },
        ),
        _bound_to("system:basic-user", AUTHENTICATED),
        _cluster_role(
            "system:service-account-issuer-discovery", {"verbs": ["get"], "nonResourceURLs": issuer}
        ),
        _bound_to("system:service-account-issuer-discovery", SERVICE_ACCOUNT_GROUP),
        _cluster_role(
            TRUST_BUNDLE_DISCOVERY,
            {
                "verbs": ["get", "list", "watch"],
                "apiGroups": [CERTIFICATES],
                "resources": ["clustertrustbundles"],
            },
        ),
        _bound_to(TRUST_BUNDLE_DISCOVERY, SERVICE_ACCOUNT_GROUP),
        _cluster_role(
            "system:auth-delegator",
            {"verbs": ["create"], "apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"]},
            {
                "verbs": ["create"],
                "apiGroups": ["authorization.k8s.io"],
                "resources": ["subjectaccessreviews"],
            },
        ),
    ]
