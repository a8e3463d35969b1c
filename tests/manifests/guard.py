"""What tests of the guard share: two roots that are pinned, one that is not, and the ConfigMap that the CLI prints."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from tests.manifests.tree import MANIFESTS
from tests.support import pki
from tests.support.patience import PATIENCE

PINNED = (pki.root("guard one"), pki.root("guard two"))
ROGUE = pki.root("guard rogue")
GUARD = "member/guard"


def config_in(directory: Path) -> Path:
    """A configuration that pins both, the second one staged."""
    pins = []
    for number, root in enumerate(PINNED):
        (directory / f"root-{number}.pem").write_bytes(root.pem)
        staged = "staged = true\n" if number else ""
        pins.append(
            f'[[trust.anchors]]\nfile = "root-{number}.pem"\nsha256 = "{root.certificate.sha256}"\n{staged}'
        )
    text = (MANIFESTS / "hub" / "config" / "clusters.toml").read_text()
    before, after = text.split("[[trust.anchors]]", 1)
    after = after[after.index("\n[") + 1 :]
    path = directory / "clusters.toml"
    path.write_text(before + "\n".join(pins) + "\n" + after)
    return path


async def printed(config: Path, *options: str) -> tuple[int, Any, str]:
    """``federation trust guard``: its exit code, the object, and what it says beside."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "federation", "trust", "guard", "--config", str(config), *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE):
        output, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, json.loads(output) if output else None, errors.decode()
