"""istio-csr's ConfigMap cases, by name, against the controller and a cluster's real answers.

Each case begins with an object as another writer left it, runs the controller until it has read everything back as
current, and checks what is really stored in the cluster.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.controller.world import KEY, NAME, World, eventually, open_world, root

BUNDLE = root().pem.decode()
LABELS = {"istio.io/config": "true"}
NAMESPACE = "test-ns"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path, "east") as opened:
        opened.clusters["east"].create_namespace(NAMESPACE)
        yield opened


def put(world: World, data: dict[str, str] | None, labels: dict[str, str] | None = None) -> str:
    """Another writer's object, and its resource version."""
    obj: dict[str, Any] = {"metadata": {"name": NAME, "labels": LABELS if labels is None else labels}}
    if data is not None:
        obj["data"] = data
    created = world.clusters["east"].create("configmaps", obj, namespace=NAMESPACE)
    return str(created["metadata"]["resourceVersion"])


async def reconciled(world: World) -> dict[str, Any]:
    """The object once every namespace was read back as current."""
    async with world.controller():
        await world.published()
    found = world.clusters["east"].config_map(NAMESPACE, NAME)
    assert found is not None
    return found


async def test_if_namespace_does_not_exist_ignore(world: World) -> None:
    async with world.controller():
        await world.published()
        world.clusters["east"].delete("namespaces", "", NAMESPACE)
        report = await world.until(
            lambda r: r.clusters["east"].publication.selected == 4 and r.clusters["east"].state == "ready"
        )
    assert world.clusters["east"].get("namespaces", "", NAMESPACE) is None
    assert report.clusters["east"].publication.failed == 0


async def test_if_namespace_is_in_a_terminating_state_ignore(world: World) -> None:
    cluster = world.clusters["east"]
    cluster.controllers.enabled = False
    cluster.delete("namespaces", "", NAMESPACE)
    async with world.controller():
        await world.published()
        report = await world.until(lambda r: r.clusters["east"].publication.terminating == 1)
    assert world.observed("east", NAMESPACE) is None
    assert report.clusters["east"].publication.failed == 0
    assert not cluster.requests.count(verb="patch", status=403)


async def test_if_namespace_exists_but_configmap_does_not_create_config_map(world: World) -> None:
    found = await reconciled(world)
    assert found["data"] == {KEY: BUNDLE}
    assert found["metadata"]["labels"] == LABELS
    managers = [entry["manager"] for entry in found["metadata"]["managedFields"]]
    assert managers == ["federation-hub"]


async def test_if_configmap_exists_but_does_not_have_any_data_update_with_data(world: World) -> None:
    put(world, None)
    assert (await reconciled(world))["data"] == {KEY: BUNDLE}


async def test_if_configmap_exists_but_does_not_have_the_right_data_update_with_data(world: World) -> None:
    put(world, {KEY: "not-root-ca"})
    assert (await reconciled(world))["data"] == {KEY: BUNDLE}


async def test_if_configmap_exists_with_correct_data_but_with_extra_keys_remove_extra_keys(
    world: World,
) -> None:
    put(world, {KEY: BUNDLE, "foo": "bar", "Other_key.pem": "baz"})
    assert (await reconciled(world))["data"] == {KEY: BUNDLE}


async def test_if_configmap_exists_with_wrong_label_update_with_correct_label(world: World) -> None:
    put(world, {KEY: BUNDLE, "foo": "bar"}, {"istio.io/config": "false"})
    found = await reconciled(world)
    assert found["metadata"]["labels"] == LABELS
    assert found["data"] == {KEY: BUNDLE}


async def test_if_configmap_exists_with_correct_data_do_nothing(world: World) -> None:
    version = put(world, {KEY: BUNDLE})
    found = await reconciled(world)
    assert found["metadata"]["resourceVersion"] == version
    written = [r for r in world.clusters["east"].requests.recent if r.info.verb == "patch"]
    assert NAMESPACE not in {r.info.namespace for r in written}


async def test_if_configmap_exists_with_correct_data_and_extra_labels_do_nothing(world: World) -> None:
    version = put(world, {KEY: BUNDLE}, LABELS | {"foo": "bar"})
    found = await reconciled(world)
    assert found["metadata"]["resourceVersion"] == version
    assert found["metadata"]["labels"] == LABELS | {"foo": "bar"}


async def test_extra_labels_are_kept_when_the_value_is_restored(world: World) -> None:
    put(world, {KEY: "not-root-ca"}, {"foo": "bar"})
    found = await reconciled(world)
    assert found["metadata"]["labels"] == LABELS | {"foo": "bar"}
    assert found["data"] == {KEY: BUNDLE}


async def test_a_selector_is_supported_and_nothing_is_removed_when_it_stops_matching(world: World) -> None:
    cluster = world.clusters["east"]
    world.extra["east"] = {"namespace_selector": "mesh=on"}
    world.write_config()
    cluster.patch("namespaces", "", NAMESPACE, {"metadata": {"labels": {"mesh": "on"}}})
    async with world.controller():
        await world.published()
        assert world.observed("east", NAMESPACE) == BUNDLE
        assert world.observed("east", "default") is None
        cluster.patch("namespaces", "", NAMESPACE, {"metadata": {"labels": {"mesh": "off"}}})
        await world.until(lambda r: r.clusters["east"].publication.selected == 0)
        assert world.observed("east", NAMESPACE) == BUNDLE
        cluster.patch("namespaces", "", "default", {"metadata": {"labels": {"mesh": "on"}}})
        await eventually(lambda: world.observed("east", "default") == BUNDLE)
    assert world.observed("east", NAMESPACE) == BUNDLE


async def test_a_deletion_is_undone_and_an_edit_reverted(world: World) -> None:
    cluster = world.clusters["east"]
    async with world.controller():
        await world.published()
        cluster.delete("configmaps", NAMESPACE, NAME)
        await eventually(lambda: world.observed("east", NAMESPACE) == BUNDLE)
        cluster.patch("configmaps", NAMESPACE, NAME, {"data": {KEY: "edited"}}, manager="kubectl-edit")
        await eventually(lambda: world.observed("east", NAMESPACE) == BUNDLE)
        report = await world.until(lambda r: r.clusters["east"].publication.restored == 2)
    assert report.clusters["east"].publication.other_writers == ["kubectl-edit"]


async def test_all_namespaces_get_the_bundle_and_new_ones_too(world: World) -> None:
    async with world.controller():
        await world.published()
        world.clusters["east"].create_namespace("newcomer")
        await eventually(lambda: world.observed("east", "newcomer") == BUNDLE)
    for namespace in ("default", "kube-system", NAMESPACE):
        assert world.observed("east", namespace) == BUNDLE
    for namespace in ("kube-public", "kube-node-lease"):
        assert world.observed("east", namespace) is None
