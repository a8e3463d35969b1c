"""Resource requests other than watches: from a request's parts to an answer's bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from federation_sandbox.apiserver import patches, requests
from federation_sandbox.apiserver.admission import SIGNERS
from federation_sandbox.apiserver.authentication import ServiceAccountTokens, User
from federation_sandbox.apiserver.faults import Faults, Gone
from federation_sandbox.apiserver.lists import Selection, list_objects
from federation_sandbox.apiserver.rbac import Access, Rbac
from federation_sandbox.apiserver.requests import RequestInfo, View, check_view, is_true
from federation_sandbox.apiserver.resources import CERTIFICATES, PODS, SERVICE_ACCOUNTS, Resource
from federation_sandbox.apiserver.status import (
    CONTINUE_EXPIRED,
    bad_request,
    expired,
    invalid,
    method_not_allowed,
    no_such_resource,
    not_found,
    not_implemented,
    success,
    unsupported_media_type,
)
from federation_sandbox.apiserver.store import Obj, Store, check_type, encode, timestamp
from federation_sandbox.apiserver.tables import Tables
from federation_sandbox.apiserver.writes import DeleteOptions, Target, Writes


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One authenticated and authorized request."""

    info: RequestInfo
    query: Mapping[str, str]
    user: User
    view: View
    content_type: str
    user_agent: str
    body: bytes

    @property
    def manager(self) -> str:
        """The field manager: what the client says, or the beginning of its user agent."""
        return self.query.get("fieldManager") or self.user_agent.partition("/")[0] or "unknown"


Reply = tuple[int, bytes]

_OF_A_KUBELET: Final = {
    "log": "logs",
    "exec": "processes",
    "attach": "processes",
    "proxy": "ports",
}
"""What a pod has once a kubelet runs it, by the subresource that reaches it."""


def _no_kubelet(info: RequestInfo) -> str:
    what = _OF_A_KUBELET[info.subresource]
    return (
        f'pod "{info.name}" has no {what}: this is a cluster in a box, an API server alone; '
        "no kubelet runs containers in it, and none ever ran"
    )


