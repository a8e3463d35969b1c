"""The page in a real browser: places with an address, the grouped matrix, updates, charts, sign-in, accessibility."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import pytest
from msgspec.structs import replace

from federation.core.config.hub import StatusConfig
from federation.core.config.types import Address
from federation.core.rotation.record import State
from federation.status.encoding import encode_answer
from tests.status.browsing import DRAWN, accessibility_problems, browser, needs_chromium, page
from tests.status.conftest import Start
from tests.status.page_states import STATES, PageState, fleet, hours, loses, rotating
from tests.status.rotations import quarantine
from tests.support.seals import READ_TOKEN, token_file

__all__ = ["browser", "page"]  # fixtures

pytestmark = [needs_chromium, pytest.mark.asyncio(loop_scope="module")]


async def test_every_cluster_pair_and_generation_has_an_address(start: Start, page: Any) -> None:
    async with start() as hub:
        loses("west")(hub.world)
        reason = "<img src=x> the API server of west is unreachable"
        hub.world.set_cells({("east", "west"): "?"}, {"east>west": reason})
        await hub.settle()
        await page.goto(f"{hub.url}/#/clusters/west")
        await page.locator("#detail-title", has_text="west").wait_for()
        shown = await page.inner_text("#detail")
        for words in (
            "no connection to 10.0.0.7",
            "check the network",
            "the first ends at 13:00 UTC",
            "15:10 UTC, in 3 h",
        ):
            assert words in shown
        assert await page.is_hidden("#overview")
        await page.locator("#detail a[href='#/pairs/east/west']").click()
        await page.locator("#detail-title", has_text="east → west").wait_for()
        assert await page.evaluate("document.activeElement.id") == "detail-title"
        assert "east → west" in await page.title()
        await page.go_back()
        await page.locator("#detail-title", has_text=re.compile("^west$")).wait_for()
        await page.locator("#detail").get_by_role("link", name="Overview").click()
        await page.locator("#overview:not([hidden])").wait_for()
        await page.locator("#figures a[href='#/generations/7']").click()
        await page.locator("#detail-title", has_text="Generation 7").wait_for()
        assert "CN=Example Root R1" in await page.inner_text("#detail")
        await page.goto(f"{hub.url}/#/clusters/%3Cimg%3E")
        await page.locator("#detail", has_text="knows no cluster “<img>”").wait_for()
        assert await page.locator("img").count() == 0
        assert page.errors == []


GROUPS = """async ([clusters, rows]) => {
  const { groups } = await import("/groups.js");
  return groups({ clusters, rows }).map((members) => members.map((i) => clusters[i]));
}"""


async def test_clusters_that_are_alike_are_one_group(start: Start, page: Any) -> None:
    async with start() as hub:
        await page.goto(hub.url)

        async def grouped(*rows: str) -> list[list[str]]:
            found: list[list[str]] = await page.evaluate(GROUPS, [list("abcd"[: len(rows)]), list(rows)])
            return found

        assert await grouped("-vvv", "v-vv", "vv-v", "vvv-") == [["a", "b", "c", "d"]]
        assert await grouped("-v?v", "v-?v", "??-?", "vv?-") == [["c"], ["a", "b", "d"]]
        assert await grouped("-vxx", "v-xx", "xx-v", "xxv-") == [["a", "b"], ["c", "d"]]
        assert await grouped("-???", "?-??", "??-?", "???-") == [["a", "b", "c", "d"]], (
            "alike in what is not known"
        )
        assert await grouped("-vxv", "v-vv", "vv-v", "vvv-") == [["a"], ["c"], ["b", "d"]]


async def test_a_hundred_clusters_are_grouped_by_what_differs_and_every_pair_can_be_seen(
    start: Start, page: Any
) -> None:
    state = STATES["hundred"]
    async with start(state.names) as hub:
        state.change(hub.world)
        await hub.settle()
        await page.goto(hub.url)
        grid = page.get_by_role("grid", name="Groups of clusters")
        await grid.wait_for()
        heads = [await head.inner_text() for head in await grid.locator("tbody th").all()]
        assert sorted(heads) == ["prod-ap-00 and 97 more", "prod-ap-10", "prod-us-04"]
        lost = grid.get_by_label(
            re.compile(r"^prod-ap-00 and 97 more → prod-ap-10: failed in 98 pairs\. its server")
        )
        assert await lost.count() == 1
        assert await page.locator("#faults li").count() <= 3, "pairs that fail for one reason are one entry"
        await page.get_by_role("button", name="Every pair").click()
        canvas = page.locator("#matrix canvas")
        await canvas.wait_for()
        assert "9,900 ordered pairs" in (await canvas.get_attribute("aria-label") or "")
        await canvas.focus()
        await page.keyboard.press("ArrowRight")
        assert " → " in await page.inner_text("#pair")
        await page.keyboard.press("Enter")
        await page.locator("#detail-title", has_text=" → ").wait_for()
        assert page.errors == []


COUNT = """() => {
  window.added = [];
  const nodes = (node) => 1 + (node.querySelectorAll?.("*").length ?? 0);
  new MutationObserver((changes) => {
    for (const change of changes) for (const node of change.addedNodes) window.added.push(nodes(node));
  }).observe(document.getElementById("overview"), { subtree: true, childList: true });
}"""


async def test_what_did_not_change_is_not_built_anew_and_keeps_the_focus(start: Start, page: Any) -> None:
    names = fleet(100)
    async with start(names) as hub:
        await page.goto(hub.url)
        await page.wait_for_selector("[data-verdict=healthy]")
        assert await page.locator("#clusters *").count() > 3000
        await page.focus("#clusters a[href='#/clusters/prod-us-20']")
        await page.evaluate(COUNT)
        hub.world.edit_publication("prod-sa-24", current=47, pending=1)
        await hub.settle()
        await page.wait_for_selector("[data-verdict=degraded]")
        await page.locator("#clusters tbody tr:first-child", has_text="prod-sa-24").wait_for()
        assert sum(await page.evaluate("window.added")) < 150, "of more than 3,000"
        focused = "document.activeElement.getAttribute('href')"
        assert await page.evaluate(focused) == "#/clusters/prod-us-20"
        assert page.errors == []


async def test_the_event_stream_alone_brings_a_change_to_the_screen(start: Start, page: Any) -> None:
    events = pytest.importorskip("federation.status.events", reason="this hub has no event stream")
    async with start() as hub:
        async with page.expect_response(lambda answer: "/api/v1/events" in answer.url):
            await page.clock.install()
            await page.goto(hub.url)
        await page.wait_for_selector("[data-verdict=healthy]")
        await page.clock.pause_at(await page.evaluate("Date.now() / 1000") + 1)  # it asks no more by itself
        hub.world.edit_publication("west", current=47, pending=1)
        await hub.settle()
        await hub.clock.advance(events.POLL)
        await page.wait_for_selector("[data-verdict=degraded]")
        assert page.errors == []


async def test_the_last_hours_are_drawn_with_their_gaps_and_read_out(start: Start, page: Any) -> None:
    async with start() as hub:
        body = encode_answer(hours(hub.clock.now().timestamp()))
        await page.route(
            "**/api/v1/history", lambda route: route.fulfill(body=body, content_type="application/json")
        )
        await page.goto(hub.url)
        charts = page.get_by_role("img")
        await charts.first.wait_for()
        labels = [await chart.get_attribute("aria-label") for chart in await charts.all()]
        assert len(labels) == 3
        assert re.match(
            r"Issued to workloads: [\d,]+ certificates since 06:0\d UTC; at most \d+ in 5", labels[0]
        )
        assert "not known for 2 of 72 bars" in labels[0]
        assert labels[2].startswith("Ended without a renewal: 3 pods")
        assert await page.locator(".chart rect.gap").count() == 6
        assert "since 06:00 UTC" in await page.inner_text("#hours-since")
        assert await page.locator("#bundle .timeline li").count() == 2
        assert page.errors == []


BEYOND = """() => [...document.querySelectorAll("#rotation .conditions *")]
  .filter((node) => node.getBoundingClientRect().right > innerWidth).length"""


async def test_who_is_behind_in_a_rotation_is_read_on_a_phone(start: Start, page: Any) -> None:
    async with start() as hub:
        rotating(State.PUBLISHING)(hub.world)
        await hub.settle()
        await page.set_viewport_size({"width": 390, "height": 844})
        await page.goto(hub.url)
        await page.wait_for_selector("#rotation .conditions")
        assert await page.inner_text("#rotation .waits") == "Waits for: north, west"
        shown = await page.inner_text("#rotation")
        assert "north: 40 of 48 namespaces hold generation 7" in shown
        assert "signer-1: still follows STAGED; hands out generation 7" in shown
        assert await page.evaluate(BEYOND) == 0
        assert page.errors == []


async def test_what_is_wrong_and_what_to_do_is_in_the_first_screen_of_a_phone(
    start: Start, page: Any
) -> None:
    async with start() as hub:
        loses("west")(hub.world)
        await hub.settle()
        await page.set_viewport_size({"width": 390, "height": 844})
        await page.goto(hub.url)
        await page.wait_for_selector("[data-verdict=failing]")
        summary = await page.inner_text("#verdict-summary")
        assert summary.startswith(
            "West is unreachable since 03:12 UTC; certificates there last until 15:10 UTC"
        )
        assert "03:12" not in await page.inner_text("#attention"), "what is said once is not said again"
        todo = page.locator("#attention .todo", has_text="check the network between")
        box = await todo.bounding_box()
        assert box
        assert box["y"] + box["height"] < 844


async def test_a_token_says_when_it_ends_can_be_forgotten_and_is_nowhere_but_in_this_tab(
    start: Start, page: Any, tmp_path: Any
) -> None:
    file = token_file(tmp_path / "token")
    status = StatusConfig(listen=Address("127.0.0.1", 0), read_token_file=file)
    async with start(status=status) as hub:
        await page.goto(hub.url)
        await page.fill("#token", f"Bearer {READ_TOKEN}")  # as it stands in a header
        await page.keyboard.press("Enter")
        await page.wait_for_selector("[data-verdict=healthy]")
        await page.get_by_role("button", name="Forget the token").click()
        await page.locator("#token-why", has_text="forgotten").wait_for()
        assert await page.is_hidden("#content")
        assert await page.evaluate("sessionStorage.length") == 0
        claims = base64.urlsafe_b64encode(json.dumps({"exp": 4_000_000_000}).encode()).decode().rstrip("=")
        seen: list[str] = []

        async def accept(route: Any) -> None:
            seen.append(route.request.headers.get("authorization", ""))
            headers = {**route.request.headers, "authorization": f"Bearer {READ_TOKEN}"}
            await route.continue_(headers=headers)

        await page.route("**/api/**", accept)
        await page.fill("#token", f"e30.{claims}.c2ln")
        await page.keyboard.press("Enter")
        await page.locator("#token-ends", has_text="token ends in").wait_for()
        assert f"Bearer e30.{claims}.c2ln" in seen
        problem = json.dumps({"title": "Forbidden", "status": 403, "detail": "jane lacks the right read"})
        refusal = {"status": 403, "body": problem, "content_type": "application/problem+json"}
        # It takes precedence over the other one, which stays: between the two the hub would refuse the token.
        await page.route("**/api/v1/status", lambda route: route.fulfill(**refusal))
        await page.locator("#token-why", has_text="jane lacks the right read").wait_for()
        assert "e30" not in page.url
        assert page.errors == []


def _with_north_out(world: Any) -> None:
    rotating(State.SOAKED)(world)
    quarantine(world, "north")


def _thirty(world: Any) -> None:
    loses(world.names[3])(world)
    seen = world.signers["signer-0"].clusters[world.names[5]]
    world.edit_on_signer("signer-0", world.names[5], workloads=replace(seen.workloads, with_certificate=3))


CHECKED = {
    "rotation": PageState(change=_with_north_out, operates=True),
    "thirty": PageState(names=fleet(30), change=_thirty),
    "cluster": STATES["down-cluster"],
    "pair": STATES["down-pair"],
    "token": PageState(),
}


NARROW = {"runOnly": ["color-contrast", "scrollable-region-focusable", "target-size"]}
"""The rules that colours and the width of the screen have to do with: the others have been asked."""


@pytest.mark.parametrize("name", CHECKED)
async def test_axe_finds_nothing(name: str, start: Start, browser: Any, tmp_path: Any) -> None:
    """axe-core by the rules of WCAG A and AA and its best practices, wide and light; colours and widths on a phone."""
    state = CHECKED[name]
    token = token_file(tmp_path / "token") if name == "token" else None
    status = StatusConfig(listen=Address("127.0.0.1", 0), read_token_file=token)
    async with start(state.names, status=status, operates=state.operates) as hub:
        state.change(hub.world)
        await hub.settle()
        # axe is brought in by the test, past the page's policy, which other tests hold it to.
        context = await browser.new_context(bypass_csp=True)
        try:
            page = await context.new_page()
            page.set_default_timeout(30_000)
            body = encode_answer(hours(hub.clock.now().timestamp()))
            await page.route(
                "**/api/v1/history", lambda route: route.fulfill(body=body, content_type="application/json")
            )
            await page.goto(f"{hub.url}/#{state.place}")
            await page.wait_for_selector("#token-form:not([hidden]), #verdict-word:not(:empty)")
            for width, scheme, options in ((1400, "light", None), (390, "dark", NARROW)):
                await page.set_viewport_size({"width": width, "height": 900})
                await page.emulate_media(color_scheme=scheme)
                await page.evaluate(DRAWN)
                assert await accessibility_problems(page, options) == set(), f"{scheme}, {width} pixels"
        finally:
            await context.close()
