"""A role in a pod stores the token that it renews in the Secret that its kubeconfig is mounted from.

The hub's own cluster is the sandbox's with the rights of manifests/hub; the mount is a directory such as a kubelet
makes, which follows the Secret only where a test lets it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from federation.clusters.member_objects import member_objects
from federation.core.config.clusters import ClusterTimeouts, Credentials
from federation.core.documents.credential import CredentialReport
from federation.core.identity import ClusterName
from federation.kubernetes.role_kubeconfig import ServerConnection, role_credential
from federation.kubernetes.session import ClusterSession
from federation.kubernetes.token_life import token_life
from federation.kubernetes.token_places import KubeconfigSecret
from federation.kubernetes.token_renewal import TokenRenewal
from federation_sandbox.apiserver.faults import Answer, Cut
from federation_sandbox.cluster import SandboxCluster, kubeconfig
from tests.manifests.tree import Tree
from tests.support.clock import VirtualClock
from tests.support.patience import PATIENCE

LIFE = 600
SYSTEM = "federation-system"
NAME = "federation-signer-kubeconfigs"
FILE = "west"
KEY = f"{FILE}.token"


@dataclass
class Replica:
    """One process of the role, in a pod of its own."""

    session: ClusterSession
    renewal: TokenRenewal
    mount: Path

    @property
    def report(self) -> CredentialReport:
        return self.renewal.report


@dataclass
class Hub:
    """The hub's own cluster, the member, and processes of the signer."""

    home: SandboxCluster
    member: SandboxCluster
    clock: VirtualClock
    directory: Path
    replicas: list[Replica] = field(default_factory=list)

    def secret(self) -> dict[str, str]:
        found = self.home.get("secrets", SYSTEM, NAME)
        assert found is not None
        return {key: base64.b64decode(value).decode() for key, value in found["data"].items()}

    def store(self, **data: str) -> None:
        """Write keys of the Secret, as another writer does."""
        encoded = {
            key: base64.b64encode(text.encode()).decode() for key, text in {**self.secret(), **data}.items()
        }
        self.home.apply_manifest([{**secret_object(), "data": encoded}])

    @property
    def stored(self) -> str:
        return self.secret()[KEY]

    @property
    def asked(self) -> int:
        return self.member.requests.count(verb="create", resource="serviceaccounts/token")

    def follow(self, mount: Path) -> None:
        """What a kubelet does after a while: a new folder with what the Secret holds, and the link turned to it."""
        data = self.secret()
        folder = mount / f"..{len(list(mount.iterdir()))}"
        folder.mkdir(parents=True)
        for key, text in data.items():
            (folder / key).write_text(text)
        link = mount / "..next"
        link.symlink_to(folder.name)
        link.replace(mount / "..data")
        for key in data:
            if not (mount / key).is_symlink():
                (mount / key).symlink_to(f"..data/{key}")

    async def until(self, wanted: Callable[[], bool], *, step: float = 10.0) -> None:
        """Let time pass until it is so; the processes talk to real servers meanwhile."""
        async with asyncio.timeout(PATIENCE):
            while not wanted():
                await self.clock.until_sleeping(len(self.replicas))  # none waits for an answer
                await self.clock.advance(step)
                await asyncio.sleep(0.01)

    @asynccontextmanager
    async def replica(self, *, mount: Path | None = None, seed: int = 1) -> AsyncIterator[Replica]:
        if mount is None:
            mount = self.directory / f"mount-{len(self.replicas)}"
            mount.mkdir()
            self.follow(mount)
        config = self.directory / "home.kubeconfig"
        token = self.home.token(
            SYSTEM, "federation-signer", audiences=(self.home.issuer,), expiration=90 * 86400
        )
        config.touch(mode=0o600)
        document = kubeconfig(
            cluster="hub", server=self.home.url, ca_pem=self.home.ca_pem, user="signer", credential=token
        )
        config.write_text(json.dumps(document))
        async with AsyncExitStack() as stack:
            opened = []
            for path, name in ((config, "hub"), (mount / FILE, "west")):
                session = await ClusterSession.open(
                    Credentials(kubeconfig=path),
                    cluster=ClusterName(name),
                    timeouts=ClusterTimeouts(),
                    clock=self.clock,
                )
                opened.append(await stack.enter_async_context(session))
            secret = KubeconfigSecret(opened[0], namespace=SYSTEM, name=NAME)
            renewal = TokenRenewal(opened[1], clock=self.clock, jitter=random.Random(seed), secret=secret)
            await renewal.catch_up()
            task = asyncio.create_task(renewal.run())
            replica = Replica(opened[1], renewal, mount)
            self.replicas.append(replica)
            try:
                yield replica
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


def secret_object() -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": {"name": NAME, "namespace": SYSTEM},
    }


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[Hub]:
    clock = VirtualClock()
    async with (
        SandboxCluster("home", clock=clock, signing_algorithm="ES256") as home,
        SandboxCluster("west", clock=clock, signing_algorithm="ES256") as member,
    ):
        member.create_namespace("istio-system")
        member.apply_manifest(member_objects())
        kinds = ("Namespace", "ServiceAccount", "Role", "RoleBinding")
        objects = Tree.of("hub").objects
        home.apply_manifest([item for kind in kinds for item in objects if item["kind"] == kind])
        token = member.token(SYSTEM, "federation-signer", audiences=(member.issuer,), expiration=LIFE)
        made = role_credential(
            ServerConnection(member.url, member.ca_pem),
            cluster="west",
            account="federation-signer",
            token=token,
            name=FILE,
        )
        data = {FILE: made.kubeconfig, KEY: made.token, "east": b"another member's", "east.token": b"kept"}
        encoded = {key: base64.b64encode(value).decode() for key, value in data.items()}
        home.apply_manifest([{**secret_object(), "data": encoded}])
        yield Hub(home, member, clock, tmp_path)


