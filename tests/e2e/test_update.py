"""A rotation that the last version began is finished by this one, under traffic that never fails.

The state is what the last version wrote until it was killed (``tests/last_version``), with all its times moved to now.
The clusters hold what it had published, and workloads hold certificates that it had issued under the old root.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import grpc.aio
import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from federation.core.errors import FederationError
from federation.core.identity import SpiffeId
from federation.core.pki.pem import parse_certificates
from federation_sandbox import demo
from federation_sandbox.box import ROOT_CONFIG_MAP, Box, Member, private_key_pem
from federation_sandbox.demo import sandbox_members
from federation_sandbox.mesh import Identity, Workload
from tests.last_version import mesh
from tests.last_version.documents import STATE, read, shifted, taken, unpack, write
from tests.last_version.kinds import KINDS, prefix_of
from tests.last_version.wire import misread

LIMIT = 180.0
LATE = 0.8
"""Of a certificate's life, in one cluster: what it holds then is of the last version, and so is what it trusts."""
OF_ANOTHER_VERSION = {"plans/first": {"some": 1}}
"""A document of a kind that only a neighbouring version knows: it stays."""
WITHOUT_BUNDLE = {"kube-public", "kube-node-lease"}


async def put_back(member: Member, published: dict[str, Any]) -> None:
    """What the last version had published in every namespace, under the name that it writes by."""
    assert member.sandbox is not None
    (manager,) = {entry["manager"] for entry in published["metadata"]["managedFields"]}
    for namespace in (item["metadata"]["name"] for item in member.sandbox.objects("namespaces")):
        if namespace in WITHOUT_BUNDLE:
            continue
        metadata = {key: published["metadata"][key] for key in ("name", "labels", "annotations")}
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": published["data"]}
        await member.world.session.request(
            "PATCH",
            f"/api/v1/namespaces/{namespace}/configmaps/{metadata['name']}",
            params={"fieldManager": manager, "force": "true"},
            body=msgspec.json.encode(body),
            content_type="application/apply-patch+yaml",
        )


def issued_before(identity: SpiffeId, *, until: float, bundle: str) -> Identity:
    """A certificate as the last version had issued it under the old root, with the bundle that came with it."""
    key = ec.generate_private_key(ec.SECP256R1())
    (intermediate,) = parse_certificates(
        (mesh.AUTHORITIES / mesh.OLD / "chain.pem").read_bytes(), where="the old intermediate"
    )
    signing_key = mesh.key_of(f"{mesh.OLD} intermediate")
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    names = [x509.UniformResourceIdentifier(str(identity))]
    leaf = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(intermediate.x509.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(seconds=5))
        .not_valid_after(datetime.fromtimestamp(until, UTC))
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()), critical=False
        )
        .sign(signing_key, hashes.SHA256())
    )
    pem = leaf.public_bytes(Encoding.PEM)
    (certificate,) = parse_certificates(pem, where="a certificate from before")
    return Identity(
        chain=(certificate, intermediate),
        key_pem=private_key_pem(key),
        trust=parse_certificates(bundle.encode(), where="its bundle"),
    )


async def keep_renewing(workloads: Mapping[str, Workload]) -> None:
    """As agents do; what fails is tried again."""
    while True:
        for name, workload in workloads.items():
            if workload.due(datetime.now(UTC), share=LATE if name == "west" else 0.5):
                with contextlib.suppress(grpc.aio.AioRpcError, FederationError):
                    await workload.renew()
        await asyncio.sleep(0.25)


@dataclass
class Calls:
    """Certificates that are asked for one after the other, from the first answer of this version on."""

    answered: int = 0
    failures: list[str] = field(default_factory=list)

    async def run(self, workload: Workload) -> None:
        """What fails after all attempts of an agent counts once the signer has answered this caller."""
        answered = False
        while True:
            try:
                await workload.renew()
            except (grpc.aio.AioRpcError, FederationError) as error:
                self.failures += [f"{workload.cluster_id}: {error!r}"] if answered else []
            else:
                answered = True
                self.answered += 1
            await asyncio.sleep(0.25)


