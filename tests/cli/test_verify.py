"""``federation verify``: exit 0 only where everything is proven."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.cli import verify
from federation.cli.verify import is_proven
from federation.core.documents.controller import ControlPlaneReport
from federation.status.encoding import decode_answer
from federation.status.model import MatrixView
from tests.cli.asking import asked, run_verb
from tests.status.worlds import World, square
from tests.support.patience import PATIENCE

NAMES = ["east", "west", "north"]


async def test_every_pair_valid_exits_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with asked(verify, World(NAMES, time.time()), tmp_path) as (run, _):
        assert await run("verify") == 0
    assert "every cluster can talk to every other" in capsys.readouterr().out


BROKEN: dict[str, Callable[[World], None]] = {
    "fails": lambda w: w.set_cells(
        {("east", "west"): "x"}, {"east>west": "the anchor R1 is missing in east"}
    ),
    "unknown": lambda w: w.set_cells(
        {("east", "west"): "?"}, {"east>west": "the anchor R1 is missing in east"}
    ),
    "stale leader": lambda w: w.edit_leader(updated=w.now - 60),
    "unreachable": lambda w: w.edit_seen("west", state="unavailable", reason="unreachable"),
}


CAUSES = {
    "fails": "FAIL  east to west: mutual TLS fails: the anchor R1 is missing in east (do: ",
    "unknown": "WARN  east: 1 of 6 pairs are not proved: east -> west: the anchor R1 is missing in east (do: ",
    "stale leader": "FAIL  controller: trust is neither published nor proved: the leading controller was last seen",
    "unreachable": "WARN  west is unreachable",
}


@pytest.mark.parametrize("name", BROKEN)
async def test_each_fault_exits_1_with_one_line_for_its_cause(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    world = World(NAMES, time.time())
    BROKEN[name](world)
    async with asked(verify, world, tmp_path) as (run, _):
        assert await run("verify") == 1
    out = capsys.readouterr().out
    causes = [line for line in out.splitlines() if line.startswith(("FAIL", "WARN", "?"))]
    assert len(causes) == 1
    assert causes[0].startswith(CAUSES[name])
    assert out.endswith("NOT PROVEN\n")


async def test_two_dead_clusters_of_forty_are_two_lines_and_json_loses_no_pair(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World([f"c{i:02d}" for i in range(40)], time.time())
    for dead in ("c07", "c31"):
        world.edit_seen(dead, state="unavailable", reason="unreachable", detail="no connection", since=0.0)
    async with asked(verify, world, tmp_path) as (run, _):
        assert await run("verify") == 1
        out = capsys.readouterr().out
        assert await run("verify", "--json") == 1
    lines = out.splitlines()
    assert len(lines) == 4  # the counts, a line for each cause, the verdict
    assert [line.split(":")[0] for line in lines[1:3]] == [
        f"WARN  {dead} is unreachable; workloads there still get certificates" for dead in ("c07", "c31")
    ]
    assert all("(affects 78 pairs) (do: " in line for line in lines[1:3])
    document = msgspec.json.decode(capsys.readouterr().out)
    assert (document["good"], len(document["causes"])) == (False, 2)
    assert len(document["reasons"]) == document["unknown"] == 154


async def test_namespaces_that_refuse_the_bundle_exit_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every pair validates by the probes, and pods of those namespaces trust what they had before."""
    world = World(NAMES, time.time())
    world.edit_publication("west", current=43, forbidden=5, problems=["team-1: 403"])
    async with asked(verify, world, tmp_path) as (run, _):
        assert await run("verify") == 1
    assert "WARN  west: 5 of 48 namespaces refuse the bundle: team-1: 403" in capsys.readouterr().out


@pytest.mark.parametrize("reason", ["state_older", "other_hub"])
async def test_a_cluster_that_gets_nothing_by_what_it_holds_exits_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], reason: str
) -> None:
    """A mesh of one cluster has no pair that could be wrong, and signers follow a second later."""
    world = World(["east"], time.time())
    world.edit_seen("east", state="degraded", reason=reason, detail="it holds generation 2 of this hub")
    async with asked(verify, world, tmp_path) as (run, _):
        assert await run("verify") == 1
    out = capsys.readouterr().out
    assert "it holds generation 2 of this hub" in out
    assert out.endswith("NOT PROVEN\n")


async def test_an_istiod_without_a_certificate_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every pair validates by the hub's own probes, and no pod could be injected there."""
    world = World(NAMES, time.time())
    failed = ControlPlaneReport(
        namespace="istio-system",
        secret="istiod-tls",
        state="failed",
        detail="it has expired",
        remedy="repair the listener",
        attention=True,
    )
    world.edit_seen("west", control_planes=[failed])
    async with asked(verify, world, tmp_path) as (run, _):
        assert await run("verify") == 1
    out = capsys.readouterr().out
    assert (
        "FAIL  west: istiod's certificate istio-system/istiod-tls: it has expired (do: repair the listener)"
        in out
    )
    assert out.endswith("NOT PROVEN\n")


async def test_no_cluster_proves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with asked(verify, World([], time.time()), tmp_path) as (run, _):
        assert await run("verify") == 1
    assert "no cluster is registered" in capsys.readouterr().out


async def test_json_is_the_matrix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with asked(verify, World(NAMES, time.time()), tmp_path) as (run, _):
        assert await run("verify", "--json") == 0
    assert decode_answer(capsys.readouterr().out, MatrixView).valid == 6


async def test_it_waits_until_everything_is_proven(tmp_path: Path) -> None:
    world = World(NAMES, time.time())
    world.set_cells({("east", "west"): "?"})
    async with asked(verify, world, tmp_path) as (run, store):
        waiting = asyncio.create_task(run("verify", "--wait", "30"))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        world.set_cells({})
        world.now = time.time()
        await store.put(World(NAMES, time.time()).document_set())
        assert await waiting == 0


async def test_waiting_ends(tmp_path: Path) -> None:
    world = World(NAMES, time.time())
    world.set_cells({("east", "west"): "x"})
    async with asked(verify, world, tmp_path) as (run, _):
        started = time.monotonic()
        assert await run("verify", "--wait", "0.4") == 1
        assert time.monotonic() - started < PATIENCE


def test_an_api_that_cannot_be_asked_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_verb(verify, "verify", "--url", "http://127.0.0.1:1") == 2
    assert "UNKNOWN" in capsys.readouterr().err


@pytest.mark.parametrize("seconds", ["-1", "nan", "inf", "soon"])
def test_a_wait_that_is_no_time_is_refused(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        run_verb(verify, "verify", f"--wait={seconds}")
    assert refused.value.code == 2
    assert "not a number of seconds" in capsys.readouterr().err


@given(
    names=st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=4, unique=True),
    wrong=st.sampled_from(["cell", "row", "count", "word", "none"]),
)
def test_an_inconsistent_matrix_counts_as_not_proven(names: list[str], wrong: str) -> None:
    pairs = len(names) * (len(names) - 1)
    rows = square(names)
    if wrong == "cell" and pairs:
        rows[0] = rows[0].replace("v", "?", 1)
    if wrong == "row":
        rows = rows[:-1]
    matrix = MatrixView(
        proven=wrong != "word",
        computed=0.0,
        generation=1,
        clusters=names,
        rows=rows,
        pairs=pairs,
        valid=pairs - (wrong == "count"),
        failed=0,
        unknown=0,
        handshakes=1,
        reasons=[],
    )
    sound = wrong == "none" or (wrong == "cell" and not pairs)
    assert is_proven(matrix) == (sound and bool(names))
