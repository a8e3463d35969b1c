"""Objects in Kubernetes' Protocol Buffers, read into what their JSON would be.

Clients of Go send the types that they are compiled with so: TokenReviews come from API servers and from istiod, and
what ``kubectl create`` and ``kubectl auth`` send comes from people. Everything is answered as JSON, which all of them
accept. Types that are not in the table are refused with 415, where a real API server takes every type of its own.

Source: ``runtime.Unknown`` of k8s.io/apimachinery, and the generated.proto of k8s.io/apimachinery ``meta/v1`` and of
k8s.io/api ``core/v1``, ``rbac/v1``, ``authentication/v1`` and ``authorization/v1``.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from federation_sandbox.apiserver.status import bad_request

PROTOBUF: Final = "application/vnd.kubernetes.protobuf"
MAGIC: Final = b"k8s\x00"
_PACKAGE: Final = "federation_sandbox.kubernetes"
_Field = descriptor_pb2.FieldDescriptorProto
_MESSAGES: Final[dict[str, str]] = {
    "TypeMeta": "1 apiVersion string, 2 kind string",
    "Unknown": "1 typeMeta TypeMeta, 2 raw bytes",
    "ObjectMeta": "1 name string, 2 generateName string, 3 namespace string, 6 resourceVersion string,"
    " 11 labels *string-string, 12 annotations *string-string, 14 finalizers *string",
    "Namespace": "1 metadata ObjectMeta, 2 spec NamespaceSpec",
    "NamespaceSpec": "1 finalizers *string",
    "LocalObjectReference": "1 name string",
    "ServiceAccount": "1 metadata ObjectMeta, 3 imagePullSecrets *LocalObjectReference,"
    " 4 automountServiceAccountToken bool",
    "ConfigMap": "1 metadata ObjectMeta, 2 data *string-string, 3 binaryData *string-bytes, 4 immutable bool",
    "Secret": "1 metadata ObjectMeta, 2 data *string-bytes, 3 type string, 4 stringData *string-string,"
    " 5 immutable bool",
    "PolicyRule": "1 verbs *string, 2 apiGroups *string, 3 resources *string, 4 resourceNames *string,"
    " 5 nonResourceURLs *string",
    "Role": "1 metadata ObjectMeta, 2 rules *PolicyRule",
    "ClusterRole": "1 metadata ObjectMeta, 2 rules *PolicyRule",
    "Subject": "1 kind string, 2 apiGroup string, 3 name string, 4 namespace string",
    "RoleRef": "1 apiGroup string, 2 kind string, 3 name string",
    "RoleBinding": "1 metadata ObjectMeta, 2 subjects *Subject, 3 roleRef RoleRef",
    "ClusterRoleBinding": "1 metadata ObjectMeta, 2 subjects *Subject, 3 roleRef RoleRef",
    "TokenReview": "1 metadata ObjectMeta, 2 spec TokenReviewSpec",
    "TokenReviewSpec": "1 token string, 2 audiences *string",
    "TokenRequest": "1 metadata ObjectMeta, 2 spec TokenRequestSpec",
    "TokenRequestSpec": "1 audiences *string, 3 boundObjectRef BoundObjectReference, 4 expirationSeconds int64",
    "BoundObjectReference": "1 kind string, 2 apiVersion string, 3 name string, 4 uid string",
    "SelfSubjectReview": "1 metadata ObjectMeta",
    "ResourceAttributes": "1 namespace string, 2 verb string, 3 group string, 4 version string, 5 resource string,"
    " 6 subresource string, 7 name string",
    "NonResourceAttributes": "1 path string, 2 verb string",
    "SelfSubjectAccessReview": "1 metadata ObjectMeta, 2 spec SelfSubjectAccessReviewSpec",
    "SelfSubjectAccessReviewSpec": "1 resourceAttributes ResourceAttributes,"
    " 2 nonResourceAttributes NonResourceAttributes",
    "SubjectAccessReview": "1 metadata ObjectMeta, 2 spec SubjectAccessReviewSpec",
    "LocalSubjectAccessReview": "1 metadata ObjectMeta, 2 spec SubjectAccessReviewSpec",
    "SubjectAccessReviewSpec": "1 resourceAttributes ResourceAttributes,"
    " 2 nonResourceAttributes NonResourceAttributes, 3 user string, 4 groups *string",
    "SelfSubjectRulesReview": "1 metadata ObjectMeta, 2 spec SelfSubjectRulesReviewSpec",
    "SelfSubjectRulesReviewSpec": "1 namespace string",
}
"""Each message's fields: number, name and type; a ``*`` repeats, ``*string-string`` is a map. Others are skipped."""

