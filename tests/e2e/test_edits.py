"""An operator edits the configuration of a running hub without a rotation: trust changes only by the gates.

Real Envoys judge: one cluster's workload has renewed after the edit and the other's has not, and both talk.
"""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from federation.core.errors import NotReady
from federation.core.pki.pem import parse_certificates
from federation.runtime.clock import SystemClock
from federation_sandbox.box import Box, DevelopmentCa
from tests.e2e.rotating import Mesh, open_mesh
from tests.support.envoy import call

LIFE = timedelta(hours=1)  # of certificates: each is renewed once, and judged however long the test takes


def edit(box: Box, text: str) -> None:
    """The configuration is replaced in one atomic step."""
    staged = box.config_file.with_suffix(".new")
    staged.write_text(text, "utf-8")
    staged.rename(box.config_file)


def with_pin_replaced(box: Box) -> str:
    """The successor's root is pinned in place of the one that signs, and nothing else is changed."""
    text = box.config_file.read_text("utf-8")
    first = text.index("[[trust.anchors]]")
    second = text.index("[[trust.anchors]]", first + 1)
    text = text[:first] + text[second:].replace("\nstaged = true", "", 1)
    assert box.ca.root.sha256 not in text
    return text


def with_pin(text: str, root: Path) -> str:
    (anchor,) = parse_certificates(root.read_bytes(), where=str(root))
    return f'{text}\n[[trust.anchors]]\nfile = "{root}"\nsha256 = "{anchor.sha256}"\n'


async def both_talk(mesh: Mesh, client: str, server: str) -> None:
    """Each calls the other; every call is a new connection."""
    for a, b in ((client, server), (server, client)):
        answer = await call(mesh.proxies[a], b)
        assert answer.body == b


async def until_bundle(box: Box, *roots: str) -> None:
    """The bundle in force holds exactly these."""

    def holds(bundle: Any) -> bool:
        return {anchor["sha256"] for anchor in bundle["anchors"]} == {*roots}

    await box.wait_for("/api/v1/bundle", holds, what=f"a bundle of {len(roots)} roots")


async def command(box: Box, *arguments: str) -> str:
    """The output of a command, for any exit code."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "federation", *arguments, "--url", box.status_url),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return output.decode()


async def test_replacing_a_pin_breaks_no_handshake_and_keeps_the_old_root_while_it_is_needed(
    tmp_path: Path,
) -> None:
    async with open_mesh(tmp_path, count=2, start=lambda box: box.start_hub(), life=LIFE) as mesh:
        box, old = mesh.box, mesh.box.ca.root.sha256
        assert box.successor is not None
        new = box.successor.root.sha256
        third = DevelopmentCa.create(tmp_path / "third-ca", name="third", clock=SystemClock())
        edited = with_pin_replaced(box)
        edit(box, with_pin(edited, third.directory / "root.pem"))
        await until_bundle(box, old, new, third.root.sha256)
        await mesh.renew("east")
        await both_talk(mesh, "east", "west")

        edit(box, edited)  # the third is needed by nothing, and leaves by itself; the old one does not
        await until_bundle(box, old, new)
        status = await box.wait_for(
            "/api/v1/status", lambda s: any(a["known"] for a in s["unpinned"]), what="what it waits for"
        )
        (waits,), (left,) = status["unpinned"], status["departures"]
        assert (waits["sha256"], left["sha256"]) == (old, third.root.sha256)
        assert "own_issuers" in {condition["name"] for condition in waits["waits_for"]}
        assert "own_issuers" in {condition["name"] for condition in left["evidence"]}
        assert "pin_gone" in {item["code"] for item in status["attention"]}
        said = await command(box, "trust", "remove", old)
        assert "nothing is issued any more" in said
        assert "nothing was removed" in said

        edit(
            box, edited + "\nno_such_key = 1\n"
        )  # no rotation starts while the newest configuration is refused
        await box.wait_for("/api/v1/status", lambda s: s["config_problems"], what="a refused configuration")
        with pytest.raises(NotReady, match="refuses its newest configuration"):
            await box.operate("start", reason="in spite of it")

        edit(box, edited)
        await box.stop_hub()
        await box.start_hub()  # every signer starts without that pin, and delivers the bundle by its memory
        await box.wait_ready()
        await mesh.renew("west")
        await both_talk(mesh, "east", "west")
        await until_bundle(box, old, new)
