"""A disk that hangs, a leader that is killed, a lock file that is replaced: what only files can suffer.

Kills and races that any store can meet are in test_contract.py.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import threading
from pathlib import Path

import pytest

from federation.core.errors import StateUnavailable
from federation.runtime.clock import SystemClock
from federation.state.files import FileStore
from tests.state.places import Directory, spawn
from tests.support.clock import VirtualClock
from tests.support.patience import PATIENCE


async def test_a_hung_disk_is_an_error_in_time_and_its_write_never_lands_late(tmp_path: Path) -> None:
    """Another process is in a write and has the lock, as it would while its disk hangs."""
    directory = tmp_path / "state"
    store = FileStore(directory, SystemClock(), timeout=0.2)
    await store.write("current", b"before")
    holder = os.open(directory / "locks" / "documents", os.O_RDWR)
    try:
        fcntl.flock(holder, fcntl.LOCK_EX)
        with pytest.raises(StateUnavailable, match="too slow"):
            await store.write("current", b"given up")
        read = await store.read("current")  # reads need no lock
        assert read is not None
        assert read.data == b"before"
    finally:
        os.close(holder)
    await no_more_calls()
    found = await store.read("current")
    assert found is not None
    assert found.data == b"before"
    version = await store.write("current", b"after")
    assert await store.write("current", b"and on", expected=version) != version


async def no_more_calls() -> None:
    """Wait until every thread of the store has come back."""
    async with asyncio.timeout(PATIENCE):
        while any(thread.name == "state-io" for thread in threading.enumerate()):
            await asyncio.sleep(0.01)


async def test_many_hung_calls_take_no_more_threads_and_recover(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    store = FileStore(directory, SystemClock(), timeout=0.3)
    await store.write("current", b"before")
    holder = os.open(directory / "locks" / "documents", os.O_RDWR)
    fcntl.flock(holder, fcntl.LOCK_EX)
    outcomes = await asyncio.gather(
        *(store.write("current", b"x") for _ in range(60)), return_exceptions=True
    )
    assert all(isinstance(outcome, StateUnavailable) for outcome in outcomes)
    assert sum(thread.name == "state-io" for thread in threading.enumerate()) <= 16
    os.close(holder)
    await no_more_calls()
    await store.write("current", b"after")
    found = await store.read("current")
    assert found is not None
    assert found.data == b"after"


async def test_a_killed_leader_is_followed_at_once(tmp_path: Path) -> None:
    other = await spawn("lead", Directory(tmp_path / "state"))
    assert other.stdout is not None
    assert await asyncio.wait_for(other.stdout.readline(), PATIENCE) == b"leading True\n"
    lock = tmp_path / "state" / "locks" / "lead@controller"
    assert lock.read_text() == f"the-other pid={other.pid}\n"

    store = FileStore(tmp_path / "state", SystemClock())
    leading = asyncio.Event()

    async def follow() -> bool:
        async with store.lead("controller", identity="me") as leadership:
            leading.set()
            return leadership.leading

    follower = asyncio.create_task(follow())
    await asyncio.sleep(0.2)
    assert not leading.is_set()
    other.send_signal(signal.SIGKILL)
    await asyncio.wait_for(other.communicate(), PATIENCE)
    async with asyncio.timeout(PATIENCE):
        assert await follower
    assert lock.read_text().startswith("me pid=")


async def test_a_lock_file_that_was_replaced_ends_leadership(tmp_path: Path) -> None:
    """If the file is removed, a second process can lock a new one: the first must notice that it no longer leads."""
    clock = VirtualClock()
    store = FileStore(tmp_path / "state", clock)
    async with store.lead("controller", identity="a") as leadership:
        await clock.until_sleeping()
        (tmp_path / "state" / "locks" / "lead@controller").unlink()
        await clock.advance(1.0)
        async with asyncio.timeout(PATIENCE):
            while leadership.leading:
                await asyncio.sleep(0.01)
    assert not leadership.leading
