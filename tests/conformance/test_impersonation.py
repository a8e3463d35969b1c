"""Ambient's ztunnel in shared mode: istiod's and istio-csr's impersonation tests, by name, and what they lack.

istiod: ``TestSingleClusterNodeAuthorization``, ``TestMultiClusterNodeAuthorization`` and
``TestCreateCertificateE2EWithImpersonateIdentity``; istio-csr: ``pkg/server/node_auth_test.go``. Every case goes
through the listener over TLS, asked as ztunnel asks, with the rights of ``manifests/member``.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from federation.core.audit import FIELDS
from federation.core.identity import SpiffeId
from federation.core.istio.ca_protocol import METHOD, IstioCertificateRequest, encode_request
from federation.runtime.clock import SystemClock
from federation.signer.authorities.authority import IssuedLeaf, LeafRequest
from federation_sandbox.apiserver.faults import Answer as Status
from federation_sandbox.apiserver.faults import Cut, Delay, Garbage, Hang
from federation_sandbox.cluster import SandboxCluster
from tests.signer.running_signer import Answer, RunningSigner, eventually, identity_of, running_signer
from tests.support import pki
from tests.support.patience import PATIENCE
from tests.support.ztunnel import Ztunnel

TRUSTED = 'trusted_node_accounts = ["istio-system/ztunnel"]'
ZTUNNEL = identity_of("istio-system", "ztunnel")
SHOP = identity_of("shop", "cart")
MODES = pytest.mark.parametrize("attestation", ["token-keys", "token-review"])

Setup = Callable[[RunningSigner], None]


def trusting(attestation: str = "auto", *, policy: str = "", **only: str) -> Setup:
    """A signer whose clusters trust ztunnel, or only those named, each with its line."""

    def setup(hub: RunningSigner) -> None:
        hub.policies = dict(only) or dict.fromkeys(hub.clusters, f"{TRUSTED}\n{policy}")
        hub.options = dict.fromkeys(hub.clusters, f'attestation = "{attestation}"')

    return setup


def start_pod(
    hub: RunningSigner,
    cluster: str,
    namespace: str,
    account: str,
    name: str,
    *,
    node: str,
    phase: str = "Running",
) -> str:
    """A pod on a node; returns its token."""
    box = hub.clusters[cluster]
    if box.get("namespaces", "", namespace) is None:
        box.create_namespace(namespace)
    if box.get("serviceaccounts", namespace, account) is None:
        box.create_service_account(namespace, account)
    box.create_pod(namespace, name, account, node=node, phase=phase)
    return box.token(namespace, account, pod=name)


def start_ztunnel(
    hub: RunningSigner, cluster: str = "east", *, node: str = "node-1", name: str = "ztunnel-a"
) -> str:
    return start_pod(hub, cluster, "istio-system", "ztunnel", name, node=node)


async def ask(
    hub: RunningSigner, cluster: str | None, token: str, identity: SpiffeId | str, **options: Any
) -> Answer:
    """As ztunnel asks: its own token, and the identity in the CSR and in the metadata."""
    csr = options.pop("csr", None) or pki.csr_pem(identity, san_critical=False)
    fields = {"ImpersonatedIdentity": str(identity)}
    return await hub.ask(cluster, token, csr, fields=fields, **options)


def refused(answer: Answer) -> bool:
    return (answer.code, answer.details) == (
        grpc.StatusCode.UNAUTHENTICATED,
        "request authenticate failure",
    )


def unavailable(answer: Answer) -> bool:
    return (answer.code, answer.details) == (
        grpc.StatusCode.UNAVAILABLE,
        "certificate signing is temporarily unavailable",
    )


async def attested(hub: RunningSigner, token: str, cluster: str = "east") -> None:
    """Wait until the cluster's watch knows what the token is bound to."""
    attestor = hub.attestors[cluster]
    if attestor.config.attestation == "token-review":
        return
    pods = hub.clusters[cluster].objects("pods")
    await eventually(lambda: attestor.keys.usable and attestor.objects.fresh)
    await eventually(lambda: len(attestor.objects.pods or ()) == len(pods))


def lists(box: SandboxCluster) -> list[str]:
    """The queries of all lists of a namespace's pods: what ambient asked."""
    return [
        entry.info.field_selector
        for entry in box.requests.recent
        if entry.info.verb == "list" and entry.info.resource == "pods" and entry.info.namespace
    ]


