"""``federation hub`` with its state in objects: as the configuration says, and through an outage of the API server."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest

from federation.cli.pki import make_authorities, snippet, write_new
from federation.cli.process import open_store
from federation.core.config.load import parse_config
from federation.core.errors import ConfigurationError, StateUnavailable
from federation.runtime.clock import SystemClock
from federation.state.files import FileStore
from federation.state.kubernetes_store import KubernetesStore
from federation.state.store import StateStore
from federation_sandbox.cluster import SandboxCluster
from tests.cli.running import started
from tests.state.places import Objects
from tests.support.patience import PATIENCE


def configuration(directory: Path, state: str) -> str:
    """A hub with an authority and no cluster."""
    files, root = make_authorities(
        name="test",
        key_kind="ecdsa-p256",
        root_life=timedelta(days=2),
        life=timedelta(days=1),
        clock=SystemClock(),
    )
    write_new(directory / "pki", files)
    return f"""
trust_domain = "mesh.example"
{snippet(directory / "pki", root)}
[signer]
processes = 1
health_listen = "127.0.0.1:0"
[listener]
listen = "127.0.0.1:0"
server_names = ["hub.example"]
drain = 2
[status]
listen = "127.0.0.1:0"
[state]
{state}
"""


def objects_table(place: Objects) -> str:
    return f'kind = "kubernetes"\nnamespace = "{place.namespace}"\nkubeconfig = "{place.kubeconfig}"\n'


@pytest.fixture
async def store(boxed: Objects) -> AsyncIterator[StateStore]:
    async with boxed.opened() as opened:
        yield opened


async def until_ready(url: str) -> None:
    limit = aiohttp.ClientTimeout(total=PATIENCE)
    async with asyncio.timeout(PATIENCE), aiohttp.ClientSession(timeout=limit) as session:
        while True:
            async with session.get(f"{url}/readyz") as answer:
                if answer.status == 200:
                    return
            await asyncio.sleep(0.1)


async def test_a_hub_keeps_its_state_in_objects(
    box: SandboxCluster, boxed: Objects, store: StateStore, tmp_path: Path
) -> None:
    file = tmp_path / "clusters.toml"
    file.write_text(configuration(tmp_path, objects_table(boxed)))
    arguments = ("hub", "--config", str(file), "--replica", "host")
    async with started(tmp_path, *arguments) as hub:
        for what in ("health", "status"):
            await until_ready(await hub.until_announced(what))
        assert {"current", "generations/000000000001"} <= set(await store.keys(""))
        assert {"controllers/host-controller", "signers/host-signer-0"} <= set(await store.keys(""))
        await box.down()
        await hub.until_logged("no connection")
        await box.up()
        await until_ready(await hub.until_announced("health"))
        hub.process.send_signal(signal.SIGTERM)
        assert await hub.ended() == 0
        assert "Traceback" not in hub.log
    assert "signers/host-signer-0" not in await store.keys("signers/")
    async with asyncio.timeout(PATIENCE), store.lead("controller", identity="next") as leadership:
        assert leadership.leading  # the one before gave it back
    assert await store.keys("generations/") == ["generations/000000000001"]


async def test_the_configuration_names_the_store(boxed: Objects, tmp_path: Path) -> None:
    in_files = parse_config(
        configuration(tmp_path, 'directory = "state"'), file=str(tmp_path / "clusters.toml")
    )
    async with open_store(in_files.state, SystemClock()) as files:
        assert isinstance(files, FileStore)
        await files.write("current", b"x")
    assert (tmp_path / "state" / "documents" / "current").is_file()
    text = configuration(tmp_path / "other", objects_table(boxed))
    in_objects = parse_config(text, file=str(tmp_path / "clusters.toml"))
    async with open_store(in_objects.state, SystemClock()) as objects:
        assert isinstance(objects, KubernetesStore)
        await objects.write("current", b"x")
    assert (await boxed.object("current"))["data"]["document"] == "x"


async def test_credentials_that_have_expired_are_renewed_without_a_restart(
    box: SandboxCluster, boxed: Objects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("federation.clusters.members.RECHECK_SECONDS", 0.05)
    text = configuration(tmp_path, objects_table(boxed))
    state = parse_config(text, file=str(tmp_path / "clusters.toml")).state
    box.write_kubeconfig(boxed.kubeconfig, token="expired")
    async with open_store(state, SystemClock()) as store:
        with pytest.raises(StateUnavailable, match="401") as caught:
            await store.write("current", b"x")
        assert "renew the credentials" in caught.value.remedy
        box.write_kubeconfig(boxed.kubeconfig)
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    await store.write("current", b"x")
                except StateUnavailable:
                    await asyncio.sleep(0.05)
                else:
                    break


async def test_credentials_that_cannot_be_used_are_a_mistake_in_the_configuration(
    boxed: Objects, tmp_path: Path
) -> None:
    text = configuration(tmp_path, objects_table(boxed))
    state = parse_config(text, file=str(tmp_path / "clusters.toml")).state
    boxed.kubeconfig.write_text("no kubeconfig")
    with pytest.raises(ConfigurationError):
        async with open_store(state, SystemClock()):
            pytest.fail("opened")
