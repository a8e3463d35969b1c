"""``clusters check``: the member manifests pass without a warning, and every problem is found with its remedy."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from federation.clusters.permissions import EXCESSIVE, CheckResult, Permission, controller_needs, signer_needs
from federation.clusters.preflight import check_cluster
from federation.core.config.clusters import ClusterConfig, ClusterTimeouts, Credentials, IstioConfig
from federation.core.config.hub import HubConfig
from federation.core.config.load import parse_config
from federation.core.identity import (
    ANNOTATION,
    NO_HUB,
    ClusterId,
    ClusterName,
    HubIdentity,
    ServiceAccountRef,
)
from federation.kubernetes.objects import FIELD_MANAGER, ManagedFields, owners_of
from federation.runtime.clock import SystemClock
from federation_sandbox.apiserver.faults import Answer, Garbage, Hang
from federation_sandbox.cluster import SandboxCluster
from tests.support import istio_objects as charts

MEMBER = Path(__file__).parents[2] / "manifests" / "member"
TIMEOUTS = ClusterTimeouts(connect=20.0, request=20.0)
SHORT = ClusterTimeouts(connect=0.5, request=0.5)
CONFIG = """
trust_domain = "cluster.local"
[state]
directory = "state"
[trust]
anchors = [{ file = "root.pem", sha256 = "%s" }]
[listener]
server_names = ["hub.example.org"]
[signer.authority]
name = "shared"
certificate_file = "ca.pem"
key_file = "ca.key"
"""


@dataclass
class Member:
    """A cluster in a box with what manifests/member grants, and its registration."""

    cluster: SandboxCluster
    config: ClusterConfig
    hub: HubConfig
    directory: Path

    async def check(self, config: ClusterConfig | None = None) -> list[CheckResult]:
        return list(await check_cluster(config or self.config, self.hub, clock=SystemClock()))

    async def complaints(self, config: ClusterConfig | None = None) -> dict[str, CheckResult]:
        """What is not ok, by role and check."""
        results = [result for result in await self.check(config) if result.outcome != "ok"]
        assert all(result.detail and result.remedy and result.cluster == "east" for result in results)
        return {f"{result.role}.{result.check}": result for result in results}

    def apply(self, text: str) -> None:
        self.cluster.apply_manifest(doc for doc in yaml.safe_load_all(text) if doc)

    def credentials(self, account: str) -> Credentials:
        path = self.directory / f"{account}.kubeconfig"
        document = self.cluster.service_account_kubeconfig("federation-system", account)
        path.write_text(json.dumps(document))
        return Credentials(kubeconfig=path)


def config_text(clusters: int = 1) -> str:
    entries = "".join(
        f'[[clusters]]\nname = "c{number}"\ncluster_id = "c{number}"\nkubeconfig = "kc"\n'
        for number in range(clusters)
    )
    return CONFIG % ("a" * 64) + entries


@pytest.fixture
async def member(tmp_path: Path) -> AsyncIterator[Member]:
    async with SandboxCluster("east") as cluster:
        hub = replace(parse_config(config_text(), file="clusters.toml"), clusters=())
        found = Member(cluster, None, hub, tmp_path)  # type: ignore[arg-type]
        cluster.create_namespace("istio-system")
        for name in yaml.safe_load((MEMBER / "kustomization.yaml").read_text())["resources"]:
            found.apply((MEMBER / name).read_text())
        cluster.create("secrets", {"metadata": {"name": "istiod-tls"}, "data": {}}, namespace="istio-system")
        found.config = ClusterConfig(
            name=ClusterName("east"),
            cluster_id=ClusterId("east"),
            signer=found.credentials("federation-signer"),
            controller=found.credentials("federation-controller"),
            timeouts=TIMEOUTS,
        )
        found.hub = replace(hub, clusters=(found.config,))
        yield found


async def test_the_member_manifests_pass_every_check(member: Member) -> None:
    assert await member.complaints() == {}
    checks = {(result.role, result.check) for result in await member.check()}
    both = {"credentials", "reachable", "version", "clock", "permissions", "excess_permissions", "own_token"}
    assert {check for role, check in checks if role == "signer"} == both | {"issuer", "token_keys"}
    # The others of Istio look at what is there, and there is nothing.
    istio = {"istio_certificate", "istio_rights", "istio_control_planes"}
    controller = both | istio | {"probe", "bundle_writers", "hubs", "cluster_trust_bundle"}
    assert {check for role, check in checks if role == "controller"} == controller
    assert {check for role, check in checks if role == "hub"} == {"cluster_id", "separate_credentials"}


async def test_checking_changes_nothing(member: Member) -> None:
    member.cluster.requests.reset()
    await member.check()
    assert member.cluster.requests.writes == 0


async def test_an_administrators_kubeconfig_is_more_than_either_role_may_have(member: Member) -> None:
    admin = Credentials(kubeconfig=member.cluster.write_kubeconfig(member.directory / "admin"))
    found = await member.complaints(replace(member.config, signer=admin, controller=admin))
    assert set(found) == {
        "hub.separate_credentials",
        "signer.excess_permissions",
        "controller.excess_permissions",
    }
    detail = found["signer.excess_permissions"].detail
    assert "get secrets" in detail
    assert "who can sign must not publish" in detail
    assert all(result.outcome == "warning" for result in found.values())


async def test_each_missing_verb_is_named(member: Member) -> None:
    member.cluster.delete("clusterroles", "", "federation-signer")
    member.cluster.delete("clusterroles", "", "federation-controller")
    member.apply(
        """
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: federation-controller}
rules:
  - {apiGroups: [""], resources: [namespaces], verbs: [get, list, watch]}
  - {apiGroups: [""], resources: [configmaps], verbs: [get, list, watch, create]}
