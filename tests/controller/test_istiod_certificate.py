"""istiod's certificate as the controller keeps it: the Secret in the cluster, read by an independent reader."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.verification import PolicyBuilder, Store

from federation.core.config.clusters import ClusterTimeouts, Credentials
from federation.core.documents.controller import ControlPlaneReport
from federation.core.documents.encoding import encode
from federation.core.errors import ClusterForbidden
from federation.core.identity import ClusterName
from federation.core.pki.keys import private_key_pem
from federation.core.rotation.record import State
from federation.core.rotation.world import ControlPlane
from federation.kubernetes.session import ClusterSession
from federation.runtime.clock import SystemClock
from federation_sandbox.apiserver.faults import Lost
from tests.controller.test_rotation import operate, prepare, until_state
from tests.controller.world import (
    ISTIO_SYSTEM,
    KEY,
    NAME,
    World,
    eventually,
    intermediate,
    leaf_for,
    root,
)
from tests.support import pki
from tests.support.memory import kept_by

SECRET = "istiod-tls"
NAMES = ("istiod.istio-system.svc", "istiod-remote.istio-system.svc", "istio-pilot.istio-system.svc")
SAN = x509.SubjectAlternativeName([x509.DNSName(name) for name in NAMES])


def found(world: World, namespace: str = ISTIO_SYSTEM, cluster: str = "east") -> dict[str, Any] | None:
    """The object as it is in the cluster."""
    return world.clusters[cluster].get("secrets", namespace, SECRET)


def secret(world: World, namespace: str = ISTIO_SYSTEM, cluster: str = "east") -> dict[str, bytes]:
    """The Secret's data, decoded; empty where there is none."""
    obj = found(world, namespace, cluster)
    return {} if obj is None else {k: base64.b64decode(v) for k, v in obj.get("data", {}).items()}


def put(
    world: World, data: Mapping[str, bytes], *, manager: str = "kubectl", kind: str = "kubernetes.io/tls"
) -> None:
    """What an operator, cert-manager or a script writes there."""
    encoded = {key: base64.b64encode(value).decode() for key, value in data.items()}
    east = world.clusters["east"]
    if found(world) is None:
        obj = {"metadata": {"name": SECRET}, "type": kind, "data": encoded}
        east.create("secrets", obj, namespace=ISTIO_SYSTEM)
    else:
        east.patch("secrets", ISTIO_SYSTEM, SECRET, {"data": encoded}, manager=manager)


def made_by(
    authority: pki.Authority, *, lifetime: timedelta = timedelta(hours=1), ca: bytes = b""
) -> dict[str, bytes]:
    """A Secret's data as another issuer makes it."""
    key = pki.key("istiod by hand")
    leaf = leaf_for(authority, SAN, key.public_key(), lifetime=lifetime)
    return {
        "tls.crt": leaf.pem + authority.chain_pem,
        "tls.key": private_key_pem(key),
        "ca.crt": ca or authority.root.pem,
    }


def verify(data: Mapping[str, bytes], bundle: str, name: str = NAMES[0]) -> x509.Certificate:
    """The leaf, verified for that name as a TLS client does, with the key that fits it."""
    leaf, *above = x509.load_pem_x509_certificates(data["tls.crt"])
    store = Store(x509.load_pem_x509_certificates(bundle.encode()))
    PolicyBuilder().store(store).build_server_verifier(x509.DNSName(name)).verify(leaf, above)
    assert load_pem_private_key(data["tls.key"], None).public_key() == leaf.public_key()
    assert data["ca.crt"] == bundle.encode()
    return leaf


def writes(world: World, cluster: str = "east") -> int:
    return world.clusters[cluster].requests.count(verb="patch", resource="secrets")


async def plane(
    world: World, wanted: Callable[[ControlPlaneReport], bool], *, replica: str = "one", cluster: str = "east"
) -> ControlPlaneReport:
    """The report on the first Secret once ``wanted`` holds."""
    report = await world.until(
        lambda r: any(wanted(p) for p in r.clusters[cluster].control_planes[:1]), replica=replica
    )
    return report.clusters[cluster].control_planes[0]