class Rest:
    """Gets, lists and writes of every resource in the table."""

    def __init__(
        self,
        store: Store,
        writes: Writes,
        tokens: ServiceAccountTokens,
        faults: Faults,
        rbac: Rbac,
        *,
        tables: Tables,
    ) -> None:
        self._rbac = rbac
        self._tables = tables
        self._store = store
        self._writes = writes
        self._tokens = tokens
        self._faults = faults
        self._verbs: dict[str, Callable[[Resource, Call], Reply]] = {
            "get": self._get,
            "list": self._list,
            "create": self._create,
            "update": self._update,
            "patch": self._patch,
            "delete": self._delete,
            "deletecollection": self._delete_collection,
        }

    def answer(self, resource: Resource, call: Call) -> Reply:
        """The code and body for a request. Raises ApiError."""
        info = call.info
        if resource == SERVICE_ACCOUNTS and info.subresource == "token" and info.verb == "create":
            return self._token(call)
        handler = self._verbs.get(info.verb)
        if resource == PODS and info.subresource in _OF_A_KUBELET:
            raise not_implemented(_no_kubelet(info))
        if info.subresource and info.subresource not in resource.subresources:
            raise no_such_resource()
        misplaced = resource.namespaced and not info.namespace and info.verb not in {"list", "watch"}
        if handler is None or misplaced or (info.verb == "create" and not info.collection):
            raise method_not_allowed()
        return handler(resource, call)

    def _get(self, resource: Resource, call: Call) -> Reply:
        check_view(call.view, resource, is_list=False)
        namespace = call.info.namespace if resource.namespaced else ""
        stored = self._store.get(resource, namespace, call.info.name)
        if stored is None:
            raise not_found(resource, call.info.name)
        if call.view is View.TABLE:
            return 200, self._tables.one(resource, stored.value)
        return 200, stored.raw if call.view is View.OBJECT else stored.partial

    def _list(self, resource: Resource, call: Call) -> Reply:
        check_view(call.view, resource, is_list=True)
        if call.query.get("continue") and (gone := self._faults.find(Gone, call.info)) is not None:
            gone[0].strike()
            raise expired(CONTINUE_EXPIRED)
        selection = Selection.read(resource, call.info.namespace if resource.namespaced else "", call.query)
        return 200, list_objects(self._store, selection, call.query, call.view, self._tables)

    def _create(self, resource: Resource, call: Call) -> Reply:
        obj = check_type(resource, requests.read_object(call.body, call.content_type, resource.kind))
        return 201, self._show(resource, call, self._writes.create(self._target(resource, call), obj))

    def _update(self, resource: Resource, call: Call) -> Reply:
        obj = check_type(resource, requests.read_object(call.body, call.content_type, resource.kind))
        value, created = self._writes.update(self._target(resource, call), obj)
        return (201 if created else 200), self._show(resource, call, value)

    def _patch(self, resource: Resource, call: Call) -> Reply:
        target, kind = self._target(resource, call), requests.media_type(call.content_type)
        if kind == requests.APPLY:
            return self._apply(resource, call, target)
        change: Callable[[Obj, Any], Any]
        if kind == requests.JSON_PATCH:
            change = patches.json_patch
        elif kind == requests.MERGE_PATCH:
            change = patches.merge_patch
        elif kind == requests.STRATEGIC_MERGE_PATCH and resource.strategic:
            change = patches.strategic_merge
        else:
            raise unsupported_media_type()
        body = requests.read_json(call.body, resource.kind)
        if change is not patches.json_patch and not isinstance(body, dict):
            raise bad_request("error decoding patch: not an object")
        value = self._writes.patch(target, lambda obj: change(obj, body))
        return 200, self._show(resource, call, value)

    def _apply(self, resource: Resource, call: Call, target: Target) -> Reply:
        if not call.query.get("fieldManager"):
            problem = "Required value: is required for apply patch"
            raise invalid(
                "PatchOptions", "meta.k8s.io", "", "fieldManager", problem, reason="FieldValueRequired"
            )
        config = check_type(resource, requests.read_apply(call.body))
        value, created = self._writes.apply(target, config, force=is_true(call.query, "force"))
        return (201 if created else 200), self._show(resource, call, value)

    def _delete(self, resource: Resource, call: Call) -> Reply:
        value, gone = self._writes.delete(self._target(resource, call), self._delete_options(call))
        if gone and not resource.returns_deleted:
            return 200, encode(success(resource, call.info.name, value["metadata"]["uid"]))
        return 200, self._show(resource, call, value)

    def _delete_collection(self, resource: Resource, call: Call) -> Reply:
        options = self._delete_options(call)
        selection = Selection.read(resource, call.info.namespace, call.query)
        found = [
            stored for stored in self._store.all(resource, call.info.namespace) if selection.takes(stored)
        ]
        for stored in found:
            self._writes.delete(self._target(resource, call, stored.name), options)
        head = {"kind": f"{resource.kind}List", "apiVersion": resource.api_version}
        items = [stored.value for stored in found]
        return 200, encode(
            head | {"metadata": {"resourceVersion": str(self._store.revision)}, "items": items}
        )

    def _delete_options(self, call: Call) -> DeleteOptions:
        body = requests.read_json(call.body, "DeleteOptions") if call.body.strip() else None
        if body is not None and not isinstance(body, dict):
            raise bad_request("the object provided is unrecognized (must be of type DeleteOptions)")
        return DeleteOptions.read(body, call.query.get("gracePeriodSeconds", ""))

    def _token(self, call: Call) -> Reply:
        info = call.info
        body = requests.read_object(call.body, call.content_type, "TokenRequest")
        if not isinstance(body, dict) or body.get("kind", "TokenRequest") != "TokenRequest":
            raise bad_request("the object provided is unrecognized (must be of type TokenRequest)")
        token, expires, spec = self._tokens.request(info.namespace, info.name, body.get("spec") or {})
        status = {"token": token, "expirationTimestamp": timestamp(expires)}
        head = {"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1"}
        meta = {"name": info.name, "namespace": info.namespace}
        return 201, encode(head | {"metadata": meta, "spec": spec, "status": status})

    def _target(self, resource: Resource, call: Call, name: str = "") -> Target:
        info = call.info
        dry_run = call.query.get("dryRun", "")
        if dry_run not in {"", "All"}:
            raise bad_request(f'dryRun: Unsupported value: "{dry_run}": supported values: "All"')
        return Target(
            resource=resource,
            namespace=info.namespace if resource.namespaced else "",
            name=name or info.name,
            user=call.user,
            manager=call.manager,
            subresource=info.subresource,
            dry_run=bool(dry_run),
            check_create=lambda: self._rbac.check(call.user, replace(info, verb="create")),
            attests=lambda name: self._rbac.allows(
                call.user, Access(verb="attest", group=CERTIFICATES, resource=SIGNERS, name=name)
            ),
        )

    def _show(self, resource: Resource, call: Call, value: Obj) -> bytes:
        check_view(call.view, resource, is_list=False)
        if call.view is View.OBJECT:
            return encode(value)
        if call.view is View.TABLE:
            return self._tables.one(resource, value)
        return encode(
            {"kind": call.view.value, "apiVersion": "meta.k8s.io/v1", "metadata": value["metadata"]}
        )
