"""Pictures of the page in every state, to be looked at: ``python -m tests.status.screenshots DIRECTORY [STATE ...]``.

Each at 1400 and 390 pixels, light and dark: the first screen, and the whole page. Where the page reports an error, is
wider than the screen or is not clean by axe-core the command says so and fails. It prints how many milliseconds each
state took from the request to what is drawn, at most. What is drawn of the last hours is made up, by what counts it.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from playwright.async_api import async_playwright

from federation.status.encoding import encode_answer
from tests.status.browsing import CHROMIUM, DRAWN, FLAGS, accessibility_problems
from tests.status.page_states import STATES, PageState, hours
from tests.status.serving import serving

WIDTHS = {1400: 1000, 390: 844}
SCHEMES = ("light", "dark")


async def take(browser: Any, name: str, state: PageState, directory: Path) -> tuple[list[str], float]:
    """The pictures of one state; what went wrong in the page, and how many seconds it took at most."""
    errors: list[str] = []
    longest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        async with serving(Path(folder) / "state", state.names, operates=state.operates) as hub:
            state.change(hub.world)
            await hub.settle()
            body = encode_answer(hours(hub.clock.now().timestamp()))
            for width, height in WIDTHS.items():
                for scheme in SCHEMES:
                    context = await browser.new_context(
                        viewport={"width": width, "height": height}, color_scheme=scheme, bypass_csp=True
                    )
                    page = await context.new_page()
                    page.on("pageerror", lambda error: errors.append(f"{name}: {error}"))
                    await page.route(
                        "**/api/v1/history",
                        lambda route: route.fulfill(body=body, content_type="application/json"),
                    )
                    began = time.perf_counter()
                    await page.goto(f"{hub.url}/#{state.place}")
                    await page.wait_for_selector("#verdict-word:not(:empty)")
                    if not state.place:
                        await page.wait_for_selector(".chart svg")
                    if state.press:
                        await page.get_by_role("button", name=state.press).click()
                    await page.evaluate(DRAWN)
                    longest = max(longest, time.perf_counter() - began)
                    stem = directory / f"{name}-{width}-{scheme}"
                    await page.screenshot(path=f"{stem}.png")
                    await page.screenshot(path=f"{stem}-whole.png", full_page=True)
                    if await page.evaluate("document.documentElement.scrollWidth > innerWidth"):
                        errors.append(f"{name}: the page is wider than {width} pixels")
                    found = await accessibility_problems(page)
                    errors.extend(f"{name}, {width} pixels, {scheme}: {problem}" for problem in sorted(found))
                    await context.close()
    return errors, longest


async def main(directory: Path, names: list[str]) -> int:
    """All states, or those that are named."""
    directory.mkdir(parents=True, exist_ok=True)
    errors: list[str] = []
    async with async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            for name in names or STATES:
                found, longest = await take(browser, name, STATES[name], directory)
                errors += found
                print(f"{name}: {1000 * longest:.0f} ms")
        finally:
            await browser.close()
    for error in errors:
        print(error, file=sys.stderr)
    return 1 if errors else 0


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(f"usage: python -m tests.status.screenshots DIRECTORY [{' '.join(STATES)}]")
    sys.exit(asyncio.run(main(Path(sys.argv[1]), sys.argv[2:])))
