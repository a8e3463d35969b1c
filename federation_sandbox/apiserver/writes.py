"""Create, replace, patch and delete: every change of an object goes through here and through nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from federation_sandbox.apiserver import admission, field_ownership
from federation_sandbox.apiserver.authentication import User
from federation_sandbox.apiserver.field_ownership import Manager, apply
from federation_sandbox.apiserver.resources import NAMESPACES, PODS, Resource
from federation_sandbox.apiserver.status import (
    ApiError,
    already_exists,
    bad_request,
    conflict,
    invalid,
    not_found,
)
from federation_sandbox.apiserver.store import (
    Obj,
    Store,
    Stored,
    check_name,
    generated_name,
    metadata,
    new_uid,
    timestamp,
)

_SERVER_SET = (
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "selfLink",
    "generation",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Which object a write is about, who writes and how it is recorded."""

    resource: Resource
    namespace: str
    name: str
    user: User
    manager: str
    subresource: str = ""
    dry_run: bool = False
    check_create: Callable[[], None] = lambda: None  # raises 403 where an apply or PUT may not create
    attests: admission.Attests = lambda _: True  # for which signers the writer may attest

    def as_manager(self, operation: field_ownership.Operation) -> Manager:
        """The managedFields entry this write belongs to."""
        return Manager(self.manager, operation, self.resource.api_version, self.subresource)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteOptions:
    """The part of ``meta/v1 DeleteOptions`` that changes what happens here."""

    uid: str = ""
    resource_version: str = ""
    grace_seconds: int | None = None

    @classmethod
    def read(cls, body: Any, query_grace: str) -> DeleteOptions:
        """From a DELETE's body and its ``gracePeriodSeconds`` parameter. Raises ApiError 400."""
        body = body or {}
        grace = query_grace or body.get("gracePeriodSeconds")
        preconditions = body.get("preconditions") or {}
        try:
            seconds = None if grace is None else int(grace)
        except (TypeError, ValueError):
            raise bad_request("gracePeriodSeconds must be an integer") from None
        return cls(
            uid=preconditions.get("uid") or "",
            resource_version=preconditions.get("resourceVersion") or "",
            grace_seconds=seconds,
        )


