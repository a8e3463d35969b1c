"""Objects in Kubernetes' Protocol Buffers, read into what their JSON would be: a TokenReview, which clients send often.

Source: ``runtime.Unknown`` of k8s.io/apimachinery and the generated.proto of k8s.io/api ``authentication/v1``.
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from federation_sandbox.apiserver.status import bad_request

PROTOBUF: Final = "application/vnd.kubernetes.protobuf"
MAGIC: Final = b"k8s\x00"
_PACKAGE: Final = "federation_sandbox.kubernetes"
_Field = descriptor_pb2.FieldDescriptorProto
_MESSAGES: Final[dict[str, list[tuple[str, int, str, bool]]]] = {
    "TypeMeta": [("apiVersion", 1, "string", False), ("kind", 2, "string", False)],
    "Unknown": [("typeMeta", 1, "TypeMeta", False), ("raw", 2, "bytes", False)],
    "TokenReviewSpec": [("token", 1, "string", False), ("audiences", 2, "string", True)],
    "TokenReview": [("spec", 2, "TokenReviewSpec", False)],
}
"""Each message's fields: name, number, type, and whether it is repeated."""

_TYPES: Final = {"string": _Field.TYPE_STRING, "bytes": _Field.TYPE_BYTES}


def _classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="kubernetes.proto", package=_PACKAGE, syntax="proto2")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind, repeated in fields:
            message.field.add(
                name=field,
                number=number,
                type=_TYPES.get(kind, _Field.TYPE_MESSAGE),
                type_name=None if kind in _TYPES else f".{_PACKAGE}.{kind}",
                label=_Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL,
            )
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    found = ((name, pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")) for name in _MESSAGES)
    return {name: message_factory.GetMessageClass(descriptor) for name, descriptor in found}


_CLASSES: Final = _classes()


def read_token_review(raw: bytes) -> dict[str, Any]:
    """A TokenReview, or whatever its type says that it is without its spec. Raises ApiError 400."""
    if not raw.startswith(MAGIC):
        raise bad_request(
            "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]"
        )
    try:
        unknown = _CLASSES["Unknown"].FromString(raw[len(MAGIC) :])
        review = _CLASSES["TokenReview"].FromString(unknown.raw)
    except DecodeError as why:
        raise bad_request(
            f"the object provided is unrecognized (must be of type TokenReview): {why}"
        ) from None
    spec = {"token": review.spec.token, "audiences": list(review.spec.audiences)}
    return {"kind": unknown.typeMeta.kind, "apiVersion": unknown.typeMeta.apiVersion, "spec": spec}
