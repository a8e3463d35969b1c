"""The names of istiod that a certificate for it may hold, and no others."""

from __future__ import annotations

import pytest

from federation.core.config.model import IstioConfig
from federation.core.istiod import is_istiod_name, istiod_names
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
