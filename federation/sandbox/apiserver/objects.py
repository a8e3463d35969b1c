"""What all objects share: their JSON, names, times and unique identifiers."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import msgspec

from federation.sandbox.apiserver.resources import Resource
from federation.sandbox.apiserver.status import ApiError, bad_request, invalid

Obj = dict[str, Any]

encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder().decode

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_SUFFIX_ALPHABET = (
    "bcdfghjklmnpqrstvwxz2456789"  # no vowels and no look-alikes, as in apimachinery's rand.String
)


def decode(raw: bytes) -> Any:
    """JSON as fresh Python values: the quickest deep copy of a stored object. Raises msgspec.DecodeError."""
    return _decode(raw)


def timestamp(moment: datetime) -> str:
    """RFC 3339 in whole seconds, as ``metav1.Time`` is written."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def new_uid() -> str:
    """A random UUID; it tells an object from a later one of the same name."""
    return str(uuid.uuid4())


def generated_name(prefix: str) -> str:
    """``metadata.generateName`` with five characters more, the prefix cut to leave room for them."""
    number = uuid.uuid4().int
    suffix = ""
    for _ in range(5):
        number, digit = divmod(number, len(_SUFFIX_ALPHABET))
        suffix += _SUFFIX_ALPHABET[digit]
    return prefix[:58] + suffix


def metadata(obj: Mapping[str, Any]) -> Obj:
    """The object's metadata, which a stored object always has."""
    found: Obj = obj["metadata"]
    return found


def labels(obj: Mapping[str, Any]) -> Mapping[str, str]:
    """The object's labels, empty where it has none."""
    found: Mapping[str, str] = metadata(obj).get("labels") or {}
    return found


def check_type(resource: Resource, body: Any) -> Obj:
    """A decoded body as an object of this resource, apiVersion and kind filled in. Raises ApiError 400."""
    if not isinstance(body, dict):
        raise bad_request(
            f"the object provided is unrecognized (must be of type {resource.kind}): not a JSON object"
        )
    kind, version = body.get("kind") or resource.kind, body.get("apiVersion") or resource.api_version
    if (kind, version) != (resource.kind, resource.api_version):
        raise bad_request(f'{kind} in version "{version}" cannot be handled as a {resource.kind}')
    if not isinstance(body.setdefault("metadata", {}), dict):
        raise bad_request(f"{resource.kind}.metadata must be an object")
    return {"kind": resource.kind, "apiVersion": resource.api_version} | {
        key: value for key, value in body.items() if key not in {"kind", "apiVersion"}
    }


def is_subdomain(text: str) -> bool:
    """Whether it is a lower-case RFC 1123 subdomain, as most names are."""
    return len(text) <= 253 and _SUBDOMAIN.fullmatch(text) is not None


def check_name(resource: Resource, name: str) -> None:
    """Refuse a name that the type does not allow. Raises ApiError 422."""
    problem = _name_problem(resource, name)
    if problem is not None:
        raise problem


def _name_problem(resource: Resource, name: str) -> ApiError | None:
    def refuse(problem: str, reason: str = "FieldValueInvalid") -> ApiError:
        return invalid(resource.kind, resource.group, name, "metadata.name", problem, reason=reason)

    if not name:
        return refuse("Required value: name or generateName is required", "FieldValueRequired")
    if resource.path_name:
        bad = name in {".", ".."} or "/" in name or "%" in name
        return (
            refuse(f'Invalid value: "{name}": may not be "." or "..", or contain "/" or "%"') if bad else None
        )
    if resource.label_name:
        rule = (
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must"
        )
        return (
            None
            if _LABEL.fullmatch(name)
            else refuse(f'Invalid value: "{name}": {rule} start and end with an alphanumeric')
        )
    rule = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.'"
    if not is_subdomain(name):
        return refuse(f'Invalid value: "{name}": {rule}')
    return None
