"""Negotiation: the newest and most stable version that a cluster serves, and nothing guessed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import chain, combinations
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.clusters.trust_bundles import NEEDED, VERSIONS, served_version, serves, trust_bundle_name
from federation.core.config.clusters import ClusterTimeouts, Credentials
from federation.core.errors import ClusterForbidden, ClusterGarbage, ClusterServerError
from federation.core.identity import ClusterName
from federation.kubernetes.session import ClusterSession
from federation.runtime.clock import SystemClock
from federation_sandbox.apiserver.faults import Answer, Garbage
from federation_sandbox.cluster import SandboxCluster

SUBSETS = list(chain.from_iterable(combinations(VERSIONS, size) for size in range(len(VERSIONS) + 1)))


@asynccontextmanager
async def opened(cluster: SandboxCluster, directory: Path, token: str = "") -> AsyncIterator[ClusterSession]:
    path = cluster.write_kubeconfig(directory / "kubeconfig", token=token)
    session = await ClusterSession.open(
        Credentials(kubeconfig=path),
        cluster=ClusterName("east"),
        timeouts=ClusterTimeouts(),
        clock=SystemClock(),
    )
    async with session:
        yield session


@pytest.fixture
async def cluster() -> AsyncIterator[SandboxCluster]:
    async with SandboxCluster("east") as found:
        yield found


@pytest.mark.parametrize("served", SUBSETS, ids="+".join)
async def test_of_those_that_are_served_the_most_stable_is_used(
    cluster: SandboxCluster, tmp_path: Path, served: tuple[str, ...]
) -> None:
    cluster.serve_cluster_trust_bundles(*served)
    async with opened(cluster, tmp_path) as session:
        assert await served_version(session) == next((v for v in VERSIONS if v in served), "")


async def test_a_caller_without_any_right_learns_it_too(cluster: SandboxCluster, tmp_path: Path) -> None:
    """An API that is not there answers 403 to those who may not use it: discovery distinguishes the two."""
    token = cluster.user_token("powerless")
    async with opened(cluster, tmp_path, token) as session:
        assert await served_version(session) == ""
        with pytest.raises(ClusterForbidden):
            await session.get("/apis/certificates.k8s.io/v1/clustertrustbundles")


@pytest.mark.parametrize(
    ("effect", "error"),
    [
        (Garbage(200, "application/json", b'{"resources": 7}'), ClusterGarbage),
        (Garbage(200), ClusterGarbage),
        (Answer(500, "InternalError", "no"), ClusterServerError),
        (Answer(403, "Forbidden", "no"), ClusterForbidden),
    ],
)
async def test_a_failure_is_not_taken_for_an_api_that_is_not_served(
    cluster: SandboxCluster, tmp_path: Path, effect: Garbage | Answer, error: type[Exception]
) -> None:
    cluster.serve_cluster_trust_bundles("v1beta1")
    async with opened(cluster, tmp_path) as session:
        with cluster.faults.inject(effect, path="/apis/certificates.k8s.io/v1"), pytest.raises(error):
            await served_version(session)
        assert await served_version(session) == "v1beta1"


class Listed(msgspec.Struct):
    name: str
    verbs: list[str]


@given(
    st.lists(
        st.builds(
            Listed,
            name=st.sampled_from(["clustertrustbundles", "certificatesigningrequests", "x"]),
            verbs=st.lists(st.sampled_from([*sorted(NEEDED), "get", "delete"]), max_size=6),
        ),
        max_size=4,
    )
)
def test_a_version_is_served_where_the_resource_has_every_verb_that_is_used(
    resources: list[Listed],
) -> None:
    answer = msgspec.json.encode({"kind": "APIResourceList", "resources": resources})
    usable = any(found.name == "clustertrustbundles" and {*found.verbs} >= NEEDED for found in resources)
    assert serves(answer) is usable


@given(st.binary(max_size=200))
def test_whatever_is_no_list_of_resources_is_an_error_of_decoding(answer: bytes) -> None:
    with suppress(msgspec.MsgspecError, UnicodeDecodeError):
        assert serves(answer) in {True, False}


@pytest.mark.parametrize(
    ("config_map", "name"),
    [
        ("istio-ca-root-cert", "istio.io:istiod-ca:root-cert"),
        ("usergroup-2-ca-root-cert", "istio.io:istiod-ca:usergroup-2-ca-root-cert"),
    ],
)
def test_the_object_is_the_one_that_istios_charts_mount(config_map: str, name: str) -> None:
    """With ``global.trustBundleName`` they mount a ConfigMap of that name, or a ClusterTrustBundle with that suffix."""
    assert trust_bundle_name(config_map) == name
