"""Many clusters beside each other: whatever befalls one, the others do not notice."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from federation.clusters.members import RECHECK_SECONDS, Members
from federation.core.config.clusters import ClusterConfig, ClusterTimeouts, Credentials
from federation.core.errors import ClusterForbidden, ConfigurationError
from federation.core.identity import ClusterId, ClusterName
from federation.kubernetes.session import ClusterSession
from federation.runtime.clock import SystemClock
from federation_sandbox.cluster import SandboxCluster
from tests.support.clock import VirtualClock
from tests.support.clusters import FAST, eventually

TIMEOUTS = ClusterTimeouts(backoff_first=1.0, backoff_longest=60.0)


class Story:
    """A role that does nothing but remember: what began and ended for which cluster, and how."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.inside: dict[str, Callable[[], Any]] = {}
        self.at_the_end: dict[str, Callable[[], Any]] = {}

    @asynccontextmanager
    async def start(self, config: ClusterConfig) -> AsyncIterator[str]:
        name = str(config.name)
        self.events.append(f"{name} begins")
        try:
            if name in self.inside:
                await self.inside[name]()
            yield f"{name} on {config.network}"
        finally:
            if name in self.at_the_end:
                await self.at_the_end[name]()
            self.events.append(f"{name} ends")


def cluster_config(name: str, directory: Path, **changes: Any) -> ClusterConfig:
    kubeconfig = directory / f"{name}.kubeconfig"
    if not kubeconfig.exists():
        kubeconfig.write_text(usable("first"))
    credentials = Credentials(kubeconfig=kubeconfig)
    config = ClusterConfig(
        name=ClusterName(name),
        cluster_id=ClusterId(name),
        signer=credentials,
        controller=credentials,
        timeouts=TIMEOUTS,
    )
    return replace(config, **changes)


def usable(token: str) -> str:
    return (
        f"clusters: [{{name: c, cluster: {{server: 'https://127.0.0.1:1'}}}}]\n"
        f"users: [{{name: u, user: {{token: {token}}}}}]\n"
        "contexts: [{name: x, context: {cluster: c, user: u}}]\ncurrent-context: x\n"
    )


def members_of(
    start: Callable[[ClusterConfig], AbstractAsyncContextManager[Any]], clock: Any = None
) -> Members[Any]:
    return Members(
        start,
        credentials=lambda config: config.signer,
        clock=clock or SystemClock(),
        jitter=random.Random(1),
    )


def names(members: Members[Any]) -> set[str]:
    return {str(name) for name in members.current}


async def test_clusters_come_and_go(tmp_path: Path) -> None:
    story = Story()
    east, west = (cluster_config(name, tmp_path) for name in ("east", "west"))
    async with members_of(story.start) as members:
        await members.apply([east, west])
        await eventually(lambda: names(members) == {"east", "west"})
        assert members.current[east.name] == "east on "
        assert set(members.configs) == {east.name, west.name}
        await members.apply([west])
        assert names(members) == {"west"}
        await eventually(lambda: "east ends" in story.events)
        assert members.problems == {}
    assert story.events.count("west ends") == 1


async def test_only_what_changed_is_restarted(tmp_path: Path) -> None:
    story = Story()
    east, west = (cluster_config(name, tmp_path) for name in ("east", "west"))
    async with members_of(story.start) as members:
        await members.apply([east, west])
        await eventually(lambda: names(members) == {"east", "west"})
        story.events.clear()
        await members.apply([replace(east, network="blue"), cluster_config("west", tmp_path)])
        await eventually(lambda: members.current.get(east.name) == "east on blue")
        assert story.events == ["east ends", "east begins"]


async def test_one_that_hangs_at_its_start_or_end_delays_no_other(tmp_path: Path) -> None:
    story = Story()
    forever = asyncio.Event()
    story.inside["hung"] = forever.wait
    story.at_the_end["slow"] = forever.wait
    configs = [cluster_config(name, tmp_path) for name in ("hung", "slow", "east")]
    async with members_of(story.start) as members:
        await members.apply(configs)
        await eventually(lambda: names(members) == {"slow", "east"})
        await members.apply([cluster_config("west", tmp_path)])
        await eventually(lambda: names(members) == {"west"})
        assert "east ends" in story.events
        assert "slow ends" not in story.events
        forever.set()
    assert "slow ends" in story.events


