"""A process that may open no more files says so: nothing is wrong with the file or the cluster that it names."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from federation.core.config.clusters import ClusterTimeouts, Credentials
from federation.core.errors import (
    MORE_FILES,
    OPEN_FILES,
    ClusterError,
    ClusterUnreachable,
    ConfigurationError,
    OutOfFiles,
    StateUnavailable,
)
from federation.core.identity import ClusterName
from federation.kubernetes.credentials import fingerprint, load_credentials
from federation.kubernetes.session import ClusterSession
from federation.runtime.clock import SystemClock
from federation.runtime.config_source import ConfigSource
from federation.state.files import FileStore
from federation_sandbox.cluster import SandboxCluster

EAST = ClusterName("east")


@contextlib.contextmanager
def no_more_files() -> Iterator[None]:
    """This process may open no more files while the context is open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (3, hard)
    )  # whatever another thread closes meanwhile is above it
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
async def east() -> AsyncIterator[SandboxCluster]:
    async with SandboxCluster("east") as cluster:
        yield cluster


@asynccontextmanager
async def open_session(kubeconfig: Path) -> AsyncIterator[ClusterSession]:
    session = await ClusterSession.open(
        Credentials(kubeconfig=kubeconfig), cluster=EAST, timeouts=ClusterTimeouts(), clock=SystemClock()
    )
    async with session:
        yield session


async def test_a_kubeconfig_is_not_blamed(east: SandboxCluster, tmp_path: Path) -> None:
    kubeconfig = tmp_path / "east.kubeconfig"
    east.write_kubeconfig(kubeconfig)
    credentials = Credentials(kubeconfig=kubeconfig)
    with no_more_files():
        with pytest.raises(OutOfFiles, match="may open no more files") as refused:
            await load_credentials(credentials, cluster=EAST, clock=SystemClock())
        with pytest.raises(OutOfFiles):
            await fingerprint(credentials)
    assert (refused.value.reason, refused.value.remedy) == (OPEN_FILES, MORE_FILES)
    assert "check the path" not in refused.value.diagnostics()
    assert await fingerprint(credentials)


async def test_a_cluster_is_not_blamed(east: SandboxCluster, tmp_path: Path) -> None:
    kubeconfig = tmp_path / "east.kubeconfig"
    east.write_kubeconfig(kubeconfig)
    async with open_session(kubeconfig) as session:
        with no_more_files(), pytest.raises(ClusterUnreachable, match="may open no more files") as failed:
            await session.get("/version")
        assert (failed.value.reason, failed.value.remedy) == (OPEN_FILES, MORE_FILES)
        with no_more_files(), pytest.raises(ClusterError) as watch:
            async with session.stream("/api/v1/namespaces", silence=5.0):
                raise AssertionError("a connection was made")
        assert watch.value.reason == OPEN_FILES
        assert await session.get("/version")


async def test_neither_state_nor_configuration_is_blamed(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "state", SystemClock())
    await store.write("signers/one", b"{}")
    source = ConfigSource(tmp_path / "clusters.toml", SystemClock())
    (tmp_path / "clusters.toml").write_text("")
    with no_more_files():
        with pytest.raises(StateUnavailable) as unread:
            await store.read("signers/one")
        with pytest.raises(ConfigurationError) as unloaded:
            await source.load()
    assert unread.value.remedy == MORE_FILES
    assert MORE_FILES in unloaded.value.diagnostics()
