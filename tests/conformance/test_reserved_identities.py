"""Identities that only clusters have whose policy names them: workloads, ztunnel, and istiod's DNS names."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from cryptography import x509

from federation.core.config.clusters import IstioConfig
from federation.core.istio.istiod import istiod_names
from tests.signer.running_signer import Answer, RunningSigner, identity_of, running_signer
from tests.support import pki

ISTIOD = ("istio-system", "istiod")


def refused(answer: Answer) -> bool:
    return answer.code is grpc.StatusCode.UNAUTHENTICATED


async def test_no_member_has_a_control_planes_identity_by_an_open_policy(tmp_path: Path) -> None:
    def setup(hub: RunningSigner) -> None:
        hub.policies = {"east": 'reserved = ["istio-system/istiod"]'}

    async with running_signer(tmp_path, ("east", "west"), setup=setup) as hub:
        for name, granted in (("east", True), ("west", False)):
            answer = await hub.ask(name, hub.pod(name, *ISTIOD, "istiod-0"), identity=identity_of(*ISTIOD))
            assert (answer.code is grpc.StatusCode.OK) is granted
        assert hub.refused("west") == {"identity_reserved": 1}
        other = identity_of("istio-system", "ingress")
        token = hub.pod("west", "istio-system", "ingress", "ingress-0")
        assert (await hub.ask("west", token, identity=other)).code is grpc.StatusCode.OK


async def test_a_node_proxy_gets_none_either(tmp_path: Path) -> None:
    def setup(hub: RunningSigner) -> None:
        hub.policies = {"west": 'trusted_node_accounts = ["istio-system/ztunnel"]'}

    async with running_signer(tmp_path, ("east", "west"), setup=setup) as hub:
        hub.pod("west", *ISTIOD, "istiod-0")
        hub.pod("west", "shop", "cart", "cart-0")
        ztunnel = hub.pod("west", "istio-system", "ztunnel", "ztunnel-0")
        for wanted, granted in ((identity_of("shop", "cart"), True), (identity_of(*ISTIOD), False)):
            answer = await hub.ask(
                "west", ztunnel, identity=wanted, fields={"ImpersonatedIdentity": str(wanted)}
            )
            assert (answer.code is grpc.StatusCode.OK) is granted, wanted
        assert hub.refused("west") == {"identity_reserved": 1}


async def test_an_operator_may_reserve_istiods_names_and_others(tmp_path: Path) -> None:
    def setup(hub: RunningSigner) -> None:
        hub.reserved = 'reserved = ["federation-system/federation-istiod", "payments/*"]'
        hub.policies = {"east": 'reserved = ["federation-system/federation-istiod", "payments/*"]'}

    names = istiod_names(IstioConfig(), "istio-system", ())
    csr = pki.csr_pem(san=x509.SubjectAlternativeName([x509.DNSName(name) for name in names]))
    async with running_signer(tmp_path, ("east", "west"), setup=setup) as hub:
        for name, granted in (("east", True), ("west", False)):
            token = hub.clusters[name].token("federation-system", "federation-istiod")
            assert ((await hub.ask(name, token, csr)).code is grpc.StatusCode.OK) is granted
            token = hub.pod(name, "payments", "api", "api-0")
            answer = await hub.ask(name, token, identity=identity_of("payments", "api"))
            assert (answer.code is grpc.StatusCode.OK) is granted
        hub.policies["west"] = 'reserved = ["payments/api"]'
        await hub.reconfigure()
        token = hub.pod("west", "payments", "api", "api-0")
        answer = await hub.ask("west", token, identity=identity_of("payments", "api"))
        assert answer.code is grpc.StatusCode.OK, "taken up without a restart"
        token = hub.pod("west", "payments", "ledger", "ledger-0")
        assert refused(await hub.ask("west", token, identity=identity_of("payments", "ledger"))), (
            "that one alone"
        )


@pytest.mark.parametrize("attestation", ["auto", "token-review", "token-keys"])
async def test_a_token_that_lives_too_long_is_refused(tmp_path: Path, attestation: str) -> None:
    def setup(hub: RunningSigner) -> None:
        mode = f'attestation = "{attestation}"'
        hub.options = {"east": mode, "west": f'{mode}\nlongest_token_life = "366d"'}

    async with running_signer(tmp_path, ("east", "west"), setup=setup) as hub:
        for name, granted in (("east", False), ("west", True)):
            hub.pod(name)
            token = hub.clusters[name].token("foo", "bar", pod="bar-0", expiration=31_536_000)
            assert ((await hub.ask(name, token)).code is grpc.StatusCode.OK) is granted
        assert hub.refused("east") == {"token_life": 1}
        assert any("longest_token_life" in warning for warning in hub.config.current.warnings)
