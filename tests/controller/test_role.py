"""The controller role on clusters in a box, from sources to proof, and through its own troubles."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import grpc
import pytest

from federation.controller.proof.listener_check import listener_address
from federation.core.config.types import Address
from federation.state.files import LeaderLock
from federation.state.store import Leadership
from federation_sandbox.apiserver.faults import Garbage
from tests.controller.world import NAME, World, eventually, in_force, intermediate, root


async def test_every_pair_is_proved(two: World) -> None:
    async with two.controller():
        generation = await two.published()
        report = await two.until(
            lambda r: r.matrix.valid == 2 and all(r.clusters[name].state == "ready" for name in two.clusters)
        )
    assert generation.number == 1
    assert report.matrix.rows == ["-v", "v-"]
    assert report.matrix.handshakes == 1
    assert report.ready
    assert report.leader
    for name in two.clusters:
        assert report.clusters[name].version == "v1.36.2"
        assert len(report.clusters[name].probe_chain) == 2
        assert report.clusters[name].publication.contents == {generation.sha256: 4}
        for namespace in ("default", "kube-system", "federation-system", "istio-system"):
            assert two.observed(name, namespace) == generation.bundle_pem
        assert two.observed(name, "kube-public") is None


async def test_a_second_root_is_published_and_proved(two: World) -> None:
    async with two.controller():
        await two.published()
        two.anchors.append(root("b"))
        two.anchor_file(root("b")).write_bytes(root("b").pem)
        two.write_config()
        await two.until(lambda r: r.generation == 2)
        generation = await two.published()
        two.listener.authorities["west"] = intermediate("b")
        report = await two.until(lambda r: r.matrix.valid == 2 and r.generation == 2)
        assert two.observed("west", "default") == generation.bundle_pem
        assert generation.bundle_pem.count("BEGIN CERTIFICATE") == 2
    assert report.clusters["east"].publication.lag > 0


async def test_the_annotations_of_others_may_be_as_large_as_an_api_server_takes_them(one: World) -> None:
    """The answer to a write has them all, and more bytes than a small answer may have."""
    async with one.controller():
        await one.published()
        one.clusters["east"].patch(
            "configmaps", "default", NAME, {"metadata": {"annotations": {"notes": '"' * 200_000}}}
        )
        one.anchors.append(root("b"))
        one.anchor_file(root("b")).write_bytes(root("b").pem)
        one.write_config()
        await one.until(lambda r: r.generation == 2 and r.clusters["east"].state == "ready")
        generation = await one.published()
        assert one.observed("east", "default") == generation.bundle_pem


async def test_intermediates_are_published_where_asked_for(one: World) -> None:
    one.trust["publish_intermediates"] = True
    one.write_config()
    async with one.controller():
        generation = await one.published()
        assert sorted(anchor.kind for anchor in generation.anchors) == ["intermediate", "root"]
        (one.directory / "chain.pem").write_bytes(b"half writ")
        report = await one.until(lambda r: "known before stay" in str(r.sources))
        assert report.generation == 1
        one.trust["publish_intermediates"] = False
        one.write_config()
        await one.until(lambda r: r.generation == 2)
    latest = await in_force(one.store)
    assert latest is not None
    assert [anchor.kind for anchor in latest.anchors] == ["root"]


async def test_a_source_that_vanishes_changes_nothing_and_is_reported(one: World) -> None:
    file = one.anchor_file(root())
    async with one.controller():
        await one.published()
        file.unlink()
        report = await one.until(lambda r: r.sources.get(str(file), "ok") != "ok")
        assert "the last known good stays" in report.sources[str(file)]
        assert report.generation == 1
    async with one.controller("two"):
        report = await one.until(lambda r: r.generation == 1, replica="two")
        assert "the last known good stays" in report.sources[str(file)]
        file.write_bytes(root().pem)
        await one.until(lambda r: set(r.sources.values()) == {"ok"}, replica="two")
    assert (await one.store.keys("generations/")) == ["generations/000000000001"]


async def test_the_first_generation_waits_for_every_pinned_anchor(one: World) -> None:
    one.anchors.append(root("b"))
    one.write_config()
    file = one.anchor_file(root("b"))
    file.unlink(missing_ok=True)
    async with one.controller():
        report = await one.until(lambda r: "bundle" in r.sources)
        assert not report.ready
        assert "the first generation waits" in report.reasons[0]
        assert one.observed("east", "default") is None
        file.write_bytes(root("b").pem)
        generation = await one.published()
    assert len(generation.anchors) == 2


async def test_clusters_come_and_go_without_disturbing_the_others(two: World) -> None:
    two.registered = ["east"]
    two.write_config()
    async with two.controller():
        await two.published()
        await two.until(lambda r: r.clusters["east"].state == "ready")
        east = two.clusters["east"].requests
        await eventually(lambda: east.count(verb="watch", resource="mutatingwebhookconfigurations"))
        watches = east.count(verb="watch")
        two.registered = ["east", "west"]
        two.write_config()
        await two.until(lambda r: r.matrix.valid == 2)
        await eventually(lambda: two.observed("west", "default") is not None)
        two.registered = ["east"]
        two.write_config()
        report = await two.until(lambda r: list(r.clusters) == ["east"] and r.matrix.clusters == ["east"])
        assert east.count(verb="watch") == watches
        two.clusters["west"].create_namespace("late")
        await asyncio.sleep(0.3)
        assert two.observed("west", "late") is None
    assert report.matrix.pairs == 0
    assert two.observed("west", "default") is not None


async def test_another_config_map_name_restarts_publication_everywhere(one: World) -> None:
    async with one.controller():
        await one.published()
        cluster = one.clusters["east"]
        role = cluster.get("clusterroles", "", "federation-controller")
        assert role is not None
        rules = role["rules"]
        rules[1]["resourceNames"] = ["other-root-cert"]
        cluster.patch("clusterroles", "", "federation-controller", {"rules": rules})
        one.publication["config_map"] = "other-root-cert"
        one.write_config()
        await eventually(lambda: cluster.config_map("default", "other-root-cert") is not None)
    assert one.observed("east", "default") is not None


async def test_two_controllers_and_only_one_leads(two: World) -> None:
    async with two.controller("first"):
        await two.until(lambda r: r.leader, replica="first")
        await two.published(replica="first")
        async with two.controller("second"):
            follower = await two.until(lambda r: not r.leader and r.ready, replica="second")
            assert follower.clusters == {}
            two.stops["first"].set()
            await two.until(lambda r: r.leader and r.generation == 1, replica="second")
            two.clusters["east"].create_namespace("later")
            await eventually(lambda: two.observed("east", "later") is not None)
    assert await two.store.keys("generations/") == ["generations/000000000001"]


async def test_a_controller_leads_no_more_from_the_moment_that_its_leadership_is_lost(
    one: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its work takes a while to end. What asks meanwhile, as the writer of Events does, may not write any more."""
    taken: list[LeaderLock] = []
    lead = one.store.lead

    @contextlib.asynccontextmanager
    async def noted(name: str, *, identity: str) -> AsyncIterator[Leadership]:
        async with lead(name, identity=identity) as leadership:
            assert isinstance(leadership, LeaderLock)
            taken.append(leadership)
            yield leadership

    monkeypatch.setattr(one.store, "lead", noted)
    async with one.controller() as role:
        await eventually(lambda: role.leads)
        taken[0].lose()
        assert not role.leads
        await eventually(lambda: role.leads)
    assert len(taken) == 2


