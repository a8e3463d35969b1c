"""How the suite is spread over the cores, and what it takes out of the way on a loaded machine."""

from __future__ import annotations

import os
import sys

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")  # how long an example takes says how busy the machine is

# Where an example fails, hypothesis imports this module to write a patch. It imports others, which warn; warnings are
# errors here, and one in the middle of a report ends pytest with an internal error that names no test. An import that
# fails is what hypothesis expects where they are not installed.
sys.modules["hypothesis.extra._patching"] = None  # type: ignore[assignment]


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two workers for each core: the long tests wait for lifetimes and watches, others compute meanwhile."""
    del config
    return 2 * (os.cpu_count() or 1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests that run a whole hub, or the longest one alone would be left at the end."""
    items.sort(key=lambda item: "/e2e/" not in item.path.as_posix())
