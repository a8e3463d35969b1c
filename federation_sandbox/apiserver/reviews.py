"""Reviews: questions about tokens and permissions, asked by POST and answered in the object's status.

Source: the authentication.k8s.io/v1 and authorization.k8s.io/v1 API references.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from federation_sandbox.apiserver.authentication import (
    Authenticator,
    ServiceAccountTokens,
    TokenRejectedError,
    User,
)
from federation_sandbox.apiserver.rbac import Access, Rbac
from federation_sandbox.apiserver.status import bad_request, invalid
from federation_sandbox.apiserver.store import Obj

AUTHENTICATION: Final = "authentication.k8s.io"
AUTHORIZATION: Final = "authorization.k8s.io"
MOST_TOKENS: Final = 10_000


class Reviews:
    """Answers every kind of review."""

    def __init__(self, authenticator: Authenticator, rbac: Rbac, tokens: ServiceAccountTokens) -> None:
        self._authenticator = authenticator
        self._rbac = rbac
        self._tokens = tokens
        self.shown: deque[str] = deque(maxlen=MOST_TOKENS)
        """The tokens in the reviews that it got, valid or not: what a hostile member would collect."""
        self.kinds: dict[tuple[str, str], tuple[str, Callable[[Obj, User, str], Obj]]] = {
            (AUTHENTICATION, "tokenreviews"): ("TokenReview", self._token),
            (AUTHENTICATION, "selfsubjectreviews"): ("SelfSubjectReview", self._who),
            (AUTHORIZATION, "selfsubjectaccessreviews"): ("SelfSubjectAccessReview", self._own_access),
            (AUTHORIZATION, "subjectaccessreviews"): ("SubjectAccessReview", self._access),
            (AUTHORIZATION, "localsubjectaccessreviews"): ("LocalSubjectAccessReview", self._local_access),
            (AUTHORIZATION, "selfsubjectrulesreviews"): ("SelfSubjectRulesReview", self._own_rules),
        }

    def answer(self, group: str, plural: str, namespace: str, body: Any, user: User) -> Obj | None:
        """The reviewed object, or None where there is no such review. Raises ApiError."""
        found = self.kinds.get((group, plural))
        if found is None:
            return None
        kind, review = found
        if (
            not isinstance(body, dict)
            or body.get("kind", kind) != kind
            or not isinstance(body.get("spec", {}), dict)
        ):
            raise bad_request(f"the object provided is unrecognized (must be of type {kind})")
        spec: Obj = body.get("spec") or {}
        status = review(spec, user, namespace)
        return {"kind": kind, "apiVersion": f"{group}/v1", "metadata": {}, "spec": spec, "status": status}

    def _token(self, spec: Obj, _user: User, _namespace: str) -> Obj:
        token, audiences = spec.get("token"), spec.get("audiences") or []
        if not isinstance(token, str) or not token:
            raise bad_request("token is required for TokenReview in authentication")
        self.shown.append(token)
        try:
            user, shared = self._authenticator.review(token, audiences or self._tokens.audiences)
        except TokenRejectedError as why:
            return {"user": {}, "error": str(why)}
        return {"authenticated": True, "user": user.describe(), "audiences": list(shared)}

    def _who(self, _spec: Obj, user: User, _namespace: str) -> Obj:
        return {"userInfo": user.describe()}

    def _own_access(self, spec: Obj, user: User, _namespace: str) -> Obj:
        return {"allowed": self._rbac.allows(user, _wanted(spec, "SelfSubjectAccessReview"))}

    def _access(self, spec: Obj, _user: User, _namespace: str) -> Obj:
        name, groups = spec.get("user") or "", tuple(spec.get("groups") or ())
        wanted = _wanted(spec, "SubjectAccessReview")
        if not name and not groups:
            problem = 'Invalid value: "": at least one of user or group must be specified'
            raise invalid("SubjectAccessReview", AUTHORIZATION, "", "spec.user", problem)
        return {"allowed": self._rbac.allows(User(name, groups), wanted)}

    def _local_access(self, spec: Obj, user: User, namespace: str) -> Obj:
        if _wanted(spec, "LocalSubjectAccessReview").namespace != namespace:
            raise bad_request("spec.resourceAttributes.namespace must match the namespace of the request")
        return self._access(spec, user, namespace)

    def _own_rules(self, spec: Obj, user: User, _namespace: str) -> Obj:
        namespace = spec.get("namespace") or ""
        if not namespace:
            raise bad_request("no namespace on request")
        resources, paths = [], []
        for rule in self._rbac.rules(user, namespace):
            if rule.get("nonResourceURLs"):
                paths.append({key: rule[key] for key in ("verbs", "nonResourceURLs") if key in rule})
            else:
                keys = ("verbs", "apiGroups", "resources", "resourceNames")
                resources.append({key: rule[key] for key in keys if key in rule})
        return {"resourceRules": resources, "nonResourceRules": paths, "incomplete": False}


def _wanted(spec: Obj, kind: str) -> Access:
    resource, other = spec.get("resourceAttributes"), spec.get("nonResourceAttributes")
    if bool(resource) == bool(other):
        problem = (
            "Invalid value: exactly one of nonResourceAttributes or resourceAttributes must be specified"
        )
        raise invalid(kind, AUTHORIZATION, "", "spec.resourceAttributes", problem)
    if other:
        return Access(verb=other.get("verb", ""), path=other.get("path", ""))
    assert isinstance(resource, dict)  # noqa: S101 - exactly one of the two is set
    sub = resource.get("subresource") or ""
    return Access(
        verb=resource.get("verb") or "",
        group=resource.get("group") or "",
        resource=(resource.get("resource") or "") + (f"/{sub}" if sub else ""),
        namespace=resource.get("namespace") or "",
        name=resource.get("name") or "",
    )
