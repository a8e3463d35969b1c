"""What the management cluster grants the signer: its own requests in one namespace, and no more."""

from __future__ import annotations

import shutil
import subprocess

import pytest
import yaml

from federation.signer.authorities.cert_manager.requests import GROUP, collection
from tests.manifests.kustomize import identity
from tests.manifests.schema import problems
from tests.manifests.test_member import grants
from tests.manifests.tree import MANIFESTS, Tree
from tests.support.patience import PATIENCE


@pytest.fixture(scope="module")
def management() -> Tree:
    return Tree.of("cert-manager")


def test_every_object_is_valid(management: Tree) -> None:
    assert len(management.objects) == 5
    assert [problem for item in management.objects for problem in problems(item)] == []


def test_it_is_plain_resources() -> None:
    kustomization = yaml.safe_load((MANIFESTS / "cert-manager" / "kustomization.yaml").read_text())

    assert set(kustomization) == {"apiVersion", "kind", "resources"}


def test_the_signer_may_make_watch_and_remove_requests_and_nothing_else(management: Tree) -> None:
    """That these are enough and each is used is shown where they are: tests/authorities/test_cert_manager.py."""
    (role,) = management.all("Role")

    resource = collection("any").rpartition("/")[2]
    assert grants(role) == {(GROUP, resource, "", verb) for verb in ("create", "list", "watch", "delete")}
    assert management.all("ClusterRole") == []


def test_no_status_can_be_written_so_that_no_requester_approves_its_own_requests(management: Tree) -> None:
    (role,) = management.all("Role")

    assert all("/" not in grant[1] and "*" not in grant[1] for grant in grants(role))
    assert not {"patch", "update", "approve"} & {grant[3] for grant in grants(role)}


def test_the_role_is_bound_to_the_signer_only_and_in_its_namespace_only(management: Tree) -> None:
    (binding,), (role,) = management.all("RoleBinding"), management.all("Role")

    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert [(s["kind"], s["namespace"], s["name"]) for s in binding["subjects"]] == [
        ("ServiceAccount", "federation-system", "federation-signer")
    ]
    assert binding["metadata"]["namespace"] == role["metadata"]["namespace"] == "federation-requests"


@pytest.mark.parametrize(
    ("kind", "name"), [("Namespace", "federation-system"), ("ServiceAccount", "federation-signer")]
)
def test_a_management_cluster_can_be_a_member_as_well(
    management: Tree, member: Tree, kind: str, name: str
) -> None:
    assert management.one(kind, name) == member.one(kind, name)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kustomize_itself_renders_the_same(management: Tree) -> None:
    rendered = subprocess.run(
        ["kubectl", "kustomize", str(MANIFESTS / "cert-manager")],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    theirs = [item for item in yaml.safe_load_all(rendered.stdout) if item is not None]

    assert sorted(theirs, key=identity) == sorted(management.objects, key=identity)
