"""What the status of a CertificateRequest says, as one value; pure, and bounded whatever it contains.

Source: cert-manager's ``pkg/apis/certmanager/v1`` (types_certificaterequest.go) and its controllers
(``pkg/controller/certificaterequests``): an approver sets ``Approved`` or ``Denied``, an issuer then ``Ready``,
whose reason is ``Pending``, ``Issued``, ``Failed`` or ``Denied``. ``Failed`` and ``Denied`` are final, and so is
``InvalidRequest``.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import msgspec

from federation.kubernetes.answers import harmless
from federation.kubernetes.objects import WireMeta

MAX_TEXT: Final = 200
MAX_FIELD: Final = 128 * 1024
"""Characters of base64. cert-manager reads chains of at most 95 KB of PEM (``internal/pem``)."""


class Pending(msgspec.Struct, frozen=True):
    """Nothing is decided. ``message`` is what the issuer says meanwhile."""

    approved: bool = False
    message: str = ""


class Blocked(msgspec.Struct, frozen=True):
    """Undecided, and it stays so until an operator repairs the issuer."""

    reason: Literal["issuer_not_found", "issuer_not_ready"]
    message: str


class Issued(msgspec.Struct, frozen=True):
    """``certificate`` and ``ca`` in base64, unread."""

    certificate: str
    ca: str


class Denied(msgspec.Struct, frozen=True):
    """The approver said no; what it gave as reason."""

    message: str


class Failed(msgspec.Struct, frozen=True):
    """The issuer could not sign it, and will not try again."""

    message: str


class Invalid(msgspec.Struct, frozen=True):
    """The issuer will not sign a request like this."""

    message: str


class Unreadable(msgspec.Struct, frozen=True):
    """The status is not what the API promises, or too large."""

    problem: str


class Deleted(msgspec.Struct, frozen=True):
    """The request is gone before it was decided."""


Verdict: TypeAlias = Pending | Blocked | Issued | Denied | Failed | Invalid | Unreadable | Deleted

# What cert-manager's controllers write while they wait for an approver or issuer (sync.go, ca/ca.go, vault/vault.go).
_BLOCKED: Final[tuple[tuple[str, str, Literal["issuer_not_found", "issuer_not_ready"]], ...]] = (
    ('Referenced "', "not found", "issuer_not_found"),
    ("Referenced issuer does not have a Ready", "", "issuer_not_ready"),
    ("Referenced secret ", "not found", "issuer_not_ready"),
    ("Failed to parse signing CA keypair", "", "issuer_not_ready"),
)


class _Condition(msgspec.Struct):
    type: str = ""
    status: str = ""
    reason: str = ""
    message: str = ""


class _Status(msgspec.Struct):
    conditions: list[_Condition] | None = None
    certificate: str | None = None
    ca: str | None = None


class WireRequest(msgspec.Struct):
    """A CertificateRequest as it comes over the wire, its status still encoded."""

    metadata: WireMeta
    status: msgspec.Raw = msgspec.Raw(b"{}")


decode_request: Final = msgspec.json.Decoder(WireRequest).decode
_decode_status: Final = msgspec.json.Decoder(_Status | None).decode


def verdict_of(status: bytes | msgspec.Raw) -> Verdict:
    """The verdict on the request with this status. A refusal counts more than anything beside it."""
    try:
        read = _decode_status(status) or _Status()
    except (msgspec.MsgspecError, UnicodeError) as error:
        return Unreadable(f"its status is not what the API promises: {_short(str(error))}")
    conditions = {condition.type: condition for condition in read.conditions or ()}
    if (denied := conditions.get("Denied")) and denied.status == "True":
        return Denied(_words(denied))
    if (invalid := conditions.get("InvalidRequest")) and invalid.status == "True":
        return Invalid(_words(invalid))
    ready = conditions.get("Ready", _Condition())
    if ready.status == "True":
        return _issued(read)
    match ready.reason:
        case "Denied":
            return Denied(_short(ready.message))
        case "Failed":
            return Failed(_short(ready.message))
    for begins, holds, reason in _BLOCKED:
        if ready.message.startswith(begins) and holds in ready.message:
            return Blocked(reason, _short(ready.message))
    approved = conditions.get("Approved", _Condition()).status == "True"
    return Pending(approved, _short(ready.message))


def _issued(status: _Status) -> Issued | Unreadable:
    certificate, ca = status.certificate or "", status.ca or ""
    if not certificate:
        return Unreadable("it is Ready and holds no certificate")
    if len(certificate) > MAX_FIELD or len(ca) > MAX_FIELD:
        return Unreadable(f"its certificate or ca is longer than {MAX_FIELD} characters")
    return Issued(certificate, ca)


def _words(condition: _Condition) -> str:
    """An approver says who it is in the reason, and why in the message."""
    return _short(": ".join(part for part in (condition.reason, condition.message) if part))


def _short(text: str) -> str:
    return harmless(text)[:MAX_TEXT]
