"""The main job from end to end, with the hub as its own processes, on clusters in a box and on real API servers."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import sys
from datetime import timedelta
from pathlib import Path

import grpc
import grpc.aio
import msgspec
import pytest

from federation.core.errors import ClusterNotFound
from federation.core.identity import ServiceAccountRef, SpiffeId
from federation.core.pki.chain import verify_chain
from federation_sandbox.box import ROOT_CONFIG_MAP, SERVER_NAME, Box, Member
from federation_sandbox.mesh import Workload
from tests.support.patience import PATIENCE

ISTIOD_TLS = "/api/v1/namespaces/istio-system/secrets/istiod-tls"


async def start(box: Box) -> None:
    await box.start_hub()
    await box.wait_ready()


def child_pids(box: Box) -> dict[str, list[int]]:
    """The hub's processes by role, as the kernel lists them."""
    assert box.hub_pid is not None
    roles: dict[str, list[int]] = {"signer": [], "controller": []}
    for pid in descendants(box.hub_pid):
        words = command(pid).split("\0")
        for role, pids in roles.items():
            if role in words:
                pids.append(pid)
    return roles


def descendants(pid: int) -> list[int]:
    """Every process below that one: roles are children of what forks them."""
    children = [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [each for child in children for each in (child, *descendants(child))]


def command(pid: int) -> str:
    """The command line of a process, empty once it is gone or a zombie."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


async def test_every_pair_is_proved_and_workloads_trust_one_another(box: Box, namespace: str) -> None:
    await start(box)
    workloads = [await box.workload(name, namespace, "frontend") for name in box.members]
    issued = [await workload.renew(lifetime=timedelta(hours=1)) for workload in workloads]
    matrix = await box.wait_proved()
    assert matrix["pairs"] == matrix["valid"] == 2
    for mine in issued:
        for theirs in issued:
            verify_chain(theirs.chain, mine.trust, at=box.clock.now())
    status = await box.wait_for(
        "/api/v1/status", lambda answer: answer["certificates_issued"] >= len(workloads)
    )
    assert status["verdict"] == "healthy"


async def test_an_edited_or_deleted_bundle_is_restored(box: Box, namespace: str) -> None:
    await start(box)
    name, member = next(iter(box.members.items()))
    await member.world.add_namespace(namespace)
    trust = await box.wait_for_trust(name, namespace)
    path = f"/api/v1/namespaces/{namespace}/configmaps/{ROOT_CONFIG_MAP}"
    edited = {"data": {"root-cert.pem": "not a certificate"}}
    await member.world.session.request(
        "PATCH", path, body=msgspec.json.encode(edited), content_type="application/merge-patch+json"
    )
    assert await restored(box, name, namespace, trust)
    await member.world.delete(path)
    assert await restored(box, name, namespace, trust)


async def test_istiod_has_a_certificate_that_openssl_verifies(box: Box, tmp_path: Path) -> None:
    """From the hub's own processes: the files that istiod mounts, before it starts, and again after a deletion."""
    await start(box)
    serials = []
    for cluster, member in box.members.items():
        for _ in range(2):
            data = await istiod_secret(member)
            for name, content in data.items():
                (tmp_path / name).write_bytes(content)
            assert await restored(box, cluster, "istio-system", data["ca.crt"])
            for host in ("istiod", "istiod-remote", "istio-pilot"):
                await openssl(
                    *("verify", "-CAfile", "ca.crt", "-untrusted", "tls.crt", "-purpose", "sslserver"),
                    *("-verify_hostname", f"{host}.istio-system.svc", "tls.crt"),
                    directory=tmp_path,
                )
            of_key = await openssl("pkey", "-in", "tls.key", "-pubout", directory=tmp_path)
            assert of_key == await openssl("x509", "-in", "tls.crt", "-noout", "-pubkey", directory=tmp_path)
            serials.append(await openssl("x509", "-in", "tls.crt", "-noout", "-serial", directory=tmp_path))
            await member.world.delete(ISTIOD_TLS)
    assert len({*serials}) == 4
    status = await box.wait_for("/api/v1/status", lambda answer: answer["verdict"] == "healthy")
    assert {plane["state"] for c in status["clusters"] for plane in c["control_planes"]} == {"provided"}


async def istiod_secret(member: Member) -> dict[str, bytes]:
    """What the Secret holds once it is there."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                answer = await member.world.session.get(ISTIOD_TLS)
            except ClusterNotFound:
                await asyncio.sleep(0.1)
                continue
            return {k: base64.b64decode(v) for k, v in msgspec.json.decode(answer)["data"].items()}


async def openssl(*arguments: str, directory: Path) -> str:
    """What OpenSSL prints; fails where it does not succeed."""
    process = await asyncio.create_subprocess_exec(
        "openssl", *arguments, cwd=directory, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()
    return said.decode()


async def restored(box: Box, name: str, namespace: str, wanted: bytes) -> bool:
    """Wait until the namespace has the bundle again; raises TimeoutError if it does not come."""
    async with asyncio.timeout(PATIENCE):
        while True:
            found = await box.members[name].world.config_map(namespace, ROOT_CONFIG_MAP)
            if found is not None and found.get("data", {}).get("root-cert.pem", "").encode() == wanted:
                return True
            await asyncio.sleep(0.1)


async def test_a_token_of_one_cluster_is_worth_nothing_at_another(box: Box, namespace: str) -> None:
    await start(box)
    east = await box.workload("east", namespace, "frontend")
    await east.renew()
    stolen = Workload(
        cluster_id=box.members["west"].cluster_id,
        identity=east.identity,
        listener=box.listener,
        server_name=SERVER_NAME,
        token=east.token,
        listener_trust=east.listener_trust,
    )
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stolen.renew()
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert refused.value.details() == "request authenticate failure"
    other = Workload(
        cluster_id=east.cluster_id,
        identity=SpiffeId(box.trust_domain, ServiceAccountRef(namespace, "payments")),
        listener=box.listener,
        server_name=SERVER_NAME,
        token=east.token,
        listener_trust=east.listener_trust,
    )
    with pytest.raises(grpc.aio.AioRpcError) as mismatched:
        await other.renew()
    assert mismatched.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_deleted_pod_takes_its_token_with_it(box: Box, namespace: str) -> None:
    await start(box)
    workload = await box.workload("east", namespace, "frontend")
    await workload.renew()
    await box.members["east"].world.delete(f"/api/v1/namespaces/{namespace}/pods/frontend-0")
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await workload.renew()
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.UNAUTHENTICATED
                break
            await asyncio.sleep(0.5)


async def test_a_controller_that_is_down_stops_no_certificate_and_is_started_again(
    box: Box, namespace: str
) -> None:
    await start(box)
    workload = await box.workload("east", namespace, "frontend")
    first = await workload.renew()
    (controller,) = child_pids(box)["controller"]
    os.kill(controller, signal.SIGKILL)
    second = await workload.renew()
    assert second.leaf.serial != first.leaf.serial
    async with asyncio.timeout(PATIENCE):
        while child_pids(box)["controller"] in ([], [controller]):
            await asyncio.sleep(0.1)
    before = await box.wait_for("/api/v1/bundle", lambda _: True)
    assert before["generation"] >= 1
    await box.wait_proved()


async def test_a_killed_signer_is_started_again_and_signs(box: Box, namespace: str) -> None:
    await start(box)
    workload = await box.workload("east", namespace, "frontend")
    first = await workload.renew()
    (signer,) = child_pids(box)["signer"]
    os.kill(signer, signal.SIGKILL)
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                second = await workload.renew()
                break
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert second.leaf.serial != first.leaf.serial


async def test_generations_survive_a_killed_hub(box: Box, namespace: str) -> None:
    await start(box)
    await box.wait_proved()
    before = await box.get("/api/v1/bundle")
    assert box.hub_pid is not None
    pids = [pid for role in child_pids(box).values() for pid in role]
    os.kill(box.hub_pid, signal.SIGKILL)
    async with asyncio.timeout(PATIENCE):
        while any(map(command, pids)):
            await asyncio.sleep(0.1)
    assert await box.hub_ended() == -signal.SIGKILL
    await start(box)
    after = await box.get("/api/v1/bundle")
    assert (after["generation"], after["sha256"]) == (before["generation"], before["sha256"])


async def test_a_cluster_joins_and_leaves_without_a_restart(box: Box, namespace: str) -> None:
    box.write_config(["east"])
    await start(box)
    east = await box.workload("east", namespace, "frontend")
    await east.renew()
    pids = child_pids(box)
    box.write_config(["east", "west"])
    west = await box.workload("west", namespace, "frontend")
    await box.wait_for("/api/v1/clusters/west", lambda answer: answer["signing"]["state"] == "ready")
    await west.renew()
    await box.wait_proved()
    box.write_config(["east"])
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await west.renew()
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.UNAUTHENTICATED
                break
            await asyncio.sleep(0.2)
    await east.renew()
    assert child_pids(box) == pids


async def test_a_bad_configuration_keeps_the_running_one_and_status_says_so(box: Box, namespace: str) -> None:
    await start(box)
    east = await box.workload("east", namespace, "frontend")
    good = box.config_file.read_text()
    box.config_file.write_text(good.replace("trust_domain", "trust_dommain", 1))
    status = await box.wait_for(
        "/api/v1/status",
        lambda document: "trust_dommain" in json.dumps(document),
        what="the mistake in status",
    )
    assert "trust_dommain" in json.dumps(status["attention"])
    await east.renew()
    box.config_file.write_text(good)
    await box.wait_for("/api/v1/status", lambda document: "trust_dommain" not in json.dumps(document))


async def test_the_command_line_reads_the_same_status(box: Box) -> None:
    await start(box)
    await box.wait_proved()
    # What workloads hold is read some moments after the signers have started.
    code, output = await federation("verify", "--wait", "240", "--url", box.status_url)
    assert code == 0, output
    code, output = await federation("bundle", "show", "--pem", "--url", box.status_url)
    assert code == 0
    assert output.encode() == await box.wait_for_trust("east", "federation-system")
    code, output = await federation("status", "--json", "--url", box.status_url)
    assert code == 0, output
    assert set(msgspec.json.decode(output)) >= {"clusters", "matrix"} or "clusters" in output
    code, output = await federation("clusters", "check", "--config", str(box.config_file))
    assert code == 0, output


async def federation(*words: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "federation",
        *words,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(PATIENCE):
        output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


async def test_sigterm_drains_and_ends_every_process(box: Box, namespace: str) -> None:
    await start(box)
    pids = [pid for role in child_pids(box).values() for pid in role]
    assert await box.stop_hub() == 0
    assert not [pid for pid in pids if command(pid)]
