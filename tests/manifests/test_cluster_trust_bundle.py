"""The optional rights to one ClusterTrustBundle: which they are, and what each of them is for.

By default kube-apiserver lets every service account read ClusterTrustBundles and discover APIs. Both are taken away
here, so that the manifests are enough by themselves.
"""

from __future__ import annotations

import copy
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from federation.clusters.permissions import trust_bundle_needs
from federation.clusters.preflight import check_cluster
from federation.clusters.trust_bundles import MANIFESTS as NAMED
from federation.clusters.trust_bundles import VERSIONS, trust_bundle_name
from federation.core.config.hub import PublicationConfig
from federation.runtime.clock import SystemClock
from federation_sandbox.apiserver.rbac import TRUST_BUNDLE_DISCOVERY
from tests.controller.world import World, open_world
from tests.manifests.kustomize import Object, identity
from tests.manifests.schema import problems
from tests.manifests.test_member import Grant, grants
from tests.manifests.tree import MANIFESTS, ROOT, Tree
from tests.support.patience import PATIENCE

FOLDER = MANIFESTS / "member" / "cluster-trust-bundle"
GROUP = "certificates.k8s.io"
OBJECT = trust_bundle_name(PublicationConfig().config_map)
URLS = tuple(f"/apis/{GROUP}/{version}" for version in VERSIONS)


@pytest.fixture(scope="module")
def tree() -> Tree:
    return Tree.of("member/cluster-trust-bundle")


def test_every_object_is_valid(tree: Tree) -> None:
    assert len(tree.objects) == 2
    assert [problem for item in tree.objects for problem in problems(item)] == []


def test_it_is_plain_resources_where_the_hub_says_that_it_is() -> None:
    kustomization = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())

    assert set(kustomization) == {"apiVersion", "kind", "resources"}
    assert ROOT / NAMED == FOLDER


def test_it_is_no_part_of_what_every_member_gets(member: Tree, tree: Tree) -> None:
    assert not {identity(item) for item in tree.objects} & {identity(item) for item in member.objects}
    assert "signers" not in {grant[1] for role in member.all("ClusterRole") for grant in grants(role)}


def test_it_grants_what_the_hub_says_it_needs_of_one_object_and_one_signer(tree: Tree) -> None:
    (role,) = tree.all("ClusterRole")

    wanted = {(p.group, p.resource, p.name, p.verb) for p in trust_bundle_needs(OBJECT)}
    assert {name for _, _, name, _ in wanted} == {OBJECT, "istio.io/istiod-ca"}
    assert grants(role) == wanted | {("", url, "", "get") for url in URLS}


def test_it_is_bound_to_the_controller_only(tree: Tree) -> None:
    (binding,), (role,) = tree.all("ClusterRoleBinding"), tree.all("ClusterRole")

    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert [(s["kind"], s["namespace"], s["name"]) for s in binding["subjects"]] == [
        ("ServiceAccount", "federation-system", "federation-controller")
    ]


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kustomize_itself_renders_the_same(tree: Tree) -> None:
    rendered = subprocess.run(
        ["kubectl", "kustomize", str(FOLDER)], capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    theirs = [item for item in yaml.safe_load_all(rendered.stdout) if item is not None]

    assert sorted(theirs, key=identity) == sorted(tree.objects, key=identity)


def without(tree: Tree, grant: Grant) -> list[Object]:
    """The tree, one right less."""
    objects = copy.deepcopy(list(tree.objects))
    (role,) = (item for item in objects if item["kind"] == "ClusterRole")
    _, thing, _, verb = grant
    for rule in role["rules"]:
        if thing in rule.get("resources", ()):
            rule["verbs"] = [v for v in rule["verbs"] if v != verb] or ["deletecollection"]
        if thing in rule.get("nonResourceURLs", ()):
            rule["nonResourceURLs"].remove(thing)
    assert grants(role) & {grant} == set()
    return objects


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path, "east") as found:
        cluster = found.clusters["east"]
        cluster.serve_cluster_trust_bundles("v1alpha1")
        for name in (TRUST_BUNDLE_DISCOVERY, "system:discovery"):
            cluster.delete("clusterrolebindings", "", name)
        found.publication["resync"] = 1.0
        found.write_config()
        yield found


async def findings(world: World) -> dict[str, str]:
    """What `federation clusters check` says that is not in order, but for the kubeconfig that both roles share."""
    config = world.sources["one"].current
    results = await check_cluster(config.clusters[0], config, clock=SystemClock())
    return {r.check: r.detail for r in results if r.role == "controller" and r.outcome != "ok"}


async def test_with_all_of_them_it_is_published_and_the_check_has_no_complaint(
    world: World, tree: Tree
) -> None:
    world.clusters["east"].apply_manifest(tree.objects)
    async with world.controller():
        await world.until(lambda r: r.clusters["east"].trust_bundle.state == "current")
        assert "cluster_trust_bundle" not in await findings(world)


RIGHTS: dict[str, Grant] = {
    **{verb: (GROUP, "clustertrustbundles", OBJECT, verb) for verb in ("list", "watch", "create", "patch")},
    "attest": (GROUP, "signers", "istio.io/istiod-ca", "attest"),
    **{url: ("", url, "", "get") for url in URLS},
}


@pytest.mark.parametrize("right", RIGHTS)
async def test_without_one_of_them_it_is_not_published_and_nothing_else_suffers(
    world: World, tree: Tree, right: str
) -> None:
    cluster = world.clusters["east"]
    cluster.apply_manifest(without(tree, RIGHTS[right]))
    async with world.controller():
        report = await world.until(lambda r: r.clusters["east"].trust_bundle.state == "forbidden")
        generation = await world.published()
        assert cluster.get("clustertrustbundles", "", OBJECT) is None
        east = report.clusters["east"].trust_bundle
        assert NAMED in east.remedy
        assert "403" in east.detail
        assert world.observed("east", "default") == generation.bundle_pem
        assert right.rpartition("/")[2] in (await findings(world))["cluster_trust_bundle"]
        await world.until(lambda r: r.clusters["east"].state == "ready")


async def test_a_right_to_another_object_or_signer_is_none(world: World, tree: Tree) -> None:
    objects: list[Any] = copy.deepcopy(list(tree.objects))
    (role,) = (item for item in objects if item["kind"] == "ClusterRole")
    for rule in role["rules"]:
        if "signers" in rule.get("resources", ()):
            rule["resourceNames"] = ["istio.io/another"]
    world.clusters["east"].apply_manifest(objects)
    async with world.controller():
        report = await world.until(lambda r: r.clusters["east"].trust_bundle.state == "forbidden")
        assert 'attest for signerName "istio.io/istiod-ca"' in report.clusters["east"].trust_bundle.detail
