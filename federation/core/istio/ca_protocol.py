"""``istio.v1.auth.IstioCertificateService`` as bytes and values (istio/api, ``security/v1alpha1/ca.proto``).

The messages are described here at run time instead of in generated code, in a descriptor pool of their own so
that they cannot clash with another definition of the same names in one process. Field 2 of the request was
``subject_id`` once and stays unused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, struct_pb2
from google.protobuf.message import DecodeError, Message

from federation.core.errors import InvalidValue, RequestRefused

SERVICE: Final = "istio.v1.auth.IstioCertificateService"
METHOD: Final = f"/{SERVICE}/CreateCertificate"

MAX_REQUEST_BYTES: Final = 64 * 1024
MAX_RESPONSE_BYTES: Final = 4 * 1024 * 1024
"""gRPC's own default limit for a message that is received: no client would take a longer reply."""

MAX_METADATA_FIELDS: Final = 64
"""Istio sends at most two (``ImpersonatedIdentity``, ``CertSigner``)."""

_CERT_CHAIN: Final = b"\x0a"  # field 1, whose value has a length (Protocol Buffers, "Encoding")
_PACKAGE: Final = "istio.v1.auth"
_Field = descriptor_pb2.FieldDescriptorProto


def _describe() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name="security/v1alpha1/ca.proto",
        package=_PACKAGE,
        syntax="proto3",
        dependency=["google/protobuf/struct.proto"],
    )
    request = file.message_type.add(name="IstioCertificateRequest")
    optional, repeated = _Field.LABEL_OPTIONAL, _Field.LABEL_REPEATED
    request.field.add(name="csr", number=1, type=_Field.TYPE_STRING, label=optional)
    request.field.add(name="validity_duration", number=3, type=_Field.TYPE_INT64, label=optional)
    request.field.add(
        name="metadata",
        number=4,
        type=_Field.TYPE_MESSAGE,
        label=optional,
        type_name=".google.protobuf.Struct",
    )
    response = file.message_type.add(name="IstioCertificateResponse")
    response.field.add(name="cert_chain", number=1, type=_Field.TYPE_STRING, label=repeated)
    service = file.service.add(name=SERVICE.removeprefix(f"{_PACKAGE}."))
    service.method.add(
        name=METHOD.rpartition("/")[2],
        input_type=f".{_PACKAGE}.IstioCertificateRequest",
        output_type=f".{_PACKAGE}.IstioCertificateResponse",
    )
    return file


_POOL: Final = descriptor_pool.DescriptorPool()
_POOL.AddSerializedFile(struct_pb2.DESCRIPTOR.serialized_pb)
_POOL.AddSerializedFile(_describe().SerializeToString())

CertificateRequestMessage: Final[Any] = message_factory.GetMessageClass(
    _POOL.FindMessageTypeByName(f"{_PACKAGE}.IstioCertificateRequest")
)
CertificateResponseMessage: Final[Any] = message_factory.GetMessageClass(
    _POOL.FindMessageTypeByName(f"{_PACKAGE}.IstioCertificateResponse")
)


class IstioCertificateRequest(msgspec.Struct, frozen=True):
    """What a caller asks for: a PEM CSR, a lifetime in seconds (0: none named) and free-form metadata.

    Nothing in it is checked yet; ``validity_seconds`` may be negative or absurd and ``csr`` anything at all.
    """

    csr: str
    validity_seconds: int = 0
    metadata: Mapping[str, object] = MappingProxyType({})


def decode_request(data: bytes) -> IstioCertificateRequest:
    """The request in these bytes; unknown fields are ignored, as protobuf asks.

    Raises RequestRefused with the reason ``request_too_large``, ``request_undecodable`` or
    ``metadata_too_large``.
    """
    if len(data) > MAX_REQUEST_BYTES:
        raise RequestRefused(
            f"a request of {len(data)} bytes; at most {MAX_REQUEST_BYTES} are read",
            reason="request_too_large",
        )
    try:
        message = CertificateRequestMessage.FromString(data)
        entries = message.metadata.fields
        if len(entries) > MAX_METADATA_FIELDS:
            raise RequestRefused(
                f"{len(entries)} metadata fields; at most {MAX_METADATA_FIELDS} are read",
                reason="metadata_too_large",
            )
        metadata = {name: _plain(value) for name, value in entries.items()}
        return IstioCertificateRequest(message.csr, message.validity_duration, MappingProxyType(metadata))
    except (DecodeError, ValueError, RecursionError):
        raise RequestRefused(
            "the request is not an IstioCertificateRequest", reason="request_undecodable"
        ) from None


def encode_request(request: IstioCertificateRequest) -> bytes:
    """The bytes a client sends. Raises InvalidValue for values the message cannot carry."""
    try:
        message = CertificateRequestMessage(csr=request.csr, validity_duration=request.validity_seconds)
        if request.metadata:
            message.metadata.update(dict(request.metadata))
        return _serialize(message)
    except (ValueError, TypeError) as error:
        raise InvalidValue(f"this cannot be sent as an IstioCertificateRequest: {error}") from None


def encode_response(elements: Iterable[str | bytes]) -> bytes:
    """The bytes of a reply with these ``cert_chain`` elements (text, or its UTF-8), in their order.

    Written by hand, because the message is one repeated field and each reply ends with the whole bundle: the library
    copies that three times (200 us for a bundle of 900 KB), this once (45 us). Tests compare the two.
    """
    parts: list[bytes] = []
    for element in elements:
        text = element.encode() if isinstance(element, str) else element
        parts += _CERT_CHAIN, _varint(len(text)), text
    return b"".join(parts)


def decode_response(data: bytes) -> tuple[str, ...]:
    """The ``cert_chain`` elements of a reply. Raises InvalidValue where it is not one."""
    if len(data) > MAX_RESPONSE_BYTES:
        raise InvalidValue(f"a reply of {len(data)} bytes; at most {MAX_RESPONSE_BYTES} are read")
    try:
        return tuple(CertificateResponseMessage.FromString(data).cert_chain)
    except (DecodeError, ValueError):
        raise InvalidValue("the reply is not an IstioCertificateResponse") from None


def _varint(value: int) -> bytes:
    """A length as Protocol Buffers write it: seven bits in each byte, the lowest first."""
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)


def _serialize(message: Message) -> bytes:
    data: bytes = message.SerializeToString(deterministic=True)
    return data


def _plain(value: Any) -> object:
    """A google.protobuf.Value as None, float, str, bool, dict or list."""
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return {name: _plain(inner) for name, inner in value.struct_value.fields.items()}
    if kind == "list_value":
        return [_plain(inner) for inner in value.list_value.values]
    return None if kind in {None, "null_value"} else getattr(value, kind)
