"""An operator edits who signs, in a running federation: nothing changes but by a rotation, and nothing fails.

``FEDERATION_EDIT_LEAF`` changes the life of the leaves, in seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from itertools import permutations
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from federation.controller.proof.handshake import Credential, handshake
from federation.core.errors import FederationError
from federation.runtime.clock import SystemClock
from federation_sandbox import demo
from federation_sandbox.box import SERVER_NAME, Box, DevelopmentCa
from federation_sandbox.mesh import Workload
from tests.e2e.conftest import members_of
from tests.e2e.rotating import kill_hub
from tests.e2e.verifying import verify_fails
from tests.support.patience import PATIENCE

LEAF = int(os.environ.get("FEDERATION_EDIT_LEAF", "10"))
NAMES = ("east", "west", "north")


class Mesh:
    """Workloads of three clusters that shake hands the whole time, and renew at half the life of their certificates.

    One that could not renew in time (a loaded machine, a hub that was killed) is left out: what is judged is whether
    certificates that are valid are believed.
    """

    def __init__(self, box: Box) -> None:
        self.box = box
        self.workloads: dict[str, list[Workload]] = {name: [] for name in NAMES}
        self.tried = 0
        self.failures: list[str] = []
        self.refused = 0

    async def add(self, name: str) -> Workload:
        """A pod that has just started."""
        workload = await self.box.workload(name, f"shop-{uuid.uuid4().hex[:6]}", "frontend")
        await self.renew(workload)
        self.workloads[name].append(workload)
        return workload

    async def renew(self, workload: Workload) -> None:
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    await workload.renew()
                except (grpc.aio.AioRpcError, FederationError):
                    self.refused += 1
                    await asyncio.sleep(0.2)
                else:
                    return

    async def keep_renewing(self) -> None:
        while True:
            now = SystemClock().now()
            for workload in [w for each in self.workloads.values() for w in each if w.due(now)]:
                with contextlib.suppress(grpc.aio.AioRpcError, FederationError):
                    await workload.renew()
            await asyncio.sleep(0.1)

    async def keep_calling(self) -> None:
        while True:
            await asyncio.to_thread(self._round)
            await asyncio.sleep(demo.REST)

    def _round(self) -> None:
        for a, b in permutations(NAMES, 2):
            for client in list(self.workloads[a]):
                for server in list(self.workloads[b]):
                    self._shake(client, server)

    def _shake(self, client: Workload, server: Workload) -> None:
        each = credential(client), credential(server)
        ends = min(presented.chain[0].not_after for presented in each)
        if ends < SystemClock().now() + timedelta(seconds=0.5):
            return
        self.tried += 1
        try:
            handshake(client=each[0], server=each[1])
        except FederationError as error:
            if SystemClock().now() < ends:  # a busy machine may end it after a leaf's life
                self.failures.append(f"{client.identity} > {server.identity}: {error}")

    @contextlib.asynccontextmanager
    async def busy(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.keep_calling()), group.create_task(self.keep_renewing())]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()


def credential(workload: Workload) -> Credential:
    current = workload.current
    assert current is not None
    return Credential(
        chain=current.chain, key_pem=current.key_pem, trust=current.trust, identity=workload.identity
    )


@contextlib.asynccontextmanager
async def mesh_of(
    directory: Path, names: tuple[str, ...] = NAMES
) -> AsyncIterator[tuple[Mesh, DevelopmentCa]]:
    """A federation that is ready, and the authority that an operator wants instead."""
    clock, unique = SystemClock(), uuid.uuid4().hex[:6]
    async with members_of("sandbox", directory, len(names)) as members:
        ca = DevelopmentCa.create(directory / "first-ca", name=f"first {unique}", clock=clock)
        second = DevelopmentCa.create(directory / "second-ca", name=f"second {unique}", clock=clock)
        box = Box(directory=directory, members=members, ca=ca, clock=clock, proof_interval=2.0)
        demo.prepare(box, life=timedelta(seconds=LEAF))
        box.rotation_lines = 'soak = "1s"\nskew = "1s"\nfresh = "30s"\nwaves = 1'
        await box.register()
        try:
            await box.start_hub()
            await box.wait_ready()
            mesh = Mesh(box)
            for name in names:
                await mesh.add(name)
            if len(names) > 1:
                await box.wait_proved()
            yield mesh, second
        finally:
            await box.stop_hub()


def finding(code: str, **wanted: str) -> Callable[[Any], bool]:
    """A status that has this attention."""

    def there(status: Any) -> bool:
        return any(
            item["code"] == code and all(item[key] == value for key, value in wanted.items())
            for item in status["attention"]
        )

    return there


def may_start(status: Any) -> bool:
    """No change is pending, and a rotation to the successor would be accepted."""
    plan = status["rotation_plan"]
    return not finding("authority_not_in_force")(status) and plan is not None and not plan["problem"]


def write(
    box: Box, *, authority: DevelopmentCa, pins: list[DevelopmentCa], successor: DevelopmentCa | None
) -> None:
    """Configure another authority and these pins."""
    edited = replace(box, ca=authority, successor=successor)
    edited.extra_anchors = [ca.directory / "root.pem" for ca in pins]
    edited.write_config()


async def test_another_authority_signs_only_after_a_rotation(tmp_path: Path) -> None:
    """It and its root's pin replace the former ones, and the hub is killed; then the operator does what status says."""
    async with mesh_of(tmp_path) as (mesh, second):
        box, first = mesh.box, mesh.box.ca
        async with mesh.busy():
            write(box, authority=second, pins=[], successor=None)
            status = await box.wait_for(
                "/api/v1/status", finding("authority_not_in_force", severity="warning")
            )
            assert status["verdict"] != "healthy"
            new = [await mesh.add(name) for name in NAMES]
            assert {w.current.chain[1].sha256 for w in new if w.current is not None} == {
                first.intermediate.sha256
            }
            await verify_fails(box, "federation rotate start")

            await kill_hub(box)
            await box.start_hub()
            status = await box.wait_for(
                "/api/v1/status", finding("authority_not_in_force", severity="critical")
            )
            assert status["verdict"] == "failing"
            assert not any(signer["ready"] for signer in status["signers"])

            box.successor = second
            box.write_config()
            await box.wait_ready()
            await box.wait_for("/api/v1/status", may_start)
            rotated = await demo.rotate(box, print, limit=600 + 20 * LEAF)
            for each in mesh.workloads.values():
                for workload in each:
                    await mesh.renew(workload)
            status = await box.get("/api/v1/status")
        issuers = {
            w.current.chain[1].sha256
            for each in mesh.workloads.values()
            for w in each
            if w.current is not None
        }
    print(
        f"\n{rotated}; {mesh.tried} handshakes, {len(mesh.failures)} failed; {mesh.refused} renewals refused"
    )
    assert rotated["state"] == "RETIRED"
    assert issuers == {second.intermediate.sha256}
    assert mesh.tried > 100
    assert mesh.failures == []


