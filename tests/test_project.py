"""What stands around the code is true: licence, version, hooks, the quick loop and the decision records."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from datetime import date
from email import message_from_string
from hashlib import sha256
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
CHANGES = (ROOT / "CHANGELOG.md").read_text("utf-8")
HOOKS = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))["repos"]

APACHE_2 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
"""SHA-256 of https://www.apache.org/licenses/LICENSE-2.0.txt."""


def test_the_licence_is_the_official_text() -> None:
    assert sha256((ROOT / "LICENSE").read_bytes()).hexdigest() == APACHE_2


def test_the_wheel_names_the_licence_and_holds_it(tmp_path: Path) -> None:
    """The metadata of the wheel that setuptools would build, without the code."""
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "federation").mkdir()
    (tmp_path / "federation" / "__init__.py").touch()
    prepare = "import setuptools.build_meta as b; print(b.prepare_metadata_for_build_wheel('out'))"
    (tmp_path / "out").mkdir()
    subprocess.run(
        [sys.executable, "-c", prepare], cwd=tmp_path, check=True, timeout=300, capture_output=True
    )

    (info,) = (tmp_path / "out").glob("*.dist-info")
    metadata = message_from_string((info / "METADATA").read_text("utf-8"))
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_all("License-File") == ["LICENSE"]
    assert sha256((info / "licenses" / "LICENSE").read_bytes()).hexdigest() == APACHE_2


@pytest.mark.parametrize(
    ("file", "pattern"),
    [
        ("Dockerfile", r'image\.version="([^"]+)"'),
        ("manifests/hub/controller.yaml", r"image: federation-hub:(\S+)"),
        ("manifests/hub/signer.yaml", r"image: federation-hub:(\S+)"),
        ("manifests/README.md", r"federation-hub:(\S+) \."),
        ("manifests/README.md", r"newTag: (\S+)"),
    ],
)
def test_the_version_of_pyproject_is_the_only_one(file: str, pattern: str) -> None:
    assert set(re.findall(pattern, (ROOT / file).read_text("utf-8"))) == {PROJECT["version"]}


def test_the_change_log_begins_with_this_version_and_says_what_each_reads() -> None:
    versions = re.findall(r"^## \[(\S+)\](?: - (\S+))?$", CHANGES, re.MULTILINE)

    assert versions[0] == ("Unreleased", "")
    assert versions[1][0] == PROJECT["version"]
    for _, day in versions[1:]:
        date.fromisoformat(day)
    for entry in re.split(r"^## ", CHANGES, flags=re.MULTILINE)[2:]:
        assert "### Compatibility" in entry, entry.splitlines()[0]


def test_hooks_call_only_what_the_lock_pins() -> None:
    assert {repo["repo"] for repo in HOOKS} == {"local"}
    lock = (ROOT / "requirements-test.lock").read_text("utf-8")
    packages = {"ruff": "ruff", "mypy": "mypy", "lint-imports": "import-linter"}
    for hook in HOOKS[0]["hooks"]:
        tool = Path(hook["entry"].split()[0])
        assert tool.parent.as_posix() == ".venv/bin"
        assert hook["language"] == "system"
        assert f"\n{packages[tool.name]}==" in lock
