"""The ClusterTrustBundle: published where it is served and permitted, read back, restored, counted in the gates."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from federation.clusters.trust_bundles import SIGNER, VERSIONS
from federation.controller.publication.publisher import IMMEDIATE
from federation.core.documents.controller import ControllerReport, TrustBundleReport
from federation.core.rotation.record import State
from federation_sandbox.apiserver.faults import Lost
from federation_sandbox.apiserver.rbac import TRUST_BUNDLE_DISCOVERY
from federation_sandbox.apiserver.resources import CLUSTER_TRUST_BUNDLES
from federation_sandbox.cluster import read_kustomization
from tests.controller.test_joining import merged
from tests.controller.test_rotation import operate, until_state
from tests.controller.test_rotation import prepare as prepare_rotation
from tests.controller.world import MANIFESTS, World, eventually, root

BUNDLES = "clustertrustbundles"
OBJECT = "istio.io:istiod-ca:root-cert"
GRANT = MANIFESTS / "cluster-trust-bundle"


def prepare(world: World, *versions: str, grant: bool = True, resync: float = 600.0) -> None:
    """Serve the API in every cluster, and let the controller write the object."""
    for cluster in world.clusters.values():
        cluster.serve_cluster_trust_bundles(*versions)
        if grant:
            cluster.apply_manifest(read_kustomization(GRANT))
    world.publication["resync"] = resync
    world.write_config()


def found(world: World, cluster: str = "east") -> dict[str, Any] | None:
    """The object as it is in the cluster."""
    return world.clusters[cluster].get(BUNDLES, "", OBJECT)


def observed(world: World, cluster: str = "east") -> str | None:
    obj = found(world, cluster)
    return None if obj is None else str(obj["spec"]["trustBundle"])


def put(world: World, pem: bytes, cluster: str = "east", *, manager: str = "pilot-discovery") -> None:
    """What istiod does: create the object, or replace what it holds."""
    if found(world, cluster) is None:
        world.clusters[cluster].create(
            BUNDLES,
            {"metadata": {"name": OBJECT}, "spec": {"signerName": SIGNER, "trustBundle": pem.decode()}},
        )
    else:
        change = {"spec": {"trustBundle": pem.decode()}}
        world.clusters[cluster].patch(BUNDLES, "", OBJECT, change, manager=manager)


async def reported(
    world: World, state: str, cluster: str = "east", *, replica: str = "one"
) -> TrustBundleReport:
    """The report on the object once it is in that state."""
    report = await world.until(lambda r: r.clusters[cluster].trust_bundle.state == state, replica=replica)
    return report.clusters[cluster].trust_bundle


def asked(world: World, cluster: str = "east") -> int:
    """Requests that the API saw of the object, and for the versions it has."""
    requests = world.clusters[cluster].requests
    discovery = [r for r in requests.recent if r.info.path.startswith("/apis/certificates.k8s.io/")]
    return len(discovery)


def writes(world: World, cluster: str = "east") -> int:
    return world.clusters[cluster].requests.count(verb="patch", resource=BUNDLES)


@pytest.mark.parametrize("version", VERSIONS)
async def test_it_is_published_in_each_version(one: World, version: str) -> None:
    prepare(one, version)
    async with one.controller():
        report = await reported(one, "current")
        generation = await one.published()
        assert (report.version, report.name, report.counted) == (version, OBJECT, True)
        obj = found(one)
        assert obj is not None
        assert obj["apiVersion"] == f"certificates.k8s.io/{version}"
        assert obj["spec"] == {"signerName": SIGNER, "trustBundle": generation.bundle_pem}
        assert "labels" not in obj["metadata"], "istiod sets none"
        assert [entry["manager"] for entry in obj["metadata"]["managedFields"]] == ["federation-hub"]
        await eventually(lambda: one.facts("east").current)
        await eventually(lambda: f"so does ClusterTrustBundle {OBJECT}" in one.facts("east").detail)
        assert writes(one) == 1
        await asyncio.sleep(1.5)
    assert writes(one) == 1, "nothing is written where nothing changes"


async def test_the_newest_and_most_stable_version_is_used_and_an_upgrade_is_followed(one: World) -> None:
    prepare(one, "v1alpha1", "v1beta1", resync=1.0)
    async with one.controller():
        assert (await reported(one, "current")).version == "v1beta1"
        one.clusters["east"].serve_cluster_trust_bundles("v1beta1", "v1")
        await one.until(lambda r: r.clusters["east"].trust_bundle.version == "v1")
        await reported(one, "current")
        assert writes(one) == 1, "the object is the same in each version"
        put(one, root("intruder").pem)
        await eventually(lambda: observed(one) == one.observed("east", "default"))


async def test_a_lost_event_is_made_up_for_where_a_write_is_not_shown(
    one: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next resync, which would find it, is ten minutes away."""
    monkeypatch.setattr("federation.controller.publication.cluster_trust_bundle.CONFIRM", 1.0)
    prepare(one, "v1")
    east = one.clusters["east"]
    async with one.controller():
        await reported(one, "current")
        lost = east.faults.inject(Lost(), verb="watch", resource=BUNDLES, times=1)
        watches = east.requests.count(verb="watch", resource=BUNDLES)
        one.anchors.append(root("b"))
        one.anchor_file(root("b")).write_bytes(root("b").pem)
        one.write_config()
        await eventually(lambda: lost.hits == 1)
        await reported(one, "pending")
        await reported(one, "current")
        assert east.requests.count(verb="watch", resource=BUNDLES) == watches + 1


