"""Worlds for the controller's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.controller.world import World, open_world


@pytest.fixture
async def one(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path, "east") as world:
        yield world


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path, "east", "west") as world:
        yield world