async def test_an_intermediate_renewed_during_a_rotation_signs_after_a_restart(
    tmp_path: Path,
) -> None:
    """The directives still name the former intermediate, which no signer has; certificates are issued all the same."""
    async with mesh_of(tmp_path, NAMES[:2]) as (mesh, second):
        box, first = mesh.box, mesh.box.ca
        box.rotation_lines = 'soak = "1h"\nskew = "1s"\nfresh = "30s"\nwaves = 1'
        box.successor = second
        box.write_config()
        await box.wait_for("/api/v1/status", may_start)
        await box.operate("start", reason="to the second")
        await box.wait_for("/api/v1/rotation", lambda r: bool(r) and r["state"] == "PUBLISHING")
        async with mesh.busy():
            renewed = first.another(first.directory, name=f"renewed {uuid.uuid4().hex[:6]}")
            await kill_hub(box)
            await box.start_hub()
            new = [await mesh.add(name) for name in NAMES[:2]]
            assert {w.current.chain[1].sha256 for w in new if w.current is not None} == {
                renewed.intermediate.sha256
            }
            rotated = await box.get("/api/v1/rotation")
            assert (rotated["state"], rotated["old"]["intermediate"]) == (
                "PUBLISHING",
                renewed.intermediate.sha256,
            )
            await box.operate("abort", reason="enough")
            await box.wait_for(
                "/api/v1/rotation", lambda r: bool(r) and r["state"] == "STABLE", limit=600 + 20 * LEAF
            )
            await box.wait_ready()
    assert mesh.failures == []


