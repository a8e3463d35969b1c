"""istiod's certificate at the signer's listener: an account of its own, exactly its names, and no way around that."""

from __future__ import annotations

import logging
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from federation.core.config.clusters import IstioConfig
from federation.core.istio.istiod import istiod_names
from tests.signer.running_signer import Answer, RunningSigner, identity_of, running_signer
from tests.support import pki

NAMES = istiod_names(IstioConfig(), "istio-system", ["canary"])
ACCOUNT = ("federation-system", "federation-istiod")


def csr(*names: str, uris: tuple[str, ...] = ()) -> str:
    entries = [*map(x509.DNSName, names), *map(x509.UniformResourceIdentifier, uris)]
    return pki.csr_pem(san=x509.SubjectAlternativeName(entries))


def token(hub: RunningSigner, cluster: str = "east") -> str:
    return hub.clusters[cluster].token(*ACCOUNT)


def refused(answer: Answer) -> bool:
    """The caller learns nothing of why."""
    return answer.code is grpc.StatusCode.UNAUTHENTICATED and "istiod" not in answer.details


async def test_it_gets_a_server_s_certificate_for_these_names_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "federation.signer.audit")
    async with running_signer(tmp_path) as hub:
        answer = await hub.ask("east", token(hub), csr(*NAMES), seconds=0)
        leaf = answer.leaf
        assert leaf.uris == ()
        names = leaf.x509.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert list(names) == [x509.DNSName(name) for name in NAMES]
        usages = leaf.x509.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert list(usages) == [ExtendedKeyUsageOID.SERVER_AUTH]
        assert (leaf.not_after - leaf.not_before).total_seconds() >= 86400, "what the policy gives by default"
        (line,) = [r for r in caplog.records if r.name == "federation.signer.audit"]
        assert all(name in line.getMessage() for name in NAMES)
        report = hub.role.report().clusters["east"]
        assert (report.issued, report.own_issued, report.workload_issued_at) == (1, 1, 0.0)


async def test_it_never_gets_an_identity_and_no_name_of_another_server(tmp_path: Path) -> None:
    async with running_signer(tmp_path) as hub:
        own = token(hub)
        assert refused(await hub.ask("east", own, identity=identity_of(*ACCOUNT)))
        assert refused(await hub.ask("east", own, csr(NAMES[0], uris=(str(identity_of(*ACCOUNT)),))))
        assert refused(await hub.ask("east", own, csr(NAMES[0], "federation-hub.federation-system.svc")))
        assert refused(await hub.ask("east", own, csr("istiod.kube-system.svc")))
        assert hub.refused("east") == {"csr_uri": 2, "csr_dns_name": 2}
        assert hub.role.report().clusters["east"].own_refused == {"csr_uri": 2, "csr_dns_name": 2}


async def test_no_other_account_gets_a_dns_name(tmp_path: Path) -> None:
    async with running_signer(tmp_path) as hub:
        box = hub.clusters["east"]
        for caller in (
            hub.pod("east"),
            hub.pod("east", "istio-system", "istiod", "istiod-0"),
            box.token("federation-system", "federation-probe"),
        ):
            assert refused(await hub.ask("east", caller, csr(*NAMES)))
        assert hub.refused("east") == {"csr_dns_name": 3}


async def test_the_account_of_another_cluster_gets_nothing_here(tmp_path: Path) -> None:
    async with running_signer(tmp_path, ("east", "west")) as hub:
        assert refused(await hub.ask("east", token(hub, "west"), csr(*NAMES)))
        assert (await hub.ask("west", token(hub, "west"), csr(*NAMES))).code is grpc.StatusCode.OK


async def test_policy_denies_it_and_the_operator_turns_it_off(tmp_path: Path) -> None:
    def setup(hub: RunningSigner) -> None:
        hub.policies = {"west": 'deny = ["federation-system/federation-istiod"]'}

    async with running_signer(tmp_path, ("east", "west"), setup=setup) as hub:
        assert refused(await hub.ask("west", token(hub, "west"), csr(*NAMES)))
        assert hub.refused("west") == {"account_not_allowed": 1}
        hub.policies["east"] = "\n[clusters.istio]\nprovide_certificate = false\n"
        await hub.reconfigure()
        assert refused(await hub.ask("east", token(hub), csr(*NAMES)))
        assert refused(await hub.ask("east", token(hub), identity=identity_of(*ACCOUNT)))
        assert hub.refused("east") == {"istiod_not_provided": 2}


async def test_the_names_follow_the_configuration(tmp_path: Path) -> None:
    async with running_signer(tmp_path) as hub:
        hub.policies["east"] = (
            '\n[clusters.istio]\nnamespaces = ["istio-b"]\nrevisions = ["blue"]\n'
            'extra_names = ["istiod.east.example"]\n'
        )
        await hub.reconfigure()
        good = ("istiod.istio-b.svc", "istiod-blue.istio-b.svc", "istiod.east.example")
        assert (await hub.ask("east", token(hub), csr(*good))).code is grpc.StatusCode.OK
        for name in ("istiod.istio-system.svc", "istiod-green.istio-b.svc", "other.east.example"):
            assert refused(await hub.ask("east", token(hub), csr(name)))
