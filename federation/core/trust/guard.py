"""The parameter object of the guard: what a member's bundle objects may hold (``manifests/member/guard``). Pure.

It is a ConfigMap that the member's administrator applies. ``data`` holds each certificate, ``binaryData`` each bundle
that can be published of them, for the Secret whose base64 the admission policy cannot decode.
"""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Collection, Iterator
from itertools import combinations
from typing import Any, Final

from federation.core.errors import InvalidValue
from federation.core.pki.certificate import Certificate
from federation.core.pki.pem import encode_certificates

NAME: Final = "federation-guard"
MOST: Final = 64
MOST_IN_BUNDLES: Final = 5
"""Certificates of which every bundle is listed: there are 31, and twice as many with each further one."""


def guard_object(certificates: Collection[Certificate], *, namespace: str) -> dict[str, Any]:
    """The ConfigMap for these certificates. Raises InvalidValue where there are none, or too many for an object."""
    each = {certificate.sha256: certificate for certificate in certificates}
    if not 0 < len(each) <= MOST:
        raise InvalidValue(f"the guard takes 1 to {MOST} certificates, not {len(each)}")
    ordered = [each[sha256] for sha256 in sorted(each)]
    found: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": NAME,
            "namespace": namespace,
            "labels": {"app.kubernetes.io/part-of": "federation-hub"},
        },
        "data": {
            f"{certificate.sha256[:16]}.pem": certificate.pem.decode("ascii") for certificate in ordered
        },
    }
    if len(ordered) <= MOST_IN_BUNDLES:
        found["binaryData"] = {
            f"bundle-{number}": b2a_base64(encode_certificates(some), newline=False).decode("ascii")
            for number, some in enumerate(_bundles(ordered), 1)
        }
    return found


def _bundles(ordered: Collection[Certificate]) -> Iterator[tuple[Certificate, ...]]:
    """Every bundle with a root in it, its certificates in the order in which they are published."""
    for size in range(1, len(ordered) + 1):
        for some in combinations(ordered, size):
            if any(certificate.is_self_signed for certificate in some):
                yield some