async def test_another_trust_domain_is_refused_while_running_and_by_a_start(tmp_path: Path) -> None:
    """Nothing changes in the running mesh, status reports the edit, and the hub resumes once it is undone."""
    async with mesh_of(tmp_path, names=NAMES[:1]) as (mesh, _):
        box = mesh.box
        before = await box.wait_for_trust("east", "istio-system")
        good = box.config_file.read_text()
        wrong = good.replace(f'trust_domain = "{box.trust_domain}"', 'trust_domain = "elsewhere.example"', 1)
        edit(box, wrong)
        status = await box.wait_for("/api/v1/status", finding("config_problem"))
        assert status["trust_domain"] == str(box.trust_domain)
        reported = next(item for item in status["attention"] if item["code"] == "config_problem")
        assert "another mesh" in reported["detail"]
        (workload,) = mesh.workloads["east"]
        await workload.renew()
        await verify_fails(box)

        await kill_hub(box)
        await box.start_hub()
        status = await box.wait_for("/api/v1/status", finding("another_mesh", severity="critical"))
        assert status["verdict"] == "failing"
        assert not any(signer["ready"] for signer in status["signers"])
        assert not any(controller["leader"] for controller in status["controllers"])
        assert await box.wait_for_trust("east", "istio-system") == before
        edit(box, good)
        await kill_hub(box)
        await box.start_hub()
        await box.wait_ready()
        await mesh.renew(workload)


async def test_a_listener_name_that_agents_use_is_not_removed_while_running(tmp_path: Path) -> None:
    """An edit must not remove it: workloads would lose their certificates while status is still green."""
    async with mesh_of(tmp_path, names=NAMES[:1]) as (mesh, _):
        box, good = mesh.box, mesh.box.config_file.read_text()
        (workload,) = mesh.workloads["east"]
        assert SERVER_NAME in good
        edit(box, good.replace(f'"{SERVER_NAME}"', '"another.example"'))
        status = await box.wait_for("/api/v1/status", finding("config_problem"))
        assert any(SERVER_NAME in item["detail"] for item in status["attention"])
        await verify_fails(box)
        await workload.renew()

        edit(box, good.replace(f'"{SERVER_NAME}"', f'"another.example", "{SERVER_NAME}"'))
        await box.wait_for("/api/v1/status", lambda s: not finding("config_problem")(s))
        await mesh.renew(workload)

        await kill_hub(box)  # a start applies the edit and reports the removed name
        edit(box, good.replace(f'"{SERVER_NAME}"', '"another.example"'))
        await box.start_hub()
        status = await box.wait_for("/api/v1/status", finding("listener_name_gone", severity="warning"))
        assert any(SERVER_NAME in item["detail"] for item in status["attention"])
        assert status["verdict"] != "healthy"
        with pytest.raises((grpc.aio.AioRpcError, FederationError)):
            await workload.renew()
        await kill_hub(box)
        edit(box, good)
        await box.start_hub()
        await mesh.renew(workload)
        await box.wait_for("/api/v1/status", lambda s: not finding("listener_name_gone")(s))


async def test_a_hub_with_an_outdated_state_publishes_and_issues_nothing(
    tmp_path: Path,
) -> None:
    """The state was restored from before the last publication; only the bundles in the members are newer.

    The hub works again once it is configured to adopt its own later generation.
    """
    async with mesh_of(tmp_path, names=NAMES[:1]) as (mesh, second):
        box, state = mesh.box, tmp_path / "state"
        write(box, authority=box.ca, pins=[], successor=second)
        await box.wait_for("/api/v1/status", may_start)
        shutil.copytree(state, tmp_path / "older")
        write(box, authority=box.ca, pins=[second], successor=None)
        await box.wait_for("/api/v1/bundle", lambda bundle: len(bundle["anchors"]) == 2)
        await box.wait_for("/api/v1/status", holds_everywhere(generation=2))
        before = await box.wait_for_trust("east", "istio-system")

        await kill_hub(box)
        write(box, authority=box.ca, pins=[], successor=second)
        state.rename(tmp_path / "newer")
        (tmp_path / "older").rename(state)
        await box.start_hub()
        status = await box.wait_for("/api/v1/status", holds_a_later_one)
        identity = status["controllers"][0]["hub"]
        await box.wait_for("/api/v1/status", lambda s: s["verdict"] == "failing")
        await verify_fails(box, "restore the newest backup of the state")
        status = await box.get("/api/v1/status")
        assert not {item["code"] for item in status["attention"]} & {"cluster_joins", "publication_joining"}
        await nothing_is_issued(mesh.workloads["east"][0])
        assert await box.wait_for_trust("east", "istio-system") == before

        await kill_hub(box)
        await box.start_hub()
        await box.wait_for("/api/v1/status", holds_a_later_one)
        edit(box, box.config_file.read_text() + f'\n[controller]\nadopt_hubs = ["{identity}"]\n')
        await box.wait_for("/api/v1/status", lambda s: not holds_a_later_one(s))
        await mesh.renew(mesh.workloads["east"][0])
        await box.wait_for("/api/v1/status", holds_everywhere(generation=1))
        assert (await box.wait_for_trust("east", "istio-system")).count(b"BEGIN") == 1


