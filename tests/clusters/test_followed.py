"""The session of the state follows its kubeconfig: a token that expires is replaced without a restart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from federation.clusters.members import RECHECK_SECONDS, FollowedSession, followed
from federation.core.config.clusters import ClusterTimeouts, Credentials
from federation.core.errors import ClusterError, ClusterUnauthorized, ClusterUnreachable, ConfigurationError
from federation.core.identity import ClusterName
from federation.kubernetes.session import ClusterSession
from federation_sandbox.cluster import SandboxCluster
from tests.support.clock import VirtualClock
from tests.support.patience import PATIENCE

PATH = "/api/v1/namespaces/default"


@pytest.fixture
async def box() -> AsyncIterator[SandboxCluster]:
    async with SandboxCluster("state", controllers=False, signing_algorithm="ES256") as cluster:
        yield cluster


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[ClusterSession]:
    """Every session that is opened, the newest last."""
    made, open_session = list[ClusterSession](), ClusterSession.open

    async def noted(*arguments: Any, **options: Any) -> ClusterSession:
        made.append(await open_session(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(ClusterSession, "open", noted)
    return made


@asynccontextmanager
async def opened(kubeconfig: Path, clock: VirtualClock) -> AsyncIterator[FollowedSession]:
    async with followed(
        Credentials(kubeconfig=kubeconfig),
        cluster=ClusterName("state"),
        timeouts=ClusterTimeouts(),
        clock=clock,
        connections=4,
    ) as session:
        yield session


async def works(session: FollowedSession) -> bool:
    try:
        await session.request("GET", PATH)
    except ClusterError:
        return False
    return True


async def until(wanted: Callable[[], Awaitable[bool]], clock: VirtualClock) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await wanted():
            await clock.advance(1.0)
            await asyncio.sleep(0.01)


async def looked(clock: VirtualClock) -> None:
    """Let two looks at the kubeconfig pass; threads read it, so real time has to pass as well."""
    for _ in range(2):
        await clock.until_sleeping()
        await clock.advance(RECHECK_SECONDS)
        await asyncio.sleep(0.2)


async def test_a_token_that_has_expired_is_replaced_in_place(
    box: SandboxCluster, tmp_path: Path, sessions: list[ClusterSession]
) -> None:
    clock = VirtualClock()
    kubeconfig = box.write_kubeconfig(tmp_path / "kubeconfig", token="expired")
    async with opened(kubeconfig, clock) as session:
        with pytest.raises(ClusterUnauthorized):
            await session.request("GET", PATH)
        kubeconfig.write_text("half a kubeconf")
        await looked(clock)
        box.write_kubeconfig(kubeconfig)
        await until(lambda: works(session), clock)
        assert len(sessions) == 2
        kubeconfig.write_text("half a kubeconf")
        await looked(clock)
        assert await works(session), "what was good stays in use"
        kubeconfig.unlink()
        await looked(clock)
        assert await works(session)
        assert len(sessions) == 2, "the very same session goes on"
    with pytest.raises(ClusterUnreachable, match="closed"):
        await session.request("GET", PATH)


async def test_requests_under_way_end_with_the_session_that_they_began_with(
    box: SandboxCluster, tmp_path: Path, sessions: list[ClusterSession]
) -> None:
    clock = VirtualClock()
    kubeconfig = box.write_kubeconfig(tmp_path / "kubeconfig")
    async with opened(kubeconfig, clock) as session:
        (before,) = sessions
        box.write_kubeconfig(kubeconfig, "another", groups=("system:masters",))

        async def replaced() -> bool:
            await session.request("GET", PATH)
            return box.requests.recent[-1].user == "another"

        await until(replaced, clock)
        await before.get(PATH)  # it stays open for as long as a request may take
        await clock.advance(ClusterTimeouts().request + 1)
        with pytest.raises(ClusterUnreachable, match="closed"):
            await before.get(PATH)
        assert await works(session)


async def test_the_state_moves_to_no_other_server_while_a_role_runs(
    box: SandboxCluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = VirtualClock()
    kubeconfig = box.write_kubeconfig(tmp_path / "kubeconfig")
    async with (
        SandboxCluster("other", controllers=False, signing_algorithm="ES256") as other,
        opened(kubeconfig, clock) as session,
    ):
        other.write_kubeconfig(kubeconfig)
        await looked(clock)
        seen = len(other.requests.recent)
        box.requests.reset()
        assert await works(session)
        assert (box.requests.count(verb="get"), len(other.requests.recent)) == (1, seen)
        assert "names another API server" in caplog.text


async def test_credentials_that_cannot_be_used_at_all_open_nothing(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.touch(mode=0o600)
    with pytest.raises(ConfigurationError):
        async with opened(kubeconfig, VirtualClock()):
            pytest.fail("opened")
