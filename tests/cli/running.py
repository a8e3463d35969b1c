"""The command as an operator starts it: a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from federation.runtime.processes import VARIABLE
from tests.support.patience import PATIENCE

LIMIT = PATIENCE
"""Seconds; a loaded two-core machine needs a few for a hub's first words."""


async def federation(*arguments: str, limit: float = LIMIT) -> tuple[int, str, str]:
    """Run to the end; exit code, stdout and stderr."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "federation", *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(),
    )
    async with asyncio.timeout(limit):
        out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


def environment() -> dict[str, str]:
    """This process's, with a fixed width for help texts and no supervisor."""
    kept = {name: value for name, value in os.environ.items() if name != VARIABLE}
    return kept | {"COLUMNS": "100", "NO_COLOR": "1"}


@dataclass
class Running:
    """A long-running verb; its log goes to a file, what it announces is read here."""

    process: asyncio.subprocess.Process
    log_file: Path
    announced: dict[str, str] = field(default_factory=dict)

    async def until_announced(self, what: str) -> str:
        """Where that server listens."""
        output = self.process.stdout
        if output is None:
            raise AssertionError("no pipe")
        try:
            async with asyncio.timeout(LIMIT):
                while what not in self.announced:
                    line = (await output.readline()).decode()
                    if not line:
                        raise AssertionError(f"it ended before it announced {what}:\n{self.log}")
                    key, _, where = line.strip().partition(" ")
                    self.announced[key] = where
        except TimeoutError:
            raise AssertionError(f"it did not announce {what} in time:\n{self.log}") from None
        return self.announced[what]

    async def until_logged(self, text: str) -> None:
        """Wait for words in its log."""
        try:
            async with asyncio.timeout(LIMIT):
                while text not in self.log:
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"it never said {text!r}:\n{self.log}") from None

    @property
    def log(self) -> str:
        """Its standard error so far."""
        return self.log_file.read_text("utf-8")

    async def ended(self) -> int:
        """Its exit code."""
        async with asyncio.timeout(LIMIT):
            return await self.process.wait()


@contextlib.asynccontextmanager
async def started(directory: Path, *arguments: str) -> AsyncIterator[Running]:
    """Start a verb; it is killed when the context ends, if it still runs."""
    log_file = directory / "stderr.log"
    with log_file.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "federation", *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            env=environment(),
        )
    try:
        yield Running(process, log_file)
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
