"""The state of the last version is read, and what this one writes can be read by the last one.

Both at once: while an update is under way, signers of both versions read what one controller writes. So the names
in the state are frozen: they may be added to, and none is renamed, taken away or given another type.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from federation.controller.rotation.operations import OperationMac
from federation.core.documents.controller import Operation
from federation.core.documents.encoding import decode, encode
from federation.runtime.clock import SystemClock
from federation.state.files import FileStore
from tests.last_version.documents import MOMENTS, STATE, pack, read, shifted, taken, unpack, write
from tests.last_version.kinds import KINDS, prefix_of
from tests.last_version.mesh import operate_token
from tests.last_version.wire import fields_of

_OPEN_FILES = "so that a process says that its limit of open files is near before connections fail"
_CREDENTIAL = (
    "when the role's credential for a member ends, and how its renewal goes; nothing known by default"
)
ADDED: dict[str, str] = (
    {
        f"{prefix}.{name}": _OPEN_FILES
        for prefix in ("controllers", "signers")
        for name in ("open_files", "open_files_limit")
    }
    | {
        f"{prefix}.clusters.{cluster}.credential": _CREDENTIAL
        for prefix in ("controllers", "signers")
        for cluster in ("east", "west", "north")
    }
    | {"signers.removed": "callers of removed clusters are counted apart from those of none"}
)
"""Fields that this version writes and the last one did not, by their path, with the reason."""

NAMES = json.loads((STATE / "fields.json").read_text("utf-8"))
EVERY = [(moment, key) for moment in MOMENTS for key in read(moment)]


def differences(before: Any, after: Any, path: str) -> Iterator[str]:
    """Where a document that is written again is not what was read."""
    if isinstance(before, dict) and isinstance(after, dict):
        yield from (f"{path}.{name} is gone" for name in before.keys() - after.keys())
        yield from (
            f"{path}.{name} is new: list it in ADDED"
            for name in after.keys() - before.keys()
            if f"{path}.{name}" not in ADDED
        )
        for name in before.keys() & after.keys():
            yield from differences(before[name], after[name], f"{path}.{name}")
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for one, other in zip(before, after, strict=True):
            yield from differences(one, other, f"{path}[]")
    elif before != after or isinstance(before, bool) is not isinstance(after, bool):
        yield f"{path} was {before!r} and is {after!r}"


@pytest.mark.parametrize(("moment", "key"), EVERY)
def test_a_document_is_written_again_as_it_was_read(moment: str, key: str) -> None:
    document = read(moment)[key]
    data = json.dumps(document).encode()
    written = json.loads(encode(decode(data, KINDS[prefix_of(key)], key=key)))
    assert list(differences(document, written, prefix_of(key).rstrip("/"))) == []


@pytest.mark.parametrize("moment", MOMENTS)
async def test_the_files_are_read_by_this_version(moment: str, tmp_path: Path) -> None:
    shutil.copytree(STATE / moment / "documents", tmp_path / "state" / "documents")
    store = FileStore(tmp_path / "state", SystemClock())
    documents = read(moment)
    assert await store.keys("") == sorted(documents)
    for key, document in documents.items():
        stored = await store.read(key)
        assert stored is not None
        assert json.loads(stored.data) == document


async def test_the_files_of_this_version_are_as_the_last_one_read_them(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "state", SystemClock())
    await store.write("signers/signer-0", b'{"some": "document"}')
    (file,) = (tmp_path / "state" / "documents").iterdir()
    assert file.name == "signers@signer-0"
    assert unpack("signers/signer-0", file.read_bytes()) == b'{"some": "document"}'


async def test_files_with_other_times_are_read_by_this_version(tmp_path: Path) -> None:
    """The end-to-end test relies on this: only times differ, and all of them by the same amount."""
    moment, by = "active", 86400.0 * 365 * 3
    at, before = taken(moment), read(moment)
    later = shifted(before, taken=at, now=at + by)
    write(later, tmp_path / "state")
    store = FileStore(tmp_path / "state", SystemClock())
    for key in before:
        stored = await store.read(key)
        assert stored is not None
        decode(stored.data, KINDS[prefix_of(key)], key=key)
    assert later["hub"]["created"] == before["hub"]["created"] + by
    assert later["takeovers"]["since"]["east"] == before["takeovers"]["since"]["east"] + by
    assert later["takeovers"]["longest"] == before["takeovers"]["longest"]
    assert [row[:3] for row in later["horizons/signer-0"]["rows"]] == [
        row[:3] for row in before["horizons/signer-0"]["rows"]
    ]
    assert [row[3] - by for row in later["horizons/signer-0"]["rows"]] == [
        row[3] for row in before["horizons/signer-0"]["rows"]
    ]
    assert later["callers/signer-0"] != before["callers/signer-0"]
    assert shifted(later, taken=at + by, now=at)["callers/signer-0"] == before["callers/signer-0"]
    generation = "generations/000000000002"
    assert later[generation]["anchors"] == before[generation]["anchors"]
    assert later[generation]["bundle_pem"] == before[generation]["bundle_pem"]


@pytest.mark.parametrize("moment", MOMENTS)
def test_every_kind_of_document_is_there(moment: str) -> None:
    assert {prefix_of(key) for key in read(moment)} == set(KINDS) == set(NAMES)


@pytest.mark.parametrize("prefix", KINDS)
def test_no_field_is_renamed_taken_away_or_of_another_type(prefix: str) -> None:
    now = fields_of(KINDS[prefix])
    assert {path: now.get(path, "it is gone") for path in NAMES[prefix]} == NAMES[prefix]


@pytest.mark.parametrize("moment", MOMENTS)
async def test_the_seal_of_an_operation_is_known_again(moment: str) -> None:
    """It is over all that the operation says: a field that is added must not change it where it is not used."""

    async def secret() -> bytes:
        return operate_token().encode()

    seal = OperationMac(secret)
    operations = {key: value for key, value in read(moment).items() if key.startswith("operations/")}
    assert {value["verb"] for value in operations.values()} >= {"start", "quarantine", "dismiss"}
    for key, value in operations.items():
        operation = decode(json.dumps(value).encode(), Operation, key=key)
        assert await seal.is_on(operation), key
        forged = decode(json.dumps(value | {"author": "another"}).encode(), Operation, key=key)
        assert not await seal.is_on(forged), key


def test_a_packed_document_is_unpacked_as_it_was() -> None:
    assert unpack("current", pack("current", b"{}")) == b"{}"
    with pytest.raises(AssertionError):
        unpack("hub", pack("current", b"{}"))