@asynccontextmanager
async def ambient(
    directory: Path, attestation: str = "auto", *, policy: str = "", **boxes: SandboxCluster
) -> AsyncIterator[tuple[RunningSigner, str]]:
    """A signer whose clusters trust ztunnel, ztunnel on node-1 of east with its token, a pod of shop/cart beside it."""
    setup = trusting(attestation, policy=policy)
    async with running_signer(directory, clusters=boxes or None, setup=setup) as hub:
        token = start_ztunnel(hub)
        start_pod(hub, "east", "shop", "cart", "cart-0", node="node-1")
        await attested(hub, token)
        yield hub, token


@MODES
async def test_allowed_identities_on_node(tmp_path: Path, attestation: str) -> None:
    async with ambient(tmp_path, attestation) as (hub, token):
        answer = await ask(hub, "east", token, SHOP)
        assert answer.leaf.uris == (str(SHOP),)
        assert (await ask(hub, "east", token, ZTUNNEL)).leaf.uris == (str(ZTUNNEL),), "its own, the same way"


@MODES
async def test_empty_allowed_identities(tmp_path: Path, attestation: str) -> None:
    """No account is trusted by default, not even for its own identity."""
    async with running_signer(tmp_path, setup=trusting(attestation, east="")) as hub:
        token = start_ztunnel(hub)
        start_pod(hub, "east", "shop", "cart", "cart-0", node="node-1")
        await attested(hub, token)
        for identity in (SHOP, ZTUNNEL):
            assert refused(await ask(hub, "east", token, identity))
        assert hub.refused("east") == {"impersonator_not_trusted": 2}
        assert not lists(hub.clusters["east"]), "a cluster without ambient is asked nothing"


async def test_an_account_that_is_not_trusted(tmp_path: Path) -> None:
    async with ambient(tmp_path) as (hub, _):
        neighbour = start_pod(hub, "east", "shop", "other", "other-0", node="node-1")
        assert refused(await ask(hub, "east", neighbour, SHOP))
        assert hub.refused("east") == {"impersonator_not_trusted": 1}
        assert not lists(hub.clusters["east"])


async def test_trust_in_one_cluster_is_none_in_another(tmp_path: Path) -> None:
    async with running_signer(tmp_path, ("east", "west"), setup=trusting(east=TRUSTED, west="")) as hub:
        for cluster in ("east", "west"):
            start_pod(hub, cluster, "shop", "cart", "cart-0", node="node-1")
        token = start_ztunnel(hub, "west")
        assert refused(await ask(hub, "west", token, SHOP))
        assert refused(await ask(hub, "east", token, SHOP))
        assert hub.refused("west") == {"impersonator_not_trusted": 1}
        assert (await ask(hub, "east", start_ztunnel(hub, "east"), SHOP)).code is grpc.StatusCode.OK


@MODES
async def test_allowed_identities_off_node(tmp_path: Path, attestation: str) -> None:
    async with ambient(tmp_path, attestation) as (hub, token):
        away = identity_of("shop", "away")
        start_pod(hub, "east", "shop", "away", "away-0", node="node-2")
        assert refused(await ask(hub, "east", token, away)), "of another node"
        assert refused(await ask(hub, "east", token, identity_of("shop", "missing"))), "of no pod"
        assert refused(await ask(hub, "east", token, identity_of("empty", "cart"))), "of another namespace"
        assert hub.refused("east") == {"impersonated_off_node": 3}
        start_pod(hub, "east", "shop", "away", "away-1", node="node-1")
        assert (await ask(hub, "east", token, away)).leaf.uris == (str(away),), "on and off node"


async def test_a_pod_that_is_on_no_node_yet(tmp_path: Path) -> None:
    async with ambient(tmp_path) as (hub, token):
        start_pod(hub, "east", "shop", "new", "new-0", node="", phase="Pending")
        assert refused(await ask(hub, "east", token, identity_of("shop", "new")))


