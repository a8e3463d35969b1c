"""A found anchor stays listed until an operator dismisses it, even if processes of the hub are killed."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import msgspec

from federation_sandbox.box import ROOT_CONFIG_MAP, Box
from tests.e2e.test_main_job import child_pids, restored, start
from tests.support import pki
from tests.support.patience import PATIENCE

CODE = "anchor_proposed"


async def test_a_killed_controller_forgets_no_anchor_that_was_found(box: Box, namespace: str) -> None:
    """The foreign anchor is overwritten within seconds, so that only the hub's state still has it."""
    await start(box)
    member = box.members["east"]
    await member.world.add_namespace(namespace)
    trust = await box.wait_for_trust("east", namespace)
    await box.wait_proved()
    rogue = pki.root("rogue").certificate.sha256
    path = f"/api/v1/namespaces/{namespace}/configmaps/{ROOT_CONFIG_MAP}"
    edited = {"data": {"root-cert.pem": trust.decode() + pki.root("rogue").pem.decode()}}
    await member.world.session.request(
        "PATCH", path, body=msgspec.json.encode(edited), content_type="application/merge-patch+json"
    )
    assert await restored(box, "east", namespace, trust)

    def lists(status: Any) -> bool:
        return any(p["sha256"] == rogue and p["cluster"] == "east" for p in status["proposals"])

    def waits_to_lead(status: Any) -> bool:
        (controller,) = status["controllers"]
        return not controller["leader"] and controller["started"] != started

    def leads_again(status: Any) -> bool:
        (controller,) = status["controllers"]
        return bool(status["matrix"]["pairs"]) and controller["leader"] and controller["started"] != started

    status = await box.wait_for("/api/v1/status", lists)
    started = status["controllers"][0]["started"]
    (controller,) = child_pids(box)["controller"]
    with leading(box):  # so that the successor reports before it can read what was found
        os.kill(controller, signal.SIGKILL)
        await box.wait_for("/api/v1/status", waits_to_lead)
    after = await box.wait_for("/api/v1/status", leads_again)
    assert lists(after)
    assert any(item["code"] == CODE and rogue in item["detail"] for item in after["attention"])

    output = await federation(box, "trust", "dismiss", rogue, "--reason", "an attempt, reported")
    assert output.strip() == "dismiss: done"
    await box.wait_for("/api/v1/status", lambda s: not lists(s))
    (audit,) = (await box.get("/api/v1/operations"))["operations"]
    assert (audit["verb"], audit["outcome"]) == ("dismiss", "done")
    assert audit["arguments"] == {"anchor": rogue, "reason": "an attempt, reported"}


@contextlib.contextmanager
def leading(box: Box) -> Iterator[None]:
    """Take the leadership as soon as the controller that holds it is gone, and leave it at the end."""
    descriptor = os.open(box.directory / "state" / "locks" / "lead@controller", os.O_RDWR)
    waiting = threading.Thread(target=fcntl.flock, args=(descriptor, fcntl.LOCK_EX))
    waiting.start()
    try:
        yield
    finally:
        waiting.join()
        os.close(descriptor)


async def federation(box: Box, *words: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "federation", *words, "--url", box.status_url),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(PATIENCE):
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()
