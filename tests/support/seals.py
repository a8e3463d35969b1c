"""A seal that desk and queue of a test share, who asks, and tokens that may be used."""

from __future__ import annotations

from pathlib import Path

from federation.controller.rotation.operations import OperationMac, Requester

READ_TOKEN = "5f1c9a7e3b2d4f608192a3b4c5d6e7f8"
OPERATE_TOKEN = "c0ffee11d00d4a5b9e8f7a6b3c2d1e0f"


async def _secret() -> bytes:
    return b"of these tests"


SEAL = OperationMac(_secret)
OPERATOR = Requester(name="operate token", kind="token", source="127.0.0.1")


def token_file(path: Path, token: str = READ_TOKEN) -> Path:
    """A file that only its owner may read."""
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_text(token)
    return path
