"""Kubernetes' Protocol Buffers for what is sent for each certificate: a TokenReview.

It takes an API server an eighth less processor time than the same in JSON (docs/decisions/0060). Written by hand, for
the message has two fields; tests read it with the library.
"""

from __future__ import annotations

from typing import Final

MEDIA_TYPE: Final = "application/vnd.kubernetes.protobuf"


def encode_token_review(token: str, audience: str) -> bytes:
    """A TokenReview of ``authentication.k8s.io/v1`` that asks about this token and audience.

    Source: ``runtime.Unknown`` of k8s.io/apimachinery, whose field 2 is the object; generated.proto of k8s.io/api.
    """
    spec = _field(1, token.encode()) + _field(2, audience.encode())
    return _TOKEN_REVIEW + _field(2, _field(2, spec))


def _field(number: int, content: bytes) -> bytes:
    """A field whose value has a length, in groups of seven bits (Protocol Buffers, "Encoding")."""
    size = len(content)
    head = bytearray((number << 3 | 2,))
    while size > 0x7F:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return bytes(head) + content


_TOKEN_REVIEW: Final = b"k8s\x00" + _field(
    1, _field(1, b"authentication.k8s.io/v1") + _field(2, b"TokenReview")
)
