"""The rendered trees, once for each test session."""

from __future__ import annotations

import pytest

from tests.manifests.tree import Tree


@pytest.fixture(scope="session")
def hub() -> Tree:
    return Tree.of("hub")


@pytest.fixture(scope="session")
def member() -> Tree:
    return Tree.of("member")
