"""The format inside an object: whole, or an error that names the object."""

from __future__ import annotations

import json
import random
import zlib
from hashlib import sha256

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.controller.proof.matrix import MOST_REASONS
from federation.core.documents.encoding import encode
from federation.core.documents.signer import ExpiryBound, ExpiryBoundTable
from federation.core.errors import StateUnavailable
from federation.state.kubernetes_documents import MAX_OBJECT_BYTES, PLAIN_BYTES, Found, opened, pack, unpack
from federation.state.record import MAX_DATA_BYTES
from tests.status.worlds import World

MARK = "0" * 32
WHERE = "ConfigMap state/federation.current"


def stored(key: str, data: bytes) -> Found:
    """What an API server would give back of a document, as JSON and through our own reading."""
    body = json.loads(pack(key, MARK, data).body(key=key, name="federation.current", version="7"))
    return opened(json.dumps(body).encode(), name="federation.current", where=WHERE)


@given(data=st.binary(max_size=300) | st.text(max_size=100).map(str.encode))
def test_what_was_packed_is_unpacked(data: bytes) -> None:
    found = stored("current", data)
    assert found.mark == MARK
    assert unpack("current", found, where=WHERE).data == data
    assert unpack("current", found, where=WHERE).version == "7"


@pytest.mark.parametrize("size", [PLAIN_BYTES, PLAIN_BYTES + 1, 5_000_000])
def test_large_documents_are_compressed_and_small_ones_readable(size: int) -> None:
    data = b"x" * size
    found = stored("current", data)
    assert ("document" in found.data) == (size <= PLAIN_BYTES)
    assert unpack("current", found, where=WHERE).data == data


@given(
    field=st.sampled_from(["header", "document"]),
    position=st.integers(0, 1000),
    character=st.characters(codec="ascii", min_codepoint=32),
)
def test_no_changed_character_goes_unseen(field: str, position: int, character: str) -> None:
    found = stored("current", b"the payload of a document")
    text = found.data[field]
    position %= len(text)
    changed = text[:position] + character + text[position + 1 :]
    if changed == text:
        return
    edited = Found(found.name, found.version, {**found.data, field: changed}, {})
    with pytest.raises(StateUnavailable) as caught:
        unpack("current", edited, where=WHERE)
    assert caught.value.where == WHERE


@pytest.mark.parametrize(
    "compressed",
    [
        b"",
        zlib.compress(b"y" * 20_000),
        zlib.compress(b"x" * 20_000)[:-1],
        zlib.compress(b"x" * 20_000) + b"z",
        zlib.compress(b"x" * 19_999),
        zlib.compress(b"x" * 20_001),
        zlib.compress(bytes(50_000_000)),  # a bomb is inflated to what was promised and no further
        b"no zlib at all",
    ],
)
def test_damage_to_what_is_compressed_is_seen(compressed: bytes) -> None:
    found = stored("current", b"x" * 20_000)
    edited = Found(found.name, found.version, found.data, {"document": compressed})
    with pytest.raises(StateUnavailable, match="damaged"):
        unpack("current", edited, where=WHERE)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ({}, "header"),
        ({"document": "{}"}, "header"),
        ({"header": "federation-state/1 " + MARK + " plain 0 " + "0" * 64}, "holds no document"),
        ({"header": "federation-state/1 " + MARK + " zlib 0 " + "0" * 64}, "holds no document"),
        ({"header": "federation-state/2 whatever comes", "document": ""}, "another release"),
    ],
)
def test_an_object_without_a_whole_document_is_not_an_empty_one(data: dict[str, str], problem: str) -> None:
    with pytest.raises(StateUnavailable, match=problem):
        unpack("current", Found("federation.current", "7", data, {}), where=WHERE)


def test_more_than_the_store_takes_is_not_inflated() -> None:
    header = f"federation-state/1 {MARK} zlib {MAX_DATA_BYTES + 1} " + "0" * 64
    found = Found("federation.current", "7", {"header": header}, {"document": zlib.compress(b"")})
    with pytest.raises(StateUnavailable, match="more than the store takes"):
        unpack("current", found, where=WHERE)


def test_who_wrote_it_is_asked_by_a_command_that_names_the_object() -> None:
    with pytest.raises(StateUnavailable) as caught:
        unpack(
            "current",
            Found("federation.current", "7", {}, {}),
            where="ConfigMap hub-system/federation.current",
        )
    assert "`kubectl -n hub-system get configmap federation.current -o yaml --show" in caught.value.remedy


def test_a_document_under_another_key_is_damaged() -> None:
    """A backup restored under the wrong name must not put an old generation in force."""
    found = stored("generations/000000000001", b"old")
    with pytest.raises(StateUnavailable, match="checksum"):
        unpack("generations/000000000002", found, where=WHERE)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"<html></html>",
        b"{}",
        b"[]",
        b'{"kind":"Status","metadata":{}}',
        b'{"kind":"ConfigMap","metadata":{"name":"federation.other","resourceVersion":"7"}}',
        b'{"kind":"ConfigMap","metadata":{"name":"federation.current","resourceVersion":""}}',
        b'{"kind":"Secret","metadata":{"name":"federation.current","resourceVersion":"7"}}',
        b'{"kind":"ConfigMap","metadata":{"name":"federation.current","resourceVersion":"7"},"data":[]}',
        b'{"kind":"ConfigMap","metadata":{"name":"federation.current","resourceVersion":"7"},"binaryData":{"a":"?"}}',
    ],
)
def test_what_is_no_such_object_is_an_error(answer: bytes) -> None:
    with pytest.raises(StateUnavailable, match="not the ConfigMap") as caught:
        opened(answer, name="federation.current", where=WHERE)
    assert caught.value.where == WHERE


def test_what_no_object_holds_is_refused_with_what_to_do() -> None:
    with pytest.raises(StateUnavailable, match="too large") as caught:
        pack("current", MARK, random.Random(1).randbytes(900_000))
    assert caught.value.where == "current"
    assert 'kind = "files"' in caught.value.remedy


def noise(*parts: object) -> str:
    """Text that does not compress, and is the same in every run."""
    return sha256(repr(parts).encode()).hexdigest()


def test_the_documents_of_200_clusters_fit_with_room_to_spare() -> None:
    """Reports of 200 clusters, their matrix with as many reasons as it holds, and the expiry bounds of a rotation."""
    names = [f"cluster-{number:03d}-eu-west" for number in range(200)]
    world = World(names, 1_900_000_000.0)
    pairs = [(client, server) for client in names for server in names if client != server]
    reasons = {
        f"{client}>{server}": f"no path from the leaf of {server} to an anchor: {noise(client, server)}"
        for client, server in pairs[:MOST_REASONS]
    }
    world.set_cells(dict.fromkeys(pairs, "x"), reasons)
    assert world.leader is not None
    rows = [
        ExpiryBound(
            cluster=name,
            issuer=noise(number),
            generation=number,
            until=1e9 + int(noise(name, number)[:6], 16) / 7,
        )
        for name in names
        for number in range(6)
    ]
    documents: list[msgspec.Struct] = [
        world.signers["signer-0"],
        world.leader,
        ExpiryBoundTable(replica="signer-0", rows=rows),
    ]
    for document in documents:
        body = pack("current", MARK, encode(document)).body(key="current", name="federation.current")
        assert len(body) < MAX_OBJECT_BYTES // 2
