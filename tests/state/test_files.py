"""The file store: what only files can suffer. What every store does is in test_contract.py."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.core.errors import StateUnavailable
from federation.runtime.clock import SystemClock
from federation.state.files import FileStore
from federation.state.record import MAX_DATA_BYTES, pack, unpack
from federation.state.store import StateStore
from tests.support.patience import PATIENCE

KEY = "generations/000000000001"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def store(directory: Path) -> FileStore:
    return FileStore(directory, SystemClock())


def file_of(directory: Path, key: str) -> Path:
    return directory / "documents" / key.replace("/", "@")


async def test_it_is_a_state_store(store: FileStore) -> None:
    as_protocol: StateStore = store
    assert await as_protocol.read("current") is None
    assert await as_protocol.keys("") == []


async def test_a_document_above_the_limit_is_refused(store: FileStore) -> None:
    with pytest.raises(StateUnavailable, match="larger"):
        await store.write("current", bytes(MAX_DATA_BYTES + 1))
    assert await store.read("current") is None


async def test_only_the_owner_can_read_or_enter(store: FileStore, directory: Path) -> None:
    before = os.umask(0)
    try:
        await store.write("current", b"x")
    finally:
        os.umask(before)
    for path in (directory, *directory.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


async def test_modes_widened_at_mount_time_are_narrowed_again(store: FileStore, directory: Path) -> None:
    await store.write("current", b"x")
    (directory / "documents").chmod(0o2770)
    await FileStore(directory, SystemClock()).read("current")
    assert stat.S_IMODE((directory / "documents").stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-1],
        lambda content: content + b"x",
        lambda content: content[: len(content) // 2],
        lambda content: content.replace(b"payload", b"paylaod"),
        lambda content: b"{}",
        lambda content: bytes(len(content)),
        lambda content: b"\n" + content,
    ],
    ids=["empty", "cut", "longer", "half", "swapped", "foreign", "zeros", "shifted"],
)
async def test_a_damaged_document_is_never_absent(store: FileStore, directory: Path, damage: object) -> None:
    await store.write("current", b"the payload")
    path = file_of(directory, "current")
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(StateUnavailable) as caught:
        await store.read("current")
    assert caught.value.where == str(path)
    assert "backup" in caught.value.remedy
    with pytest.raises(StateUnavailable):
        await store.write("current", b"next", create=True)


async def test_a_document_under_another_key_is_damaged(store: FileStore, directory: Path) -> None:
    """A backup restored over the wrong name must not put an old generation in force."""
    await store.write("generations/000000000001", b"old")
    await store.write("generations/000000000002", b"new")
    file_of(directory, "generations/000000000001").replace(file_of(directory, "generations/000000000002"))
    with pytest.raises(StateUnavailable, match="checksum"):
        await store.read("generations/000000000002")


async def test_a_newer_format_is_not_called_damaged(store: FileStore, directory: Path) -> None:
    await store.write("current", b"x")
    path = file_of(directory, "current")
    path.write_bytes(path.read_bytes().replace(b"federation-state/1", b"federation-state/2"))
    with pytest.raises(StateUnavailable, match="another release"):
        await store.read("current")


@given(data=st.binary(max_size=200), position=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_no_flipped_bit_goes_unseen(data: bytes, position: int, bit: int) -> None:
    content = bytearray(pack("current", "0" * 32, data))
    content[position % len(content)] ^= 1 << bit
    with pytest.raises(StateUnavailable):
        unpack("current", bytes(content), where="x")


async def test_symbolic_links_are_not_followed(store: FileStore, directory: Path, tmp_path: Path) -> None:
    await store.write("current", b"x")
    elsewhere = tmp_path / "elsewhere"
    file_of(directory, "current").rename(elsewhere)
    file_of(directory, "current").symlink_to(elsewhere)
    with pytest.raises(StateUnavailable, match="symbolic"):
        await store.read("current")
    before = elsewhere.read_bytes()
    await store.write("current", b"y")  # replaces the link itself
    assert elsewhere.read_bytes() == before
    found = await store.read("current")
    assert found is not None
    assert found.data == b"y"


async def test_a_linked_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "state" / "documents").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StateUnavailable):
        await FileStore(tmp_path / "state", SystemClock()).write("current", b"x")
    assert list((tmp_path / "elsewhere").iterdir()) == []


async def test_a_fifo_does_not_hang_a_reader(store: FileStore, directory: Path) -> None:
    await store.write("other", b"x")
    os.mkfifo(file_of(directory, "current"))
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(StateUnavailable, match="no regular file"):
            await store.read("current")


async def test_what_a_crash_left_is_overwritten(store: FileStore, directory: Path) -> None:
    await store.write("current", b"1")
    (directory / "documents" / ".next").symlink_to("/nowhere/at/all")
    await store.write("current", b"2")
    assert [path.name for path in (directory / "documents").iterdir()] == ["current"]


async def test_a_state_directory_that_vanished_is_not_a_fresh_start(
    store: FileStore, directory: Path
) -> None:
    await store.write("current", b"1")
    directory.rename(directory.with_name("unmounted"))
    for attempt in (store.read("current"), store.keys(""), store.write("current", b"2")):
        with pytest.raises(StateUnavailable) as caught:
            await attempt
        assert "mount or restore" in caught.value.remedy


async def test_a_file_where_the_directory_should_be(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("in the way")
    with pytest.raises(StateUnavailable) as caught:
        await FileStore(tmp_path / "state", SystemClock()).read("current")
    assert "not a directory" in caught.value.remedy


async def test_a_read_only_place_is_unavailable_with_a_remedy() -> None:
    """/proc takes no directory from any user, not even from root."""
    if sys.platform != "linux":
        pytest.skip("needs /proc")
    with pytest.raises(StateUnavailable) as caught:
        await FileStore(Path("/proc/federation-state"), SystemClock()).write("current", b"x")
    assert caught.value.where.startswith("/proc/")
    assert caught.value.remedy


async def test_a_full_disk_keeps_the_old_document(directory: Path) -> None:
    """A file size limit fails writes as a full disk does: in the middle, after the file was made."""
    script = """
import asyncio, resource, sys
from pathlib import Path
from federation.core.errors import StateUnavailable
from federation.runtime.clock import SystemClock
from federation.state.files import FileStore

async def main():
    store = FileStore(Path(sys.argv[1]), SystemClock())
    await store.write("current", b"old")
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    try:
        await store.write("current", b"new" * 4096)
    except StateUnavailable as error:
        print(error.diagnostics())
    print((await store.read("current")).data)
    await store.write("current", b"small again")

asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(directory), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await asyncio.wait_for(process.communicate(), PATIENCE)
    said, kept = output.decode().splitlines()
    assert "file size limit" in said
    assert kept == "b'old'"
    assert [path.name for path in (directory / "documents").iterdir()] == ["current"]