async def provided(world: World, *, replica: str = "one", cluster: str = "east") -> ControlPlaneReport:
    return await plane(
        world, lambda p: p.state == "provided" and not p.detail, replica=replica, cluster=cluster
    )


def facts(world: World, cluster: str = "east") -> tuple[ControlPlane, ...]:
    """What the gates see."""
    return world.facts(cluster).control_planes


# Providing it


async def test_the_certificate_is_provided_verifies_and_is_reported(one: World) -> None:
    async with one.controller():
        generation = await one.published()
        report = await provided(one)
        for name in NAMES:
            leaf = verify(secret(one), generation.bundle_pem, name)
        assert (found(one) or {})["type"] == "kubernetes.io/tls"
        assert tuple(report.names) == NAMES
        assert report.not_after == leaf.not_valid_after_utc.timestamp()
        assert report.issuer == intermediate().certificate.sha256
        assert report.current
        (fact,) = facts(one)
        assert fact.name == "istio-system/istiod-tls"
        assert fact.issuer == intermediate().certificate.sha256
        assert fact.anchors == frozenset({root().certificate.sha256})
        assert fact.current
        assert fact.not_after == report.not_after
        assert abs(fact.read_back_at - datetime.now(UTC).timestamp()) < 30
        await one.until(lambda r: r.clusters["east"].state == "ready")


async def test_a_namespace_that_is_not_there_holds_no_istiod_and_is_no_error(one: World) -> None:
    """And it is there as soon as the namespace is: before istiod, which has to be installed into it."""
    east = one.clusters["east"]
    grants = [
        east.get(kind, ISTIO_SYSTEM, "federation-istiod-tls") or {} for kind in ("roles", "rolebindings")
    ]
    east.delete("namespaces", "", ISTIO_SYSTEM)
    async with one.controller():
        await one.published()
        report = await plane(one, lambda p: "there is no namespace istio-system" in p.detail)
        assert (report.state, report.attention) == ("waiting", False)
        await one.until(lambda r: r.clusters["east"].state == "ready")
        assert facts(one) == ()
        east.create_namespace(ISTIO_SYSTEM)
        report = await plane(one, lambda p: p.state == "forbidden")
        assert "manifests/member" in report.remedy
        assert "provide_certificate = false" in report.remedy
        (fact,) = facts(one)
        assert (fact.issuer, fact.anchors) == ("", None), "it counts, as one whose content is unknown"
        for kind, obj in zip(("roles", "rolebindings"), grants, strict=True):
            obj["metadata"] = {"name": "federation-istiod-tls"}
            east.create(kind, obj, namespace=ISTIO_SYSTEM)
        await provided(one)
        assert secret(one)


async def test_neither_a_restart_nor_another_controller_writes_anything(one: World) -> None:
    async with one.controller():
        await one.published()
        await provided(one)
    before, count, calls = secret(one), writes(one), len(one.listener.calls)
    async with one.controller("two"):
        await provided(one, replica="two")
        await asyncio.sleep(1)
    assert secret(one) == before
    assert writes(one) == count == 1
    assert len(one.listener.calls) <= calls + 1, "a probe's leaf lives in memory, and is got anew"


async def test_each_namespace_and_name_that_is_configured_is_served(one: World) -> None:
    east = one.clusters["east"]
    east.create_namespace("istio-b")
    for kind in ("roles", "rolebindings"):
        obj = east.get(kind, ISTIO_SYSTEM, "federation-istiod-tls") or {}
        obj["metadata"] = {"name": "federation-istiod-tls"}
        east.create(kind, obj, namespace="istio-b")
    one.extra["east"] = {
        "istio": {
            "namespaces": [ISTIO_SYSTEM, "istio-b"],
            "revisions": ["canary"],
            "extra_names": ["istiod.east.example"],
        }
    }
    one.write_config()
    async with one.controller():
        generation = await one.published()
        await eventually(lambda: secret(one) and secret(one, "istio-b"))
        for namespace in (ISTIO_SYSTEM, "istio-b"):
            for name in (
                f"istiod.{namespace}.svc",
                f"istiod-canary.{namespace}.svc",
                "istiod.east.example",
            ):
                verify(secret(one, namespace), generation.bundle_pem, name)


