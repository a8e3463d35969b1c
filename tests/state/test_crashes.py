"""Killed at any moment, slowed down, raced: what was acknowledged is there, and nothing is ever half there."""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
import signal
import sys
import threading
from pathlib import Path

import pytest

from federation.core.errors import StateUnavailable
from federation.runtime.clock import SystemClock
from federation.state.files import FileStore
from federation.state.store import StateConflict
from tests.support.clock import VirtualClock

WRITER = """
import asyncio, sys
from pathlib import Path
from federation.runtime.clock import SystemClock
from federation.state.files import FileStore

async def main():
    store = FileStore(Path(sys.argv[1]), SystemClock())
    found = await store.read("current")
    number = int(found.data.split()[0]) if found else 0
    version = found.version if found else None
    while True:
        number += 1
        data = b"%d " % number + b"x" * (number * 997 % 20000)
        version = await store.write("current", data, expected=version, create=version is None)
        sys.stdout.write(f"{number}\\n")
        sys.stdout.flush()

asyncio.run(main())
"""


WAITING_WRITER = WRITER.replace("asyncio.run(main())", "sys.stdin.readline()\nasyncio.run(main())")


async def spawn(script: str, *arguments: object) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        script,
        *map(str, arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )


async def kill(process: asyncio.subprocess.Process) -> bytes:
    process.send_signal(signal.SIGKILL)
    output, _ = await asyncio.wait_for(process.communicate(), 20)
    return output


async def test_kill_at_any_moment_loses_and_damages_nothing(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    moments = random.Random(7)
    acknowledged = 0
    writer = await spawn(WRITER, directory)
    for _ in range(20):
        successor = await spawn(
            WAITING_WRITER, directory
        )  # started beforehand: starting Python is the slow part
        assert writer.stdout is not None
        first = await asyncio.wait_for(writer.stdout.readline(), 20)
        await asyncio.sleep(moments.uniform(0, 0.03))
        output = first + await kill(writer)
        acknowledged = int(output[: output.rindex(b"\n")].splitlines()[-1])
        found = await FileStore(directory, SystemClock()).read("current")
        assert found is not None
        number, _, filler = found.data.partition(b" ")
        assert acknowledged <= int(number) <= acknowledged + 1
        assert filler == b"x" * (int(number) * 997 % 20000)
        assert successor.stdin is not None
        successor.stdin.write(b"go\n")
        writer = successor
    await kill(writer)
    assert acknowledged >= 20


COUNTER = """
import asyncio, sys
from pathlib import Path
from federation.runtime.clock import SystemClock
from federation.state.files import FileStore
from federation.state.store import StateConflict

async def main():
    store = FileStore(Path(sys.argv[1]), SystemClock())
    for _ in range(int(sys.argv[2])):
        while True:
            found = await store.read("current")
            try:
                await store.write(
                    "current",
                    b"%d" % (int(found.data) + 1 if found else 1),
                    expected=found.version if found else None,
                    create=found is None,
                )
                break
            except StateConflict:
                pass

asyncio.run(main())
"""


async def test_no_swap_is_lost_between_processes(tmp_path: Path) -> None:
    counters = [await spawn(COUNTER, tmp_path / "state", 40) for _ in range(3)]
    for counter in counters:
        assert await asyncio.wait_for(counter.wait(), 60) == 0
        await counter.communicate()
    found = await FileStore(tmp_path / "state", SystemClock()).read("current")
    assert found is not None
    assert int(found.data) == 120


async def test_no_create_wins_twice_within_a_process(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "state", SystemClock())
    outcomes = await asyncio.gather(
        *(store.write("current", b"%d" % n, create=True) for n in range(40)), return_exceptions=True
    )
    assert sum(isinstance(outcome, str) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, StateConflict) for outcome in outcomes) == 39


async def test_a_hung_disk_is_an_error_in_time_and_its_write_never_lands_late(tmp_path: Path) -> None:
    """Another process sits in a write: the lock is held, as it is while its disk hangs."""
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
    for _ in range(200):
        if not any(thread.name == "state-io" for thread in threading.enumerate()):
            return
        await asyncio.sleep(0.01)
    pytest.fail("a call of the store never came back")


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


LEADER = """
import asyncio, sys
from pathlib import Path
from federation.runtime.clock import SystemClock
from federation.state.files import FileStore

async def main():
    store = FileStore(Path(sys.argv[1]), SystemClock())
    async with store.lead("controller", identity="the-other") as leadership:
        print("leading", leadership.held, flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_a_killed_leader_is_followed_at_once(tmp_path: Path) -> None:
    other = await spawn(LEADER, tmp_path / "state")
    assert other.stdout is not None
    assert await asyncio.wait_for(other.stdout.readline(), 20) == b"leading True\n"
    lock = tmp_path / "state" / "locks" / "lead@controller"
    assert lock.read_text() == f"the-other pid={other.pid}\n"

    store = FileStore(tmp_path / "state", SystemClock())
    leading = asyncio.Event()

    async def follow() -> bool:
        async with store.lead("controller", identity="me") as leadership:
            leading.set()
            return leadership.held

    follower = asyncio.create_task(follow())
    await asyncio.sleep(0.2)
    assert not leading.is_set()
    await kill(other)
    async with asyncio.timeout(5):
        assert await follower
    assert lock.read_text().startswith("me pid=")


async def test_leadership_ends_with_the_context_and_one_leads_at_a_time(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "state", SystemClock())
    async with store.lead("controller", identity="a") as first:
        assert first.held
        async with store.lead("another", identity="a") as unrelated:
            assert unrelated.held
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1), store.lead("controller", identity="b"):
                pytest.fail("two leaders")
        assert first.held
    assert not first.held
    async with store.lead("controller", identity="b") as second:
        assert second.held


async def test_a_follower_cancelled_at_any_moment_holds_nothing(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "state", SystemClock())
    moments = random.Random(11)

    async def follow() -> None:
        async with store.lead("controller", identity="cancelled"):
            await asyncio.sleep(60)

    for _ in range(40):
        task = asyncio.create_task(follow())
        await asyncio.sleep(moments.uniform(0, 0.004))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    async with asyncio.timeout(5), store.lead("controller", identity="next") as leadership:
        assert leadership.held


async def test_a_lock_file_that_was_replaced_ends_leadership(tmp_path: Path) -> None:
    """Whoever removes the file lets a second process lock a new one: the first must know that it leads no more."""
    clock = VirtualClock()
    store = FileStore(tmp_path / "state", clock)
    async with store.lead("controller", identity="a") as leadership:
        await clock.until_sleeping()
        (tmp_path / "state" / "locks" / "lead@controller").unlink()
        await clock.advance(1.0)
        for _ in range(200):
            if not leadership.held:
                break
            await asyncio.sleep(0.01)
        assert not leadership.held
    assert not leadership.held