async def test_a_ztunnel_of_another_cluster(tmp_path: Path) -> None:
    """Both clusters trust ztunnel and have a node of one name; the pod is in one of them."""
    async with running_signer(tmp_path, ("east", "west"), setup=trusting()) as hub:
        tokens = {name: start_ztunnel(hub, name) for name in hub.clusters}
        start_pod(hub, "west", "shop", "cart", "cart-0", node="node-1")
        assert refused(await ask(hub, "east", tokens["east"], SHOP))
        assert refused(await ask(hub, "west", tokens["east"], SHOP)), "clusterid decides nothing"
        assert (await ask(hub, "west", tokens["west"], SHOP)).leaf.uris == (str(SHOP),)
        assert (await ask(hub, None, tokens["west"], SHOP)).leaf.uris == (str(SHOP),)
        assert hub.refused("east") == {"impersonated_off_node": 1}


async def test_a_ztunnel_of_a_removed_cluster(tmp_path: Path) -> None:
    async with running_signer(tmp_path, ("east", "west"), setup=trusting()) as hub:
        token = start_ztunnel(hub, "west")
        start_pod(hub, "west", "shop", "cart", "cart-0", node="node-1")
        assert (await ask(hub, "west", token, SHOP)).code is grpc.StatusCode.OK
        hub.registered.remove("west")
        await hub.reconfigure()
        assert refused(await ask(hub, "west", token, SHOP))


@pytest.mark.parametrize(
    ("phase", "served"),
    [("Pending", True), ("Running", True), ("Unknown", True), ("Failed", False), ("Succeeded", False)],
)
async def test_pods_that_have_ended_count_for_nothing(tmp_path: Path, phase: str, served: bool) -> None:
    async with ambient(tmp_path) as (hub, token):
        start_pod(hub, "east", "shop", "job", "job-0", node="node-1", phase=phase)
        answer = await ask(hub, "east", token, identity_of("shop", "job"))
        assert (answer.code is grpc.StatusCode.OK) is served
        assert refused(answer) is not served
        if not served:
            start_pod(hub, "east", "shop", "job", "job-1", node="node-1")
            again = await ask(hub, "east", token, identity_of("shop", "job"))
            assert again.code is grpc.StatusCode.OK, "that none was found is not remembered"


@pytest.mark.parametrize(("ago", "served"), [(-30, True), (50, True), (90, False)])
async def test_a_terminating_pod_counts_as_long_as_its_token(tmp_path: Path, ago: int, served: bool) -> None:
    async with ambient(tmp_path) as (hub, token):
        box = hub.clusters["east"]
        box.skew = timedelta(seconds=-ago - 10)
        box.delete("pods", "shop", "cart-0", grace=10)
        box.skew = timedelta(0)
        answer = await ask(hub, "east", token, SHOP)
        assert (answer.code is grpc.StatusCode.OK) is served
        assert refused(answer) is not served


@MODES
async def test_unknown_caller(tmp_path: Path, attestation: str) -> None:
    """A deleted ztunnel pod takes its token with it."""
    async with ambient(tmp_path, attestation) as (hub, token):
        hub.clusters["east"].delete("pods", "istio-system", "ztunnel-a")
        start_ztunnel(hub, name="ztunnel-b")
        start_pod(hub, "east", "shop", "late", "late-0", node="node-1")
        assert not await _served(hub, token, identity_of("shop", "late"))
        assert not await _served(hub, token, ZTUNNEL)


async def _served(hub: RunningSigner, token: str, identity: SpiffeId) -> bool:
    return (await ask(hub, "east", token, identity)).code is grpc.StatusCode.OK


async def test_a_caller_whose_pod_has_failed(tmp_path: Path) -> None:
    """Its object is there, so its token is good; its node has another ztunnel by now."""
    async with ambient(tmp_path) as (hub, token):
        hub.clusters["east"].set_pod_phase("istio-system", "ztunnel-a", "Failed")
        successor = start_ztunnel(hub, name="ztunnel-b")
        assert refused(await ask(hub, "east", token, SHOP))
        assert hub.refused("east") == {"impersonator_gone": 1}
        assert (await ask(hub, "east", successor, SHOP)).code is grpc.StatusCode.OK
        third = start_ztunnel(hub, name="ztunnel-c")
        assert (await ask(hub, "east", third, SHOP)).code is grpc.StatusCode.OK, (
            "the memory of ztunnel-b hides no newer pod"
        )


