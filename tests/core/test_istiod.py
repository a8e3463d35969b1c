"""The names of istiod that a certificate for it may hold, and no others."""

from __future__ import annotations

import pytest

from federation.core.config.clusters import IstioConfig
from federation.core.istio.istiod import is_istiod_name, istiod_names
from federation.core.pki.requests import MAX_CSR_CHARACTERS
from tests.core.config.texts import GOOD, good, mistakes

FOUND = IstioConfig()
PINNED = IstioConfig(
    namespaces=("istio-system", "mesh-b"), revisions=("1-30",), extra_names=("istiod.example",)
)


def test_the_names_are_those_that_istio_csr_gives() -> None:
    assert istiod_names(FOUND, "istio-system", ["default", "canary"]) == (
        "istiod.istio-system.svc",
        "istiod-canary.istio-system.svc",
        "istiod-remote.istio-system.svc",
        "istio-pilot.istio-system.svc",
    )
    assert istiod_names(PINNED, "mesh-b", []) == (
        "istiod.mesh-b.svc",
        "istiod-1-30.mesh-b.svc",
        "istiod-remote.mesh-b.svc",
        "istio-pilot.mesh-b.svc",
        "istiod.example",
    )


@pytest.mark.parametrize("istio", [FOUND, PINNED])
def test_every_name_that_is_given_is_allowed(istio: IstioConfig) -> None:
    for namespace in istio.namespaces:
        for name in istiod_names(istio, namespace, []):
            assert is_istiod_name(istio, name)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "svc",
        "istiod",
        "istiod.svc",
        "istiod.default.svc",
        "istiod.istio-system.svc.cluster.local",
        "istiod-.istio-system.svc",
        "istiod-a.b.istio-system.svc",
        "istiod-Canary.istio-system.svc",
        "payments.istio-system.svc",
        "istiod-" + "x" * 57 + ".istio-system.svc",
        "*.istio-system.svc",
    ],
)
def test_no_other_name_is(host: str) -> None:
    assert not is_istiod_name(FOUND, host)
    assert not is_istiod_name(PINNED, host)


def test_where_revisions_are_configured_no_other_is_allowed() -> None:
    assert is_istiod_name(FOUND, "istiod-canary.istio-system.svc")
    assert not is_istiod_name(PINNED, "istiod-canary.istio-system.svc")
    assert is_istiod_name(PINNED, "istiod-1-30.istio-system.svc")


@pytest.mark.parametrize("odd", ["1.30", "Canary", "é", "a_b", "-", "", "x" * 60, "a/b"])
def test_a_revision_that_no_certificate_may_name_costs_the_others_nothing(odd: str) -> None:
    names = istiod_names(FOUND, "istio-system", ["canary", odd])
    assert names == istiod_names(FOUND, "istio-system", ["canary"])
    assert all(is_istiod_name(FOUND, name) for name in names)


def test_a_revision_that_is_found_beside_those_configured_is_not_asked_for() -> None:
    assert istiod_names(PINNED, "mesh-b", ["canary"]) == istiod_names(PINNED, "mesh-b", [])


def test_the_names_of_any_number_of_revisions_fit_into_a_request() -> None:
    revisions = [f"{number:02}-{'x' * 50}" for number in range(40)]
    names = istiod_names(FOUND, "n" * 63, revisions)
    assert names[0] == f"istiod.{'n' * 63}.svc"
    assert sum(len(name) + 2 for name in names) * 4 // 3 < MAX_CSR_CHARACTERS // 2


def test_the_section_is_read() -> None:
    config = good(
        GOOD
        + """
[clusters.istio]
provide_certificate = false
namespaces = ["istio-system", "mesh-b"]
revisions = ["1-30"]
extra_names = ["istiod.example"]
secret = "istiod-certificate"
account = "hub/istiod"
cluster_trust_bundle = "off"
"""
    )
    istio = config.clusters[-1].istio
    assert not istio.provide_certificate
    assert istio.namespaces == PINNED.namespaces
    assert istio.revisions == ("1-30",)
    assert (istio.secret, str(istio.account), istio.cluster_trust_bundle) == (
        "istiod-certificate",
        "hub/istiod",
        "off",
    )
    assert config.clusters[0].istio == IstioConfig()


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("namespaces = []", "namespaces"),
        ('namespaces = ["Istio"]', "namespaces[0]"),
        ('revisions = ["1.30"]', "revisions[0]"),
        ('extra_names = ["*.example"]', "extra_names[0]"),
        ('secret = "a/b"', "secret"),
        ('account = "x"', "account"),
        ('cluster_trust_bundle = "on"', "cluster_trust_bundle"),
    ],
)
def test_mistakes_are_found(line: str, key: str) -> None:
    assert f"clusters[1].istio.{key}" in mistakes(GOOD + f"[clusters.istio]\n{line}\n")
