"""A role may have as many connections as the system allows at all."""

from __future__ import annotations

import resource
import subprocess
import sys

PROGRAM = """
import resource
from federation.runtime.processes import raise_limit
print(raise_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_the_soft_limit_becomes_the_hard_one() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    program = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (256, {hard}))\n{PROGRAM}"
    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, text=True
    ).stdout
    assert [int(part) for part in output.split()] == [hard] * 3
