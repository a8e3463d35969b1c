"""Generations: numbers strictly increase across crashes, and only a change of bytes makes a new one."""

from __future__ import annotations

import hashlib
import logging
from contextlib import AbstractAsyncContextManager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.controller.generations import InForce, Ledger, bundle_of, plan_generation
from federation.core.audit import FIELDS
from federation.core.documents.encoding import decode, encode
from federation.core.documents.keys import generation_key
from federation.core.documents.trust import Current, Generation
from federation.core.errors import StateUnavailable
from federation.core.identity import TrustDomain
from federation.core.trust.bundle import Anchor, TrustBundle
from federation.state.store import Leadership, LeadersStore, StateConflict, StateStore, Stored
from tests.support import pki

DOMAIN = TrustDomain("mesh.example")
NAMES = ("a", "b", "c", "d")


class CrashError(Exception):
    """The process is gone."""


class MemoryStore:
    """Documents in memory; dies before or after the n-th write."""

    def __init__(self) -> None:
        self.documents: dict[str, bytes] = {}
        self.crash_at: tuple[int, bool] | None = None
        self.writes = 0

    def _version(self, key: str) -> str:
        return hashlib.sha256(self.documents[key]).hexdigest()

    async def read(self, key: str) -> Stored | None:
        return Stored(self.documents[key], self._version(key)) if key in self.documents else None

    async def write(self, key: str, data: bytes, *, expected: str | None = None, create: bool = False) -> str:
        if create and key in self.documents:
            raise StateConflict("it exists", where=key)
        if expected is not None and (key not in self.documents or self._version(key) != expected):
            raise StateConflict("it was changed", where=key)
        self.writes += 1
        crash, self.crash_at = self.crash_at, None
        if crash == (self.writes, False):
            raise CrashError
        self.documents[key] = data
        if crash == (self.writes, True):
            raise CrashError
        self.crash_at = crash
        return self._version(key)

    async def delete(self, key: str, *, expected: str | None = None) -> None:
        self.documents.pop(key, None)

    async def keys(self, prefix: str) -> list[str]:
        return sorted(key for key in self.documents if key.startswith(prefix))

    def lead(self, name: str, *, identity: str) -> AbstractAsyncContextManager[Leadership]:
        raise StateUnavailable(f"this store elects no leader: {name}, {identity}")

    def of_leader(self, leadership: Leadership) -> StateStore:
        return LeadersStore(self, leadership)


def bundle(*names: str) -> TrustBundle:
    return TrustBundle.merge(
        Anchor(certificate=pki.root(name).certificate, origin="test", kind="root", trust_domain=DOMAIN)
        for name in names
    )


def plan(names: tuple[str, ...], in_force: InForce, floor: int = 0) -> Generation | None:
    return plan_generation(
        bundle(*names), in_force, now=pki.NOW, author="test", trust_domain=DOMAIN, floor=floor
    )


async def test_the_first_generation_is_number_one_and_records_provenance() -> None:
    ledger = Ledger(MemoryStore())
    generation = plan(("a", "b"), await ledger.read())
    assert generation is not None
    in_force = await ledger.put_in_force(generation, await ledger.read())
    assert (generation.number, in_force.generation) == (1, generation)
    assert await ledger.read() == in_force
    record = generation.anchors[0]
    certificate = bundle("a", "b").anchors[0].certificate
    assert (record.sha256, record.kind, record.origin) == (certificate.sha256, "root", "test")
    assert record.not_after == certificate.not_after.timestamp()
    assert generation.reason == "first generation: 2 anchors"


async def test_what_is_put_in_force_is_a_line_of_the_audit(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="federation.controller.audit")
    ledger = Ledger(MemoryStore())
    for names in (("a",), ("a", "b")):
        generation = plan(names, await ledger.read())
        assert generation is not None
        await ledger.put_in_force(generation, await ledger.read())
    a, both = (sorted(anchor.certificate.sha256[:16] for anchor in bundle(*n).anchors) for n in ("a", "ab"))
    lines = [record.__dict__ for record in caplog.records if record.name == "federation.controller.audit"]
    assert [(line["actor"], line["before"], line["after"]) for line in lines] == [
        ("test", "none", f"generation 1: {a[0]}"),
        ("test", f"generation 1: {a[0]}", f"generation 2: {both[0]}, {both[1]}"),
    ]
    assert all(set(FIELDS) <= line.keys() for line in lines)


