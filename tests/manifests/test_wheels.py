"""What an operator installs contains nothing of the sandbox; both wheels are complete, and work outside the clone."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.verbs import verbs

ROOT = Path(__file__).resolve().parents[2]
MEMBER = ROOT / "manifests" / "member"
LIMIT = 300.0  # seconds for a build on a loaded machine
MADE = ("__pycache__", "*.egg-info", "build")
BUILD = [
    *(sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"),
    *("--no-build-isolation", "--no-deps", "--no-index"),
]

EVERY_VERB = """
import argparse, sys
from federation.cli.main import build_parser

def walk(parser):
    text = parser.format_help()
    below = [a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    print(parser.prog, len(text) > 100)
    for child in below[0].values() if below else ():
        walk(child)

walk(build_parser())
import federation, federation.status.app as app
from pathlib import Path
print("from", Path(federation.__file__).parent.parent)
"""
"""Prints each verb with whether it has a help, and where the package was imported from."""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both wheels, by the name of their package; built from a copy, since a build leaves files behind."""
    directory = tmp_path_factory.mktemp("wheels")
    sources = directory / "sources"
    for name in ("federation", "federation_sandbox", "manifests"):
        shutil.copytree(ROOT / name, sources / name, symlinks=True, ignore=shutil.ignore_patterns(*MADE))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    for package in (sources, sources / "federation_sandbox"):
        subprocess.run([*BUILD, f"--wheel-dir={directory}", str(package)], check=True, timeout=LIMIT)
    return {path.name.split("-")[0]: path for path in directory.glob("*.whl")}


def files(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}


def sources(package: str) -> set[str]:
    return {
        str(path.relative_to(ROOT))
        for path in (ROOT / package).rglob("*")
        if path.is_file()
        and path.suffix in {".py", ".typed", ".js", ".css", ".html", ".yaml"}
        and "build" not in path.relative_to(ROOT).parts
    }


def test_the_hubs_wheel_is_the_hub_and_nothing_of_the_sandbox(wheels: dict[str, Path]) -> None:
    packed = files(wheels["federation_hub"])

    assert set(packed) == sources("federation")
    assert not [name for name in packed if "sandbox" in name]


def test_the_sandboxs_wheel_is_the_sandbox_with_the_manifests_it_applies(wheels: dict[str, Path]) -> None:
    packed = files(wheels["federation_hub_sandbox"])
    room = "federation_sandbox/manifests/member"
    manifests = {f"{room}/{path.relative_to(MEMBER)}": path.read_bytes() for path in MEMBER.rglob("*.yaml")}

    assert manifests
    assert set(packed) == sources("federation_sandbox") | set(manifests)
    assert {name: packed[name] for name in manifests} == manifests


@dataclass(frozen=True)
class Installed:
    """An environment of its own, outside the clone, with wheels in it and the packages that they depend on."""

    directory: Path

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the environment as its user would: from elsewhere, with nothing of the clone in sight."""
        program, *arguments = command
        return subprocess.run(
            [str(self.directory / "bin" / program), *arguments],
            cwd=self.directory,
            env={"PATH": "/usr/bin:/bin", "HOME": str(self.directory), "COLUMNS": "100"},
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )


def install(directory: Path, *wheels: Path) -> Installed:
    """A fresh virtual environment: wheels by pip, dependencies by the directory that this one has them in.

    In a directory that a ``.pth`` file names none of them is read, so the clone's editable install is none here.
    """
    venv.create(directory, with_pip=False, symlinks=True)
    site = next((directory / "lib").glob("python*/site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(directory), "install", "--quiet"]
    pip += ["--disable-pip-version-check", "--no-deps", "--no-index", "--no-compile", "--ignore-installed"]
    subprocess.run([*pip, *map(str, wheels)], check=True, timeout=LIMIT)
    return Installed(directory)


WITHOUT_A_CLUSTER = (
    (("completion", "bash"), "federation"),
    (("pki", "server", "served", "federation-status.federation-system.svc"), ""),
    (("clusters", "list"), "east"),
    (("clusters", "istio", "east"), "caAddress"),
    (("trust", "guard"), "federation-guard"),
    (("authority", "check"), "ecdsa-p256"),
)
"""Verbs that need no API server and no hub, in the directory of a configuration; what each has to say."""

CLUSTER = """
trust_domain = "mesh.example"
[listener]
server_names = ["hub.mesh.example"]
listen = "127.0.0.1:15443"
[status]
listen = "127.0.0.1:0"
[state]
directory = "state"
[[clusters]]
name = "east"
cluster_id = "east"
signer = { kubeconfig = "signer.kubeconfig" }
controller = { kubeconfig = "controller.kubeconfig" }
"""


def test_the_hubs_wheel_alone_does_what_needs_no_cluster(wheels: dict[str, Path], tmp_path: Path) -> None:
    alone = install(tmp_path / "alone", wheels["federation_hub"])
    made = alone.run("federation", "pki", "init", "ca")
    assert made.returncode == 0, made.stderr
    (alone.directory / "clusters.toml").write_text(f"{CLUSTER}\n{made.stdout}")
    for words, wanted in WITHOUT_A_CLUSTER:
        done = alone.run("federation", *words)
        assert done.returncode == 0, (words, done.stderr)
        assert wanted in done.stdout + done.stderr, words
    signer = alone.run("federation", "signer", "--config", "nowhere.toml")
    assert (signer.returncode, "nowhere.toml" in signer.stderr) == (2, True)


def test_the_hubs_wheel_alone_has_every_verb_and_says_what_the_demo_needs(
    wheels: dict[str, Path], tmp_path: Path
) -> None:
    alone = install(tmp_path / "alone", wheels["federation_hub"])

    done = alone.run("python", "-c", EVERY_VERB)
    assert (done.returncode, done.stderr) == (0, "")
    *lines, imported = done.stdout.splitlines()
    assert imported == f"from {next((tmp_path / 'alone' / 'lib').glob('python*/site-packages'))}"
    assert {line.rsplit(" ", 1)[0].removeprefix("federation ") for line in lines} >= set(verbs())
    assert [line for line in lines if not line.endswith(" True")] == []

    done = alone.run("federation", "demo", "--once")
    assert (done.returncode, done.stdout) == (1, "")
    assert "pip install 'federation-hub[demo]'" in done.stderr


def test_with_the_sandbox_the_demo_proves_every_pair(wheels: dict[str, Path], tmp_path: Path) -> None:
    both = install(tmp_path / "both", *wheels.values())

    done = both.run("federation", "demo", "--once", "--json", "--clusters", "2", "--signers", "1")

    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["matrix"] == {"pairs": 2, "valid": 2, "rows": ["-v", "v-"]}
    assert document["workload_handshakes"]["failed"] == 0 < document["workload_handshakes"]["tried"]
    assert not (tmp_path / "both" / ".config").exists(), "a demo that is over is no context"
