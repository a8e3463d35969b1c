"""Tokens as a cluster signs them, and as none should."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from federation.core.pki.keys import KeyKind
from tests.support import pki

ISSUER = "https://kubernetes.default.svc.cluster.local"
AUDIENCE = "istio-ca"
NOW = pki.NOW.timestamp()


def rsa_key(name: str) -> rsa.RSAPrivateKey:
    key = pki.key(name, KeyKind.RSA_2048)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


RSA_KEY = rsa_key("token signer")
EC_KEY = pki.key("token signer EC", KeyKind.EC_P256)
P384_KEY = pki.key("token signer P-384", KeyKind.EC_P384)
STRANGER = rsa_key("a stranger's token signer")
SIGNERS: dict[str, Any] = {
    "RS256": RSA_KEY,
    "RS384": RSA_KEY,
    "RS512": RSA_KEY,
    "ES256": EC_KEY,
    "ES384": P384_KEY,
}
KIDS = {"RS256": "rsa", "RS384": "rsa", "RS512": "rsa", "ES256": "p256", "ES384": "p384"}


def claims(**changes: Any) -> dict[str, Any]:
    """The claims of a projected token (kube-apiserver 1.36); a change of None removes one."""
    whole: dict[str, Any] = {
        "aud": [AUDIENCE],
        "exp": int(NOW) + 3600,
        "iat": int(NOW),
        "iss": ISSUER,
        "jti": "5f0e5f0e-0000-4000-8000-000000000001",
        "kubernetes.io": {
            "namespace": "foo",
            "node": {"name": "node-1", "uid": "n-1"},
            "pod": {"name": "bar-0", "uid": "p-1"},
            "serviceaccount": {"name": "bar", "uid": "s-1"},
            "warnafter": int(NOW) + 3000,
        },
        "nbf": int(NOW),
        "sub": "system:serviceaccount:foo:bar",
    }
    whole.update(changes)
    return {name: value for name, value in whole.items() if value is not None}


def kubernetes(**changes: Any) -> dict[str, Any]:
    """The kubernetes.io claim; a change of None removes a part."""
    whole = claims()["kubernetes.io"] | changes
    return {name: value for name, value in whole.items() if value is not None}


def signed(
    payload: Mapping[str, Any] | None = None,
    *,
    algorithm: str = "RS256",
    key: Any = None,
    headers: Mapping[str, Any] | None = None,
) -> str:
    """A token by PyJWT, with kube-apiserver's header unless set otherwise."""
    return jwt.encode(
        dict(claims() if payload is None else payload),
        SIGNERS[algorithm] if key is None else key,
        algorithm=algorithm,
        headers={"kid": KIDS.get(algorithm, "rsa"), "typ": None} | dict(headers or {}),
    )


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def raw(header: bytes, payload: bytes, signature: bytes = b"\x00" * 256) -> str:
    """Three parts of any bytes."""
    return ".".join(map(b64, (header, payload, signature)))


def sign_raw(header: bytes, payload: bytes) -> str:
    """Any bytes with a good RS256 signature of the cluster's key: what no cluster makes, but could."""
    message = f"{b64(header)}.{b64(payload)}".encode()
    return f"{message.decode()}.{b64(RSAAlgorithm(RSAAlgorithm.SHA256).sign(message, RSA_KEY))}"


def jwk(key: Any, kid: str, **more: Any) -> dict[str, Any]:
    """The public half as kube-apiserver publishes it."""
    public = key.public_key()
    codec = ECAlgorithm if isinstance(public, ec.EllipticCurvePublicKey) else RSAAlgorithm
    return codec.to_jwk(public, as_dict=True) | {"kid": kid, "use": "sig"} | more


def key_set(*keys: Mapping[str, Any]) -> bytes:
    return json.dumps({"keys": list(keys)}).encode()


PUBLISHED = key_set(jwk(RSA_KEY, "rsa"), jwk(EC_KEY, "p256"), jwk(P384_KEY, "p384"))


def public_pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
