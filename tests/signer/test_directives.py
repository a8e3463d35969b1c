"""Directives as the signer follows them: what was read stays until better is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from federation.core.documents.encoding import encode
from federation.core.errors import StateUnavailable
from federation.core.rotation.effects import SigningDirectives
from federation.signer.generations import TrustPoller
from federation.state.files import FileStore
from tests.signer.running_signer import TRUST_DOMAIN
from tests.support import pki
from tests.support.clock import VirtualClock

SECOND = SigningDirectives(rotation=2, state="ACTIVE", issuer="b" * 64, strict=True, revision=7)


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path, VirtualClock(pki.NOW))


@pytest.fixture
def poller(store: FileStore) -> TrustPoller:
    return TrustPoller(store, clock=VirtualClock(pki.NOW), trust_domain=TRUST_DOMAIN, pins=frozenset())


def in_force(poller: TrustPoller) -> SigningDirectives | None:
    return poller.directives.in_force


async def test_no_document_means_that_there_was_never_a_rotation(poller: TrustPoller) -> None:
    assert in_force(poller) is None, "nothing is assumed before the store was read"
    await poller.poll()
    assert in_force(poller) == SigningDirectives()
    assert poller.directives.problem is None


async def test_what_is_written_is_followed(poller: TrustPoller, store: FileStore) -> None:
    await store.write("orders", encode(SECOND))
    assert await poller.directives.catch_up() == SECOND
    known = poller.directives.in_force
    assert await poller.directives.catch_up() is known, "what has not changed is not read anew"
    third = SigningDirectives(rotation=3, state="STAGED", issuer="b" * 64, strict=True)
    await store.write("orders", encode(third))
    assert await poller.directives.catch_up() == third
    assert poller.directives.in_force == third


async def test_directives_without_a_revision_are_followed(poller: TrustPoller, store: FileStore) -> None:
    await store.write("orders", encode(SECOND))
    await poller.poll()
    uncounted = SigningDirectives(rotation=2, state="UNPUBLISHING", issuer="b" * 64, strict=True)
    await store.write("orders", encode(uncounted))
    assert await poller.directives.catch_up() == uncounted


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"garbage", "state_unavailable"),
        (b'{"rotation": "two"}', "state_unavailable"),
        (encode(SigningDirectives(rotation=1, state="ACTIVE", issuer="c" * 64)), "directives_backwards"),
        (encode(SigningDirectives()), "directives_backwards"),
        (
            encode(SigningDirectives(rotation=2, state="SOAKED", issuer="a" * 64, strict=True, revision=6)),
            "directives_backwards",
        ),
        (None, "directives_missing"),
    ],
)
async def test_what_is_wrong_changes_nothing_and_passes_no_fence(
    poller: TrustPoller, store: FileStore, data: bytes | None, reason: str
) -> None:
    await store.write("orders", encode(SECOND))
    await poller.poll()
    if data is None:
        await store.delete("orders")
    else:
        await store.write("orders", data)
    await poller.poll()
    assert poller.directives.in_force == SECOND
    assert poller.directives.problem is not None
    assert poller.directives.problem.reason == reason
    with pytest.raises(StateUnavailable):
        await poller.catch_up()
    await store.write("orders", encode(SECOND))
    await poller.poll()
    assert poller.directives.problem is None


async def test_damaged_directives_at_the_start_are_no_directives(
    poller: TrustPoller, store: FileStore, tmp_path: Path
) -> None:
    await store.write("orders", encode(SECOND))
    (tmp_path / "documents" / "orders").write_bytes(b"damaged")
    await poller.poll()
    assert poller.directives.in_force is None
    assert poller.directives.problem is not None
