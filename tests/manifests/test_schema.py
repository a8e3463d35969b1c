"""Every object of every tree is one that Kubernetes takes, strictly."""

from __future__ import annotations

import copy
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from tests.manifests.kustomize import identity
from tests.manifests.schema import problems
from tests.manifests.tree import MANIFESTS, TREES, Tree
from tests.support.patience import PATIENCE


@pytest.mark.parametrize("name", TREES)
def test_every_object_is_valid(name: str) -> None:
    tree = Tree.of(name)

    assert len(tree.objects) >= (4 if name == "discovery" else 6 if "guard" in name else 9)
    assert [problem for item in tree.objects for problem in problems(item)] == []


def test_the_root_of_the_tree_is_the_hub() -> None:
    assert Tree.of(".") == Tree.of("hub")


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("spec.replicas", "2", "Deployment.spec.replicas: int is wanted"),
        ("spec.replica", 2, "Deployment.spec.replica: no such field"),
        ("spec.template.spec.securityContext.runAsNonRoot", "yes", "bool is wanted"),
        ("spec.template.spec.volumes", {}, "a list is wanted"),
        ("spec.selector", None, "an object is wanted"),
        ("spec.strategy.rollingUpdate.maxSurge", True, "object is wanted"),
        ("metadata", {}, "Deployment.metadata.name: missing"),
        ("kind", "Deploymint", "no such kind is used here"),
    ],
)
def test_the_validator_finds_mistakes(hub: Tree, path: str, value: Any, problem: str) -> None:
    item = copy.deepcopy(hub.deployment("signer"))
    *parents, last = path.split(".")
    place = item
    for name in parents:
        place = place[name]
    place[last] = value

    assert any(problem in found for found in problems(item)), problems(item)


def test_the_validator_finds_what_is_missing_and_what_is_no_quantity(hub: Tree) -> None:
    item = copy.deepcopy(hub.deployment("signer"))
    container = item["spec"]["template"]["spec"]["containers"][0]
    del container["name"], item["spec"]["selector"]
    container["resources"]["limits"]["memory"] = "1GB"

    assert sorted(found.split(": ")[0].rsplit(".", 1)[1] for found in problems(item)) == [
        "memory",
        "name",
        "selector",
    ]


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
@pytest.mark.parametrize("name", TREES)
def test_kustomize_itself_renders_the_same(name: str) -> None:
    rendered = subprocess.run(
        ["kubectl", "kustomize", str(MANIFESTS / name)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    theirs = [item for item in yaml.safe_load_all(rendered.stdout) if item is not None]

    assert sorted(theirs, key=identity) == sorted(Tree.of(name).objects, key=identity)
