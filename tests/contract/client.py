"""A tiny raw client: no code of the hub's is between these tests and the server."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import secrets
import ssl
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import aiohttp

from tests.support.patience import PATIENCE

JSON = "application/json"
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
PARTIAL = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
PARTIAL_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"

TIMEOUT = PATIENCE
_CONTENT = (
    "/api/v1/namespaces/{}/pods",
    "/api/v1/namespaces/{}/serviceaccounts",
    "/api/v1/namespaces/{}/configmaps",
    "/api/v1/namespaces/{}/secrets",
    "/api/v1/namespaces/{}/events",
    "/apis/coordination.k8s.io/v1/namespaces/{}/leases",
    "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/rolebindings",
    "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/roles",
)


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    headers: Mapping[str, str]
    raw: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.raw)

    @property
    def reason(self) -> str:
        return str(self.json.get("reason", ""))

    @property
    def meta(self) -> dict[str, Any]:
        found: dict[str, Any] = self.json["metadata"]
        return found


@dataclass(slots=True)
class Watcher:
    """A watch under way."""

    response: aiohttp.ClientResponse

    async def next(self, timeout: float = TIMEOUT) -> tuple[str, dict[str, Any]]:
        """The next event's type and object. Raises StopAsyncIteration at the end of the stream."""
        async with asyncio.timeout(timeout):
            line = await self.response.content.readline()
        if not line:
            raise StopAsyncIteration
        event = json.loads(line)
        return event["type"], event["object"]

    async def rest(self) -> list[tuple[str, dict[str, Any]]]:
        """Every event until the server ends the stream."""
        events = []
        while True:
            try:
                events.append(await self.next())
            except StopAsyncIteration:
                return events

    async def until(self, kind: str, name: str) -> dict[str, Any]:
        """The object of the next event of that type and name."""
        while True:
            found, obj = await self.next()
            if (found, obj["metadata"].get("name")) == (kind, name):
                return obj


def ssl_context(config: Mapping[str, Any]) -> ssl.SSLContext:
    """Trust from a kubeconfig's cluster and, where its user has one, the client certificate."""
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    context = ssl.create_default_context(
        cadata=base64.b64decode(cluster["certificate-authority-data"]).decode()
    )
    if "client-certificate-data" in user:
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory) / "client.pem"
            file.touch(mode=0o600)
            parts = (user["client-certificate-data"], user["client-key-data"])
            file.write_bytes(b"\n".join(base64.b64decode(part) for part in parts))
            context.load_cert_chain(file)
    return context


@dataclass(slots=True)
class Api:
    """One server as one user sees it."""

    config: Mapping[str, Any]
    session: aiohttp.ClientSession
    litter: list[str] = field(default_factory=list)

    @classmethod
    @asynccontextmanager
    async def open(cls, config: Mapping[str, Any], *, token: str | None = None) -> AsyncIterator[Self]:
        """With the kubeconfig's own user, or with ``token`` instead (empty: anonymous)."""
        if token is not None:
            user = {"token": token} if token else {}
            config = {**config, "users": [{"name": "other", "user": user}]}
        headers = {"User-Agent": "contract/1.0"}
        if bearer := config["users"][0]["user"].get("token"):
            headers["Authorization"] = f"Bearer {bearer}"
        connector = aiohttp.TCPConnector(ssl=ssl_context(config), limit=100)
        timeout = aiohttp.ClientTimeout(total=TIMEOUT)
        base = config["clusters"][0]["cluster"]["server"]
        async with aiohttp.ClientSession(
            base, connector=connector, headers=headers, timeout=timeout
        ) as session:
            api = cls(config, session)
            yield api
            for path in reversed(api.litter):
                await api.delete(path)

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content_type: str = JSON,
        accept: str = JSON,
        **params: Any,
    ) -> Response:
        headers = {"Accept": accept} | ({"Content-Type": content_type} if body is not None else {})
        raw = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        data = io.BytesIO(raw) if raw else None
        query = {key: str(value) for key, value in params.items()}
        async with self.session.request(method, path, params=query, data=data, headers=headers) as response:
            return Response(response.status, response.headers.copy(), await response.read())

    async def get(self, path: str, **options: Any) -> Response:
        return await self.call("GET", path, **options)

    async def post(self, path: str, body: Any, **options: Any) -> Response:
        return await self.call("POST", path, body, **options)

    async def put(self, path: str, body: Any, **options: Any) -> Response:
        return await self.call("PUT", path, body, **options)

    async def patch(self, path: str, body: Any, content_type: str = MERGE, **options: Any) -> Response:
        return await self.call("PATCH", path, body, content_type=content_type, **options)

    async def apply(self, path: str, body: Any, manager: str = "hub", **options: Any) -> Response:
        return await self.call("PATCH", path, body, content_type=APPLY, fieldManager=manager, **options)

    async def delete(self, path: str, body: Any = None, **options: Any) -> Response:
        return await self.call("DELETE", path, body, **options)

    async def make(self, path: str, body: Any, **options: Any) -> dict[str, Any]:
        """Create something that must succeed."""
        response = await self.post(path, body, **options)
        assert response.status == 201, response.raw
        found: dict[str, Any] = response.json
        return found

    async def make_global(self, path: str, body: Any) -> dict[str, Any]:
        """Create something outside the test's namespace, to be deleted after the test."""
        made = await self.make(path, body)
        self.litter.append(f"{path}/{made['metadata']['name']}")
        return made

    @asynccontextmanager
    async def watch(self, path: str, *, accept: str = JSON, **params: Any) -> AsyncIterator[Watcher]:
        query = {"watch": "true"} | {key: str(value) for key, value in params.items()}
        async with self.session.get(path, params=query, headers={"Accept": accept}) as response:
            assert response.status == 200, await response.read()
            yield Watcher(response)

    async def token(self, namespace: str, account: str, **spec: Any) -> str:
        """A token of a service account; ``spec`` as in TokenRequest."""
        made = await self.make(
            f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token", {"spec": spec}
        )
        found: str = made["status"]["token"]
        return found

    async def review(self, token: str, *audiences: str) -> dict[str, Any]:
        """The status of a TokenReview."""
        spec = {"token": token, "audiences": list(audiences)}
        made = await self.make("/apis/authentication.k8s.io/v1/tokenreviews", {"spec": spec})
        found: dict[str, Any] = made["status"]
        return found


def unique(prefix: str) -> str:
    return f"{prefix}-{secrets.token_hex(4)}"


def config_map(name: str, data: Mapping[str, str] | None = None, **metadata: Any) -> dict[str, Any]:
    head = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, **metadata}}
    return head | ({} if data is None else {"data": dict(data)})


def pod(name: str, account: str, node: str | None = "node-contract") -> dict[str, Any]:
    spec = {"serviceAccountName": account, "containers": [{"name": "app", "image": "app"}]}
    return {"metadata": {"name": name}, "spec": spec | ({"nodeName": node} if node else {})}


async def eventually(question: Callable[[], Awaitable[bool]], timeout: float = 60.0) -> bool:
    """Ask until the answer is yes: authorizers and caches of real servers lag behind their stores."""
    try:
        async with asyncio.timeout(timeout):
            while not await question():
                await asyncio.sleep(0.05)
    except TimeoutError:
        return False
    return True


async def remove_namespace(api: Api, name: str) -> None:
    """Empty a namespace, delete it and finalize it."""
    for path in _CONTENT:
        await api.delete(path.format(name), gracePeriodSeconds=0)
    await api.delete(f"/api/v1/namespaces/{name}")
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}, "spec": {"finalizers": []}}
    await api.put(f"/api/v1/namespaces/{name}/finalize", body)
