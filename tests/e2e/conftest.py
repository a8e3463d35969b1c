"""The whole federation for end-to-end tests: in a box always, on real API servers where kubeconfigs are named."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from federation.runtime.clock import SystemClock
from federation_sandbox.box import Box, DevelopmentCa, Member, open_members
from federation_sandbox.demo import sandbox_members

REAL = [Path(p) for p in os.environ.get("FEDERATION_REAL_KUBECONFIGS", "").split(os.pathsep) if p]
TARGETS = ["sandbox", *(["real"] if len(REAL) >= 2 else [])]


@contextlib.asynccontextmanager
async def members_of(target: str, directory: Path, count: int) -> AsyncIterator[dict[str, Member]]:
    """That many members of the kind that the target names."""
    clock = SystemClock()
    names = ("east", "west", "north")[:count]
    if target == "sandbox":
        async with sandbox_members(directory, names, clock=clock) as members:
            yield members
    else:
        async with open_members(dict(zip(names, REAL, strict=False)), clock=clock) as members:
            yield members


@pytest.fixture(params=TARGETS)
async def box(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Box]:
    """A registered federation of two clusters whose hub is not started yet."""
    clock = SystemClock()
    async with members_of(request.param, tmp_path, 2) as members:
        ca = DevelopmentCa.create(tmp_path / "first-ca", name=f"first {uuid.uuid4().hex[:6]}", clock=clock)
        federation = Box(directory=tmp_path, members=members, ca=ca, clock=clock, proof_interval=2.0)
        await federation.register()
        try:
            yield federation
        finally:
            await federation.stop_hub()


@pytest.fixture
def namespace() -> str:
    """A namespace name that no earlier run has used, for real clusters live on between runs."""
    return f"shop-{uuid.uuid4().hex[:8]}"
