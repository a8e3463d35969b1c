"""``federation verify`` as an operator's script runs it, and what it comes to say."""

from __future__ import annotations

import asyncio
import sys

from federation_sandbox.box import Box
from tests.support.patience import PATIENCE


async def verify(box: Box, *, wait: float = 0) -> tuple[int, str]:
    """Its exit code and all that it prints; ``wait`` is its own ``--wait``, in seconds."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "federation", "verify", "--url", box.status_url, "--wait", str(int(wait))),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(2 * PATIENCE):
        output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


async def verify_succeeds(box: Box) -> None:
    """Wait until it does: on a busy machine a cluster may not have answered in time a moment before."""
    code, output = await verify(box, wait=PATIENCE)
    assert code == 0, output


async def verify_fails(box: Box, *why: str) -> str:
    """Wait until it says all of why; at no time may it succeed. What it printed."""
    async with asyncio.timeout(PATIENCE):
        while True:
            code, output = await verify(box)
            assert code == 1, output
            if all(each in output for each in why):
                return output
            await asyncio.sleep(0.2)
