"""``federation trust``: what is pinned and found is shown; one anchor is pinned, whole, or nothing is written."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import stat
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from msgspec.structs import replace

from federation.cli import pinning, trust
from federation.cli.main import VERBS, main
from federation.controller.rotation.observer import own_of
from federation.core.config.hub import HubConfig
from federation.core.config.load import parse_config
from federation.core.config.types import Address
from federation.core.documents.trust import Proposal
from federation.core.errors import ConfigurationError, FederationError
from federation.core.identity import ClusterName, TrustDomain
from federation.core.pki.certificate import Certificate
from federation.core.rotation.world import ClusterFacts
from federation.runtime.clock import SystemClock
from federation.status.app import create_app
from federation.status.server import serve
from tests.cli.asking import run_verb
from tests.cli.running import environment
from tests.status.worlds import CountingStore, FixedConfig, World, generation
from tests.support import pki
from tests.support.patience import PATIENCE

OWN = pki.root("own").certificate
STRANGER = pki.root("stranger").certificate
SHA = STRANGER.sha256

Ask = Callable[..., int]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A configuration with a comment, a mode and a pin of its own."""
    directory = tmp_path / "hub"
    directory.mkdir()
    (directory / "root.pem").write_bytes(OWN.pem)
    clusters = "".join(
        f'[[clusters]]\nname = "{name}"\ncluster_id = "{name}"\n'
        f'[clusters.signer]\nkubeconfig = "{name}-s"\n[clusters.controller]\nkubeconfig = "{name}-c"\n'
        for name in ("east", "west")
    )
    found = directory / "clusters.toml"
    found.write_text(
        f"""# kept as it is:   even this
trust_domain = "mesh.example.org"
[[trust.anchors]]
file = "root.pem"
sha256 = "{OWN.sha256}"
[listener]
server_names = ["hub.example.org"]
[signer.authority]
name = "shared"
certificate_file = "chain.pem"
key_file = "key.pem"
[state]
directory = "state"
{clusters}""",
        "utf-8",
    )
    found.chmod(0o640)
    return found


def world(*proposals: Proposal, anchors: tuple[Certificate, ...] = (OWN,)) -> World:
    """A hub with that bundle and these proposals."""
    found = World(["east", "west"], time.time())
    kept = generation(7, found.now)
    records = [
        replace(kept.anchors[0], sha256=anchor.sha256, subject=anchor.subject, not_after=found.now + 1e8)
        for anchor in anchors
    ]
    found.generations[7] = replace(kept, anchors=[*records, kept.anchors[1]])
    found.edit_leader(proposals=list(proposals))
    return found


def proposal(
    certificate: Certificate = STRANGER, cluster: str = "west", pem: bytes | None = None
) -> Proposal:
    return Proposal(
        sha256=certificate.sha256,
        subject=certificate.subject,
        cluster=cluster,
        origin="istio-ca-root-cert in shop",
        not_after=certificate.not_after.timestamp(),
        first_seen=time.time(),
        pem=(certificate.pem if pem is None else pem).decode(),
    )


@asynccontextmanager
async def hub(found: World, directory: Path) -> AsyncIterator[str]:
    """The URL of a hub that says what ``found`` holds, each proposal with its certificate."""
    clock = SystemClock()
    store = CountingStore(directory / "state", clock)
    await store.put(found.document_set())
    app = create_app(store=store, config=FixedConfig(found.config), clock=clock)
    pems = {p.sha256: p.pem for p in found.leader.proposals} if found.leader else {}
    async with serve(app, listen=Address("127.0.0.1", 0), clock=clock) as address:

        async def answer(request: web.Request) -> web.Response:
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://{address}{request.path}") as response,
            ):
                said = await response.json()
            for each in said["proposals"]:
                each["pem"] = pems[each["sha256"]]
            return web.json_response(said)

        front = web.Application()
        front.router.add_get("/api/v1/status", answer)
        async with serve(front, listen=Address("127.0.0.1", 0), clock=clock) as address_of_all:
            yield f"http://{address_of_all}"