@contextlib.asynccontextmanager
async def busy(
    workloads: Mapping[str, Workload], callers: Sequence[Workload], calls: Calls
) -> AsyncIterator[demo.Traffic]:
    """Handshakes in every direction, renewals, and calls, while the context is entered."""
    traffic = demo.Traffic({name: [workload] for name, workload in workloads.items()})
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(traffic.run()), group.create_task(keep_renewing(workloads))]
        tasks += [group.create_task(calls.run(each)) for each in callers]
        try:
            yield traffic
        finally:
            for task in tasks:
                task.cancel()


@dataclass
class Update:
    """A mesh in which the hub was exchanged for this version, and what its state said ``before``."""

    box: Box
    before: dict[str, Any]
    members: Mapping[str, Member]
    workloads: dict[str, Workload]
    quarantined: Workload
    traffic: demo.Traffic

    @property
    def record(self) -> Any:
        """The rotation that the last version began."""
        return self.before["rotation"]["rotation"]

    async def follow(self, last: str) -> list[str]:
        """The states of the rotation until that one is reached."""
        seen: list[str] = []
        async with asyncio.timeout(LIMIT):
            while last not in seen:
                with contextlib.suppress(aiohttp.ClientError, KeyError, TypeError):
                    state = (await self.box.get("/api/v1/rotation"))["state"]
                    seen += [state] if state not in seen[-1:] else []
                await asyncio.sleep(0.1)
        return seen

    async def anchors(self) -> set[str]:
        """The roots (SHA-256) of the bundle in force."""
        return {anchor["sha256"] for anchor in (await self.box.get("/api/v1/bundle"))["anchors"]}

    def documents(self) -> dict[str, Any]:
        """The state as it is by now."""
        files = (self.box.directory / "state" / "documents").iterdir()
        keys = {file.name.replace("@", "/"): file for file in files if file.name != ".next"}
        return {key: json.loads(unpack(key, file.read_bytes())) for key, file in keys.items()}


@contextlib.asynccontextmanager
async def updated(directory: Path, moment: str) -> AsyncIterator[Update]:
    """The mesh as the last version left it at that moment, with both roles of this version just started."""
    published = json.loads((STATE / moment / "config-map.json").read_text("utf-8"))
    async with sandbox_members(directory, mesh.CLUSTERS, clock=mesh.CLOCK) as members:
        box = await mesh.open_box(directory, members)
        workloads, callers, calls = {}, [], Calls()
        for name, member in members.items():
            await member.world.add_namespace(mesh.NAMESPACE)
            await put_back(member, published)
            workloads[name] = await box.workload(name, mesh.NAMESPACE, mesh.ACCOUNT)
            if name != mesh.QUARANTINED:
                callers.append(await box.workload(name, mesh.NAMESPACE, "caller"))
        before = shifted(read(moment), taken=taken(moment), now=time.time())
        write(before | OF_ANOTHER_VERSION, directory / "state")
        quarantined = workloads.pop(mesh.QUARANTINED)
        for name, workload in workloads.items():
            workload.current = last_issued(before, name, workload.identity)
        roles = mesh.Roles(box)
        try:
            async with busy(workloads, callers, calls) as traffic:
                await roles.start(signer="signer-1", controller="controller-0")
                yield Update(box, before, members, workloads, quarantined, traffic)
            # A leaf that ended is of a renewal that a busy machine made late: no renewal was refused (below).
            assert [each for each in traffic.failures if "certificate has expired" not in each] == []
            assert traffic.tried > 50
            assert calls.failures == []
            assert calls.answered > 50
        finally:
            await roles.stop()


