"""Children are kept running, drained, and never left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from federation.runtime.clock import SystemClock
from federation.runtime.processes import (
    BACKOFF_LONGEST,
    HEALTHY,
    ChildSpec,
    Supervisor,
    describe_exit,
    executing,
)
from tests.support.clock import VirtualClock
from tests.support.patience import PATIENCE

PRELUDE = "import os, signal, sys, time\nsay = lambda *words: print(*words, flush=True)\n"
OBEDIENT = f"""{PRELUDE}
def end(*_):
    say("draining", sys.argv[1])
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
signal.signal(signal.SIGHUP, lambda *_: say("reloading", sys.argv[1]))
say("running", sys.argv[1])
while True:
    time.sleep(60)
"""
STUBBORN = f"""{PRELUDE}
signal.signal(signal.SIGTERM, signal.SIG_IGN)
say("running", sys.argv[1])
time.sleep(60)
"""


class Watched:
    """A supervisor under test, with what its children printed."""

    def __init__(
        self,
        script: str,
        *names: str,
        drain: float = 10.0,
        clock: VirtualClock | None = None,
        python: str = sys.executable,
    ) -> None:
        self.lines: list[str] = []
        self.stop = asyncio.Event()
        self.supervisor = Supervisor(
            [ChildSpec(name, (name,)) for name in names],
            clock=clock or SystemClock(),
            jitter=random.Random(3),
            drain=drain,
            on_line=self.lines.append,
            launch=executing((python, "-c", script)),
        )

    def kill(self, name: str) -> None:
        """End that child at once, as the kernel does where memory runs out."""
        pid = self.supervisor.children[name].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                await asyncio.sleep(0.01)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[bool]]:
        task = asyncio.create_task(self.supervisor.run(self.stop))
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_children_run_and_drain() -> None:
    hub = Watched(OBEDIENT, "a", "b")
    async with hub.running() as task:
        await hub.until(lambda: {"running a", "running b"} <= set(hub.lines))
        assert all(child.pid for child in hub.supervisor.children.values())
        hub.stop.set()
        assert await asyncio.wait_for(task, PATIENCE) is True
    assert {"draining a", "draining b"} <= set(hub.lines)
    assert [(child.pid, child.exit, child.restarts) for child in hub.supervisor.children.values()] == [
        (None, 0, 0),
        (None, 0, 0),
    ]


async def test_a_child_that_does_not_drain_is_killed_and_logged() -> None:
    hub = Watched(STUBBORN, "a", drain=0.2)
    async with hub.running() as task:
        await hub.until(lambda: bool(hub.lines))
        hub.stop.set()
        assert await asyncio.wait_for(task, PATIENCE) is False
    assert hub.supervisor.children["a"].exit == -signal.SIGKILL


async def test_a_hangup_reaches_every_child() -> None:
    hub = Watched(OBEDIENT, "a", "b")
    async with hub.running():
        await hub.until(lambda: len(hub.lines) == 2)
        hub.supervisor.forward(signal.SIGHUP)
        await hub.until(lambda: {"reloading a", "reloading b"} <= set(hub.lines))
        assert all(child.restarts == 0 for child in hub.supervisor.children.values())


async def test_one_killed_child_is_started_again_and_the_other_never_notices() -> None:
    hub = Watched(OBEDIENT, "a", "b")
    async with hub.running():
        await hub.until(lambda: len(hub.lines) == 2)
        before = {name: child.pid for name, child in hub.supervisor.children.items()}
        hub.kill("a")
        await hub.until(lambda: hub.lines.count("running a") == 2)
        children = hub.supervisor.children
        assert children["a"].pid not in {None, before["a"]}
        assert children["a"].restarts == 1
        assert children["b"].pid == before["b"]


async def test_a_child_that_cannot_use_what_is_configured_ends_everything_at_the_first_start_only() -> None:
    """It was started again 96 times. One that ran before is: a file exchanged now must not end those that work."""
    script = OBEDIENT.replace(PRELUDE, f"{PRELUDE}\nif sys.argv[1] == 'b': sys.exit(2)\n", 1)
    hub = Watched(script, "a", "b")
    async with hub.running() as task:
        assert await asyncio.wait_for(task, PATIENCE) is True
    assert (hub.supervisor.refused, hub.stop.is_set()) == (True, True)
    assert [child.restarts for child in hub.supervisor.children.values()] == [0, 0]


async def test_a_child_that_worked_before_is_started_again_whatever_it_says(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    once = f"\nimport pathlib\nif (mark := pathlib.Path({str(mark)!r})).exists(): sys.exit(2)\nmark.touch()\n"
    clock = VirtualClock()
    hub = Watched(OBEDIENT.replace(PRELUDE, PRELUDE + once, 1), "a", clock=clock)
    async with hub.running():
        await hub.until(lambda: hub.lines == ["running a"])
        hub.kill("a")
        for restarts in (1, 2, 3):
            await hub.until(lambda: clock.sleeping == 1)
            assert hub.supervisor.children["a"].restarts == restarts
            await clock.advance(clock.next_wake or 0.0)
        assert not hub.supervisor.refused
        assert not hub.stop.is_set()


async def test_failures_in_a_row_wait_longer_and_longer_with_jitter() -> None:
    clock = VirtualClock()
    hub = Watched(f"{PRELUDE}sys.exit(3)", "a", clock=clock)
    async with hub.running():
        for failures in range(9):
            await hub.until(lambda: clock.sleeping == 1)
            assert hub.supervisor.children["a"].exit == 3
            assert hub.supervisor.children["a"].restarts == failures + 1
            full = min(0.5 * 2**failures, BACKOFF_LONGEST)
            assert full / 2 <= clock.slept[-1] <= full
            await clock.advance(clock.next_wake or 0.0)
    assert len(set(clock.slept)) == len(clock.slept)


async def test_a_child_that_was_healthy_for_a_while_is_restarted_soon() -> None:
    clock = VirtualClock()
    script = f"{PRELUDE}say('running')\ntime.sleep(60)"
    hub = Watched(script, "a", clock=clock)
    async with hub.running():
        for life in range(6):
            await hub.until(lambda: len(hub.lines) == life + 1)  # noqa: B023 - called at once
            if life == 5:
                await clock.advance(HEALTHY)
            hub.kill("a")
            await hub.until(lambda: clock.sleeping == 1)
            if life == 4:
                assert clock.slept[-1] >= 4.0
            if life == 5:
                assert clock.slept[-1] <= 0.5
            await clock.advance(clock.next_wake or 0.0)


async def test_stop_ends_a_wait_for_a_restart() -> None:
    clock = VirtualClock()
    hub = Watched(f"{PRELUDE}sys.exit(1)", "a", clock=clock)
    async with hub.running() as task:
        await hub.until(lambda: clock.sleeping == 1)
        hub.stop.set()
        assert await asyncio.wait_for(task, PATIENCE) is True


async def test_a_program_that_is_not_there_is_retried(tmp_path: Path) -> None:
    clock = VirtualClock()
    hub = Watched(OBEDIENT, "a", clock=clock, python=str(tmp_path / "nothing"))
    async with hub.running():
        await hub.until(lambda: clock.sleeping == 1)
        assert describe_exit(hub.supervisor.children["a"].exit) == "not started"


async def test_cancellation_leaves_no_child_behind() -> None:
    hub = Watched(STUBBORN, "a", "b")
    async with hub.running() as task:
        await hub.until(lambda: len(hub.lines) == 2)
        pids = [child.pid for child in hub.supervisor.children.values() if child.pid is not None]
        assert len(pids) == 2
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, PATIENCE)
    assert [child.exit for child in hub.supervisor.children.values()] == [-signal.SIGKILL, -signal.SIGKILL]
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_output_without_end_does_not_stop_a_child() -> None:
    script = f"{PRELUDE}sys.stdout.write('x' * 300_000)\nsay('')\nsay('after', sys.argv[1])\ntime.sleep(60)"
    hub = Watched(script, "a")
    async with hub.running():
        await hub.until(lambda: "after a" in hub.lines)
        assert hub.supervisor.children["a"].restarts == 0


SUPERVISOR = """
import asyncio, random, sys
from federation.runtime.clock import SystemClock
from federation.runtime.processes import ChildSpec, Supervisor, executing

