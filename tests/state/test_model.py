"""Both stores against a dictionary, each opened twice as two roles have it."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from federation.state.store import StateConflict, StateStore
from federation_sandbox.cluster import SandboxCluster
from tests.state.conftest import objects_in
from tests.state.places import Directory


class Documents(RuleBasedStateMachine):
    """The store against a dictionary."""

    KEYS = st.sampled_from(["current", "signers/a", "signers/b", "generations/1"])

    def __init__(self) -> None:
        super().__init__()
        self._expected: dict[str, tuple[bytes, str]] = {}
        self._runner = asyncio.Runner()
        self._open = AsyncExitStack()
        self._stores = self._runner.run(self._opened())

    async def _opened(self) -> list[StateStore]:
        directory = Path(self._open.enter_context(tempfile.TemporaryDirectory()))
        place = Directory(directory / "state")
        return [await self._open.enter_async_context(place.opened()) for _ in range(2)]

    def teardown(self) -> None:
        self._runner.run(self._open.aclose())
        self._runner.close()

    @rule(key=KEYS, data=st.binary(max_size=50), who=st.integers(0, 1))
    def write(self, key: str, data: bytes, who: int) -> None:
        version = self._runner.run(self._stores[who].write(key, data))
        self._expected[key] = (data, version)

    @rule(key=KEYS, data=st.binary(max_size=50), who=st.integers(0, 1))
    def create(self, key: str, data: bytes, who: int) -> None:
        if key in self._expected:
            with pytest.raises(StateConflict):
                self._runner.run(self._stores[who].write(key, data, create=True))
        else:
            version = self._runner.run(self._stores[who].write(key, data, create=True))
            self._expected[key] = (data, version)

    @rule(key=KEYS, data=st.binary(max_size=50), who=st.integers(0, 1), stale=st.booleans())
    def swap(self, key: str, data: bytes, who: int, stale: bool) -> None:
        known = self._expected.get(key)
        if known is None or stale:
            with pytest.raises(StateConflict):
                self._runner.run(self._stores[who].write(key, data, expected="0" * 32))
        else:
            version = self._runner.run(self._stores[who].write(key, data, expected=known[1]))
            self._expected[key] = (data, version)

    @rule(key=KEYS, who=st.integers(0, 1))
    def delete(self, key: str, who: int) -> None:
        self._runner.run(self._stores[who].delete(key))
        self._expected.pop(key, None)

    @rule(key=KEYS, who=st.integers(0, 1), stale=st.booleans())
    def remove(self, key: str, who: int, stale: bool) -> None:
        known = self._expected.get(key)
        if known is not None and stale:
            with pytest.raises(StateConflict):
                self._runner.run(self._stores[who].delete(key, expected="1" * 32))
            return
        self._runner.run(self._stores[who].delete(key, expected=known[1] if known else "1" * 32))
        self._expected.pop(key, None)

    @invariant()
    def both_see_the_same(self) -> None:
        for store in self._stores:
            assert self._runner.run(store.keys("")) == sorted(self._expected)
            for key, (data, version) in self._expected.items():
                found = self._runner.run(store.read(key))
                assert found is not None
                assert (found.data, found.version) == (data, version)


class Objects(Documents):
    """The same in objects of a sandbox."""

    BOX = SandboxCluster("model", controllers=False, signing_algorithm="ES256")

    async def _opened(self) -> list[StateStore]:
        directory = Path(self._open.enter_context(tempfile.TemporaryDirectory()))
        place = await self._open.enter_async_context(objects_in(self.BOX, directory / "kubeconfig"))
        return [await self._open.enter_async_context(place.opened()) for _ in range(2)]


TestFiles = Documents.TestCase
TestFiles.settings = settings(max_examples=15, stateful_step_count=15, deadline=None)
TestObjects = Objects.TestCase
TestObjects.settings = settings(max_examples=6, stateful_step_count=12, deadline=None)
