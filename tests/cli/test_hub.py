"""``federation hub`` as an operator runs it: comes up, recovers, reloads, drains, leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest

from federation.cli.hub import Printed, child_specs, cores
from federation.cli.main import build_parser
from federation.cli.pki import make_authorities, snippet, write_new
from federation.core.config.types import Address
from federation.runtime.clock import SystemClock
from tests.cli.running import Running, started
from tests.core.config.texts import GOOD, good, with_line
from tests.support.patience import PATIENCE


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A hub with an authority and no cluster yet."""
    files, root = make_authorities(
        name="test",
        key_kind="ecdsa-p256",
        root_life=timedelta(days=2),
        life=timedelta(days=1),
        clock=SystemClock(),
    )
    write_new(tmp_path / "pki", files)
    path = tmp_path / "clusters.toml"
    path.write_text(
        f"""
trust_domain = "mesh.example"
{snippet(tmp_path / "pki", root)}
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
directory = "state"
"""
    )
    return path


@pytest.fixture
async def hub(file: Path) -> AsyncIterator[Running]:
    async with started(file.parent, "hub", "--config", str(file), "--replica", "host") as running:
        yield running


async def until_ready(url: str) -> None:
    limit = aiohttp.ClientTimeout(total=PATIENCE)
    async with asyncio.timeout(PATIENCE), aiohttp.ClientSession(timeout=limit) as session:
        while True:
            try:
                async with session.get(f"{url}/readyz") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)


def pids(log: str, child: str) -> list[int]:
    return [int(pid) for pid in re.findall(rf"{child} runs .*child={child} pid=(\d+)", log)]


def refuses(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


async def test_a_hubs_life(hub: Running, file: Path) -> None:
    listener = await hub.until_announced("listener")
    health = await hub.until_announced("health")
    status = await hub.until_announced("status")
    await until_ready(health)
    await until_ready(status)
    assert not refuses(listener)

    # A signer that is killed comes back at the same listener, and the controller never notices.
    (signer,), (controller,) = pids(hub.log, "signer-0"), pids(hub.log, "controller")
    os.kill(signer, signal.SIGKILL)
    await hub.until_logged("signer-0 ended")
    assert "killed by SIGKILL" in hub.log
    async with asyncio.timeout(PATIENCE):
        while len(pids(hub.log, "signer-0")) < 2 or refuses(listener):
            await asyncio.sleep(0.05)
    assert pids(hub.log, "controller") == [controller]

    # A bad file is refused by every process and changes nothing; SIGHUP asks for it at once.
    text = file.read_text()
    file.write_text(text + "[colour]\n")
    hub.process.send_signal(signal.SIGHUP)
    await hub.until_logged("colour: is not a key the hub knows")
    file.write_text(text.replace("processes = 1", "processes = 2"))
    await hub.until_logged("signer.processes was changed and takes effect after a restart of the hub")
    assert hub.process.returncode is None

    hub.process.send_signal(signal.SIGTERM)
    assert await hub.ended() == 0
    assert refuses(listener)
    assert "was killed" not in hub.log
    assert "Traceback" not in hub.log


async def test_credentials_that_cannot_be_used_end_the_hub_with_2(file: Path) -> None:
    """The controller was started again 96 times; no restart repairs a kubeconfig."""
    text = file.read_text()
    state = 'kind = "kubernetes"\nkubeconfig = "nowhere"\nnamespace = "federation-system"'
    file.write_text(text.replace('directory = "state"', state))
    async with started(file.parent, "hub", "--config", str(file), "--replica", "host") as hub:
        assert await hub.ended() == 2
    assert "nowhere" in hub.log
    assert "cannot use what is configured: everything ends" in hub.log
    assert "it is started again" not in hub.log


async def test_children_do_not_outlive_a_killed_hub(hub: Running) -> None:
    listener = await hub.until_announced("listener")
    hub.process.kill()
    assert await hub.ended() == -signal.SIGKILL
    async with asyncio.timeout(PATIENCE):
        while not refuses(listener):
            await asyncio.sleep(0.05)
    await hub.until_logged("the supervisor is gone: draining")


async def test_a_listener_port_in_use_ends_the_hub_with_an_error(file: Path) -> None:
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{stranger.getsockname()[1]}"
        file.write_text(
            file.read_text().replace(
                '[listener]\nlisten = "127.0.0.1:0"', f'[listener]\nlisten = "{address}"'
            )
        )
        async with started(file.parent, "hub", "--config", str(file)) as hub:
            assert await hub.ended() == 1
            assert f"cannot listen at {address}" in hub.log
            assert "change listener.listen" in hub.log
            assert "Traceback" not in hub.log


async def test_a_signer_alone_says_why_it_is_not_ready(file: Path) -> None:
    """Without a controller there is no generation: the process serves health, and no listener."""
    arguments = ("signer", "--config", str(file), "--health", "127.0.0.1:0", "--log-format", "json")
    async with started(file.parent, *arguments) as signer:
        health = await signer.until_announced("health")
        async with aiohttp.ClientSession() as session, session.get(f"{health}/readyz") as answer:
            assert answer.status == 503
            assert "no bundle" in await answer.text()
        signer.process.send_signal(signal.SIGINT)
        assert await signer.ended() == 0
        assert "listener" not in signer.announced
        assert '"role": "signer"' in signer.log


def specs(text: str, *, listener: Address) -> dict[str, tuple[str, ...]]:
    args = build_parser(["hub"]).parse_args(["hub", "--config", "c.toml", "--log-format", "json"])
    return {
        spec.name: spec.arguments for spec in child_specs(args, good(text), listener=listener, replica="host")
    }


def test_which_processes_are_started() -> None:
    text = with_line('processes = 3\nhealth_listen = "127.0.0.1:9000"', in_table="signer")
    found = specs(text, listener=Address("0.0.0.0", 15443))
    common = ("--config", "c.toml", "--log-format", "json", "--log-level", "info")
    assert list(found) == ["signer-0", "signer-1", "signer-2", "controller"]
    assert found["signer-2"] == (
        *("signer", *common, "--replica", "host-signer-2"),
        *("--listen", "0.0.0.0:15443", "--health", "127.0.0.1:9002"),
    )
    assert found["controller"] == (
        *("controller", *common, "--replica", "host-controller", "--signer-address", "127.0.0.1:15443"),
    )


def test_a_configured_signer_address_is_not_overridden() -> None:
    text = with_line('signer_address = "hub.example:15443"', in_table="controller.proof")
    assert "--signer-address" not in specs(text, listener=Address("0.0.0.0", 15443))["controller"]


def test_one_signer_for_each_core_by_default() -> None:
    found = specs(GOOD, listener=Address("127.0.0.1", 1))
    assert len(found) == cores() + 1


def test_what_several_children_announce_is_printed_once(capsys: pytest.CaptureFixture[str]) -> None:
    printed = Printed()
    for line in ("listener 127.0.0.1:1", "listener 127.0.0.1:1", "status http://127.0.0.1:2"):
        printed(line)
    assert capsys.readouterr().out == "listener 127.0.0.1:1\nstatus http://127.0.0.1:2\n"
