"""``SpiffeWorkloadAPI`` as bytes and values (SPIFFE Workload API, ``workload.proto``), as far as the hub uses it.

The messages are described here at run time instead of in generated code, in a descriptor pool of their own so
that they cannot clash with another definition of the same names in one process. They have no package. Fields
that the hub has no use for (CRLs, bundles of other trust domains, hints) are left out, and ignored.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

from federation.core.errors import InvalidValue

SERVICE: Final = "SpiffeWorkloadAPI"
FETCH_X509: Final = f"/{SERVICE}/FetchX509SVID"
FETCH_JWT: Final = f"/{SERVICE}/FetchJWTSVID"

SECURITY_HEADER: Final = ("workload.spiffe.io", "true")
"""Metadata that every call carries, so that nobody can be made to ask for another
(SPIFFE Workload Endpoint, 3)."""

_Field = descriptor_pb2.FieldDescriptorProto
_FIELDS: Final[dict[str, tuple[tuple[str, int, int, int, str], ...]]] = {
    "X509SVIDRequest": (),
    "X509SVIDResponse": (("svids", 1, _Field.TYPE_MESSAGE, _Field.LABEL_REPEATED, ".X509SVID"),),
    "X509SVID": (
        ("spiffe_id", 1, _Field.TYPE_STRING, _Field.LABEL_OPTIONAL, ""),
        ("x509_svid", 2, _Field.TYPE_BYTES, _Field.LABEL_OPTIONAL, ""),
        ("x509_svid_key", 3, _Field.TYPE_BYTES, _Field.LABEL_OPTIONAL, ""),
        ("bundle", 4, _Field.TYPE_BYTES, _Field.LABEL_OPTIONAL, ""),
    ),
    "JWTSVIDRequest": (
        ("audience", 1, _Field.TYPE_STRING, _Field.LABEL_REPEATED, ""),
        ("spiffe_id", 2, _Field.TYPE_STRING, _Field.LABEL_OPTIONAL, ""),
    ),
    "JWTSVIDResponse": (("svids", 1, _Field.TYPE_MESSAGE, _Field.LABEL_REPEATED, ".JWTSVID"),),
    "JWTSVID": (
        ("spiffe_id", 1, _Field.TYPE_STRING, _Field.LABEL_OPTIONAL, ""),
        ("svid", 2, _Field.TYPE_STRING, _Field.LABEL_OPTIONAL, ""),
    ),
}


def _describe() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="workload.proto", syntax="proto3")
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        for field_name, number, kind, label, type_name in fields:
            described = message.field.add(name=field_name, number=number, type=kind, label=label)
            if type_name:
                described.type_name = type_name
    return file


_POOL: Final = descriptor_pool.DescriptorPool()
_POOL.AddSerializedFile(_describe().SerializeToString())


def _message(name: str) -> Any:
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(name))


X509SvidResponseMessage: Final = _message("X509SVIDResponse")
JwtSvidRequestMessage: Final = _message("JWTSVIDRequest")
JwtSvidResponseMessage: Final = _message("JWTSVIDResponse")

X509_REQUEST: Final = b""
"""An ``X509SVIDRequest``, which has no fields."""


@dataclass(frozen=True, slots=True)
class X509Svid:
    """An X.509-SVID as it came, nothing of it checked: DER one after another, the key as PKCS#8."""

    spiffe_id: str
    chain_der: bytes
    key_der: bytes = field(repr=False)
    bundle_der: bytes = b""


@dataclass(frozen=True, slots=True)
class JwtSvid:
    """A JWT-SVID as it came, nothing of it checked."""

    spiffe_id: str
    token: str = field(repr=False)


def encode_jwt_request(audience: str) -> bytes:
    """Asks for a JWT-SVID of every identity the caller has, for one audience."""
    message: Message = JwtSvidRequestMessage(audience=[audience])
    return message.SerializeToString(deterministic=True)


def decode_x509_response(data: bytes) -> tuple[X509Svid, ...]:
    """The SVIDs of an answer, the default one first. Raises InvalidValue where it is not one."""
    return tuple(
        X509Svid(svid.spiffe_id, svid.x509_svid, svid.x509_svid_key, svid.bundle)
        for svid in _decode(X509SvidResponseMessage, data).svids
    )


def decode_jwt_response(data: bytes) -> tuple[JwtSvid, ...]:
    """The SVIDs of an answer, the default one first. Raises InvalidValue where it is not one."""
    return tuple(JwtSvid(svid.spiffe_id, svid.svid) for svid in _decode(JwtSvidResponseMessage, data).svids)


def _decode(kind: Any, data: bytes) -> Any:
    try:
        return kind.FromString(data)
    except (DecodeError, ValueError, RecursionError):
        raise InvalidValue(f"the answer is not a {kind.DESCRIPTOR.name}") from None