class Writes:
    """All writes of one cluster."""

    def __init__(self, store: Store, now: Callable[[], datetime]) -> None:
        self._store = store
        self._now = now
        self.on_namespace_created: Callable[[str], None] = lambda _: None
        self.on_namespace_terminating: Callable[[str], None] = lambda _: None

    def create(self, target: Target, obj: Obj) -> Obj:
        """POST: a new object, named by itself or by the server. Raises ApiError."""
        resource, meta = target.resource, metadata(obj)
        self._settle_identity(target, meta)
        name = meta["name"]
        if resource.namespaced:
            admission.check_namespace(self._store, resource, target.namespace, name)
        check_name(resource, name)
        if meta.get("resourceVersion"):
            raise bad_request("resourceVersion should not be set on objects to be created")
        for field in (*_SERVER_SET, "resourceVersion", "managedFields"):
            meta.pop(field, None)
        admission.prepare_create(self._store, resource, obj, target.user)
        admission.prepare(resource, obj)
        field_ownership.record_update({}, obj, target.as_manager("Update"), timestamp(self._now()))
        return self._insert(target, obj)

    def _settle_identity(self, target: Target, meta: Obj) -> None:
        if target.resource.namespaced:
            if meta.setdefault("namespace", target.namespace) != target.namespace:
                raise bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request"
                )
        elif meta.pop("namespace", ""):
            raise bad_request("namespace is not allowed on this type")
        if not meta.get("name") and meta.get("generateName"):
            meta["name"] = generated_name(meta["generateName"])
        meta.setdefault("name", "")

    def _insert(self, target: Target, obj: Obj) -> Obj:
        resource, meta = target.resource, metadata(obj)
        if admission.is_trust_bundle(resource):
            admission.check_create(resource, obj, target.attests)
        if (
            self._store.get(resource, target.namespace if resource.namespaced else "", meta["name"])
            is not None
        ):
            raise already_exists(resource, meta["name"])
        meta["uid"] = new_uid()
        meta["creationTimestamp"] = timestamp(self._now())
        if resource == PODS or not resource.strategic:
            meta["generation"] = 1
        if target.dry_run:
            return obj
        created = self._store.put(resource, obj)
        if resource == NAMESPACES:
            self.on_namespace_created(created.name)
        return created.value

    def update(self, target: Target, obj: Obj) -> tuple[Obj, bool]:
        """PUT: replace an object; True where it was created. Raises ApiError."""
        meta = metadata(obj)
        self._settle_identity(target, meta)
        if meta["name"] != target.name:
            raise bad_request(_name_mismatch(meta["name"], target.name))
        live = self._live(target, required=not target.resource.put_creates)
        if live is not None and target.resource.needs_version and not meta.get("resourceVersion"):
            problem = "Invalid value: 0: must be specified for an update"
            kind = target.resource.plural
            raise invalid(kind, target.resource.group, target.name, "metadata.resourceVersion", problem)
        if live is None:
            if meta.get("uid"):
                raise conflict(
                    target.resource, target.name, f"Precondition failed: UID in precondition: {meta['uid']}"
                )
            meta.pop("resourceVersion", None)
            target.check_create()
            return self.create(target, obj), True
        return self._replace(target, live, obj), False

    def patch(self, target: Target, change: Callable[[Obj], Any]) -> Obj:
        """PATCH other than apply: ``change`` gets a copy and returns the new object. Raises ApiError."""
        live = self._live(target)
        assert live is not None  # noqa: S101 - _live raised if it is required and missing
        patched = change(live.copy())
        if not isinstance(patched, dict) or not isinstance(patched.get("metadata"), dict):
            raise ApiError(422, "Invalid", "the patch does not leave an object", details={})
        if metadata(patched).get("name") != target.name:
            raise bad_request(_name_mismatch(str(metadata(patched).get("name")), target.name))
        return self._replace(target, live, patched)

    def apply(self, target: Target, config: Obj, *, force: bool) -> tuple[Obj, bool]:
        """PATCH by server-side apply; True where the object was created. Raises ApiError."""
        meta = metadata(config)
        if meta.get("managedFields"):
            raise bad_request("metadata.managedFields must be nil")
        if meta.get("name") and meta["name"] != target.name:
            raise bad_request(_name_mismatch(meta["name"], target.name))
        meta["name"] = target.name
        self._settle_identity(target, meta)
        live = self._live(target, required=bool(target.subresource))
        version = meta.pop("resourceVersion", "")
        for field in _SERVER_SET[1:]:
            meta.pop(field, None)
        if target.subresource:
            config = {
                key: config[key]
                for key in ("apiVersion", "kind", "metadata", target.subresource)
                if key in config
            }
        elif target.resource.has_status:
            config.pop("status", None)
        now, manager = timestamp(self._now()), target.as_manager("Apply")
        if live is None:
            if version or meta.get("uid"):
                raise conflict(target.resource, target.name)
            target.check_create()
            if target.resource.namespaced:
                admission.check_namespace(self._store, target.resource, target.namespace, target.name)
            check_name(target.resource, target.name)
            applied = apply({}, config, manager, force=force, now=now)
            admission.prepare_create(self._store, target.resource, applied, target.user)
            admission.prepare(target.resource, applied)
            return self._insert(target, applied), True
        self._check_version(target, live, version)
        if meta.get("uid") not in {None, "", live.uid}:
            raise conflict(target.resource, target.name, _uid_mismatch(meta["uid"], live.uid))
        applied = apply(live.value, config, manager, force=force, now=now)
        return self._commit(target, live, applied), False

    def delete(self, target: Target, options: DeleteOptions) -> tuple[Obj, bool]:
        """DELETE: the last or the terminating state; True where the object is gone. Raises ApiError."""
        live = self._live(target)
        assert live is not None  # noqa: S101 - _live raised if it is required and missing
        if options.uid and options.uid != live.uid:
            raise conflict(target.resource, target.name, _uid_mismatch(options.uid, live.uid, "precondition"))
        if options.resource_version and options.resource_version != str(live.revision):
            given = options.resource_version
            why = f"the ResourceVersion in the precondition ({given}) does not match the one in record"
            raise conflict(target.resource, target.name, why)
        if target.dry_run:
            return live.value, True
        grace = self._grace(target.resource, live, options)
        if grace or metadata(live.value).get("finalizers") or _namespace_finalizers(target.resource, live):
            return self._begin_deletion(target.resource, live, grace), False
        return self._store.remove(target.resource, live.namespace, live.name).value, True

    def _grace(self, resource: Resource, live: Stored, options: DeleteOptions) -> int:
        """Only scheduled pods that still run end gracefully (core/v1 pod strategy, CheckGracefulDelete)."""
        if resource != PODS:
            return 0
        spec, phase = live.value["spec"], live.value.get("status", {}).get("phase")
        if not spec.get("nodeName") or phase in {"Succeeded", "Failed"}:
            return 0
        asked = options.grace_seconds
        return int(spec.get("terminationGracePeriodSeconds", 30)) if asked is None else max(0, asked)

    def _begin_deletion(self, resource: Resource, live: Stored, grace: int) -> Obj:
        if "deletionTimestamp" in metadata(live.value) and grace >= metadata(live.value).get(
            "deletionGracePeriodSeconds", 0
        ):
            return live.value
        obj = live.copy()
        metadata(obj)["deletionTimestamp"] = timestamp(self._now() + timedelta(seconds=grace))
        if resource != NAMESPACES:
            metadata(obj)["deletionGracePeriodSeconds"] = grace
        else:
            obj["status"] = {"phase": "Terminating"}
        stored = self._store.put(resource, obj)
        if resource == NAMESPACES:
            self.on_namespace_terminating(live.name)
        return stored.value

    def _live(self, target: Target, *, required: bool = True) -> Stored | None:
        namespace = target.namespace if target.resource.namespaced else ""
        live = self._store.get(target.resource, namespace, target.name)
        if live is None and required:
            raise not_found(target.resource, target.name)
        return live

    def _check_version(self, target: Target, live: Stored, version: str) -> None:
        if version and version != str(live.revision):
            raise conflict(target.resource, target.name)

    def _replace(self, target: Target, live: Stored, obj: Obj) -> Obj:
        """A whole new value for an object: version and identity checked, status and metadata kept apart."""
        resource, meta, old = target.resource, metadata(obj), live.value
        self._check_version(target, live, meta.get("resourceVersion", ""))
        if meta.get("uid") not in {None, "", live.uid}:
            raise conflict(
                resource, target.name, f"Precondition failed: {_uid_mismatch(meta['uid'], live.uid)}"
            )
        if target.subresource:
            obj = self._only_subresource(target, live, obj)
            meta = metadata(obj)
        else:
            admission.keep_status(resource, old, obj)
        for field in (*_SERVER_SET, "managedFields"):
            meta.pop(field, None)
            if field in metadata(old):
                meta[field] = metadata(old)[field]
        admission.prepare(resource, obj)
        field_ownership.record_update(old, obj, target.as_manager("Update"), timestamp(self._now()))
        return self._commit(target, live, obj)

    def _only_subresource(self, target: Target, live: Stored, obj: Obj) -> Obj:
        changed = live.copy()
        if target.subresource == "finalize":
            changed["spec"] = obj.get("spec", {})
        else:
            changed["status"] = obj.get("status", {})
        return changed

    def _commit(self, target: Target, live: Stored, obj: Obj) -> Obj:
        """Store a new value unless nothing changed, and finish a deletion whose last finalizer went."""
        meta, old = metadata(obj), metadata(live.value)
        meta["resourceVersion"] = str(live.revision)
        admission.prepare(target.resource, obj)
        if admission.is_trust_bundle(target.resource):
            admission.check_update(target.resource, live.value, obj, target.attests)
        if obj == live.value or target.dry_run:
            return obj
        if "generation" in old and obj.get("spec") != live.value.get("spec"):
            meta["generation"] = old["generation"] + 1
        if (
            "deletionTimestamp" in old
            and not meta.get("finalizers")
            and not old.get("deletionGracePeriodSeconds")
        ):
            pending = obj.get("spec", {}).get("finalizers") if target.resource == NAMESPACES else ()
            if not pending:
                self._store.remove(target.resource, live.namespace, live.name)
                return obj
        if self._immutable(target.resource, live, obj):
            field = "roleRef"
            raise invalid(
                target.resource.kind, target.resource.group, target.name, field, "cannot change roleRef"
            )
        return self._store.put(target.resource, obj).value

    def _immutable(self, resource: Resource, live: Stored, obj: Obj) -> bool:
        return resource.kind.endswith("RoleBinding") and obj.get("roleRef") != live.value.get("roleRef")


def _namespace_finalizers(resource: Resource, live: Stored) -> bool:
    return resource == NAMESPACES and bool(live.value.get("spec", {}).get("finalizers"))


def _name_mismatch(given: str, name: str) -> str:
    return f"the name of the object ({given}) does not match the name on the URL ({name})"


def _uid_mismatch(given: str, actual: str, where: str = "precondition") -> str:
    return (
        f"the UID in the {where} ({given}) does not match the UID in record ({actual}). "
        "The object might have been deleted and then recreated"
    )
