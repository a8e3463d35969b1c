"""A server that answers like a Kubernetes API and does nothing else, for measuring clients of one.

`python -m tests.bench.canned DIRECTORY` serves over TLS until it is terminated, and writes its kubeconfig. A
PATCH is answered with the ConfigMap (or its metadata, where only that was asked for), a list with nothing, and a
watch with EVENTS objects as fast as they are read. Everything is encoded beforehand: what is measured against
it is the client.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any, cast

import uvloop

from federation_sandbox.apiserver.authentication import ClusterCa, server_context
from federation_sandbox.cluster import kubeconfig

EVENTS = 20_000
BUNDLE = "".join(f"{number:064x}\n" for number in range(80))  # 5 KiB
CHUNK = 100  # events written at once
VERSION = 1_000_000


def metadata(name: str, namespace: str, number: int) -> dict[str, Any]:
    """About what a real API server sends, managed fields included."""
    fields = {"f:data": {"f:root-cert.pem": {}}, "f:metadata": {"f:labels": {"f:istio.io/config": {}}}}
    return {
        "name": name,
        **({"namespace": namespace} if namespace else {}),
        "uid": f"{number:08x}-0000-4000-8000-000000000000",
        "resourceVersion": str(VERSION + number),
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "labels": {"istio.io/config": "true"},
        "managedFields": [
            {
                "manager": "federation-hub",
                "operation": "Apply",
                "apiVersion": "v1",
                "time": "2026-01-01T00:00:00Z",
                "fieldsType": "FieldsV1",
                "fieldsV1": fields,
            }
        ],
    }


def config_map(number: int) -> dict[str, Any]:
    return {
        "kind": "ConfigMap",
        "apiVersion": "v1",
        "metadata": metadata("istio-ca-root-cert", f"team-{number:05}", number),
        "data": {"root-cert.pem": BUNDLE},
    }


def partial(number: int) -> dict[str, Any]:
    return {
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata(f"team-{number:05}", "", number),
    }


def namespace(number: int) -> dict[str, Any]:
    return {
        "kind": "Namespace",
        "apiVersion": "v1",
        "metadata": metadata(f"team-{number:05}", "", number),
        "spec": {"finalizers": ["kubernetes"]},
        "status": {"phase": "Active"},
    }


def watch_line(item: dict[str, Any]) -> bytes:
    return json.dumps({"type": "ADDED", "object": item}, separators=(",", ":")).encode() + b"\n"


def answer(body: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def chunk(body: bytes) -> bytes:
    return f"{len(body):x}\r\n".encode() + body + b"\r\n"


class Canned:
    """The answers, encoded once."""

    def __init__(self) -> None:
        self.patched = answer(json.dumps(config_map(1)).encode())
        self.patched_metadata = answer(json.dumps(partial(1)).encode())
        listed = {"metadata": {"resourceVersion": str(VERSION)}, "items": []}
        self.lists = {
            kind: answer(json.dumps({"kind": f"{kind}List", "apiVersion": "v1", **listed}).encode())
            for kind in ("ConfigMap", "Namespace")
        }
        makers = {"ConfigMap": config_map, "Namespace": namespace, "partial": partial}
        self.watches = {
            kind: [
                chunk(b"".join(watch_line(make(number)) for number in range(start, start + CHUNK)))
                for start in range(1, EVENTS, CHUNK)
            ]
            for kind, make in makers.items()
        }


class Connection(asyncio.Protocol):
    """HTTP/1.1, one request after the other."""

    def __init__(self, canned: Canned) -> None:
        self._canned = canned
        self._buffer = bytearray()
        self._writable = asyncio.Event()
        self._writable.set()
        self._transport: asyncio.Transport | None = None
        self._watch: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._watch is not None:
            self._watch.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._buffer[:end])
            at = head.lower().find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._buffer) < end + 4 + length:
                return
            del self._buffer[: end + 4 + length]
            self._answer(head)

    def _answer(self, head: bytes) -> None:
        assert self._transport is not None
        line = head.split(b"\r\n", 1)[0]
        only_metadata = b"PartialObjectMetadata" in head
        if line.startswith(b"PATCH"):
            self._transport.write(self._canned.patched_metadata if only_metadata else self._canned.patched)
            return
        kind = "ConfigMap" if b"/configmaps" in line else "Namespace"
        if b"watch=" in line:
            chunks = self._canned.watches["partial" if only_metadata else kind]
            self._watch = asyncio.get_running_loop().create_task(self._stream(chunks))
        else:
            self._transport.write(self._canned.lists[kind])

    async def _stream(self, chunks: list[bytes]) -> None:
        """Every event, then silence: a watch that ended would be opened again."""
        assert self._transport is not None
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        self._transport.write(head)
        for part in chunks:
            await self._writable.wait()
            self._transport.write(part)


async def serve(directory: Path) -> None:
    canned, ca = Canned(), ClusterCa("canned")
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(canned), "127.0.0.1", 0, ssl=server_context(ca)
    )
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    document = kubeconfig(cluster="canned", server=url, ca_pem=ca.pem, user="bench", credential="bench")
    path = directory / "canned.kubeconfig"
    path.touch(mode=0o600)
    path.write_text(json.dumps(document))
    print(json.dumps({"ready": url}), flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1])))
