"""Nothing comes in and nothing goes out but what is meant to."""

from __future__ import annotations

from typing import Any

import pytest

from tests.manifests.tree import ROLES, Tree, selects

Rule = dict[str, Any]


def rules(hub: Tree, role: str, direction: str) -> list[Rule]:
    """Every rule of that direction in every policy that selects the role's pods."""
    labels = hub.deployment(role)["spec"]["template"]["metadata"]["labels"]
    return [
        rule
        for policy in hub.all("NetworkPolicy")
        if selects(policy["spec"]["podSelector"].get("matchLabels", {}), labels)
        for rule in policy["spec"].get(direction, [])
    ]


def ports(rule: Rule) -> set[int | str]:
    return {entry["port"] for entry in rule["ports"]}


def test_everything_is_denied_first(hub: Tree) -> None:
    policy = hub.one("NetworkPolicy", "default-deny")

    assert policy["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


@pytest.mark.parametrize("role", ROLES)
def test_every_rule_names_ports_that_exist(hub: Tree, role: str) -> None:
    own = set(hub.ports(role))

    assert rules(hub, role, "ingress")
    assert all(ports(rule) <= own for rule in rules(hub, role, "ingress"))
    assert all(ports(rule) <= {53, 443, 6443, "listener"} for rule in rules(hub, role, "egress"))


def test_the_listener_is_open_to_all_and_the_rest_to_labelled_namespaces(hub: Tree) -> None:
    anywhere = [rule for role in ROLES for rule in rules(hub, role, "ingress") if "from" not in rule]
    somewhere = [rule for role in ROLES for rule in rules(hub, role, "ingress") if "from" in rule]

    assert [ports(rule) for rule in anywhere] == [{"listener"}]
    assert sorted(min(map(str, ports(rule))) for rule in somewhere) == ["health", "status"]
    for rule in somewhere:
        assert all(peer["namespaceSelector"]["matchLabels"] for peer in rule["from"])


def test_the_signer_reaches_api_servers_and_names_only(hub: Tree) -> None:
    assert sorted(map(sorted, (map(str, ports(rule)) for rule in rules(hub, "signer", "egress")))) == [
        ["443", "6443"],
        ["53"],
    ]


def test_the_controller_may_connect_to_the_listener(hub: Tree) -> None:
    (to_door,) = [rule for rule in rules(hub, "controller", "egress") if "listener" in ports(rule)]
    (peer,) = to_door["to"]

    assert selects(
        peer["podSelector"]["matchLabels"], hub.deployment("signer")["spec"]["template"]["metadata"]["labels"]
    )
    assert not any("listener" in ports(rule) for rule in rules(hub, "signer", "egress"))


@pytest.mark.parametrize("role", ROLES)
def test_names_are_resolved_where_openshift_s_dns_pods_listen(role: str) -> None:
    """A policy sees the pod behind the DNS Service: on OpenShift one of openshift-dns, on 5353."""
    added = [rule for rule in rules(Tree.of("openshift"), role, "egress") if 5353 in ports(rule)]

    assert added == [
        {
            "to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "openshift-dns"}}}],
            "ports": [{"protocol": "UDP", "port": 5353}, {"protocol": "TCP", "port": 5353}],
        }
    ]