"""
    )
    found = await member.complaints()
    detail = found["controller.permissions"].detail
    assert "patch configmaps istio-ca-root-cert" in detail
    assert "get namespaces" not in detail
    assert found["controller.permissions"].outcome == "failed"
    assert "watch pods" in found["signer.permissions"].detail
    assert "create tokenreviews.authentication.k8s.io" in found["signer.permissions"].detail


@pytest.mark.parametrize("role", ["signer", "controller"])
async def test_a_role_that_may_not_renew_its_token_is_warned_about_with_the_end_of_it(
    member: Member, role: str
) -> None:
    ends = next(
        each for each in await member.check() if (each.role, each.check) == (role, "own_token")
    ).detail
    assert " UTC" in ends
    member.cluster.delete("rolebindings", "federation-system", f"federation-{role}-tokens")
    (found,) = (await member.complaints()).items()
    assert found[0] == f"{role}.own_token"
    assert found[1].outcome == "warning"
    assert ends.partition("; ")[2] in found[1].detail
    assert "own-tokens.yaml" in found[1].remedy


async def test_a_missing_probe_is_found(member: Member) -> None:
    member.cluster.delete("serviceaccounts", "federation-system", "federation-probe")
    found = await member.complaints()
    assert "manifests/member" in found["controller.probe"].remedy


async def test_who_else_writes_the_bundle_is_named(member: Member) -> None:
    root = {"metadata": {"name": "istio-ca-root-cert"}, "data": {"root-cert.pem": "x"}}
    for namespace in ("default", "kube-system"):
        member.cluster.create("configmaps", root, namespace=namespace)
        change = {"data": {"root-cert.pem": "istiod"}}
        member.cluster.patch("configmaps", namespace, "istio-ca-root-cert", change, manager="pilot-discovery")
    found = await member.complaints()
    assert "pilot-discovery (2)" in found["controller.bundle_writers"].detail
    assert "ENABLE_CA_SERVER" in found["controller.bundle_writers"].remedy


async def test_istio_is_compared_with_what_the_hub_needs(member: Member) -> None:
    """Each comparison is tested in ``test_istio_findings.py``."""

    member.cluster.apply_manifest(
        [charts.istiod(), charts.mesh("cluster.local"), charts.injection("Kubernetes")]
    )
    found = await member.complaints()
    assert {name for name, result in found.items() if result.outcome == "failed"} == {
        "controller.istio_cluster_name"
    }
    assert "clusters istio east" in found["controller.istio_cluster_name"].remedy


async def test_a_certificate_of_istiods_that_is_not_there_is_said(member: Member) -> None:
    member.cluster.delete("secrets", "istio-system", "istiod-tls")
    found = await member.complaints()
    assert set(found) == {"controller.istio_certificate"}
    assert found["controller.istio_certificate"].outcome == "warning"
    own = replace(member.config, istio=IstioConfig(provide_certificate=False))
    assert await member.complaints(own) == {}


async def test_without_the_right_to_its_secret_istiod_gets_no_certificate(member: Member) -> None:
    member.cluster.delete("roles", "istio-system", "federation-istiod-tls")
    found = await member.complaints()
    assert set(found) == {"controller.istio_certificate"}
    assert found["controller.istio_certificate"].outcome == "failed"
    assert "patch secrets istiod-tls in istio-system" in found["controller.istio_certificate"].detail
    assert "provide_certificate = false" in found["controller.istio_certificate"].remedy


async def test_without_the_optional_rights_the_check_says_what_it_does_not_see(member: Member) -> None:
    member.cluster.delete("clusterroles", "", "federation-istio-reader")
    found = await member.complaints()
    assert set(found) == {"controller.istio_rights"}
    assert found["controller.istio_rights"].outcome == "warning"
    assert "list deployments.apps istiod" in found["controller.istio_rights"].detail
    assert "manifests/member" in found["controller.istio_rights"].remedy


async def test_a_cluster_id_that_another_cluster_has_is_a_failure(member: Member) -> None:
    twin = replace(member.config, name=ClusterName("west"))
    member.hub = replace(member.hub, clusters=(member.config, twin))
    found = await member.complaints()
    assert found["hub.cluster_id"].outcome == "failed"
    assert "west" in found["hub.cluster_id"].detail


@pytest.mark.parametrize(
    ("seconds", "outcome"), [(-300, "failed"), (300, "failed"), (90, "warning"), (-90, "warning"), (5, "")]
)
async def test_a_clock_that_is_off_is_found(member: Member, seconds: int, outcome: str) -> None:
    member.cluster.skew = timedelta(seconds=seconds)
    found = await member.complaints()
    for role in ("signer", "controller"):
        result = found.get(f"{role}.clock")
        assert (result.outcome if result else "") == outcome
        assert result is None or ("ahead of" if seconds > 0 else "behind") in result.detail


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda c: c.faults.inject(Hang()), "timeout"),
        (lambda c: c.faults.inject(Answer.unauthorized()), "unauthorized"),
        (lambda c: c.faults.inject(Answer.forbidden(), path="/version"), "forbidden"),
        (lambda c: c.faults.inject(Garbage()), "server_error"),
        (lambda c: c.faults.inject(Answer.throttled()), "throttled"),
    ],
)
async def test_a_cluster_that_does_not_answer_is_one_finding_for_each_role(
    member: Member, break_it: Callable[[SandboxCluster], Any], words: str
) -> None:
    break_it(member.cluster)
    timeouts = SHORT if words == "timeout" else TIMEOUTS
    found = await member.complaints(replace(member.config, timeouts=timeouts))
    assert set(found) == {"signer.reachable", "controller.reachable"}
    assert all(result.detail.startswith(words) for result in found.values())


async def test_a_cluster_that_is_down_is_unreachable(member: Member) -> None:
    await member.cluster.down()
    found = await member.complaints()
    assert found["signer.reachable"].detail.startswith("unreachable")


async def test_every_mistake_in_a_kubeconfig_is_a_finding(member: Member) -> None:
    broken = member.directory / "broken"
    document = member.cluster.kubeconfig(token="x")
    document["clusters"][0]["cluster"] |= {"insecure-skip-tls-verify": True, "proxy-url": "socks5://x"}
    broken.write_text(json.dumps(document))
    results = await member.check(replace(member.config, signer=Credentials(kubeconfig=broken)))
    failed = [r for r in results if r.role == "signer"]
    assert {r.check for r in failed} == {"credentials"}
    assert len(failed) == 2
    assert [r for r in results if r.role == "controller" and r.outcome != "ok"] == []


@pytest.mark.parametrize(
    ("version", "outcome"),
    [
        ("v1.21.9", "failed"),
        ("v1.30.1+k3s1", "warning"),
        ("v1.36.2-eks-1", ""),
        ("nonsense\x1b[31m", "warning"),
        ("v1.36.2\x1b[31m", ""),
    ],
)
async def test_the_version_is_judged(member: Member, version: str, outcome: str) -> None:
    body = json.dumps({"gitVersion": version}).encode()
    member.cluster.faults.inject(
        Garbage(code=200, content_type="application/json", body=body), path="/version"
    )
    results = [result for result in await member.check() if result.check == "version"]
    assert [result.outcome for result in results] == [outcome or "ok"] * 2
    assert all(result.detail.isprintable() for result in results)


@pytest.mark.parametrize(("attestation", "outcome"), [("auto", "warning"), ("token-keys", "failed")])
async def test_unpublished_keys_cost_a_review_or_everything(
    member: Member, attestation: str, outcome: str
) -> None:
    config = replace(member.config, attestation=attestation)
    member.cluster.faults.inject(Answer.forbidden(), path="/openid")
    member.cluster.faults.inject(Garbage(code=200, body=b'{"issuer":1}'), path="/.well-known")
    found = await member.complaints(config)
    assert set(found) == {"signer.issuer", "signer.token_keys"}
    assert {result.outcome for result in found.values()} == {outcome}
    assert "issuer-discovery" in found["signer.token_keys"].remedy


@pytest.mark.parametrize(("attestation", "outcome"), [("auto", "warning"), ("token-keys", "failed")])
@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([{"kty": "OKP", "crv": "Ed25519", "kid": "ed1", "x": "AAAA"}], "holds no key that a cluster signs"),
        ([{"kty": "RSA", "n": "AAAA", "e": "AQAB"}], "holds no key that a cluster signs"),
        ([], "holds no key that a cluster signs"),
        (None, "1 published that can be used, and 1 that cannot"),
    ],
)
async def test_keys_count_as_the_signer_counts_them(
    member: Member, attestation: str, outcome: str, entries: list[Any] | None, said: str
) -> None:
    if entries is None:
        entries, outcome = [*member.cluster.keys.jwks()["keys"], {"kty": "OKP", "kid": "ed1"}], "warning"
    body = json.dumps({"keys": entries}).encode()
    member.cluster.faults.inject(
        Garbage(code=200, content_type="application/jwk-set+json", body=body), path="/openid"
    )
    found = await member.complaints(replace(member.config, attestation=attestation))
    assert said in found["signer.token_keys"].detail
    assert found["signer.token_keys"].outcome == outcome
    assert found["signer.token_keys"].remedy


async def test_another_issuer_than_registered_is_another_cluster(member: Member) -> None:
    found = await member.complaints(replace(member.config, issuer="https://elsewhere"))
    assert found["signer.issuer"].outcome == "failed"
    good = replace(member.config, issuer=member.cluster.issuer)
    assert await member.complaints(good) == {}


def test_the_manifests_grant_what_the_roles_need_and_nothing_else() -> None:
    """By the letter, beside what the reviews say: each verb on each resource, both ways."""

    def granted(file: str) -> set[tuple[str, str, str]]:
        rules = [
            rule
            for doc in yaml.safe_load_all((MEMBER / file).read_text())
            if doc["kind"] in {"ClusterRole", "Role"}
            for rule in doc["rules"]
            if "resources" in rule
        ]
        return {
            (verb, resource, name)
            for rule in rules
            for verb in rule["verbs"]
            for resource in rule["resources"]
            for name in rule.get("resourceNames", [""])
        }

    def needed(permissions: tuple[Permission, ...]) -> set[tuple[str, str, str]]:
        return {(p.verb, p.resource, p.name) for p in permissions}

    review = ("create", "selfsubjectaccessreviews", "")
    probe = ServiceAccountRef("federation-system", "federation-probe")
    assert granted("signer.yaml") - {review} == needed(signer_needs())
    assert granted("controller.yaml") - {review} == needed(
        controller_needs(config_map="istio-ca-root-cert", probe=probe)
    )


def test_a_permission_reads_as_an_operator_would_say_it() -> None:
    texts = [str(permission) for permission in EXCESSIVE]
    assert "create serviceaccounts/token in kube-system" in texts
    assert "create clusterrolebindings.rbac.authorization.k8s.io" in texts


def test_ownership_is_read_out_of_managed_fields() -> None:
    key: dict[str, Any] = {"f:data": {"f:root-cert.pem": {}}}
    managed = msgspec.convert(
        [
            {"manager": FIELD_MANAGER, "fieldsV1": key},
            {"manager": "istiod", "fieldsV1": key},
            {"manager": "labeller", "fieldsV1": {"f:metadata": {"f:labels": {}}}},
            {"manager": "other-key", "fieldsV1": {"f:data": {"f:extra": {}}}},
            {"manager": "odd", "fieldsV1": {"f:data": ["f:root-cert.pem"]}},
            {"manager": "status", "subresource": "status", "fieldsV1": key},
            {"manager": "owns nothing"},
        ],
        list[ManagedFields],
    )
    assert owners_of(managed, "data", ["root-cert.pem"]) == {"istiod"}


async def test_the_right_to_the_cluster_trust_bundle_is_asked_for_where_it_is_served_and_wanted(
    member: Member,
) -> None:
    member.cluster.serve_cluster_trust_bundles("v1beta1")
    (found,) = (await member.complaints()).items()
    assert found[0] == "controller.cluster_trust_bundle"
    assert found[1].outcome == "warning"
    assert "v1beta1" in found[1].detail
    assert "attest signers.certificates.k8s.io istio.io/istiod-ca" in found[1].detail
    assert "patch clustertrustbundles.certificates.k8s.io istio.io:istiod-ca:root-cert" in found[1].detail
    assert "watch" not in found[1].detail, "every service account may read them"
    assert "manifests/member/cluster-trust-bundle" in found[1].remedy
    switched_off = replace(member.config, istio=IstioConfig(cluster_trust_bundle="off"))
    assert await member.complaints(switched_off) == {}
    member.apply((MEMBER / "cluster-trust-bundle" / "controller.yaml").read_text())
    assert await member.complaints() == {}


async def test_a_cluster_that_hides_which_apis_it_has_is_warned_about(member: Member) -> None:
    member.cluster.delete("clusterrolebindings", "", "system:discovery")
    (found,) = (await member.complaints()).values()
    assert (found.check, found.outcome) == ("cluster_trust_bundle", "warning")
    assert "system:discovery" in found.remedy


def written_by_hub(member: Member, namespace: str, mark: str) -> None:
    annotations = {ANNOTATION: mark} if mark else {}
    root = {
        "metadata": {"name": "istio-ca-root-cert", "annotations": annotations},
        "data": {"root-cert.pem": "x"},
    }
    member.cluster.create("configmaps", root, namespace=namespace)
    change = {"data": {"root-cert.pem": f"by a hub, {namespace}"}}
    member.cluster.patch("configmaps", namespace, "istio-ca-root-cert", change, manager=FIELD_MANAGER)


async def hubs(member: Member, identity: HubIdentity | None) -> tuple[str, str]:
    results = await check_cluster(member.config, member.hub, clock=SystemClock(), identity=identity)
    (found,) = [result for result in results if result.check == "hubs"]
    return found.outcome, found.detail


async def test_another_hub_that_has_written_there_is_named(member: Member) -> None:
    """The field manager's name is the same for every hub, so no other writer is recorded."""
    own, other = "1" * 32, "2" * 32
    assert (await hubs(member, NO_HUB))[0] == "ok"
    written_by_hub(member, "default", other)
    for identity in (NO_HUB, HubIdentity(own)):
        outcome, detail = await hubs(member, identity)
        assert (outcome, f"{other} (1)" in detail) == ("failed", True)
    assert (await hubs(member, HubIdentity(other)))[0] == "ok"
    assert (await hubs(member, HubIdentity(own, frozenset({other}))))[0] == "ok"
    outcome, detail = await hubs(member, None)
    assert (outcome, "cannot be read here" in detail) == ("warning", True)


async def test_what_a_hub_without_an_identity_wrote_is_another_s_as_long_as_this_one_has_none(
    member: Member,
) -> None:
    written_by_hub(member, "default", "")
    assert (await hubs(member, NO_HUB))[0] == "warning"
    assert (await hubs(member, HubIdentity("1" * 32)))[0] == "ok", "it is marked when the hub runs"
