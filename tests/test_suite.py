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


@pytest.mark.parametrize("workers", [0, 1])
def test_an_example_that_fails_is_named_whatever_hypothesis_imports_then(
    tmp_path: Path, workers: int
) -> None:
    (tmp_path / "test_it.py").write_text(FAILS)
    (tmp_path / "libcst.py").write_text(WARNS)  # what hypothesis writes its patches with
    options = ["-p", "tests.conftest", "-p", "no:cacheprovider", "-W", "error", "-n", str(workers)]
    command = [sys.executable, "-m", "pytest", *options, "-c", str(ROOT / "pyproject.toml"), "--rootdir", "."]
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    ended = subprocess.run(
        [*command, "test_it.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert "INTERNALERROR" not in ended.stdout + ended.stderr
    assert "FAILED test_it.py::test_fails" in ended.stdout
    assert "1 failed, 1 passed" in ended.stdout
    assert ended.returncode == 1
