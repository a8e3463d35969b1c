"""What the controller sees of Istio's webhooks: whose certificate kube-apiserver verifies istiod by."""

from __future__ import annotations

import asyncio
import base64
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from federation.controller.publication import istio_webhooks
from federation.controller.publication.istio_webhooks import MOST_WEBHOOKS
from federation.core.config.clusters import ClusterConfig, ClusterTimeouts, Credentials
from federation.core.documents.controller import ControllerClusterReport
from federation.core.identity import ClusterId, ClusterName
from federation.kubernetes.session import ClusterSession
from federation_sandbox.cluster import SandboxCluster
from tests.controller.test_istiod_certificate import NAMES, provided
from tests.controller.world import World, root
from tests.support import istio_objects as charts
from tests.support import pki
from tests.support.clock import VirtualClock
from tests.support.clusters import eventually, running
from tests.support.istiod import Istiod
from tests.support.patience import PATIENCE

MUTATING = "mutatingwebhookconfigurations"
VALIDATING = "validatingwebhookconfigurations"


def install(world: World, ca_bundle: bytes) -> dict[str, Any]:
    hook = charts.injector(ca_bundle)
    world.clusters["east"].apply_manifest([hook])
    return hook


async def east(world: World, wanted: Callable[[ControllerClusterReport], bool]) -> ControllerClusterReport:
    return (await world.until(lambda r: wanted(r.clusters["east"]))).clusters["east"]


async def test_a_cluster_without_istio_has_none_and_is_well(one: World) -> None:
    async with one.controller():
        report = await east(one, lambda r: r.state == "ready" and not r.webhooks_detail)
        assert report.webhooks == []
        assert one.facts("east").webhooks == ()


async def test_an_istiod_that_has_not_served_is_named(one: World) -> None:
    install(one, b"")
    async with one.controller():
        report = await east(one, lambda r: r.reason == "istiod_not_served")
        assert report.state == "degraded"
        assert "it reads its certificate only at its start" in report.remedy
        assert "delete the webhook configuration" in report.remedy  # of an istiod that was uninstalled
        (hook,) = one.facts("east").webhooks or ()
        assert (hook.istiod, hook.anchors) == ("istio-system/istiod", frozenset())


async def test_an_istiod_that_is_served_by_another_ca_is_named(one: World) -> None:
    other = pki.root("of istiod itself")
    install(one, other.certificate.pem)
    async with one.controller():
        report = await east(one, lambda r: r.reason == "istiod_other_ca")
        assert report.webhooks[0].state == "other_ca"
        assert report.webhooks[0].anchors == [other.certificate.sha256]
        (hook,) = one.facts("east").webhooks or ()
        assert hook.anchors == {other.certificate.sha256}