_TYPES: Final = {
    "string": _Field.TYPE_STRING,
    "bytes": _Field.TYPE_BYTES,
    "bool": _Field.TYPE_BOOL,
    "int64": _Field.TYPE_INT64,
}


def _add_field(
    message: descriptor_pb2.DescriptorProto, name: str, number: int, kind: str, *, repeated: bool
) -> None:
    message.field.add(
        name=name,
        number=number,
        type=_TYPES.get(kind, _Field.TYPE_MESSAGE),
        type_name=None if kind in _TYPES else f".{_PACKAGE}.{kind}",
        label=_Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL,
    )


def _add_map(message: descriptor_pb2.DescriptorProto, name: str, kind: str) -> str:
    """The type of a map's entries, which protobuf makes a message of its own."""
    entry = message.nested_type.add(name=f"{name[0].upper()}{name[1:]}Entry")
    entry.options.map_entry = True
    for number, (part, part_kind) in enumerate(zip(("key", "value"), kind.split("-"), strict=True), 1):
        _add_field(entry, part, number, part_kind, repeated=False)
    return f"{message.name}.{entry.name}"


def _classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="kubernetes.proto", package=_PACKAGE, syntax="proto2")
    for message_name, fields in _MESSAGES.items():
        message = file.message_type.add(name=message_name)
        for field in fields.split(","):
            number, name, kind = field.split()
            single = kind.removeprefix("*")
            if "-" in single:
                single = _add_map(message, name, single)
            _add_field(message, name, int(number), single, repeated=kind.startswith("*"))
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    found = ((name, pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")) for name in _MESSAGES)
    return {name: message_factory.GetMessageClass(descriptor) for name, descriptor in found}


_CLASSES: Final = _classes()
READABLE: Final = frozenset(
    name for name, fields in _MESSAGES.items() if fields.startswith("1 metadata ObjectMeta")
)
"""The kinds that are read from protobuf."""


def read_protobuf(raw: bytes, kind: str) -> dict[str, Any]:
    """An object of a :data:`READABLE` kind, or what its envelope says that it is instead. Raises ApiError 400."""
    if not raw.startswith(MAGIC):
        raise bad_request(
            "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]"
        )
    try:
        unknown = _CLASSES["Unknown"].FromString(raw[len(MAGIC) :])
        message = _CLASSES[kind].FromString(unknown.raw)
    except DecodeError as why:
        raise bad_request(f"the object provided is unrecognized (must be of type {kind}): {why}") from None
    head = {"kind": unknown.typeMeta.kind, "apiVersion": unknown.typeMeta.apiVersion}
    return head | _as_json(message)


def _as_json(message: Message) -> dict[str, Any]:
    """A message's fields but for those that are empty: Go writes every field, and its JSON leaves empty ones out."""
    found: dict[str, Any] = {}
    for field, value in message.ListFields():
        shown = _field_as_json(field, value)
        if isinstance(shown, bool) or shown:
            found[field.name] = shown
    return found


def _field_as_json(field: FieldDescriptor, value: Any) -> Any:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        entries: Mapping[str, Any] = value
        return {key: _one_as_json(each) for key, each in sorted(entries.items())}
    if field.is_repeated:
        return [_one_as_json(each) for each in value]
    return _one_as_json(value)


def _one_as_json(value: Any) -> Any:
    if isinstance(value, Message):
        return _as_json(value)
    return base64.b64encode(value).decode("ascii") if isinstance(value, bytes) else value
