"""What was found survives the process that found it, and a document that is damaged spoils no other."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from federation.controller.sources.found_anchors import Proposals, StoredProposals
from federation.core.documents.controller import ControllerReport
from federation.core.documents.encoding import encode
from federation.core.documents.trust import Dismissal, Proposal
from federation.core.errors import StateUnavailable
from federation.state.files import FileStore
from tests.support import pki
from tests.support.clock import VirtualClock

CLUSTERS = ("east", "west")
NO_PINS: frozenset[str] = frozenset()


class Hub:
    """A leader of its own on a store; another on the same directory is the next one."""

    def __init__(self, directory: Path) -> None:
        self.store = FileStore(directory, VirtualClock())
        self.proposals = Proposals()
        self.kept = StoredProposals(self.store, self.proposals)

    def find(self, cluster: str, name: str) -> str:
        self.proposals.note_content(cluster, pki.root(name).pem, where="shop", place="shop", now=1.0)
        return pki.root(name).certificate.sha256

    async def keep(self) -> bool:
        return await self.kept.keep(clusters=CLUSTERS, pins=NO_PINS)

    def shown(self) -> set[tuple[str, str]]:
        return {(p.cluster, p.sha256) for p in self.kept.shown(clusters=CLUSTERS, pins=NO_PINS)}

    def problems(self) -> list[str]:
        return self.kept.problems(clusters=CLUSTERS)


async def next_leader(directory: Path) -> Hub:
    hub = Hub(directory)
    await hub.kept.load()
    return hub


async def test_the_next_leader_shows_what_this_one_showed(tmp_path: Path) -> None:
    hub = await next_leader(tmp_path)
    sha256, dismissed = hub.find("east", "stranger"), hub.find("west", "other")
    named = Proposal(sha256="c" * 64, subject="x", cluster="", origin="the authority vault", not_after=1.0)
    hub.proposals.remember([named])
    hub.proposals.dismiss(Dismissal(sha256=dismissed, author="ops", at=1.0, operation="1"))
    assert await hub.keep()
    assert not await hub.keep(), "nothing has changed"
    later = await next_leader(tmp_path)
    later.find("west", "other")
    await later.keep()
    assert later.shown() == hub.shown() == {("east", sha256), ("", named.sha256)}
    assert not later.problems()


async def test_once_complete_nothing_is_shown_that_a_restart_would_forget(tmp_path: Path) -> None:
    hub = await next_leader(tmp_path)
    await hub.keep()
    sha256 = hub.find("east", "stranger")
    assert hub.shown() == set()
    await hub.keep()
    assert hub.shown() == {("east", sha256)}


async def test_what_cannot_be_persisted_is_shown_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = await next_leader(tmp_path)
    await hub.keep()
    sha256 = hub.find("east", "stranger")

    async def full(*_: object, **__: object) -> str:
        raise StateUnavailable("no space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(hub.store, "write", full)
        await hub.keep()
        assert hub.shown() == {("east", sha256)}
        assert "no space left" in hub.problems()[0]
        with pytest.raises(StateUnavailable):
            hub.kept.require(["east"])
    await hub.keep()
    assert not hub.problems()


async def test_a_damaged_document_is_not_written_over_and_spoils_no_other(tmp_path: Path) -> None:
    hub = await next_leader(tmp_path)
    old, west = hub.find("east", "stranger"), hub.find("west", "other")
    await hub.keep()
    (file,) = (tmp_path / "documents").glob("proposals@east")
    good = file.read_bytes()
    file.write_bytes(good[:-7])
    later = await next_leader(tmp_path)
    new = later.find("east", "newer")
    await later.keep()
    assert file.read_bytes() == good[:-7]
    assert later.shown() == {("east", new), ("west", west)}
    assert "east" in later.problems()[0]
    file.write_bytes(good)
    await later.keep()
    assert later.shown() == {("east", new), ("east", old), ("west", west)}
    assert not later.problems()


def is_complete(hub: Hub) -> bool:
    return hub.kept.complete


async def test_what_an_earlier_version_had_in_its_report_alone_is_taken_over(tmp_path: Path) -> None:
    hub = Hub(tmp_path)
    proposal = Proposal(sha256="c" * 64, subject="x", cluster="east", origin="shop", not_after=1.0)
    base = ControllerReport(replica="a", started=0.0, updated=1.0, heartbeat=5.0, leader=True, ready=True)
    for name, kept in (("old", False), ("new", True)):
        other = ControllerReport(
            replica=name, started=0.0, updated=1.0, heartbeat=5.0, leader=True, ready=True,
            proposals=[proposal if name == "old" else replace(proposal, sha256="d" * 64)],
            proposals_stored=kept,
        )  # fmt: skip
        await hub.store.write(f"controllers/{name}", encode(other))
    await hub.store.write("controllers/a", encode(base))
    await hub.kept.load()
    assert hub.shown() == {("east", "c" * 64)}
    assert not is_complete(hub)
    await hub.keep()
    assert is_complete(hub)
    await hub.store.delete("controllers/old")
    assert (await next_leader(tmp_path)).shown() == {("east", "c" * 64)}
