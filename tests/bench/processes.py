"""CPU and memory of processes, as Linux counts them."""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time that these processes have used so far, to a hundredth of a second."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def resident_bytes(pid: int) -> int:
    """What a process holds in memory that it does not share with files."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"/proc/{pid}/status has no RssAnon")


def memory_bytes(pid: int, field: Literal["VmRSS", "VmHWM", "RssAnon"]) -> int:
    """What a process has in memory now, had at most, or has there that no file backs."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"/proc/{pid}/status has no {field}")


def proportional_bytes(pid: int) -> int:
    """What a process holds in memory, where a page that n processes share counts as an n-th of it in each (PSS)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"/proc/{pid}/smaps_rollup has no Pss")


def threads(pid: int) -> int:
    """How many threads a process has."""
    return sum(1 for _ in Path(f"/proc/{pid}/task").iterdir())


def descriptors(pid: int) -> int:
    """How many files, sockets included, a process has open."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def descendants(pid: int) -> list[int]:
    """Every process below that one."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found = list(children.get(pid, []))
    for one in found:
        found += children.get(one, [])
    return found


def command_line(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return []


class Others:
    """What processes that are not of this measurement take from the machine: where it is much, times say little."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._before = self._cpu()

    @staticmethod
    def _cpu() -> float:
        """Seconds of CPU that all have used, stolen ones included, but for this process and its ended children."""
        user, nice, system, _, _, irq, softirq, steal, *_ = (
            int(ticks) for ticks in Path("/proc/stat").read_text().splitlines()[0].split()[1:]
        )
        return (user + nice + system + irq + softirq + steal) / TICKS - sum(os.times()[:4])

    def share(self) -> float:
        """Of all cores since the start, from 0 to 1. Children of this process have to have ended."""
        cores = os.cpu_count() or 1
        return max(0.0, (self._cpu() - self._before) / (time.monotonic() - self._began) / cores)


@contextlib.contextmanager
def own_cpu() -> Iterator[list[float]]:
    """Seconds of CPU that this thread used inside the block, as the list's one element afterwards."""
    used: list[float] = []
    began = time.thread_time()
    yield used
    used.append(time.thread_time() - began)


@contextlib.contextmanager
def leaving_a_core() -> Iterator[int]:
    """Keep this process, and what it starts inside the block, away from its last core: the number of that one.

    With one core only, nothing changes.
    """
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:-1] or cores)
    try:
        yield cores[-1]
    finally:
        os.sched_setaffinity(0, cores)


def allow_many_files() -> None:
    """Raise the limit of open files to what the system allows: hundreds of connections are opened here."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def yield_cores(niceness: int) -> None:
    """Let every other process go first. Call it once, at the start of a process.

    Linux weighs sessions against one another before processes within one (sched(7), "The autogroup feature"), so that
    a niceness alone changes nothing between sessions: this process begins one of its own and gives that the niceness.
    """
    os.setsid()
    os.nice(niceness)
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(niceness))
