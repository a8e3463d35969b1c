"""Both stores: files, and objects on the sandbox and on each kubeconfig that FEDERATION_REAL_KUBECONFIGS names."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import yaml

from federation_sandbox.cluster import SandboxCluster
from tests.contract.client import Api, remove_namespace, unique
from tests.state.places import Directory, Objects, Place

REAL = [Path(name) for name in os.environ.get("FEDERATION_REAL_KUBECONFIGS", "").split(os.pathsep) if name]
SERVERS = [
    pytest.param(None, id="sandbox"),
    *(pytest.param(path, id=path.stem, marks=pytest.mark.real) for path in REAL),
]


@pytest.fixture(scope="session")
def box() -> SandboxCluster:
    """One sandbox for the session: its keys and objects stay, its server runs a test at a time."""
    return SandboxCluster("state", controllers=False, signing_algorithm="ES256")


@asynccontextmanager
async def objects_on(kubeconfig: Path) -> AsyncIterator[Objects]:
    """Two namespaces of the test's own, as its administrator sees them."""
    async with Api.open(yaml.safe_load(kubeconfig.read_text("utf-8"))) as api:
        namespace = unique("state")
        both = (namespace, f"{namespace}-signers")
        for name in both:
            await api.make("/api/v1/namespaces", {"metadata": {"name": name}})
        try:
            yield Objects(kubeconfig, namespace, api=api)
        finally:
            for name in both:
                await remove_namespace(api, name)


@asynccontextmanager
async def objects_in(box: SandboxCluster, kubeconfig: Path) -> AsyncIterator[Objects]:
    """The same on the sandbox, which is started for as long."""
    await box.start()
    try:
        async with objects_on(box.write_kubeconfig(kubeconfig)) as place:
            yield place
    finally:
        box.faults.clear()
        await box.stop()


@pytest.fixture(params=SERVERS)
async def objects(
    request: pytest.FixtureRequest, box: SandboxCluster, tmp_path: Path
) -> AsyncIterator[Objects]:
    """Objects on each API server."""
    path: Path | None = request.param
    opened = objects_in(box, tmp_path / "kubeconfig") if path is None else objects_on(path)
    async with opened as place:
        yield place


@pytest.fixture
async def boxed(box: SandboxCluster, tmp_path: Path) -> AsyncIterator[Objects]:
    """Objects on the sandbox, whose API server a test may ill-treat."""
    async with objects_in(box, tmp_path / "kubeconfig") as place:
        yield place


@pytest.fixture(params=[pytest.param("files", id="files"), *SERVERS])
async def place(request: pytest.FixtureRequest, box: SandboxCluster, tmp_path: Path) -> AsyncIterator[Place]:
    """Every store there is."""
    if request.param == "files":
        yield Directory(tmp_path / "state")
        return
    path: Path | None = request.param
    opened = objects_in(box, tmp_path / "kubeconfig") if path is None else objects_on(path)
    async with opened as found:
        yield found