supervisor = Supervisor(
    [ChildSpec("a", ())],
    clock=SystemClock(),
    jitter=random.Random(),
    drain=5,
    on_line=lambda line: print(line, flush=True),
    launch=executing((sys.executable, "-c", sys.argv[1])),
)
asyncio.run(supervisor.run(asyncio.Event()))
"""
ORPHAN = f"""{PRELUDE}
from federation.runtime import processes as lifeline
def end(*_):
    sys.stderr.write("drained")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
lifeline.hold(grace=30)
say(sys.stdin.read() == "", lifeline.VARIABLE in os.environ)
time.sleep(60)
"""
HUNG_ORPHAN = f"""{PRELUDE}
from federation.runtime import processes as lifeline
signal.signal(signal.SIGTERM, signal.SIG_IGN)
lifeline.hold(grace=0.2)
say("True False")
time.sleep(60)
"""


@pytest.mark.parametrize(("script", "last_words"), [(ORPHAN, b"drained"), (HUNG_ORPHAN, b"")])
async def test_children_do_not_outlive_a_killed_supervisor(script: str, last_words: bytes) -> None:
    """The child holds the supervisor's stderr: that it closes says that the child has ended."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SUPERVISOR, script),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    # Standard input is empty and the variable gone: what a role starts must not hold the lifeline.
    assert await asyncio.wait_for(process.stdout.readline(), PATIENCE) == b"True False\n"
    process.kill()
    words = await asyncio.wait_for(process.stderr.read(), PATIENCE)
    assert words.endswith(last_words)
    assert await process.wait() == -signal.SIGKILL


async def test_without_a_supervisor_standard_input_is_left_alone() -> None:
    script = (
        f"{PRELUDE}from federation.runtime import processes as lifeline\n"
        "lifeline.hold(grace=1)\nsay(sys.stdin.read())"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await asyncio.wait_for(process.communicate(b"typed"), PATIENCE)
    assert output == b"typed\n"
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("code", "words"),
    [(0, "exit code 0"), (2, "exit code 2"), (-9, "killed by SIGKILL"), (-250, "killed by signal 250")],
)
def test_exit_codes_in_words(code: int, words: str) -> None:
    assert describe_exit(code) == words
