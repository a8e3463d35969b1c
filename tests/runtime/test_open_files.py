"""A role may have as many connections as the system allows at all, and knows how many it has."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from federation.runtime.processes import FILES_COUNTED_FOR, OpenFiles
from tests.support.clock import VirtualClock

PROGRAM = """
import resource
from federation.runtime.processes import raise_limit
print(raise_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""

RUNNING = """
import argparse, resource, sys
from federation.cli.process import run_process
from federation.core.errors import ConfigurationError
args = argparse.Namespace(config=sys.argv[2], log_format="text", log_level="error")
try:
    run_process(args, role=sys.argv[1], replica="one", body=None)
except ConfigurationError:
    print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_the_soft_limit_becomes_the_hard_one() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    program = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (256, {hard}))\n{PROGRAM}"
    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, text=True
    ).stdout
    assert [int(part) for part in output.split()] == [hard] * 3


@pytest.mark.parametrize("role", ["hub", "signer", "controller"])
def test_the_supervisor_and_each_role_raise_it_before_they_open_anything(role: str, tmp_path: Path) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    program = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (256, {hard}))\n{RUNNING}"
    arguments = [sys.executable, "-c", program, role, str(tmp_path / "missing.toml")]
    output = subprocess.run(arguments, capture_output=True, check=True, text=True).stdout
    assert [int(part) for part in output.split()] == [hard] * 2


async def test_open_files_are_counted() -> None:
    clock = VirtualClock()
    files = OpenFiles(clock)
    before = files.count
    assert before > 0
    taken = [os.open(os.devnull, os.O_RDONLY) for _ in range(10)]
    try:
        assert files.count == before, "a count is used for a moment: it may take a list"
        await clock.advance(FILES_COUNTED_FOR)
        assert files.count == before + 10
    finally:
        for descriptor in taken:
            os.close(descriptor)
    assert files.limit == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