async def test_a_successor_waits_for_every_predecessor_of_its_cluster(tmp_path: Path) -> None:
    story = Story()
    gate = asyncio.Event()
    story.at_the_end["east"] = gate.wait
    east = cluster_config("east", tmp_path)
    async with members_of(story.start) as members:
        await members.apply([east])
        await eventually(lambda: names(members) == {"east"})
        for network in ("one", "two"):
            await members.apply([replace(east, network=network)])
        await members.apply([])
        await members.apply([replace(east, network="three")])
        await asyncio.sleep(0.1)
        assert story.events == ["east begins"]
        gate.set()
        await eventually(lambda: members.current.get(east.name) == "east on three")
        assert story.events == ["east begins", "east ends", "east begins"]


async def test_a_crash_is_contained_logged_and_tried_again_ever_more_rarely(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    story = Story()
    clock = VirtualClock()

    async def crash() -> None:
        raise LookupError("a bug")

    story.inside["bad"] = crash
    bad, good = (cluster_config(name, tmp_path) for name in ("bad", "good"))
    async with members_of(story.start, clock) as members:
        await members.apply([bad, good])
        await eventually(lambda: bad.name in members.problems)
        await clock.advance(0.1)
        await eventually(lambda: names(members) == {"good"})
        assert members.problems[bad.name].reason == "crashed"
        for _ in range(6):
            began = story.events.count("bad begins")
            await clock.advance(61.0)
            await eventually(lambda began=began: story.events.count("bad begins") > began)  # type: ignore[misc]
        assert story.events.count("bad begins") <= 7 + 20
        del story.inside["bad"]
        await clock.advance(61.0)
        await eventually(lambda: names(members) == {"bad", "good"})
        assert members.problems == {}
        assert story.events.count("good begins") == 1
    tracebacks = [record for record in caplog.records if record.exc_info]
    assert len(tracebacks) == 1  # the same crash again is not logged again
    assert getattr(tracebacks[0], "cluster", "") == "bad"


async def test_a_task_of_a_member_that_fails_ends_that_member_only(tmp_path: Path) -> None:
    failing = asyncio.Event()

    @asynccontextmanager
    async def start(config: ClusterConfig) -> AsyncIterator[str]:
        async def work() -> None:
            await failing.wait()
            if config.name == ClusterName("bad"):
                raise ClusterForbidden("list pods: 403", where="bad")

        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(work())
            yield "working"
            task.cancel()

    bad, good = (cluster_config(name, tmp_path) for name in ("bad", "good"))
    async with members_of(start) as members:
        await members.apply([bad, good])
        await eventually(lambda: names(members) == {"bad", "good"})
        failing.set()
        await eventually(lambda: bad.name in members.problems)
        assert members.problems[bad.name].reason == "forbidden"  # the one error in the group, not the group
        assert names(members) == {"good"}


async def test_a_member_that_cancels_itself_is_a_crash_and_not_its_end(tmp_path: Path) -> None:
    story = Story()

    async def cancelled() -> None:
        raise asyncio.CancelledError

    story.inside["east"] = cancelled
    east = cluster_config("east", tmp_path)
    clock = VirtualClock()
    async with members_of(story.start, clock) as members:
        await members.apply([east])
        await eventually(lambda: east.name in members.problems)
        del story.inside["east"]
        await clock.advance(5.0)
        await eventually(lambda: names(members) == {"east"})
        assert east.name not in members.problems


async def test_a_member_that_fails_while_it_ends_does_not_rise_again(tmp_path: Path) -> None:
    story = Story()

    async def fail() -> None:
        raise ClusterForbidden("no goodbye", where="east")

    story.at_the_end["east"] = fail
    east = cluster_config("east", tmp_path)
    clock = VirtualClock()
    async with members_of(story.start, clock) as members:
        await members.apply([east])
        await eventually(lambda: names(members) == {"east"})
        await members.apply([])
        for _ in range(5):
            await clock.advance(61.0)
        assert names(members) == set()
        assert members.problems == {}
        assert story.events == ["east begins"]


async def test_a_changed_kubeconfig_restarts_that_cluster_alone(tmp_path: Path) -> None:
    story = Story()
    clock = VirtualClock()
    east, west = (cluster_config(name, tmp_path) for name in ("east", "west"))
    async with members_of(story.start, clock) as members:
        await members.apply([east, west])
        await clock.advance(1.0)
        await eventually(lambda: names(members) == {"east", "west"})
        (tmp_path / "east.kubeconfig").write_text(usable("second"))
        await eventually(lambda: clock.sleeping == 2)
        await clock.advance(RECHECK_SECONDS)
        await eventually(lambda: story.events.count("east begins") == 2)
        assert story.events.count("west begins") == 1
        await eventually(lambda: names(members) == {"east", "west"})


async def test_a_kubeconfig_that_cannot_be_used_changes_nothing_and_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="federation")
    story = Story()
    clock = VirtualClock()
    east = cluster_config("east", tmp_path)
    kubeconfig = tmp_path / "east.kubeconfig"

    async def recheck() -> None:
        await eventually(lambda: clock.sleeping == 1)
        await clock.advance(RECHECK_SECONDS)

    async with members_of(story.start, clock) as members:
        await members.apply([east])
        await eventually(lambda: names(members) == {"east"})
        for broken in ("{", usable("first").replace("https", "http"), ""):
            kubeconfig.write_text(broken)
            await recheck()
            await eventually(lambda: isinstance(members.problems.get(east.name), ConfigurationError))
            assert names(members) == {"east"}
        kubeconfig.unlink()
        await recheck()
        kubeconfig.write_text(usable("first"))
        await recheck()
        await eventually(lambda: not members.problems)
        assert story.events == ["east begins"]
        kubeconfig.write_text(usable("second"))
        await recheck()
        await eventually(lambda: story.events == ["east begins", "east ends", "east begins"])


