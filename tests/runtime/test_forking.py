"""Children that are forked: what they share, what they do not, and that none is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.patience import PATIENCE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="nothing is forked elsewhere")

PROGRAM = """
import asyncio, json, os, random, signal, sys, time

def prepare():
    import colorsys  # which nothing else has imported

def main(arguments):
    from federation.runtime import processes
    name = arguments[0]
    say = lambda **words: print(json.dumps({"child": name, **words}), flush=True)
    def end(*_):
        # No one may read its standard output any more, and others write to the same log: in one piece.
        os.write(2, f"draining {name}\\n".encode())
        sys.exit(0)
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGHUP, lambda *_: say(reloading=True))
    open_files = sorted(int(each) for each in os.listdir("/proc/self/fd"))[:-1]  # the last is that of the list
    supervised = os.environ.get(processes.VARIABLE)
    processes.hold(grace=30)
    say(
        prepared="colorsys" in sys.modules, open_files=open_files, supervised=supervised, pid=os.getpid(),
        server=os.getppid(), session=os.getsid(0), comm=open("/proc/self/comm").read().strip(),
        command=open("/proc/self/cmdline").read().split("\\0"), drawn=random.random(),
        child_signal=str(signal.getsignal(signal.SIGCHLD)),
    )
    if "fails" in arguments:
        return 3
    while True:
        time.sleep(60)

from federation.runtime import forking
from federation.runtime.clock import SystemClock
from federation.runtime.processes import ChildSpec, Supervisor, handled

random.random()
server = forking.start(prepare, main)

async def supervise():
    stop = asyncio.Event()
    supervisor = Supervisor(
        [ChildSpec(name, tuple(name.split())) for name in sys.argv[1:]],
        clock=SystemClock(), jitter=random.Random(), drain=10, launch=server.launch,
        on_line=lambda line: print(line, flush=True),
    )
    with handled(stop, hangup=lambda: supervisor.forward(signal.SIGHUP)):
        drained = await supervisor.run(stop)
    exits = {name: child.exit for name, child in supervisor.children.items()}
    print(json.dumps({"drained": drained, "exits": exits}), flush=True)

try:
    asyncio.run(supervise())
finally:
    server.close()
"""


class Hub:
    """A supervisor and its forked children, in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def said(self, **wanted: Any) -> dict[str, Any]:
        """The next line that says that."""
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            while True:
                line = await self.process.stdout.readline()
                assert line, "it ended"
                words: dict[str, Any] = json.loads(line)
                if all(words.get(name) == value for name, value in wanted.items()):
                    return words

    async def ended(self) -> tuple[int, str]:
        """Exit code and log, once it and everything that holds its log have ended."""
        assert self.process.stderr is not None
        log = await asyncio.wait_for(self.process.stderr.read(), PATIENCE)
        return await asyncio.wait_for(self.process.wait(), PATIENCE), log.decode()


@contextlib.asynccontextmanager
async def running(*children: str) -> AsyncIterator[Hub]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM, *children),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield Hub(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_children_share_what_was_imported_and_nothing_else() -> None:
    async with running("a", "b") as hub:
        each = {words["child"]: words for words in [await hub.said(prepared=True) for _ in range(2)]}
        assert sorted(each) == ["a", "b"]
        for name, words in each.items():
            assert words["open_files"] == [0, 1, 2], "neither the other's pipes nor the fork server's socket"
            assert (words["supervised"], words["session"], words["comm"]) == ("1", words["pid"], name)
            assert words["command"][:2] == ["federation", name]
            assert words["child_signal"] == str(signal.SIG_DFL)
        assert each["a"]["drawn"] != each["b"]["drawn"], "a generator that is shared is seeded anew"

        hub.process.send_signal(signal.SIGHUP)
        assert {(await hub.said(reloading=True))["child"] for _ in range(2)} == {"a", "b"}

        hub.process.send_signal(signal.SIGTERM)
        assert (await hub.said(drained=True))["exits"] == {"a": 0, "b": 0}
        assert (await hub.ended())[0] == 0


async def test_a_child_that_is_killed_or_fails_is_forked_again() -> None:
    async with running("a", "b fails") as hub:
        first = await hub.said(child="a")
        os.kill(first["pid"], signal.SIGKILL)
        second = await hub.said(child="a")
        assert second["pid"] != first["pid"]
        hub.process.send_signal(signal.SIGTERM)
        await hub.said(drained=True)
        _, log = await hub.ended()
    assert "a ended: it is started again" in log
    assert "b fails ended: it is started again" in log


@pytest.mark.parametrize("killed", ["supervisor", "server"])
async def test_no_child_outlives_its_supervisor_or_goes_unwatched(killed: str) -> None:
    async with running("a") as hub:
        child = await hub.said(child="a")
        os.kill(hub.process.pid if killed == "supervisor" else child["server"], signal.SIGKILL)
        code, log = await hub.ended()  # its log closes once the last of them has ended
    assert "draining a" in log
    assert code == (-signal.SIGKILL if killed == "supervisor" else 1)
    assert ("the process that starts signers and controller has ended" in log) is (killed == "server")


async def test_nothing_is_forked_beside_a_thread() -> None:
    program = (
        "import threading\nfrom federation.runtime import forking\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "print(forking.start(lambda: None, lambda arguments: 1))"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert output == b"None\n"
