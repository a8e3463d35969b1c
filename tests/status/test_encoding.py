"""Answers as JSON and back: instants in RFC 3339, fields under the names that the code has, all else untouched."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.core.clock import Instant
from federation.core.documents.controller import PlanReport
from federation.core.documents.trust import Proposal
from federation.core.rotation.record import Condition
from federation.status.encoding import answer_schemas, decode_answer, encode_answer, instant
from federation.status.model import FederationStatus

AT = datetime(2026, 11, 30, 9, 0, 0, tzinfo=UTC)


class Holder(msgspec.Struct, frozen=True, kw_only=True, rename={"renamed": "former"}):
    """One of everything that an answer may hold."""

    renamed: int = 0
    at: Instant = 0.0
    single: Condition | None = None
    listed: list[Condition] = []
    named: dict[str, Condition] = {}
    seen: datetime | None = None
    seconds: float = 0.0


def condition(until: float) -> Condition:
    return Condition(name="drained", met=False, detail="leaves live on", until=until)


def test_an_instant_is_rfc_3339_and_null_where_it_is_not_known() -> None:
    written = json.loads(encode_answer([condition(AT.timestamp()), condition(0.0), condition(float("inf"))]))

    assert [each["until"] for each in written] == ["2026-11-30T09:00:00Z", None, None]


def test_a_field_has_the_name_of_the_code_and_not_the_one_of_the_state() -> None:
    assert json.loads(msgspec.json.encode(PlanReport()))["holders"] == []
    assert json.loads(encode_answer(PlanReport()))["dependents"] == []


def test_a_number_of_seconds_stays_a_number() -> None:
    assert json.loads(encode_answer(Holder(seconds=AT.timestamp())))["seconds"] == AT.timestamp()


@given(
    until=st.integers(0, 4_000_000_000),
    at=st.floats(1, 4_000_000_000).map(lambda seconds: round(seconds, 3)),
    many=st.integers(0, 3),
)
def test_what_is_written_is_read_back(until: int, at: float, many: int) -> None:
    value = Holder(
        renamed=many,
        at=at,
        single=condition(float(until)) if many else None,
        listed=[condition(float(until))] * many,
        named={str(n): condition(float(until)) for n in range(many)},
        seen=AT,
        seconds=1.5,
    )

    read = decode_answer(encode_answer(value), Holder)

    assert read.at == pytest.approx(at, abs=0.6e-3)  # to the millisecond
    assert msgspec.structs.replace(read, at=at) == value


@pytest.mark.parametrize(
    "garbage", ['{"at": "yesterday"}', '{"listed": {"a": 1}}', "[]", '{"at": 1', '{"single": 3}']
)
def test_what_is_no_answer_is_refused(garbage: str) -> None:
    with pytest.raises(msgspec.MsgspecError):
        decode_answer(garbage, Holder)


def test_schemas_say_what_is_written() -> None:
    schemas = answer_schemas([FederationStatus], "#/{name}")

    date_time = {"anyOf": [{"type": "string", "format": "date-time"}, {"type": "null"}]}
    assert schemas["Condition"]["properties"]["until"] == {**date_time, "default": None}
    assert schemas["Proposal"]["properties"]["not_after"] == date_time
    assert set(schemas["Proposal"]["properties"]) == set(Proposal.__struct_fields__)
    numbers = [
        (name, field)
        for name, schema in schemas.items()
        for field, value in schema.get("properties", {}).items()
        if value.get("format") == "date-time" and value.get("type") == "number"
    ]
    assert numbers == []


def test_no_calendar_holds_it() -> None:
    assert instant(0.0) is None
    assert instant(float("nan")) is None
    assert instant(1e18) is None
    assert instant(AT.timestamp()) == AT
