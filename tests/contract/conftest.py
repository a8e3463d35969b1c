"""The targets: the sandbox always, and each kubeconfig named by ``FEDERATION_REAL_KUBECONFIGS``.

Where the variable is absent the real ones are not collected at all. A real server may run without a controller
manager: tests make their own service accounts, and namespaces are emptied and finalized by the fixture. It must have
compacted its etcd once, which is what makes versions too old: every five minutes, unless
``--etcd-compaction-interval`` says otherwise. It has to serve ClusterTrustBundles: until they are stable with
``--feature-gates=ClusterTrustBundle=true`` and
``--runtime-config=certificates.k8s.io/v1beta1=true,certificates.k8s.io/v1alpha1=true``.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from federation_sandbox.cluster import SandboxCluster
from tests.contract.client import Api, remove_namespace, unique

_REAL = [Path(name) for name in os.environ.get("FEDERATION_REAL_KUBECONFIGS", "").split(os.pathsep) if name]
_TARGETS = [
    pytest.param(None, id="sandbox"),
    *(pytest.param(path, id=path.stem, marks=pytest.mark.real) for path in _REAL),
]


@pytest.fixture(scope="session")
def box() -> SandboxCluster:
    """One sandbox for the session: its keys and objects stay, its server runs a test at a time."""
    return SandboxCluster("contract", controllers=False, cluster_trust_bundles=("v1beta1", "v1alpha1"))


@pytest.fixture(params=_TARGETS)
async def config(request: pytest.FixtureRequest, box: SandboxCluster) -> AsyncIterator[dict[str, Any]]:
    """The administrator's kubeconfig of one target."""
    path: Path | None = request.param
    if path is not None:
        yield yaml.safe_load(path.read_text("utf-8"))
        return
    box.compact()  # real servers compact by themselves, long before any test looks for it
    await box.start()
    yield box.kubeconfig()
    await box.stop()


@pytest.fixture
async def api(config: dict[str, Any]) -> AsyncIterator[Api]:
    """The target as its administrator sees it."""
    async with Api.open(config) as opened:
        yield opened


@pytest.fixture
async def namespace(api: Api) -> AsyncIterator[str]:
    """A namespace of the test's own with a service account ``app``."""
    name = unique("contract")
    await api.make("/api/v1/namespaces", {"metadata": {"name": name}})
    await api.make(f"/api/v1/namespaces/{name}/serviceaccounts", {"metadata": {"name": "app"}})
    yield name
    await remove_namespace(api, name)


@pytest.fixture
def maps(namespace: str) -> str:
    """The path of the test namespace's ConfigMaps."""
    return f"/api/v1/namespaces/{namespace}/configmaps"
