"""A real browser for the tests of the page: one for a module, and a page of its own for each test.

They run where Playwright is installed and a Chromium is found (``CHROMIUM`` names another one).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
import pytest_asyncio

playwright = pytest.importorskip("playwright.async_api", reason="Playwright is not installed (extra: test)")
CHROMIUM: Final = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS: Final = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DRAWN: Final = "() => new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)))"
"""What the page does after another size, or after an answer, is done two frames later."""

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is found; set CHROMIUM to its path")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Any]:
    """One browser for all tests of a module: starting one takes longer than most of them."""
    async with playwright.async_playwright() as driver:
        launched = await driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield launched
        finally:
            await launched.close()


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Any) -> AsyncIterator[Any]:
    """A page with storage of its own; ``errors`` are those of its scripts and what its policy refused."""
    context = await browser.new_context()
    try:
        opened = await context.new_page()
        opened.set_default_timeout(30_000)  # a browser on a loaded machine takes its time
        opened.errors = []
        opened.on("pageerror", lambda error: opened.errors.append(str(error)))
        opened.on("console", lambda said: _note(opened, said))
        yield opened
    finally:
        await context.close()


def _note(page: Any, said: Any) -> None:
    if "Content Security Policy" in said.text:
        page.errors.append(said.text)


async def accessibility_problems(page: Any, options: dict[str, Any] | None = None) -> set[str]:
    """What axe-core finds by the rules of WCAG A and AA and its best practices, or by those of ``options``.

    The page's context has to bypass its policy, for the script is brought in from here.
    """
    axe = pytest.importorskip(
        "axe_playwright_python.async_playwright", reason="axe is not installed (extra: test)"
    )
    await page.evaluate(axe.Axe().axe_script)
    results = await page.evaluate(
        "(options) => axe.run(document, options)", {"resultTypes": ["violations"], **(options or {})}
    )
    return {
        f"{each['id']}: {node['target']} {node['failureSummary']}"
        for each in results["violations"]
        for node in each["nodes"]
    }
