"""Keeps child processes of this program running: restarts with backoff, forwards signals, drains, and kills last.

A child is ``python -m federation <arguments>``. Its log goes where the supervisor's goes; what it prints on
standard output is handed on line by line.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from federation.core.clock import Clock
from federation.runtime.lifeline import VARIABLE

log = logging.getLogger(__name__)

BACKOFF_FIRST: Final = 0.5
BACKOFF_LONGEST: Final = 30.0
"""Seconds between a child's end and its restart; each is multiplied by a random 0.5 to 1."""

HEALTHY: Final = 30.0
"""Seconds a child must have run for its next failure to count as the first."""

UNUSABLE: Final = 2
"""The exit code of a child that says why what is configured cannot be used: starting it again mends nothing."""

KILL_LIMIT: Final = 5.0
"""Seconds until the kernel must have taken a killed process away."""

MAX_LINE: Final = 64 * 1024
PROGRAM: Final = (sys.executable, "-m", "federation")


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """One child: a name for logs, and the arguments of ``python -m federation``."""

    name: str
    arguments: tuple[str, ...]


@dataclass(slots=True)
class ChildState:
    """What the supervisor knows of a child; ``exit`` is a code, or minus the signal that ended it."""

    pid: int | None = None
    restarts: int = 0
    exit: int | None = None


class Supervisor:
    """Runs children until told to stop. ``drain`` is how many seconds they get after SIGTERM."""

    def __init__(
        self,
        specs: Sequence[ChildSpec],
        *,
        clock: Clock,
        jitter: random.Random,
        drain: float,
        on_line: Callable[[str], None],
        program: Sequence[str] = PROGRAM,
    ) -> None:
        self.children = {spec.name: ChildState() for spec in specs}
        self._specs = tuple(specs)
        self._clock = clock
        self._jitter = jitter
        self._drain = drain
        self._on_line = on_line
        self._program = tuple(program)
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self.refused = False
        """Whether a child refused its configuration when it was started for the first time."""

    def forward(self, number: signal.Signals) -> None:
        """Send a signal to every child that runs."""
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)

    async def run(self, stop: asyncio.Event) -> bool:
        """Start the children and keep them running until ``stop``; True if all of them drained in time.

        A child whose first life ends with the code of what cannot be used sets ``stop`` itself (:attr:`refused`).

        Leaving it, by ``stop``, cancellation or an error, leaves no child behind.
        """
        drained: list[bool] = []

        async def keep(spec: ChildSpec) -> None:
            drained.append(await self._keep(spec, stop))

        async with asyncio.TaskGroup() as group:
            for spec in self._specs:
                group.create_task(keep(spec))
        return all(drained)

    async def _keep(self, spec: ChildSpec, stop: asyncio.Event) -> bool:
        state, failures = self.children[spec.name], 0
        while not stop.is_set():
            started = self._clock.monotonic()
            outcome = await self._once(spec, state, stop)
            if outcome is not None:
                return outcome
            if state.exit == UNUSABLE and state.restarts == 0:
                # One that has run before is started again: a file that is exchanged now must not end the others.
                log.error(
                    "%s cannot use what is configured: everything ends", spec.name, extra={"child": spec.name}
                )
                self.refused = True
                stop.set()
                return True
            failures = 1 if self._clock.monotonic() - started >= HEALTHY else failures + 1
            state.restarts += 1
            delay = min(BACKOFF_FIRST * 2 ** min(failures - 1, 16), BACKOFF_LONGEST)
            delay *= self._jitter.uniform(0.5, 1.0)
            log.error(
                "%s ended: it is started again in %.1f s",
                spec.name,
                delay,
                extra={"child": spec.name, "exit": describe_exit(state.exit), "restarts": state.restarts},
            )
            await self._pause(delay, stop)
        return True

    async def _once(self, spec: ChildSpec, state: ChildState, stop: asyncio.Event) -> bool | None:
        """One life of a child: None where it ended by itself, else whether it drained in time."""
        try:
            process = await self._spawn(spec)
        except OSError as error:
            log.error("%s cannot be started: %s", spec.name, error.strerror, extra={"child": spec.name})  # noqa: TRY400 - the traceback would say no more
            state.exit = None
            return None
        self._processes[spec.name], state.pid = process, process.pid
        log.info("%s runs", spec.name, extra={"child": spec.name, "pid": process.pid})
        reading = asyncio.create_task(self._hand_on(process))
        stopping = asyncio.create_task(stop.wait())
        ending = asyncio.create_task(process.wait())
        try:
            await asyncio.wait({stopping, ending}, return_when=asyncio.FIRST_COMPLETED)
            return None if ending.done() else await self._end(spec, process, self._drain)
        finally:
            if process.returncode is None:
                await self._end(spec, process, 0.0)
            for task in (reading, stopping, ending):
                task.cancel()
            await asyncio.gather(reading, stopping, ending, return_exceptions=True)
            state.pid, state.exit = None, process.returncode
            del self._processes[spec.name]

    async def _spawn(self, spec: ChildSpec) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *self._program,
            *spec.arguments,
            stdin=asyncio.subprocess.PIPE,  # its lifeline: closed by the kernel when this process dies
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, VARIABLE: "1"},
            limit=MAX_LINE,
            start_new_session=True,  # a Ctrl-C at the terminal reaches the supervisor, which drains
        )

    async def _hand_on(self, process: asyncio.subprocess.Process) -> None:
        """Hand on what the child prints, so that its pipe never fills."""
        output = process.stdout
        if output is None:
            raise RuntimeError("the child has no standard output")
        while True:
            try:
                line = await output.readline()
            except ValueError:  # a line above the limit: the reader has dropped it
                continue
            if not line:
                return
            self._on_line(line.decode("utf-8", "replace").rstrip())

    async def _end(self, spec: ChildSpec, process: asyncio.subprocess.Process, drain: float) -> bool:
        """SIGTERM, wait ``drain`` seconds, SIGKILL; True if the child ended before that."""
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(drain):
                await process.wait()
        if process.returncode is not None:
            log.info("%s has drained", spec.name, extra={"exit": describe_exit(process.returncode)})
            return True
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        log.warning("%s did not drain within %g s and was killed", spec.name, drain)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(KILL_LIMIT):
                await process.wait()
        return False

    async def _pause(self, seconds: float, stop: asyncio.Event) -> None:
        """Sleep, unless told to stop."""
        tasks = {asyncio.create_task(self._clock.sleep(seconds)), asyncio.create_task(stop.wait())}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def describe_exit(code: int | None) -> str:
    """A return code in words: ``exit code 1``, ``killed by SIGKILL``."""
    if code is None:
        return "not started"
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
