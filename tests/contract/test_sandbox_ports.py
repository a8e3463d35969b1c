"""The ports of servers that come and go: exclusive while they are referenced, free afterwards."""

from __future__ import annotations

import asyncio
import copy
import pickle
import socket
from pathlib import Path

from federation_sandbox.cluster import SandboxCluster
from federation_sandbox.ports import free_port


def test_no_port_is_given_twice_while_it_is_kept() -> None:
    kept = [free_port() for _ in range(200)]
    assert len(set(kept)) == 200


def test_outgoing_connections_are_not_numbered_from_it() -> None:
    outgoing = Path("/proc/sys/net/ipv4/ip_local_port_range")
    first = int(outgoing.read_text().split()[0]) if outgoing.exists() else 32768
    assert all(1024 <= free_port() < max(first, 17408) for _ in range(50))


def test_a_port_that_a_server_holds_is_passed_over(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    kept = free_port()
    monkeypatch.setattr("federation_sandbox.ports.secrets.randbelow", lambda _: 0)
    number = int(kept)
    del kept
    with socket.socket() as server:
        server.bind(("127.0.0.1", number))
        assert free_port(lowest=number) != number
    assert free_port(lowest=number) == number


def test_a_server_listens_there_and_its_copy_is_a_mere_number() -> None:
    kept = free_port()
    with socket.create_server(("127.0.0.1", kept)) as server:
        assert server.getsockname()[1] == kept
    for made in (copy.copy(kept), copy.deepcopy(kept), pickle.loads(pickle.dumps(kept))):
        assert type(made) is int
        assert made == kept
    assert f"127.0.0.1:{kept}" == f"127.0.0.1:{int(kept)}"


async def test_a_cluster_that_goes_away_cuts_connections_whose_handshake_is_not_over() -> None:
    async with SandboxCluster("east") as cluster:
        host, port = cluster.url.removeprefix("https://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        await cluster.down()
        async with asyncio.timeout(30):  # a handshake may take a minute
            assert await reader.read() == b""
        writer.close()
