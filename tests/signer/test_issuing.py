"""A certificate's way from end to end: clusters in a box, the role as it runs, a real gRPC channel over TLS."""

from __future__ import annotations

from pathlib import Path

import grpc

from tests.signer.running_signer import bundle_of, identity_of, running_signer


async def test_a_workload_gets_a_certificate(tmp_path: Path) -> None:
    async with running_signer(tmp_path) as hub:
        answer = await hub.ask("east", hub.pod("east"))
        assert answer.code is grpc.StatusCode.OK, (answer, hub.role.report())
        leaf = answer.leaf
        assert leaf.uris == (str(identity_of("foo", "bar")),)
        assert answer.elements[1:] == (hub.ca.certificate.pem.decode(), bundle_of(hub.ca).decode())