@MODES
async def test_bad_uid(tmp_path: Path, attestation: str) -> None:
    async with ambient(tmp_path, attestation) as (hub, token):
        box = hub.clusters["east"]
        box.delete("pods", "istio-system", "ztunnel-a")
        again = start_ztunnel(hub)
        await attested(hub, again)
        assert not await _served(hub, token, SHOP)
        if attestation == "token-review":
            assert await _served(hub, again, SHOP)


async def test_bad_account(tmp_path: Path) -> None:
    """An account of the same name in another namespace, and another account in ztunnel's namespace."""
    async with ambient(tmp_path) as (hub, _):
        for namespace, account in (("shop", "ztunnel"), ("istio-system", "ztunnel2")):
            token = start_pod(hub, "east", namespace, account, "zt", node="node-1")
            assert refused(await ask(hub, "east", token, SHOP))
        assert hub.refused("east") == {"impersonator_not_trusted": 2}


async def test_a_token_bound_to_no_pod_or_to_something_else(tmp_path: Path) -> None:
    async with ambient(tmp_path, policy="require_pod = false") as (hub, _):
        token = hub.clusters["east"].token("istio-system", "ztunnel")
        assert refused(await ask(hub, "east", token, SHOP))
        assert hub.refused("east") == {"impersonator_without_pod": 1}


MALFORMED = [
    "not-spiffe-identity",
    "spiffe://cluster.local/ns/shop/sa/",
    "spiffe://cluster.local/ns/shop",
    "spiffe://cluster.local/ns/shop/sa/cart/",
    "spiffe://cluster.local/ns/shop/sa/cart?x",
    "spiffe://cluster.local/ns/shop/sa/cart,URI:spiffe://cluster.local/ns/shop/sa/root",
    "spiffe://cluster.local,a/ns/shop/sa/cart",
    "spiffe://cluster.local/ns/shop,other/sa/cart",
    "spiffe://cluster.local/ns/shop/sa/cart,spec.nodeName=node-2",
    "spiffe://cluster.local/ns/../sa/cart",
    "spiffe://cluster.local/ns/sh%6Fp/sa/cart",
    "spiffe://user@cluster.local/ns/shop/sa/cart",
    "spiffe://cluster.local:15012/ns/shop/sa/cart",
    "spiffe://CLUSTER.LOCAL/ns/shop/sa/cart",
    "SPIFFE://cluster.local/ns/shop/sa/cart",
    "spiffe://cluster.local/sa/cart/ns/shop",
    " spiffe://cluster.local/ns/shop/sa/cart",
    "spiffe://cluster.local/ns/shop/sa/cart\n",
    "spiffe://cluster.local/ns/shop/sa/cart\x00",
    "spiffe://cluster.local/ns/shop/sa/cärt",
    "shop/cart",
    "*",
]


async def test_invalid_requested(tmp_path: Path) -> None:
    async with ambient(tmp_path) as (hub, token):
        good = pki.csr_pem(SHOP)
        for wanted in MALFORMED:
            assert refused(await ask(hub, "east", token, wanted, csr=good)), wanted
        assert hub.refused("east") == {"impersonated_malformed": len(MALFORMED)}
        assert not lists(hub.clusters["east"]), "no text of a caller reaches a selector"


@pytest.mark.parametrize(
    "value",
    [
        ["spiffe://cluster.local/ns/shop/sa/cart"],
        {"spiffe": str(SHOP)},
        7,
        True,
        None,
        f"spiffe://cluster.local/ns/shop/sa/{'a' * 2048}",
    ],
    ids=["list", "struct", "number", "bool", "null", "long"],
)
async def test_what_is_asked_for_must_be_one_string(tmp_path: Path, value: object) -> None:
    async with ambient(tmp_path) as (hub, token):
        fields = {"ImpersonatedIdentity": value}
        assert refused(await hub.ask("east", token, pki.csr_pem(ZTUNNEL), fields=fields))
        assert refused(await hub.ask("east", token, pki.csr_pem(SHOP), fields=fields))


