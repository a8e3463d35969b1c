"""On a real API server the guard lets the hub publish what is pinned, and a thief of its credentials nothing else."""

from __future__ import annotations

import asyncio
import copy
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from federation.clusters.trust_bundles import served_version
from federation.controller.publication.cluster_trust_bundle import BundleTarget
from federation.controller.publication.config_map import Target
from federation.controller.publication.istiod_secret import apply_body
from federation.core.config.hub import PublicationConfig
from federation.core.documents.trust import Generation
from federation.core.errors import (
    ClusterDenied,
    ClusterError,
    ClusterForbidden,
    ClusterInvalid,
    ClusterNotFound,
)
from federation.kubernetes.session import ClusterSession
from tests.manifests import test_real
from tests.manifests.guard import GUARD, PINNED, ROGUE, config_in, printed
from tests.manifests.test_real import Member, apply, open_session, opened_member, path_of, rename
from tests.manifests.tree import Tree

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        not test_real.KUBECONFIGS, reason="FEDERATION_REAL_KUBECONFIGS names no real API server"
    ),
]
PUBLICATION = PublicationConfig()
ONE, TWO = (root.pem.decode() for root in PINNED)
FOREIGN = ROGUE.pem.decode()
REFUSALS = ClusterDenied, ClusterForbidden, ClusterInvalid
HUB = {"fieldManager": "federation-hub", "force": "true"}


@dataclass
class Guarded:
    """A member with the guard; ``controller`` has what a thief of its kubeconfig has."""

    member: Member
    version: str  # of ClusterTrustBundles, empty where none are served

    @property
    def controller(self) -> ClusterSession:
        return self.member.sessions["controller"]

    async def write(self, path: str, body: bytes, session: ClusterSession | None = None) -> None:
        await (session or self.controller).request(
            "PATCH", path, params=HUB, body=body, content_type="application/apply-patch+yaml"
        )

    async def publish(self, pem: str, session: ClusterSession | None = None) -> None:
        """As the hub does: the ConfigMap."""
        target = Target.of(generation(pem), PUBLICATION)
        await self.write(target.path(self.member.namespace), target.body, session)

    async def provide(self, pem: str) -> None:
        """As the hub does: istiod's Secret."""
        body = apply_body(
            self.member.namespace, "istiod-tls", certificate=b"c", key=b"k", ca=pem.encode(), observed=None
        )
        await self.write(f"/api/v1/namespaces/{self.member.namespace}/secrets/istiod-tls", body)

    async def spread(self, pem: str) -> None:
        """As the hub does: the ClusterTrustBundle."""
        target = BundleTarget.of(generation(pem), PUBLICATION)
        await self.write(target.path(self.version), target.body(self.version))


def generation(pem: str) -> Generation:
    return Generation(
        number=1,
        created=1.0,
        reason="test",
        author="test",
        trust_domain="mesh.example",
        sha256=hashlib.sha256(pem.encode()).hexdigest(),
        bundle_pem=pem,
        anchors=[],
    )


def of_its_own(item: dict[str, Any], member: Member) -> dict[str, Any]:
    """The same policy or binding for this test's account and under names of its own."""
    text = msgspec.json.encode(item).decode().replace("federation-system", member.namespace)
    renamed: dict[str, Any] = msgspec.json.decode(text)
    renamed["metadata"]["name"] += f"-{member.suffix}"
    if "policyName" in renamed["spec"]:
        renamed["spec"]["policyName"] += f"-{member.suffix}"
    return renamed


def kept(policy: dict[str, Any]) -> list[dict[str, Any]]:
    """A policy with parameters in a ConfigMap that matches nothing. It stays on the API server.

    Where no binding has such parameters for a second an API server finds them no more until it is restarted
    (kubernetes#133827), and each test takes its own away.
    """
    meta = {"name": "federation-test-keeps-parameters-watched"}
    spec = {
        **policy["spec"],
        "matchConditions": [{"name": "never", "expression": "false"}],
        "validations": [{"expression": "true"}],
    }
    binding = {
        "policyName": meta["name"],
        "paramRef": {"name": "none", "namespace": "default", "parameterNotFoundAction": "Allow"},
        "validationActions": ["Deny"],
    }
    return [
        {**policy, "metadata": meta, "spec": {k: v for k, v in spec.items() if k != "variables"}},
        {**policy, "kind": "ValidatingAdmissionPolicyBinding", "metadata": meta, "spec": binding},
    ]


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[Guarded]:
    async with (
        await open_session(Path(test_real.KUBECONFIGS[0])) as admin,
        opened_member(admin, tmp_path) as member,
    ):
        version = await served_version(admin)
        objects = [of_its_own(item, member) for item in Tree.of(GUARD).objects]
        for item in kept(next(item for item in objects if item["kind"] == "ValidatingAdmissionPolicy")):
            await apply(admin, item)
        if version:
            for item in copy.deepcopy(list(Tree.of("member/cluster-trust-bundle").objects)):
                rename(item, member.namespace, member.suffix)
                objects.append(item)
        bundle = BundleTarget.of(generation(ONE), PUBLICATION).path(version) if version else ""
        try:
            for item in objects:
                await apply(admin, item)
            yield Guarded(member, version)
        finally:
            for path in [*map(path_of, objects), *([bundle] if bundle else [])]:
                with suppress(ClusterNotFound):
                    await admin.request("DELETE", path)


