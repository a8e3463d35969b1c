"""What a member grants the hub: exactly the verbs used, by role, and of Secrets the one of istiod's certificate."""

from __future__ import annotations

import pytest
import yaml

from federation.clusters.permissions import controller_needs, istio_reads, istiod_needs, signer_needs
from federation.core.config.clusters import IstioConfig
from federation.core.config.hub import PublicationConfig
from federation.core.identity import ServiceAccountRef
from tests.manifests.kustomize import Object
from tests.manifests.member_data import FILES, PACKAGED, joined
from tests.manifests.tree import MANIFESTS, Tree

Grant = tuple[str, str, str, str]  # group, resource, object name, verb; or "", URL, "", verb


def grants(role: Object) -> set[Grant]:
    found: set[Grant] = set()
    for rule in role["rules"]:
        for verb in rule["verbs"]:
            found |= {("", url, "", verb) for url in rule.get("nonResourceURLs", [])}
            found |= {
                (group, resource, name, verb)
                for group in rule.get("apiGroups", [])
                for resource in rule.get("resources", [])
                for name in rule.get("resourceNames", [""])
            }
    return found


READ = ("list", "watch")
WEBHOOKS = (
    ("mutatingwebhookconfigurations", "list"),
    ("mutatingwebhookconfigurations", "watch"),
    ("validatingwebhookconfigurations", "list"),
)


def test_the_signer_reads_tokens_pods_and_service_accounts_and_changes_nothing(member: Tree) -> None:
    assert grants(member.one("ClusterRole", "federation-signer")) == {
        ("authentication.k8s.io", "tokenreviews", "", "create"),
        ("authorization.k8s.io", "selfsubjectaccessreviews", "", "create"),
        *(("", resource, "", verb) for resource in ("pods", "serviceaccounts") for verb in READ),
        ("", "/.well-known/openid-configuration", "", "get"),
        ("", "/openid/v1/jwks", "", "get"),
        ("", "/version", "", "get"),
    }


def test_the_controller_reads_namespaces_and_writes_one_config_map(member: Tree) -> None:
    assert grants(member.one("ClusterRole", "federation-controller")) == {
        ("authorization.k8s.io", "selfsubjectaccessreviews", "", "create"),
        *(("", "namespaces", "", verb) for verb in READ),
        *(("", "configmaps", "istio-ca-root-cert", verb) for verb in (*READ, "create", "patch")),
        *(("admissionregistration.k8s.io", hooks, "", verb) for hooks, verb in WEBHOOKS),
        ("", "/version", "", "get"),
    }


@pytest.mark.parametrize("name", ["probe", "istiod", "signer", "controller"])
def test_tokens_may_be_asked_for_of_one_account_by_each_role(member: Tree, name: str) -> None:
    role = member.one("Role", f"federation-{name}-tokens")

    assert role["metadata"]["namespace"] == "federation-system"
    assert grants(role) == {("", "serviceaccounts/token", f"federation-{name}", "create")}


def test_what_is_read_of_istio_is_named_object_by_object(member: Tree) -> None:
    """And is what the check says it reads, each taken away in ``tests/clusters/test_istio_found.py``."""
    granted = grants(member.one("ClusterRole", "federation-istio-reader"))

    assert granted == {(p.group, p.resource, p.name, p.verb) for p in istio_reads()}
    assert all(verb == "list" and name for _, _, name, verb in granted)


def test_the_controller_keeps_one_secret_in_the_namespace_of_istiod(member: Tree) -> None:
    role = member.one("Role", "federation-istiod-tls")

    assert role["metadata"]["namespace"] == "istio-system"
    assert grants(role) == {("", "secrets", "istiod-tls", verb) for verb in (*READ, "create", "patch")}


def test_nothing_of_istio_is_deleted_with_the_member_tree(member: Tree) -> None:
    """`kubectl delete -k` takes away what the tree holds: never a namespace that is not the hub's own."""
    assert [item["metadata"]["name"] for item in member.all("Namespace")] == ["federation-system"]


def test_no_role_has_a_wildcard_or_sees_another_secret(member: Tree) -> None:
    roles = [*member.all("ClusterRole"), *member.all("Role")]

    assert len(roles) == 8
    for role in roles:
        for grant in grants(role):
            assert not any("*" in part for part in grant)
            assert grant[1] not in {"pods/exec", "pods/log", "serviceaccounts"} or grant[3] in READ
            assert grant[1] != "secrets" or grant[2] == "istiod-tls"
            assert grant[3] not in {"impersonate", "escalate", "bind", "delete", "deletecollection", "update"}


