"""The keys that sign a cluster's service account tokens, published as a JSON Web Key Set.

Source: k8s.io/kubernetes ``pkg/serviceaccount/jwt.go`` (key IDs) and ``openidmetadata.go`` (what is
published).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

Algorithm = Literal["RS256", "ES256"]


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@dataclass(frozen=True, slots=True)
class SigningKey:
    """One key. Its ID is the SHA-256 of the public key's DER, as kube-apiserver derives it."""

    private: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
    algorithm: Algorithm
    key_id: str

    @classmethod
    def generate(cls, algorithm: Algorithm) -> SigningKey:
        """A new RSA-2048 or P-256 key."""
        private: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
        if algorithm == "RS256":
            private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        else:
            private = ec.generate_private_key(ec.SECP256R1())
        spki = private.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return cls(private, algorithm, _base64url(hashlib.sha256(spki).digest()))

    def sign(self, claims: Mapping[str, Any]) -> str:
        """A compact JWS over the claims; its header holds ``alg`` and ``kid`` only."""
        headers = {"kid": self.key_id, "typ": None}
        return jwt.encode(dict(claims), self.private, algorithm=self.algorithm, headers=headers)

    def jwk(self) -> dict[str, str]:
        """The public half as a JSON Web Key (RFC 7517)."""
        head = {"use": "sig", "kid": self.key_id, "alg": self.algorithm}
        public = self.private.public_key()
        if isinstance(public, rsa.RSAPublicKey):
            numbers = public.public_numbers()
            modulus = numbers.n.to_bytes((numbers.n.bit_length() + 7) // 8, "big")
            return head | {
                "kty": "RSA",
                "n": _base64url(modulus),
                "e": _base64url(numbers.e.to_bytes(3, "big")),
            }
        point = public.public_numbers()
        x, y = (_base64url(value.to_bytes(32, "big")) for value in (point.x, point.y))
        return head | {"kty": "EC", "crv": "P-256", "x": x, "y": y}


class KeyRing:
    """The keys of one cluster: the first signs, all of them verify and are published."""

    def __init__(self, algorithm: Algorithm) -> None:
        self.algorithm: Algorithm = algorithm
        self.keys = [SigningKey.generate(algorithm)]

    @property
    def signing(self) -> SigningKey:
        """The key that signs new tokens."""
        return self.keys[0]

    def rotate(self, algorithm: Algorithm | None = None) -> SigningKey:
        """Sign with a new key from now on; older ones still verify."""
        self.keys.insert(0, SigningKey.generate(algorithm or self.algorithm))
        return self.signing

    def retire(self) -> None:
        """Forget every key but the one that signs: older tokens are worth nothing any more."""
        del self.keys[1:]

    def find(self, key_id: str) -> SigningKey | None:
        """The key with that ID."""
        return next((key for key in self.keys if key.key_id == key_id), None)

    def jwks(self) -> dict[str, Any]:
        """What ``/openid/v1/jwks`` answers."""
        return {"keys": [key.jwk() for key in self.keys]}

    def discovery(self, issuer: str, jwks_uri: str) -> dict[str, Any]:
        """What ``/.well-known/openid-configuration`` answers (OpenID Connect Discovery 1.0)."""
        return {
            "issuer": issuer,
            "jwks_uri": jwks_uri,
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": sorted({key.algorithm for key in self.keys}),
        }
