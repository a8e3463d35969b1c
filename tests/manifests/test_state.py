"""Where the hub keeps its state: each role writes its own documents, and neither the configuration nor the other's."""

from __future__ import annotations

import pytest

from federation.core.config.hub import HubConfig
from federation.core.config.load import parse_config
from federation.state.kubernetes_store import Namespaces, object_name
from tests.manifests.kustomize import Object
from tests.manifests.test_member import Grant, grants
from tests.manifests.tree import ROLES, Tree

CONTROLLERS, SIGNERS = "federation-state", "federation-state-signers"
SYSTEM = "federation-system"
WRITE = ("get", "list", "create", "update", "delete")


@pytest.fixture(scope="module")
def volume() -> Tree:
    return Tree.of("volume")


@pytest.fixture(scope="module")
def config(hub: Tree) -> HubConfig:
    text = hub.one("ConfigMap", "federation-config")["data"]["clusters.toml"]
    return parse_config(text, file="/etc/federation/config/clusters.toml")


def maps(*verbs: str) -> set[Grant]:
    return {("", "configmaps", "", verb) for verb in verbs}


def namespace(name: str) -> Grant:
    return ("", "namespaces", name, "get")


def test_controllers_write_what_is_theirs_and_read_what_signers_say(hub: Tree) -> None:
    leases = "coordination.k8s.io", "leases"
    lease = object_name("controller")
    assert grants(hub.one("Role", "federation-controller", CONTROLLERS)) == {
        *maps(*WRITE),
        (*leases, "", "create"),
        (*leases, lease, "get"),
        (*leases, lease, "update"),
        ("", "events", "", "create"),
        ("", "events", "", "patch"),
        namespace(CONTROLLERS),
    }
    assert grants(hub.one("Role", "federation-controller", SIGNERS)) == {
        *maps("get", "list", "delete"),
        namespace(SIGNERS),
    }


def test_signers_write_what_is_theirs_and_read_what_controllers_say(hub: Tree) -> None:
    assert grants(hub.one("Role", "federation-signer", SIGNERS)) == {*maps(*WRITE), namespace(SIGNERS)}
    assert grants(hub.one("Role", "federation-signer", CONTROLLERS)) == {
        *maps("get"),
        namespace(CONTROLLERS),
    }


def test_the_hub_has_no_other_right_in_the_cluster_it_runs_in(hub: Tree) -> None:
    assert hub.all("ClusterRole") == hub.all("ClusterRoleBinding") == []
    assert {(item["metadata"]["namespace"], item["metadata"]["name"]) for item in hub.all("Role")} == {
        *((place, f"federation-{role}") for place in (CONTROLLERS, SIGNERS) for role in ROLES),
        *((SYSTEM, f"federation-{role}-kubeconfigs") for role in ROLES),
    }


def test_each_role_may_change_the_secret_that_its_kubeconfigs_are_mounted_from_and_no_other(
    hub: Tree, config: HubConfig
) -> None:
    secrets = config.kubeconfig_secrets
    assert secrets is not None
    assert secrets.namespace == SYSTEM
    for role, name in (("signer", secrets.signer), ("controller", secrets.controller)):
        assert hub.mounts(role)[f"/etc/federation/{role}-kubeconfigs"]["secret"]["secretName"] == name
        assert grants(hub.one("Role", f"federation-{role}-kubeconfigs")) == {
            ("", "secrets", name, "get"),
            ("", "secrets", name, "patch"),
        }


def test_no_role_may_write_where_the_configuration_and_the_pins_are(hub: Tree) -> None:
    for item in hub.all("Role"):
        if item["metadata"]["namespace"] == SYSTEM:
            assert {(resource, name != "") for _, resource, name, _ in grants(item)} == {("secrets", True)}
    assert hub.one("ConfigMap", "federation-config")["metadata"]["namespace"] == "federation-system"