async def test_a_version_that_is_gone_is_negotiated_anew_before_the_resync(one: World) -> None:
    prepare(one, "v1alpha1")
    async with one.controller():
        await reported(one, "current")
        one.clusters["east"].serve_cluster_trust_bundles("v1beta1")
        report = (
            await one.until(
                lambda r: (
                    (r.clusters["east"].trust_bundle.version, r.clusters["east"].trust_bundle.state)
                    == ("v1beta1", "current")
                )
            )
        ).clusters["east"]
        assert report.state == "ready"
        await eventually(lambda: one.facts("east").current)


async def test_where_it_is_not_served_nothing_is_asked_again_and_nothing_is_wrong(one: World) -> None:
    prepare(one)
    async with one.controller():
        report = await reported(one, "not_served")
        assert (report.counted, report.version) == (False, "")
        await one.published()
        before = asked(one)
        assert before == 3, "one look at each version"
        await asyncio.sleep(2)
        assert asked(one) == before
        assert (await one.until(lambda r: r.clusters["east"].state == "ready")).clusters["east"].detail == ""
        await eventually(lambda: one.facts("east").current)
        assert "ClusterTrustBundle" not in one.facts("east").detail


async def test_it_is_published_once_the_cluster_serves_it(one: World) -> None:
    prepare(one, resync=1.0)
    async with one.controller():
        await reported(one, "not_served")
        one.clusters["east"].serve_cluster_trust_bundles("v1")
        assert (await reported(one, "current")).version == "v1"


async def test_edits_and_deletions_are_put_back(one: World) -> None:
    prepare(one, "v1")
    async with one.controller():
        await reported(one, "current")
        bundle = observed(one)
        put(one, root("intruder").pem)
        await eventually(lambda: observed(one) == bundle)
        one.clusters["east"].delete(BUNDLES, "", OBJECT)
        await eventually(lambda: observed(one) == bundle)
        report = await one.until(lambda r: r.clusters["east"].trust_bundle.restored == 2)
        assert report.clusters["east"].trust_bundle.state == "current"
        assert [p.sha256 for p in report.proposals] == [root("intruder").certificate.sha256]
        assert report.proposals[0].origin == f"ClusterTrustBundle {OBJECT}"


