"""Names that dashboards, alerts and scripts rely on are there, or are listed with what they are called now."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.last_version import names
from tests.status.conftest import Start, start

__all__ = ["start"]  # a server of the status API, as a fixture

HERE = Path(__file__).parent / "names"
ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "findings.md"

# Each of these is an incompatible change: CHANGELOG.md names it, which a test here looks for.

RENAMED_FIELDS: dict[str, str] = {
    "orders": "directives",
    "follows_orders": "follows_directives",
    "own_anchors": "member_cas",
    "holders": "dependents",
    "door": "listener",
    "door_detail": "listener_detail",
    "door_proved_at": "listener_proved_at",
    "holding": "with_certificate",
    "never_asked": "never_requested",
    "lately": "recent",
    "attention[].what": "attention[].detail",
    "consequences[].what": "consequences[].detail",
}
"""Of the status API: a part of a path of the last version, or several such as ``door.detail``, and what it is now."""

RENAMED_WORDS: dict[str, str] = {"never_asked": "never_requested"}
"""Of fields that hold one of a few words: a word of the last version, and what it is now."""

LISTED_WORDS: dict[str, str] = {
    "POST /api/v1/operations request: verb": "abort | advance | dismiss | emergency | quarantine | release | remove | "
    "restore | start | takeover"
}
"""A field that the last version described as any text: the words that it took, which are listed by now."""

RENAMED_METRICS: dict[str, str] = {
    "federation_authority_quota": "federation_authority_quota_per_second",
    "federation_authority_rate": "federation_authority_rate_per_second",
    "federation_calls_turned_away": "federation_calls_rejected",
    "federation_sidecars_asked": "federation_sidecars_requested",
    "federation_signer_follows_orders": "federation_signer_follows_directives",
    "federation_workloads_holding": "federation_workloads_with_certificate",
}
"""A metric of the last version, and what it is called now."""

RENAMED_LABELS: dict[str, str] = {}
"""A label of the last version, and what it is called now."""

RENAMED_CODES: dict[str, str] = {
    "bundle_held_back": "bundle_withheld",
    "calls_turned_away": "calls_rejected",
    "door_certificate": "listener_certificate",
    "door_name_gone": "listener_name_gone",
    "door_not_met": "listener_unproved",
    "door_refused": "listener_refused",
    "door_unavailable": "listener_unavailable",
    "own_anchor_waits": "member_ca_waits",
    "sidecars_never_asked": "sidecars_never_requested",
    "signer_orders": "signer_directives",
    "signer_unfollowed": "signer_not_applied",
}
"""The code of a finding of the last version, and what it is called now."""


def last(name: str) -> Any:
    return json.loads((HERE / f"{name}.json").read_text("utf-8"))


def renamed(path: str, table: dict[str, str]) -> str:
    """The path of now: whole parts of it are replaced, at its end or within."""
    found = f".{path}."
    for old, new in table.items():
        for mark in ("", "[]", "{}"):
            found = found.replace(f".{old}{mark}.", f".{new}{mark}.")
    return found.strip(".")


def is_still(before: str, now: str | None) -> bool:
    """Whether a value is of the type of before; of a few words there may be more by now."""
    if now is None or before == now:
        return before == now
    words = {RENAMED_WORDS.get(word, word) for word in before.split(" | ")}
    return len(words) > 1 and words <= set(now.split(" | "))


async def test_every_field_of_the_status_api_is_there_or_has_a_new_name(start: Start) -> None:
    async with start(operates=True) as hub:
        _, document, _ = await hub.get("/openapi.json")
    now = names.fields_of(document)
    missing = [
        f"{request}: {path} ({kind})"
        for request, fields in last("api").items()
        for path, kind in fields.items()
        if not is_still(
            LISTED_WORDS.get(f"{request}: {path}", kind),
            now.get(request, {}).get(renamed(path, RENAMED_FIELDS)),
        )
    ]
    assert missing == [], "list what was renamed in RENAMED_FIELDS, and in CHANGELOG.md"


def test_every_metric_is_there_or_has_a_new_name() -> None:
    now = names.metrics_in_code()
    missing = [
        name
        for name, family in last("metrics").items()
        if (found := now.get(RENAMED_METRICS.get(name, name))) is None
        or found["type"] != family["type"]
        or not {RENAMED_LABELS.get(label, label) for label in family["labels"]} <= {*found["labels"]}
    ]
    assert missing == [], "list what was renamed in RENAMED_METRICS, and in CHANGELOG.md"


async def test_the_metrics_of_a_hub_are_those_in_the_code(start: Start) -> None:
    """What the names are compared with is not made up."""
    async with start() as hub:
        _, exposition, _ = await hub.get("/metrics")
    exposed = names.metrics_in(exposition.decode())
    assert len(exposed) > 50
    assert exposed <= set(names.metrics_in_code())


def test_every_code_of_a_finding_is_there_or_has_a_new_name() -> None:
    now = names.codes_in(PAGE.read_text("utf-8"))
    missing = [code for code in last("codes") if RENAMED_CODES.get(code, code) not in now]
    assert missing == [], "list what was renamed in RENAMED_CODES, and in CHANGELOG.md"


@pytest.mark.parametrize(
    "table", [RENAMED_FIELDS, RENAMED_WORDS, RENAMED_METRICS, RENAMED_LABELS, RENAMED_CODES]
)
def test_what_was_renamed_is_in_the_changelog(table: dict[str, str]) -> None:
    changes = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert [name for pair in table.items() for name in pair if f"`{name}" not in changes] == []


def test_a_name_is_replaced_as_a_whole() -> None:
    assert renamed("door.connections", {"door": "listener"}) == "listener.connections"
    assert renamed("signers[].door", {"door": "listener"}) == "signers[].listener"
    assert renamed("doors[].at", {"doors": "listeners", "door": "x"}) == "listeners[].at"
    assert renamed("signers[].indoor", {"door": "listener"}) == "signers[].indoor"
    assert renamed("a.b.c", {"b.c": "d"}) == "a.d"
