"""What the controller sees of Istio's webhooks: whose certificate kube-apiserver verifies istiod by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from federation.controller.role import ControllerRole
from federation.core.trust.rotation.world import ClusterFacts
from federation.state.documents import ControllerClusterReport
from tests.controller.test_istiod_certificate import NAMES, provided
from tests.controller.world import World, root
from tests.support import istio_objects as charts
from tests.support import pki
from tests.support.istiod import Istiod

MUTATING = "mutatingwebhookconfigurations"


def install(world: World, ca_bundle: bytes) -> dict[str, Any]:
    hook = charts.injector(ca_bundle)
    world.clusters["east"].apply_manifest([hook])
    return hook


async def east(world: World, wanted: Callable[[ControllerClusterReport], bool]) -> ControllerClusterReport:
    return (await world.until(lambda r: wanted(r.clusters["east"]))).clusters["east"]


def facts(role: ControllerRole) -> ClusterFacts:
    assert role._leader is not None
    return role._leader._see().clusters["east"]


async def test_a_cluster_without_istio_has_none_and_is_well(one: World) -> None:
    async with one.controller() as role:
        report = await east(one, lambda r: r.state == "ready" and not r.webhooks_detail)
        assert report.webhooks == []
        assert facts(role).webhooks == ()


async def test_an_istiod_that_has_not_served_is_named(one: World) -> None:
    install(one, b"")
    async with one.controller() as role:
        report = await east(one, lambda r: r.reason == "istiod_not_served")
        assert report.state == "degraded"
        assert "it looks for its certificate only at its start" in report.remedy
        (hook,) = facts(role).webhooks or ()
        assert (hook.istiod, hook.held) == ("istio-system/istiod", frozenset())


async def test_an_istiod_that_is_served_by_another_ca_is_named(one: World) -> None:
    other = pki.root("of istiod itself")
    install(one, other.certificate.pem)
    async with one.controller() as role:
        report = await east(one, lambda r: r.reason == "istiod_other_ca")
        assert report.webhooks[0].state == "other_ca"
        assert report.webhooks[0].anchors == [other.certificate.sha256]
        (hook,) = facts(role).webhooks or ()
        assert hook.held == {other.certificate.sha256}


@pytest.mark.parametrize(
    "garbage", [b"no PEM", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
async def test_a_bundle_that_cannot_be_read_trusts_nothing(one: World, garbage: bytes) -> None:
    install(one, garbage)
    async with one.controller() as role:
        await east(one, lambda r: r.reason == "istiod_not_served")
        (hook,) = facts(role).webhooks or ()
        assert hook.held == frozenset()


async def test_what_every_webhook_of_a_configuration_trusts_counts(one: World) -> None:
    hook = install(one, root().certificate.pem)
    webhooks = [*hook["webhooks"], hook["webhooks"][0] | {"name": "second.istio.io"}]
    webhooks[-1] = webhooks[-1] | {"clientConfig": webhooks[-1]["clientConfig"] | {"caBundle": ""}}
    one.clusters["east"].patch(MUTATING, "", hook["metadata"]["name"], {"webhooks": webhooks})
    async with one.controller():
        report = await east(one, lambda r: bool(r.webhooks))
        assert report.webhooks[0].state == "empty"


async def test_the_webhooks_of_others_are_not_kept(one: World) -> None:
    hook = charts.injector(root().certificate.pem)
    for webhook in hook["webhooks"]:
        webhook["clientConfig"]["service"]["name"] = "policy"
    one.clusters["east"].apply_manifest([hook])
    async with one.controller() as role:
        await east(one, lambda r: r.state == "ready" and not r.webhooks_detail)
        assert facts(role).webhooks == ()


async def test_a_real_start_is_followed_by_what_it_wrote(one: World) -> None:
    """From a cluster whose istiod was not started to one that is well, revision and names included."""
    async with one.controller() as role:
        await provided(one)
        async with Istiod(one.clusters["east"], revision="canary"):
            report = await east(one, lambda r: r.state == "ready" and bool(r.webhooks))
            assert {hook.state for hook in report.webhooks} == {"verifies"}
            held = {hook.held for hook in facts(role).webhooks or ()}
            assert held == {frozenset({root().certificate.sha256})}
            report = await east(one, lambda r: "istiod-canary.istio-system.svc" in r.control_planes[0].names)
            assert {*NAMES} < {*report.control_planes[0].names}


async def test_a_right_that_is_missing_is_named_and_nothing_counts_as_known(one: World) -> None:
    cluster = one.clusters["east"]
    role_object = cluster.get("clusterroles", "", "federation-controller")
    assert role_object is not None
    rules = [rule for rule in role_object["rules"] if MUTATING not in rule.get("resources", ())]
    cluster.patch("clusterroles", "", "federation-controller", {"rules": rules})
    async with one.controller() as role:
        report = await east(one, lambda r: "webhookconfigurations" in r.webhooks_detail)
        assert "manifests/member" in report.webhooks_detail
        assert facts(role).webhooks is None
        assert "manifests/member" in facts(role).webhooks_detail


async def test_a_plan_names_what_else_holds_trust(one: World) -> None:
    """The control plane's Secret, webhooks, and those of an istiod that runs in another cluster."""
    install(one, root().certificate.pem)
    remote = charts.injector(root().certificate.pem, revision="remote")
    for webhook in remote["webhooks"]:
        webhook["clientConfig"] = {
            "url": "https://istiod.elsewhere.example:15017/inject",
            "caBundle": webhook["clientConfig"]["caBundle"],
        }
    one.clusters["east"].apply_manifest([remote])
    async with one.controller() as role:
        await east(one, lambda r: len(r.webhooks) == 2)
        report = await one.until(
            lambda r: r.rotation.plan is not None and len(r.rotation.plan.holders) == 3, replica="one"
        )
        assert report.rotation.plan is not None
        held = {holder.what: holder for holder in report.rotation.plan.holders}
        assert {holder.cluster for holder in held.values()} == {"east"}
        assert held["Secret istio-system/istiod-tls"].anchors == [root().certificate.sha256]
        elsewhere = held["webhook mutating/istio-sidecar-injector-remote-istio-system"]
        assert "remote/istiod.elsewhere.example" in elsewhere.detail
        assert elsewhere.anchors == [root().certificate.sha256]
        assert {hook.istiod for hook in facts(role).webhooks or ()} == {
            "istio-system/istiod",
            "remote/istiod.elsewhere.example",
        }
