"""``federation clusters join``: says how far a cluster has joined, writes the next files, and guesses nothing.

That it leads a mesh to the hub, and that its files do what they say, is shown in ``tests/e2e/test_brownfield.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import pytest
from msgspec.structs import replace

from federation.cli import clusters
from federation.cli.mounted_operations import operations
from federation.core.config.types import Address
from federation.core.documents.controller import JoinStepReport, RotationReport
from federation.core.rotation.record import Condition
from federation.core.trust.joining import JoinStep
from federation.runtime.clock import SystemClock
from federation.status.app import create_app
from federation.status.server import serve
from tests.cli.asking import asked, run_verb
from tests.status.rotations import deciding, report_rotation
from tests.status.worlds import CountingStore, FixedConfig, World
from tests.support import pki
from tests.support.seals import SEAL

HUB = pki.root("hub")
Run = Callable[..., Awaitable[int]]


def steps(present: JoinStep, detail: str, *, until: float = 0.0) -> list[JoinStepReport]:
    order = list(JoinStep)
    waits = Condition(name="x", met=False, detail=detail, cluster="west", until=until)
    return [
        JoinStepReport(
            step=step.value,
            done=order.index(step) < order.index(present),
            conditions=[waits] if step is present else [],
        )
        for step in order
    ]


def world(present: JoinStep | None, detail: str = "it waits", *, pem: bytes = HUB.pem) -> World:
    made = World(["east", "west"], datetime.now(UTC).timestamp())
    digest = sha256(pem).hexdigest()
    assert made.current is not None
    made.current = replace(made.current, sha256=digest)
    made.generations[7] = replace(made.generations[7], bundle_pem=pem.decode(), sha256=digest)
    joining = {"west": steps(present, detail)} if present is not None else {}
    report_rotation(made, RotationReport(computed=made.now - 1, joining=joining))
    return made


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration that pins the hub's root."""
    (tmp_path / "root.pem").write_bytes(HUB.pem)
    registered = "".join(
        f'[[clusters]]\nname = "{name}"\ncluster_id = "{name}"\n'
        f'[clusters.signer]\nkubeconfig = "{name}-s"\n[clusters.controller]\nkubeconfig = "{name}-c"\n'
        for name in ("east", "west")
    )
    file = tmp_path / "clusters.toml"
    file.write_text(
        'trust_domain = "mesh.example.org"\n[[trust.anchors]]\nfile = "root.pem"\n'
        f'sha256 = "{HUB.certificate.sha256}"\n[listener]\nlisten = "127.0.0.1:15443"\n'
        'server_names = ["hub.example.org"]\n[signer.authority]\nkind = "local"\nname = "x"\n'
        'certificate_file = "c"\nkey_file = "k"\n[state]\ndirectory = "hub-state"\n' + registered
    )
    return file


@asynccontextmanager
async def joining(shown: World, config: Path, *more: str) -> AsyncIterator[Run]:
    """Yields what runs the command for west."""
    directory = config.parent / "files"
    words = ("clusters", "join", "west", "--config", str(config), "--directory", str(directory), *more)
    async with asked(clusters, shown, config.parent) as (run, _):
        yield lambda *arguments: run(*words, *arguments)


async def test_a_cluster_without_a_ca_of_its_own_has_joined(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with joining(world(None), config) as run:
        assert await run() == 0
    assert "west has no CA of its own" in capsys.readouterr().out


async def test_a_cluster_whose_step_is_unknown_does_not_count_as_joined(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unread = world(None)
    unread.edit_seen("west", state="unavailable", reason="timeout", detail="no answer")
    async with joining(unread, config) as run:
        assert await run() == 2
    assert "not known which step west is at" in capsys.readouterr().out
    kept = world(None)
    kept.edit_publication("west", current=40, pending=8, joining=8)
    async with joining(kept, config) as run:
        assert await run() == 2
    silent = world(None)
    silent.leader = None
    async with joining(silent, config) as run:
        assert await run() == 2


def test_where_no_hub_answers_or_no_cluster_has_that_name_it_exits_2(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("clusters", "join", "--config", str(config), "--url", "http://127.0.0.1:9")
    assert run_verb(clusters, *words, "west") == 2
    assert run_verb(clusters, *words, "north") == 2
    assert "no cluster is named north; there are: east, west" in capsys.readouterr().err


async def test_it_prints_the_steps_and_writes_the_files_of_the_current_one(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with joining(world(JoinStep.SERVE, "pilot\x1b[2J lacks it"), config) as run:
        assert await run() == 1
        said = capsys.readouterr().out
        script = config.parent / "files" / "1-cacerts.sh"
        assert script.stat().st_mode & 0o111
        assert await run() == 1, "it can be run again"
    assert "\x1b" not in said
    for line in ("west: step 2 of 8", "  done  accept ", "  NOW   serve ", "pilot?[2J lacks it", str(script)):
        assert line in said
    assert HUB.pem.decode() in script.read_text(), "no own root is pinned: it is the hub's"


async def test_a_values_file_that_an_operator_changed_is_not_overwritten(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with joining(world(JoinStep.SWITCH_OFF), config) as run:
        assert await run() == 1
        file = config.parent / "files" / "4-switch-off" / "helm-istiod.yaml"
        assert 'ENABLE_CA_SERVER: "false"' in file.read_text()
        file.write_text("mine")
        capsys.readouterr()
        assert await run() == 1
    assert file.read_text() == "mine"
    assert "is left as it is" in capsys.readouterr().out


async def test_no_files_are_written_for_a_bundle_with_an_unpinned_root(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strange = world(JoinStep.SERVE, pem=HUB.pem + pki.root("stranger").pem)
    async with joining(strange, config) as run:
        assert await run() == 1
    assert "does not pin" in capsys.readouterr().err
    assert not (config.parent / "files").exists()


async def test_the_takeover_is_declared_only_after_confirmation(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown, clock = world(JoinStep.TAKEOVER), SystemClock()
    store = CountingStore(config.parent / "state", clock)
    await store.put(shown.document_set())
    fixed = FixedConfig(shown.config)
    app = create_app(store=store, config=fixed, clock=clock, mounted=operations(store, fixed, clock, SEAL))
    async with (
        serve(app, listen=Address("127.0.0.1", 0), clock=clock) as address,
        deciding(store, lambda _: None) as received,
    ):
        words = ("clusters", "join", "west", "--config", str(config), "--url", f"http://{address}")
        assert await asyncio.to_thread(run_verb, clusters, *words) == 1
        assert "was not declared" in capsys.readouterr().out
        assert received == []
        assert await asyncio.to_thread(run_verb, clusters, *words, "--yes") == 1
    assert "the takeover is done" in capsys.readouterr().out
    assert [(operation.verb, operation.arguments) for operation in received] == [
        ("takeover", {"cluster": "west"})
    ]


async def test_what_was_found_is_shown_to_be_compared_and_nothing_is_pinned_unasked(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = config.read_bytes()
    async with joining(world(JoinStep.ACCEPT), config) as run:
        assert await run() == 1
    assert "--accept FINGERPRINT" in capsys.readouterr().out
    assert config.read_bytes() == before
