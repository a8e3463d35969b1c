"""``[discovery]``: where clusters are looked for, as the file says it."""

from __future__ import annotations

from pathlib import Path

import pytest

from federation.core.config.clusters import Credentials
from federation.core.config.discovery import DiscoveryConfig
from federation.core.config.load import parse_config
from federation.core.errors import ConfigurationError
from tests.core.config.example import BLOCKS, PLAIN

EXAMPLE = next(block for block in BLOCKS if block.table == "discovery")


def discovery_of(text: str) -> DiscoveryConfig | None:
    return parse_config(f"{PLAIN}\n{text}", file="/x/clusters.toml").discovery


def mistakes(text: str) -> str:
    with pytest.raises(ConfigurationError) as error:
        discovery_of(f"[discovery]\n{text}")
    return str(error.value.diagnostics())


def test_nothing_is_looked_for_by_default() -> None:
    assert discovery_of("") is None


def test_the_examples_block_says_what_it_seems_to() -> None:
    found = discovery_of("\n".join(EXAMPLE.lines))
    assert found == DiscoveryConfig(
        istio_secrets=("istio-system",),
        labelled_secrets=("fleet",),
        selector="cluster.x-k8s.io/cluster-name",
        cluster_profiles=("fleet",),
        in_cluster=True,
    )
    assert (found.names, found.ignore, found.interval) == (("*",), (), 60.0)
    assert found.credentials == Credentials(kubeconfig=None, in_cluster=True)
    found = discovery_of(
        '[discovery]\nistio_secrets = ["istio-system"]\nkubeconfig = "hub"\ninterval = "5m"\n'
    )
    assert found is not None
    assert (found.credentials.kubeconfig, found.interval) == (Path("/x/hub"), 300.0)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("in_cluster = true\n", "names no place to look in"),
        ('istio_secrets = ["istio-system"]\n', "cannot connect"),
        ('istio_secrets = ["istio-system"]\nin_cluster = true\nkubeconfig = "k"\n', "contradicts in_cluster"),
        ('labelled_secrets = ["fleet"]\nin_cluster = true\n', "selector: is missing"),
        ('labelled_secrets = ["fleet"]\nselector = ""\nin_cluster = true\n', "selector: is missing"),
        ('cluster_profiles = ["fleet"]\nselector = "a"\nin_cluster = true\n', "labelled_secrets: is missing"),
        ('labelled_secrets = ["fleet"]\nselector = "a b"\nin_cluster = true\n', "is not a label requirement"),
        ('istio_secrets = ["Istio"]\nin_cluster = true\n', "is not a namespace name"),
        ('istio_secrets = "istio-system"\nin_cluster = true\n', "must be an array"),
        (f"istio_secrets = {[f'n{i}' for i in range(21)]}\nin_cluster = true\n", "more than 20 namespaces"),
        ('istio_secrets = ["a"]\nin_cluster = true\nnames = []\n', "is empty"),
        ('istio_secrets = ["a"]\nin_cluster = true\nignore = ["[a"]\n', "is not a pattern"),
        ('istio_secrets = ["a"]\nin_cluster = true\ninterval = 1\n', "discovery.interval"),
        ('istio_secrets = ["a"]\nin_cluster = true\nadmit = "all"\n', "is not a key the hub knows"),
    ],
)
def test_mistakes_are_said_with_their_place(text: str, what: str) -> None:
    found = mistakes(text)
    assert what in found
    assert "discovery" in found
