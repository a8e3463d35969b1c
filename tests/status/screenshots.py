"""Pictures of the page in every state, to be looked at: ``python -m tests.status.screenshots DIRECTORY [STATE ...]``.

Each at 1400 and 390 pixels, light and dark: the first screen, and the whole page. Where the page reports an error the
command says so and fails. What is drawn of the last hours is made up, by what counts it.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Any

from playwright.async_api import async_playwright

from federation.status.encoding import encode_answer
from tests.status.browsing import CHROMIUM, FLAGS
from tests.status.page_states import STATES, PageState, hours
from tests.status.serving import serving

WIDTHS = {1400: 1000, 390: 844}
SCHEMES = ("light", "dark")


async def take(browser: Any, name: str, state: PageState, directory: Path) -> list[str]:
    """The pictures of one state; returns what went wrong in the page."""
    errors: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        async with serving(Path(folder) / "state", state.names, operates=state.operates) as hub:
            state.change(hub.world)
            await hub.settle()
            body = encode_answer(hours(hub.clock.now().timestamp()))
            for width, height in WIDTHS.items():
                for scheme in SCHEMES:
                    context = await browser.new_context(
                        viewport={"width": width, "height": height}, color_scheme=scheme
                    )
                    page = await context.new_page()
                    page.on("pageerror", lambda error: errors.append(f"{name}: {error}"))
                    await page.route(
                        "**/api/v1/history",
                        lambda route: route.fulfill(body=body, content_type="application/json"),
                    )
                    await page.goto(f"{hub.url}/#{state.place}")
                    await page.wait_for_selector("#verdict-word:not(:empty)")
                    if not state.place:
                        await page.wait_for_selector(".chart svg")
                    if state.press:
                        await page.get_by_role("button", name=state.press).click()
                    stem = directory / f"{name}-{width}-{scheme}"
                    await page.screenshot(path=f"{stem}.png")
                    await page.screenshot(path=f"{stem}-whole.png", full_page=True)
                    if await page.evaluate("document.documentElement.scrollWidth > innerWidth"):
                        errors.append(f"{name}: the page is wider than {width} pixels")
                    await context.close()
    return errors


async def main(directory: Path, names: list[str]) -> int:
    """All states, or those that are named."""
    directory.mkdir(parents=True, exist_ok=True)
    errors: list[str] = []
    async with async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            for name in names or STATES:
                errors += await take(browser, name, STATES[name], directory)
                print(name)
        finally:
            await browser.close()
    for error in errors:
        print(error, file=sys.stderr)
    return 1 if errors else 0


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(f"usage: python -m tests.status.screenshots DIRECTORY [{' '.join(STATES)}]")
    sys.exit(asyncio.run(main(Path(sys.argv[1]), sys.argv[2:])))
