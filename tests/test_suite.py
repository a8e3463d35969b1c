"""The suite itself: whatever fails is named."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

FAILS = """
from hypothesis import given, strategies as st

@given(st.integers())
def test_fails(number):
    assert number < 100

def test_passes():
    pass
"""
WARNS = "import warnings\nwarnings.warn('this module is old', DeprecationWarning)\n"


HANGS = """
import threading

def test_hangs():
    threading.Event().wait()

def test_passes():
    pass
"""


def run(directory: Path, *options: str, workers: int, **environ: str) -> subprocess.CompletedProcess[str]:
    """pytest with this suite's own plugins over ``test_it.py`` in that directory."""
    own = ["-p", "tests.conftest", "-p", "no:cacheprovider", "-n", str(workers), *options]
    path = os.pathsep.join([str(directory), str(ROOT)])
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            *own,
            "-c",
            str(ROOT / "pyproject.toml"),
            "--rootdir",
            ".",
            "test_it.py",
        ],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": path, **environ},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_an_example_that_fails_is_named_whatever_hypothesis_imports_then(
    tmp_path: Path, workers: int
) -> None:
    (tmp_path / "test_it.py").write_text(FAILS)
    (tmp_path / "libcst.py").write_text(WARNS)  # what hypothesis writes its patches with
    ended = run(tmp_path, "-W", "error", workers=workers)
    assert "INTERNALERROR" not in ended.stdout + ended.stderr
    assert "FAILED test_it.py::test_fails" in ended.stdout
    assert "1 failed, 1 passed" in ended.stdout
    assert ended.returncode == 1


def test_a_test_that_never_ends_is_named_and_the_others_run(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(HANGS)
    ended = run(tmp_path, workers=1, FEDERATION_LONGEST_TEST="5")
    assert "FAILED test_it.py::test_hangs" in ended.stdout
    assert "1 failed, 1 passed" in ended.stdout
    assert "in test_hangs" in ended.stderr, "where it hangs"
