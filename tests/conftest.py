"""How the suite is spread over the cores."""

from __future__ import annotations

import os

import pytest


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two workers for each core: the long tests wait for lifetimes and watches, others compute meanwhile."""
    del config
    return 2 * (os.cpu_count() or 1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests that run a whole hub, or the longest one alone would be left at the end."""
    items.sort(key=lambda item: "/e2e/" not in item.path.as_posix())