async def test_another_trust_domain(tmp_path: Path) -> None:
    """istiod and istio-csr compare neither: the certificate would be for a mesh that is not this hub's."""
    async with ambient(tmp_path) as (hub, token):
        for domain in ("other.example", "cluster.local.evil.example", "cluster", "a.cluster.local"):
            foreign = f"spiffe://{domain}/ns/shop/sa/cart"
            assert refused(await ask(hub, "east", token, foreign)), domain
            assert refused(await ask(hub, "east", token, foreign, csr=pki.csr_pem(SHOP))), domain
        assert hub.refused("east") == {"impersonated_trust_domain": 8}


async def test_the_hubs_own_accounts(tmp_path: Path) -> None:
    async with ambient(tmp_path) as (hub, token):
        for account in ("federation-probe", "federation-istiod"):
            start_pod(hub, "east", "federation-system", account, account, node="node-1")
            assert refused(await ask(hub, "east", token, identity_of("federation-system", account)))
        assert hub.refused("east") == {"impersonated_hub_account": 2}


async def test_the_clusters_policy_holds_for_the_impersonated_identity(tmp_path: Path) -> None:
    policy = 'allow = ["shop/*"]\ndeny = ["shop/root"]\nlongest_ttl = "10m"'
    async with ambient(tmp_path, policy=policy) as (hub, token):
        start_pod(hub, "east", "shop", "root", "root-0", node="node-1")
        start_pod(hub, "east", "bank", "cart", "cart-0", node="node-1")
        granted = await ask(hub, "east", token, SHOP, seconds=86400)
        assert granted.leaf.uris == (str(SHOP),), "ztunnel itself need not be allowed for that"
        assert granted.leaf.not_after <= SystemClock().now() + timedelta(minutes=10)
        for identity in (identity_of("shop", "root"), identity_of("bank", "cart"), ZTUNNEL):
            assert refused(await ask(hub, "east", token, identity))
        assert hub.refused("east") == {"account_not_allowed": 3}
        asked = lists(hub.clusters["east"])
        assert not any("=root" in query for query in asked), "refused before its cluster is asked anything"


async def test_an_account_that_policy_denies_may_not_impersonate(tmp_path: Path) -> None:
    async with ambient(tmp_path, policy='deny = ["istio-system/*"]') as (hub, token):
        assert refused(await ask(hub, "east", token, SHOP))
        assert hub.refused("east") == {"account_not_allowed": 1}


async def test_csr_not_of_the_impersonated_identity(tmp_path: Path) -> None:
    async with ambient(tmp_path) as (hub, token):
        start_pod(hub, "east", "shop", "other", "other-0", node="node-1")
        for csr in (ZTUNNEL, identity_of("shop", "other")):
            assert refused(await ask(hub, "east", token, SHOP, csr=pki.csr_pem(csr)))
        assert sum(hub.refused("east").values()) == 2


async def test_dedicated_mode_is_an_ordinary_workload(tmp_path: Path) -> None:
    async with running_signer(tmp_path) as hub:
        token = hub.pod("east")
        for fields in ({"CertSigner": ""}, {"ImpersonatedIdentity": ""}):
            answer = await hub.ask("east", token, fields=fields)
            assert answer.leaf.uris == (str(identity_of("foo", "bar")),)
        assert not lists(hub.clusters["east"])


@MODES
async def test_tokens_that_do_not_name_their_node(tmp_path: Path, attestation: str) -> None:
    """Before Kubernetes 1.30: the caller's own pod is looked up."""
    box = SandboxCluster("east", node_claims=False)
    async with ambient(tmp_path, attestation, east=box) as (hub, token):
        assert (await ask(hub, "east", token, SHOP)).leaf.uris == (str(SHOP),)
        start_pod(hub, "east", "shop", "away", "away-0", node="node-2")
        assert refused(await ask(hub, "east", token, identity_of("shop", "away")))
        box.set_pod_phase("istio-system", "ztunnel-a", "Failed")
        assert not (await ask(hub, "east", token, ZTUNNEL)).elements
        found = hub.refused("east")
        assert found.pop("impersonated_off_node") == 1
        assert found in ({"impersonator_node_unknown": 1}, {"object_unknown": 1})


