"""Failures of the API as ``meta/v1 Status`` objects, worded as kube-apiserver words them.

Source: k8s.io/apimachinery ``pkg/api/errors`` and the Status type of the API conventions ("Response Status
Kind").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from federation_sandbox.apiserver.resources import Resource

CONTINUE_EXPIRED = (
    "The provided continue parameter is too old to display a consistent list result. You can start a "
    "new list without the continue parameter, or use the continue token in this response to retrieve "
    "the remainder of the results. Continuing with the provided token results in an inconsistent list - "
    "objects that were created, modified, or deleted between the time the first chunk was returned and "
    "now may show up in the list."
)


class ApiError(Exception):
    """An answer other than success: an HTTP code and the Status object that goes with it."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        *,
        details: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details
        self.metadata = metadata or {}
        self.headers = headers or {}

    def status(self) -> dict[str, Any]:
        """The Status object of the body, or of an ERROR event."""
        body: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": dict(self.metadata),
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
        }
        if self.details is not None:
            body["details"] = dict(self.details)
        body["code"] = self.code
        return body


def _details(resource: Resource, name: str, **more: Any) -> dict[str, Any]:
    details: dict[str, Any] = {"name": name} if name else {}
    if resource.group:
        details["group"] = resource.group
    return details | {"kind": resource.plural} | more


def bad_request(message: str) -> ApiError:
    """400: the request cannot be understood."""
    return ApiError(400, "BadRequest", message)


def unauthorized() -> ApiError:
    """401: no credentials, or none that this cluster accepts."""
    return ApiError(401, "Unauthorized", "Unauthorized")


def forbidden(resource: Resource, name: str, why: str, causes: Sequence[Mapping[str, str]] = ()) -> ApiError:
    """403 by admission: the caller may, the object may not."""
    more = {"causes": list(causes)} if causes else {}
    subject = f'{resource.group_resource} "{name}"'
    return ApiError(
        403, "Forbidden", f"{subject} is forbidden: {why}", details=_details(resource, name, **more)
    )


def namespace_terminating(resource: Resource, name: str, namespace: str) -> ApiError:
    """403: nothing new may be created in a namespace that is being deleted (NamespaceLifecycle admission)."""
    cause = {
        "reason": "NamespaceTerminating",
        "message": f"namespace {namespace} is being terminated",
        "field": "metadata.namespace",
    }
    why = f"unable to create new content in namespace {namespace} because it is being terminated"
    return forbidden(resource, name, why, [cause])


def not_found(resource: Resource, name: str) -> ApiError:
    """404: no such object."""
    message = f'{resource.group_resource} "{name}" not found'
    return ApiError(404, "NotFound", message, details=_details(resource, name))


def no_such_resource() -> ApiError:
    """404: the group and version exist, the resource does not."""
    return ApiError(404, "NotFound", "the server could not find the requested resource", details={})


def method_not_allowed() -> ApiError:
    """405: the resource exists, the verb does not."""
    message = "the server does not allow this method on the requested resource"
    return ApiError(405, "MethodNotAllowed", message, details={})


def not_acceptable(message: str) -> ApiError:
    """406: no representation that the client accepts."""
    return ApiError(406, "NotAcceptable", message)


def already_exists(resource: Resource, name: str) -> ApiError:
    """409: the name is taken."""
    message = f'{resource.group_resource} "{name}" already exists'
    return ApiError(409, "AlreadyExists", message, details=_details(resource, name))


def conflict(resource: Resource, name: str, why: str = "") -> ApiError:
    """409: another client wrote first, or a precondition does not hold."""
    why = why or "the object has been modified; please apply your changes to the latest version and try again"
    message = f'Operation cannot be fulfilled on {resource.group_resource} "{name}": {why}'
    return ApiError(409, "Conflict", message, details=_details(resource, name))


def expired(message: str, *, continue_token: str = "") -> ApiError:
    """410: the resource version or continue token is older than the history that is kept."""
    return ApiError(
        410, "Expired", message, metadata={"continue": continue_token} if continue_token else None
    )


def too_large(limit: int) -> ApiError:
    """413: the body is larger than the server reads."""
    return ApiError(413, "RequestEntityTooLarge", f"Request entity too large: limit is {limit}", details={})


def unsupported_media_type() -> ApiError:
    """415: the content type is none the verb takes."""
    return ApiError(415, "UnsupportedMediaType", "415: Unsupported Media Type", details={})


def not_implemented(message: str) -> ApiError:
    """501: what a whole cluster could do and an API server alone cannot."""
    return ApiError(501, "NotImplemented", message, details={})


def invalid(
    kind: str, group: str, name: str, field: str, problem: str, *, reason: str = "FieldValueInvalid"
) -> ApiError:
    """422: the object breaks a rule of its type."""
    return invalid_fields(kind, group, name, [(field, problem)], reason=reason)


def invalid_fields(
    kind: str,
    group: str,
    name: str,
    problems: Sequence[tuple[str, str]],
    *,
    reason: str = "FieldValueInvalid",
) -> ApiError:
    """422 for several fields: each with what is wrong with it."""
    details: dict[str, Any] = {"name": name} if name else {}
    if group:
        details["group"] = group
    causes = [{"reason": reason, "message": problem, "field": field} for field, problem in problems]
    details |= {"kind": kind, "causes": causes}
    qualified = f"{kind}.{group}" if group else kind
    listed = [f"{field}: {problem}" for field, problem in problems]
    what = listed[0] if len(listed) == 1 else f"[{', '.join(listed)}]"
    return ApiError(422, "Invalid", f'{qualified} "{name}" is invalid: {what}', details=details)


def success(resource: Resource, name: str, uid: str) -> dict[str, Any]:
    """The Status that answers a completed deletion."""
    details = {
        "name": name,
        **({"group": resource.group} if resource.group else {}),
        "kind": resource.plural,
        "uid": uid,
    }
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