async def test_a_name_that_is_added_makes_another_certificate(one: World) -> None:
    async with one.controller():
        generation = await one.published()
        await provided(one)
        one.extra["east"] = {"istio": {"revisions": ["blue"]}}
        one.write_config()
        await plane(one, lambda p: "istiod-blue.istio-system.svc" in p.names)
        verify(secret(one), generation.bundle_pem, "istiod-blue.istio-system.svc")


async def test_where_it_is_not_wanted_nothing_is_asked_of_the_cluster(one: World) -> None:
    one.extra["east"] = {"istio": {"provide_certificate": False}}
    one.write_config()
    async with one.controller():
        await one.published()
        await plane(one, lambda p: p.state == "off")
        await one.until(lambda r: r.clusters["east"].state == "ready")
        assert facts(one) == ()
    assert one.clusters["east"].requests.count(resource="secrets") == 0
    assert found(one) is None


# Keeping it


async def test_an_edit_and_a_deletion_are_restored(one: World) -> None:
    async with one.controller():
        generation = await one.published()
        await provided(one)
        before = secret(one)
        put(one, {"ca.crt": b"nonsense"})
        await eventually(lambda: secret(one) == before)
        put(one, {"tls.key": b"nonsense"})
        await eventually(lambda: secret(one)["tls.key"] != b"nonsense")
        verify(secret(one), generation.bundle_pem)
        one.clusters["east"].delete("secrets", ISTIO_SYSTEM, SECRET)
        await eventually(lambda: secret(one))
        verify(secret(one), generation.bundle_pem)
        report = await plane(one, lambda p: p.restored == 3 and p.state == "provided")
        assert report.current


async def test_a_new_bundle_is_written_beside_the_same_key_and_certificate(one: World) -> None:
    async with one.controller():
        await one.published()
        await provided(one)
        before = secret(one)
        one.anchors.append(root("b"))
        one.anchor_file(root("b")).write_bytes(root("b").pem)
        one.write_config()
        await one.until(lambda r: r.generation == 2)
        generation = await one.published()
        await eventually(lambda: secret(one)["ca.crt"] == generation.bundle_pem.encode())
        verify(secret(one), generation.bundle_pem)
        assert {k: v for k, v in secret(one).items() if k != "ca.crt"} == {
            k: v for k, v in before.items() if k != "ca.crt"
        }