@pytest.mark.parametrize(
    "garbage", [b"no PEM", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
async def test_a_bundle_that_cannot_be_read_trusts_nothing(one: World, garbage: bytes) -> None:
    install(one, garbage)
    async with one.controller():
        await east(one, lambda r: r.reason == "istiod_not_served")
        (hook,) = one.facts("east").webhooks or ()
        assert hook.anchors == frozenset()


async def test_something_odd_in_a_bundle_hides_nothing_that_is_trusted_by_it(one: World) -> None:
    other = pki.root("of istiod itself").certificate
    install(one, b"-----BEGIN X509 CRL-----\nMAA=\n-----END X509 CRL-----\n" + other.pem)
    async with one.controller():
        await east(one, lambda r: r.reason == "istiod_other_ca")
        (hook,) = one.facts("east").webhooks or ()
        assert hook.anchors == {other.sha256}


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
    async with one.controller():
        await east(one, lambda r: r.state == "ready" and not r.webhooks_detail)
        assert one.facts("east").webhooks == ()


async def test_a_real_start_is_followed_by_what_it_wrote(one: World) -> None:
    """From a cluster whose istiod was not started to one that is well, revision and names included."""
    async with one.controller():
        await provided(one)
        async with Istiod(one.clusters["east"], revision="canary"):
            report = await east(one, lambda r: r.state == "ready" and bool(r.webhooks))
            assert {hook.state for hook in report.webhooks} == {"verifies"}
            observed = {hook.anchors for hook in one.facts("east").webhooks or ()}
            assert observed == {frozenset({root().certificate.sha256})}
            report = await east(
                one,
                lambda r: any("istiod-canary.istio-system.svc" in each.names for each in r.control_planes),
            )
            assert {*NAMES} < {*report.control_planes[0].names}


async def test_one_kind_takes_no_connection_and_is_listed_soon_after_a_change_of_the_other(
    one: World,
) -> None:
    """istiod patches both when its roots change; a file descriptor for each cluster is spared."""
    cluster = one.clusters["east"]
    async with one.controller():
        await east(one, lambda r: r.state == "ready" and not r.webhooks_detail)
        await eventually(lambda: cluster.requests.count(verb="watch", resource=MUTATING))
        before = cluster.requests.count(verb="list", resource=VALIDATING)
        cluster.apply_manifest([charts.injector(root().certificate.pem, kind="Validating")])
        install(one, root().certificate.pem)
        await east(one, lambda r: len(r.webhooks) == 2)
        # Once for the change; once more where the regular list falls into these seconds.
        assert before < cluster.requests.count(verb="list", resource=VALIDATING) <= before + 2
        assert cluster.requests.count(verb="watch", resource=VALIDATING) == 0


async def test_what_takes_no_connection_is_listed_again_by_itself(
    one: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(istio_webhooks, "POLL_AT_REST", 0.2)
    hook = charts.injector(root().certificate.pem, kind="Validating")
    one.clusters["east"].apply_manifest([hook])
    async with one.controller():
        await east(one, lambda r: len(r.webhooks) == 1)
        one.clusters["east"].delete(VALIDATING, "", hook["metadata"]["name"])
        await east(one, lambda r: not r.webhooks and not r.webhooks_detail)


async def test_a_right_that_is_missing_is_named_and_nothing_counts_as_known(one: World) -> None:
    """The cluster is degraded, since it is unknown whether istiod is served; all that needs no webhook continues."""
    cluster = one.clusters["east"]
    role_object = cluster.get("clusterroles", "", "federation-controller")
    assert role_object is not None
    rules = [rule for rule in role_object["rules"] if MUTATING not in rule.get("resources", ())]
    cluster.patch("clusterroles", "", "federation-controller", {"rules": rules})
    async with one.controller():
        report = await east(
            one,
            lambda r: r.reason == "webhooks_unread" and r.publication.current == r.publication.selected > 0,
        )
        assert report.state == "degraded"
        assert "webhookconfigurations" in report.webhooks_detail
        assert "manifests/member" in report.webhooks_detail
        assert "manifests/member" in report.remedy
        assert one.facts("east").webhooks is None
        assert "manifests/member" in one.facts("east").webhooks_detail
        assert [plane.state for plane in report.control_planes] == ["provided"]
        assert not report.probe_detail
        cluster.patch("clusterroles", "", "federation-controller", {"rules": role_object["rules"]})
        await east(one, lambda r: r.state == "ready" and not r.webhooks_detail)


async def test_more_webhooks_than_are_looked_at_open_no_gate(one: World) -> None:
    for number in range(MOST_WEBHOOKS + 1):
        hook = charts.injector(root().certificate.pem)
        hook["metadata"]["name"] += f"-{number:03}"
        one.clusters["east"].apply_manifest([hook])
    async with one.controller():
        report = await east(one, lambda r: r.reason == "webhooks_unread")
        assert f"{MOST_WEBHOOKS + 1} of them call an istiod" in report.detail
        assert report.remedy == "find what makes them in that cluster, and delete them"
        assert one.facts("east").webhooks is None
        one.clusters["east"].delete(MUTATING, "", hook["metadata"]["name"])
        await east(one, lambda r: len(r.webhooks) == MOST_WEBHOOKS and not r.webhooks_detail)
        assert len(one.facts("east").webhooks or ()) == MOST_WEBHOOKS


async def test_a_ca_bundle_needs_the_root_of_the_certificate_and_no_other(one: World) -> None:
    """Another root of the bundle in common does not help: kube-apiserver refuses the certificate all the same."""
    two = pki.root("the second of two")
    one.anchors.append(two)
    one.anchor_file(two).write_bytes(two.pem)
    one.write_config()
    install(one, two.certificate.pem)
    async with one.controller():
        report = await east(one, lambda r: r.reason == "istiod_other_ca")
        assert report.webhooks[0].state == "other_ca"
        (plane,) = one.facts("east").control_planes
        assert two.certificate.sha256 in (plane.anchors or ())
        assert plane.root == root().certificate.sha256


async def test_a_tags_webhooks_ask_for_the_name_that_they_call(one: World) -> None:
    """And it is asked for still while webhooks are not known."""
    tag = charts.injector(root().certificate.pem, revision="stable")
    for webhook in tag["webhooks"]:
        webhook["clientConfig"]["service"]["name"] = "istiod-1-32"
    cluster = one.clusters["east"]
    cluster.apply_manifest([tag])
    async with one.controller():
        await east(
            one, lambda r: any("istiod-1-32.istio-system.svc" in each.names for each in r.control_planes)
        )
        await cluster.down()
        report = await east(one, lambda r: bool(r.webhooks_detail))
        assert "istiod-1-32.istio-system.svc" in report.control_planes[0].names
        await cluster.up()


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
    async with one.controller():
        await east(one, lambda r: len(r.webhooks) == 2)
        report = await one.until(  # the Secret is written, and read back, after the first plan
            lambda r: (
                r.rotation.plan is not None
                and len(r.rotation.plan.dependents) == 3
                and all(holder.anchors for holder in r.rotation.plan.dependents)
            ),
            replica="one",
        )
        assert report.rotation.plan is not None
        observed = {holder.what: holder for holder in report.rotation.plan.dependents}
        assert {holder.cluster for holder in observed.values()} == {"east"}
        assert not any(holder.obstacle for holder in observed.values()), "no rotation can be started"
        assert observed["Secret istio-system/istiod-tls"].anchors == [root().certificate.sha256]
        elsewhere = observed["webhook mutating/istio-sidecar-injector-remote-istio-system"]
        assert "https://istiod.elsewhere.example" in elsewhere.detail
        assert elsewhere.anchors == [root().certificate.sha256]
        assert {hook.istiod for hook in one.facts("east").webhooks or ()} == {
            "istio-system/istiod",
            "https://istiod.elsewhere.example",
        }


# What a cluster may have the hub read of them


async def test_more_different_bundles_than_a_mesh_has_are_not_read(
    one: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(istio_webhooks, "MOST_BUNDLES", 2)
    east_cluster = one.clusters["east"]
    for number in range(3):
        hook = charts.injector(pki.root(f"of number {number}").certificate.pem)
        hook["metadata"]["name"] = f"injector-{number}"
        east_cluster.apply_manifest([hook])
    async with one.controller():
        await east(one, lambda r: "more than 2 different caBundles" in r.webhooks_detail)
        assert one.facts("east").webhooks is None
        east_cluster.delete(MUTATING, "", "injector-2")
        await east(one, lambda r: len(r.webhooks) == 2 and not r.webhooks_detail)


async def test_bundles_that_change_all_the_time_are_not_read_all_the_time(
    one: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (pki.root(name).certificate.pem for name in ("of the first", "of the second"))
    monkeypatch.setattr(istio_webhooks, "MOST_BYTES", len(first) + len(second) // 2)
    hook = install(one, first)
    async with one.controller():
        await east(one, lambda r: bool(r.webhooks))
        encoded = base64.b64encode(second).decode()
        webhooks = [w | {"clientConfig": w["clientConfig"] | {"caBundle": encoded}} for w in hook["webhooks"]]
        one.clusters["east"].patch(MUTATING, "", hook["metadata"]["name"], {"webhooks": webhooks})
        await east(one, lambda r: "change more often" in r.webhooks_detail)
        assert one.facts("east").webhooks is None


async def test_a_report_has_room_for_what_every_cluster_holds(one: World) -> None:
    """One document reports all clusters: if it is too large to be written, none of them counts as live any more."""
    install(one, b"".join(pki.root(f"of number {number}").certificate.pem for number in range(20)))
    async with one.controller():
        report = await east(one, lambda r: bool(r.webhooks))
        assert len(report.webhooks[0].anchors) == istio_webhooks.MOST_ANCHORS
        (hook,) = one.facts("east").webhooks or ()
        assert len(hook.anchors) == 20  # the gates see all of them


async def test_the_same_bundle_is_read_once_however_many_have_it(
    one: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = root().certificate.pem
    monkeypatch.setattr(istio_webhooks, "MOST_BYTES", len(bundle))
    monkeypatch.setattr(istio_webhooks, "MOST_BUNDLES", 1)
    for number in range(5):
        hook = charts.injector(bundle)
        hook["metadata"]["name"] = f"injector-{number}"
        one.clusters["east"].apply_manifest([hook])
    async with one.controller():
        report = await east(one, lambda r: len(r.webhooks) == 5 and not r.webhooks_detail)
    assert {len(each.anchors) for each in report.webhooks} == {1}, "each has what was read once"


async def test_a_quiet_watch_that_is_listed_anew_makes_nothing_unknown(tmp_path: Path) -> None:
    """Each such moment would have a rotation soak from the beginning."""
    clock = VirtualClock()
    async with SandboxCluster("east") as cluster:
        cluster.apply_manifest([charts.injector(root().certificate.pem)])
        credentials = Credentials(kubeconfig=cluster.write_kubeconfig(tmp_path / "kc"))
        config = ClusterConfig(
            name=ClusterName("east"),
            cluster_id=ClusterId("east"),
            signer=credentials,
            controller=credentials,
            timeouts=ClusterTimeouts(watch_silence=90.0, request=2.0),
        )
        session = await ClusterSession.open(
            credentials, cluster=config.name, timeouts=config.timeouts, clock=clock
        )
        watch = istio_webhooks.IstioWebhooks(
            session, config, clock=clock, jitter=random.Random(1), on_change=lambda: None
        )
        async with session, running(watch.run()):
            async with asyncio.timeout(PATIENCE):
                while (
                    watch.found is None
                ):  # a busy machine may miss its time limit, which is followed by a pause
                    await clock.advance(1.0)
                    await asyncio.sleep(0.05)
            before = watch.read_at
            with cluster.hung():
                await clock.advance(90.5)
                assert [hook.istiod for hook in watch.found or ()] == ["istio-system/istiod"]
                assert watch.read_at == pytest.approx(before, abs=1.0)  # and it is said how old that is
                await eventually(lambda: watch.found is None)
                assert watch.read_at == 0.0
                assert watch.problem