def test_each_role_is_bound_to_its_own_account_and_the_other_two_to_nothing(member: Tree) -> None:
    bound = {
        (binding["kind"], binding["roleRef"]["name"]): [
            (subject["kind"], subject["namespace"], subject["name"]) for subject in binding["subjects"]
        ]
        for binding in [*member.all("ClusterRoleBinding"), *member.all("RoleBinding")]
    }
    signer = ("ServiceAccount", "federation-system", "federation-signer")
    controller = ("ServiceAccount", "federation-system", "federation-controller")

    assert bound == {
        ("ClusterRoleBinding", "federation-signer"): [signer],
        ("ClusterRoleBinding", "federation-controller"): [controller],
        ("ClusterRoleBinding", "federation-istio-reader"): [controller],
        ("RoleBinding", "federation-signer-tokens"): [signer],
        ("RoleBinding", "federation-controller-tokens"): [controller],
        ("RoleBinding", "federation-probe-tokens"): [controller],
        ("RoleBinding", "federation-istiod-tokens"): [controller],
        ("RoleBinding", "federation-istiod-tls"): [controller],
    }


def test_no_account_mounts_a_token_by_itself(hub: Tree, member: Tree) -> None:
    accounts = member.all("ServiceAccount")

    assert {account["metadata"]["name"] for account in accounts} == {
        "federation-signer",
        "federation-controller",
        "federation-probe",
        "federation-istiod",
    }
    assert all(
        item["automountServiceAccountToken"] is False for item in [*accounts, *hub.all("ServiceAccount")]
    )


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("Namespace", "federation-system"),
        ("ServiceAccount", "federation-signer"),
        ("ServiceAccount", "federation-controller"),
    ],
)
def test_what_is_in_both_trees_is_the_same_so_that_the_hub_s_own_cluster_can_be_a_member(
    hub: Tree, member: Tree, kind: str, name: str
) -> None:
    assert hub.one(kind, name) == member.one(kind, name)


def test_openshift_lets_the_namespace_choose_user_and_group_and_changes_nothing_else(hub: Tree) -> None:
    """But for its DNS, which ``test_network.py`` looks at."""
    overlay = Tree.of("openshift")
    dns = overlay.one("NetworkPolicy", "federation-egress-openshift-dns")

    for role in ("signer", "controller"):
        context = overlay.pod(role)["securityContext"]
        assert not {"runAsUser", "runAsGroup", "fsGroup"} & set(context)
        assert context["runAsNonRoot"] is True
        context |= dict.fromkeys(("runAsUser", "runAsGroup", "fsGroup"), 65532)
    assert [item for item in overlay.objects if item is not dns] == list(hub.objects)


def test_the_member_tree_is_plain_resources() -> None:
    kustomization = yaml.safe_load((MANIFESTS / "member" / "kustomization.yaml").read_text())

    assert set(kustomization) == {"apiVersion", "kind", "resources"}
    assert all((MANIFESTS / "member" / name).is_file() for name in kustomization["resources"])


def test_the_grants_are_what_the_hub_itself_says_it_needs(member: Tree) -> None:
    """`federation clusters check` asks for these; what only it uses and what URLs there are it does not list."""
    publication, probe = PublicationConfig(), ServiceAccountRef("federation-system", "federation-probe")
    wanted = {
        "signer": signer_needs(),
        "controller": (
            *controller_needs(config_map=publication.config_map, probe=probe),
            *istiod_needs(IstioConfig()),
        ),
    }
    roles = {
        "signer": [member.one("ClusterRole", "federation-signer")],
        "controller": [
            member.one("ClusterRole", "federation-controller"),
            member.one("Role", "federation-probe-tokens"),
            member.one("Role", "federation-istiod-tokens"),
            member.one("Role", "federation-istiod-tls"),
        ],
    }

    for role, permissions in wanted.items():
        granted = {grant for item in roles[role] for grant in grants(item)}
        needed = {(p.group, p.resource, p.name, p.verb) for p in permissions}
        used_by_the_check = {("authorization.k8s.io", "selfsubjectaccessreviews", "", "create")}
        urls = {grant for grant in granted if grant[1].startswith("/")}
        assert granted - urls - used_by_the_check == needed


@pytest.mark.parametrize("file", FILES)
def test_the_package_carries_the_same_objects(file: str) -> None:
    """What `federation clusters add` applies; `python -m tests.manifests.member_data` writes it."""
    assert (PACKAGED / file).read_text("utf-8") == joined(FILES[file])
