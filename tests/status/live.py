"""How soon an event is on the screen: ``python -m tests.status.live [TIMES]``, a hub in its own processes, a browser.

Three clusters in a box. Timed by the system's clock, from when something happens to when the page shows it: an operator
quarantines a cluster and releases it, a cluster's API server stops answering and comes back. The first pair is the page
alone, the second what the controller takes to notice as well.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from playwright.async_api import async_playwright

from federation.runtime.clock import SystemClock
from federation_sandbox.box import Box, DevelopmentCa
from federation_sandbox.demo import sandbox_members
from tests.status.browsing import CHROMIUM, FLAGS

NAMES = ("east", "west", "north")
GOAL = 2.0  # seconds from an event in status to the screen
PATIENT_MS = 120_000.0

Event = Callable[[], Awaitable[Any]]


async def shown(page: Any, text: str, *, present: bool = True) -> None:
    """Wait until the page's list of what needs attention has that text, or has it no more."""
    condition = (
        "([text, present]) => document.querySelector('#attention').innerText.includes(text) === present"
    )
    await page.wait_for_function(condition, arg=[text, present], timeout=PATIENT_MS)


async def measure(times: int) -> dict[str, list[float]]:
    """Seconds of each kind of event."""
    found: dict[str, list[float]] = {}
    clock = SystemClock()
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        async with (
            sandbox_members(directory, NAMES, clock=clock) as members,
            async_playwright() as playwright,
        ):
            ca = DevelopmentCa.create(directory / "ca", name="first", clock=clock)
            box = Box(directory=directory, members=members, ca=ca, clock=clock, proof_interval=1.0)
            await box.register()
            await box.start_hub()
            try:
                await box.wait_ready()
                await box.wait_proved()
                browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
                page = await browser.new_page()
                await page.goto(box.status_url)
                await page.wait_for_selector("#verdict-word:not(:empty)")
                west = members["west"].sandbox
                assert west is not None
                events: list[tuple[str, Event, str, bool]] = [
                    (
                        "quarantine",
                        lambda: box.operate("quarantine", cluster="east", reason="trial"),
                        "trial",
                        True,
                    ),
                    (
                        "release",
                        lambda: box.operate("release", cluster="east", reason="over"),
                        "trial",
                        False,
                    ),
                    ("API server away", west.down, "west", True),
                    ("API server back", west.up, "west", False),
                ]
                for _ in range(times):
                    for name, event, text, present in events:
                        began = time.monotonic()
                        await event()
                        await shown(page, text, present=present)
                        found.setdefault(name, []).append(time.monotonic() - began)
                        await asyncio.sleep(1)
                await browser.close()
            finally:
                await box.stop_hub()
    return found


def main() -> int:
    """Print the table; 1 where an operator's event took longer than the goal."""
    found = asyncio.run(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 5))
    print("| event | least | median | most, s |\n|---|---|---|---|")
    for name, seconds in found.items():
        print(f"| {name} | {min(seconds):.2f} | {statistics.median(seconds):.2f} | {max(seconds):.2f} |")
    return 0 if max(found["quarantine"] + found["release"]) <= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
