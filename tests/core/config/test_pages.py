"""The reference page and the schema for editors are the code's, and the schema takes every file that the hub takes."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.core.config.hub import HubTable
from federation.core.config.load import under_new_names
from federation.core.config.mistakes import Findings
from federation.core.config.tables import keys_of
from federation.core.errors import ConfigurationError
from tests.core.config import pages
from tests.core.config.example import (
    CONJUR,
    FORMS,
    PLAIN,
    SPIFFE,
    STATE,
    SUCCESSOR,
    TEXT,
    in_use,
    with_state,
    with_successor,
)
from tests.core.config.test_hostile import EVERY_AUTHORITY, EVERY_KEY, judged, spoiled
from tests.core.config.texts import GOOD, with_line

ROOT = Path(__file__).parents[3]
LAST_VERSION = sorted((ROOT / "tests" / "last_version" / "configuration").glob("*.toml"))


@cache
def schema() -> dict[str, Any]:
    """Not where this module is imported, which every worker does."""
    return pages.schema()


@cache
def validator() -> jsonschema.Draft7Validator:
    return jsonschema.Draft7Validator(schema())


def problems(text: str) -> list[str]:
    """What the schema has against a file, its former keys under the names of today."""
    document = under_new_names(tomllib.loads(text), Findings("clusters.toml"))
    return [f"{error.json_path}: {error.message}" for error in validator().iter_errors(document)]


def test_the_page_is_the_codes() -> None:
    assert pages.PAGE.read_text("utf-8") == pages.page(), "python -m tests.core.config.pages"


def test_the_schema_is_the_codes() -> None:
    assert pages.SCHEMA.read_text("utf-8") == pages.schema_text(), "python -m tests.core.config.pages"
    jsonschema.Draft7Validator.check_schema(schema())


def test_the_example_names_the_schema_where_editors_look_for_it() -> None:
    match = re.match(r"#:schema (\S+)\n", TEXT)
    assert match is not None
    assert (ROOT / match[1]).resolve() == pages.SCHEMA.resolve()


@pytest.mark.parametrize("section", list(pages.sections()), ids=lambda section: section.__name__)
def test_every_key_has_a_meaning(section: Any) -> None:
    assert set(keys_of(section)) == set(pages.meanings(section))
    assert all(len(meaning) > 8 and meaning.endswith(".") for meaning in pages.meanings(section).values())


@pytest.mark.parametrize("section", list(pages.sections()), ids=lambda section: section.__name__)
def test_a_default_is_a_value_of_its_key(section: Any) -> None:
    table = schema() if section is HubTable else schema()["$defs"][section.__name__]
    for name, entry in table["properties"].items():
        if "default" in entry:
            checker = jsonschema.Draft7Validator({**entry, "$defs": schema()["$defs"]})
            assert not list(checker.iter_errors(entry["default"])), name


@pytest.mark.parametrize(
    "text",
    [
        *(PLAIN, GOOD, EVERY_KEY, with_successor(SUCCESSOR.with_every_key), with_state(STATE.with_every_key)),
        *(in_use(form) for form in FORMS),
        *EVERY_AUTHORITY,
    ],
)
def test_the_schema_takes_the_example_in_all_its_forms(text: str) -> None:
    assert problems(text) == []


@pytest.mark.parametrize("file", LAST_VERSION, ids=lambda file: file.stem)
def test_the_schema_takes_the_files_of_the_last_version(file: Path) -> None:
    text = file.read_text("utf-8")
    assert (
        problems(text.replace("token_file =", "read_token_file =") if "\ntoken_file" in text else text) == []
    )


@pytest.mark.parametrize(
    ("line", "table"),
    [
        ('listn = "0.0.0.0:1"', "listener"),
        ("max_concurrent = 0", "listener"),
        ("max_concurrent = true", "listener"),
        ('deadline = "soon"', "listener"),
        ("deadline = 3600", "listener"),
        ('listen = "nowhere"', "listener"),
        ('kind = "valt"', "signer.authority"),
        ('quota = "5"', "signer.authority"),
        ('sha265 = "ab"', "trust.anchors"),
        ("staged = 1", "trust.anchors"),
        ('attestation = "token-keyz"', "clusters"),
        ('allow = "*/*"', "clusters.policy"),
        ("allow = []", "clusters.policy"),
        ('key_kinds = ["rsa-1024"]', "clusters.policy"),
        ('namespace = "hub"', "state"),
    ],
)
def test_the_schema_refuses_what_an_editor_can_see(line: str, table: str) -> None:
    text = with_line(line, in_table=table)
    assert isinstance(judged(text), ConfigurationError)
    assert problems(text)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_what_the_hub_takes_the_schema_takes(data: st.DataObject) -> None:
    text = spoiled(data, data.draw(st.sampled_from([GOOD, EVERY_KEY, *EVERY_AUTHORITY])))
    if not isinstance(judged(text), ConfigurationError):
        assert problems(text) == []


def test_conjur_and_the_workload_api_are_described_too() -> None:
    assert CONJUR.keys
    assert SPIFFE.keys
    assert {"signer.conjur", "signer.spiffe"} <= set(re.findall(r"`\[([a-z.]+)\]`", pages.page()))