async def test_a_lost_event_is_made_up_for_where_a_write_is_not_shown(
    one: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the same would be written again and again, and the gates would wait for the next resync."""
    monkeypatch.setattr("federation.controller.publication.istiod_certificate.CONFIRM", 1.0)
    east = one.clusters["east"]
    async with one.controller():
        before = (await one.published()).number
        await provided(one)
        lists, written = east.requests.count(verb="list", resource="secrets"), writes(one)
        lost = east.faults.inject(Lost(), verb="watch", resource="secrets", times=1)
        one.anchors.append(root("b"))
        one.anchor_file(root("b")).write_bytes(root("b").pem)
        one.write_config()
        await eventually(lambda: lost.hits == 1)
        report = await one.until(
            lambda r: (
                r.clusters["east"].publication.generation > before
                and r.clusters["east"].control_planes[0].current
            )
        )
        assert report.clusters["east"].control_planes[0].state == "provided"
        assert east.requests.count(verb="list", resource="secrets") == lists + 1
        assert writes(one) == written + 1


@pytest.mark.parametrize("selector", ["", "team"])
async def test_its_namespace_is_seen_by_the_watch_of_all_where_there_is_one(
    one: World, selector: str
) -> None:
    """A connection less for each cluster."""
    one.extra["east"] = {"namespace_selector": selector}
    one.write_config()
    one.clusters["east"].create("namespaces", {"metadata": {"name": "shop", "labels": {"team": "shop"}}})
    async with one.controller():
        await provided(one)
        watches = one.clusters["east"].requests.count(verb="watch", resource="namespaces")
    assert watches == (2 if selector else 1), "with a selector that watch may not show it"


async def test_it_is_renewed_at_two_thirds_of_its_life_and_not_before(one: World) -> None:
    one.listener.lifetime = timedelta(seconds=9)
    async with one.controller():
        generation = await one.published()
        await provided(one)
        seen: dict[bytes, float] = {}
        loop = asyncio.get_running_loop()
        while len(seen) < 3:
            data = secret(one)
            seen.setdefault(data["tls.crt"], loop.time())
            verify(data, generation.bundle_pem)
            await asyncio.sleep(0.05)
        first, second, third = seen.values()
        assert third - second > 4.5, "two thirds of nine seconds, and the first may have begun before"
        assert third - first < 20
    assert writes(one) <= 5


async def test_another_writer_is_answered_ever_more_slowly_and_named(one: World) -> None:
    stop = asyncio.Event()

    async def fight() -> None:
        while not stop.is_set():
            if secret(one).get("ca.crt") not in {None, b"mine"}:
                put(one, {"ca.crt": b"mine"}, manager="cert-manager")
            await asyncio.sleep(0.01)

    async with one.controller(), asyncio.TaskGroup() as group:
        await one.published()
        await provided(one)
        group.create_task(fight())
        await plane(one, lambda p: "cert-manager keeps changing it" in p.detail)
        before = writes(one)
        await asyncio.sleep(1.5)
        assert writes(one) <= before + 1
        report = await plane(one, lambda p: "ca.crt is not the bundle" in p.detail)
        assert "cert-manager keeps changing it" in report.detail
        assert report.attention
        health = (await one.until(lambda r: r.clusters["east"].state != "ready")).clusters["east"]
        assert (health.state, health.reason) == ("degraded", "control_plane")
        stop.set()


# Certificates of others


async def test_a_certificate_of_another_ca_is_left_alone_and_reported(one: World) -> None:
    data = made_by(intermediate("stranger"))
    put(one, data, manager="cert-manager")
    async with one.controller():
        await one.published()
        report = await plane(one, lambda p: p.state == "foreign")
        assert "served by another CA" in report.detail
        assert intermediate("stranger").certificate.subject in report.detail
        assert "clusters join" in report.remedy
        (fact,) = facts(one)
        assert fact.issuer == ""
        health = (await one.until(lambda r: r.clusters["east"].reason == "control_plane")).clusters["east"]
        assert health.state == "degraded"
        assert "served by another CA" in health.detail
        await asyncio.sleep(0.5)
        assert secret(one) == data
        assert writes(one) == 0
        one.clusters["east"].delete("secrets", ISTIO_SYSTEM, SECRET)
        await provided(one)


async def test_a_certificate_of_another_ca_that_has_ended_is_replaced(one: World) -> None:
    put(one, made_by(intermediate("stranger"), lifetime=timedelta(seconds=-1)))
    async with one.controller():
        generation = await one.published()
        await provided(one)
        verify(secret(one), generation.bundle_pem)


async def test_what_cannot_be_read_may_be_in_use_and_is_left_alone(one: World) -> None:
    """Go reads a PEM file with text between its blocks, which the hub's own reader refuses."""
    data = made_by(intermediate("stranger"))
    data["tls.crt"] = b"subject=istiod\n" + data["tls.crt"]
    put(one, data)
    async with one.controller():
        await one.published()
        await plane(one, lambda p: p.state == "foreign")
        assert secret(one) == data


async def test_a_certificate_made_by_hand_from_the_hubs_intermediate_is_kept_until_it_is_due(
    one: World,
) -> None:
    """The type of the Secret, key and certificate stay as they are, and ca.crt becomes the bundle."""
    data = made_by(intermediate(), ca=b"another file")
    put(one, data, kind="Opaque")
    async with one.controller():
        generation = await one.published()
        await eventually(lambda: secret(one)["ca.crt"] == generation.bundle_pem.encode())
        await provided(one)
        verify(secret(one), generation.bundle_pem)
        assert (secret(one)["tls.crt"], secret(one)["tls.key"]) == (data["tls.crt"], data["tls.key"])
        assert (found(one) or {})["type"] == "Opaque"


async def test_nothing_is_written_while_agents_may_trust_another_ca_alone(one: World) -> None:
    """istiod would serve with it after its next restart, and every agent of that mesh would be cut off."""
    own = root("own of east")
    east = one.clusters["east"]
    east.create(
        "configmaps", {"metadata": {"name": NAME}, "data": {KEY: own.pem.decode()}}, namespace="default"
    )
    async with one.controller():
        await one.until(lambda r: r.clusters["east"].publication.joining == 1)
        report = await plane(one, lambda p: "none is written yet: " in p.detail)
        assert (report.state, report.attention) == ("waiting", True)
        await asyncio.sleep(0.5)
        assert found(one) is None
        one.accept(own, "east")
        await one.until(lambda r: r.clusters["east"].reason == "other_writers")
        assert found(one) is None, "that namespace still holds the other CA alone"
        operation = await operate(one, "takeover", cluster="east")
        assert operation.outcome == "done", operation
        await provided(one)
        verify(secret(one), (await one.published()).bundle_pem)


# Where it cannot be provided


async def test_a_refused_renewal_is_reported_and_the_old_certificate_stays(one: World) -> None:
    one.listener.lifetime = timedelta(seconds=10)
    async with one.controller():
        await one.published()
        await provided(one)
        one.listener.refuse["east"] = grpc.StatusCode.UNAUTHENTICATED
        before = secret(one)
        report = await plane(one, lambda p: "due to be renewed" in p.detail and "refused" in p.detail)
        assert (report.state, report.attention) == ("provided", True)
        assert secret(one) == before
        report = await plane(one, lambda p: p.state == "failed")
        assert "cannot serve" in report.detail
        assert "signer's log" in report.remedy
        health = (await one.until(lambda r: r.clusters["east"].reason == "control_plane")).clusters["east"]
        assert health.state == "degraded"
        one.listener.refuse.clear()
        one.listener.lifetime = timedelta(hours=1)
        await provided(one)


async def test_a_leaf_that_the_bundle_does_not_verify_is_not_written(one: World) -> None:
    one.listener.authorities["east"] = intermediate("stranger")
    async with one.controller():
        await one.published()
        report = await plane(one, lambda p: p.state == "failed")
        assert "there is no certificate" in report.detail
    assert found(one) is None


async def test_a_missing_service_account_is_reported_with_a_remedy(one: World) -> None:
    one.clusters["east"].delete("serviceaccounts", "federation-system", "federation-istiod")
    async with one.controller():
        report = await plane(one, lambda p: p.state == "failed")
    assert "federation-system/federation-istiod does not exist" in report.detail
    assert "manifests/member" in report.remedy


async def test_no_key_is_in_a_log_or_a_report(one: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with one.controller() as role:
        await one.published()
        await provided(one)
        put(one, {"tls.key": b"-----BEGIN PRIVATE KEY-----\nnonsense"})
        await plane(one, lambda p: p.restored == 1)
        key = secret(one)["tls.key"].decode().splitlines()[1]
        said = [caplog.text, str(await one.report()), repr(facts(one))]
        said += [repr(each) for each in kept_by(role, object, depth=4)]
        report = await one.report()
        assert report is not None
        said.append(encode(report).decode())
        said += [path.read_text() for path in (one.directory / "state").rglob("*") if path.is_file()]
    for text in said:
        assert "PRIVATE KEY" not in text
        assert key not in text


# A rotation


async def test_a_rotation_re_signs_it_and_changes_its_bundle(one: World) -> None:
    signer = prepare(one)
    async with signer.running(), one.controller():
        await one.published()
        await provided(one)
        old = secret(one)
        assert one.successor is not None
        started = await operate(one, "start", reason="test")
        assert started.outcome == "done", started
        await until_state(one, State.RETIRED)
        generation = await one.published()
        await provided(one)
        new = secret(one)
        verify(new, generation.bundle_pem)
        assert new["tls.crt"] != old["tls.crt"]
        assert new["ca.crt"] == one.successor.root.pem
        wanted = (one.successor.certificate.sha256, frozenset({one.successor.root.sha256}))
        await eventually(lambda: [(fact.issuer, fact.anchors) for fact in facts(one)] == [wanted])


# Each right that it takes


@pytest.mark.parametrize("verb", ["list", "watch", "create", "patch"])
async def test_without_a_right_to_the_secret_nothing_but_it_is_missing(one: World, verb: str) -> None:
    east = one.clusters["east"]
    role = east.get("roles", ISTIO_SYSTEM, "federation-istiod-tls") or {}
    (rule,) = role["rules"]
    rule["verbs"].remove(verb)
    east.patch("roles", ISTIO_SYSTEM, "federation-istiod-tls", {"rules": [rule]})
    async with one.controller():
        await one.published()
        report = await plane(one, lambda p: p.state == "forbidden")
        assert "manifests/member" in report.remedy
        assert "provide_certificate = false" in report.remedy
        whole = (await one.until(lambda r: r.clusters["east"].reason == "control_plane")).clusters["east"]
        assert whole.state == "degraded"
        assert (whole.probe_detail, whole.publication.forbidden) == ("", 0)
        assert found(one) is None
        rule["verbs"].append(verb)
        east.patch("roles", ISTIO_SYSTEM, "federation-istiod-tls", {"rules": [rule]})
        await provided(one)
        await one.until(lambda r: r.clusters["east"].state == "ready")


async def test_a_name_of_any_length_leaves_room_in_the_report(one: World) -> None:
    names = x509.SubjectAlternativeName([x509.DNSName("a" * 10_000)])
    key = pki.key("istiod by hand")
    stranger = pki.root("stranger")
    leaf = leaf_for(stranger, names, key.public_key(), lifetime=timedelta(hours=1))
    put(one, {"tls.crt": leaf.pem, "tls.key": private_key_pem(key), "ca.crt": stranger.root.pem})
    async with one.controller():
        report = await plane(one, lambda p: p.state == "foreign")
        assert [len(name) for name in report.names] == [253]


async def test_without_the_right_to_its_tokens_nothing_but_it_is_missing(one: World) -> None:
    one.clusters["east"].delete("rolebindings", "federation-system", "federation-istiod-tokens")
    async with one.controller():
        await one.published()
        report = await plane(one, lambda p: p.state == "forbidden")
        assert "serviceaccounts/federation-istiod/token" in report.detail
        assert "manifests/member" in report.remedy
        whole = (await one.until(lambda r: r.clusters["east"].reason == "control_plane")).clusters["east"]
        assert (whole.state, whole.probe_detail) == ("degraded", "")


async def test_the_right_is_to_that_secret_in_that_namespace_alone(one: World) -> None:
    east = one.clusters["east"]
    east.create("secrets", {"metadata": {"name": "other"}, "data": {}}, namespace=ISTIO_SYSTEM)
    east.create("secrets", {"metadata": {"name": SECRET}, "data": {}}, namespace="default")
    async with await admitted(one) as session:
        answer = await session.get(
            f"/api/v1/namespaces/{ISTIO_SYSTEM}/secrets", params={"fieldSelector": f"metadata.name={SECRET}"}
        )
        assert b'"items"' in answer
        for path, selector in (
            (f"/api/v1/namespaces/{ISTIO_SYSTEM}/secrets", ""),
            (f"/api/v1/namespaces/{ISTIO_SYSTEM}/secrets", "metadata.name=other"),
            (f"/api/v1/namespaces/{ISTIO_SYSTEM}/secrets/{SECRET}", ""),
            ("/api/v1/namespaces/default/secrets", f"metadata.name={SECRET}"),
            ("/api/v1/secrets", f"metadata.name={SECRET}"),
        ):
            with pytest.raises(ClusterForbidden):
                await session.get(path, params={"fieldSelector": selector} if selector else None)
        with pytest.raises(ClusterForbidden):
            await session.request("DELETE", f"/api/v1/namespaces/{ISTIO_SYSTEM}/secrets/{SECRET}")


async def admitted(world: World) -> ClusterSession:
    """A session with the controller's rights."""
    return await ClusterSession.open(
        Credentials(kubeconfig=world.directory / "east.kubeconfig"),
        cluster=ClusterName("east"),
        timeouts=ClusterTimeouts(),
        clock=SystemClock(),
    )