async def test_it_is_stored_in_the_secret_and_used_at_once_though_the_mount_never_follows(hub: Hub) -> None:
    async with hub.replica() as signer:
        mounted = (signer.mount / KEY).read_text()
        for _ in range(3):
            before = token_life(hub.stored)
            await hub.until(lambda before=before: token_life(hub.stored).issued > before.issued)  # type: ignore[misc]
            assert before.due <= hub.clock.now().timestamp() < before.expires
            assert signer.report.expires == token_life(hub.stored).expires
            await hub.clock.advance(30.0)  # the file is read again, and is older
            await signer.session.get("/version")
            assert signer.session.token_sent == hub.stored
        assert (signer.mount / KEY).read_text() == mounted
        assert hub.asked == 3
        assert {hub.secret()["east"], hub.secret()["east.token"]} == {"another member's", "kept"}
        report = signer.report
        assert (report.renews, report.stored, report.problem) == (
            True,
            f"Secret {SYSTEM}/{NAME}, key {KEY}",
            "",
        )


async def test_after_a_restart_the_secret_counts_where_the_mounted_token_has_ended(hub: Hub) -> None:
    async with hub.replica() as signer:
        mount = signer.mount
        before = hub.stored
        await hub.until(lambda: hub.stored != before)
        await hub.until(lambda: token_life(before).expires < hub.clock.now().timestamp())
        await hub.until(lambda: not signer.report.problem)
    async with hub.replica(mount=mount) as again:
        assert token_life((mount / KEY).read_text()).expires < hub.clock.now().timestamp()
        await again.session.get("/version")
        assert again.session.token_sent == hub.stored


async def test_two_replicas_renew_no_more_often_than_one_and_each_uses_what_is_stored(hub: Hub) -> None:
    async with hub.replica(seed=1) as first, hub.replica(seed=2) as second:
        for _ in range(3):
            before = hub.stored
            await hub.until(lambda before=before: hub.stored != before, step=1.0)  # type: ignore[misc]
            expires = token_life(hub.stored).expires
            await hub.until(lambda e=expires: first.report.expires == second.report.expires == e, step=1.0)  # type: ignore[misc]
        assert hub.asked == 3
        assert first.report.problem == second.report.problem == ""


async def test_a_write_of_another_key_in_between_costs_another_try_and_no_token(hub: Hub) -> None:
    async with hub.replica() as signer:
        before = hub.stored
        conflict = Answer(409, "Conflict", "the object has been modified")
        with hub.home.faults.inject(conflict, verb="patch", resource="secrets", times=2) as fault:
            await hub.until(lambda: hub.stored != before)
            assert fault.hits == 2
        await hub.until(lambda: signer.report.renewed > 0)
        assert (hub.asked, signer.report.problem) == (1, "")


async def test_an_answer_that_is_lost_is_no_failure_once_the_secret_is_read_again(hub: Hub) -> None:
    async with hub.replica() as signer:
        before = hub.stored
        with hub.home.faults.inject(Cut(0), verb="patch", resource="secrets", times=1) as fault:
            await hub.until(lambda: hub.stored != before)
            await hub.until(
                lambda: bool(fault.hits) and not signer.report.problem and signer.report.renewed > 0
            )
        assert hub.asked == 1
        await signer.session.get("/version")
        assert signer.session.token_sent == hub.stored


async def test_without_the_right_it_is_used_all_the_same_and_status_says_what_to_grant(hub: Hub) -> None:
    async with hub.replica() as signer:
        before = hub.stored
        hub.home.delete("roles", SYSTEM, NAME)
        await hub.until(lambda: bool(signer.report.problem))
        await hub.until(lambda: hub.asked >= 2)  # renewed again though nothing can be stored
        assert hub.stored == before
        report = signer.report
        assert "get and patch" in report.remedy
        assert report.expires > token_life(before).expires
        assert hub.clock.now().timestamp() < report.expires
        assert before not in report.problem
        await signer.session.get("/version")
        hub.home.apply_manifest([Tree.of("hub").one("Role", NAME, SYSTEM)])
        await hub.until(lambda: not signer.report.problem)
        assert token_life(hub.stored).expires == signer.report.expires


async def test_a_secret_that_is_set_back_is_brought_up_to_date_at_the_next_renewal(hub: Hub) -> None:
    async with hub.replica() as signer:
        first = hub.stored
        await hub.until(lambda: hub.stored != first)
        await hub.until(lambda: not signer.report.problem)
        hub.store(**{KEY: first})
        hub.follow(signer.mount)
        await hub.until(lambda: hub.stored != first)
        await hub.until(lambda: signer.report.expires == token_life(hub.stored).expires)
        assert signer.report.problem == ""


async def test_a_member_that_was_taken_out_gets_no_key_back(hub: Hub) -> None:
    async with hub.replica() as signer:
        data = hub.secret()
        encoded = {
            k: base64.b64encode(v.encode()).decode() for k, v in data.items() if not k.startswith(FILE)
        }
        hub.home.delete("secrets", SYSTEM, NAME)
        hub.home.apply_manifest([{**secret_object(), "data": encoded}])
        await hub.until(lambda: "not there" in signer.report.problem)
        assert KEY not in hub.secret()


async def test_a_mounted_token_is_not_renewed_where_no_secret_is_configured(hub: Hub) -> None:
    async with hub.replica() as mounted:
        renewal = TokenRenewal(mounted.session, clock=hub.clock, jitter=random.Random(1))
        await renewal.look()
        assert (renewal.report.renews, renewal.report.stored) == (False, "")
