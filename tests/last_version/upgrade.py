"""A running hub is exchanged for this version and back, process by process, by the code of both versions.

``python -m tests.last_version.upgrade --old DIR``, where DIR is a work tree of the last version (``git worktree add
DIR TAG``); its requirements have to be those of this environment. Three clusters in a box; two signers, one
controller. Certificates are asked for all the time, with the attempts that Istio's agents make, and handshakes go on
between all clusters. The last version begins a rotation of the root. Then

1. in PUBLISHING one role is exchanged for this version: both versions run beside one another;
2. from CANARY on the other one is exchanged as well: all is of this version;
3. in ACTIVE the first role goes back, and then the other one: the last version has the rotation end;
4. at rest everything is exchanged for this version once more, and nothing that is published may be written again.

``--first`` says which role is first. Exit code 0: no call and no handshake failed, the rotation ended, every pair is
proved, and no document was damaged for any of the processes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp

from federation_sandbox import demo
from federation_sandbox.box import ROOT_CONFIG_MAP, Box
from federation_sandbox.demo import sandbox_members
from federation_sandbox.mesh import Workload
from federation_sandbox.ports import free_port
from tests.last_version import mesh
from tests.last_version.scenario import operate

NEW: Final = Path(__file__).resolve().parents[2]
FORMER_NAMES: Final = {"[listener]": "[door]"}
"""Of the configuration, which both versions have to read: what the last one calls otherwise. Empty it at a release."""

SIGNERS: Final = 2
LIMIT: Final = 240.0
PAUSE: Final = 0.2  # seconds between two calls of one workload
BESIDE: Final = 4.0  # seconds for which versions run beside one another at least


@dataclass
class Figures:
    """What was counted."""

    calls: int = 0
    slowest: float = 0.0
    failed: list[str] = field(default_factory=list)
    handshakes: int = 0
    steps: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    written_again: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def went_well(self) -> bool:
        """Whether nothing failed."""
        return not (self.failed or self.damaged or self.written_again)


@dataclass
class Hub:
    """The processes of the hub, each of one of the two versions."""

    box: Box
    old: Path
    running: dict[str, tuple[str, asyncio.subprocess.Process]] = field(default_factory=dict)
    status_ports: dict[str, int] = field(default_factory=dict)
    started: int = 0

    async def start(self, role: str, tree: Path) -> str:
        """One more process of that role and version; its name."""
        name = f"{role}-{self.started}"
        self.started += 1
        options = ["--replica", name, "--config", str(self.box.config_file)]
        if role == "controller":
            self.status_ports[name] = free_port()
            options += ["--status", f"127.0.0.1:{self.status_ports[name]}"]
        environment = {**os.environ, "PYTHONPATH": str(tree)}
        with (self.box.directory / f"{name}.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "federation", role, *options),
                cwd=self.box.directory,  # else the module would be taken from where this runs
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.running[name] = (role, process)
        return name

    async def end(self, name: str) -> None:
        """Have it end in good order, as a pod is ended."""
        _, process = self.running.pop(name)
        if process.returncode is None:
            process.terminate()
        await process.wait()

    async def require_last_version(self) -> None:
        """End here where the last version's process would not be of its own code."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", "import federation; print(federation.__file__)"),
            cwd=self.box.directory,
            env={**os.environ, "PYTHONPATH": str(self.old)},
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
        if self.old not in Path(output.decode().strip()).parents:
            raise SystemExit(f"{self.old} holds no code of the hub: {output.decode().strip()} is taken")

    async def exchange(self, role: str, tree: Path) -> None:
        """One process after the other, each once the new one is ready: what a Deployment does."""
        for name in [name for name, (its, _) in self.running.items() if its == role]:
            other = await self.start(role, tree)
            if role == "controller":
                await self._until(self._status, other, "answers")
                await self.end(name)
                self.box.status_port = self.status_ports[other]
                await self._until(self._leads, other, "leads")
            else:
                await self._until(self._signs, other, "is ready")
                await self.end(name)

    async def _until(self, wanted: Callable[[str], Awaitable[Any]], name: str, what: str) -> None:
        try:
            async with asyncio.timeout(LIMIT):
                while True:
                    with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                        if await wanted(name):
                            return
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise SystemExit(f"did not come in {LIMIT:g} s: {name} {what}") from None

    async def _status(self, name: str) -> Any:
        url = f"http://127.0.0.1:{self.status_ports[name]}/api/v1/status"
        timeout = aiohttp.ClientTimeout(total=10)
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as answer:
            return await answer.json()

    async def _leads(self, name: str) -> bool:
        seen = (await self._status(name))["controllers"]
        return {each["replica"] for each in seen if each["leader"]} == {name}

    async def _signs(self, name: str) -> bool:
        seen = (await self.box.get("/api/v1/status"))["signers"]
        return any(each["replica"] == name and each["ready"] for each in seen)

    async def stop(self) -> None:
        """End them all."""
        for name in list(self.running):
            await self.end(name)

    def damaged(self) -> list[str]:
        """Lines of the logs that say that a document of the other version cannot be used."""
        return [
            f"{log.stem}: {line[:300]}"
            for log in sorted(self.box.directory.glob("*.log"))
            for line in log.read_text("utf-8", errors="replace").splitlines()
            if "damaged" in line or "cannot be used" in line or "Traceback" in line
        ]