async def test_a_kubeconfig_that_is_missing_at_first_is_taken_up_when_it_comes(tmp_path: Path) -> None:
    story = Story()
    clock = VirtualClock()
    east = cluster_config("east", tmp_path)
    (tmp_path / "east.kubeconfig").unlink()
    async with members_of(story.start, clock) as members:
        await members.apply([east])
        await eventually(lambda: isinstance(members.problems.get(east.name), ConfigurationError))
        assert "east.kubeconfig" in str(members.problems[east.name])
        (tmp_path / "east.kubeconfig").write_text(usable("first"))
        await eventually(lambda: clock.sleeping == 1)
        await clock.advance(5.0)
        await eventually(lambda: names(members) == {"east"})
        assert members.problems == {}


async def test_a_hundred_clusters_do_not_begin_in_one_instant(tmp_path: Path) -> None:
    story = Story()
    clock = VirtualClock()
    configs = [
        replace(cluster_config("c", tmp_path), name=ClusterName(f"c{number}")) for number in range(100)
    ]
    async with members_of(story.start, clock) as members:
        await members.apply(configs)
        await eventually(lambda: clock.sleeping >= 99)
        assert len(story.events) <= 1
        for _ in range(4):
            await clock.advance(0.5)
        await eventually(lambda: len(members.current) == 100)


async def test_a_real_cluster_moves_to_another_address(tmp_path: Path) -> None:
    """The kubeconfig is rewritten for another API server: the session follows, and its users notice nothing."""

    @asynccontextmanager
    async def start(config: ClusterConfig) -> AsyncIterator[ClusterSession]:
        session = await ClusterSession.open(
            config.signer, cluster=config.name, timeouts=FAST, clock=SystemClock()
        )
        async with session:
            yield session

    async with SandboxCluster("old") as old, SandboxCluster("new") as new:
        config = cluster_config("east", tmp_path, timeouts=FAST)
        kubeconfig = tmp_path / "east.kubeconfig"
        old.write_kubeconfig(kubeconfig)
        members = Members(
            start,
            credentials=lambda config: config.signer,
            clock=SystemClock(),
            jitter=random.Random(1),
            recheck=0.02,
        )
        async with members:
            await members.apply([config])
            await eventually(lambda: config.name in members.current)
            assert members.current[config.name].server == old.url
            new.write_kubeconfig(kubeconfig)
            await eventually(
                lambda: (session := members.current.get(config.name)) and session.server == new.url
            )
            assert await members.current[config.name].get("/version")


async def test_nothing_is_started_once_all_were_stopped(tmp_path: Path) -> None:
    """What applies a configuration may end after the clusters do: an error there would hide why the role ends."""
    story = Story()
    members = members_of(story.start)
    async with members:
        await members.apply([cluster_config("east", tmp_path)])
        await eventually(lambda: names(members) == {"east"})
    await members.apply([cluster_config("east", tmp_path), cluster_config("west", tmp_path)])
    assert story.events == ["east begins", "east ends"]
    assert not members.configs
