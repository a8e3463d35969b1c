"""Who reads does not operate, and who writes the state is not an operator: on a running hub."""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from msgspec.structs import replace

from federation.core.documents.controller import Operation
from federation.core.documents.encoding import encode
from federation.runtime.clock import SystemClock
from federation.state.files import FileStore
from federation_sandbox.box import Box
from tests.support.patience import PATIENCE
from tests.support.seals import token_file

VERB, ARGUMENTS = "quarantine", {"cluster": "east", "reason": "because I can"}
QUARANTINE = {"verb": VERB, "arguments": ARGUMENTS}


async def ask(box: Box, token: str) -> tuple[int, Any]:
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session,
        session.post(
            f"{box.status_url}/api/v1/operations",
            json=QUARANTINE,
            headers={"Authorization": f"Bearer {token}"} if token else {},
        ) as answer,
    ):
        return answer.status, await answer.json()


async def read(box: Box, token: str, path: str) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session,
        session.get(f"{box.status_url}{path}", headers={"Authorization": f"Bearer {token}"}) as answer,
    ):
        return answer.status, await answer.text()


def with_status(box: Box, *lines: str) -> None:
    text = box.config_file.read_text()
    box.config_file.write_text(text.replace("[status]\n", "\n".join(["[status]", *lines]) + "\n"))


async def test_a_token_that_reads_starts_nothing_and_neither_does_a_document(
    box: Box, tmp_path: Path
) -> None:
    reads, operates = secrets.token_hex(16), secrets.token_hex(16)
    token_file(tmp_path / "read", reads)
    token_file(tmp_path / "operate", operates)
    with_status(box, 'read_token_file = "read"', 'operate_token_file = "operate"')
    await box.start_hub()
    async with asyncio.timeout(PATIENCE):
        while "federation_controller_leader" not in (await _metrics(box, reads)):
            await asyncio.sleep(0.2)
    for path in ("/metrics", "/api/v1/status", "/api/v1/operations"):
        for token, wanted in ((reads, 200), (operates, 200), ("x" * 32, 401)):
            assert (await read(box, token, path))[0] == wanted, path
    assert (await ask(box, ""))[0] == 401
    status, answer = await ask(box, reads)
    assert (status, answer["detail"]) == (403, "this caller may read, not operate")

    now = time.time()
    forged = Operation(
        id=f"{time.strftime('%Y%m%d%H%M%S')}.00",
        author="operate token, from 10.1.2.3",
        asked=now,
        verb=VERB,
        arguments=ARGUMENTS,
    )
    store = FileStore(box.directory / "state", SystemClock())
    await store.write(f"operations/{forged.id}", encode(forged), create=True)
    async with asyncio.timeout(PATIENCE):
        while '"operation_unsealed"' not in (found := (await read(box, reads, "/api/v1/status"))[1]):
            await asyncio.sleep(0.2)
    assert '"quarantined":[]' in found

    status, answer = await ask(box, operates)
    assert (status, answer["outcome"]) == (200, "done")
    assert answer["author"] == "operate token, from 127.0.0.1"
    done = replace(forged, id=f"{time.strftime('%Y%m%d%H%M%S')}.01", decided=time.time(), outcome="done")
    await store.write(f"operations/{done.id}", encode(done), create=True)
    audit = json.loads((await read(box, reads, "/api/v1/operations"))[1])["operations"]
    shown = {one["id"]: (one["outcome"], one["sealed"]) for one in audit}
    assert shown[answer["id"]] == ("done", True)
    assert shown[forged.id] == ("refused", True), "the leader has sealed its refusal"
    assert shown[done.id] == ("done", False), "an audit entry written past the hub, straight into the store"


async def _metrics(box: Box, token: str) -> str:
    try:
        return (await read(box, token, "/metrics"))[1]
    except aiohttp.ClientError:
        return ""


@pytest.mark.parametrize(
    ("given", "says"),
    [(("open-sesame", 0o600), "too weak"), ((secrets.token_hex(16), 0o644), "chmod")],
    ids=["weak", "open"],
)
@pytest.mark.parametrize("role", ["controller", "signer"])
async def test_a_hub_does_not_start_with_a_token_that_is_weak_or_open(
    box: Box, tmp_path: Path, given: tuple[str, int], says: str, role: str
) -> None:
    token, mode = given
    token_file(tmp_path / "read", token).chmod(mode)
    with_status(box, 'read_token_file = "read"')
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "federation", role, "--config", str(box.config_file)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(PATIENCE):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 2, output
    assert says in output.decode()
    assert token not in output.decode()
