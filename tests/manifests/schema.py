"""Strict validation of Kubernetes objects against the types of Kubernetes' own OpenAPI document.

The schema is taken from the models that kubernetes_asyncio generates from that document (`openapi_types`,
`attribute_map`, and the required fields their setters insist on), so it is as new as that package. Every key
has to be known, every required one there, and every value of the right type: what a strict API server says.
A test compares the verdict with a real one's where one is named.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from kubernetes_asyncio import client
from kubernetes_asyncio.client import models

KINDS = {
    ("v1", "Namespace"): "V1Namespace",
    ("v1", "ServiceAccount"): "V1ServiceAccount",
    ("v1", "ConfigMap"): "V1ConfigMap",
    ("v1", "Service"): "V1Service",
    ("v1", "PersistentVolumeClaim"): "V1PersistentVolumeClaim",
    ("apps/v1", "Deployment"): "V1Deployment",
    ("policy/v1", "PodDisruptionBudget"): "V1PodDisruptionBudget",
    ("networking.k8s.io/v1", "NetworkPolicy"): "V1NetworkPolicy",
    ("rbac.authorization.k8s.io/v1", "ClusterRole"): "V1ClusterRole",
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding"): "V1ClusterRoleBinding",
    ("rbac.authorization.k8s.io/v1", "Role"): "V1Role",
    ("rbac.authorization.k8s.io/v1", "RoleBinding"): "V1RoleBinding",
    ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy"): "V1ValidatingAdmissionPolicy",
    (
        "admissionregistration.k8s.io/v1",
        "ValidatingAdmissionPolicyBinding",
    ): "V1ValidatingAdmissionPolicyBinding",
}
QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?")
QUANTITY_FIELDS = {"requests", "limits", "sizeLimit", "capacity"}
INT_OR_STRING = {
    "port",
    "targetPort",
    "minAvailable",
    "maxUnavailable",
    "maxSurge",
}  # OpenAPI says `object`: x-kubernetes-int-or-string


def problems(item: dict[str, Any]) -> list[str]:
    """Everything that is wrong with an object, each with its path; empty where it is right."""
    key = (item.get("apiVersion", ""), item.get("kind", ""))
    if key not in KINDS:
        return [f"{key}: no such kind is used here"]
    found = list(check_model(item, KINDS[key], item["kind"]))
    if not item.get("metadata", {}).get("name"):
        found.append(f"{item['kind']}.metadata.name: missing")
    return found


@cache
def required(model: str) -> frozenset[str]:
    """Attributes whose setter refuses None: what the OpenAPI document requires."""
    kind = getattr(models, model)
    configuration = client.Configuration()
    configuration.client_side_validation = True
    blank = kind.__new__(kind)
    blank.local_vars_configuration = configuration
    names = set()
    for attribute in kind.openapi_types:
        try:
            setattr(blank, attribute, None)
        except ValueError:
            names.add(kind.attribute_map[attribute])
    return frozenset(names)


def check_model(value: Any, model: str, path: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{path}: an object is wanted, not {value!r}"
        return
    kind = getattr(models, model)
    types = {kind.attribute_map[name]: type_name for name, type_name in kind.openapi_types.items()}
    for name in sorted(required(model) - set(value)):
        yield f"{path}.{name}: missing"
    for name, item in value.items():
        if name not in types:
            yield f"{path}.{name}: no such field"
        else:
            yield from check(item, types[name], f"{path}.{name}", name)


def check(value: Any, type_name: str, path: str, field: str) -> Iterator[str]:
    if match := re.fullmatch(r"list\[(.+)\]", type_name):
        if not isinstance(value, list):
            yield f"{path}: a list is wanted, not {value!r}"
            return
        for index, item in enumerate(value):
            yield from check(item, match[1], f"{path}[{index}]", field)
    elif match := re.fullmatch(r"dict\((\w+), (.+)\)", type_name):
        if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
            yield f"{path}: a map of names is wanted, not {value!r}"
            return
        for name, item in value.items():
            yield from check(item, match[2], f"{path}.{name}", field)
    elif hasattr(models, type_name):
        yield from check_model(value, type_name, path)
    else:
        yield from check_scalar(value, type_name, path, field)


def check_scalar(value: Any, type_name: str, path: str, field: str) -> Iterator[str]:
    match type_name:
        case "bool":
            right = isinstance(value, bool)
        case "int":
            right = isinstance(value, int) and not isinstance(value, bool)
        case "str":
            right = isinstance(value, str) and (
                field not in QUANTITY_FIELDS or bool(QUANTITY.fullmatch(value))
            )
        case "object":
            right = field in INT_OR_STRING and isinstance(value, (int, str)) and not isinstance(value, bool)
        case _:
            right = False
    if not right:
        yield f"{path}: {type_name} is wanted, not {value!r}"
