"""Files on a volume that hangs: reported in time, by one thread for each, and read again once it answers."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from federation import files
from federation.core.config.authorities.settings import JwtRef, LocalAuthorityConfig
from federation.core.errors import AuthorityUnavailable
from federation.files import Reading, read_bounded
from federation.signer.authorities.credentials import OwnCredentials, read_pem_file
from federation.signer.authorities.local import PairOfFiles
from tests.signer.running_signer import eventually
from tests.support.patience import PATIENCE
from tests.support.reads import impatient_reads


class HangingFile:
    """A named pipe: opening it hangs until it is written to."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "hangs"
        os.mkfifo(self.path, 0o600)

    def answer(self, content: bytes) -> None:
        """Give that to the one that opens it."""
        writer = os.open(self.path, os.O_WRONLY | os.O_NONBLOCK)
        os.write(writer, content)
        os.close(writer)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[HangingFile]:
    pipe, before = HangingFile(tmp_path), threads()
    yield pipe
    while threads() > before:  # one may open it twice
        with suppress(OSError):  # it is not being opened at the moment
            pipe.answer(b"")
        time.sleep(0.001)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    impatient_reads(monkeypatch, 0.1)


def threads() -> int:
    return sum(thread.name == files.THREADS for thread in threading.enumerate())


async def reason_of(read: object) -> str:
    with pytest.raises(AuthorityUnavailable) as caught:
        await read  # type: ignore[misc]
    assert caught.value.remedy
    return caught.value.reason


async def test_a_hanging_file_is_reported_to_every_reader_and_costs_one_thread(file: HangingFile) -> None:
    before = threads()
    assert await reason_of(read_pem_file(file.path)) == "files_hang"
    for _ in range(5):
        assert await reason_of(read_pem_file(file.path)) == "files_hang"
        assert await reason_of(OwnCredentials().jwt(JwtRef("file", str(file.path)))) == "files_hang"
    assert threads() == before + 1


async def test_a_thread_whose_call_has_ended_takes_the_next_one(tmp_path: Path) -> None:
    own, before = Reading(timeout=PATIENCE), threads()
    used = set()
    for number in range(50):
        used.add(await own.read(f"file {number}", threading.get_ident))
        await eventually(lambda: threads() <= before)  # it has come back
    assert len(used) <= files.MOST_IDLE


def test_a_forked_process_starts_threads_of_its_own() -> None:
    """It has none of its parent's, which would never take a call."""
    program = """
import asyncio, os, threading
from federation.files import Reading
def read():
    return asyncio.run(Reading(timeout=60).read("a file", lambda: "content"))
assert read() == "content"
pid = os.fork()
if not pid:
    os._exit(0 if read() == "content" else 1)
os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


async def test_both_files_of_a_local_pair_are_one_read(file: HangingFile) -> None:
    before = threads()
    pair = PairOfFiles(LocalAuthorityConfig(name="local", certificate_file=file.path, key_file=file.path))
    for _ in range(5):
        assert await reason_of(pair.read()) == "files_hang"
    assert threads() == before + 1


async def test_it_is_read_again_once_it_answers(file: HangingFile) -> None:
    before = threads()
    assert await reason_of(read_pem_file(file.path)) == "files_hang"
    file.answer(b"too late")
    await eventually(lambda: threads() == before)
    again: object = None
    async with asyncio.timeout(PATIENCE):
        while again != b"in time":  # a busy machine may miss the moment that a read has here
            assert again is None or isinstance(again, AuthorityUnavailable)
            again, _ = await asyncio.gather(
                read_pem_file(file.path),
                asyncio.to_thread(file.path.write_bytes, b"in time"),
                return_exceptions=True,
            )


async def test_who_gives_up_earlier_leaves_no_second_thread_behind(file: HangingFile) -> None:
    own = Reading(timeout=PATIENCE)
    before = threads()
    first = asyncio.create_task(own.read(str(file.path), partial(read_bounded, file.path, 10)))
    await eventually(lambda: threads() == before + 1)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    for _ in range(2):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await own.read(str(file.path), partial(read_bounded, file.path, 10))
    assert threads() == before + 1


async def test_a_read_that_was_given_up_is_no_hanging_one(tmp_path: Path) -> None:
    """The next caller waits until it has ended, and reads anew."""
    own, going_on = Reading(timeout=PATIENCE), threading.Event()

    def slow() -> str:
        going_on.wait()
        return "old"

    before = threads()
    first = asyncio.create_task(own.read("a file", slow))
    await eventually(lambda: threads() == before + 1)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    second = asyncio.create_task(own.read("a file", lambda: "new"))
    await asyncio.sleep(0)
    assert not second.done()
    going_on.set()
    assert await second == "new"


def test_a_read_that_hangs_does_not_keep_the_process(file: HangingFile) -> None:
    program = f"""
import asyncio
from pathlib import Path
from federation.core.errors import AuthorityUnavailable
from federation import files as reading
from federation.signer.authorities import credentials as pem_file

own = reading.Reading(timeout=0.1)
reading._reading_of_this_process = lambda: own

async def main():
    try:
        await pem_file.read_pem_file(Path({str(file.path)!r}))
    except AuthorityUnavailable as error:
        print(error.reason)

asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stdout) == (0, "files_hang\n"), done.stderr
