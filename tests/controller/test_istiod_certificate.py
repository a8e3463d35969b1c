"""istiod's certificate as the controller keeps it: the Secret in the cluster, read by an independent reader."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.verification import PolicyBuilder, Store

from tests.controller.world import ISTIO_SYSTEM, World, eventually, open_world

SECRET = "istiod-tls"


def secret(world: World, cluster: str = "east", namespace: str = ISTIO_SYSTEM) -> dict[str, bytes]:
    """The Secret's data, decoded; empty where there is none."""
    found: Any = world.clusters[cluster].get("secrets", namespace, SECRET)
    return {} if found is None else {k: base64.b64decode(v) for k, v in found.get("data", {}).items()}


def verify(data: dict[str, bytes], bundle: str, name: str = "istiod.istio-system.svc") -> x509.Certificate:
    """The leaf, verified for that name as a TLS client does, with the key that fits it."""
    leaf, *above = x509.load_pem_x509_certificates(data["tls.crt"])
    store = Store(x509.load_pem_x509_certificates(bundle.encode()))
    PolicyBuilder().store(store).build_server_verifier(x509.DNSName(name)).verify(leaf, above)
    assert load_pem_private_key(data["tls.key"], None).public_key() == leaf.public_key()
    assert data["ca.crt"] == bundle.encode()
    return leaf


async def test_the_secret_is_there_and_verifies(tmp_path: Path) -> None:
    async with open_world(tmp_path, "east") as world, world.controller():
        generation = await world.published()
        await eventually(lambda: secret(world))
        verify(secret(world), generation.bundle_pem)
        report = await world.until(lambda r: r.clusters["east"].control_planes[0].state == "provided")
        assert report.clusters["east"].state == "ready", report.clusters["east"]
