"""Kubeconfig documents for the users of a sandbox cluster."""

from __future__ import annotations

import base64
from typing import Any

from federation.sandbox.apiserver.tls import KeyPair


def kubeconfig(
    *, cluster: str, server: str, ca_pem: bytes, user: str, credential: KeyPair | str
) -> dict[str, Any]:
    """A ``v1 Config`` with one cluster, user and context; the credential is a key pair or a bearer token."""

    def encoded(data: bytes) -> str:
        return base64.b64encode(data).decode()

    if isinstance(credential, KeyPair):
        secret = {
            "client-certificate-data": encoded(credential.certificate),
            "client-key-data": encoded(credential.key),
        }
    else:
        secret = {"token": credential}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "preferences": {},
        "clusters": [
            {"name": cluster, "cluster": {"server": server, "certificate-authority-data": encoded(ca_pem)}},
        ],
        "users": [{"name": user, "user": secret}],
        "contexts": [{"name": cluster, "context": {"cluster": cluster, "user": user}}],
        "current-context": cluster,
    }
