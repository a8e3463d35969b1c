"""Many documents at once: a few at a time, and one that is damaged is no store that is down."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from federation.core.documents.keys import StateDamaged
from federation.core.errors import StateUnavailable
from federation.state.files import FileStore
from federation.state.store import AT_ONCE, Stored, read_many
from tests.support.clock import VirtualClock


class Store(FileStore):
    """The real one, in which reads are counted, and may fail."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, VirtualClock())
        self.reading = self.most = self.ended = 0
        self.down = ""

    async def read(self, key: str) -> Stored | None:
        self.reading += 1
        self.most = max(self.most, self.reading)
        try:
            if key == self.down:
                raise StateUnavailable("no answer", where=key)
            return await super().read(key)
        finally:
            self.reading -= 1
            self.ended += 1


async def test_documents_are_read_a_few_at_a_time_each_with_its_own_result(tmp_path: Path) -> None:
    store = Store(tmp_path)
    keys = [f"signers/{number}" for number in range(5 * AT_ONCE)]
    for key in keys:
        await store.write(key, key.encode())
    (tmp_path / "documents" / "signers@3").write_bytes(b"cut")
    found = await read_many(store, [*keys, "signers/none"])
    assert store.most == AT_ONCE
    assert isinstance(found["signers/3"], StateDamaged)
    assert found["signers/none"] is None
    good = {key: document.data for key, document in found.items() if isinstance(document, Stored)}
    assert good == {key: key.encode() for key in keys if key != "signers/3"}
    assert await read_many(store, []) == {}


async def test_a_store_failure_is_raised_at_once_and_stops_the_other_reads(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.down = "signers/0"
    with pytest.raises(StateUnavailable, match="no answer"):
        await read_many(store, [f"signers/{number}" for number in range(100)])
    ended = store.ended
    assert store.reading == 0
    await asyncio.sleep(0.05)
    assert store.ended == ended < 100