@MODES
async def test_tokens_whose_node_has_no_object(tmp_path: Path, attestation: str) -> None:
    """kube-apiserver signs a node claim without a UID then; sidecars and ztunnel have such tokens alike."""
    async with ambient(tmp_path, attestation) as (hub, _):
        box = hub.clusters["east"]
        box.delete("nodes", "", "node-1")
        token = box.token("istio-system", "ztunnel", pod="ztunnel-a")
        assert (await ask(hub, "east", token, SHOP)).leaf.uris == (str(SHOP),)
        sidecar = box.token("shop", "cart", pod="cart-0")
        assert (await hub.ask("east", sidecar, identity=SHOP)).leaf.uris == (str(SHOP),)


@pytest.mark.parametrize(
    "fault",
    [
        Status.server_error(),
        Status.forbidden(),
        Status.throttled(),
        Garbage(),
        Garbage(code=200, content_type="application/json", body=b"{}"),
        Garbage(code=200, content_type="application/json", body=b'{"kind":"PodList","metadata":{"resource'),
        Cut(),
        Hang(),
    ],
    ids=lambda fault: type(fault).__name__ + str(getattr(fault, "code", "")),
)
async def test_an_outage_is_unavailable_and_not_a_refusal(tmp_path: Path, fault: Any) -> None:
    async with ambient(tmp_path) as (hub, token):
        box = hub.clusters["east"]
        with box.faults.inject(fault, verb="list", resource="pods", namespace="shop"):
            assert unavailable(await ask(hub, "east", token, SHOP))
            assert (await ask(hub, "east", token, ZTUNNEL)).code is grpc.StatusCode.OK
        with box.faults.inject(fault, verb="list", resource="pods", namespace="shop"):
            assert unavailable(await ask(hub, "east", token, SHOP))
            report = hub.role.report().clusters["east"]
            assert report.state == "degraded", "ambient is served no more, and status says so"
            assert report.reason
        assert (await ask(hub, "east", token, SHOP)).code is grpc.StatusCode.OK
        assert hub.role.report().clusters["east"].state == "ready"


async def test_a_pod_list_of_whole_pods_is_garbage(tmp_path: Path) -> None:
    """A server that does not know metadata-only lists would send every pod's spec."""
    body = {"kind": "PodList", "metadata": {"resourceVersion": "1"}, "items": []}
    async with ambient(tmp_path) as (hub, token):
        whole = Garbage(code=200, content_type="application/json", body=json.dumps(body).encode())
        with hub.clusters["east"].faults.inject(whole, verb="list", resource="pods", namespace="shop"):
            assert unavailable(await ask(hub, "east", token, SHOP))


async def test_what_is_asked_of_the_cluster_is_as_little_as_can_be(tmp_path: Path) -> None:
    async with ambient(tmp_path) as (hub, token):
        box = hub.clusters["east"]
        with box.faults.inject(Delay(0.3), verb="list", resource="pods", namespace="shop"):
            answers = await asyncio.gather(*(ask(hub, "east", token, SHOP) for _ in range(8)))
        answers += [await ask(hub, "east", token, SHOP) for _ in range(3)]
        assert {answer.code for answer in answers} == {grpc.StatusCode.OK}
        live = "status.phase!=Failed,status.phase!=Succeeded"
        assert sorted(lists(box)) == [
            f"spec.nodeName=node-1,spec.serviceAccountName=cart,{live}",
            f"spec.nodeName=node-1,spec.serviceAccountName=ztunnel,{live}",
        ], "eleven certificates, one list each for the caller's and the wanted account"


async def test_a_burst_of_questions_leaves_token_reviews_their_turn(tmp_path: Path) -> None:
    async with ambient(tmp_path, "token-review") as (hub, token):
        box = hub.clusters["east"]
        for index in range(12):
            start_pod(hub, "east", "slow", f"s{index}", f"s{index}", node="node-1")
        assert (await ask(hub, "east", token, ZTUNNEL)).code is grpc.StatusCode.OK
        sidecar = box.token("shop", "cart", pod="cart-0")
        with box.faults.inject(Hang(), verb="list", resource="pods", namespace="slow"):
            burst = [
                asyncio.create_task(ask(hub, "east", token, identity_of("slow", f"s{index}")))
                for index in range(12)
            ]
            await asyncio.sleep(0.5)
            assert not any(task.done() for task in burst)
            answer = await hub.ask("east", sidecar, identity=SHOP, timeout=2)
            assert answer.code is grpc.StatusCode.OK
        await asyncio.gather(*burst)


