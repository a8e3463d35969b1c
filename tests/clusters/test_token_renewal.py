"""A role renews the token of its own account before it ends, and status says early where that does not work."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from federation.clusters.member_objects import member_objects
from federation.core.config.clusters import ClusterTimeouts, Credentials
from federation.core.documents.credential import CredentialReport
from federation.core.identity import ClusterName
from federation.kubernetes.role_kubeconfig import ServerConnection, role_credential
from federation.kubernetes.session import ClusterSession
from federation.kubernetes.token_life import token_life
from federation.kubernetes.token_places import replace_token
from federation.kubernetes.token_renewal import TokenRenewal
from federation.status.model import Attention
from federation.status.view import compose
from federation_sandbox.apiserver.faults import Answer, Garbage
from federation_sandbox.cluster import SandboxCluster
from tests.status.worlds import World
from tests.support.clock import VirtualClock
from tests.support.patience import PATIENCE

LIFE = 600
DAY = 86400.0
NOW = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)


@dataclass
class Role:
    """A role with a token of ten minutes, which it renews."""

    cluster: SandboxCluster
    clock: VirtualClock
    session: ClusterSession
    renewal: TokenRenewal
    file: Path

    async def until(self, wanted: Callable[[], bool], *, step: float = 10.0) -> None:
        """Let time pass until it is so; the renewal talks to a real server meanwhile."""
        async with asyncio.timeout(PATIENCE):
            while not wanted():
                await self.clock.advance(step)
                await asyncio.sleep(0.01)

    @property
    def token(self) -> str:
        return self.file.read_text()


@asynccontextmanager
async def role(directory: Path, *, suffix: str = ".token", share: Role | None = None) -> AsyncIterator[Role]:
    clock = share.clock if share else VirtualClock()
    async with SandboxCluster("west", clock=clock) as fresh:
        cluster = share.cluster if share else fresh
        kubeconfig = directory / "west-signer"
        if share is None:
            cluster.create_namespace("istio-system")
            cluster.apply_manifest(member_objects())
            token = cluster.token(
                "federation-system", "federation-signer", audiences=(cluster.issuer,), expiration=LIFE
            )
            made = role_credential(
                ServerConnection(cluster.url, cluster.ca_pem),
                cluster="west",
                account="federation-signer",
                token=token,
                name=kubeconfig.name,
            )
            kubeconfig.write_bytes(made.kubeconfig.replace(b".token", suffix.encode()))
            file = directory / f"west-signer{suffix}"
            file.touch(mode=0o600)
            file.write_bytes(made.token)
        session = await ClusterSession.open(
            Credentials(kubeconfig=kubeconfig),
            cluster=ClusterName("west"),
            timeouts=ClusterTimeouts(),
            clock=clock,
        )
        async with session:
            renewal = TokenRenewal(session, clock=clock, jitter=random.Random(1))
            task = asyncio.create_task(renewal.run())
            try:
                yield Role(cluster, clock, session, renewal, directory / f"west-signer{suffix}")
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


def asked(cluster: SandboxCluster) -> int:
    return cluster.requests.count(verb="create", resource="serviceaccounts/token")


async def test_a_token_is_renewed_again_and_again_before_it_ends(tmp_path: Path) -> None:
    async with role(tmp_path) as signer:
        for _ in range(3):
            before = signer.token
            life = token_life(before)
            await signer.until(lambda before=before: signer.token != before)  # type: ignore[misc]
            assert life.due <= signer.clock.now().timestamp() < life.expires
            after = token_life(signer.token)
            assert (after.account, after.length) == (life.account, life.length)
            assert stat.S_IMODE(signer.file.stat().st_mode) == 0o600
            await signer.until(lambda after=after: signer.renewal.report.expires == after.expires)  # type: ignore[misc]
            await signer.session.get("/version")
        report = signer.renewal.report
        assert (report.renews, report.problem, report.renewed > 0) == (True, "", True)
        assert asked(signer.cluster) == 3


async def test_a_refusal_is_reported_long_before_the_end_and_passes_once_it_is_granted(
    tmp_path: Path,
) -> None:
    async with role(tmp_path) as signer:
        before = signer.token
        with signer.cluster.faults.inject(
            Answer.forbidden(), verb="create", resource="serviceaccounts/token"
        ) as fault:
            await signer.until(lambda: bool(signer.renewal.report.problem))
            report = signer.renewal.report
            assert signer.clock.now().timestamp() < report.expires - LIFE / 4
            assert report.failed > 0
            assert "manifests/member" in report.remedy
            assert before not in report.problem
            await signer.until(lambda: fault.hits >= 2)
            assert signer.token == before
        await signer.until(lambda: signer.token != before)
        await signer.until(lambda: not signer.renewal.report.problem)
        assert signer.clock.now().timestamp() < report.expires


@pytest.mark.parametrize("put_in", ["\u00e9", "\r\nX-Remote-User: system:admin", " ", "\u0000"])
async def test_an_answer_that_is_no_token_is_not_written_and_ends_nothing(
    tmp_path: Path, put_in: str
) -> None:
    """Decoders of base64 pass over such characters, so that it would be read as a token of the same account."""
    async with role(tmp_path) as signer:
        before = signer.token
        head, claims, signature = before.split(".")
        later = json.loads(base64.urlsafe_b64decode(claims + "==")) | {"exp": 4e9}
        made = base64.urlsafe_b64encode(json.dumps(later).encode()).decode().rstrip("=")
        token = f"{head}.{made}.{signature[:4]}{put_in}{signature[4:]}"
        answer = json.dumps({"status": {"token": token}}).encode()
        with signer.cluster.faults.inject(
            Garbage(201, "application/json", answer), verb="create", resource="serviceaccounts/token"
        ):
            await signer.until(lambda: "is no token" in signer.renewal.report.problem)
            assert signer.token == before
        await signer.until(lambda: signer.token != before)


async def test_a_token_of_another_name_is_anothers_to_renew(tmp_path: Path) -> None:
    async with role(tmp_path, suffix="-projected") as signer:
        before = signer.token
        await signer.until(lambda: signer.clock.monotonic() > LIFE * 0.9)
        assert signer.token == before
        assert signer.renewal.report.renews is False
        assert signer.renewal.report.expires == token_life(before).expires
        assert asked(signer.cluster) == 0


async def test_of_two_processes_that_share_the_file_one_is_enough(tmp_path: Path) -> None:
    async with role(tmp_path) as first, role(tmp_path, share=first) as second:
        before = first.token
        written = {before}

        def both_know_a_new_one() -> bool:
            written.add(first.token)
            expires = token_life(before).expires
            return all(each.renewal.report.expires > expires for each in (first, second))

        # Small steps: on a slow machine the next renewal may be due before the second process has looked.
        await first.until(both_know_a_new_one, step=1.0)
        renewals = len(written | {first.token}) - 1
        assert renewals >= 1
        assert asked(first.cluster) <= 2 * renewals, "at most where both asked at the same moment"
        assert first.renewal.report.problem == second.renewal.report.problem == ""


def test_a_token_that_another_process_has_written_stays(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("theirs\n")
    assert replace_token(file, before="ours", after="new") is False
    assert file.read_text() == "theirs\n"
    assert replace_token(file, before="theirs", after="new") is True
    assert [path.name for path in tmp_path.iterdir()] == ["token"]


@pytest.mark.parametrize(
    ("left", "life", "severity"),
    [
        (31 * DAY, 365 * DAY, None),
        (29 * DAY, 365 * DAY, "warning"),
        (2 * DAY, 365 * DAY, "critical"),
        (-1.0, 365 * DAY, "critical"),
        (700.0, 3600.0, None),  # a projected token, which the kubelet renews with a fifth left
        (500.0, 3600.0, "warning"),
        (100.0, 3600.0, "critical"),
    ],
)
@pytest.mark.parametrize("by", ["signer", "controller"])
def test_status_says_that_a_credential_ends(left: float, life: float, severity: str | None, by: str) -> None:
    now = NOW.timestamp()
    items = shown(by, CredentialReport(issued=now + left - life, expires=now + left))
    assert [item.severity for item in items] == ([severity] if severity else [])
    assert all(by in item.detail and "clusters add west" in item.remedy for item in items)


def test_status_says_when_the_last_renewal_failed_though_the_end_is_far() -> None:
    now = NOW.timestamp()
    report = CredentialReport(
        issued=now - 10 * DAY,
        expires=now + 100 * DAY,
        renews=True,
        failed=now - 60,
        problem="403",
        remedy="grant it",
    )
    (item,) = shown("signer", report)
    assert (item.severity, item.code, item.remedy) == ("warning", "credential_not_renewed", "grant it")
    assert "2026-11-24 11:59:00 UTC" in item.detail


def shown(by: str, report: CredentialReport) -> list[Attention]:
    world = World(["east", "west"], NOW.timestamp())
    if by == "signer":
        world.edit_on_signer("signer-0", "west", credential=report)
    else:
        world.edit_seen("west", credential=report)
    status = compose(world.document_set(), world.config, NOW)
    view = next(view for view in status.clusters if view.name == "west")
    assert any(each.role == by and each.expires == report.expires for each in view.credentials)
    return [item for item in status.attention if item.code.startswith("credential_")]