async def test_the_same_bytes_make_no_new_generation() -> None:
    ledger = Ledger(MemoryStore())
    first = plan(("a",), await ledger.read())
    assert first is not None
    in_force = await ledger.put_in_force(first, await ledger.read())
    assert plan(("a",), in_force) is None
    second = plan(("a", "b"), in_force)
    assert second is not None
    assert (second.number, second.reason) == (2, f"adds {pki.root('b').certificate.subject}")


async def test_a_rollback_is_a_new_generation_with_old_content() -> None:
    ledger = Ledger(MemoryStore())
    for names in (("a",), ("a", "b"), ("a",)):
        in_force = await ledger.read()
        generation = plan(names, in_force)
        assert generation is not None
        await ledger.put_in_force(generation, in_force)
    latest = (await ledger.read()).generation
    assert latest is not None
    assert latest.number == 3
    assert (await ledger.numbers(most=10))[latest.sha256] == 3


async def test_a_store_that_went_back_gets_the_same_bytes_under_a_new_number() -> None:
    ledger = Ledger(MemoryStore())
    first = plan(("a",), await ledger.read())
    assert first is not None
    in_force = await ledger.put_in_force(first, await ledger.read())
    again = plan(("a",), in_force, floor=7)
    assert again is not None
    assert (again.number, again.sha256) == (8, first.sha256)


async def test_a_damaged_generation_stops_everything_and_says_where() -> None:
    store = MemoryStore()
    ledger = Ledger(store)
    first = plan(("a",), await ledger.read())
    assert first is not None
    await ledger.put_in_force(first, await ledger.read())
    key = generation_key(1)
    for damage in (b"", b"{}", store.documents[key].replace(b'"number":1', b'"number":2')):
        whole, store.documents[key] = store.documents[key], damage
        with pytest.raises(StateUnavailable) as refused:
            await ledger.read()
        assert key in str(refused.value)
        store.documents[key] = whole
    del store.documents[key]
    with pytest.raises(StateUnavailable, match="missing"):
        await ledger.read()


async def test_of_two_controllers_that_write_at_once_one_is_refused() -> None:
    store = MemoryStore()
    mine, theirs = Ledger(store), Ledger(store)
    seen_by_me, seen_by_them = await mine.read(), await theirs.read()
    first, second = plan(("a",), seen_by_me), plan(("b",), seen_by_them)
    assert first is not None
    assert second is not None
    await mine.put_in_force(first, seen_by_me)
    with pytest.raises(StateConflict):
        await theirs.put_in_force(second, seen_by_them)
    assert (await theirs.read()).generation == first


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sets(st.sampled_from(NAMES), min_size=1),
            st.none() | st.tuples(st.integers(1, 2), st.booleans()),
        ),
        max_size=8,
    )
)
async def test_numbers_strictly_increase_across_crashes(
    steps: list[tuple[set[str], tuple[int, bool] | None]],
) -> None:
    """A crash before or after either write: each generation keeps its number, and no number is used twice."""
    store = MemoryStore()
    seen: dict[int, str] = {}
    last = 0
    for names, crash in steps:
        ledger = Ledger(store)
        in_force = await ledger.read()
        generation = plan(tuple(sorted(names)), in_force)
        if generation is None:
            assert in_force.generation is not None
            assert in_force.generation.sha256 == bundle(*names).sha256
            continue
        assert generation_key(generation.number) not in store.documents
        store.crash_at = (store.writes + crash[0], crash[1]) if crash else None
        try:
            await ledger.put_in_force(generation, in_force)
        except CrashError:
            assert crash is not None
        store.crash_at = None
        now = (await Ledger(store).read()).generation
        assert (now.number if now else 0) >= last
        if now is not None:
            assert seen.setdefault(now.number, now.sha256) == now.sha256
            assert bundle_of(now).sha256 == now.sha256
            current = decode(store.documents["current"], Current, key="current")
            assert current == Current(number=now.number, sha256=now.sha256)
            last = now.number


async def test_an_old_generation_that_is_damaged_is_passed_over() -> None:
    store = MemoryStore()
    ledger = Ledger(store)
    for names in (("a",), ("b",)):
        in_force = await ledger.read()
        generation = plan(names, in_force)
        assert generation is not None
        await ledger.put_in_force(generation, in_force)
    store.documents[generation_key(1)] = encode(Current(number=1, sha256=""))
    assert list((await ledger.numbers(most=10)).values()) == [2]
