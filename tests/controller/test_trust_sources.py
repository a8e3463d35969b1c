"""From sources to the generation in force where the store fails half-way: what was taken up is not dropped."""

from __future__ import annotations

from pathlib import Path

from federation.controller.generations import Ledger
from federation.controller.in_force import TrustState
from federation.controller.sources.bundle import TrustSources
from federation.core.config.hub import HubConfig
from federation.core.config.load import parse_config
from federation.core.rotation.record import RotationRecord
from tests.controller.test_rotation_driver import FailingStore
from tests.controller.world import root
from tests.support.clock import VirtualClock


def configured(directory: Path, *names: str) -> HubConfig:
    """A configuration that pins these roots, whose files are there."""
    pins = ""
    for name in names:
        file, authority = directory / f"{name}.pem", root(name)
        file.write_bytes(authority.pem)
        pins += f'[[trust.anchors]]\nfile = "{file}"\nsha256 = "{authority.certificate.sha256}"\n'
    return parse_config(
        f'trust_domain = "mesh.example"\n{pins}[listener]\nserver_names = ["hub.example"]\n[signer.authority]\n'
        'name = "test"\ncertificate_file = "chain.pem"\nkey_file = "key.pem"\n[state]\ndirectory = "state"\n'
        '[[clusters]]\nname = "east"\ncluster_id = "east"\nkubeconfig = "east"\n',
        file="clusters.toml",
    )


def sources(store: FailingStore, clock: VirtualClock) -> tuple[TrustSources, TrustState]:
    """Those of a leader that has just begun."""
    trust = TrustState()
    made = TrustSources(
        ledger=Ledger(store), store=store, trust=trust, author="test", clock=clock, allowed=lambda: True
    )
    return made, trust


async def test_what_was_taken_up_counts_though_the_next_generation_cannot_be_written(tmp_path: Path) -> None:
    clock = VirtualClock()
    store = FailingStore(tmp_path / "state", clock)
    first, _ = sources(store, clock)
    assert await first.update(configured(tmp_path, "a"), RotationRecord())
    assert first.unwritten is None
    later, trust = sources(store, clock)
    store.failing = "generations/"
    assert await later.update(configured(tmp_path, "a", "b"), RotationRecord()), "members have to be aimed"
    assert (trust.number, len(trust.anchors)) == (1, 1)
    assert later.unwritten is not None
    assert "disk is full" in later.unwritten
    store.failing = "nothing"
    assert await later.update(configured(tmp_path, "a", "b"), RotationRecord())
    assert trust.number == 2
    assert later.unwritten is None
