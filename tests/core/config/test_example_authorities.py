"""The other kinds of authority in ``clusters.example.toml``: uncommented, each parses and is documented in full."""

from __future__ import annotations

import re
from dataclasses import MISSING, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from federation.core.config.authorities.section import KINDS as TABLES
from federation.core.config.authorities.settings import (
    AuthorityConfig,
    ConjurConfig,
    SpiffeConfig,
    VaultAuth,
)
from federation.core.config.authorities.vault import VaultTable
from federation.core.config.hub import HubConfig
from federation.core.config.load import parse_config
from federation.core.config.tables import Section, keys_of
from federation.core.errors import ConfigurationError
from tests.core.config.example import (
    AUTH,
    AUTHORITY,
    BLOCKS,
    CONJUR,
    FORMS,
    KINDS,
    METHODS,
    SPIFFE,
    STATE,
    SUCCESSOR,
    Block,
    Key,
    in_use,
)

MODELS = {
    next(field.default for field in fields(model) if field.name == "kind"): model
    for model in get_args(AuthorityConfig)
}
NESTED = {"server", "auth", "aws", "credentials"}  # values of a model that are keys of its one table

WHOLE = {str(form): form for form in FORMS}
STATED = [(form, key) for form in FORMS for key in form.keys if key.is_default]
REMARKED = [(form, key) for form in FORMS for key in form.keys if key.remark]


def label(value: Block | Key | type) -> str:
    return str(value) if isinstance(value, Block) else getattr(value, "name", "")


def parse(text: str) -> HubConfig:
    return replace(parse_config(text, file="/x/clusters.toml"), digest="")


def test_every_kind_and_every_way_to_log_in_has_a_block() -> None:
    assert set(TABLES) == set(MODELS), "each kind has a table (section.py) and a model (AuthorityConfig)"
    assert set(KINDS) | {"local"} == set(TABLES), (
        "each kind has a commented-out block in clusters.example.toml"
    )
    methods = get_args(get_type_hints(VaultAuth)["method"])
    assert {*METHODS, "kubernetes"} == set(methods)
    others = [block.table for block in BLOCKS if block.table not in {AUTHORITY, AUTH}]
    named = {block.table for block in (CONJUR, SPIFFE, SUCCESSOR, STATE)}
    assert sorted(others) == sorted(
        named | {"kubeconfig_secrets", "discovery", "status.kubernetes", "status.oidc"}
    )
    assert len(KINDS) + len(METHODS) + len(others) == len(BLOCKS), "no kind and no method twice"


@pytest.mark.parametrize("form", WHOLE)
def test_each_parses_in_the_place_of_the_one_in_use(form: str) -> None:
    config = parse(in_use(WHOLE[form]))
    kind = WHOLE[form].variant.partition("+")[0]
    assert type(config.signer.authority) is MODELS[kind]
    assert config.signer.authority.kind == kind
    assert config.signer.conjur is not None
    assert config.signer.spiffe is not None
    (warning,) = config.warnings
    assert "both roles share one credential" in warning


@pytest.mark.parametrize("kind", KINDS)
def test_every_key_of_a_kind_is_in_its_block(kind: str) -> None:
    documented = {key.name for key in KINDS[kind].keys if key.table == AUTHORITY}
    assert documented == set(keys_of(TABLES[kind])) - {"auth"}


def test_every_key_of_the_ways_to_log_in_is_in_one_of_their_blocks() -> None:
    blocks = [KINDS["vault"], *METHODS.values()]
    logins = keys_of(VaultTable)["auth"].forms
    assert logins is not None
    assert {key.name for block in blocks for key in block.keys if key.table == AUTH} == set(logins.keys)


@pytest.mark.parametrize(
    ("block", "model"), [(CONJUR, ConjurConfig), (SPIFFE, SpiffeConfig)], ids=["conjur", "spiffe"]
)
def test_every_key_of_a_source_of_credentials_is_in_its_block(block: Block, model: type[Section]) -> None:
    assert {key.name for key in block.keys} == set(keys_of(model))


@pytest.mark.parametrize(("form", "key"), STATED, ids=label)
def test_a_stated_default_is_the_real_one(form: Block, key: Key) -> None:
    assert parse(in_use(form.with_lines(key.number))) == parse(in_use(form))


@pytest.mark.parametrize("block", [CONJUR, SPIFFE], ids=label)
def test_a_stated_default_of_a_source_of_credentials_is_the_real_one(block: Block) -> None:
    stated = [key.number for key in block.keys if key.is_default]
    assert stated
    place = "conjur" if block is CONJUR else "spiffe"
    enabled: dict[str, Any] = {place: block.with_lines(*stated)}
    config = parse(in_use(FORMS[0]))
    assert parse(in_use(FORMS[0], **enabled)) == config
    found = getattr(config.signer, place)
    assert check_defaults(found, {key.name for key in block.keys if key.is_set}) >= len(stated)


@pytest.mark.parametrize("form", WHOLE)
def test_what_a_block_does_not_set_is_the_models_default(form: str) -> None:
    block = WHOLE[form]
    is_set = {key.name for key in block.keys if key.is_set}
    checked = check_defaults(parse(in_use(block)).signer.authority, is_set)
    assert checked >= len({key.name for key in block.keys if key.is_default} - {"mount"})


def check_defaults(value: Any, is_set: set[str]) -> int:
    checked = 0
    for field in fields(value):
        found = getattr(value, field.name)
        if is_dataclass(found) and field.name in NESTED:
            checked += check_defaults(found, is_set)
        elif field.default is not MISSING and field.name not in is_set | {"certificate"}:
            assert found == field.default, field.name
            checked += 1
    return checked


@pytest.mark.parametrize(("form", "key"), REMARKED, ids=label)
def test_a_remark_at_the_end_of_a_line_is_true(form: Block, key: Key) -> None:
    """``no default``: set, it changes something. ``instead of`` and ``with``: alone it is a mistake, so it works."""
    alone = in_use(form.with_lines(key.number))
    if key.remark == "no default":
        assert parse(alone) != parse(in_use(form))
        return
    with pytest.raises(ConfigurationError) as refused:
        parse(alone)
    assert all(finding.key.startswith(AUTHORITY) for finding in refused.value.findings)
    if match := re.fullmatch(r"instead of ([a-z_, ]+)", key.remark):
        parse(in_use(form.with_lines(key.number, without=tuple(match[1].split(", ")))))
        return
    match = re.fullmatch(r"with (([a-z_]+) = .*)", key.remark)
    assert match is not None, key.remark
    other = next(other for other in form.keys if other.name == match[2])
    lines = tuple(match[1] if n == other.number else line for n, line in enumerate(form.lines))
    parse(in_use(Block(form.table, form.variant, lines).with_lines(key.number)))


@pytest.mark.parametrize("form", WHOLE)
def test_every_key_that_can_be_set_at_once_can(form: str) -> None:
    every = WHOLE[form].with_every_key
    config = parse(in_use(every, conjur=CONJUR.with_every_key, spiffe=SPIFFE.with_every_key))
    conjur = parse(in_use(every)).signer.conjur
    assert conjur is not None
    assert config.signer.conjur == replace(conjur, ca_file=Path("/x/pki/conjur-ca.pem"))
