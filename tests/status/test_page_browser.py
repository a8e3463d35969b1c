"""The page in a real browser: what it shows, that it takes the green away, the token, the keyboard.

Runs where Playwright is installed and a Chromium is found (``CHROMIUM`` names another one).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from federation.core.config.hub import StatusConfig
from federation.core.config.types import Address
from federation.core.rotation.record import State
from tests.status.browsing import browser, needs_chromium, page
from tests.status.conftest import Start
from tests.status.rotations import deciding, met, quarantine, report_rotation, rotate, unmet
from tests.status.rotations import plan as planned
from tests.support.seals import READ_TOKEN, token_file

__all__ = ["browser", "page"]  # fixtures

pytestmark = [needs_chromium, pytest.mark.asyncio(loop_scope="module")]


async def test_the_page_is_green_while_the_hub_says_so_and_grey_when_it_falls_silent(
    start: Start, page: Any
) -> None:
    async with start() as hub:
        await page.goto(hub.url)
        await page.wait_for_selector("[data-verdict=healthy]")
        assert "All 6 ordered pairs" in await page.inner_text("#verdict-summary")
        assert await page.locator("#matrix td.cell.v").count() == 6
        assert await page.locator("#clusters tbody tr").count() == 3
        await page.route("**/api/**", lambda route: route.abort())
        await page.wait_for_selector("body[data-stale]")
        assert await page.inner_text("#verdict-word") == "Unknown"
        assert await page.get_attribute("#verdict", "data-verdict") == "unknown"
        await page.unroute("**/api/**")
        await page.wait_for_selector("[data-verdict=healthy]")
        assert page.errors == []


async def test_a_poll_that_brings_nothing_new_keeps_the_page_live(start: Start, page: Any) -> None:
    async with start() as hub:
        codes: list[int] = []
        page.on(
            "response", lambda answer: codes.append(answer.status) if "/api/v1/status" in answer.url else None
        )
        await page.goto(hub.url)
        await page.wait_for_selector("[data-verdict=healthy]")
        async with page.expect_response(
            lambda answer: answer.status == 304 and "/api/v1/status" in answer.url
        ):
            pass
        await page.wait_for_timeout(5500)  # longer than the page waits before it says that the hub is silent
        assert codes.count(200) == 1
        assert await page.get_attribute("#verdict", "data-verdict") == "healthy"
        hub.world.edit_publication("west", current=47, pending=1)
        await hub.settle()
        await page.wait_for_selector("[data-verdict=degraded]")
        assert page.errors == []


async def test_a_store_that_cannot_be_read_is_unknown_on_the_page(
    start: Start, page: Any, tmp_path: Path
) -> None:
    async with start() as hub:
        documents = tmp_path / "state" / "documents"
        documents.rename(tmp_path / "gone")
        documents.write_text("")
        await page.goto(hub.url)
        await page.locator("#verdict-word", has_text="Unknown").wait_for()
        assert "state store cannot be read" in await page.inner_text("#verdict-summary")
        assert await page.locator("#clusters").is_hidden()


async def test_a_failing_pair_is_explained_by_keyboard_and_names_are_never_markup(
    start: Start, page: Any
) -> None:
    async with start() as hub:
        reason = "<img src=x onerror=document.title='owned'> lacks the anchor"
        hub.world.set_cells({("east", "west"): "x"}, {"east>west": reason})
        await hub.settle()
        await page.goto(hub.url)
        await page.wait_for_selector("[data-verdict=failing]")
        assert reason in await page.inner_text("#attention")
        await page.focus("#matrix td[data-row='0'][data-column='0']")
        await page.keyboard.press("ArrowRight")
        assert await page.inner_text("#pair") == f"east → west: failed. {reason}"
        assert await page.locator("img").count() == 0
        assert "owned" not in await page.title()


async def test_the_next_expiry_includes_the_intermediate_and_consequences_stand_below_their_cause(
    start: Start, page: Any
) -> None:
    async with start() as hub:
        for replica, signer in hub.world.signers.items():
            assert signer.authority is not None
            ends = replace(signer.authority, not_after=hub.world.now + 40.5 * 86400)
            hub.world.edit_signer(replica, authority=ends)
        hub.world.edit_seen("west", state="unavailable", reason="unreachable", detail="no connection")
        await hub.settle()
        await page.goto(hub.url)
        await page.wait_for_selector("[data-verdict=degraded]")
        figures = await page.inner_text("#figures")
        assert "40 days" in figures
        assert "intermediate of shared" in figures
        summary = await page.inner_text("#verdict-summary")
        assert summary.startswith("West is unreachable since ")
        assert "What follows: 4 of 6 ordered pairs cannot be proved" in await page.inner_text("#attention")
        assert page.errors == []


async def test_two_hundred_clusters_are_drawn_and_found(start: Start, page: Any) -> None:
    async with start(tuple(f"edge-{i:03d}" for i in range(200))) as hub:
        await page.goto(hub.url)
        await page.wait_for_selector("#matrix canvas")
        assert "39,800 ordered pairs" in (await page.get_attribute("#matrix canvas", "aria-label") or "")
        await page.fill("#find", "edge-123")
        assert await page.locator("#clusters tbody tr").count() == 1
        assert page.errors == []


async def test_the_token_is_asked_for_and_kept_in_this_tab_only(
    start: Start, page: Any, tmp_path: Path
) -> None:
    file = token_file(tmp_path / "token")
    status = StatusConfig(listen=Address("127.0.0.1", 0), read_token_file=file)
    async with start(status=status) as hub:
        await page.goto(hub.url)
        await page.wait_for_selector("#token-form:not([hidden])")
        await page.fill("#token", "wrong")
        await page.keyboard.press("Enter")
        await page.locator("#token-why", has_text="not accepted").wait_for()
        await page.fill("#token", READ_TOKEN)
        await page.keyboard.press("Enter")
        await page.wait_for_selector("[data-verdict=healthy]")
        await page.reload()
        await page.wait_for_selector("[data-verdict=healthy]")
        assert await page.evaluate("localStorage.length") == 0
        assert await page.evaluate("document.cookie") == ""
        assert READ_TOKEN not in page.url


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_nothing_overflows_a_narrow_screen(start: Start, page: Any, scheme: str) -> None:
    async with start() as hub:
        await page.emulate_media(color_scheme=scheme)
        await page.set_viewport_size({"width": 360, "height": 800})
        await page.goto(hub.url)
        await page.wait_for_selector("[data-verdict=healthy]")
        assert await page.evaluate("document.documentElement.scrollWidth") <= 360


async def test_a_rotation_is_a_row_of_steps_with_its_gate_and_who_is_out(start: Start, page: Any) -> None:
    async with start() as hub:
        until = hub.world.now + 1800
        evidence = "leaves of <b>generation 6</b> may live on"
        rotate(
            hub.world,
            State.PUBLISHING,
            unmet("leaves", "west", until, evidence),
            met("read_back", "every namespace of east holds both"),
            opens_at=until,
        )
        quarantine(hub.world, "north")
        await hub.settle()
        await page.goto(hub.url)
        await page.wait_for_selector("#rotation:not([hidden])")
        assert await page.text_content("#rotation .steps li.current .name") == "PUBLISHING (current)"
        assert await page.locator("#rotation .steps li").count() == 7
        shown = await page.inner_text("#rotation")
        for words in (evidence, "opens in 30 min", "west", "burnt down"):
            assert words in shown
        assert await page.locator("#matrix td.cell.out").count() == 4
        assert await page.locator("#rotation button:visible").count() == 0, "this hub takes no operations"
        assert page.errors == []


async def test_a_rotation_that_cannot_be_read_is_not_shown_as_none(start: Start, page: Any) -> None:
    async with start() as hub:
        rotate(hub.world, State.ACTIVE, met("read_back"))
        await hub.settle()
        await hub.store.write("rotation", b"{")
        await hub.clock.advance(0.6)
        await page.goto(hub.url)
        await page.locator("#rotation .note.bad", has_text="Not known: the record of rotations").wait_for()
        assert "never" not in await page.inner_text("#rotation")
        assert page.errors == []


async def test_a_finished_rotation_says_what_is_left_to_do(start: Start, page: Any) -> None:
    async with start() as hub:
        rotate(hub.world, State.RETIRED)
        await hub.settle()
        await page.goto(hub.url)
        await page.locator("#rotation li", has_text="make it [signer.authority]").wait_for()
        await page.locator("#rotation li", has_text="take its pin out of the configuration").wait_for()
        assert page.errors == []


async def test_a_member_ca_is_shown_with_its_unmet_conditions(start: Start, page: Any) -> None:
    async with start() as hub:
        world = hub.world
        own = replace(world.generations[7].anchors[0], sha256="ab" * 32, subject="CN=<b>West</b>")
        world.generations[7] = replace(world.generations[7], anchors=[*world.generations[7].anchors, own])
        waits = [unmet("own_earlier", "west", world.now + 60, "leaves from before the hub may live")]
        report_rotation(world, replace(planned(world.now), dropping={own.sha256: waits}))
        world.edit_publication("west", current=40, pending=8, joining=8)
        await hub.settle()
        await page.goto(hub.url)
        await page.wait_for_selector("#bundle li")
        assert (
            "CN=<b>West</b> leaves the bundle by itself. It waits: west: leaves from"
            in await page.inner_text("#bundle")
        )
        assert await page.locator("#clusters .badge.warn", has_text="40 of 48").count() == 1
        assert page.errors == []


async def test_an_operation_has_to_be_typed_and_says_what_became_of_it(
    start: Start, page: Any, tmp_path: Path
) -> None:
    file = token_file(tmp_path / "token")
    status = StatusConfig(listen=Address("127.0.0.1", 0), operate_token_file=file)
    async with start(status=status, operates=True) as hub, deciding(hub.store, lambda _: None) as requested:
        rotate(hub.world, State.SOAKED, met("matrix"), paused="the canary failed", automatic=False)
        await hub.settle()
        await page.goto(hub.url)
        await page.get_by_role("button", name="Operate").click()
        assert await page.get_by_role("button", name="Advance").count() == 0, "who reads does not operate"
        await page.fill("#token", READ_TOKEN)
        await page.keyboard.press("Enter")
        await page.get_by_role("button", name="Advance").click()
        assert await page.is_disabled("#operate-go")
        await page.fill("#operate-confirm", "rotation 4")
        assert await page.is_disabled("#operate-go")
        await page.fill("#operate-confirm", "rotation 3")
        await page.click("#operate-go")
        await page.locator("#operate-outcome", has_text="advance: done").wait_for()
        assert [(o.verb, o.author) for o in requested] == [("advance", "operate token, from 127.0.0.1")]
        assert await page.is_disabled("#operate-go"), "once is enough"
        await page.get_by_role("button", name="Abort").click()
        await page.fill("#operate-reason", "wrong name")
        await page.fill("#operate-confirm", "rotation 3")
        await page.click("#operate-go")
        await page.locator("#operate-outcome", has_text="abort: done").wait_for()
        assert requested[1].arguments == {"reason": "wrong name"}
        assert page.errors == []


async def test_a_start_is_offered_where_it_would_be_accepted(start: Start, page: Any) -> None:
    async with start(operates=True) as hub, deciding(hub.store, lambda _: None) as requested:
        report_rotation(hub.world, planned(hub.world.now))
        await hub.settle()
        await page.goto(hub.url)
        await page.get_by_role("button", name="Start").click()
        await page.fill("#operate-confirm", "start")
        await page.keyboard.press("Enter")
        await page.locator("#operate-outcome", has_text="start: done").wait_for()
        assert [o.verb for o in requested] == ["start"]
        report_rotation(hub.world, planned(hub.world.now, problem="it has the key of M3"))
        await hub.settle()
        await page.locator("#rotation", has_text="it has the key of M3").wait_for()
        assert await page.locator("#rotation .buttons").count() == 0


async def test_a_rotation_fits_a_narrow_screen(start: Start, page: Any) -> None:
    async with start(operates=True) as hub:
        rotate(
            hub.world, State.ACTIVE, unmet("drained", "west", hub.world.now + 60, "x" * 200), paused="y" * 200
        )
        quarantine(hub.world, "north")
        await hub.settle()
        await page.set_viewport_size({"width": 360, "height": 800})
        await page.goto(hub.url)
        await page.wait_for_selector("#rotation:not([hidden])")
        assert await page.evaluate("document.documentElement.scrollWidth") <= 360
        assert page.errors == []
