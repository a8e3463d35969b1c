"""The hub that is attacked, its members, its honest callers, and what is measured of them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from cryptography.hazmat.primitives.asymmetric import ec

from federation.core.identity import ServiceAccountRef, SpiffeId
from federation.core.istio.ca_protocol import IstioCertificateRequest, encode_request
from federation.runtime.clock import SystemClock
from federation_sandbox.box import SERVER_NAME, Box, DevelopmentCa, open_members
from federation_sandbox.mesh import make_request
from federation_sandbox.ports import free_port
from tests.attack.attacks import HONEST, HOSTILE, VICTIM, Attack, Step
from tests.bench.rig import Child, child

NAMESPACE = "shop"
PODS = 24  # of each honest cluster
AGENTS = 16
RATE = 50.0  # calls a second on established connections
FRESH = 3.0  # calls a second on new connections
POLL_INTERVAL = 0.5  # seconds between two requests to status and health
PATIENCE = 3.0  # seconds that a kubelet waits for an answer
EDITED = 150  # namespaces whose bundle is edited, each once in a run
LONGEST_REPAIR = 20.0
MOST_CONNECTIONS = 1000  # at the listener: less than an attacker of this machine can open
REPORTED_WITHIN = 25.0  # seconds within which status has to report the attack


@dataclass
class Seen:
    """What was measured in one window of time."""

    calls: dict[str, Any] = field(default_factory=dict)
    repairs: list[float] = field(default_factory=list)
    status: list[float] = field(default_factory=list)
    missed: int = 0

    @property
    def refused(self) -> int:
        return int(self.calls["standing"]["refused"]) + int(self.calls["fresh"]["refused"])

    @property
    def p99(self) -> float:
        return float(self.calls["standing"]["p99"])


class Field:
    """One running hub."""

    def __init__(self, box: Box, honest: Child, members: dict[str, Child], health: str) -> None:
        self.box = box
        self._honest = honest
        self._members = members
        self._health = health
        self._edited = 0
        self._observed: dict[str, Any] = {}
        self._asking = {id(each): asyncio.Lock() for each in {id(c): c for c in members.values()}.values()}

    async def ask(self, step: Step) -> Any:
        """Have a member do something."""
        arguments = dict(step.arguments)
        if step.keys_of:
            arguments["keys"] = await self.ask(Step(step.keys_of, "keys"))
        process = self._members[step.cluster]
        order = {"cluster": step.cluster, "do": step.do, "arguments": arguments}
        async with self._asking[id(process)]:
            return await asyncio.to_thread(process.order, order)

    async def measure(self, seconds: float) -> Seen:
        """Measure honest calls, repairs and answers of status for this many seconds."""
        seen, end = Seen(), time.monotonic() + seconds
        order = {"seconds": seconds, "rate": RATE, "fresh": FRESH}
        async with asyncio.TaskGroup() as group:
            calls = group.create_task(asyncio.to_thread(self._honest.order, order))
            group.create_task(self._repair(seen, end))
            group.create_task(self._poll(seen, end))
        seen.calls = calls.result()
        return seen

    async def _repair(self, seen: Seen, end: float) -> None:
        while time.monotonic() < end:
            namespace = f"edited-{self._edited % EDITED:03}"
            self._edited += 1
            seen.repairs.append(await self.ask(Step("west", "repair", {"namespace": namespace})))
            await asyncio.sleep(1.0)

    async def _poll(self, seen: Seen, end: float) -> None:
        addresses = [f"{self.box.status_url}/healthz", f"http://{self._health}/healthz"]
        while time.monotonic() < end:
            began = time.monotonic()
            if await answered(f"{self.box.status_url}/api/v1/status", limit=10.0):
                seen.status.append(time.monotonic() - began)
            else:
                seen.missed += 1
            for url in addresses:
                seen.missed += not await answered(url, limit=PATIENCE)
            await asyncio.sleep(POLL_INTERVAL)

    async def findings(self) -> set[tuple[str, str]]:
        """The code and detail of every finding in status."""
        try:
            status = await self.box.get("/api/v1/status")
        except (aiohttp.ClientError, TimeoutError):
            return set()
        return {(item["code"], item["detail"]) for item in status["attention"]}

    async def reports(self, attack: Attack, before: set[tuple[str, str]], *, within: float) -> bool:
        """Whether status reports the attack, now or within so many seconds."""
        end = time.monotonic() + within
        while True:
            now = await self.findings()
            # What a member does may be reported already, because of an earlier attack; callers are counted from zero.
            if any(code in attack.findings for code, _ in (now if attack.begin else now - before)):
                return True
            if time.monotonic() > end:
                return False
            await asyncio.sleep(POLL_INTERVAL)

    async def tokens_shown_to_the_hostile_member(self) -> int:
        """How many TokenReviews its API server has received."""
        return int(await self.ask(Step(HOSTILE, "reviews")))

    def load(self, attack: Attack) -> dict[str, Any]:
        """The target, as the process of the attackers reads it."""
        return self._observed | {
            "attack": attack.load,
            "listener": self.box.listener,
            "server_name": SERVER_NAME,
            "trust": self.box.ca.root.pem.decode(),
            "victim": VICTIM,
            "hostile": HOSTILE,
            "http_addresses": [f"127.0.0.1:{self.box.status_port}", self._health],
        }

    def leak(self, token: str, message: str) -> None:
        """Give the attackers the token and the request of an honest caller, to forge theirs from."""
        self._observed = {"token": token, "message": message}


async def answered(url: str, *, limit: float) -> bool:
    """Whether a new connection gets an answer in time."""
    timeout = aiohttp.ClientTimeout(total=limit)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as answer:
            await answer.read()
            return answer.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


@contextlib.asynccontextmanager
async def open_field(directory: Path) -> AsyncIterator[Field]:
    """A hub of one signer and a controller that is ready, proved, and called by its honest callers."""
    clock = SystemClock()
    async with contextlib.AsyncExitStack() as stack:
        clusters = ("tests.attack.clusters", str(directory))
        honest = stack.enter_context(child(directory, "honest-clusters", *clusters, "0", *HONEST))
        hostile = stack.enter_context(child(directory, "hostile-cluster", *clusters, "5", HOSTILE))
        for process in (honest, hostile):
            await asyncio.to_thread(process.answer)
        processes = dict.fromkeys(HONEST, honest) | {HOSTILE: hostile}
        kubeconfigs = {name: directory / f"{name}-admin.kubeconfig" for name in processes}
        members = await stack.enter_async_context(open_members(kubeconfigs, clock=clock))
        ca = DevelopmentCa.create(directory / "ca", name="attack", clock=clock)
        health = f"127.0.0.1:{free_port()}"
        box = Box(directory=directory, members=members, ca=ca, clock=clock, proof_interval=5.0)
        box.signer_lines = f'health_listen = "{health}"'
        box.listener_lines = f"max_connections = {MOST_CONNECTIONS}"
        await box.register()
        stack.push_async_callback(box.stop_hub)
        await box.start_hub()
        await box.wait_ready(limit=120)
        calls: list[dict[str, str]] = []
        identity = SpiffeId(box.trust_domain, ServiceAccountRef(NAMESPACE, "caller"))
        key = ec.generate_private_key(ec.SECP256R1())
        request = IstioCertificateRequest(
            csr=make_request(identity, key), validity_seconds=3600, metadata={"CertSigner": ""}
        )
        message = base64.b64encode(encode_request(request)).decode()
        for name in HONEST:
            order = {
                "cluster": name,
                "do": "tokens",
                "arguments": {"count": PODS, "namespace": NAMESPACE},
            }
            tokens = await asyncio.to_thread(honest.order, order)
            for number, token in enumerate(tokens):
                said = (name, name, "", "Kubernetes")[number % 4]  # half name their cluster
                calls.append({"token": token, "cluster_id": said, "message": message})
        spread = {"cluster": "west", "do": "spread", "arguments": {"namespaces": EDITED}}
        await asyncio.to_thread(honest.order, spread)
        for name in HONEST:
            await box.wait_for_trust(name, NAMESPACE)
        await box.wait_for_trust("west", f"edited-{EDITED - 1:03}")
        await box.wait_proved(limit=120)
        described = {
            "host": "127.0.0.1",
            "port": box.listener_port,
            "server_name": SERVER_NAME,
            "trust": ca.root.pem.decode(),
            "agents": AGENTS,
            "calls": calls,
        }
        file = directory / "honest.json"
        file.touch(mode=0o600)
        file.write_text(json.dumps(described))
        callers = stack.enter_context(child(directory, "honest-callers", "tests.attack.honest", str(file)))
        await asyncio.to_thread(callers.answer)
        made = Field(box, callers, processes, health)
        made.leak(calls[0]["token"], message)
        yield made
