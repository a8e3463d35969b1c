"""The successor and the other kind of state in ``clusters.example.toml``: uncommented, each does what it says."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest

from federation.core.config.authorities.settings import LocalAuthorityConfig
from federation.core.config.clusters import CREDENTIAL_KEYS, Credentials
from federation.core.config.hub import HubConfig, StateConfig
from federation.core.config.load import parse_config
from federation.core.errors import ConfigurationError
from tests.core.config.example import FORMS, PLAIN, STATE, SUCCESSOR, Block, Key, with_state, with_successor

PLACES: dict[str, Callable[[Block], str]] = {"signer.successor": with_successor, "state": with_state}
LINES = [(block, key) for block in (SUCCESSOR, STATE) for key in block.keys]


def parse(text: str) -> HubConfig:
    return replace(parse_config(text, file="/x/clusters.toml"), digest="")


def label(value: Block | Key) -> str:
    return str(value) if isinstance(value, Block) else value.name


def test_the_successor_is_added_to_what_is_in_use() -> None:
    before, after = parse(PLAIN), parse(with_successor())
    assert after.signer.successor == LocalAuthorityConfig(
        name="mesh-intermediate-2",
        certificate_file=Path("/x/pki/next-chain.pem"),
        key_file=Path("/x/pki/next-key.pem"),
    )
    assert replace(after, signer=replace(after.signer, successor=None)) == before


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_any_kind_of_authority_can_be_the_successor(form: Block) -> None:
    lines = tuple(
        line.replace("signer.authority", "signer.successor").replace(
            'name = "mesh-intermediate"', 'name = "next"'
        )
        for line in form.lines
    )
    others = with_successor(Block("signer.successor", form.variant, lines))
    tables = (
        '[signer.conjur]\nurl = "https://c.example"\naccount = "a"\nauthenticator = "b"\njwt = "file:j"\n'
    )
    text = f'{others}\n{tables}[signer.spiffe]\nsocket = "/run/agent.sock"\n'
    if 'certificate_file = "pki/chain.pem"' in text.partition("[signer.successor]")[2]:
        head, table, rest = text.partition("[signer.successor]")
        text = head + table + rest.replace('"pki/chain.pem"', '"pki/next.pem"', 1)
    successor = parse(text).signer.successor
    assert successor is not None
    assert (successor.name, successor.kind) == ("next", form.variant.partition("+")[0])


def test_state_in_kubernetes_is_what_its_block_says() -> None:
    before, after = parse(PLAIN), parse(with_state())
    assert after.state == StateConfig(
        kind="kubernetes",
        namespace="federation-system",
        credentials=Credentials(kubeconfig=Path("/x/kubeconfigs/hub")),
    )
    assert replace(after, state=before.state) == before


def test_every_key_of_both_is_in_its_block() -> None:
    assert {key.name for key in STATE.keys} == {"kind", "namespace", *CREDENTIAL_KEYS}
    assert {key.name for key in SUCCESSOR.keys} == {field.name for field in fields(LocalAuthorityConfig)}


@pytest.mark.parametrize(("block", "key"), [(b, k) for b, k in LINES if k.is_default], ids=label)
def test_a_stated_default_is_the_real_one(block: Block, key: Key) -> None:
    place = PLACES[block.table]
    assert parse(place(block.with_lines(key.number))) == parse(place(block))


@pytest.mark.parametrize(("block", "key"), [(b, k) for b, k in LINES if k.remark], ids=label)
def test_a_remark_at_the_end_of_a_line_is_true(block: Block, key: Key) -> None:
    place = PLACES[block.table]
    if key.remark == "no default":
        assert parse(place(block.with_lines(key.number))) != parse(place(block))
        return
    match = re.fullmatch(r"instead of ([a-z_]+)", key.remark)
    assert match is not None, key.remark
    with pytest.raises(ConfigurationError):
        parse(place(block.with_lines(key.number)))
    config = parse(place(block.with_lines(key.number, without=(match[1],))))
    assert config.state.credentials == Credentials(kubeconfig=None, in_cluster=True)
