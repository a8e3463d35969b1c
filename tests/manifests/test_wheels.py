"""What an operator installs contains nothing of the sandbox, and the sandbox's wheel is complete."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MEMBER = ROOT / "manifests" / "member"
LIMIT = 300.0  # seconds for a build on a loaded machine
MADE = ("__pycache__", "*.egg-info", "build")
BUILD = [
    *(sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"),
    *("--no-build-isolation", "--no-deps", "--no-index"),
]

WITHOUT_THE_CLONE = """
import sys
sys.path[:] = [sys.argv[1], *(path for path in sys.path if path and not path.startswith(sys.argv[2]))]
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in getattr(finder, "__module__", "")]
from federation.cli.main import main
sys.exit(main(["demo", "--once"]))
"""


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


def test_without_the_extra_the_verb_says_what_to_install(wheels: dict[str, Path], tmp_path: Path) -> None:
    with zipfile.ZipFile(wheels["federation_hub"]) as archive:
        archive.extractall(tmp_path)

    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_THE_CLONE, str(tmp_path), str(ROOT)],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )

    assert done.returncode == 1
    assert "pip install 'federation-hub[demo]'" in done.stderr
    assert done.stdout == ""