async def pin(guarded: Guarded, directory: Path) -> None:
    """What the administrator does: the ConfigMap that the CLI prints."""
    code, found, said = await printed(config_in(directory), "--namespace", guarded.member.namespace)
    assert code == 0, said
    await apply(guarded.member.admin, found)


async def until(attempt: Callable[[], Any], refused: bool) -> None:
    """Policies, their parameters and grants are taken up within moments."""
    seen: ClusterError | None = None
    for _ in range(3000):
        try:
            await attempt()
            seen = None
        except REFUSALS as error:
            seen = error
        if (seen is not None) == refused:
            return
        await asyncio.sleep(0.1)
    pytest.fail(f"{'nothing refused it' if refused else f'it stays refused: {seen}'}")


async def denied(attempt: Any) -> str:
    """Why the policy refuses that."""
    with pytest.raises(REFUSALS) as refused:
        await attempt
    assert "ValidatingAdmissionPolicy" in refused.value.what
    return refused.value.what


async def test_only_pinned_certificates_get_into_a_member(guarded: Guarded, tmp_path: Path) -> None:
    await until(lambda: guarded.publish(ONE), refused=True)
    assert "no params found" in await denied(guarded.publish(ONE)), "without the pins nothing is written"
    await pin(guarded, tmp_path)
    await until(lambda: guarded.publish(ONE), refused=False)
    both = "".join(sorted((ONE, TWO), key=lambda pem: pem != ONE))
    for good in (ONE, both, TWO, both.replace("\n", "\r\n")):
        await guarded.publish(good)
    for bad in (
        FOREIGN,
        ONE + FOREIGN,
        FOREIGN + ONE,
        ONE.replace("\n", "") + FOREIGN,
        ONE + "-----BEGIN CERTIFICATE-----\n",
        ONE + "a comment\n",
        ONE.replace("CERTIFICATE", "TRUSTED CERTIFICATE"),
        "not a certificate",
    ):
        await denied(guarded.publish(bad))
    target = Target.of(generation(ONE), PUBLICATION)
    body = msgspec.json.decode(target.body)
    body["data"]["other.pem"] = ONE
    await denied(guarded.write(target.path(guarded.member.namespace), msgspec.json.encode(body)))
    merge = msgspec.json.encode({"data": {"root-cert.pem": FOREIGN}})
    await denied(
        guarded.controller.request(
            "PATCH",
            target.path(guarded.member.namespace),
            body=merge,
            content_type="application/merge-patch+json",
        )
    )
    await guarded.publish(FOREIGN, session=guarded.member.admin)  # another writer is not its business


async def test_istiods_secret_and_the_cluster_trust_bundle_are_guarded_too(
    guarded: Guarded, tmp_path: Path
) -> None:
    await pin(guarded, tmp_path)
    await until(lambda: guarded.provide(ONE), refused=False)
    ordered = "".join(r.pem.decode() for r in sorted(PINNED, key=lambda r: r.certificate.sha256))
    await guarded.provide(ordered)
    await until(lambda: guarded.provide(FOREIGN), refused=True)
    for bad in (ONE + FOREIGN, FOREIGN):
        assert "ca.crt" in await denied(guarded.provide(bad))
    if not guarded.version:
        pytest.skip("the API server serves no ClusterTrustBundles")
    await until(lambda: guarded.spread(ONE), refused=False)
    for bad in (ONE + FOREIGN, FOREIGN):
        await denied(guarded.spread(bad))


async def test_a_thief_of_the_credentials_cannot_change_the_pins(guarded: Guarded, tmp_path: Path) -> None:
    await pin(guarded, tmp_path)
    pins = f"/api/v1/namespaces/{guarded.member.namespace}/configmaps/federation-guard"
    policies = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies"
    policy = f"{policies}/federation-guard-bundle-{guarded.member.suffix}"
    for path in (pins, policy):
        for method, body in (("DELETE", None), ("PATCH", b"{}")):
            with pytest.raises(ClusterForbidden):
                await guarded.controller.request(
                    method, path, body=body, content_type="application/merge-patch+json"
                )
