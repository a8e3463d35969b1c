"""Credentials of ten minutes on real API servers: renewals under traffic, one refused, one whose answer is lost.

    FEDERATION_REAL_KUBECONFIGS=a.kubeconfig:b.kubeconfig python -m tests.e2e.renewals --renew-after 0.3

Two members, two signers that share a credential and one controller, each role a process with the rights of
``manifests/hub``. Their kubeconfigs are mounts of Secrets in the first cluster that follow a minute late, as a
kubelet's do. Certificates are asked for all the time, each attested by a TokenReview with the signer's credential, and
namespaces are made that get the bundle by the controller's. The second member is reached through a proxy that loses
the answers to one renewal of the controller, and has a right taken away for a while. Exit code 0: no call failed, the
warnings came, and were gone in the end.

kube-apiserver gives no token for less than ten minutes, so ``--renew-after`` has the roles renew at that part of the
life instead of two thirds; the tokens of the start end on the way all the same.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import ssl
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from aiohttp import web

from federation.kubernetes.role_kubeconfig import ServerConnection, role_credential
from federation.kubernetes.token_life import RENEWED_AFTER, token_life
from federation.runtime.clock import SystemClock
from federation_sandbox.apiserver.authentication import ClusterCa, server_context
from federation_sandbox.box import Box, DevelopmentCa
from federation_sandbox.cluster import MemberWorld
from federation_sandbox.ports import free_port
from tests.e2e.conftest import REAL, members_of

ROLES = ("signer", "controller")
SYSTEM = "federation-system"
MANIFESTS = Path(__file__).resolve().parents[2] / "manifests"
LIFE = 600
LAG = 60.0  # seconds by which a mount follows its Secret
START = """import sys, federation.kubernetes.token_life as life
life.RENEWED_AFTER = float(sys.argv.pop(1))
from federation.cli.main import main
sys.exit(main())"""
PASSED_ON = ("accept", "authorization", "content-type", "user-agent")


@dataclass
class Figures:
    """What was counted."""

    calls: int = 0
    failed: list[str] = field(default_factory=list)
    namespaces: int = 0
    slowest: float = 0.0
    renewals: dict[str, int] = field(default_factory=dict)
    warnings: dict[str, list[float]] = field(default_factory=dict)
    """First and last second at which each was seen."""
    lost: int = 0
    seconds: float = 0.0


class LossyProxy:
    """An API server's TLS ends here, and answers to requests that hold ``losing`` are not handed on."""

    def __init__(self, admin: Path) -> None:
        self.ca = ClusterCa("proxy")
        self.port = free_port()
        self.losing = ""
        self.lost = 0
        cluster = yaml.safe_load(admin.read_text())["clusters"][0]["cluster"]
        self._server = cluster["server"]
        self._tls = ssl.create_default_context(
            cadata=base64.b64decode(cluster["certificate-authority-data"]).decode()
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[LossyProxy]:
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as self._out:
            app = web.Application(client_max_size=16 * 1024 * 1024)
            app.router.add_route("*", "/{path:.*}", self._pass_on)
            runner = web.AppRunner(app, access_log=None)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", self.port, ssl_context=server_context(self.ca)).start()
            try:
                yield self
            finally:
                await runner.cleanup()

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        headers = {name: request.headers[name] for name in PASSED_ON if name in request.headers}
        async with self._out.request(
            request.method,
            f"{self._server}{request.raw_path}",
            headers=headers,
            data=await request.read(),
            ssl=self._tls,
            skip_auto_headers=("Content-Type", "User-Agent"),
        ) as answer:
            if self.losing and self.losing in request.path:
                await answer.read()
                self.lost += 1
                if request.transport is not None:
                    request.transport.abort()
                return web.Response()
            response = web.StreamResponse(status=answer.status)
            for name in ("Content-Type", "Retry-After", "Date"):
                if name in answer.headers:
                    response.headers[name] = answer.headers[name]
            with contextlib.suppress(ConnectionError):  # a watch that its client has ended
                await response.prepare(request)
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
                await response.write_eof()
            return response


class Mounts:
    """The Secret of each role in the hub's cluster, and the folders that follow it."""

    def __init__(self, home: MemberWorld, directory: Path) -> None:
        self._home = home
        self._directory = directory
        self.seen: dict[str, set[float]] = {}

    def folder(self, role: str) -> Path:
        return self._directory / "mounts" / role

    async def make(self, role: str, data: dict[str, bytes]) -> None:
        encoded = {key: base64.b64encode(value).decode() for key, value in data.items()}
        meta = {"name": f"federation-{role}-kubeconfigs", "namespace": SYSTEM}
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": "Opaque", "data": encoded}
        await self._home.session.request(
            "PATCH",
            f"/api/v1/namespaces/{SYSTEM}/secrets/{meta['name']}",
            params={"fieldManager": "renewals", "force": "true"},
            body=json.dumps(secret).encode(),
            content_type="application/apply-patch+yaml",
        )
        await self.follow(role)

    async def read(self, role: str) -> dict[str, bytes]:
        path = f"/api/v1/namespaces/{SYSTEM}/secrets/federation-{role}-kubeconfigs"
        found = json.loads(await self._home.session.get(path))
        return {key: base64.b64decode(value) for key, value in found["data"].items()}

    async def look(self) -> None:
        """Count the tokens that were stored."""
        for role in ROLES:
            for key, value in (await self.read(role)).items():
                if key.endswith(".token"):
                    of = f"{role} for {key.removesuffix('.token')}"
                    self.seen.setdefault(of, set()).add(token_life(value.decode()).issued)

    async def follow(self, role: str) -> None:
        data, folder = await self.read(role), self.folder(role)
        version = folder / f"..{uuid.uuid4().hex[:8]}"
        version.mkdir(parents=True)
        for key, value in data.items():
            (version / key).write_bytes(value)
        (folder / "..next").symlink_to(version.name)
        (folder / "..next").replace(folder / "..data")
        for key in data:
            if not (folder / key).is_symlink():
                (folder / key).symlink_to(f"..data/{key}")

    async def keep(self) -> None:
        while True:
            await asyncio.sleep(LAG)
            for role in ROLES:
                await self.follow(role)


async def until(wanted: Any, limit: float, what: str) -> None:
    try:
        async with asyncio.timeout(limit):
            while not await wanted():
                await asyncio.sleep(1.0)
    except TimeoutError:
        raise SystemExit(f"did not come within {limit:g} s: {what}") from None


async def run(args: argparse.Namespace, directory: Path) -> Figures:
    figures, clock = Figures(), SystemClock()
    async with contextlib.AsyncExitStack() as stack:
        members = await stack.enter_async_context(members_of("real", directory, 2))
        proxy = await stack.enter_async_context(LossyProxy(REAL[1]).running())
        ca = DevelopmentCa.create(directory / "ca", name="renewals", clock=clock)
        box = Box(directory=directory, members=members, ca=ca, clock=clock, proof_interval=2.0)
        box.cluster_lines = 'attestation = "token-review"'
        await box.register()
        home = members["east"].world
        await home.apply(
            item for item in yaml.safe_load_all((MANIFESTS / "hub" / "kubeconfigs.yaml").read_text()) if item
        )
        mounts = Mounts(home, directory)
        began = time.monotonic()
        for role in ROLES:
            data: dict[str, bytes] = {}
            for name, member in members.items():
                cluster = yaml.safe_load(member.world.kubeconfig.read_text())["clusters"][0]["cluster"]
                way = ServerConnection(
                    cluster["server"], base64.b64decode(cluster["certificate-authority-data"])
                )
                if name == "west":
                    way = ServerConnection(f"https://127.0.0.1:{proxy.port}", proxy.ca.pem)
                token = await member.world.token(SYSTEM, f"federation-{role}", seconds=LIFE)
                made = role_credential(
                    way, cluster=name, account=f"federation-{role}", token=token, name=name
                )
                data |= {name: made.kubeconfig, f"{name}.token": made.token}
            await mounts.make(role, data)
        await mounts.look()
        text = box.config_file.read_text()
        for role in ROLES:
            for name in members:
                text = text.replace(
                    str(directory / f"{name}-{role}.kubeconfig"), str(mounts.folder(role) / name)
                )
        processes = []
        log = stack.enter_context((directory / "hub.log").open("ab"))
        for role, replica in (("signer", "signer-0"), ("signer", "signer-1"), ("controller", "controller-0")):
            place = directory / role
            if not place.exists():
                place.mkdir()
                await home.write_role_kubeconfig(
                    place / "home.kubeconfig", service_account=f"federation-{role}"
                )
                secrets = f'\n[kubeconfig_secrets]\nnamespace = "{SYSTEM}"\nkubeconfig = "home.kubeconfig"\n'
                own = text.replace('directory = "state"', f'directory = "{directory / "state"}"')
                (place / "clusters.toml").write_text(own + secrets)
            command = [sys.executable, "-c", START, str(args.renew_after), role]
            command += ["--config", str(place / "clusters.toml"), "--replica", replica]
            processes.append(await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log))
        try:
            await box.wait_ready(limit=180)
            await box.wait_proved(limit=180)
            unique = uuid.uuid4().hex[:6]
            workloads = [
                await box.workload(name, f"shop-{unique}-{i}", "frontend")
                for name in members
                for i in range(args.workloads)
            ]
            print(f"ready after {time.monotonic() - began:.0f} s", flush=True)

            async def call(workload: Any) -> None:
                while True:
                    at = time.monotonic()
                    try:
                        await workload.renew()
                    except Exception as error:
                        figures.failed.append(f"{at - began:.0f} s: {error!r}"[:300])
                    figures.calls += 1
                    figures.slowest = max(figures.slowest, time.monotonic() - at)
                    await asyncio.sleep(args.pause)

            async def publish() -> None:
                while True:
                    name = f"made-{unique}-{figures.namespaces}"
                    for member in members:
                        await members[member].world.add_namespace(name)
                    for member in members:
                        try:
                            await box.wait_for_trust(member, name, limit=30)
                        except Exception as error:
                            figures.failed.append(f"{time.monotonic() - began:.0f} s: {error!r}"[:300])
                    figures.namespaces += 1
                    await asyncio.sleep(5)

            async def watch() -> None:
                while True:
                    with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                        now = time.monotonic() - began
                        for item in (await box.get("/api/v1/status"))["attention"]:
                            if item["code"].startswith("credential_"):
                                who = item["detail"].split("'s credential")[0].removeprefix("the ")
                                what = f"{item['code']} of the {who} for {item['where']}"
                                figures.warnings.setdefault(what, [now, now])[1] = now
                                if what not in shown:
                                    shown.add(what)
                                    print(
                                        f"{now:6.0f} s  {item['severity']}: {item['detail'][:220]}",
                                        flush=True,
                                    )
                    await mounts.look()
                    await asyncio.sleep(2)

            shown: set[str] = set()
            tasks = [asyncio.create_task(call(each)) for each in workloads]
            tasks += [asyncio.create_task(each) for each in (publish(), watch(), mounts.keep())]

            async def renewed(times: int, of: str = "") -> bool:
                return all(len(seen) > times for name, seen in mounts.seen.items() if of in name)

            def warned(code: str) -> bool:
                seen = figures.warnings.get(code, [0, -1e9])
                return time.monotonic() - began - seen[1] < 10

            async def clear() -> bool:
                return not any(warned(f"credential_not_renewed of the {role} for west") for role in ROLES)

            async def of_signer() -> bool:
                return warned("credential_not_renewed of the signer for west")

            async def of_controller() -> bool:
                return warned("credential_not_renewed of the controller for west")

            path = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{SYSTEM}/rolebindings/federation-signer-tokens"
            west = members["west"].world
            await until(lambda: renewed(1), LIFE, "a first renewal of each")
            print(f"{time.monotonic() - began:6.0f} s  all were renewed once", flush=True)
            await west.delete(path)
            await until(of_signer, LIFE, "a warning that the signer's is not renewed")
            await asyncio.sleep(20)
            await west.apply(
                item
                for item in yaml.safe_load_all((MANIFESTS / "member" / "own-tokens.yaml").read_text())
                if item
            )
            print(f"{time.monotonic() - began:6.0f} s  the right was given back", flush=True)
            await until(clear, LIFE, "the end of the warning")
            await until(lambda: renewed(2), LIFE, "a second renewal of each")
            print(f"{time.monotonic() - began:6.0f} s  all were renewed twice", flush=True)
            proxy.losing = "serviceaccounts/federation-controller/token"
            await until(of_controller, LIFE, "a warning that the controller's is not renewed")
            proxy.losing = ""
            figures.lost = proxy.lost
            print(f"{time.monotonic() - began:6.0f} s  {proxy.lost} answers were lost", flush=True)
            await until(clear, LIFE, "the end of the warning")
            await until(lambda: renewed(3), LIFE, "a third renewal of each")
            while time.monotonic() - began < LIFE + 90:  # the tokens of the start have ended
                await asyncio.sleep(1)
            await box.wait_proved()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            left = (await box.get("/api/v1/status"))["attention"]
            figures.failed += [f"left: {item}" for item in left if item["code"].startswith("credential_")]
            figures.renewals = {name: len(seen) - 1 for name, seen in mounts.seen.items()}
            figures.seconds = time.monotonic() - began
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                await process.wait()
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--renew-after", type=float, default=RENEWED_AFTER, metavar="PART")
    parser.add_argument("--workloads", type=int, default=4, help="in each member (default: 4)")
    parser.add_argument(
        "--pause", type=float, default=0.5, help="seconds between calls of one (default: 0.5)"
    )
    parser.add_argument("--directory", type=Path, help="where logs stay (default: nowhere)")
    args = parser.parse_args()
    if len(REAL) < 2:
        raise SystemExit("FEDERATION_REAL_KUBECONFIGS has to name two API servers")
    with tempfile.TemporaryDirectory() as temporary:
        directory = args.directory or Path(temporary)
        directory.mkdir(parents=True, exist_ok=True)
        figures = asyncio.run(run(args, directory))
    print(json.dumps(figures.__dict__, indent=1))
    return 1 if figures.failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