async def test_stopping_takes_the_report_back_and_leaves_the_bundle(one: World) -> None:
    async with one.controller():
        await one.published()
    assert await one.report() is None
    assert one.observed("east", "default") is not None


async def test_a_probe_that_is_refused_is_unknown_and_says_so(two: World) -> None:
    two.listener.refuse["west"] = grpc.StatusCode.UNAUTHENTICATED
    async with two.controller():
        report = await two.until(lambda r: "refused" in r.matrix.reasons.get("east>west", ""))
        assert report.matrix.rows == ["-?", "?-"]
        assert "UNAUTHENTICATED" in report.clusters["west"].probe_detail
        two.listener.refuse["west"] = grpc.StatusCode.UNAVAILABLE
        await two.until(lambda r: "UNAVAILABLE" in r.clusters["west"].probe_detail)
        del two.listener.refuse["west"]
        await two.until(lambda r: r.matrix.valid == 2)


@pytest.mark.parametrize(
    "token", ["a\\nb", "\u00e9", "a\\u0000b", "x" * 100_000], ids=["line", "letter", "zero", "long"]
)
async def test_a_token_that_cannot_be_sent_is_garbage_and_stops_nothing_else(two: World, token: str) -> None:
    """gRPC refuses such metadata with an error of its own, which ended everything that was done for that cluster."""
    body = f'{{"kind":"TokenRequest","status":{{"token":"{token}"}}}}'.encode()
    garbage = Garbage(code=201, content_type="application/json", body=body)
    with two.clusters["west"].faults.inject(garbage, resource="serviceaccounts/token"):
        async with two.controller():
            report = await two.until(lambda r: "holds no token" in r.clusters["west"].probe_detail)
            await two.until(lambda r: r.clusters["west"].publication.current > 0)
            assert report.clusters["west"].reason != "crashed"