async def test_another_writer_gets_fewer_answers_and_is_named(one: World) -> None:
    prepare(one, "v1")
    async with one.controller():
        await reported(one, "current")
        bundle = observed(one)
        for number in range(IMMEDIATE + 1):
            await eventually(lambda: observed(one) == bundle)
            await one.until(lambda r, n=number: r.clusters["east"].trust_bundle.restored >= n)  # type: ignore[misc]
            put(one, root("intruder").pem)
        report = await reported(one, "contested")
        assert "pilot-discovery" in report.detail
        assert "ENABLE_CA_SERVER=false" in report.remedy
        assert root().certificate.sha256 not in (one.facts("east").anchors or ())
        await eventually(lambda: observed(one) == bundle)


async def test_a_missing_right_is_reported_and_affects_no_gate_or_health(one: World) -> None:
    prepare(one, "v1", grant=False)
    async with one.controller():
        report = await reported(one, "forbidden")
        assert not report.counted
        assert "manifests/member/cluster-trust-bundle" in report.remedy
        assert 'cluster_trust_bundle = "off"' in report.remedy
        await one.published()
        await asyncio.sleep(1.5)
        assert (writes(one), found(one)) == (1, None)
        await eventually(lambda: one.facts("east").current)
        await one.until(lambda r: r.clusters["east"].state == "ready")


async def test_once_the_right_is_there_it_is_published_without_a_restart(one: World) -> None:
    prepare(one, "v1", grant=False, resync=1.0)
    async with one.controller():
        await reported(one, "forbidden")
        one.clusters["east"].apply_manifest(read_kustomization(GRANT))
        await reported(one, "current")


async def test_what_was_published_and_cannot_be_read_any_more_is_unknown_to_the_gates(two: World) -> None:
    prepare(two, "v1", resync=1.0)
    async with two.controller():
        await reported(two, "current")
        await two.until(lambda r: r.matrix.valid == 2)
        await eventually(lambda: two.facts("east").anchors == frozenset({root().certificate.sha256}))
        await eventually(lambda: remembered(two, "east"))
        take_away(two, "east")
        report = await two.until(lambda r: "403" in r.clusters["east"].trust_bundle.detail)
        east = report.clusters["east"].trust_bundle
        assert (east.state, east.counted) == ("unknown", True)
        assert "manifests/member/cluster-trust-bundle" in east.remedy
        await eventually(lambda: OBJECT in two.facts("east").detail)
        assert two.facts("east").anchors is None
        await two.until(lambda r: OBJECT in r.matrix.reasons.get("east>west", ""))
    async with two.controller("two"):
        await two.until(lambda r: "403" in r.clusters["east"].trust_bundle.detail, replica="two")
        await reported(two, "unknown", replica="two")
        assert two.facts("east").anchors is None, "an earlier controller has seen it"
        two.clusters["east"].serve_cluster_trust_bundles()
        await two.until(lambda r: "serve the API" in r.clusters["east"].trust_bundle.remedy, replica="two")
        two.extra["east"] = {"istio": {"cluster_trust_bundle": "off"}}
        two.write_config()
        await reported(two, "off", replica="two")
        await eventually(lambda: two.facts("east").current)
        await eventually(lambda: not remembered(two, "east"))


def remembered(world: World, cluster: str) -> bool:
    assert world.dependencies is not None
    known = world.dependencies.remembered(cluster)
    return known is not None and known.trust_bundle


def take_away(world: World, cluster: str) -> None:
    """Neither the hub's rights nor those that every service account has."""
    for name in (TRUST_BUNDLE_DISCOVERY, "federation-cluster-trust-bundle"):
        world.clusters[cluster].delete("clusterrolebindings", "", name)
    for subscription in world.clusters[cluster].store.subscriptions(CLUSTER_TRUST_BUNDLES["v1"]):
        subscription.close()