async def keep_calling(workload: Workload, hub: Hub, figures: Figures) -> None:
    """A certificate after the other; what fails after all attempts is kept."""
    while True:
        began = time.monotonic()
        try:
            await workload.renew()
        except Exception as error:
            figures.failed.append(f"{workload.cluster_id}, {sorted(hub.running)}: {error!r}"[:400])
        figures.calls += 1
        figures.slowest = max(figures.slowest, time.monotonic() - began)
        await asyncio.sleep(PAUSE)


@contextlib.asynccontextmanager
async def callers(hub: Hub, figures: Figures, count: int) -> AsyncIterator[None]:
    """Calls and handshakes while the context is entered."""
    box, steady, busy = hub.box, {}, []
    for name in mesh.CLUSTERS:
        workload = await box.workload(name, mesh.NAMESPACE, mesh.ACCOUNT)
        await workload.renew()
        steady[name] = [workload]
        busy += [await box.workload(name, mesh.NAMESPACE, f"caller-{each}") for each in range(count)]
    async with demo.busy(steady, box, figures.failed.append) as traffic, asyncio.TaskGroup() as group:
        tasks = [group.create_task(keep_calling(each, hub, figures)) for each in busy]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            figures.handshakes = traffic.tried
            figures.failed += traffic.failures


async def published(box: Box) -> dict[str, str]:
    """The version of each published bundle, by cluster and namespace."""
    found = {}
    for name, member in box.members.items():
        assert member.sandbox is not None
        for item in member.sandbox.objects("configmaps"):
            if item["metadata"]["name"] == ROOT_CONFIG_MAP:
                found[f"{name}/{item['metadata']['namespace']}"] = item["metadata"]["resourceVersion"]
    return found


async def run(args: argparse.Namespace, directory: Path) -> Figures:
    """The whole of it."""
    figures, began = Figures(), time.monotonic()
    async with sandbox_members(directory, mesh.CLUSTERS, clock=mesh.CLOCK) as members:
        box = await mesh.open_box(directory, members)
        text = box.config_file.read_text("utf-8")
        for name, former in FORMER_NAMES.items():
            text = text.replace(name, former)
        box.config_file.write_text(text, "utf-8")
        hub = Hub(box, args.old.resolve())
        first = args.first
        second = "controller" if first == "signer" else "signer"

        async def state() -> str:
            with contextlib.suppress(aiohttp.ClientError, KeyError, TypeError):
                return str((await box.get("/api/v1/rotation"))["state"])
            return ""

        async def reach(*states: str) -> None:
            async with asyncio.timeout(LIMIT):
                while await state() not in states:
                    await asyncio.sleep(0.1)

        async def step(what: str) -> None:
            line = f"{time.monotonic() - began:6.1f} s  {await state() or 'at rest':12}  {what}"
            figures.steps.append(line)
            print(f"{line}  ({figures.calls} calls, {len(figures.failed)} failures)", flush=True)

        async def exchange(role: str, tree: Path) -> None:
            version = "this version" if tree == NEW else "the last version"
            await step(f"the {role} is being exchanged for {version}")
            await hub.exchange(role, tree)
            await step(f"the {role} is of {version}")

        await hub.require_last_version()
        try:
            controller = await hub.start("controller", hub.old)
            box.status_port = hub.status_ports[controller]
            box.signers = SIGNERS
            for _ in range(SIGNERS):
                await hub.start("signer", hub.old)
            await box.wait_ready()
            async with callers(hub, figures, args.callers):
                await box.wait_proved()
                await step("the last version runs, and every pair is proved")
                await operate(box, "start", reason="the yearly rotation of the root")
                await reach("PUBLISHING")
                await exchange(first, NEW)
                await asyncio.sleep(BESIDE)
                await reach("CANARY", "ACTIVE")
                await exchange(second, NEW)
                await reach("ACTIVE")
                await asyncio.sleep(BESIDE)
                await exchange(first, hub.old)
                await asyncio.sleep(BESIDE)
                await exchange(second, hub.old)
                await reach("RETIRED")
                await step("the last version has ended the rotation")
                await box.wait_proved()
                before, bundle = await published(box), await box.get("/api/v1/bundle")
                for role in (first, second):
                    await exchange(role, NEW)
                await asyncio.sleep(BESIDE)
                await box.wait_proved()
                now = await published(box)
                figures.written_again = sorted(where for where in before if now.get(where) != before[where])
                after = await box.get("/api/v1/bundle")
                for key in ("generation", "sha256"):
                    if bundle.get(key) != after.get(key):
                        figures.written_again.append(f"{key}: {bundle.get(key)} is {after.get(key)}")
                await step("this version runs, and every pair is proved")
        finally:
            await hub.stop()
            figures.damaged = hub.damaged()
    figures.seconds = time.monotonic() - began
    return figures


def main() -> int:
    """Exit code 0 where nothing failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--old", type=Path, required=True, help="a work tree of the last version")
    parser.add_argument("--first", choices=("signer", "controller"), default="controller")
    parser.add_argument("--callers", type=int, default=4, help="in each cluster (default: 4)")
    parser.add_argument("--directory", type=Path, help="where logs stay (default: nowhere)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        directory = args.directory or Path(temporary)
        directory.mkdir(parents=True, exist_ok=True)
        figures = asyncio.run(run(args, directory))
    print(json.dumps(figures.__dict__, indent=1))
    return 0 if figures.went_well else 1


if __name__ == "__main__":
    raise SystemExit(main())
