"""What the server adds to objects and refuses of them: defaults, type rules and namespace life cycle.

Only the rules that the hub and its workloads can run into are here.
"""

from __future__ import annotations

import base64
import re
from typing import Any, Final

from cryptography import x509

from federation.sandbox.apiserver.objects import Obj, metadata
from federation.sandbox.apiserver.resources import (
    CERTIFICATE_SIGNING_REQUESTS,
    CONFIG_MAPS,
    NAMESPACES,
    PODS,
    SECRETS,
    SERVICE_ACCOUNTS,
    Resource,
)
from federation.sandbox.apiserver.status import (
    bad_request,
    forbidden,
    invalid,
    namespace_terminating,
    not_found,
)
from federation.sandbox.apiserver.store import Store
from federation.sandbox.apiserver.users import User

MAX_DATA_BYTES: Final = 1024 * 1024  # core/v1 MaxSecretSize: the sum of all values of a ConfigMap or Secret

_LABEL_VALUE: Final = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")
_LABEL_KEY: Final = re.compile(r"([a-z0-9][a-z0-9.-]{0,252}/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")

_POD_DEFAULTS: Final[Obj] = {
    "restartPolicy": "Always",
    "terminationGracePeriodSeconds": 30,
    "dnsPolicy": "ClusterFirst",
    "securityContext": {},
    "schedulerName": "default-scheduler",
    "enableServiceLinks": True,
}
_CONTAINER_DEFAULTS: Final[Obj] = {
    "resources": {},
    "terminationMessagePath": "/dev/termination-log",
    "terminationMessagePolicy": "File",
    "imagePullPolicy": "Always",
}


def check_namespace(store: Store, resource: Resource, namespace: str, name: str) -> None:
    """Refuse creation where the namespace is missing (404) or being deleted (403)."""
    found = store.get(NAMESPACES, "", namespace)
    if found is None:
        raise not_found(NAMESPACES, namespace)
    if "deletionTimestamp" in metadata(found.value):
        raise namespace_terminating(resource, name, namespace)


def prepare_create(store: Store, resource: Resource, obj: Obj, user: User) -> None:
    """Fill in what the server decides about a new object. Raises ApiError."""
    if resource.has_status:
        obj.pop("status", None)
    if resource == NAMESPACES:
        obj.setdefault("spec", {}).setdefault("finalizers", ["kubernetes"])
        obj["status"] = {"phase": "Active"}
    elif resource == PODS:
        _prepare_pod(store, obj)
    elif resource == CERTIFICATE_SIGNING_REQUESTS:
        spec = obj.setdefault("spec", {})
        _check_request(metadata(obj)["name"], spec.get("request"))
        spec |= {"username": user.name, "groups": list(user.groups)} | ({"uid": user.uid} if user.uid else {})
        obj["status"] = {}


def prepare(resource: Resource, obj: Obj) -> None:
    """Fill in and check what holds for every write. Raises ApiError."""
    if resource == NAMESPACES:
        metadata(obj).setdefault("labels", {})["kubernetes.io/metadata.name"] = metadata(obj)["name"]
    elif resource in {CONFIG_MAPS, SECRETS}:
        _check_data(resource, obj)
        if resource == SECRETS:
            obj.setdefault("type", "Opaque")
            for key, value in obj.pop("stringData", {}).items():
                obj.setdefault("data", {})[key] = base64.b64encode(value.encode()).decode()
    _check_strings(resource, metadata(obj), "labels")
    _check_strings(resource, metadata(obj), "annotations")
    _check_labels(resource, metadata(obj))


def keep_status(resource: Resource, old: Obj, new: Obj) -> None:
    """A write of the main resource leaves the status as it was; namespaces keep their finalizers as well."""
    if resource.has_status:
        if "status" in old:
            new["status"] = old["status"]
        else:
            new.pop("status", None)
    if resource == NAMESPACES:
        new["spec"] = old.get("spec", {})


def _prepare_pod(store: Store, obj: Obj) -> None:
    spec = obj.get("spec")
    name, namespace = metadata(obj)["name"], metadata(obj)["namespace"]
    if not isinstance(spec, dict) or not isinstance(spec.get("containers"), list) or not spec["containers"]:
        raise invalid("Pod", "", name, "spec.containers", "Required value", reason="FieldValueRequired")
    account = str(spec.get("serviceAccountName") or spec.get("serviceAccount") or "default")
    spec["serviceAccountName"] = account
    spec["serviceAccount"] = account
    if store.get(SERVICE_ACCOUNTS, namespace, account) is None:
        why = f'error looking up service account {namespace}/{account}: serviceaccount "{account}" not found'
        raise forbidden(PODS, name, why)
    for key, value in _POD_DEFAULTS.items():
        spec.setdefault(key, value)
    for container in spec["containers"]:
        for key, value in _CONTAINER_DEFAULTS.items():
            container.setdefault(key, value)
    obj["status"] = {"phase": "Pending", "qosClass": "BestEffort"}


def _check_request(name: str, request: Any) -> None:
    """``spec.request`` is base64 of a PEM-encoded PKCS #10 request (certificates/v1)."""
    try:
        x509.load_pem_x509_csr(base64.b64decode(str(request), validate=True))
    except ValueError:
        problem = "Invalid value: PEM block type must be CERTIFICATE REQUEST"
        resource = CERTIFICATE_SIGNING_REQUESTS
        raise invalid(resource.kind, resource.group, name, "spec.request", problem) from None


def _check_strings(resource: Resource, parent: Obj, field: str) -> None:
    values = parent.get(field)
    if values is None:
        parent.pop(field, None)
    elif not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values()):
        raise _wrong_type(resource, f"metadata.{field}")


def _check_labels(resource: Resource, meta: Obj) -> None:
    for key, value in meta.get("labels", {}).items():
        if not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(value):
            problem = f'Invalid value: "{key}={value}": not a label'
            raise invalid(resource.kind, resource.group, meta["name"], "metadata.labels", problem)


def _check_data(resource: Resource, obj: Obj) -> None:
    for field in ("data", "binaryData", "stringData"):
        values: Any = obj.get(field)
        if values is None:
            obj.pop(field, None)
        elif not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values()):
            raise _wrong_type(resource, field)
    size = sum(
        len(value.encode()) for field in ("data", "binaryData") for value in obj.get(field, {}).values()
    )
    if size > MAX_DATA_BYTES:
        problem = f"Too long: may not be more than {MAX_DATA_BYTES} bytes"
        raise invalid(resource.kind, "", metadata(obj)["name"], "", problem, reason="FieldValueTooLong")


def _wrong_type(resource: Resource, field: str) -> Exception:
    return bad_request(
        f'{resource.kind} in version "{resource.version}" cannot be handled as a {resource.kind}: json: '
        f"cannot unmarshal into Go struct field {resource.kind}.{field} of type string"
    )
