"""A cluster is written into any ``clusters.toml`` and taken out again, and nothing else in it changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.core.config.entries import NewCluster, with_cluster, without_cluster
from federation.core.errors import ConfigurationError
from federation.core.identity import ClusterId, ClusterName
from tests.core.config.example import TEXT
from tests.core.config.texts import EAST, FILE, GOOD, HUB, WEST, good

NORTH = NewCluster(
    name="north",
    cluster_id="north-id",
    signer_kubeconfig="kubeconfigs/north-signer",
    controller_kubeconfig="kubeconfigs/north-controller",
)
NAME = ClusterName("north")
TABLE = "[[clusters]]\nname = 'north'\ncluster_id = 'n'\nkubeconfig = 'n'\n"


def test_the_cluster_is_the_last_and_nothing_else_changes() -> None:
    entry = replace(
        NORTH, network='a"b', allow=("shop/*", "bank/a"), istio_namespaces=("istio-system", "istio-2")
    )
    entry = replace(entry, network="net-1")
    text, config = with_cluster(GOOD, entry, file=FILE)
    assert text.startswith(GOOD)
    assert config.clusters[:2] == good(GOOD).clusters
    added = config.clusters[2]
    assert (added.name, added.cluster_id, added.network) == (NAME, ClusterId("north-id"), "net-1")
    assert added.signer.kubeconfig == Path("/etc/federation/kubeconfigs/north-signer")
    assert added.controller.kubeconfig == Path("/etc/federation/kubeconfigs/north-controller")
    assert added.policy.allow == ("shop/*", "bank/a")
    assert added.istio.namespaces == ("istio-system", "istio-2")
    assert config == good(text)


@given(
    st.sampled_from([GOOD, HUB, TEXT, GOOD.replace("\n", "\r\n")]),
    st.sampled_from(["", "\n", "\n\n# the end", "\n  \t", "# x", "\n\n\n"]),
)
@settings(deadline=None, max_examples=40)
def test_what_was_added_is_taken_out_to_the_byte(text: str, end: str) -> None:
    text += end.replace("\n", "\r\n") if "\r\n" in text else end
    extended, _ = with_cluster(text, NORTH, file=FILE)
    left, config = without_cluster(extended, NAME, file=FILE)
    assert left in {text, text + "\n", text + "\r\n"}
    assert config == good(left)
    assert config.clusters == good(text).clusters


@pytest.mark.parametrize("name", ["east", "west"])
def test_any_cluster_can_be_taken_out_and_comments_around_it_stay(name: str) -> None:
    table, other = (EAST, WEST) if name == "east" else (WEST, EAST)
    before, after = "\n# of the one before\n", "\n# of the one after\n"
    text = (
        HUB
        + before
        + table.lstrip()
        + "# inside\n[clusters.policy]\nallow = ['a/*']\n"
        + after
        + other.lstrip()
    )
    left, config = without_cluster(text, ClusterName(name), file=FILE)
    assert left == HUB + before + after + other.lstrip()
    assert [str(cluster.name) for cluster in config.clusters] == [{"east": "west", "west": "east"}[name]]


def test_a_table_is_found_however_its_header_is_spaced_and_one_that_is_not_found_is_left() -> None:
    spaced = (
        GOOD
        + TABLE.replace("[[clusters]]", " [[ clusters ]] # [here]")
        + "[ clusters . policy ]\nallow = ['a/b']\n"
    )
    left, config = without_cluster(spaced, NAME, file=FILE)
    assert (left, config.clusters) == (GOOD, good(GOOD).clusters)
    quoted = GOOD + TABLE.replace("[[clusters]]", '[["clusters"]]')
    assert good(quoted).cluster(NAME) is not None
    with pytest.raises(ConfigurationError, match="in a form that cannot be taken out"):
        without_cluster(quoted, NAME, file=FILE)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('clusters = [{name = "x", cluster_id = "x", kubeconfig = "x"}]\n' + HUB, "inline"),
        (GOOD + TABLE, "is the same as that of"),
        (GOOD + "no_such = 1\n", "no_such"),
    ],
)
def test_what_cannot_take_it_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        with_cluster(text, NORTH, file=FILE)
    assert said in caught.value.diagnostics()


def test_a_cluster_that_is_needed_elsewhere_or_not_there_is_not_taken_out() -> None:
    pinned = GOOD.replace('file = "root.pem"', 'file = "root.pem"\ncluster = "west"')
    with pytest.raises(ConfigurationError) as caught:
        without_cluster(pinned, ClusterName("west"), file=FILE)
    assert "without west it could not be used" in caught.value.diagnostics()
    with pytest.raises(ConfigurationError, match="none of the name north"):
        without_cluster(GOOD, NAME, file=FILE)