def test_each_role_is_bound_to_its_own_account(hub: Tree) -> None:
    bindings = hub.all("RoleBinding")
    assert len(bindings) == 6
    for binding in bindings:
        name = binding["metadata"]["name"]
        assert binding["roleRef"]["name"] == name
        assert [(s["kind"], s["namespace"], s["name"]) for s in binding["subjects"]] == [
            ("ServiceAccount", SYSTEM, name.removesuffix("-kubeconfigs"))
        ]


def test_the_grants_are_where_the_store_keeps_the_documents(hub: Tree, config: HubConfig) -> None:
    both = Namespaces(config.state.namespace)
    assert (both.controllers, both.signers) == (CONTROLLERS, SIGNERS)
    assert {CONTROLLERS, SIGNERS} <= {item["metadata"]["name"] for item in hub.all("Namespace")}
    assert config.state.kind == "kubernetes"
    assert config.state.credentials is not None
    assert config.state.credentials.in_cluster


def test_every_pod_gets_the_token_that_it_uses(hub: Tree) -> None:
    for role in ROLES:
        assert hub.pod(role)["automountServiceAccountToken"] is True
        assert not any("persistentVolumeClaim" in volume for volume in hub.pod(role)["volumes"])
    assert hub.all("PersistentVolumeClaim") == []


def test_a_signer_writes_the_documents_of_its_own_pod_only(hub: Tree) -> None:
    """That the API server keeps to it is shown in test_real.py."""
    (policy,), (binding,) = hub.all("ValidatingAdmissionPolicy"), hub.all("ValidatingAdmissionPolicyBinding")
    assert binding["spec"] == {
        "policyName": policy["metadata"]["name"],
        "validationActions": ["Deny"],
    }
    spec = policy["spec"]
    assert spec["failurePolicy"] == "Fail"
    constraints = spec["matchConstraints"]
    assert constraints["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": SIGNERS}
    assert constraints["resourceRules"][0]["operations"] == ["CREATE", "UPDATE", "DELETE"]
    (validation,) = spec["validations"]
    for key in ("signers/", "horizons/", "callers/"):
        assert f"'{object_name(key + 'x').removesuffix('x')}' + variables.pod" in validation["expression"]


def without_state(tree: Tree) -> list[Object]:
    """A tree without what only state in objects needs."""
    kinds = {"Role", "RoleBinding", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"}
    return [
        item
        for item in tree.objects
        if item["kind"] not in kinds and item["metadata"]["name"] not in {CONTROLLERS, SIGNERS}
    ]


def test_the_volume_comes_in_the_place_of_objects_and_changes_nothing_else(hub: Tree) -> None:
    overlay = Tree.of("volume")
    (claim,) = overlay.all("PersistentVolumeClaim")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]  # replicas are on different nodes
    for role in ROLES:
        pod, container = overlay.pod(role), overlay.container(role)
        assert pod["automountServiceAccountToken"] is False
        assert overlay.mounts(role)["/var/lib/federation"]["persistentVolumeClaim"] == {
            "claimName": claim["metadata"]["name"]
        }
        pod["automountServiceAccountToken"] = True
        assert pod["volumes"].pop()["name"] == container["volumeMounts"].pop()["name"] == "state"
    assert [item for item in overlay.objects if item is not claim] == without_state(hub)


def test_with_a_volume_the_hub_has_no_right_in_the_cluster_it_runs_in(volume: Tree) -> None:
    kinds = {item["kind"] for item in volume.objects}
    assert not kinds & {"Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"}


def test_both_roles_are_one_user_of_the_volume(volume: Tree) -> None:
    assert len({volume.pod(role)["securityContext"]["runAsUser"] for role in ROLES}) == 1


def test_in_cluster_changes_the_tokens_and_nothing_else(volume: Tree) -> None:
    overlay = Tree.of("in-cluster")
    for role in ROLES:
        assert overlay.pod(role)["automountServiceAccountToken"] is True
        overlay.pod(role)["automountServiceAccountToken"] = False
    assert overlay == volume