async def ask(found: World, file: Path, *arguments: str) -> int:
    """Run ``federation trust`` against a hub that says what ``found`` holds."""
    async with hub(found, file.parent.parent) as url:
        return await asyncio.to_thread(exit_code_of, "trust", *arguments, "--config", str(file), "--url", url)


def exit_code_of(*arguments: str) -> int:
    """The exit code of the command, errors explained as the command line does."""
    return main(arguments)


def read(file: Path) -> HubConfig:
    return parse_config(file.read_text("utf-8"), file=str(file))


def tree(file: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(file.parent)): path.read_bytes()
        for path in sorted(file.parent.rglob("*"))
        if path.is_file()
    }


def pem_of(file: Path) -> Path:
    return file.parent / f"anchors/{SHA[:16]}.pem"


async def test_a_proposal_becomes_a_pin_and_nothing_else_changes(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = file.read_bytes()
    mask = os.umask(0o077)
    try:
        assert await ask(world(proposal()), file, "accept", SHA, "--yes") == 0
    finally:
        os.umask(mask)
    after = file.read_bytes()
    assert after.startswith(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    _, pin = read(file).trust.anchors
    assert (pin.sha256, pin.clusters, pin.file) == (SHA, (ClusterName("west"),), pem_of(file))
    assert pin.file.read_bytes() == STRANGER.pem
    assert stat.S_IMODE(pin.file.stat().st_mode) == 0o644
    assert stat.S_IMODE(pin.file.parent.stat().st_mode) == 0o755
    assert set(tree(file)) == {"clusters.toml", "root.pem", f"anchors/{SHA[:16]}.pem"}
    out = capsys.readouterr().out
    for words in (
        f"subject  {STRANGER.subject}",
        f"valid    {STRANGER.not_before:%Y-%m-%d} to {STRANGER.not_after:%Y-%m-%d}",
        "origin   cluster west: istio-ca-root-cert in shop",
        "every replica of both roles",
    ):
        assert words in out


async def test_the_given_options_are_written_into_the_pin(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("--cluster", "east", "--trust-domain", "other.example", "--allow-foreign-trust-domain")
    found = world(proposal(cluster="east"))
    assert await ask(found, file, "accept", SHA, "--yes", "--file", "its.pem", *given) == 0
    pin = read(file).trust.anchors[1]
    assert (pin.clusters, pin.trust_domain) == ((ClusterName("east"),), TrustDomain("other.example"))
    assert pin.allow_foreign_trust_domain
    assert pin.file == file.parent / "its.pem"
    assert pin.file.read_bytes() == STRANGER.pem
    assert "so it can speak for mesh.example.org as well" in capsys.readouterr().err


@pytest.mark.parametrize("given", [(), ("--cluster", "east"), ("--cluster", "east", "--cluster", "west")])
async def test_an_anchor_of_several_clusters_is_pinned_for_each_of_them(
    given: tuple[str, ...], file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """If one were left out, a rotation would not wait until only the hub issues there."""
    found = world(proposal(), proposal(cluster="east"))
    assert await ask(found, file, "accept", SHA, "--yes", *given) == 0
    names = {str(name) for name in read(file).trust.anchors[1].clusters}
    assert names == {"east", "west"}
    assert "cluster  east, west" in capsys.readouterr().out
    seen = {name: ClusterFacts(anchors=None) for name in names}
    assert own_of(read(file), seen) == {"east": {SHA}, "west": {SHA}}


async def test_an_anchor_of_no_cluster_has_none_unless_one_is_named(file: Path) -> None:
    before = file.read_bytes()
    assert await ask(world(proposal(cluster="")), file, "accept", SHA, "--yes") == 0
    assert read(file).trust.anchors[1].clusters == ()
    file.write_bytes(before)
    assert await ask(world(proposal(cluster="")), file, "accept", SHA, "--yes", "--cluster", "east") == 0
    assert read(file).trust.anchors[1].clusters == (ClusterName("east"),)


async def test_a_person_can_say_that_a_root_is_no_clusters_own(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await ask(world(proposal()), file, "accept", SHA, "--yes", "--shared-root") == 0
    assert read(file).trust.anchors[1].clusters == ()
    assert "the member CA of none: rotations wait for no cluster but" in capsys.readouterr().out


def test_accepting_from_a_file_requires_a_cluster_or_shared_root(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree(file)
    assert accepted_from_file(file, ()) == 1
    assert "--shared-root" in capsys.readouterr().err
    assert tree(file) == before
    assert accepted_from_file(file, ("--cluster", "west", "--cluster", "east")) == 0
    assert [str(name) for name in read(file).trust.anchors[1].clusters] == ["west", "east"]


def test_accepting_a_pinned_root_for_another_cluster_is_refused_with_what_to_add(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert accepted_from_file(file, ("--cluster", "west")) == 0
    before = tree(file)
    assert accepted_from_file(file, ("--cluster", "west")) == 0
    assert accepted_from_file(file, ("--cluster", "west", "--cluster", "east")) == 1
    assert "add east to `cluster`" in capsys.readouterr().err
    assert tree(file) == before


def test_cluster_and_shared_root_exclude_each_other(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        accepted_from_file(file, ("--cluster", "west", "--shared-root"))
    assert refused.value.code == 2
    assert "not allowed with" in capsys.readouterr().err


REFUSED: dict[str, tuple[Callable[[], World], tuple[str, ...], int, str]] = {
    "unknown": (lambda: world(proposal(pki.root("x").certificate)), (), 1, "no open proposal"),
    "none": (world, (), 1, "no open proposal"),
    "other cluster": (lambda: world(proposal()), ("--cluster", "east"), 1, "not found in east but in west"),
    "other certificate": (
        lambda: world(proposal(pem=pki.root("x").pem)),
        (),
        1,
        "not the certificate with the fingerprint",
    ),
    "garbage": (lambda: world(proposal(pem=b"\x1b[2J rubbish")), (), 1, "there is no certificate in it"),
    "no certificate": (lambda: world(proposal(pem=b"")), (), 1, "accept it with --from-file"),
    "foreign": (lambda: world(proposal()), ("--trust-domain", "o.example"), 2, "allow_foreign_trust_domain"),
    "own, overridden": (
        lambda: world(proposal()),
        ("--allow-foreign-trust-domain",),
        2,
        "overrides nothing",
    ),
    "not registered": (lambda: world(proposal(cluster="north")), (), 2, "north, which is not registered"),
    "a name of a file that is none": (lambda: world(proposal()), ("--file", "~/x"), 2, "not expanded"),
    "a file that is there": (
        lambda: world(proposal()),
        ("--file", "root.pem"),
        1,
        "is there already and holds something else",
    ),
    "a file that cannot be": (lambda: world(proposal()), ("--file", "root.pem/x"), 1, "cannot be read or"),
    "no terminal": (lambda: world(proposal()), (), 2, "needs --yes"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_is_refused_writes_nothing(
    file: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make, arguments, code, words = REFUSED[case]
    before = tree(file)
    yes = () if case == "no terminal" else ("--yes",)
    assert await ask(make(), file, "accept", SHA, *yes, *arguments) == code
    error = capsys.readouterr().err
    assert words in error
    assert "\x1b" not in error
    assert tree(file) == before


async def test_a_hub_of_another_mesh_is_not_taken_for_this_one(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(file.read_text("utf-8").replace("mesh.example.org", "other.example"), "utf-8")
    assert await ask(world(proposal()), file, "accept", SHA, "--yes") == 1
    assert "the hub there is of mesh.example.org" in capsys.readouterr().err


@pytest.mark.parametrize(
    "given",
    [SHA[:16], SHA[:63], SHA + "0", "x" * 64, ""],
    ids=["start", "all but one", "more", "no hex", "nothing"],
)
def test_a_part_of_a_fingerprint_is_refused(
    given: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        exit_code_of("trust", "accept", given, "--config", str(file), "--yes")
    assert refused.value.code == 2
    assert "never enough" in capsys.readouterr().err


def test_openssls_form_of_a_fingerprint_is_the_same(tmp_path: Path, file: Path) -> None:
    source = tmp_path / "source.pem"
    source.write_bytes(OWN.pem + STRANGER.pem)
    colons = ":".join(SHA.upper()[i : i + 2] for i in range(0, 64, 2))
    arguments = ("--shared-root", "--from-file", str(source), colons, "--config", str(file), "--yes")
    assert exit_code_of("trust", "accept", *arguments) == 0
    pin = read(file).trust.anchors[1]
    assert (pin.sha256, pin.clusters) == (SHA, ())
    assert pin.file.read_bytes() == STRANGER.pem


EXPIRED = pki.root(
    "expired", not_before=datetime(2020, 1, 1, tzinfo=UTC), not_after=datetime(2021, 1, 1, tzinfo=UTC)
).certificate


@pytest.mark.parametrize(
    ("certificate", "words"),
    [
        (pki.intermediate().certificate, "is not self-signed"),
        (pki.leaf(pki.intermediate()), "is not a CA certificate"),
        (EXPIRED, "expired on 2021-01-01"),
    ],
    ids=["intermediate", "leaf", "expired"],
)
def test_only_a_living_self_signed_authority_can_be_an_anchor(
    certificate: Certificate, words: str, tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "source.pem"
    source.write_bytes(certificate.pem)
    before = tree(file)
    given = ("accept", certificate.sha256, "--from-file", str(source), "--shared-root")
    assert exit_code_of("trust", *given, "--config", str(file), "--yes") == 1
    assert words in capsys.readouterr().err
    assert tree(file) == before


def test_a_file_that_is_not_there_is_named(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ("accept", SHA, "--from-file", "/nowhere/x.pem", "--shared-root", "--config", str(file), "--yes")
    assert exit_code_of("trust", *given) == 1
    assert "/nowhere/x.pem: cannot be read or written: No such file" in capsys.readouterr().err


def accepted_from_file(file: Path, whose: tuple[str, ...] = ("--shared-root",)) -> int:
    source = file.parent.parent / "source.pem"
    source.write_bytes(STRANGER.pem)
    return exit_code_of(
        "trust", "accept", SHA, "--from-file", str(source), "--config", str(file), "--yes", *whose
    )


def test_accepting_twice_changes_nothing(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert accepted_from_file(file) == 0
    before = tree(file)
    assert accepted_from_file(file) == 0
    assert tree(file) == before
    assert "pinned already" in capsys.readouterr().out


def test_accepting_again_completes_what_a_crash_left(file: Path) -> None:
    pem_of(file).parent.mkdir()
    pem_of(file).write_bytes(STRANGER.pem)
    assert accepted_from_file(file) == 0
    assert read(file).trust.pins == {OWN.sha256, SHA}


def test_a_configuration_that_cannot_be_used_is_not_written_to(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(file.read_text("utf-8") + "[sttus]\n", "utf-8")
    before = tree(file)
    assert accepted_from_file(file) == 2
    assert "did you mean [status]?" in capsys.readouterr().err
    assert tree(file) == before


def test_a_locked_configuration_is_not_changed(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(file)
    with file.open("rb") as locked:
        fcntl.flock(locked, fcntl.LOCK_EX)
        assert accepted_from_file(file) == 1
    assert "another process is writing it" in capsys.readouterr().err
    assert tree(file) == before
    assert accepted_from_file(file) == 0


def test_a_full_disk_leaves_all_files_unchanged(file: Path, tmp_path: Path) -> None:
    """The system refuses the last bytes of the new configuration, as a full disk does."""
    source = tmp_path / "source.pem"
    source.write_bytes(STRANGER.pem)
    with file.open("a", encoding="utf-8") as opened:
        opened.write(f"# {'x' * len(STRANGER.pem)}\n")
    size = file.stat().st_size
    before = tree(file)
    script = (
        "import resource, signal, sys\nfrom federation.cli.main import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))\nsys.exit(main(sys.argv[1:]))"
    )
    arguments = (
        "trust",
        "accept",
        SHA,
        "--from-file",
        str(source),
        "--shared-root",
        "--config",
        str(file),
        "--yes",
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 1
    assert "File too large" in done.stderr
    assert tree(file) == before


def test_a_link_to_the_configuration_stays_one(file: Path, tmp_path: Path) -> None:
    link = tmp_path / "linked" / "clusters.toml"
    link.parent.mkdir()
    link.symlink_to(file)
    source = tmp_path / "source.pem"
    source.write_bytes(STRANGER.pem)
    given = ("accept", SHA, "--from-file", str(source), "--shared-root", "--config", str(link), "--yes")
    assert exit_code_of("trust", *given) == 0
    assert link.is_symlink()
    assert read(file).trust.pins == {OWN.sha256, SHA}
    assert read(link).trust.anchors[1].file == link.parent / f"anchors/{SHA[:16]}.pem"
    assert read(link).trust.anchors[1].file.exists()  # where the hub that is given the link looks for it


def test_what_changed_meanwhile_is_not_overwritten(file: Path) -> None:
    digest = sha256(file.read_bytes()).hexdigest()
    edited = file.read_text("utf-8") + "# another hand's\n"
    file.write_text(edited, "utf-8")
    with pytest.raises(pinning.FileChanged):
        pinning.replace_text(file, "mine", digest=digest)
    with pytest.raises(pinning.FileChanged):
        pinning.read_text(file, digest=digest)
    assert file.read_text("utf-8") == edited
    assert set(tree(file)) == {"clusters.toml", "root.pem"}


def test_of_concurrent_edits_one_wins_and_the_others_are_refused(file: Path) -> None:
    start = threading.Barrier(4)
    results: list[str | FederationError] = []
    digest = sha256(file.read_bytes()).hexdigest()

    def write(text: str) -> None:
        start.wait()
        try:
            pinning.replace_text(file, text, digest=digest)
        except FederationError as error:
            results.append(error)
        else:
            results.append(text)

    threads = [threading.Thread(target=write, args=(f"text {n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    written = [result for result in results if isinstance(result, str)]
    assert written == [file.read_text("utf-8")]
    assert sum(isinstance(result, pinning.FileChanged) for result in results) == 3
    assert set(tree(file)) == {"clusters.toml", "root.pem"}


@pytest.mark.parametrize(
    ("typed", "code"),
    [(SHA[:8], 0), (SHA[:8].upper(), 0), (SHA[:7], 1), ("yes", 1), ("", 1)],
    ids=["digits", "capitals", "too few", "yes", "nothing"],
)
async def test_accepting_at_a_terminal_requires_the_first_digits(
    typed: str, code: int, file: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source.pem"
    source.write_bytes(STRANGER.pem)
    before = tree(file)
    master, terminal = pty.openpty()
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "federation", "trust", "accept", SHA),
            *("--from-file", str(source), "--shared-root", "--config", str(file)),
            stdin=terminal,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment(),
        )
        os.write(master, f"{typed}\n".encode())
        async with asyncio.timeout(PATIENCE):
            _, err = await process.communicate()
    finally:
        os.close(master)
        os.close(terminal)
    assert process.returncode == code
    assert b"first 8 digits of the fingerprint" in err
    assert (tree(file) == before) is (code == 1)
    assert (SHA in read(file).trust.pins) is (code == 0)


async def test_pins_and_proposals_are_listed(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    staged, missing, unpinned = (pki.root(name).certificate for name in ("staged", "missing", "unpinned"))
    (file.parent / "staged.pem").write_bytes(staged.pem)
    with file.open("a", encoding="utf-8") as opened:
        opened.write(f'[[trust.anchors]]\nfile = "staged.pem"\nsha256 = "{staged.sha256}"\nstaged = true\n')
        opened.write(
            f'[[trust.anchors]]\nfile = "m.pem"\nsha256 = "{missing.sha256}"\ncluster = "east"\n'
            'trust_domain = "other.example"\nallow_foreign_trust_domain = true\n'
        )
    found = world(proposal(), anchors=(OWN, unpinned))
    assert await ask(found, file, "list") == 0
    pins, proposals = capsys.readouterr().out.split("\n\n")
    states = {line.split()[-1]: line for line in pins.splitlines()}
    assert states[OWN.sha256].startswith("published ")
    assert states[staged.sha256].startswith("staged ")
    assert states[missing.sha256].startswith("not published ")
    assert "other.example (foreign, accepted)" in states[missing.sha256]
    assert states[unpinned.sha256].startswith("not pinned here ")
    assert f"{missing.sha256[:16]}: {file.parent / 'm.pem'}: cannot be read" in pins
    assert "the hub runs another configuration" in pins
    assert proposals.splitlines()[-1].split()[-1] == SHA
    assert "istio-ca-root-cert in shop" in proposals


async def test_the_leaders_problem_with_a_pins_file_is_shown(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = world()
    found.edit_leader(sources={str(file.parent / "root.pem"): "it is cut short; the last known good stays"})
    assert await ask(found, file, "list") == 0
    out = capsys.readouterr().out
    assert f"{OWN.sha256[:16]}: at the leader: it is cut short" in out
    assert "no open proposal" in out


async def test_json_is_pins_and_proposals(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert await ask(world(proposal()), file, "list", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert [(row["sha256"], row["state"]) for row in said["pins"]] == [(OWN.sha256, "published")]
    assert [row["sha256"] for row in said["proposals"]] == [SHA]


def test_without_a_hub_the_pins_are_shown_and_it_exits_2(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--config", str(file), "--url", "http://127.0.0.1:1")
    assert run_verb(trust, "trust", "list", *asked) == 2
    captured = capsys.readouterr()
    assert "unknown" in captured.out
    assert OWN.subject in captured.out
    assert "check --url" in captured.err
    assert run_verb(trust, "trust", "list", "--json", *asked) == 2
    assert json.loads(capsys.readouterr().out)["proposals"] is None
    assert run_verb(trust, "trust", "accept", SHA, "--yes", *asked) == 2
    assert "check --url" in capsys.readouterr().err


def test_no_configuration_is_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of("trust", "list", "--config", str(tmp_path / "none.toml")) == 2
    assert "cannot be read" in capsys.readouterr().err
    with pytest.raises(ConfigurationError):
        run_verb(trust, "trust", "accept", SHA, "--config", str(tmp_path / "none.toml"))


@pytest.mark.parametrize("action", ["trust", "trust list", "trust accept"])
def test_every_option_says_what_it_does(action: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as shown:
        main([*action.split(), "--help"])
    assert shown.value.code == 0
    assert f"usage: federation {action}" in capsys.readouterr().out
    assert "trust" in VERBS


def test_a_file_that_hangs_is_said_in_time(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A named pipe without a writer hangs every reader, as a volume does that is gone."""
    monkeypatch.setattr("federation.files.READ_TIMEOUT", 0.2)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert main(["trust", "guard", "--certificates", str(pipe), "--config", str(file)]) == 1
    assert str(pipe) in (said := capsys.readouterr().err)
    assert "no answer within 0.2 s" in said
    for call in (
        lambda: pinning.read_text(pipe, digest=""),
        lambda: pinning.write_new(pipe, b"new"),
        lambda: pinning.replace_text(pipe, "new", digest=""),
    ):
        with pytest.raises(FederationError):
            call()
    (tmp_path / "helm-istiod.yaml").symlink_to(pipe)
    assert main(["clusters", "istio", "east", "--directory", str(tmp_path), "--config", str(file)]) == 1
    assert "0.2 s" in capsys.readouterr().err