async def test_what_another_bundle_holds_counts_though_the_hub_may_not_write_it(two: World) -> None:
    prepare(two, "v1", grant=False)
    put(two, root("other").pem)
    two.extra["east"] = {"member_cas": "replace"}
    two.write_config()
    async with two.controller():
        report = await reported(two, "forbidden")
        assert report.counted
        await eventually(lambda: f"ClusterTrustBundle {OBJECT} does not" in two.facts("east").detail)
        assert (two.facts("east").anchors, two.facts("east").current) == (frozenset(), False)
        report_now = await two.until(lambda r: "x" in "".join(r.matrix.rows))
        assert any(OBJECT in reason for reason in report_now.matrix.reasons.values())


async def test_switched_off_it_is_neither_asked_for_nor_read(one: World) -> None:
    prepare(one, "v1")
    put(one, root("other").pem)
    one.extra["east"] = {"istio": {"cluster_trust_bundle": "off"}}
    one.write_config()
    async with one.controller():
        await reported(one, "off")
        await one.published()
        await asyncio.sleep(1)
        assert asked(one) == 0
        await eventually(lambda: one.facts("east").current)
        assert observed(one) == root("other").pem.decode()


async def test_a_joining_cluster_keeps_what_istiod_put_there_until_its_ca_is_accepted(two: World) -> None:
    own = root("own of west")
    prepare(two, "v1")
    put(two, own.pem, "west")
    async with two.controller():
        report = await two.until(lambda r: r.clusters["west"].reason == "joining" and bool(r.proposals))
        assert report.proposals[0].sha256 == own.certificate.sha256
        assert report.clusters["west"].trust_bundle.state == "pending"
        await two.until(
            lambda r: 0 < r.clusters["west"].publication.selected == r.clusters["west"].publication.current
        )
        assert two.facts("west").anchors is None
        await asyncio.sleep(1.5)
        assert observed(two, "west") == own.pem.decode()
    async with two.controller("two"):
        await two.until(lambda r: r.clusters["west"].reason == "joining", replica="two")
        two.accept(own, "west")
        bundle = await merged(two, replica="two")
        await two.until(
            lambda r: "federation clusters join" in r.clusters["west"].trust_bundle.remedy, replica="two"
        )
        await asyncio.sleep(1)
        assert observed(two, "west") == own.pem.decode(), "istiod would put it back"
        put(two, bundle.encode(), "west")  # as it does once its cacerts hold the merged bundle
        await reported(two, "current", "west", replica="two")
        await two.until(lambda r: r.matrix.valid == 2, replica="two")
        assert writes(two, "west") == 0, "who writes the same bytes is left alone"
        put(two, root("intruder").pem, "west")
        await eventually(lambda: observed(two, "west") == bundle)


async def test_a_rotation_waits_for_it_like_for_a_namespace(two: World) -> None:
    signer = prepare_rotation(two)
    prepare(two, "v1", resync=1.0)
    async with signer.running(), two.controller():
        for cluster in two.clusters:
            await reported(two, "current", cluster)
        await two.until(lambda r: r.matrix.valid == 2)
        two.clusters["west"].delete("clusterrolebindings", "", "federation-cluster-trust-bundle")
        assert (await operate(two, "start")).outcome == "done"

        def waits_for_west(report: ControllerReport) -> bool:
            waits = [c for c in report.rotation.conditions if c.name == "read_back" and not c.met]
            return [c.cluster for c in waits] == ["west"] and OBJECT in waits[0].detail

        await two.until(waits_for_west)
        assert two.observed("west", "default") == observed(two, "east"), "everything else holds both roots"
        await asyncio.sleep(1)
        assert (await two.until(waits_for_west)).rotation.state == "PUBLISHING"
        two.clusters["west"].apply_manifest(read_kustomization(GRANT))
        await until_state(two, State.RETIRED)
        for cluster in two.clusters:
            assert observed(two, cluster) == root("b").pem.decode()