def last_issued(before: Mapping[str, Any], cluster: str, identity: SpiffeId) -> Identity:
    """The certificate of that cluster that lives longest by what was persisted, under the old root."""
    old, number = before["rotation"]["rotation"]["old"]["intermediate"], before["current"]["number"]
    (until,) = (
        until
        for name, issuer, generation, until in before["horizons/signer-0"]["rows"]
        if (name, issuer, generation) == (cluster, old, number)
    )
    return issued_before(identity, until=until, bundle=before[f"generations/{number:012d}"]["bundle_pem"])


async def until_issued_by(issuer: str, workload: Workload) -> None:
    """A signer reads which authority is in use some time after the controller has said so."""
    async with asyncio.timeout(LIMIT):
        while (await workload.renew()).chain[1].sha256 != issuer:
            await asyncio.sleep(0.1)


async def test_a_rotation_that_the_last_version_began_is_finished(tmp_path: Path) -> None:
    async with updated(tmp_path, "active") as update:
        before, record = update.before, update.record
        assert await update.follow("RETIRED") == ["ACTIVE", "UNPUBLISHING", "RETIRED"]
        with pytest.raises(grpc.aio.AioRpcError):
            await update.quarantined.renew()
        current = [workload.current for workload in update.workloads.values()]
        assert {each.chain[1].sha256 for each in current if each is not None} == {
            record["new"]["intermediate"]
        }
        assert await update.anchors() == {record["new"]["root"]}
        status = await update.box.get("/api/v1/status")
        running = update.documents()
        published = await update.members["east"].world.config_map(mesh.NAMESPACE, ROOT_CONFIG_MAP)
    assert {p["sha256"] for p in status["proposals"]} == {
        p["sha256"] for p in before["proposals/east"]["found"]
    }
    root = (mesh.AUTHORITIES / mesh.NEW / "root.pem").read_text("utf-8")
    assert published is not None
    assert published["data"]["root-cert.pem"] == root
    assert published["metadata"]["annotations"]["federation-hub/hub"] == before["hub"]["id"]
    now = update.documents()
    finished = now["rotation"]["rotation"]
    assert finished["number"] == record["number"]
    assert finished["history"][: len(record["history"])] == record["history"]
    assert now["rotation"]["quarantined"] == before["rotation"]["quarantined"]
    for key in (key for key in before if key.startswith(("generations/", "operations/", "hub"))):
        assert now[key] == before[key]
    assert now["plans/first"] == OF_ANOTHER_VERSION["plans/first"]
    # What this version writes is what the last one reads, so that it can take over again.
    names = json.loads((STATE / "fields.json").read_text("utf-8"))
    written = {key: document for key, document in running.items() if key not in OF_ANOTHER_VERSION}
    assert {prefix_of(key) for key in written} == set(KINDS)
    problems = {key: list(misread(document, names[prefix_of(key)])) for key, document in written.items()}
    assert {key: found for key, found in problems.items() if found} == {}
    locks = {file.name for file in (tmp_path / "state" / "locks").iterdir()}
    assert locks == {"documents", "lead@controller"}  # the locks that processes of both versions use


async def test_a_rotation_left_publishing_by_the_last_version_reaches_signing_under_the_new_root(
    tmp_path: Path,
) -> None:
    """Its gates wait for leaves that the last version alone issued, with the bundle before."""
    async with updated(tmp_path, "publishing") as update:
        record = update.record
        assert record["old"]["intermediate"] == update.before["orders"]["issuer"]
        assert await update.follow("ACTIVE") == ["PUBLISHING", "SOAKED", "CANARY", "ACTIVE"]
        for workload in update.workloads.values():
            await until_issued_by(record["new"]["intermediate"], workload)
        assert await update.anchors() == {record["old"]["root"], record["new"]["root"]}
    entered = {step["after"]: step["at"] for step in update.documents()["rotation"]["rotation"]["history"]}
    waited = [until for _, _, number, until in update.before["horizons/signer-0"]["rows"] if number == 1]
    assert entered["SOAKED"] >= max(waited)
