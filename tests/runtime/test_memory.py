"""What a process has freed it does not keep: read from Linux's own figures in a process of its own."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

CODE = """
import os, sys
from pathlib import Path
from federation.runtime.processes import return_large_blocks

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

if sys.argv[1] == "called":
    return_large_blocks()
bytes(4_000_000)  # freed: by itself, glibc takes no block of this size from the system any more
before, large, small = resident(), [], []
for _ in range(200):
    large.append(bytes([1]) * 200_000)
    small.append(bytes(2_000))
large.clear()
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is about glibc")
def test_large_blocks_are_given_back_though_small_ones_stay_between_them() -> None:
    kept = {
        how: int(subprocess.run([sys.executable, "-c", CODE, how], check=True, capture_output=True).stdout)
        for how in ("called", "not called")
    }
    assert kept["called"] < 4_000_000
    assert kept["not called"] > 20_000_000