async def test_a_missing_probe_account_is_reported_with_a_remedy(two: World) -> None:
    two.clusters["west"].delete("serviceaccounts", "federation-system", "federation-probe")
    async with two.controller():
        report = await two.until(
            lambda r: (
                "service account" in r.clusters["west"].probe_detail
                and r.clusters["west"].publication.current > 0
            )
        )
    assert "apply manifests/member" in report.clusters["west"].probe_remedy


async def test_a_leaf_of_an_unpinned_authority_fails_with_words(two: World) -> None:
    two.listener.authorities["west"] = intermediate("stranger")
    async with two.controller():
        report = await two.until(lambda r: r.matrix.rows == ["-x", "x-"])
    assert "east does not accept the leaf of west" in report.matrix.reasons["east>west"]
    assert "reaches no anchor of generation 1" in report.matrix.reasons["east>west"]


async def test_a_short_leaf_is_renewed_in_time(one: World) -> None:
    from datetime import timedelta

    one.listener.lifetime = timedelta(seconds=4)
    async with one.controller():
        await one.published()
        await eventually(lambda: len(one.listener.calls) >= 3)
        report = await one.report()
    assert report is not None
    assert report.clusters["east"].probe_detail == ""


async def test_a_bad_configuration_is_reported_and_the_running_one_stays(one: World) -> None:
    async with one.controller():
        await one.published()
        good = one.config_file.read_text()
        one.config_file.write_text(good.replace("trust_domain", "trust_dommain"))
        report = await one.until(lambda r: bool(r.config_problems))
        assert any("trust_dommain" in problem for problem in report.config_problems)
        one.config_file.write_text(good)
        await one.until(lambda r: not r.config_problems)


async def test_a_state_of_another_mesh_is_neither_published_nor_changed(one: World) -> None:
    async with one.controller():
        generation = await one.published()
        await eventually(lambda: one.observed("east", "default") == generation.bundle_pem)
    one.clusters["east"].create_namespace("later")
    good = one.config_file.read_text()
    one.config_file.write_text(good.replace(f'"{generation.trust_domain}"', '"elsewhere.example"', 1))
    before = {key: await one.store.read(key) for key in ("current", "rotation", "orders")}
    async with one.controller("two"):
        report = await one.until(lambda r: not r.ready, replica="two")
        assert not report.leader
        assert "made for the trust domain" in report.reasons[0]
        assert one.observed("east", "later") is None
    assert {key: await one.store.read(key) for key in before} == before
    one.config_file.write_text(good)
    async with one.controller("three"):
        await eventually(lambda: one.observed("east", "later") == generation.bundle_pem)


async def test_the_listener_is_reached_by_the_most_specific_address(one: World) -> None:
    async with one.controller():
        config = one.sources["one"].current
        assert str(listener_address(config, None)) == f"127.0.0.1:{one.listener.port}"
        assert str(listener_address(config, Address("0.0.0.0", 1))) == "127.0.0.1:1"
        assert str(listener_address(config, Address("::", 1))) == "[::1]:1"
