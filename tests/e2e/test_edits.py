"""An operator edits the configuration of a running hub without a rotation: trust changes only by the gates.

Real Envoys judge: one cluster's workload has renewed after the edit and the other's has not, and both talk.
"""

from __future__ import annotations

from pathlib import Path

from federation.sandbox.box import Box
from tests.e2e.rotating import Mesh, open_mesh


async def replace_pin(box: Box) -> None:
    """The successor's root is pinned in place of the one that signs, and nothing else is changed."""
    successor = box.successor
    assert successor is not None
    own, new = box.ca.directory / "root.pem", successor.directory / "root.pem"
    text = box.config_file.read_text("utf-8")
    first = text.index("[[trust.anchors]]")
    second = text.index("[[trust.anchors]]", first + 1)
    text = text[:first] + text[second:].replace("\nstaged = true", "", 1)
    assert str(own) not in text
    assert str(new) in text
    staged = box.config_file.with_suffix(".new")
    staged.write_text(text, "utf-8")
    staged.rename(box.config_file)


async def both_talk(mesh: Mesh, client: str, server: str) -> None:
    """Each calls the other; every call is a new connection."""
    from tests.support.envoy import call

    for a, b in ((client, server), (server, client)):
        answer = await call(mesh.proxies[a], b)
        assert answer.body == b


async def test_a_pin_that_is_replaced_breaks_no_handshake_and_its_root_stays_until_nothing_needs_it(
    tmp_path: Path,
) -> None:
    async with open_mesh(tmp_path, count=2, start=lambda box: box.start_hub()) as mesh:
        box, old = mesh.box, mesh.box.ca.root.sha256
        await replace_pin(box)
        assert box.successor is not None
        both = {old, box.successor.root.sha256}

        def holds_both(bundle: dict[str, list[dict[str, str]]]) -> bool:
            return {anchor["sha256"] for anchor in bundle["anchors"]} == both

        await box.wait_for("/api/v1/bundle", holds_both, what="a bundle that holds both roots")
        await mesh.renew("east")
        await both_talk(mesh, "east", "west")
        status = await box.wait_for(
            "/api/v1/status", lambda s: any(a["known"] for a in s["unpinned"]), what="what it waits for"
        )
        (waits,) = status["unpinned"]
        assert waits["sha256"] == old
        assert "pin_gone" in {item["code"] for item in status["attention"]}
        assert "own_issuers" in {condition["name"] for condition in waits["waits_for"]}
        await box.stop_hub()
        await (
            box.start_hub()
        )  # every signer was started without that pin, and delivers the bundle by its memory
        await box.wait_ready()
        await mesh.renew("west")
        await both_talk(mesh, "east", "west")
        assert holds_both(await box.get("/api/v1/bundle"))
