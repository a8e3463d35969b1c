"""Identities: what the SPIFFE and Kubernetes specifications allow, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.core.errors import InvalidValue
from federation.core.identity import (
    ClusterId,
    ClusterName,
    NodeName,
    ServiceAccountRef,
    SpiffeId,
    TrustDomain,
)
from tests.core.pki.strategies import accounts, identities


@given(identities)
def test_a_spiffe_id_survives_its_own_text(identity: SpiffeId) -> None:
    assert SpiffeId.parse(str(identity)) == identity


@given(st.text(max_size=120))
def test_any_text_is_an_identity_or_an_error(text: str) -> None:
    try:
        identity = SpiffeId.parse(text)
    except InvalidValue:
        return
    assert str(identity) == text


@given(identities, st.data())
def test_a_changed_character_never_yields_the_same_identity(identity: SpiffeId, data: st.DataObject) -> None:
    text = str(identity)
    position = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters().filter(lambda c: c != text[position]))
    changed = text[:position] + other + text[position + 1 :]
    try:
        parsed = SpiffeId.parse(changed)
    except InvalidValue:
        return
    assert parsed != identity


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "spiffe://",
        "spiffe://cluster.local",
        "spiffe://cluster.local/ns/foo",
        "spiffe://cluster.local/ns/foo/sa/bar/",
        "spiffe://cluster.local/ns/foo/sa/bar/extra",
        "spiffe://cluster.local//ns/foo/sa/bar",
        "spiffe://cluster.local/ns/../sa/bar",
        "spiffe://cluster.local/ns/foo/sa/",
        "spiffe://cluster.local/ns/foo/sa/bar?x",
        "spiffe://cluster.local/ns/foo/sa/bar#x",
        "spiffe://cluster.local/ns/foo/sa/b%61r",
        "spiffe://cluster.local/ns/foo/sa/bar,spiffe://cluster.local/ns/foo/sa/baz",
        "spiffe://cluster.local/ns/foo/sa/bar\n",
        "spiffe://cluster.local:8443/ns/foo/sa/bar",
        "spiffe://user@cluster.local/ns/foo/sa/bar",
        "spiffe://Cluster.Local/ns/foo/sa/bar",
        "spiffe://clüster.local/ns/foo/sa/bar",
        "SPIFFE://cluster.local/ns/foo/sa/bar",
        "https://cluster.local/ns/foo/sa/bar",
        "spiffe://cluster.local/ns/Foo/sa/bar",
        "spiffe://cluster.local/ns/foo/sa/" + "a" * 254,
        "spiffe://" + "a" * 256 + "/ns/foo/sa/bar",
    ],
)
def test_uris_that_are_no_identity(uri: str) -> None:
    with pytest.raises(InvalidValue):
        SpiffeId.parse(uri)


@pytest.mark.parametrize("name", ["", ".", "-a", "a-", "A", "a b", "a/b", "ä", "a" * 256, "a\n"])
def test_names_that_are_no_trust_domain(name: str) -> None:
    with pytest.raises(InvalidValue):
        TrustDomain(name)


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a.b", "a_b", "a" * 64, "a\n"])
def test_names_that_are_no_cluster(name: str) -> None:
    with pytest.raises(InvalidValue):
        ClusterName(name)


@pytest.mark.parametrize("value", ["Kubernetes", "east-1", "arn:aws:eks:eu-1:12:cluster/a", "a"])
def test_cluster_ids_in_use(value: str) -> None:
    assert str(ClusterId(value)) == value


@pytest.mark.parametrize("value", ["", " east", "east ", "a,b", "a\nb", "a" * 254, "/a"])
def test_values_that_are_no_cluster_id(value: str) -> None:
    with pytest.raises(InvalidValue):
        ClusterId(value)


@given(accounts)
def test_the_user_name_of_a_service_account_names_it(account: ServiceAccountRef) -> None:
    assert (
        ServiceAccountRef.from_username(f"system:serviceaccount:{account.namespace}:{account.name}")
        == account
    )


@pytest.mark.parametrize(
    "username",
    [
        "",
        "kubernetes-admin",
        "system:node:worker-1",
        "system:serviceaccount:foo",
        "system:serviceaccount::bar",
        "system:serviceaccount:foo:",
        "system:serviceaccount:foo:bar:baz",
        "system:serviceaccount:Foo:bar",
        "oidc:system:serviceaccount:foo:bar",
    ],
)
def test_user_names_that_are_no_service_account(username: str) -> None:
    with pytest.raises(InvalidValue):
        ServiceAccountRef.from_username(username)


@pytest.mark.parametrize(
    "name", ["a", "bar", "bar.v2", "a" * 253, "a" * 64 + ".b", "0", "a--b", "ip-10-0-0-1.ec2.internal"]
)
def test_names_that_kubernetes_takes_for_accounts_and_nodes(name: str) -> None:
    """``IsDNS1123Subdomain`` bounds the whole name, no single label."""
    assert ServiceAccountRef("foo", name).name == name
    assert NodeName(name).value == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "-a", "a-", "a.", ".a", "a..b", "a.-b", "A", "a_b", "a,b", "a=b", "a b", "a\n", "ä", "a" * 254],
)
def test_names_that_kubernetes_refuses_for_accounts_and_nodes(name: str) -> None:
    for make in (lambda: ServiceAccountRef("foo", name), lambda: NodeName(name)):
        with pytest.raises(InvalidValue):
            make()
