"""Two neighbouring versions at once: what one adds to the state is passed over by the other, and nothing is lost.

The reader here is this version's; that of the last version has the same rules, and ``upgrade.py`` runs its code. What
it expects is in ``state/fields.json``.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.controller.generations import InForce, bundle_of, plan_generation
from federation.core.documents.encoding import decode
from federation.core.documents.trust import Current, Generation
from federation.core.identity import TrustDomain
from federation.core.pki.pem import parse_certificates
from federation.core.trust.bundle import TrustBundle
from federation.runtime.clock import SystemClock
from federation.state.files import FileStore
from federation.status.snapshot import SnapshotReader
from tests.last_version.documents import MOMENTS, STATE, read, write
from tests.last_version.kinds import KINDS, prefix_of
from tests.last_version.test_state import ADDED
from tests.last_version.wire import fields_of, misread

NAMES: dict[str, dict[str, str]] = json.loads((STATE / "fields.json").read_text("utf-8"))
DOCUMENTS = {(moment, key): document for moment in MOMENTS for key, document in read(moment).items()}

REWRITTEN = {"current", "rotation", "orders", "takeovers", "hub", "proposals", "operations"}
"""What the leading controller reads and writes again as a whole: one of the last version drops a field of this one."""

MAY_BE_DROPPED: dict[str, str] = {}
"""Fields that were added to these documents, by their path: why nothing is lost with them."""

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def places(document: Any, fields: set[str], path: str = "") -> Iterator[tuple[str | int, ...]]:
    """Where a document has a struct, which a newer version may give one more field; a mapping is none."""
    if isinstance(document, dict):
        is_mapping = any(each.startswith(f"{path}{{}}") for each in fields)
        if not is_mapping:
            yield ()
        for name, value in document.items():
            below = f"{path}{{}}" if is_mapping else f"{path}.{name}".removeprefix(".")
            yield from ((name, *rest) for rest in places(value, fields, below))
    elif isinstance(document, list):
        if any(each.startswith(f"{path}[0]") for each in fields):  # a struct that is written as a list
            yield ()
        for number, value in enumerate(document):
            yield from ((number, *rest) for rest in places(value, fields, f"{path}[]"))


def extended(document: Any, place: tuple[str | int, ...], name: str, value: Any) -> Any:
    """The document with one more field there."""
    changed = copy.deepcopy(document)
    struct = changed
    for step in place:
        struct = struct[step]
    if isinstance(struct, list):
        struct.append(value)
    else:
        struct[name] = value
    return changed


PLACES = {
    which: list(places(document, set(fields_of(KINDS[prefix_of(which[1])]))))
    for which, document in DOCUMENTS.items()
}


@given(data=st.data(), number=st.integers(0, 99), value=VALUES)
def test_a_field_that_a_newer_version_adds_is_passed_over(
    data: st.DataObject, number: int, value: Any
) -> None:
    which = data.draw(st.sampled_from(sorted(PLACES)))
    place = data.draw(st.sampled_from(PLACES[which]))
    document, kind, key = DOCUMENTS[which], KINDS[prefix_of(which[1])], which[1]
    newer = extended(document, place, f"x_added_{number}", value)
    assert decode(json.dumps(newer).encode(), kind, key=key) == decode(
        json.dumps(document).encode(), kind, key=key
    )


def test_every_document_has_structs_to_add_to() -> None:
    assert all(() in found for found in PLACES.values())
    deepest = max((place for found in PLACES.values() for place in found), key=len)
    assert len(deepest) > 3


async def test_kinds_of_document_that_a_newer_version_adds_change_nothing(tmp_path: Path) -> None:
    documents = read("active")
    write(documents, tmp_path / "before")
    write(documents | {"plans/first": {"some": 1}, "summary": {"other": []}}, tmp_path / "newer")
    clock = SystemClock()
    found = [
        await SnapshotReader(FileStore(tmp_path / each, clock), clock).read() for each in ("before", "newer")
    ]
    assert found[0].damaged == {}
    assert found[0].current is not None
    assert found[0] == found[1]


@pytest.mark.parametrize("moment", MOMENTS)
def test_the_state_means_the_same_trust_byte_for_byte(moment: str) -> None:
    """Else the update alone would make a generation, and write to every namespace of every cluster."""
    documents = read(moment)
    current = decode(json.dumps(documents["current"]).encode(), Current, key="current")
    for key in (key for key in documents if key.startswith("generations/")):
        generation = decode(json.dumps(documents[key]).encode(), Generation, key=key)
        bundle = bundle_of(generation)
        again = TrustBundle.merge(reversed(bundle.anchors))
        assert again.pem.decode() == documents[key]["bundle_pem"]
        assert again.sha256 == documents[key]["sha256"]
        listed = [anchor["sha256"] for anchor in documents[key]["anchors"]]
        found = parse_certificates(documents[key]["bundle_pem"].encode(), where=key)
        assert [each.sha256 for each in found] == listed
        if generation.number != current.number:
            continue
        planned = plan_generation(
            again,
            InForce(generation, "1", generation.number),
            now=SystemClock().now(),
            author="the next version",
            trust_domain=TrustDomain(generation.trust_domain),
        )
        assert planned is None
        assert generation.sha256 == current.sha256


@pytest.mark.parametrize(("moment", "key"), sorted(DOCUMENTS))
def test_what_is_written_again_is_what_the_last_version_reads(moment: str, key: str) -> None:
    assert list(misread(DOCUMENTS[moment, key], NAMES[prefix_of(key)])) == []


def test_what_the_last_version_would_misread_is_found() -> None:
    fields = NAMES["rotation"]
    record = DOCUMENTS["active", "rotation"]
    assert list(misread(extended(record, (), "added", 1), fields)) == []
    assert list(misread(record | {"rotation": None}, fields)) == []
    rotation = record["rotation"]
    for change, said in (
        ({"state": "REVIEWING"}, "is not of type"),
        ({"wave": "1"}, "is not of type int"),
        ({"wave": True}, "is not of type int"),
        ({"removed": 0}, "is not of type bool"),
        ({"canary": {}}, "is no list"),
        ({"old": "east"}, "is gone"),
    ):
        (problem, *_) = misread(record | {"rotation": rotation | change}, fields)
        assert said in problem
    gone = {name: value for name, value in rotation.items() if name != "canary_failures"}
    assert list(misread(record | {"rotation": gone}, fields)) == [
        "rotation.canary_failures: 'canary_failures' is gone"
    ]
    rows = NAMES["horizons/"]
    assert list(misread({**DOCUMENTS["active", "horizons/signer-0"], "rows": [["east", "a"]]}, rows))


def test_a_field_that_the_last_version_would_drop_is_one_that_may_be_dropped() -> None:
    """In the documents that it writes again: such a field is lost with its first step as a leader."""
    added = {path for path in ADDED if path.split(".")[0].split("/")[0] in REWRITTEN}
    by_type = {
        f"{prefix.rstrip('/')}.{path}"
        for prefix, kind in KINDS.items()
        if prefix.rstrip("/") in REWRITTEN
        for path in fields_of(kind)
        if path not in NAMES[prefix]
    }
    assert added | by_type == set(MAY_BE_DROPPED)