async def test_the_log_and_the_audit_name_caller_and_identity(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with ambient(tmp_path) as (hub, token):
        away = identity_of("shop", "away")
        await ask(hub, "east", token, SHOP)
        await ask(hub, "east", token, away)
        audit = next(r for r in caplog.records if r.name == "federation.signer.audit")
        assert audit.getMessage() == f"issued {SHOP}"
        logged = {name: getattr(audit, name) for name in ("cluster", "impersonator", "pod", "node")}
        assert logged == {
            "cluster": "east",
            "impersonator": "istio-system/ztunnel",
            "pod": "ztunnel-a",
            "node": "node-1",
        }
        assert {name: getattr(audit, name) for name in FIELDS if name != "source"} == {
            "actor": "istio-system/ztunnel",
            "actor_kind": "node-proxy",
            "action": "issue",
            "object": str(SHOP),
            "before": "none",
            "after": getattr(audit, "not_after", ""),
        }
        assert getattr(audit, "source", "").startswith("ipv4:127.0.0.1:")
        (refusal,) = (r for r in caplog.records if getattr(r, "reason", "") == "impersonated_off_node")
        assert getattr(refusal, "cluster", "") == "east"
        for part in ("east", "istio-system/ztunnel", "ztunnel-a", "node-1", str(away)):
            assert part in refusal.getMessage()


async def test_a_ztunnel_gets_what_its_node_needs_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole of it as ztunnel does it: every identity of its node at once, over one connection."""
    async with ambient(tmp_path) as (hub, token):
        mine = [identity_of("shop", f"app-{index}") for index in range(12)]
        for index, identity in enumerate(mine):
            account = identity.service_account
            start_pod(hub, "east", account.namespace, account.name, f"app-{index}", node="node-1")
        away = identity_of("shop", "away")
        start_pod(hub, "east", "shop", "away", "away-0", node="node-2")
        metadata = (("authorization", f"Bearer {token}"), ("clusterid", "east"))
        async with hub.channel() as channel:
            method = channel.unary_unary(METHOD)

            async def call(message: bytes) -> bytes:
                reply: bytes = await method(message, metadata=metadata, timeout=PATIENCE)
                return reply

            ztunnel = Ztunnel(call, SystemClock())
            running = asyncio.create_task(ztunnel.run([ZTUNNEL, SHOP, *mine, away]))
            try:
                await eventually(lambda: len(ztunnel.certificates) == 14 and len(ztunnel.refusals) > 1)
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
        assert set(ztunnel.certificates) == {ZTUNNEL, SHOP, *mine}
        assert set(ztunnel.refusals) == {(away, grpc.StatusCode.UNAUTHENTICATED)}
        assert ztunnel.most_in_flight == 8
        issue, replaces = hub.back_ends[0].issue, dict[str, datetime | None]()

        async def noted(order: LeafRequest) -> IssuedLeaf:
            replaces[order.names[0]] = order.replaces
            return await issue(order)

        monkeypatch.setattr(hub.back_ends[0], "issue", noted)
        for identity in (SHOP, *mine):
            assert (await ask(hub, "east", token, identity)).code is grpc.StatusCode.OK
        assert (await hub.ask("east", token, identity=ZTUNNEL)).code is grpc.StatusCode.OK
        ends = {str(identity): kept.leaf.not_after for identity, kept in ztunnel.certificates.items()}
        assert replaces == ends, "whose certificate ends first is known for each identity"
        assert {kept.roots for kept in ztunnel.certificates.values()} == {(hub.ca.root,)}


async def test_a_wire_message_that_names_two_identities_has_one(tmp_path: Path) -> None:
    """A map's key may come twice on the wire; the last one counts, for the gate as for the certificate."""
    async with ambient(tmp_path) as (hub, token):
        first, last = (
            encode_request(IstioCertificateRequest(csr="", metadata={"ImpersonatedIdentity": str(one)}))
            for one in (identity_of("shop", "away"), SHOP)
        )
        csr = encode_request(IstioCertificateRequest(csr=pki.csr_pem(SHOP)))
        answer = await hub.ask("east", token, message=first + last + csr)
        assert answer.leaf.uris == (str(SHOP),)
        assert refused(await hub.ask("east", token, message=last + first + csr))
