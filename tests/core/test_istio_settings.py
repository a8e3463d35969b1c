"""Istio's settings: valid YAML in three forms that say the same, each value with its reason."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from federation.core.config.clusters import ClusterConfig
from federation.core.config.hub import HubConfig
from federation.core.config.types import Address
from federation.core.errors import InvalidValue
from federation.core.identity import ServiceAccountRef
from federation.core.istio.settings import FORMS, Form, IstioSettings, settings_files, settings_of
from tests.core.config.texts import EAST, HUB, OTHER_PIN, good

SETTINGS = IstioSettings(
    cluster="east",
    listener="hub.example.org:15443",
    trust_domain="mesh.example.org",
    cluster_id="east-id",
    mesh_id="mesh.example.org",
)
AMBIENT = replace(SETTINGS, ztunnel=ServiceAccountRef("ztunnel", "ztunnel"), network="net-a")
FOREIGN = f"""
[[trust.anchors]]
file = "partner.pem"
sha256 = "{OTHER_PIN}"
trust_domain = "partner.example"
allow_foreign_trust_domain = true
"""


def texts(settings: IstioSettings, form: Form) -> dict[str, str]:
    return {file.name: file.text for file in settings_files(settings, form)}


def documents(text: str) -> list[Any]:
    return list(yaml.safe_load_all(text))


def said(settings: IstioSettings, form: Form) -> dict[str, Any]:
    """What a form says to istiod (``global``, ``meshConfig``, ``pilot``), to ztunnel, and where each of them runs."""
    files = texts(settings, form)
    if form == "helm":
        istiod = yaml.safe_load(files["helm-istiod.yaml"])
        profile, revision = istiod.pop("profile", ""), istiod.pop("revision", "default")
        ztunnel = yaml.safe_load(files.get("helm-ztunnel.yaml", "null"))
    elif form == "istioctl":
        (operator,) = documents(files["istioctl.yaml"])
        assert (operator["apiVersion"], operator["kind"]) == ("install.istio.io/v1alpha1", "IstioOperator")
        spec = operator["spec"]
        istiod = {**spec["values"], "meshConfig": spec["meshConfig"]}
        ztunnel = istiod.pop("ztunnel", None)
        profile, revision = spec.get("profile", ""), spec.get("revision", "default")
    else:
        resources = {resource["kind"]: resource for resource in documents(files["sail.yaml"])}
        assert {resource["apiVersion"] for resource in resources.values()} == {"sailoperator.io/v1"}
        istio = resources["Istio"]
        istiod, profile, revision = (
            istio["spec"]["values"],
            istio["spec"].get("profile", ""),
            istio["metadata"]["name"],
        )
        assert istio["spec"]["namespace"] == settings.namespace
        ztunnel = resources["ZTunnel"]["spec"]["values"]["ztunnel"] if "ZTunnel" in resources else None
    return {"istiod": istiod, "ztunnel": ztunnel, "profile": profile, "revision": revision}


def test_a_sidecar_mesh() -> None:
    assert said(SETTINGS, "helm") == {
        "istiod": {
            "global": {
                "caAddress": "hub.example.org:15443",
                "multiCluster": {"clusterName": "east-id"},
                "meshID": "mesh.example.org",
                "pilotCertProvider": "istiod",
            },
            "meshConfig": {"trustDomain": "mesh.example.org"},
            "pilot": {"env": {"ENABLE_CA_SERVER": "false"}},
        },
        "ztunnel": None,
        "profile": "",
        "revision": "default",
    }
    assert set(texts(SETTINGS, "helm")) == {"helm-istiod.yaml", "helm-gateway.yaml"}
    assert set(texts(SETTINGS, "istioctl")) == {"istioctl.yaml"}


def test_an_ambient_mesh_of_several_networks() -> None:
    found = said(AMBIENT, "helm")
    assert found["profile"] == "ambient"
    assert found["istiod"]["global"]["network"] == "net-a"
    assert found["istiod"]["pilot"] == {
        "env": {"ENABLE_CA_SERVER": "false", "AMBIENT_ENABLE_MULTI_NETWORK": "true"},
        "trustedZtunnelNamespace": "ztunnel",
    }
    assert found["ztunnel"] == {
        "caAddress": "hub.example.org:15443",
        "multiCluster": {"clusterName": "east-id"},
        "network": "net-a",
    }
    assert yaml.safe_load(texts(AMBIENT, "helm")["helm-gateway.yaml"]) == {"networkGateway": "net-a"}
    assert yaml.safe_load(texts(AMBIENT, "helm")["helm-cni.yaml"]) == {"profile": "ambient"}


def test_ztunnel_is_placed_where_its_trusted_account_is() -> None:
    operator = yaml.safe_load(texts(AMBIENT, "istioctl")["istioctl.yaml"])
    assert operator["spec"]["components"]["ztunnel"] == {"enabled": True, "namespace": "ztunnel"}
    (ztunnel,) = [r for r in documents(texts(AMBIENT, "sail")["sail.yaml"]) if r["kind"] == "ZTunnel"]
    assert ztunnel["spec"]["namespace"] == "ztunnel"


def test_a_ztunnel_of_another_name_keeps_it() -> None:
    settings = replace(SETTINGS, ztunnel=ServiceAccountRef("mesh", "tunnel"))
    for form in FORMS:
        found = said(settings, form)
        assert found["ztunnel"]["resourceName"] == "tunnel"
        assert found["istiod"]["pilot"]["env"]["CA_TRUSTED_NODE_ACCOUNTS"] == "mesh/tunnel"


def test_a_bundle_of_another_name_is_said_where_it_can_be() -> None:
    settings = replace(AMBIENT, bundle="roots")
    for form in FORMS[:2]:
        found = said(settings, form)
        assert found["istiod"]["global"]["trustBundleName"] == "roots"
        assert found["ztunnel"]["trustBundleName"] == "roots"
    with pytest.raises(InvalidValue, match="Sail"):
        settings_files(settings, "sail")
    assert said(replace(settings, ztunnel=None), "sail")["istiod"]["global"]["trustBundleName"] == "roots"


def test_a_revision_and_a_namespace_of_its_own_reach_ztunnel_too() -> None:
    settings = replace(AMBIENT, revision="canary", namespace="mesh")
    for form in FORMS:
        found = said(settings, form)
        assert found["revision"] == "canary"
        assert found["istiod"]["global"]["istioNamespace"] == "mesh"
        assert (found["ztunnel"]["revision"], found["ztunnel"]["istioNamespace"]) == ("canary", "mesh")


WORDS = st.text(alphabet="abyn019-", min_size=1, max_size=8).filter(lambda s: s[0] != "-" and s[-1] != "-")
NAMES = st.sampled_from(["yes", "no", "on", "1", "0x1f", "1e3", "null", "true", "off", "12"]) | WORDS
ACCOUNTS = st.builds(ServiceAccountRef, NAMES, NAMES)


@limits(deadline=None, max_examples=60)  # YAML in Python is slow, and each example reads it many times
@given(
    st.builds(
        IstioSettings,
        cluster=NAMES,
        listener=NAMES.map(lambda name: f"{name}:15443"),
        trust_domain=NAMES,
        cluster_id=NAMES,
        mesh_id=NAMES,
        network=st.just("") | NAMES,
        namespace=NAMES,
        revision=NAMES,
        audience=NAMES,
        ztunnel=st.none() | ACCOUNTS,
        foreign_trust_domains=st.lists(NAMES, max_size=2).map(tuple),
    )
)
def test_for_any_names_both_forms_are_yaml_with_the_same_settings(settings: IstioSettings) -> None:
    helm = said(settings, "helm")
    assert helm == said(settings, "istioctl") == said(settings, "sail")
    assert helm["istiod"]["global"]["multiCluster"]["clusterName"] == settings.cluster_id
    assert helm["istiod"]["meshConfig"] == {"trustDomain": settings.trust_domain}
    for form in FORMS:
        assert texts(settings, form) == texts(settings, form)
        for text in texts(settings, form).values():
            assert documents(text)
            assert text.endswith("\n")


@pytest.mark.parametrize("form", FORMS)
def test_each_value_has_its_reason_above_it(form: Form) -> None:
    own = (
        "caAddress",
        "clusterName",
        "network",
        "meshID",
        "pilotCertProvider",
        "trustDomain",
        "ENABLE_CA_SERVER",
    )
    seen = set()
    for text in texts(AMBIENT, form).values():
        lines = text.splitlines()
        for before, line in pairwise(lines):
            key = line.strip().partition(":")[0]
            if key in own and not line.lstrip().startswith("#"):
                assert before.lstrip().startswith("# "), line
                seen.add(key)
    assert seen == set(own)


@pytest.mark.parametrize("form", FORMS)
def test_aliases_are_offered_only_where_foreign_roots_are_accepted_and_never_set(form: Form) -> None:
    assert not any("trustDomainAliases" in text for text in texts(AMBIENT, form).values())
    settings = replace(SETTINGS, foreign_trust_domains=("partner.example",))
    (text,) = [text for text in texts(settings, form).values() if "trustDomainAliases" in text]
    assert "PILOT_SKIP_VALIDATE_TRUST_DOMAIN" in text
    assert said(settings, form)["istiod"]["meshConfig"] == {"trustDomain": "mesh.example.org"}
    lines = text.splitlines()
    at = next(number for number, line in enumerate(lines) if line.endswith("# trustDomainAliases:"))
    taken_in = "\n".join(line.lstrip().removeprefix("# ") for line in lines[at : at + 2])
    assert yaml.safe_load(taken_in) == {"trustDomainAliases": ["partner.example"]}


# From the configuration.


def configured(text: str = HUB + EAST, **settings: Any) -> IstioSettings:
    hub = good(text)
    return settings_of(hub, hub.clusters[0], **settings)


def with_names(*names: str) -> tuple[HubConfig, ClusterConfig]:
    hub = good(HUB + EAST)
    return replace(hub, listener=replace(hub.listener, server_names=names)), hub.clusters[0]


def test_the_configuration_says_it_all() -> None:
    found = configured(HUB + FOREIGN + EAST)
    assert found == IstioSettings(
        cluster="east",
        listener="hub.example:15443",
        trust_domain="mesh.example",
        cluster_id="east-id",
        mesh_id="mesh.example",
        foreign_trust_domains=("partner.example",),
    )
    policy = '[clusters.policy]\ntrusted_node_accounts = ["istio-system/ztunnel"]\n'
    istio = '[clusters.istio]\nmesh_id = "mesh1"\nrevisions = ["canary"]\nnamespaces = ["mesh"]\n'
    found = configured(HUB + EAST + policy + istio)
    assert found.ztunnel == ServiceAccountRef("istio-system", "ztunnel")
    assert (found.mesh_id, found.revision, found.namespace) == ("mesh1", "canary", "mesh")


@pytest.mark.parametrize("istio", ["provide_certificate = false", 'secret = "own-tls"'])
def test_a_certificate_that_the_hub_does_not_keep_where_the_chart_looks_is_the_operators(istio: str) -> None:
    found = configured(HUB + EAST + f"[clusters.istio]\n{istio}\n")
    assert "it is yours to make" in " ".join(
        texts(found, "helm")["helm-istiod.yaml"].replace("#", "").split()
    )
    assert "it is yours to make" not in " ".join(texts(configured(), "helm")["helm-istiod.yaml"].split())


def test_ztunnels_tokens_have_one_audience() -> None:
    policy = '[clusters.policy]\ntrusted_node_accounts = ["istio-system/ztunnel"]\n'
    with pytest.raises(InvalidValue, match="audience istio-ca"):
        configured(
            HUB + EAST.replace('cluster_id = "east-id"', 'cluster_id = "east-id"\naudience = "hub"') + policy
        )


def test_the_name_of_a_service_is_for_the_hubs_own_cluster() -> None:
    hub, cluster = with_names("federation-hub.federation-system.svc", "hub.example.org")
    assert settings_of(hub, cluster).listener == "hub.example.org:15443"
    own = replace(cluster, signer=replace(cluster.signer, kubeconfig=None, in_cluster=True))
    assert settings_of(hub, own).listener == "federation-hub.federation-system.svc:15443"
    hub, cluster = with_names("federation-hub.federation-system.svc")
    assert settings_of(hub, cluster).listener == "federation-hub.federation-system.svc:15443"


def test_a_given_listener_address_has_to_be_in_its_certificate() -> None:
    assert configured(listener=Address("hub.example", 443)).listener == "hub.example:443"
    with pytest.raises(InvalidValue) as caught:
        configured(listener=Address("elsewhere.example", 443))
    assert "hub.example" in caught.value.remedy


def test_what_the_configuration_leaves_open_is_asked_for() -> None:
    several = HUB + EAST + '[clusters.istio]\nrevisions = ["a", "b"]\nnamespaces = ["one", "two"]\n'
    with pytest.raises(InvalidValue, match="more than one"):
        configured(several)
    found = configured(several, revision="b", namespace="two")
    assert (found.revision, found.namespace) == ("b", "two")
    with pytest.raises(InvalidValue, match="not configured"):
        configured(several, revision="c", namespace="two")
    with pytest.raises(InvalidValue, match="no fixed port"):
        configured(HUB.replace("[listener]", '[listener]\nlisten = "127.0.0.1:0"') + EAST)