async def test_a_hub_without_its_state_publishes_and_issues_nothing_in_its_former_members(
    tmp_path: Path,
) -> None:
    """It counts as another hub from its start: its authority may be one that the mesh has rotated away from."""
    async with mesh_of(tmp_path, names=NAMES[:1]) as (mesh, second):
        box = mesh.box
        (workload,) = mesh.workloads["east"]
        alone = box.config_file.read_text()
        write(box, authority=box.ca, pins=[second], successor=None)
        await box.wait_for("/api/v1/bundle", lambda bundle: len(bundle["anchors"]) == 2)
        await box.wait_for("/api/v1/status", holds_everywhere(generation=2))
        before = await box.wait_for_trust("east", "istio-system")
        identity = (await box.get("/api/v1/status"))["controllers"][0]["hub"]
        both = box.config_file.read_text()
        elsewhere, adopting = (
            text.replace(f'"{tmp_path / "state"}"', f'"{tmp_path / "elsewhere"}"', 1)
            for text in (alone, both)
        )
        assert elsewhere != alone
        edit(box, elsewhere)
        status = await box.wait_for("/api/v1/status", finding("config_problem"))
        assert any("another state" in item["detail"] for item in status["attention"])
        await verify_fails(box)
        await workload.renew()

        for _ in range(2):  # a restart does not forget it
            await kill_hub(box)
            await nothing_is_issued(workload)  # once the former signer has drained
            asked = asyncio.create_task(issued_until_cancelled(workload))
            await box.start_hub()
            status = await box.wait_for("/api/v1/status", another_hub_s)
            status = await box.wait_for("/api/v1/status", lambda s: s["verdict"] == "failing")
            await asyncio.sleep(1.5)  # signers look for directives twice a second
            asked.cancel()
            assert await asked == 0
        # A cluster that does not answer for a moment has that said of it.
        await verify_fails(box, f'add "{identity}" to controller.adopt_hubs')
        status = await box.get("/api/v1/status")
        reported = {item["code"]: item["severity"] for item in status["attention"]}
        assert reported["cluster_degraded"] == "critical"
        assert not reported.keys() & {"cluster_joins", "publication_joining", "signing_unavailable"}
        assert await box.wait_for_trust("east", "istio-system") == before

        edit(box, adopting + f'\n[controller]\nadopt_hubs = ["{identity}"]\n')
        await box.wait_for("/api/v1/status", lambda s: not another_hub_s(s))
        await mesh.renew(workload)
        await box.wait_for("/api/v1/status", holds_everywhere(generation=2))
        assert await box.wait_for_trust("east", "istio-system") == before


async def issued_until_cancelled(workload: Workload) -> int:
    """How many certificates it got."""
    issued = 0
    with contextlib.suppress(asyncio.CancelledError):
        while True:
            with contextlib.suppress(grpc.aio.AioRpcError, FederationError):
                await workload.renew()
                issued += 1
            await asyncio.sleep(0.02)
    return issued


def another_hub_s(status: Any) -> bool:
    (cluster,) = status["clusters"]
    return bool(cluster["connection"]["reason"] == "other_hub")


async def nothing_is_issued(workload: Workload) -> None:
    """Any more: what status reports comes a moment before signers follow it."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await workload.renew()
            except grpc.aio.AioRpcError:
                break
    for _ in range(5):
        with pytest.raises(grpc.aio.AioRpcError):
            await workload.renew()


def holds_everywhere(*, generation: int) -> Callable[[Any], bool]:
    def holds(status: Any) -> bool:
        publication = status["clusters"][0]["publication"]
        whole = 0 < publication["selected"] == publication["current"]
        return bool(whole and publication["generation"] == generation)

    return holds


def holds_a_later_one(status: Any) -> bool:
    (cluster,) = status["clusters"]
    return bool(cluster["connection"]["reason"] == "state_older")


def edit(box: Box, text: str) -> None:
    """In one atomic replacement."""
    staged = box.config_file.with_suffix(".edited")
    staged.write_text(text, "utf-8")
    staged.rename(box.config_file)
